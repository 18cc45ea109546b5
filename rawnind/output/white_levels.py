"""Cameras whose data clip elsewhere than LibRaw says, from pairs.parquet."""

import statistics
from collections import defaultdict
from collections.abc import Iterator

from rawnind.output.manifest import PAIRS
from rawnind.output.store import Store
from rawnind.output.tables import open_table, require_sealed, require_sound
from rawnind.words import counted

MOST_DIFFERENCE = 0.02
_COLUMNS = ("camera", "white_level", "white_level_data")


def white_level_warnings(store: Store) -> Iterator[str]:
    """A sentence for each camera whose noisy photos clip, in the median, over 2 % from LibRaw's white level.

    Raises:
        ManifestError: The list of pairs cannot be read.
    """
    if not store.exists(PAIRS):
        return
    require_sealed(store)
    with open_table(store, PAIRS, _COLUMNS[:2]) as file:
        names = [name for name in _COLUMNS if name in file.schema_arrow.names]
        if "white_level_data" not in names:
            return
        table = file.read(names)
    require_sound(table, PAIRS, store.location)
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for row in table.to_pylist():
        if None not in row.values():
            found[row["camera"], row["white_level"]].append(row["white_level_data"])
    for (camera, white), values in sorted(found.items()):
        data = statistics.median(values)
        if abs(data / white - 1) > MOST_DIFFERENCE:
            yield (
                f"{camera}: the data clip at {data:g} in {counted(len(values), 'photo')}, LibRaw's white level is {white:g} "
                f"({data / white - 1:+.1%}); overexposure is taken from the data"
            )
