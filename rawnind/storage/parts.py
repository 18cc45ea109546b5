"""The journal: write-once Parquet files under parts/, each with one or more committed scenes.

A commit has a sequence number. A part's name says the first one, how many it holds, and the start of its SHA-256, so
that an edited part gives itself away. The last commit of a scene counts.
"""

import bisect
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from rawnind.errors import ManifestError
from rawnind.records import Outcome, Reason, Scene, SceneResult
from rawnind.storage.store import TEMPORARY, Store

FOLDER = "parts"

_NAME = re.compile(r"parts/(?P<first>\d{10})-(?P<count>\d{1,7})-(?P<digest>[0-9a-f]{16})\.parquet")
_RESULT = TypeAdapter(SceneResult)
_SCHEMA = pa.schema(
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
    ]
)


class Commit(NamedTuple):
    """What the journal remembers of a scene's last commit; the rest is read when asked for.

    Attributes:
        seq: sequence number, from 0.
        identity: names the scene's photos and the recipe (see `identity`).
        outcome: the scene's outcome.
        reason: the scene's reason; None when collected.
        pairs: how many pairs ended with each outcome, in the order of `Outcome`.
        crops: how many crops the scene gave.
        failures: for which reasons photos, pairs or the scene failed.
    """

    seq: int
    identity: bytes
    outcome: Outcome
    reason: Reason | None
    pairs: tuple[int, ...]
    crops: int
    failures: frozenset[Reason]


def commit_of(result: SceneResult, seq: int) -> Commit:
    """What the journal remembers of a result."""
    pairs = Counter(pair.outcome for pair in result.pairs)
    reasons = [
        result.reason,
        *(pair.reason for pair in result.pairs),
        *(file.reason for file in result.failed_files),
    ]
    return Commit(
        seq,
        identity(result.scene, result.recipe),
        result.outcome,
        result.reason,
        tuple(pairs[outcome] for outcome in Outcome),
        sum(len(pair.crops) for pair in result.pairs),
        frozenset(reason for reason in reasons if reason and reason.outcome is Outcome.FAILED),
    )


def identity(scene: Scene, recipe: str) -> bytes:
    """Sixteen bytes that change when the scene's photos, its flags or the recipe do, and not when the files move."""
    photos = [[ref.sha1, ref.ground_truth, ref.iso] for ref in (*scene.ground_truths, *scene.noisy)]
    text = json.dumps([scene.key, scene.test_reserve, scene.unknown_sensor, photos, recipe])
    return hashlib.sha256(text.encode()).digest()[:16]


