"""The journal: after any sequence of commits and restarts it returns what was committed; damage is detected."""

import hashlib
import io
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rawnind.errors import ManifestError
from rawnind.outcomes import whole_scene_result
from rawnind.output.atomic_file import TEMPORARY
from rawnind.output.journal.commits import OUTCOMES
from rawnind.output.journal.journal import (
    Commit,
    Journal,
    Merging,
    commit_of,
    decode_result,
    encode_result,
    identity,
)
from rawnind.output.store import Store
from rawnind.reasons import Outcome, Reason
from tests.output.result_maker import RECIPE, make_result, make_scene, results

NAMES = ("a", "b", "c")
EAGER = Merging(few=2, many=3, small=3000, large=5000)
"""Merges after a handful of commits."""


@given(result=results())
def test_a_result_survives_json(result):
    assert decode_result(encode_result(result)) == result


@given(result=results())
def test_a_commit_counts_what_the_result_holds(result):
    commit = commit_of(result, 7)
    assert (commit.seq, commit.outcome, commit.reason) == (7, result.outcome, result.reason)
    assert dict(zip(Outcome, commit.pairs, strict=True)) == {
        outcome: sum(pair.outcome is outcome for pair in result.pairs) for outcome in Outcome
    }
    assert commit.crops == sum(len(pair.crops) for pair in result.pairs)
    failed = {pair.reason for pair in result.pairs if pair.outcome is Outcome.FAILED}
    assert commit.failures >= failed | {file.reason for file in result.failed_files}
    assert all(reason.outcome is Outcome.FAILED for reason in commit.failures)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[1]", b"nonsense", b"\xff", b'{"scene": {"name": "a"}}']
)
def test_what_is_no_result_says_which_field(data):
    with pytest.raises(ManifestError, match="not a scene result"):
        decode_result(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"outcome":"collected"', b'"outcome":"perfect"'),
        (b'"crops":[', b'"crops":[{"y":-1},'),
        (b'"gain":1.25', b'"gain":-1.25'),
        (b'"mask_mean":0.97', b'"mask_mean":1.5'),
        (b'"msssim":0.9', b'"msssim":NaN'),
        (b'"shift_y":3', b'"shift_y":3.5'),
        (b'"shift_y":3', b'"shift_y":"3"'),
        (b'"test_reserve":false', b'"test_reserve":0'),
        (b'"sha256":"0000', b'"sha256":"zzzz'),
        (b'"name":"kitchen"', b'"name":"../kitchen"'),
        (b'"detail":""', b'"detail":"","extra":1'),
    ],
)
def test_values_outside_of_their_range_are_no_result(old, new):
    data = encode_result(make_result(make_scene()))
    assert old in data
    with pytest.raises(ManifestError, match="not a scene result"):
        decode_result(data.replace(old, new))


def test_identity_follows_the_photos_the_flags_and_the_recipe_and_not_the_place():
    scene = make_scene(truths=2)
    one = identity(scene, "recipe")
    moved = replace(scene, noisy=tuple(replace(ref, path="/moved", filename="x") for ref in scene.noisy))
    assert identity(moved, "recipe") == one
    others = [
        identity(scene, "another"),
        identity(make_scene(truths=1), "recipe"),
        identity(make_scene("another", truths=2), "recipe"),
        identity(replace(scene, test_reserve=True), "recipe"),
        identity(replace(scene, unknown_sensor=True), "recipe"),
        identity(replace(scene, ground_truths=scene.ground_truths[:1]), "recipe"),
        identity(replace(scene, noisy=(replace(scene.noisy[0], iso=1), *scene.noisy[1:])), "recipe"),
        identity(replace(scene, noisy=scene.ground_truths, ground_truths=scene.noisy), "recipe"),
    ]
    assert len({one, *others}) == len(others) + 1


class JournalMachine(RuleBasedStateMachine):
    """Beside a journal, a plain list of everything that was committed."""

    folder = None

    def __init__(self):
        super().__init__()
        JournalMachine.count += 1
        self.store = Store(str(self.folder / str(self.count)))
        self.journal = self.opened()
        self.committed = []

    def opened(self):
        return Journal(self.store, EAGER)

    count = 0

    @rule(
        batch=st.lists(
            st.sampled_from(NAMES).flatmap(lambda name: results(name=name)), min_size=1, max_size=3
        )
    )
    def commit(self, batch):
        first = len(self.committed)
        commits = self.journal.append(batch)
        assert [commit.seq for commit in commits] == list(range(first, first + len(batch)))
        self.committed += batch

    @rule()
    def restart(self):
        self.journal = self.opened()

    @rule()
    def merge_small_parts(self):
        self.journal.compact()

    @rule(kept=st.integers(0, 7), again=st.booleans())
    def crash_while_merging(self, kept, again):
        """The merged parts are there, and so are some of those that they were made from."""
        before = {entry.path: self.store.read(entry.path) for entry in self.store.list("parts")}
        self.journal.compact()
        for name in list(before)[kept:]:
            self.store.write(name, before[name], replace=True)
        self.journal = self.opened()
        if again:
            self.journal.compact()
            names = parts(self.store)
            assert sum(int(name.split("-")[1]) for name in names if TEMPORARY not in name) == len(
                self.committed
            )

    @rule()
    def crash_while_writing(self):
        self.store.write(f"parts/{TEMPORARY}0123", b"half of a par", replace=True)
        self.journal = self.opened()

    @invariant()
    def it_says_what_was_committed(self):
        last = {result.scene.key: (seq, result) for seq, result in enumerate(self.committed)}
        assert self.journal.next_seq == len(self.committed)
        assert self.journal.latest == {key: commit_of(result, seq) for key, (seq, result) in last.items()}
        assert self.journal.gaps == []
        fates = Counter(result.outcome for _, result in last.values())
        rows = self.journal.latest.all_rows()
        assert Counter(OUTCOMES[place] for place in rows["outcome"]) == fates

    @rule(start=st.integers(0, 12))
    def since(self, start):
        last = {result.scene.key: seq for seq, result in enumerate(self.committed)}
        expected = [
            (seq, result)
            for seq, result in enumerate(self.committed)
            if seq >= start and last[result.scene.key] == seq
        ]
        assert list(self.journal.since(start)) == expected

    @rule()
    def read(self):
        for key in self.journal.latest:
            assert self.journal.read(key) == [r for r in self.committed if r.scene.key == key][-1]
        for seq, result in enumerate(self.committed):
            assert self.journal.at(seq) == result


