"""The last commit of every scene in memory, in about a hundred bytes per scene."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rawnind.reasons import Outcome, Reason
from rawnind.records import Scene, SceneResult

OUTCOMES = tuple(Outcome)
REASONS = tuple(Reason)

ROW = np.dtype(
    [
        ("seq", "<i8"),
        ("identity", "V16"),
        ("outcome", "u1"),  # place in OUTCOMES
        ("reason", "i1"),  # place in REASONS; -1: none
        *((str(outcome), "<i4") for outcome in OUTCOMES),
        ("crops", "<i4"),
        ("failures", "<u8"),  # bit n: REASONS[n]
    ]
)
"""A commit in an array. `seq` is -1 where there is none."""

Rows = npt.NDArray[np.void]
"""(N,) of ROW."""

_RECENT = 1 << 15
"""New commits in a dict, of some 150 bytes each, before they are merged into the sorted array."""


class Commit(NamedTuple):
    """What the journal keeps in memory of a scene's last commit; the rest is read on demand.

    Attributes:
        seq: sequence number, from 0.
        identity: digest of the scene's photos and the recipe (see `identity`).
        outcome: the scene's outcome.
        reason: the scene's reason; None when collected.
        pairs: how many pairs ended with each outcome, in the order of `Outcome`.
        crops: the scene's number of crops.
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
    """The commit of a result."""
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
    """A digest (16 bytes) of the scene's photos, its flags and the recipe; where the files are does not change it."""
    photos = ", ".join(
        f'["{ref.sha1}", {_JSON[ref.ground_truth]}, {"null" if ref.iso is None else ref.iso}]'
        for ref in (*scene.ground_truths, *scene.noisy)
    )
    flags = f"{_JSON[scene.test_reserve]}, {_JSON[scene.unknown_sensor]}"
    text = f"[{encode_basestring_ascii(scene.key)}, {flags}, [{photos}], {encode_basestring_ascii(recipe)}]"
    return hashlib.sha256(text.encode()).digest()[:16]


_JSON = {True: "true", False: "false"}


def failure_bits(reasons: Iterable[Reason]) -> int:
    """The `failures` of a row."""
    return sum(1 << REASONS.index(reason) for reason in set(reasons))


def row_of(commit: Commit) -> tuple[Any, ...]:
    """A commit as a row of ROW."""
    reason = REASONS.index(commit.reason) if commit.reason else -1
    return (
        commit.seq,
        commit.identity,
        OUTCOMES.index(commit.outcome),
        reason,
        *commit.pairs,
        commit.crops,
        failure_bits(commit.failures),
    )


def commit_from(row: np.void) -> Commit:
    """The commit of a row of ROW."""
    seq, name, outcome, reason, *pairs, crops, failures = row.item()
    return Commit(
        seq,
        bytes(name),
        OUTCOMES[outcome],
        REASONS[reason] if reason >= 0 else None,
        tuple(pairs),
        crops,
        frozenset(each for place, each in enumerate(REASONS) if failures >> place & 1)
        if failures
        else frozenset(),
    )


class LastCommits(Mapping[str, Commit]):
    """Key of a scene -> its last commit.

    Keys are kept as 16-byte digests in a sorted array, commits in another, in commit order. A million scenes take 99 MB; a dict of
    `Commit` takes 632 MB and five times as long to load.

    Args:
        keys: the keys that were ever committed, oldest first, as lists with the sequence number of their first; read
            on demand.
    """

    def __init__(self, keys: Callable[[], Iterable[tuple[int, list[str]]]]) -> None:
        self._keys = keys
        self._rows: Rows = np.zeros(0, ROW)
        self._used = 0
        self._digests: npt.NDArray[np.bytes_] = np.zeros(0, "S16")
        self._places: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._recent: dict[bytes, int] = {}

    def add(self, keys: Sequence[str], rows: Rows) -> None:
        """Adds commits; the later of two with the same key counts."""
        end = self._used + len(rows)
        if end > len(self._rows):
            self._rows.resize(max(end, len(self._rows) * 5 // 4), refcheck=False)
        self._rows[self._used : end] = rows
        self._recent.update(zip(map(_digest, keys), range(self._used, end), strict=True))
        self._used = end
        if len(self._recent) > _RECENT:
            self._sort()

    def _sort(self) -> None:
        new = np.array(list(self._recent), "S16")
        places = np.fromiter(self._recent.values(), np.int32, len(new))
        order = np.argsort(new)
        new, places = new[order], places[order]
        at, known = self._find(new)
        self._places[at[known]] = places[known]
        self._digests = np.insert(self._digests, at[~known], new[~known])
        self._places = np.insert(self._places, at[~known], places[~known])
        self._recent = {}

    def _find(self, digests: npt.NDArray[np.bytes_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Positions of digests in the sorted array (or where they would be inserted), and which of them are in it."""
        at = np.searchsorted(self._digests, digests)
        if not len(self._digests):
            return at, np.zeros(len(digests), bool)
        return at, self._digests[np.minimum(at, len(self._digests) - 1)] == digests

    def rows(self, keys: Iterable[str]) -> Rows:
        """The last commit of each of many scenes, as (N,) of ROW; `seq` is -1 where there is none."""
        digests = [_digest(key) for key in keys]
        recent = np.fromiter((self._recent.get(digest, -1) for digest in digests), np.int64, len(digests))
        at, known = self._find(np.array(digests, "S16"))
        known &= recent < 0
        recent[known] = self._places[at[known]]
        found = np.zeros(len(at), ROW)
        found["seq"] = -1
        found[recent >= 0] = self._rows[recent[recent >= 0]]
        return found

    def all_rows(self) -> Rows:
        """The last commit of every scene, as (N,) of ROW, in no particular order."""
        if self._recent:
            self._sort()
        return self._rows[self._places]

    def __getitem__(self, key: str) -> Commit:
        digest = _digest(key)
        place = self._recent.get(digest)
        if place is None:
            at, known = self._find(np.array([digest], "S16"))
            if not known[0]:
                raise KeyError(key)
            place = int(self._places[at[0]])
        return commit_from(self._rows[place])

    def __iter__(self) -> Iterator[str]:
        for first, keys in self._keys():
            last = self.rows(keys)["seq"] == np.arange(first, first + len(keys))
            yield from (keys[place] for place in np.flatnonzero(last))

    def __len__(self) -> int:
        if self._recent:
            self._sort()
        return len(self._digests)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
