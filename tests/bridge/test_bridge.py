"""Under any sequence of events, a bridge counts what the journal holds, and no scene is lost or committed twice."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.messages import State
from rawnind.chunks import scene_key
from rawnind.cli import main
from rawnind.errors import OutputError
from rawnind.exporters.research_yaml import export
from rawnind.feed.dataset import CropDataset
from rawnind.output.events import read_events
from rawnind.output.journal.journal import Journal, encode_result
from rawnind.output.manifest import MANIFEST, read_entries, read_head, read_summary
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.source.index import load_index
from tests.output.result_maker import commit_one

RECIPE = Recipe(crop_size=64, stride=96)


@pytest.fixture(scope="module")
def made(prepared, sample_set):
    """A plan of the whole sample, each scene's true result, and the folder that holds their shards."""
    plan = make_plan(load_index(sample_set).scenes, SceneFilter(exclude_test_reserve=True), RECIPE)
    journal = Journal(Store(str(prepared)))
    return plan, {scene.key: journal.read(scene.key) for scene in plan.selected}, prepared


def link_shards(prepared, output):
    for path in (prepared / "shards").rglob("*.parquet"):
        place = output / path.relative_to(prepared)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, place)


KEYS = st.integers(0, 10)
CHUNKS = st.sampled_from(["", "", " [1 of 2]", " [2 of 2]"])
"""What the name of a chunk adds to its scene's key; nothing where the scene is not divided."""


class BridgeMachine(RuleBasedStateMachine):
    """Valid and invalid commits, admissions and restarts in any order; the model is a dictionary of each scene's first commit."""

    plan, results, prepared = None, {}, None

    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory(prefix="rawnind-bridge-")
        self.output = Path(self.folder.name)
        link_shards(self.prepared, self.output)
        self.keys = sorted(self.results)
        self.settled = {}
        self.state = State.COLLECTING
        self.restarts = 0
        self.bridge = self.new_bridge()
        self.bridge.begin()

    def new_bridge(self):
        return Bridge(str(self.output), "run", self.plan, max_scenes=3)

    def teardown(self):
        self.folder.cleanup()

    def commit(self, key, data, becomes):
        if self.state is not State.COLLECTING:
            with pytest.raises(ValueError, match="takes no results"):
                commit_one(self.bridge, key, data)
            return
        seq = commit_one(self.bridge, key, data)
        assert seq == self.settled.setdefault(key, (len(self.settled), becomes))[0]

    @rule(number=KEYS)
    def commits_a_valid_result(self, number):
        key = self.keys[number]
        self.commit(key, encode_result(self.results[key]), self.results[key])

    @rule(
        number=KEYS,
        other=KEYS,
        fault=st.sampled_from(
            ["no JSON", "other scene", "recipe", "hash", "length", "no shard", "shift", "outcome"]
        ),
    )
    def commits_an_invalid_result(self, number, other, fault):
        key = self.keys[number]
        result = self.results[key]
        pairs = result.pairs
        taken_away = None
        if fault == "other scene":
            result = self.results[self.keys[(number + 1 + other % 10) % 11]]
        elif fault == "recipe":
            result = replace(result, recipe="0" * 16)
        elif fault in {"hash", "length", "shift"} and (shard := pairs[0].shard):
            wrong = {
                "hash": {"shard": replace(shard, sha256="0" * 64)},
                "length": {"shard": replace(shard, size=shard.size + 1)},
                "shift": {"measured": replace(pairs[0].measured, shift_y=4000)},
            }
            result = replace(result, pairs=(replace(pairs[0], **wrong[fault]), *pairs[1:]))
        elif fault == "no shard" and pairs[0].shard:
            taken_away = self.output / pairs[0].shard.path
            taken_away.rename(self.output / "away")
        else:
            kind = Outcome.REJECTED if result.outcome is Outcome.COLLECTED else Outcome.COLLECTED
            result = replace(result, outcome=kind)
        data = b"not a result" if fault == "no JSON" else encode_result(result)
        self.commit(key, data, None)
        if taken_away:
            (self.output / "away").rename(taken_away)

    @rule(number=KEYS)
    def commits_an_unplanned_scene(self, number):
        with pytest.raises(ValueError, match=r"was not planned|takes no results"):
            commit_one(self.bridge, "bayer/cameraman", encode_result(self.results[self.keys[number]]))

    @rule(
        numbers=st.lists(KEYS, min_size=1, max_size=6),
        worker=st.integers(0, 2),
        incarnation=st.integers(0, 1),
        chunk=CHUNKS,
    )
    def asks_for_admission(self, numbers, worker, incarnation, chunk):
        for number in numbers:
            key = self.keys[number]
            answer = self.bridge.admit(key + chunk, (str(worker), str(incarnation)))
            if key in self.settled or self.state is not State.COLLECTING:
                assert answer is False
            else:
                assert answer in (True, None)

    @rule(number=KEYS, chunk=CHUNKS)
    def sends_a_heartbeat(self, number, chunk):
        self.bridge.heartbeat(self.keys[number] + chunk, "decode", {})

    @rule(number=KEYS, chunk=CHUNKS.filter(bool))
    def finishes_a_chunk(self, number, chunk):
        name = self.keys[number] + chunk
        self.bridge.finished_chunk(name, {"decode_done": 1})
        assert name not in {item.key for item in self.bridge.snapshot().in_flight}

    @rule()
    def restarts(self):
        self.bridge = self.new_bridge()
        self.restarts += 1

    @rule()
    def restarts_before_its_last_commit_is_logged(self):
        """Dies between a commit and its line in events.jsonl, or in the middle of that line."""
        log = self.output / "events.jsonl"
        lines = log.read_bytes().splitlines(keepends=True)
        if b'"commit"' in lines[-1]:
            log.write_bytes(b"".join(lines[:-1]) + lines[-1][: (1 + self.restarts) % 40])
        self.bridge = self.new_bridge()

    @rule()
    def finishes(self):
        if len(self.settled) < len(self.keys):
            with pytest.raises(ValueError, match="have no outcome yet"):
                self.bridge.finish({})
            return
        summary = self.bridge.finish({})
        assert summary.scenes == self.bridge.snapshot().scenes
        assert list(verify(Store(str(self.output)))) == []
        if self.state is State.COLLECTING:
            self.state = State.READY

    @precondition(lambda self: len(self.settled) > 8)
    @rule()
    def fails(self):
        self.bridge.fail("a test ends the run")
        if self.state is State.COLLECTING:
            self.state = State.ERROR

    @invariant()
    def counts_are_those_of_the_journal(self):
        snapshot = self.bridge.snapshot()
        journal = Journal(Store(str(self.output)))
        assert set(journal.latest) == set(self.settled)
        outcomes = Counter(commit.outcome for commit in journal.latest.values())
        pairs = sum(
            (Counter(dict(zip(Outcome, commit.pairs, strict=True))) for commit in journal.latest.values()),
            Counter(),
        )
        for outcome in Outcome:
            left_out = outcome is Outcome.FILTERED
            assert getattr(snapshot.scenes, outcome) == outcomes[outcome] + left_out  # one scene is reserved
            assert getattr(snapshot.pairs, outcome) == pairs[outcome] + left_out
        assert snapshot.scenes.open == len(self.keys) - len(self.settled)
        assert snapshot.crops == sum(commit.crops for commit in journal.latest.values())
        assert snapshot.next_seq == len(self.settled)

    @invariant()
    def the_first_commit_of_every_scene_stands(self):
        journal = Journal(Store(str(self.output)))
        for key, (seq, becomes) in self.settled.items():
            result = journal.read(key)
            assert journal.latest[key].seq == seq
            if becomes is None:
                assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.INVALID_RESULT)
            else:
                assert result == becomes

    @invariant()
    def the_limit_holds_and_the_state_survives_restarts(self):
        snapshot = self.bridge.snapshot()
        assert snapshot.peak_in_flight <= 3
        assert snapshot.state is self.state
        assert not {scene_key(item.key) for item in snapshot.in_flight} & set(self.settled)

    @invariant()
    def each_commit_is_logged_once(self):
        lines = [line["seq"] for line in read_events(Store(str(self.output))) if line["event"] == "commit"]
        assert len(lines) == len(set(lines))
        if self.state is State.COLLECTING:
            assert lines == list(range(len(self.settled)))


