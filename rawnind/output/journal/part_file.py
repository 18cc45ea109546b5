"""One part of the journal: a Parquet file in groups of about a megabyte.

One result is read without the others. The file's name has the first sequence number, the number of commits and the start of its
SHA-256, so that a modified part is detected.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rawnind.errors import ManifestError
from rawnind.output.atomic_file import TEMPORARY
from rawnind.output.journal.commits import OUTCOMES, REASONS, ROW, Commit, Rows, failure_bits
from rawnind.output.store import Store
from rawnind.output.versions import parquet_metadata, require_readable_parquet
from rawnind.reasons import Outcome, Reason

FOLDER = "parts"

_NAME = re.compile(r"parts/(?P<first>\d{10,17})-(?P<count>\d{1,7})-(?P<digest>[0-9a-f]{16})\.parquet")
_GROUP = 1 << 20
"""Bytes of results in a row group, which is the least that is read."""

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("identity", pa.binary(16), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=True),
        *(
            pa.field(name, pa.int32(), nullable=False)
            for name in ("collected", "filtered", "rejected", "failed", "crops")
        ),
        pa.field("failures", pa.string(), nullable=False),
        pa.field("inputs", pa.binary(), nullable=False),
        pa.field("result", pa.binary(), nullable=False),
    ],
    metadata=parquet_metadata("journal"),
)
COMMIT_COLUMNS = [name for name in SCHEMA.names if name not in {"inputs", "result"}]


@dataclass(frozen=True, slots=True)
class Part:
    """A part, by its name."""

    first: int
    count: int
    name: str

    @property
    def end(self) -> int:
        """The sequence number after its last one."""
        return self.first + self.count

    def covers(self, other: "Part") -> bool:
        """Whether it was merged from the other part and more."""
        return self.count > other.count and self.first <= other.first and other.end <= self.end


def parts_in(store: Store) -> list[Part]:
    """Every part, sorted by its first sequence number; a part is before those that it covers.

    Raises:
        ManifestError: A file has a name that no part can have.
    """
    found = []
    for entry in store.list(FOLDER):
        if match := _NAME.fullmatch(entry.path):
            found.append(Part(int(match["first"]), int(match["count"]), entry.path))
        elif entry.path.endswith(".parquet") and TEMPORARY not in entry.path:
            raise ManifestError(f"{entry.path} was renamed; rename it back or remove it")
    return sorted(found, key=lambda part: (part.first, -part.count))


def damaged(name: str, why: str) -> ManifestError:
    """The error of a part that does not match its name."""
    return ManifestError(
        f"{name} is damaged: {why}. Remove it and run `rawnind prepare` again: only its scenes are then processed again."
    )


class PartFile:
    """An open part.

    Raises:
        FileNotFoundError: It does not exist.
        ManifestError: Its bytes are not those that were written.
    """

    def __init__(self, store: Store, part: Part) -> None:
        self.part = part
        data = store.read(part.name)
        if hashlib.sha256(data).hexdigest()[:16] != part.name.rsplit("-", 1)[1].partition(".")[0]:
            raise damaged(part.name, "its bytes are not those that were written")
        try:
            self._file = pq.ParquetFile(io.BytesIO(data))
        except pa.ArrowException as error:
            raise damaged(part.name, str(error)) from error
        require_readable_parquet("journal", self._file.schema_arrow.metadata, part.name)
        meta = self._file.metadata
        self.size = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
        """Bytes of all columns before compression."""
        self._ends = np.cumsum([meta.row_group(n).num_rows for n in range(meta.num_row_groups)])
        if meta.num_rows != part.count:
            raise damaged(part.name, f"it holds {meta.num_rows} scenes")

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Columns of all its commits. Raises what the class does."""
        return self._columns(self._file.read(columns=list(columns), use_threads=False), columns)

    def group_of(self, seq: int) -> tuple[int, int]:
        """The row group with that sequence number, and the first sequence number in it."""
        group = int(np.searchsorted(self._ends, seq - self.part.first, side="right"))
        return group, self.part.first + (int(self._ends[group - 1]) if group else 0)

    def group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group."""
        table = self._file.read_row_group(number, columns=list(columns), use_threads=False)
        return self._columns(table, columns)

    def groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of each row group."""
        return (self.group(number, columns) for number in range(len(self._ends)))

    def _columns(self, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        try:
            chosen = table.select(columns)
        except KeyError as error:
            raise damaged(self.part.name, f"another version wrote it: {error}") from error
        try:
            chosen.validate(full=True)  # Arrow reads any bytes as a text
        except pa.ArrowInvalid as error:
            raise damaged(self.part.name, str(error)) from error
        for found, field in zip(chosen.schema, map(SCHEMA.field, columns), strict=True):
            if found.type != field.type or (chosen[field.name].null_count and not field.nullable):
                raise damaged(self.part.name, f"{field.name} has another type, or is null")
        return chosen


def commit_rows(part: Part, table: pa.Table) -> Rows:
    """`COMMIT_COLUMNS` of a part as (N,) of `commits.ROW`.

    Raises:
        ManifestError: An outcome or a reason is unknown.
    """
    rows = np.zeros(table.num_rows, ROW)
    rows["seq"] = np.arange(part.first, part.end)
    rows["identity"] = np.frombuffer(b"".join(table["identity"].to_pylist()), "V16")
    try:
        rows["outcome"] = _coded(table["outcome"], lambda text: OUTCOMES.index(Outcome(text)))
        rows["reason"] = _coded(table["reason"], lambda text: REASONS.index(Reason(text)), absent=-1)
        rows["failures"] = _coded(table["failures"], lambda text: failure_bits(map(Reason, text.split())))
    except ValueError as error:
        raise ManifestError(
            f"{part.name} has a value that this rawnind does not know ({error}): a newer one wrote it. Upgrade rawnind."
        ) from error
    for name in (*map(str, Outcome), "crops"):
        rows[name] = _numbers(table[name])
    return rows


def _coded(column: pa.ChunkedArray, code: Callable[[str], int], *, absent: int = 0) -> npt.NDArray[np.int64]:
    """The number of each text; each distinct text is looked up once."""
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    texts = coded.dictionary.to_pylist()
    codes = np.array([absent if text is None else code(text) for text in texts], np.int64)
    found: npt.NDArray[np.int64] = codes[np.from_dlpack(coded.indices)]
    return found


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """Whole numbers without nulls. `to_numpy` does the same, and imports pandas, which takes 0.3 s."""
    values: npt.NDArray[np.generic] = np.from_dlpack(column.combine_chunks())
    return values


def commit_table(
    keys: Sequence[str], commits: Sequence[Commit], inputs: Sequence[bytes], results: Sequence[bytes]
) -> pa.Table:
    """Commits as a table with `SCHEMA`.

    Args:
        keys: scenes' keys.
        commits: one per scene.
        inputs: fingerprint of each scene's files.
        results: each scene's result as JSON.
    """
    return pa.table(
        [
            pa.array(keys, pa.string()),
            pa.array([commit.identity for commit in commits], pa.binary(16)),
            pa.array([str(commit.outcome) for commit in commits], pa.string()),
            pa.array([str(commit.reason) if commit.reason else None for commit in commits], pa.string()),
            *(pa.array([commit.pairs[n] for commit in commits], pa.int32()) for n in range(len(OUTCOMES))),
            pa.array([commit.crops for commit in commits], pa.int32()),
            pa.array([" ".join(sorted(commit.failures)) for commit in commits], pa.string()),
            pa.array(inputs, pa.binary()),
            pa.array(results, pa.binary()),
        ],
        schema=SCHEMA,
    )


def write_part(store: Store, first: int, tables: Iterable[pa.Table]) -> Part:
    """Writes consecutive tables with `SCHEMA` as one part.

    Args:
        store: the output folder.
        first: sequence number of the first row.
        tables: the rows.

    Args:
        store: the output folder.
        first: sequence number of the first row.
        tables: with `SCHEMA`.

    Raises:
        OutputError: The storage reports an error; the part is then not written.
    """
    sink, count = io.BytesIO(), 0
    with pq.ParquetWriter(
        sink, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        for group in _grouped(tables):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
            count += group.num_rows
    data = sink.getvalue()
    name = f"{FOLDER}/{first:010d}-{count}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.write(name, data)
    return Part(first, count, name)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows, regrouped into tables of about `_GROUP` bytes of results each."""
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        ends = np.cumsum(pc.binary_length(table["result"]).to_numpy())
        start = 0
        while start < table.num_rows:
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + max(_GROUP - size, 1))) + 1
            waiting.append(table.slice(start, stop - start))
            size += int(ends[min(stop, table.num_rows) - 1]) - before
            start = stop
            if size >= _GROUP:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
