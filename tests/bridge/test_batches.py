"""Commits in batches, merged parts and restarts change nothing in the output."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawnind.bridge.actor import BridgeActor
from rawnind.bridge.bridge import Bridge
from rawnind.bridge.messages import Submission
from rawnind.bridge.observer import Observer
from rawnind.outcomes import whole_scene_result
from rawnind.output.journal.commits import identity
from rawnind.output.journal.journal import encode_result
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from tests.output.result_maker import RECIPE, commit_one, make_scene
from tests.polling import poll

SCENES = [make_scene(f"s{number}", truths=number % 2, noisy=1 + number % 2) for number in range(6)]
PLAN = make_plan(SCENES, SceneFilter(), RECIPE)
REASONS = [Reason.ALIGNMENT_LOSS, Reason.TRUNCATED]


def submission(number):
    result = whole_scene_result(SCENES[number], RECIPE, REASONS[number % 2])
    return Submission(key=SCENES[number].key, data=encode_result(result))


def collecting_bridge(folder):
    bridge = Bridge(str(folder), "run", PLAN, max_scenes=1)
    bridge.begin()
    return bridge


def finished(bridge):
    snapshot = bridge.snapshot()
    summary = bridge.finish({})
    return snapshot.scenes, snapshot.pairs, bridge.contents(), summary


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(6)), twice=st.lists(st.integers(0, 5), max_size=3), cut=st.integers(0, 9),
       restart=st.booleans())  # fmt: skip
def test_batches_give_the_same_output_as_single_commits(tmp_path_factory, order, twice, cut, restart):
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    singly, together = collecting_bridge(one), collecting_bridge(other)
    for number in range(6):
        commit_one(singly, SCENES[number].key, submission(number).data)
    numbers = [*order, *twice]
    together.commit([submission(number) for number in numbers[:cut]])
    if restart:
        together = collecting_bridge(other)
    seqs = together.commit([submission(number) for number in numbers])
    assert seqs == [seqs[numbers.index(number)] for number in numbers]
    assert sorted(set(seqs)) == list(range(6))
    assert finished(together) == finished(singly)
    assert (other / "manifest.parquet").read_bytes() == (one / "manifest.parquet").read_bytes()


def test_a_batch_with_an_unplanned_scene_commits_nothing(tmp_path):
    bridge = collecting_bridge(tmp_path)
    with pytest.raises(ValueError, match="not planned"):
        bridge.commit([submission(0), Submission(key="bayer/other", data=b"")])
    assert len(bridge.open_scenes()) == 6


class Pausing(Observer):
    """Waits within the first commit until the test goes on."""

    def __init__(self):
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def committed(self, result, telemetry):
        self.begun.set()
        assert self.goes_on.wait(20)


def submitted_meanwhile(folder, submissions):
    """A bridge that has committed one scene, and to which others were submitted while it did; what their callers got."""
    pausing = Pausing()
    bridge = BridgeActor(str(folder), "run", PLAN, max_scenes=1, observer=pausing)
    bridge.begin()
    with ThreadPoolExecutor(8) as pool:
        pool.submit(bridge.submit, [submission(0)])
        assert pausing.begun.wait(20)
        waiting = [pool.submit(bridge.submit, [each]) for each in submissions]
        poll(lambda: len(bridge._submitted) + sum(each.done() for each in waiting) == len(waiting))
        pausing.goes_on.set()
    return bridge, [each.exception() for each in waiting]


def test_results_that_arrive_while_a_commit_is_written_are_committed_together(tmp_path_factory):
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    singly = collecting_bridge(one)
    for number in range(6):
        commit_one(singly, SCENES[number].key, submission(number).data)
    bridge, errors = submitted_meanwhile(other, list(map(submission, (1, 2, 3, 4, 5, 1))))
    assert errors == [None] * 6
    assert len(list((other / "parts").iterdir())) == 2
    assert finished(bridge) == finished(singly)


def test_a_caller_gets_no_error_only_where_its_result_is_committed(tmp_path):
    foreign = Submission(key="bayer/other", data=b"")
    bridge, errors = submitted_meanwhile(tmp_path, [*map(submission, range(1, 6)), foreign])
    committed = {scene.key for scene in SCENES} - set(bridge.open_scenes())
    assert {SCENES[n].key for n, error in enumerate(errors[:5], 1) if error is None} <= committed
    assert isinstance(errors[5], ValueError)
    assert len(committed) >= 5


@pytest.mark.parametrize("scene", [*SCENES[:2], make_scene("Küche +1", truths=2, noisy=3, test_reserve=True)])
def test_an_identity_is_the_hash_of_the_scenes_json(scene):
    photos = [[ref.sha1, ref.ground_truth, ref.iso] for ref in (*scene.ground_truths, *scene.noisy)]
    text = json.dumps([scene.key, scene.test_reserve, scene.unknown_sensor, photos, RECIPE.digest])
    assert identity(scene, RECIPE.digest) == hashlib.sha256(text.encode()).digest()[:16]
