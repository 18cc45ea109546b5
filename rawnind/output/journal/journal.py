"""The journal: write-once Parquet files under parts/, each with one or more committed scenes.

A commit has a sequence number. The last commit of a scene counts. Many small parts are merged into large ones: the
merged part is written first and its sources are removed after it, and a part that is contained in another is ignored.
"""

import bisect
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from rawnind.errors import ManifestError
from rawnind.output.journal.commits import ROW, Commit, LastCommits, commit_of, identity, row_of
from rawnind.output.journal.part_file import (
    COMMIT_COLUMNS,
    FOLDER,
    SCHEMA,
    Part,
    PartFile,
    commit_rows,
    commit_table,
    damaged,
    parts_in,
    write_part,
)
from rawnind.output.store import Store
from rawnind.reasons import Outcome
from rawnind.records import SceneResult

__all__ = ["FOLDER", "Commit", "Journal", "commit_of", "decode_result", "encode_result", "identity"]

_RESULT = TypeAdapter(SceneResult)

_AT_ONCE = 8
"""Parts that are read in parallel; an object store takes some 10 ms for each."""

_OPEN_PARTS, _OPEN_GROUPS = 4, 16
"""Cached parts and row groups: scenes are committed almost in the planned order, and read in it."""

_PER_EPOCH = 1_000_000
"""Sequence numbers between the first commits of two epochs: more than a run commits after it has lost its lock. They have 16
digits, and stay exact in JSON readers that have floating-point numbers only."""

