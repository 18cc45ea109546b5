"""The charts of a report: scores with their thresholds, noise, gain and exposure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rawnind.report.charts import curves, histogram, joined, scatter

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


def _noise(pairs: Sequence[Row]) -> Iterator[str]:
    """Noise of green by ISO, of noisy photos and of ground truths: variance = a * level + b."""
    measures: tuple[tuple[str, str, str, Callable[[float], float]], ...] = (
        ("a", "Shot noise: a of green", "levels", lambda a: a),
        ("b", "Read noise: root of b of green", "levels", lambda b: b**0.5),
    )
    for letter, title, unit, shown in measures:
        found = joined(
            (row["camera"] or "unknown camera", (row[f"{photo}iso"], shown(value)))
            for row in pairs
            for photo in ("", "gt_")
            if row[f"{photo}iso"] and (value := row[f"{photo}noise_{letter}_green"])
        )
        if found:
            medians = {camera: _medians(points) for camera, points in found.items()}
            yield curves(medians, title, ("ISO", unit))


def _medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The median of each x: a camera has many photos at one ISO."""
    by_x: dict[float, list[float]] = {}
    for x, y in points:
        by_x.setdefault(x, []).append(y)
    return [(x, sorted(values)[len(values) // 2]) for x, values in sorted(by_x.items())]


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
