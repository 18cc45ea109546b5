"""Columns of manifest.parquet and pairs.parquet: plain types that pandas, DuckDB and Ray Data read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

import pyarrow as pa

from rawnind.measurements import ALWAYS_MEASURED, Crop, Measurements
from rawnind.output.shards import crop_name
from rawnind.output.versions import parquet_metadata
from rawnind.records import Capture, PairResult, SceneResult, Sensor

_INTEGER_MEASUREMENTS = ("shift_y", "shift_x")
_LEVELS = pa.list_(pa.field("element", pa.float64(), nullable=False))


def _kinds(names: Iterable[str]) -> dict[str, pa.DataType]:
    special = dict.fromkeys(_INTEGER_MEASUREMENTS, pa.int32()) | {"noise_lines": _LEVELS}
    return {name: special.get(name, pa.float64()) for name in names}


_MEASUREMENTS = [field.name for field in fields(Measurements)]
SOMETIMES_MEASURED = (
    "rotation",
    "scale",
    "residual",
    "noise_gain",
    "noise_floor",
    "expected_loss",
    "gain_red",
    "gain_green",
    "gain_blue",
    "gt_contrast_red",
    "gt_contrast_blue",
    "contrast_red",
    "contrast_blue",
    "noise_a_red",
    "noise_b_red",
    "noise_a_green",
    "noise_b_green",
    "noise_a_blue",
    "noise_b_blue",
    "white_level_data",
    "gt_white_level_data",
)


def _required(**kinds: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]


def _nullable(**kinds: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=True) for name, kind in kinds.items()]


_CAPTURE = {
    "exif_iso": pa.int32(), "exposure_time": pa.float64(), "aperture": pa.float64(), "focal_length": pa.float64(),
    "captured_at": pa.string(), "lens": pa.string(), "orientation": pa.int32(),
}  # fmt: skip
"""Columns of `Capture`, in the order of its fields."""

MANIFEST_SCHEMA = pa.schema(
    [
        *_required(crop_id=pa.string(), scene=pa.string(), cfa=pa.string(), pair_id=pa.string(),
                  test_reserve=pa.bool_(), unknown_sensor=pa.bool_(), camera=pa.string(), gt_sha1=pa.string(),
                  noisy_sha1=pa.string()),
        *_nullable(gt_iso=pa.int32(), iso=pa.int32()),
        *_required(y=pa.int32(), x=pa.int32(), size=pa.int32()),
        *_required(**_kinds(ALWAYS_MEASURED)),
        *_nullable(**_kinds(SOMETIMES_MEASURED)),
        *_required(valid_fraction=pa.float64(), overexposed_fraction=pa.float64(), underexposed_fraction=pa.float64(), hot_fraction=pa.float64(),
                  changed_fraction=pa.float64()),
        *_nullable(gt_tile_y=pa.int32(), gt_tile_x=pa.int32(), misaligned_fraction=pa.float64(), msssim=pa.float64(), gt_rgb_xyz_matrix=_LEVELS),
        *_required(black_level=_LEVELS, white_level=pa.float64(), gt_black_level=_LEVELS,
                  gt_white_level=pa.float64(), overexposure_lb=pa.float64(), rgb_xyz_matrix=_LEVELS,
                  shard=pa.string(), row_group=pa.int32(), shard_sha256=pa.string(), recipe=pa.string()),
    ],
    metadata=parquet_metadata("manifest"),
)  # fmt: skip
"""Columns of manifest.parquet, one row per crop, sorted by (scene, pair_id, y, x)."""

PAIRS_SCHEMA = pa.schema(
    [
        *_required(scene=pa.string(), cfa=pa.string(), pair_id=pa.string(), test_reserve=pa.bool_(),
                  unknown_sensor=pa.bool_(), noisy_sha1=pa.string(), noisy_file=pa.string()),
        *_nullable(gt_sha1=pa.string(), gt_file=pa.string(), iso=pa.int32(), gt_iso=pa.int32()),
        *_required(outcome=pa.string()),
        *_nullable(reason=pa.string()),
        *_required(detail=pa.string()),
        *_nullable(**_kinds(_MEASUREMENTS)),
        *_nullable(camera=pa.string(), black_level=_LEVELS, white_level=pa.float64(),
                  overexposure_lb=pa.float64(), rgb_xyz_matrix=_LEVELS, gt_rgb_xyz_matrix=_LEVELS),
        *_required(crops=pa.int32()),
        *_nullable(shard=pa.string(), shard_sha256=pa.string()),
        *_required(recipe=pa.string()),
        *_nullable(**_CAPTURE, **{f"gt_{name}": kind for name, kind in _CAPTURE.items()}, border_noise=_LEVELS, gt_border_noise=_LEVELS,
                  gt_white_level=pa.float64()),
    ],
    metadata=parquet_metadata("pairs"),
)  # fmt: skip
"""Columns of pairs.parquet, one row per planned pair, sorted by (scene, pair_id)."""


_CROP = tuple(field.name for field in fields(Crop))
_OLD_CROP = tuple(field.name for field in fields(Crop) if field.default is MISSING)
"""What journals of earlier versions have of a crop; the pair's shift counts for it there."""
_MEASURED = tuple(field.name for field in fields(Measurements))