def test_a_bridge_under_any_sequence_of_events(made):
    BridgeMachine.plan, BridgeMachine.results, BridgeMachine.prepared = made
    run_state_machine_as_test(
        BridgeMachine,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_stopped_run_leaves_a_manifest_of_what_it_committed(made, tmp_path, caplog):
    plan, results, prepared = made
    link_shards(prepared, tmp_path)
    store = Store(str(tmp_path))
    first = Bridge(str(tmp_path), "first", plan, max_scenes=1)
    first.begin()
    assert not first.suspend({})
    assert not store.exists(MANIFEST)
    done = [key for key in results if key != next(iter(results))]
    for key in done:
        commit_one(first, key, encode_result(results[key]))
    assert first.suspend({})
    assert first.admit(next(iter(results))) is False
    summary = read_summary(store)
    assert read_head(store)["complete"] is False
    assert "1 of 12 scenes have no outcome yet" in summary.incomplete
    assert summary.scenes == first.snapshot().scenes
    assert summary.pairs == first.snapshot().pairs
    listed = [
        f"{entry['cfa']}/{entry['scene']}" for entry in read_entries(store) if entry["outcome"] != "filtered"
    ]
    assert sorted(listed) == sorted(done)
    assert list(verify(store)) == []
    said = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert said.exit_code == 0
    assert "the manifest is incomplete: 1 of 12 scenes" in said.stdout
    assert len(CropDataset(tmp_path, crop_size=64, split="all", input="rgb"))
    assert export(tmp_path, tmp_path / "exported").pairs
    assert caplog.text.count("the manifest is incomplete: 1 of 12 scenes") == 2
    first.close()
    second = Bridge(str(tmp_path), "second", plan, max_scenes=1)
    second.begin()
    for key in second.open_scenes():
        commit_one(second, key, encode_result(results[key]))
    assert not second.finish({}).incomplete
    assert read_head(store)["complete"] is True
    assert list(verify(store)) == []


def test_a_stopped_retry_keeps_the_results_of_scenes_that_it_did_not_reach(made, tmp_path):
    plan, results, prepared = made
    link_shards(prepared, tmp_path)
    store = Store(str(tmp_path))
    first = Bridge(str(tmp_path), "first", plan, max_scenes=1)
    first.begin()
    for key, result in results.items():
        commit_one(first, key, encode_result(result))
    complete = first.finish({})
    changed = next(key for key, result in results.items() if not result.failed_files)
    again = Bridge(
        str(tmp_path), "again", plan, max_scenes=1, retry=frozenset(Reason), changed=frozenset({changed})
    )
    assert len(again.begin()) > 2
    assert again.suspend({})
    summary = read_summary(store)
    assert summary.scenes.open == 1
    assert summary.crops == complete.crops - sum(len(pair.crops) for pair in results[changed].pairs)
    assert list(verify(store)) == []


def test_error_stays_error_and_the_next_run_collects_again(made, tmp_path):
    plan, results, prepared = made
    link_shards(prepared, tmp_path)
    first = Bridge(str(tmp_path), "first", plan, max_scenes=1)
    first.begin()
    key = next(iter(results))
    commit_one(first, key, encode_result(results[key]))
    first.fail("no more")
    for bridge in (first, Bridge(str(tmp_path), "first", plan, max_scenes=1)):
        bridge.begin()
        bridge.close()
        assert bridge.snapshot().state is State.ERROR
        assert bridge.admit(key) is False
    second = Bridge(str(tmp_path), "second", plan, max_scenes=1)
    assert second.begin() == [other for other in (scene.key for scene in plan.selected) if other != key]
    assert second.snapshot().state is State.COLLECTING


def test_a_replaced_output_folder_takes_no_commit(made, tmp_path):
    plan, results, _ = made
    (tmp_path / "out").mkdir()
    bridge = Bridge(str(tmp_path / "out"), "run", plan, max_scenes=1)
    bridge.begin()
    (tmp_path / "out").rename(tmp_path / "away")
    key = next(iter(results))
    with pytest.raises(OutputError, match="bring it back"):
        commit_one(bridge, key, encode_result(results[key]))
    assert not (tmp_path / "out").exists()


def test_shards_behind_a_link_are_no_verdict_on_their_scene(made, tmp_path):
    plan, results, _ = made
    bridge = Bridge(str(tmp_path), "run", plan, max_scenes=1)
    bridge.begin()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shards").symlink_to(tmp_path / "elsewhere")
    key = next(key for key, result in results.items() if result.outcome is Outcome.COLLECTED)
    with pytest.raises(OutputError, match="symbolic link"):
        commit_one(bridge, key, encode_result(results[key]))
    assert key in bridge.open_scenes()


def test_a_late_result_changes_nothing(made, tmp_path):
    """A worker whose scene expired and went to another worker sends its result after all."""
    plan, results, prepared = made
    link_shards(prepared, tmp_path)
    bridge = Bridge(str(tmp_path), "run", plan, max_scenes=2)
    key, other = list(results)[:2]
    assert bridge.admit(key, ("worker", "first incarnation")) is None  # workers start before the run begins
    bridge.begin()
    assert bridge.admit(key, ("worker", "first incarnation"))
    assert bridge.admit(other, ("worker", "second incarnation"))  # the worker was restarted
    assert [item.key for item in bridge.snapshot().in_flight] == [other]
    assert bridge.admit(key, ("another", "incarnation"))
    assert commit_one(bridge, key, encode_result(results[key])) == 0
    assert commit_one(bridge, key, b"not a result") == 0
    assert bridge.snapshot().scenes.failed == 0


def test_workers_that_start_and_finish_no_scene_are_counted_until_one_is_finished(made, tmp_path):
    plan, results, prepared = made
    link_shards(prepared, tmp_path)
    bridge = Bridge(str(tmp_path), "run", plan, max_scenes=2)
    bridge.begin()
    key, other = list(results)[:2]
    for incarnation in range(3):
        bridge.worker_started(("crashing", str(incarnation)))
        bridge.worker_started(("crashing", str(incarnation)))  # repeated because the answer was lost
        bridge.worker_started((f"other {incarnation}", "only"))  # another worker is no crash of this one
    assert bridge.snapshot().startup_crashes == 2
    bridge.admit(key, ("other 0", "only"))
    assert bridge.snapshot().startup_crashes == 2
    commit_one(bridge, key, encode_result(results[key]))
    assert bridge.snapshot().startup_crashes == 0
    for incarnation in range(3, 6):
        bridge.worker_started(("crashing", str(incarnation)))
    assert bridge.snapshot().startup_crashes == 2
    bridge.admit(other, ("crashing", "5"))
    assert bridge.snapshot().startup_crashes == 0
