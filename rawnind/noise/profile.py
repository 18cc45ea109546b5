"""Noise profiles: of each camera, ISO and colour the pooled measurements, and curves over ISO."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.photo_noise import LARGEST_ERROR
from rawnind.noise.pooling import pool
from rawnind.noise.samples import COLORS, Method, Sample

_ROUNDING = 1e-6
_APART = 5.0  # standard errors between one colour and all; errors of texture and colour are no amplifier's
_ORDER_A = (Method.PAIR, Method.BURST)
_FLOORS_ALONE = (Method.DARK, Method.BORDER)
_ORDER_B = (Method.DARK, Method.BORDER, Method.PAIR, Method.BURST)
"""From the best one on. A photo alone also shows texture as fine as the noise: it comes last, after the curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A number with its confidence.

    Attributes:
        value: of all measurements together.
        error: its standard error, from those of the measurements and from their scatter.
        photos: number of measurements.
        method: what they were made on; `curve`: on photos of other ISOs too.
    """

    value: float
    error: float
    photos: int
    method: Method

    @property
    def confidence(self) -> str:
        """`high` where several measurements count, `single` for one; `low` for photos alone.

        In a photo alone, texture as fine as the noise counts as noise: what agrees may be too high.
        """
        if self.method is Method.PHOTO:
            return "low"
        return "high" if self.photos > 1 else "single"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """The noise of one colour at one ISO; None where it was not measured.

    Attributes:
        a: variance = a * level + b of a single site, in levels squared.
        row: standard deviation of a row's common offset, in levels.
    """

    iso: int
    color: str
    a: Value | None
    b: Value | None
    row: Value | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The noise of one colour at any ISO: a = a_per_iso * iso, b = b_fixed + b_per_iso2 * iso^2.

    Photon noise per level grows with the gain; of the read noise, one part is before the gain and one behind it.

    Attributes:
        a_error: standard error of `a_per_iso`.
        b_covariance: variances of `b_fixed` and `b_per_iso2`, and between them their covariance.
        photos: number of measurements.
        deviation: largest relative deviation of a measured `a` from the curve; None with fewer than two ISOs.
        method: `curve`; `photo` where it goes through photos alone.
    """

    color: str
    a_per_iso: float
    a_error: float
    b_fixed: float | None
    b_per_iso2: float | None
    b_covariance: tuple[float, float, float] | None
    photos: int
    deviation: float | None
    method: Method = Method.CURVE

    def a(self, iso: float) -> float:
        """Of level 1, in levels."""
        return self.a_per_iso * iso

    def b(self, iso: float) -> float | None:
        """At level 0, in levels squared."""
        if self.b_fixed is None or self.b_per_iso2 is None:
            return None
        return self.b_fixed + self.b_per_iso2 * iso**2

    def value(self, part: str, iso: int) -> Value | None:
        """A or b at an ISO with its error; None where b was not measured."""
        if part == "a":
            found: float | None = self.a(iso)
            error = self.a_error * iso
        else:
            found, square = self.b(iso), 0.0
            if self.b_covariance is not None:
                fixed, both, growing = self.b_covariance
                square = fixed + 2 * iso**2 * both + iso**4 * growing
            error = max(square, 0.0) ** 0.5
        return (
            None if found is None else Value(value=found, error=error, photos=self.photos, method=self.method)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraNoise:
    """The noise profile of a camera.

    Attributes:
        entries: sorted by ISO and colour.
        curves: one per colour with a measured `a`.
        span: white level minus black level in sensor values, of most photos; None where it is unknown.
    """

    camera: str
    entries: tuple[Entry, ...]
    curves: tuple[Curve, ...]
    span: float | None


def profiles(samples: Iterable[Sample]) -> list[CameraNoise]:
    """Profiles of all cameras, by name."""
    by_camera: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_camera[sample.camera].append(sample)
    return [_camera(name, found) for name, found in sorted(by_camera.items())]


def _camera(name: str, samples: Sequence[Sample]) -> CameraNoise:
    curves = _curves(samples)
    isos = sorted({sample.iso for sample in samples})
    entries = [_entry(iso, color, curves.get(color), samples) for iso in isos for color in COLORS]
    spans = [sample.span for sample in samples if sample.span is not None]
    return CameraNoise(
        camera=name,
        entries=tuple(entries),
        curves=tuple(curves.values()),
        span=statistics.mode(spans) if spans else None,
    )


def _entry(iso: int, color: str, curve: Curve | None, samples: Sequence[Sample]) -> Entry:
    here = [sample for sample in samples if sample.iso == iso]
    own = [sample for sample in here if sample.color == color]
    parts: dict[str, Value | None] = {}
    for part, order in (("a", _ORDER_A), ("b", _ORDER_B)):
        candidates = [_of_colors(part, method, own, here) for method in order]
        candidates += [curve.value(part, iso) if curve else None, _value(part, Method.PHOTO, own)]
        parts[part] = next((value for value in candidates if value and _is_sure(value)), None)
    rows = [sample for sample in own if sample.row is not None]
    return Entry(iso=iso, color=color, a=parts["a"], b=parts["b"], row=_row(rows))


def _is_sure(value: Value) -> bool:
    return value.error <= LARGEST_ERROR * value.value * (1 + _ROUNDING)


def _of_colors(part: str, method: Method, own: Sequence[Sample], here: Sequence[Sample]) -> Value | None:
    """By one method: of all colours together, which have one amplifier in most cameras; of one alone, where it is not that of all."""
    alone, together = _value(part, method, own), _value(part, method, here)
    return alone if alone and together and _is_apart(alone, together) else together


def _is_apart(one: Value, other: Value) -> bool:
    return abs(one.value - other.value) > _APART * math.hypot(one.error, other.error)


def _value(part: str, method: Method, samples: Sequence[Sample]) -> Value | None:
    """All measurements of one ISO by one method together; what shows b alone says through the errors' covariance also what a is."""
    chosen = [sample for sample in samples if sample.method is method and getattr(sample, part) is not None]
    if not chosen:
        return None
    beside = [sample for sample in samples if part == "a" and sample.method in _FLOORS_ALONE]
    found, covariance = pool([*chosen, *beside], lambda _: np.eye(2))
    number = "ab".index(part)
    return Value(
        value=float(found[number]),
        error=float(covariance[number, number] ** 0.5),
        photos=len({sample.photo for sample in chosen}),
        method=method,
    )


def _row(samples: Sequence[Sample]) -> Value | None:
    """The row noise by the best method that there is: the median of frames, or the mean of what borders show."""
    for method in (Method.DARK, Method.BURST):
        found = [sample.row for sample in samples if sample.method is method and sample.row is not None]
        if found:
            spread = statistics.stdev(found) if len(found) > 1 else found[0]
            return Value(
                value=statistics.median(found),
                error=1.2533 * spread / len(found) ** 0.5,
                photos=len(found),
                method=method,
            )
    known = [
        (sample.row, sample.row_error) for sample in samples if sample.row is not None and sample.row_error
    ]
    return _row_of_borders(known) if known else None


def _row_of_borders(photos: Sequence[tuple[float, float]]) -> Value | None:
    """The row noise that several photos show together; None where it is nothing.

    Variances are averaged, below zero too, as far as they are large: a deviation that is cut at zero, or a weight that grows as the
    measured value falls, would change the mean.

    Args:
        photos: signed standard deviation of each, and its standard error.
    """
    found, errors = np.array(photos).T
    variances, errors = found * np.abs(found), 2 * np.abs(found) * errors
    mean = float(variances.mean())
    error = float(np.sum(errors**2)) ** 0.5 / len(found)
    scatter = float(np.sum(((variances - mean) / errors) ** 2)) / max(len(found) - 1, 1)
    if mean <= 0:
        return None
    value = mean**0.5
    return Value(
        value=value,
        error=error * max(scatter, 1.0) ** 0.5 / (2 * value),
        photos=len(found),
        method=Method.BORDER,
    )


def _curves(samples: Sequence[Sample]) -> dict[str, Curve]:
    """The curve of each colour: through the measurements of all colours, or through its own where these are sure and apart."""
    sound = [sample for sample in samples if sample.method is not Method.PHOTO]
    everything = _curve("", sound)
    if everything is None and (of_photos := _curve("", samples)):
        everything = replace(of_photos, method=Method.PHOTO)
    if everything is None:
        return {}
    curves = {}
    for color in COLORS:
        own = _curve(color, [sample for sample in sound if sample.color == color])
        one, all_colors = own and own.value("a", 1), everything.value("a", 1)
        has_own = one and all_colors and _is_sure(one) and _is_apart(one, all_colors)
        curves[color] = own if own and has_own else replace(everything, color=color)
    return curves


def _curve(color: str, samples: Sequence[Sample]) -> Curve | None:
    slopes = [sample for sample in samples if sample.a is not None]
    floors = [sample for sample in samples if sample.b is not None]
    if not slopes:
        return None
    parts = [0, 1, 2] if floors else [0]
    found, covariance = _fitted(samples, parts)
    below = [part for part in parts if found[part] < 0]
    if below:
        found, _ = _fitted(samples, [part for part in parts if part not in below])
    isos = {
        iso: _value("a", Method.PAIR, [s for s in slopes if s.iso == iso]) for iso in {s.iso for s in slopes}
    }
    deviations = [
        abs(value.value / (found[0] * iso) - 1) for iso, value in isos.items() if value and _is_sure(value)
    ]
    return Curve(
        color=color,
        a_per_iso=float(found[0]),
        a_error=float(covariance[0, 0] ** 0.5),
        b_fixed=float(found[1]) if floors else None,
        b_per_iso2=float(found[2]) if floors else None,
        b_covariance=(float(covariance[1, 1]), float(covariance[1, 2]), float(covariance[2, 2]))
        if floors
        else None,
        photos=len({sample.photo for sample in samples}),
        deviation=float(max(deviations)) if len(deviations) > 1 else None,
    )


def _fitted(
    samples: Sequence[Sample], parts: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) a per ISO, b's fixed part and its part per ISO squared, and their covariance; 0 for parts that are not fitted."""
    floors = [max(s.b, 0.0) + (s.b_error or 0.0) for s in samples if s.b is not None]
    known = np.array([np.inf, min(floors, default=np.inf), np.inf])  # the fixed part exceeds b at no ISO

    def design(sample: Sample) -> NDArray[np.float64]:
        return np.array([[sample.iso, 0, 0], [0, 1, sample.iso**2]], np.float64)[:, parts]

    own, errors = pool(samples, design, known[parts])
    found, covariance = np.zeros(3), np.zeros((3, 3))
    found[parts], covariance[np.ix_(parts, parts)] = own, errors
    return found, covariance