def crop_row(result: SceneResult, pair: PairResult, number: int, crop: Crop, size: int) -> dict[str, Any]:
    """One row of manifest.parquet, by column name.

    Args:
        result: the scene's result.
        pair: a collected pair of it.
        number: of the crop's row group in the shard.
        crop: one of the pair.
        size: side of a crop in sites.

    Raises:
        ValueError: The pair was not collected.
    """
    if pair.shard is None or pair.ground_truth is None or pair.sensor is None or pair.gt_sensor is None:
        raise ValueError(f"pair {pair.pair_id} has crops but no shard, GT or sensor")
    row = {
        "crop_id": crop_name(pair.pair_id, crop.y, crop.x),
        "scene": result.scene.name,
        "cfa": str(result.scene.cfa),
        "pair_id": pair.pair_id,
        "test_reserve": result.scene.test_reserve,
        "unknown_sensor": result.scene.unknown_sensor,
        "gt_sha1": pair.ground_truth.sha1,
        "noisy_sha1": pair.noisy.sha1,
        "gt_iso": pair.ground_truth.iso,
        "iso": pair.noisy.iso,
        "size": size,
        **{name: getattr(pair.measured, name) for name in (*ALWAYS_MEASURED, *SOMETIMES_MEASURED)},
        **{name: getattr(crop, name) for name in (_CROP if crop.shift_y is not None else _OLD_CROP)},
        **_sensor_columns(pair.sensor),
        "gt_black_level": pair.gt_sensor.black_level,
        "gt_white_level": pair.gt_sensor.white_level,
        "gt_rgb_xyz_matrix": pair.gt_sensor.rgb_xyz_matrix,
        "shard": pair.shard.path,
        "row_group": number,
        "shard_sha256": pair.shard.sha256,
        "recipe": result.recipe,
    }
    for axis, start in zip("yx", pair.gt_sensor.origin, strict=True):
        first = row[axis] + row[f"shift_{axis}"]
        row[f"gt_tile_{axis}"] = (start - first) % pair.gt_sensor.cfa.period
    return row


def pair_row(result: SceneResult, pair: PairResult) -> dict[str, Any]:
    """One row of pairs.parquet, by column name; columns without an entry are null."""
    truth, shard = pair.ground_truth, pair.shard
    return {
        "scene": result.scene.name,
        "cfa": str(result.scene.cfa),
        "pair_id": pair.pair_id,
        "test_reserve": result.scene.test_reserve,
        "unknown_sensor": result.scene.unknown_sensor,
        "noisy_sha1": pair.noisy.sha1,
        "noisy_file": pair.noisy.filename,
        "gt_sha1": truth.sha1 if truth else None,
        "gt_file": truth.filename if truth else None,
        "iso": pair.noisy.iso,
        "gt_iso": truth.iso if truth else None,
        "outcome": str(pair.outcome),
        "reason": str(pair.reason) if pair.reason else None,
        "detail": pair.detail,
        **{name: getattr(pair.measured, name) for name in _MEASURED},
        **(_sensor_columns(pair.sensor) if pair.sensor else {}),
        "gt_rgb_xyz_matrix": pair.gt_sensor.rgb_xyz_matrix if pair.gt_sensor else None,
        "crops": len(pair.crops),
        "shard": shard.path if shard else None,
        "shard_sha256": shard.sha256 if shard else None,
        "recipe": result.recipe,
        **_capture_columns(pair.sensor),
        **{f"gt_{name}": value for name, value in _capture_columns(pair.gt_sensor).items()},
        "border_noise": _border_noise(pair.sensor),
        "gt_border_noise": _border_noise(pair.gt_sensor),
        "gt_white_level": pair.gt_sensor.white_level if pair.gt_sensor else None,
    }


def _border_noise(sensor: Sensor | None) -> tuple[float, ...] | None:
    return None if sensor is None or sensor.border_noise is None else sensor.border_noise.numbers


def _capture_columns(sensor: Sensor | None) -> dict[str, Any]:
    if sensor is None or sensor.capture is None:
        return {}
    values = [getattr(sensor.capture, field.name) for field in fields(Capture)]
    return dict(zip(_CAPTURE, values, strict=True))


def _sensor_columns(sensor: Sensor) -> dict[str, Any]:
    names = ("camera", "black_level", "white_level", "overexposure_lb", "rgb_xyz_matrix")
    return {name: getattr(sensor, name) for name in names}


def scene_entry(result: SceneResult) -> dict[str, Any]:
    """One entry of manifest.yaml's list of scenes."""
    pairs = Counter(str(pair.outcome) for pair in result.pairs)
    entry: dict[str, Any] = {
        "scene": result.scene.name,
        "cfa": str(result.scene.cfa),
        "outcome": str(result.outcome),
        "pairs": dict(sorted(pairs.items())),
        "crops": sum(len(pair.crops) for pair in result.pairs),
    }
    if result.reason:
        entry |= {"reason": str(result.reason), "detail": result.detail}
    if result.failed_files:
        entry["failed_files"] = [
            {"file": file.photo.filename, "reason": str(file.reason), "detail": file.detail}
            for file in result.failed_files
        ]
    return entry
