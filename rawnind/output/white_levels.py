"""Cameras whose data clip elsewhere than LibRaw says, from pairs.parquet."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rawnind.output.manifest import PAIRS
from rawnind.output.store import Store
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.words import counted

MOST_DIFFERENCE = 0.02
_PHOTOS = (("", "noisy_sha1", "noisy photo"), ("gt_", "gt_sha1", "ground truth"))
"""Prefix of a photo's columns, the column that identifies it, and what it is."""


def white_level_warnings(store: Store) -> Iterator[str]:
    """The sentences of `contradicted_white_levels` about an output folder; none where it has no list of pairs.

    Raises:
        ManifestError: The list of pairs cannot be read.
    """
    if not store.exists(PAIRS):
        return
    require_sealed(store)
    names = {
        "camera",
        *(f"{prefix}{name}" for prefix, *_ in _PHOTOS for name in ("white_level", "white_level_data")),
        *(sha1 for _, sha1, _ in _PHOTOS),
    }
    with open_table(store, PAIRS, ("camera",)) as file:
        table = file.read([name for name in file.schema_arrow.names if name in names])
    require_sound(table, PAIRS, store.location)
    yield from contradicted_white_levels(table.to_pylist())


def contradicted_white_levels(pairs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each camera whose noisy photos or ground truths clip, in the median, over 2 % from LibRaw's white level.

    Args:
        pairs: rows of pairs.parquet; those of earlier versions lack columns, and warn of nothing.
    """
    found: dict[tuple[str, str, float], dict[str, float]] = defaultdict(dict)
    for row in pairs:
        for prefix, sha1, kind in _PHOTOS:
            white, data = row.get(f"{prefix}white_level"), row.get(f"{prefix}white_level_data")
            if row["camera"] is not None and white is not None and data is not None:
                found[row["camera"], kind, white][row[sha1]] = data
    for (camera, kind, white), photos in sorted(found.items()):
        data = statistics.median(photos.values())
        if abs(data / white - 1) > MOST_DIFFERENCE:
            yield (
                f"{camera}: the data clip at {data:g} in {counted(len(photos), kind)}, LibRaw's white level is {white:g} "
                f"({data / white - 1:+.1%}); overexposure is taken from the data"
            )
