"""Noise profiles: of each camera, ISO and colour the typical measurement, and curves over ISO."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from rawnind.noise.samples import COLORS, Method, Sample

_ORDER_A = (Method.PAIR, Method.BURST, Method.PHOTO)
_ORDER_B = (Method.DARK, Method.PAIR, Method.BURST, Method.PHOTO)
"""From the best one on: a photo alone also shows texture as fine as the noise."""
_SURE = 0.05  # relative standard error
_CLEAR = 0.2  # relative difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A number with its confidence.

    Attributes:
        value: median of the measurements.
        error: standard error of the median from their scatter; None for a single one.
        photos: number of measurements.
        method: what they were made on.
    """

    value: float
    error: float | None
    photos: int
    method: Method

    @property
    def confidence(self) -> str:
        """`high` where several measurements agree within 5 %, `single` for one, else `low`; `low` too for photos alone.

        In a photo alone, texture as fine as the noise counts as noise: what agrees may be too high.
        """
        if self.method is Method.PHOTO:
            return "low"
        if self.error is None:
            return "single"
        return "high" if self.error <= _SURE * abs(self.value) else "low"


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
        deviation: largest relative deviation of a measured `a` from the curve; None with fewer than two ISOs.
    """

    color: str
    a_per_iso: float
    b_fixed: float | None
    b_per_iso2: float | None
    deviation: float | None

    def a(self, iso: float) -> float:
        """Of level 1, in levels."""
        return self.a_per_iso * iso

    def b(self, iso: float) -> float | None:
        """At level 0, in levels squared."""
        if self.b_fixed is None or self.b_per_iso2 is None:
            return None
        return self.b_fixed + self.b_per_iso2 * iso**2


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
    places = sorted({(sample.iso, COLORS.index(sample.color)) for sample in samples})
    entries = []
    for iso, number in places:
        here = [sample for sample in samples if (sample.iso, sample.color) == (iso, COLORS[number])]
        entries.append(
            Entry(
                iso=iso,
                color=COLORS[number],
                a=_value(here, "a", _ORDER_A),
                b=_value(here, "b", _ORDER_B),
                row=_value(here, "row", (Method.DARK, Method.BURST)),
            )
        )
    spans = [sample.span for sample in samples if sample.span is not None]
    curves = (_curve(color, [entry for entry in entries if entry.color == color]) for color in COLORS)
    return CameraNoise(
        camera=name,
        entries=tuple(entries),
        curves=tuple(curve for curve in curves if curve),
        span=statistics.mode(spans) if spans else None,
    )


def _value(samples: Sequence[Sample], name: str, order: Sequence[Method]) -> Value | None:
    """The median of the measurements by the best method that there is."""
    for method in order:
        values = [getattr(sample, name) for sample in samples if sample.method is method]
        found = [value for value in values if value is not None]
        if found:
            error = 1.2533 * statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else None
            return Value(value=statistics.median(found), error=error, photos=len(found), method=method)
    return None


def _curve(color: str, entries: Sequence[Entry]) -> Curve | None:
    slopes = [(entry.iso, entry.a.value, entry.a.photos) for entry in entries if entry.a]
    if not slopes:
        return None
    repeated = [a / iso for iso, a, photos in slopes for _ in range(min(photos, 10))]
    per_iso = statistics.median(repeated)
    floors = [(entry.iso, entry.b.value) for entry in entries if entry.b and entry.b.value > 0]
    fixed, growing = _floor_curve(floors) if floors else (None, None)
    deviation = max(abs(a / (per_iso * iso) - 1) for iso, a, _ in slopes) if len(slopes) > 1 else None
    return Curve(color=color, a_per_iso=per_iso, b_fixed=fixed, b_per_iso2=growing, deviation=deviation)


def _floor_curve(floors: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Both parts, neither negative, by least squares of relative deviations.

    There is a fixed part only where b falls clearly slower than ISO^2 towards low ISOs: from high ISOs alone it is not known.
    """
    iso, b = np.array(sorted(floors), np.float64).T
    ratio = b / iso**2
    if len(b) < 2 or ratio[0] < (1 + _CLEAR) * ratio[-1]:
        return 0.0, float(np.median(ratio))
    scale = float(iso.max()) ** 2
    design = np.stack([1 / b, iso**2 / scale / b], axis=1)
    norms = np.linalg.norm(design, axis=0)
    parts, _ = nnls(design / norms, np.ones(len(b)))
    return float(parts[0] / norms[0]), float(parts[1] / norms[1] / scale)