def test_the_journal_holds_what_was_committed_under_any_sequence_of_events(tmp_path):
    JournalMachine.folder = tmp_path
    machine = JournalMachine.TestCase
    machine.settings = settings(max_examples=40, stateful_step_count=12, deadline=None,
                                suppress_health_check=list(HealthCheck))  # fmt: skip
    machine().runTest()


@pytest.fixture
def filled(store):
    """A store with a journal of four parts."""
    journal = Journal(store)
    for name in ("a", "b", "c", "d"):
        journal.append([make_result(make_scene(name))])
    return store


def parts(store):
    return [entry.path for entry in store.list("parts")]


def test_a_part_is_named_by_its_place_count_and_hash(filled):
    assert [name.split("/")[1][:13] for name in parts(filled)] == [f"{n:010d}-1-" for n in range(4)]
    assert all(filled.digest(name)[:16] == name[-24:-8] for name in parts(filled))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_any_part_is_found(filled, data):
    name = data.draw(st.sampled_from(parts(filled)))
    before = filled.read(name)
    place = data.draw(st.integers(0, len(before) - 1))
    changed = before[:place] + bytes([before[place] ^ data.draw(st.integers(1, 255))]) + before[place + 1 :]
    filled.write(name, changed, replace=True)
    with pytest.raises(ManifestError, match=f"{name} is damaged"):
        Journal(filled)
    filled.write(name, before, replace=True)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_part_that_was_cut_is_found(filled, length):
    name = parts(filled)[1]
    filled.write(name, filled.read(name)[:length], replace=True)
    with pytest.raises(ManifestError, match="Remove it and run `rawnind prepare` again"):
        Journal(filled)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("0000000001-1", "0000000001-2"),
        lambda name: name.replace("0000000001-1", "0000000000-1"),
        lambda name: name.replace("0000000001-1", "0000000003-1"),
        lambda name: name[:-9] + ("0" if name[-9] != "0" else "1") + ".parquet",
        lambda name: name.replace("parts/", "parts/copy of "),
        lambda _: "parts/part.parquet",
    ],
)
def test_a_part_that_was_renamed_is_found(filled, rename):
    name = parts(filled)[1]
    data = filled.read(name)
    filled.remove(name)
    filled.write(rename(name), data)
    with pytest.raises(ManifestError, match=r"parts/.*parquet"):
        Journal(filled)


def test_a_part_that_is_there_twice_is_found(filled):
    name = parts(filled)[1]
    filled.write(name.replace("0000000001", "0000000004"), filled.read(name))
    assert Journal(filled).latest["bayer/b"].seq == 4  # the same scene committed anew is no contradiction
    filled.write(name.replace("0000000001", "0000000002"), filled.read(name))
    with pytest.raises(ManifestError, match="come before it"):
        Journal(filled)


def test_a_removed_part_costs_its_scenes_alone_and_is_known_as_a_gap(filled):
    for name in parts(filled)[1:3]:
        filled.remove(name)
    journal = Journal(filled)
    assert set(journal.latest) == {"bayer/a", "bayer/d"}
    assert journal.gaps == [(1, 3)]
    (commit,) = journal.append([make_result(make_scene("b"))])
    assert commit.seq == 4
    assert Journal(filled).latest == journal.latest
    assert journal.read("bayer/b").scene.name == "b"
    assert [seq for seq, _ in journal.since(0)] == [0, 3, 4]


def test_a_part_that_goes_away_meanwhile_is_a_manifest_error(filled):
    journal = Journal(filled)
    for name in parts(filled):
        filled.remove(name)
    with pytest.raises(ManifestError, match="does not exist any more"):
        journal.read("bayer/a")


def test_files_that_are_no_parts_are_left_alone(filled):
    filled.write("parts/.DS_Store", b"")
    filled.write("parts/notes.txt", b"")
    assert len(Journal(filled).latest) == 4


def test_a_part_of_another_version_is_no_part_of_this_one(filled):
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"]}), sink)
    data = sink.getvalue()
    filled.write(f"parts/0000000004-1-{hashlib.sha256(data).hexdigest()[:16]}.parquet", data)
    with pytest.raises(ManifestError, match="damaged"):
        Journal(filled)


def test_what_was_never_committed_is_a_key_error(filled):
    with pytest.raises(KeyError):
        Journal(filled).read("bayer/z")


def test_a_given_up_scene_keeps_its_reason(tmp_path):
    journal = Journal(Store(str(tmp_path)))
    journal.append([whole_scene_result(make_scene(), RECIPE, Reason.WORKER_DIED)])
    commit = Journal(Store(str(tmp_path))).latest["bayer/kitchen"]
    assert isinstance(commit, Commit)
    assert (commit.reason, commit.failures) == (Reason.WORKER_DIED, frozenset({Reason.WORKER_DIED}))