class Journal:
    """The committed scenes of one output folder. One process at a time may append.

    Attributes:
        latest: key of a scene -> its last commit.
        next_seq: sequence number of the next commit.
        gaps: (first, end) of sequence numbers whose parts are gone; their scenes count as never committed.

    Raises:
        ManifestError: A part is not what its name says.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._firsts: list[int] = []
        self._names: list[str] = []
        self.latest: dict[str, Commit] = {}
        self.next_seq = 0
        self.gaps: list[tuple[int, int]] = []
        for entry in store.list(FOLDER):
            if match := _NAME.fullmatch(entry.path):
                self._load(entry.path, int(match["first"]), int(match["count"]))
            elif entry.path.endswith(".parquet") and TEMPORARY not in entry.path:
                raise ManifestError(f"{entry.path} was renamed; give it its name back or remove it")

    def _load(self, name: str, first: int, count: int) -> None:
        table = self._table(name, [column for column in _SCHEMA.names if column not in {"inputs", "result"}])
        if table.num_rows != count or first < self.next_seq:
            raise _damaged(name, f"it holds {table.num_rows} scenes, and {self.next_seq} come before it")
        if first > self.next_seq:
            self.gaps.append((self.next_seq, first))
        columns = (column.to_pylist() for column in table.columns)
        for seq, (key, name_of, outcome, reason, *pairs, crops, failures) in enumerate(
            zip(*columns, strict=True), first
        ):
            try:
                why = Reason(reason) if reason else None
                failed = frozenset(Reason(each) for each in failures.split())
                self.latest[key] = Commit(seq, name_of, Outcome(outcome), why, tuple(pairs), crops, failed)
            except ValueError as error:
                raise _damaged(name, f"another version wrote it: {error}") from error
        self._remember(name, first, count)

    def _remember(self, name: str, first: int, count: int) -> None:
        self._firsts.append(first)
        self._names.append(name)
        self.next_seq = first + count

    def append(self, results: Sequence[SceneResult], inputs: Sequence[bytes] = ()) -> list[Commit]:
        """Commits scenes in one part; they count once this returns.

        Args:
            results: one per scene.
            inputs: each scene's `inputs.fingerprint` at the time; empty where it is not known.

        Raises:
            OutputError: The storage refuses; nothing was committed.
        """
        commits = [commit_of(result, seq) for seq, result in enumerate(results, self.next_seq)]
        data = _encode(results, commits, inputs or [b""] * len(results))
        digest = hashlib.sha256(data).hexdigest()[:16]
        name = f"{FOLDER}/{self.next_seq:010d}-{len(results)}-{digest}.parquet"
        self._store.write(name, data)
        self._remember(name, self.next_seq, len(results))
        for result, commit in zip(results, commits, strict=True):
            self.latest[result.scene.key] = commit
        return commits

    def read(self, key: str) -> SceneResult:
        """The last committed result of a scene.

        Raises:
            KeyError: The scene was never committed.
            ManifestError: Its part is damaged.
        """
        return self.at(self.latest[key].seq)

    def at(self, seq: int) -> SceneResult:
        """The result with that sequence number. Errors as in `read`."""
        part = bisect.bisect_right(self._firsts, seq) - 1
        table = self._table(self._names[part], ["result"])
        return decode_result(table["result"][seq - self._firsts[part]].as_py())

    def inputs(self) -> dict[str, bytes]:
        """Key of a scene -> the fingerprint of its files at its last commit; scenes without one are left out."""
        known: dict[str, bytes] = {}
        for name in self._names:
            columns = self._table(name, ["key", "inputs"]).columns
            known.update(zip(*(column.to_pylist() for column in columns), strict=True))
        return {key: value for key, value in known.items() if value}

    def since(self, seq: int) -> Iterator[tuple[int, SceneResult]]:
        """Every result from a sequence number on that is still its scene's last."""
        start = max(bisect.bisect_right(self._firsts, seq) - 1, 0)
        for first, name in zip(self._firsts[start:], self._names[start:], strict=True):
            for number, value in enumerate(self._table(name, ["result"])["result"], first):
                result = decode_result(value.as_py())
                if number >= seq and self.latest[result.scene.key].seq == number:
                    yield number, result

    def _table(self, name: str, columns: list[str]) -> pa.Table:
        try:
            data = self._store.read(name)
        except FileNotFoundError as error:
            raise ManifestError(f"{name} is gone; run `rawnind prepare` again") from error
        if hashlib.sha256(data).hexdigest()[:16] != name.rsplit("-", 1)[1].partition(".")[0]:
            raise _damaged(name, "its bytes are not those that were written")
        try:
            return pq.read_table(io.BytesIO(data), columns=columns).select(columns)
        except (pa.ArrowException, KeyError) as error:
            raise _damaged(name, str(error)) from error


def _damaged(name: str, why: str) -> ManifestError:
    return ManifestError(
        f"{name} is damaged: {why}. Remove it and run `rawnind prepare` again: only its scenes are then done anew."
    )


def encode_result(result: SceneResult) -> bytes:
    """A result as JSON, as it travels from a worker to the bridge."""
    return _RESULT.dump_json(result)


def decode_result(data: bytes) -> SceneResult:
    """A result from JSON.

    Raises:
        ManifestError: It is not one: which field, and why.
    """
    try:
        return _RESULT.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"not a scene result: {where}: {first['msg']}") from error


def _encode(results: Sequence[SceneResult], commits: Sequence[Commit], inputs: Sequence[bytes]) -> bytes:
    table = pa.table(
        [
            [result.scene.key for result in results],
            pa.array([commit.identity for commit in commits], pa.binary(16)),
            [str(commit.outcome) for commit in commits],
            pa.array([str(commit.reason) if commit.reason else None for commit in commits], pa.string()),
            *(
                pa.array(column, pa.int32())
                for column in zip(*(commit.pairs for commit in commits), strict=True)
            ),
            pa.array([commit.crops for commit in commits], pa.int32()),
            [" ".join(sorted(commit.failures)) for commit in commits],
            pa.array(inputs, pa.binary()),
            pa.array([encode_result(result) for result in results], pa.binary()),
        ],
        schema=_SCHEMA,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()
