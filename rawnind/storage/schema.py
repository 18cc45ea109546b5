"""Columns of manifest.parquet and pairs.parquet: plain types that pandas, DuckDB and Ray Data read alike."""

from collections.abc import Iterable
from dataclasses import fields

import pyarrow as pa

from rawnind.records import ALWAYS_MEASURED, Measurements

_INTEGER_MEASUREMENTS = ("shift_y", "shift_x")
_LEVELS = pa.list_(pa.field("element", pa.float64(), nullable=False))


def _kinds(names: Iterable[str]) -> dict[str, pa.DataType]:
    return {name: pa.int32() if name in _INTEGER_MEASUREMENTS else pa.float64() for name in names}


_MEASUREMENTS = [field.name for field in fields(Measurements)]
SOMETIMES_MEASURED = ("rotation", "scale", "noise_gain", "noise_floor")


def _required(**kinds: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]


def _nullable(**kinds: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=True) for name, kind in kinds.items()]


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
        *_nullable(msssim=pa.float64()),
        *_required(black_level=_LEVELS, white_level=pa.float64(), gt_black_level=_LEVELS,
                  gt_white_level=pa.float64(), overexposure_lb=pa.float64(), rgb_xyz_matrix=_LEVELS,
                  shard=pa.string(), row_group=pa.int32(), shard_sha256=pa.string(), recipe=pa.string()),
    ]
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
                  overexposure_lb=pa.float64(), rgb_xyz_matrix=_LEVELS),
        *_required(crops=pa.int32()),
        *_nullable(shard=pa.string(), shard_sha256=pa.string()),
        *_required(recipe=pa.string()),
    ]
)  # fmt: skip
"""Columns of pairs.parquet, one row per planned pair, sorted by (scene, pair_id)."""
