"""Committing in batches, merging parts and starting anew change nothing of what a run leaves behind."""

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.validate import Arrived
from rawnind.outcomes import whole_scene
from rawnind.output.journal.commits import identity
from rawnind.output.journal.journal import encode_result
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from tests.output.result_maker import RECIPE, make_scene

SCENES = [make_scene(f"s{number}", truths=number % 2, noisy=1 + number % 2) for number in range(6)]
PLAN = make_plan(SCENES, SceneFilter(), RECIPE)
REASONS = [Reason.ALIGNMENT_LOSS, Reason.TRUNCATED]


def arrived(number):
    result = whole_scene(SCENES[number], RECIPE, REASONS[number % 2])
    return Arrived(key=SCENES[number].key, data=encode_result(result))


def opened(folder):
    bridge = Bridge(str(folder), "run", PLAN, max_scenes=1)
    bridge.begin()
    return bridge


def left_behind(bridge):
    snapshot = bridge.snapshot()
    summary = bridge.finish({})
    return snapshot.scenes, snapshot.pairs, bridge.contents(), summary


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(6)), twice=st.lists(st.integers(0, 5), max_size=3), cut=st.integers(0, 9),
       anew=st.booleans())  # fmt: skip
def test_batches_leave_what_single_commits_leave(tmp_path_factory, order, twice, cut, anew):
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    singly, together = opened(one), opened(other)
    for number in range(6):
        singly.commit(SCENES[number].key, arrived(number).data)
    numbers = [*order, *twice]
    together.commit_many([arrived(number) for number in numbers[:cut]])
    if anew:
        together = opened(other)
    seqs = together.commit_many([arrived(number) for number in numbers])
    assert seqs == [seqs[numbers.index(number)] for number in numbers]
    assert sorted(set(seqs)) == list(range(6))
    assert left_behind(together) == left_behind(singly)
    assert (other / "manifest.parquet").read_bytes() == (one / "manifest.parquet").read_bytes()


def test_a_batch_with_a_scene_that_nobody_planned_commits_nothing(tmp_path):
    bridge = opened(tmp_path)
    with pytest.raises(ValueError, match="not planned"):
        bridge.commit_many([arrived(0), Arrived(key="bayer/other", data=b"")])
    assert len(bridge.open_scenes()) == 6


@pytest.mark.parametrize("scene", [*SCENES[:2], make_scene("Küche +1", truths=2, noisy=3, test_reserve=True)])
def test_an_identity_is_the_hash_of_what_json_says(scene):
    photos = [[ref.sha1, ref.ground_truth, ref.iso] for ref in (*scene.ground_truths, *scene.noisy)]
    text = json.dumps([scene.key, scene.test_reserve, scene.unknown_sensor, photos, RECIPE.digest])
    assert identity(scene, RECIPE.digest) == hashlib.sha256(text.encode()).digest()[:16]
