"""The charts of a report: scores with their thresholds, noise, gain and exposure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rawnind.noise.profile import CameraNoise, profiles
from rawnind.noise.samples import Method, Sample, samples_of_pairs
from rawnind.report.charts import Fit, fits, histogram, joined, scatter

Row = Mapping[str, Any]

_UNIT = (0.0, 1.0)
_CROP_SCORES = (
    ("msssim", "MS-SSIM of the crops", "min_msssim", None),
    ("valid_fraction", "Valid share of the crops", "min_valid_fraction", _UNIT),
    ("residual", "Residual of the crops, in sites", "max_residual", None),
)
_PAIR_SCORES = (
    ("mask_mean", "Valid share of the pairs", "min_mask_mean", _UNIT),
    ("alignment_score", "Correlation peak of the pairs", "min_alignment_score", None),
    ("light_drift", "Drift of the light in the pairs", "max_light_drift", None),
)
"""(column, title, the recipe's limit, span of the axis)."""


def charts(pairs: Sequence[Row], crops: pa.Table, recipe: Row) -> Iterator[str]:
    """Every chart that has something to show, as SVG.

    Args:
        pairs: rows of pairs.parquet.
        crops: rows of manifest.parquet.
        recipe: its limits are drawn in.
    """
    for column, title, key, span in _CROP_SCORES:
        yield from _histogram(crops[column].drop_null().to_pylist(), title, key, recipe, span)
    for column, title, key, span in _PAIR_SCORES:
        values = [row[column] for row in pairs if row[column] is not None]
        yield from _histogram(values, title, key, recipe, span)
    losses = [
        max(row["alignment_loss"] - (row["expected_loss"] or 0), 0)
        for row in pairs
        if row["alignment_loss"] is not None
    ]
    yield from _histogram(
        losses, "Difference of the pairs beyond noise, in levels", "max_alignment_loss", recipe, None
    )
    yield from _noise(pairs)
    yield from _exposure(pairs)


def _histogram(
    values: Sequence[float], title: str, key: str, recipe: Row, span: tuple[float, float] | None
) -> Iterator[str]:
    """One chart, or none where nothing was measured.

    Args:
        values: what was measured.
        title: of the chart.
        key: of the limit in the recipe.
        recipe: parameters by name; a limit may be missing or None.
        span: of the axis.
    """
    if values:
        limit = recipe.get(key)
        yield histogram(values, title, limits={} if limit is None else {key: limit}, span=span)


_NOISE: tuple[tuple[str, str, str, Callable[[float], float]], ...] = (
    ("a", "Shot noise: a of green", "levels", lambda a: a),
    ("b", "Read noise: root of b of green", "levels", lambda b: b**0.5),
)
"""Part of variance = a * level + b, title, unit, and what is drawn of it."""
_COLOR = "green"
_SURE_ENOUGH = 0.5
"""Standard error, as a share of what all photos say, up to which a single photo is drawn."""
_STEPS = 32  # of a curve


def _noise(pairs: Sequence[Row]) -> Iterator[str]:
    for title, unit, found in noise_fits(pairs):
        if found:
            yield fits(found, title, ("ISO", unit))


def noise_fits(pairs: Sequence[Row]) -> Iterator[tuple[str, str, dict[str, Fit]]]:
    """The noise of green of each camera by ISO, as `rawnind noise` pools it, with the photos that it is pooled from.

    Args:
        pairs: rows of pairs.parquet.

    Yields:
        Title, unit, and what was measured by camera; of shot noise, then of read noise.
    """
    samples = joined((sample.camera, sample) for sample in samples_of_pairs(pairs) if sample.color == _COLOR)
    cameras = profiles(samples_of_pairs(pairs))
    for part, title, unit, shown in _NOISE:
        found = {each.camera: _fit(each, part, shown, samples.get(each.camera, ())) for each in cameras}
        yield (
            title,
            unit,
            {name: fit for name, fit in found.items() if fit.together or fit.unsure or fit.line},
        )


def _fit(camera: CameraNoise, part: str, shown: Callable[[float], float], samples: Sequence[Sample]) -> Fit:
    """One part of a camera's noise; a value that is the curve's alone is no point.

    Args:
        camera: its profile.
        part: `a` or `b`.
        shown: what is drawn of a value.
        samples: of single photos.
    """
    curve = next((curve for curve in camera.curves if curve.color == _COLOR), None)
    entries = [entry for entry in camera.entries if entry.color == _COLOR]
    points: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    expected: dict[int, float] = {}
    for entry in entries:
        value = getattr(entry, part)
        if value and value.value > 0 and value.method is not Method.CURVE:
            points[value.method is Method.PHOTO].append((float(entry.iso), shown(value.value)))
        if value or curve:
            expected[entry.iso] = value.value if value else getattr(curve, part)(entry.iso) or 0.0
    single = [
        (float(sample.iso), shown(found))
        for sample in samples
        if (found := getattr(sample, part))
        and found > 0
        and (getattr(sample, f"{part}_error") or 0.0) <= _SURE_ENOUGH * expected.get(sample.iso, 0.0)
    ]
    isos = [entry.iso for entry in entries]
    line = [
        (iso, shown(value))
        for iso in np.geomspace(min(isos), max(isos), _STEPS).tolist()
        if curve and (value := getattr(curve, part)(iso))
    ]
    return Fit(single=single, together=points[False], unsure=points[True], line=line)


def _exposure(pairs: Sequence[Row]) -> Iterator[str]:
    gains = joined(
        (row["camera"] or "unknown camera", (row["iso"], row["gain"]))
        for row in pairs
        if row["iso"] and row["gain"]
    )
    if gains:
        yield scatter(gains, "Gain that brings the noisy photo to the GT", ("ISO", "gain"), iso=True)
    shares = joined(
        (row["camera"] or "unknown camera", (row["overexposed_fraction"], row["underexposed_fraction"]))
        for row in pairs
        if None not in (row["overexposed_fraction"], row["underexposed_fraction"])
    )
    if shares:
        yield scatter(shares, "Exposure of the pairs", ("overexposed share", "underexposed share"))