_ATTEMPTS = 3
"""Readers retry when a run merges parts while they list them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Merging:
    """When small parts are merged.

    Attributes:
        few: small parts at the start of a run that are not merged yet. many: small parts added during a run before
            they are merged; an object store takes some 20 ms to read one.
        small: bytes before compression below which a part is small.
        large: bytes before compression that neighbours are merged to.
    """

    few: int = 32
    many: int = 512
    small: int = 1 << 23
    large: int = 1 << 25


class Journal:
    """The committed scenes of one output folder. One process at a time may append.

    Args:
        store: the output folder.
        merging: when small parts are merged.
        epoch: `RunLock.epoch` of the run that appends. Its commits begin at a sequence number that no other run can give, so
            that an earlier run which has lost its lock without noticing cannot contradict them.

    Attributes:
        latest: key of a scene -> its last commit.
        next_seq: sequence number of the next commit.
        gaps: (first, end) of sequence numbers whose parts are missing; their scenes count as never committed.

    Raises:
        ManifestError: A part does not match its name.
    """

    def __init__(self, store: Store, merging: Merging | None = None, *, epoch: int = 0) -> None:
        self._store = store
        self._merging = merging or Merging()
        self._first_of_run = epoch * _PER_EPOCH
        self._files: OrderedDict[str, PartFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        for _ in range(_ATTEMPTS - 1):
            try:
                self._load()
            except ManifestError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
            else:
                return
        self._load()

    def _load(self) -> None:
        self.latest = LastCommits(self._keys)
        self.next_seq = 0
        self.gaps: list[tuple[int, int]] = []
        self._parts: list[Part] = []
        self._covered: list[Part] = []
        for part in parts_in(self._store):
            if self._parts and self._parts[-1].covers(part):
                self._covered.append(part)
                continue
            if part.first < self.next_seq:
                raise damaged(
                    part.name,
                    f"{self.next_seq} scenes come before it, as if it were renamed or two runs had written at the same time",
                )
            expected = max(self.next_seq, part.first // _PER_EPOCH * _PER_EPOCH)
            if part.first > expected:
                self.gaps.append((expected, part.first))
            self._parts.append(part)
            self.next_seq = part.end
        self._sizes: list[int] = []
        for part, (table, size) in zip(self._parts, self._tables(self._parts, COMMIT_COLUMNS), strict=True):
            self.latest.add(table["key"].to_pylist(), commit_rows(part, table))
            self._sizes.append(size)
        self._small_before = 0
        self.next_seq = max(self.next_seq, self._first_of_run)

    def append(self, results: Sequence[SceneResult], inputs: Sequence[bytes] = ()) -> list[Commit]:
        """Commits scenes in one part; they are committed when this returns.

        Args:
            results: one per scene.
            inputs: each scene's `source.fingerprint.fingerprint` when it was read; empty where unknown.

        Raises:
            OutputError: The storage reports an error; nothing was committed.
        """
        if self._small() >= self._small_before + self._merging.many:
            self.compact()
        commits = [commit_of(result, seq) for seq, result in enumerate(results, self.next_seq)]
        keys = [result.scene.key for result in results]
        data = [encode_result(result) for result in results]
        table = commit_table(keys, commits, inputs or [b""] * len(results), data)
        part = write_part(self._store, self.next_seq, [table])
        self._parts.append(part)
        self._sizes.append(table.nbytes)
        self.next_seq = part.end
        self.latest.add(keys, np.array([row_of(commit) for commit in commits], ROW))
        return commits

    def _small(self) -> int:
        return sum(size < self._merging.small for size in self._sizes)

    def compact(self) -> None:
        """Merges many small parts with their neighbours, and removes parts that were merged.

        Raises:
            OutputError: The storage reports an error; nothing is lost.
        """
        if self._small() >= self._merging.few:
            merged: list[tuple[Part, int]] = []
            for run, size in self._runs():
                part = self._merged(run) if len(run) > 1 else run[0]
                merged.append((part, size))
                self._covered += run if len(run) > 1 else []
            self._parts, self._sizes = [part for part, _ in merged], [size for _, size in merged]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._store.remove, (part.name for part in self._covered)))
        self._covered = []
        self._small_before = self._small()
        pa.default_memory_pool().release_unused()  # the pool would keep some 35 MB of the merged parts

    def _merged(self, run: Sequence[Part]) -> Part:
        return write_part(self._store, run[0].first, (table for table, _ in self._tables(run, SCHEMA.names)))

    def _runs(self) -> Iterator[tuple[list[Part], int]]:
        """Parts to be merged with each other, and their size; a part that is not merged is alone in its run."""
        run: list[Part] = []
        total = 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            alone = size >= self._merging.small or (len(run) == 1 and total >= self._merging.small)
            if run and (alone or total >= self._merging.large or run[-1].end != part.first):
                yield run, total
                run, total = [], 0
            run.append(part)
            total += size
        if run:
            yield run, total

    def read(self, key: str) -> SceneResult:
        """The last committed result of a scene.

        Raises:
            KeyError: The scene was never committed.
            ManifestError: Its part is damaged.
        """
        return self.at(self.latest[key].seq)

    def at(self, seq: int) -> SceneResult:
        """The result with that sequence number. Errors as in `read`."""
        for (first, end), group in self._groups.items():
            if first <= seq < end:
                self._groups.move_to_end((first, end))
                return decode_result(group[seq - first])
        part = self._parts[self._place(seq)]
        file = self._files.pop(part.name, None) or self._opened(part)
        self._files[part.name] = file
        number, first = file.group_of(seq)
        group = file.group(number, ["result"])["result"].to_pylist()
        self._groups[first, first + len(group)] = group
        for cache, limit in ((self._files, _OPEN_PARTS), (self._groups, _OPEN_GROUPS)):
            if len(cache) > limit:
                cache.popitem(last=False)
        return decode_result(group[seq - first])

    def _place(self, seq: int) -> int:
        """Index of the part with that sequence number."""
        return max(bisect.bisect_right(self._parts, seq, key=lambda part: part.first) - 1, 0)

    def newest(self, most: int) -> list[int]:
        """The highest sequence numbers that are taken, ascending."""
        numbers = (seq for part in reversed(self._parts) for seq in range(part.end - 1, part.first - 1, -1))
        return sorted(islice(numbers, most))

    def inputs(self) -> dict[str, bytes]:
        """Key of a scene -> the fingerprint of its files at its last commit; scenes without one are left out."""
        known: dict[str, bytes] = {}
        for table, _ in self._tables(self._parts, ["key", "inputs"]):
            known.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
        return {key: value for key, value in known.items() if value}

    def since(self, seq: int, outcome: Outcome | None = None) -> Iterator[tuple[int, SceneResult]]:
        """Every result from a sequence number on that is still its scene's last; one outcome only, or any."""
        for part in self._parts[self._place(seq) :]:
            first = part.first
            for table in self._opened(part).groups(["key", "outcome", "result"]):
                number = np.arange(first, first := first + table.num_rows)
                wanted = (number >= seq) & self._is_last(number, table)
                if outcome is not None:
                    wanted &= np.array(table["outcome"].to_pylist()) == str(outcome)
                for place in np.flatnonzero(wanted):
                    yield int(number[place]), decode_result(table["result"][int(place)].as_py())

    def _is_last(self, number: npt.NDArray[np.int64], table: pa.Table) -> npt.NDArray[np.bool_]:
        same: npt.NDArray[np.bool_] = self.latest.rows(table["key"].to_pylist())["seq"] == number
        return same

    def _keys(self) -> Iterator[tuple[int, list[str]]]:
        for part in self._parts:
            yield part.first, self._opened(part).table(["key"])["key"].to_pylist()

    def _opened(self, part: Part) -> PartFile:
        try:
            return PartFile(self._store, part)
        except FileNotFoundError as error:
            raise ManifestError(
                f"{part.name} does not exist any more; run `rawnind prepare` again"
            ) from error

    def _tables(self, parts: Iterable[Part], columns: Sequence[str]) -> Iterator[tuple[pa.Table, int]]:
        """Columns of each part, and the part's size; `_AT_ONCE` parts are read in parallel."""

        def read(part: Part) -> tuple[pa.Table, int]:
            file = self._opened(part)
            return file.table(columns), file.size

        rest = iter(parts)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while batch := list(islice(rest, _AT_ONCE)):
                yield from pool.map(read, batch)


def encode_result(result: SceneResult) -> bytes:
    """A result as JSON, as a worker sends it to the bridge."""
    return _RESULT.dump_json(result)


def decode_result(data: bytes) -> SceneResult:
    """A result from JSON.

    Raises:
        ManifestError: It is not one; the message names the field.
    """
    try:
        return _RESULT.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"not a scene result: {where}: {first['msg']}") from error
