"""Tables of a report: coverage of cameras and ISOs, what other thresholds would keep, the worst crops, time and memory per stage."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rawnind.reasons import Outcome
from rawnind.report.verdicts import color_deviation

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Collected and planned pairs per camera and ISO.

    Attributes:
        isos: of the columns, ascending; None for an unknown ISO comes last.
        cameras: (camera, one entry per ISO: (collected, planned, whether it is a gap)).
    """

    isos: tuple[int | None, ...]
    cameras: tuple[tuple[str, tuple[tuple[int, int, bool], ...]], ...]


_MOST_ISOS = 16


def coverage(pairs: Sequence[Row]) -> Coverage:
    """Pairs per camera and ISO; a gap is an ISO without a collected pair between two that a camera has.

    With many ISOs they are counted at the full stop below: 100, 200, 400 and so on.

    Args:
        pairs: rows of pairs.parquet.
    """
    many = len({row["iso"] for row in pairs}) > _MOST_ISOS
    isos = [_stop(row["iso"]) if many else row["iso"] for row in pairs]
    columns = sorted(set(isos), key=lambda iso: (iso is None, iso))
    collected: Counter[tuple[str, int | None]] = Counter()
    planned: Counter[tuple[str, int | None]] = Counter()
    for row, iso in zip(pairs, isos, strict=True):
        camera = row["camera"] or "not decoded"
        planned[camera, iso] += 1
        collected[camera, iso] += row["outcome"] == Outcome.COLLECTED
    cameras = []
    for camera in sorted({name for name, _ in planned}):
        counts = [collected[camera, iso] for iso in columns]
        filled = [place for place, count in enumerate(counts) if count]
        cells = tuple(
            (
                count,
                planned[camera, iso],
                not count and bool(filled) and filled[0] < place < filled[-1] and iso is not None,
            )
            for place, (count, iso) in enumerate(zip(counts, columns, strict=True))
        )
        cameras.append((camera, cells))
    return Coverage(isos=tuple(columns), cameras=tuple(cameras))


def _stop(iso: int | None) -> int | None:
    """The full stop at or below an ISO.

    >>> _stop(100), _stop(320), _stop(25600), _stop(None)
    (100, 200, 25600, None)
    """
    if iso is None or iso <= 0:
        return None
    return int(100 * 2 ** np.floor(np.log2(iso / 100)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What a threshold would keep.

    Attributes:
        threshold: as it is said: `min_msssim 0.9`.
        crops: that pass.
        pairs: with at least one of them.
        scenes: with at least one of them.
    """

    threshold: str
    crops: int
    pairs: int
    scenes: int


_THRESHOLDS = (
    ("min_msssim", "msssim", (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)),
    ("min_valid_fraction", "valid_fraction", (0.5, 0.75, 0.9, 0.99)),
    ("max_residual", "residual", (0.75, 0.5, 0.25, 0.1)),
)


def what_if(crops: pa.Table) -> Iterator[Kept]:
    """What higher thresholds would keep; a number that was not measured passes none, as when the data set is read.

    Args:
        crops: rows of manifest.parquet.
    """
    for option, column, thresholds in _THRESHOLDS:
        values = crops[column]
        for threshold in thresholds:
            passes = (pc.less_equal if option.startswith("max") else pc.greater_equal)(values, threshold)
            kept = crops.filter(passes)
            yield Kept(
                threshold=f"{option} {threshold:g}",
                crops=kept.num_rows,
                pairs=_distinct(kept, ["scene", "cfa", "pair_id"]),
                scenes=_distinct(kept, ["scene", "cfa"]),
            )


def _distinct(table: pa.Table, columns: list[str]) -> int:
    return int(table.group_by(columns).aggregate([]).num_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worst:
    """The worst crops by one number, or the worst pairs, each shown by its first crop.

    Attributes:
        title: what they are the worst in.
        rows: (row of manifest.parquet, number), the worst first.
    """

    title: str
    rows: tuple[tuple[Row, float], ...]


def worst(crops: pa.Table, pairs: Iterable[Row], count: int) -> Iterator[Worst]:
    """The worst crops by MS-SSIM, residual and valid fraction, and the worst pairs by colour.

    Args:
        crops: rows of manifest.parquet.
        pairs: rows of pairs.parquet.
        count: how many of each.
    """
    for title, column, order in (
        ("MS-SSIM", "msssim", "ascending"),
        ("residual in sites", "residual", "descending"),
        ("valid fraction", "valid_fraction", "ascending"),
    ):
        known = crops.filter(pc.is_valid(crops[column]))
        rows = known.sort_by([(column, order), ("crop_id", "ascending")]).slice(0, count).to_pylist()
        yield Worst(title=title, rows=tuple((row, row[column]) for row in rows))
    yield Worst(
        title="colour: gain of one colour against the pair's", rows=tuple(_by_color(crops, pairs, count))
    )


def _by_color(crops: pa.Table, pairs: Iterable[Row], count: int) -> Iterator[tuple[Row, float]]:
    found = [
        (deviation, row) for row in pairs if row["crops"] and (deviation := color_deviation(row)) is not None
    ]
    for deviation, row in sorted(found, key=lambda each: (-each[0], each[1]["pair_id"]))[:count]:
        of_pair = (pc.field("pair_id") == row["pair_id"]) & (pc.field("scene") == row["scene"])
        yield crops.filter(of_pair).slice(0, 1).to_pylist()[0], deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """Time and memory, from events.jsonl.

    Attributes:
        seconds: stage -> seconds of all workers together.
        memory: stage -> bytes that it touched for one photo or pair, the largest; without stages of which it was not measured.
        slowest: (scene, seconds), the slowest first.
        peak: largest memory of a worker in bytes; None where no event has it.
        scenes: how many scenes have times.
        measured: how many scenes have the memory of their stages.
    """

    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    slowest: tuple[tuple[str, float], ...]
    peak: float | None
    scenes: int
    measured: int


_SECONDS, _MEMORY, _PEAK = "_seconds", "_memory_bytes", "peak_memory_bytes"
_SLOWEST = 5


def stages(events: Iterable[Row]) -> Stages:
    """Sums and largest values over the commits of every run.

    Args:
        events: lines of events.jsonl.
    """
    seconds: dict[str, float] = defaultdict(float)
    scenes: dict[str, float] = defaultdict(float)
    largest: dict[str, float] = {}
    measured: set[str] = set()
    for event in events:
        telemetry = event.get("telemetry") if event["event"] == "commit" else None
        scene = event.get("scene", "")
        for name, value in (telemetry or {}).items():
            if name.endswith(_SECONDS):
                seconds[name.removesuffix(_SECONDS)] += value
                scenes[scene] += value
            elif name.endswith(_MEMORY):
                largest[name] = max(largest.get(name, 0.0), value)
                measured.update([] if name == _PEAK else [scene])
    return Stages(
        seconds=dict(seconds),
        memory={name.removesuffix(_MEMORY): value for name, value in largest.items() if name != _PEAK},
        slowest=tuple(sorted(scenes.items(), key=lambda each: -each[1])[:_SLOWEST]),
        peak=largest.get(_PEAK),
        scenes=len(scenes),
        measured=len(measured),
    )
