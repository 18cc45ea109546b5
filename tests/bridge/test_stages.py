"""Counts of photos and pairs by stage: every planned one is counted once, from the first heartbeat to the last commit."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.ledger import OutcomeGroup, estimated_counts
from rawnind.bridge.stages import Stage, StageTally, chunk_counts, result_counts
from rawnind.chunks import Chunk, merged
from rawnind.errors import OutputError
from rawnind.outcomes import scene_result, uncollected_pair, whole_scene_result
from rawnind.output.journal.journal import commit_of, encode_result
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import FailedFile
from tests.output.result_maker import commit_one, make_scene

NUMBERS = ("waiting", "running", "done", "rejected", "failed")


@given(data=st.data())
def test_rows_of_stages_count_every_planned_photo_and_pair_once(data):
    scenes = [make_scene(f"s{number}", noisy=data.draw(st.integers(0, 3))) for number in range(4)]
    pairs = sum(len(each.noisy) for each in scenes)
    tally = StageTally(photos=pairs + 4, pairs=pairs)
    recipe = Recipe()
    for each in scenes:
        done = data.draw(st.integers(0, len(each.noisy)))
        tally.report(
            each.key, {"decode_done": done + 1, "align_done": done, "mask_done": done, "write_done": done}
        )
        check_rows(tally.counts([data.draw(st.sampled_from(Stage))]), pairs)
        reasons = [reason for reason in Reason if reason.outcome is not Outcome.FILTERED]
        if data.draw(st.booleans()):
            result = whole_scene_result(each, recipe, data.draw(st.sampled_from(reasons)))
        else:
            results = [
                uncollected_pair(noisy, each.ground_truths[0], data.draw(st.sampled_from(reasons)))
                for noisy in each.noisy
            ]
            lost = data.draw(st.lists(st.sampled_from(each.noisy), unique=True)) if each.noisy else []
            files = [FailedFile(photo=photo, reason=Reason.TRUNCATED, detail="") for photo in lost]
            result = scene_result(each, recipe, results, files)
        tally.settle(result)
        assert sum(result_counts(result)[f"decode_{kind}"] for kind in NUMBERS[2:]) == len(each.noisy) + 1
    final = tally.counts([])
    check_rows(final, pairs)
    assert all(row.waiting == row.running == 0 for row in final)


def check_rows(found, pairs):
    decode, *others = found
    assert decode.waiting + decode.running + decode.done + decode.rejected + decode.failed == pairs + 4
    gone = 0
    for row in others:
        assert row.waiting + row.running + row.done + row.rejected + row.failed == pairs - gone
        gone += row.rejected + row.failed


def test_a_restarted_bridge_shows_the_same_stages(tmp_path):
    scenes = [make_scene(f"s{number}") for number in range(3)]
    plan = make_plan(scenes, SceneFilter(), Recipe())
    bridge = Bridge(str(tmp_path), "run", plan, max_scenes=2)
    bridge.begin()
    commit_one(bridge, "bayer/s0", encode_result(whole_scene_result(scenes[0], plan.recipe, Reason.TIMEOUT)))
    again = Bridge(str(tmp_path), "run", plan, max_scenes=2)
    assert again.snapshot().stages == bridge.snapshot().stages
    later = Bridge(str(tmp_path), "another run", plan, max_scenes=2)
    assert [row.waiting for row in later.snapshot().stages] == [6, 4, 4, 4]


@given(data=st.data())
def test_the_counts_of_a_commit_leave_out_no_photo_and_no_pair(data):
    each = make_scene("tea", noisy=data.draw(st.integers(1, 5)))
    reasons = st.sampled_from([reason for reason in Reason if reason.outcome is not Outcome.FILTERED])
    pairs = [uncollected_pair(noisy, each.ground_truths[0], data.draw(reasons)) for noisy in each.noisy]
    result = scene_result(each, Recipe(), pairs)
    pairs_of = commit_of(result, 0).pairs
    estimate = estimated_counts(
        OutcomeGroup(each.cfa, result.outcome, result.reason, pairs_of, len(each.noisy) + 1, this_run=True)
    )
    exact = result_counts(result)
    assert sum(estimate[f"decode_{kind}"] for kind in NUMBERS[2:]) == len(each.noisy) + 1
    for outcome in (Outcome.REJECTED, Outcome.FAILED):
        assert (
            estimate[f"align_{outcome}"] + estimate[f"mask_{outcome}"]
            == exact[f"align_{outcome}"] + exact[f"mask_{outcome}"]
        )


@given(data=st.data())
def test_chunks_of_a_scene_count_each_photo_and_pair_once(data):
    count = data.draw(st.integers(2, 4))
    whole = make_scene("tea", noisy=count + data.draw(st.integers(0, 4)))
    reasons = st.sampled_from([reason for reason in Reason if reason.outcome is not Outcome.FILTERED])
    damaged = data.draw(st.booleans())
    results = []
    for number in range(count):
        part = Chunk(scene=whole, number=number, count=count).part
        pairs = [uncollected_pair(noisy, part.ground_truths[0], data.draw(reasons)) for noisy in part.noisy]
        truth = FailedFile(photo=part.ground_truths[0], reason=Reason.TRUNCATED, detail="")
        lost = FailedFile(photo=part.noisy[0], reason=Reason.TRUNCATED, detail="")
        results.append(scene_result(part, Recipe(), pairs, [lost, *([truth] if damaged else [])]))
    chunks = sum((chunk_counts(result, number) for number, result in enumerate(results)), Counter())
    assert chunks == +result_counts(merged(whole, Recipe(), results))


def test_a_finished_chunk_is_shown_until_its_scene_is_committed_and_leaves_room_for_another(tmp_path):
    scene = make_scene("s0", noisy=4)
    bridge = Bridge(str(tmp_path), "run", make_plan([scene], SceneFilter(), Recipe()), max_scenes=1)
    bridge.begin()
    first, second = (chunk.name for chunk in (Chunk(scene=scene, number=n, count=2) for n in range(2)))
    assert bridge.admit(first)
    assert bridge.admit(second) is None
    bridge.finished_chunk(first, {"decode_done": 3, "align_done": 2, "mask_done": 2, "write_done": 2})
    assert bridge.admit(second)
    bridge.heartbeat(second, "mask", {"decode_done": 1})
    assert [(row.waiting, row.done) for row in bridge.snapshot().stages] == [(1, 4), (2, 2), (1, 2), (2, 2)]
    commit_one(bridge, scene.key, encode_result(whole_scene_result(scene, Recipe(), Reason.TIMEOUT)))
    assert bridge.snapshot().in_flight == ()
    assert [(row.waiting, row.done) for row in bridge.snapshot().stages] == [(0, 0)] * 4


def test_a_run_that_misses_finished_chunks_says_so(tmp_path):
    large, small = make_scene("large", noisy=25), make_scene("small")
    for scenes, error, sentence in (
        ([large], OutputError, "finished chunks of bayer/large are gone from .*; run the same command again"),
        ([large, small], ValueError, "2 planned scenes have no outcome yet"),
    ):
        plan = make_plan(scenes, SceneFilter(), Recipe())
        bridge = Bridge(str(tmp_path), f"run{len(scenes)}", plan, max_scenes=1)
        bridge.begin()
        with pytest.raises(error, match=sentence):
            bridge.finish({})


def test_heartbeats_move_the_stages_before_anything_is_committed(tmp_path):
    scenes = [make_scene(f"s{number}") for number in range(3)]
    bridge = Bridge(str(tmp_path), "run", make_plan(scenes, SceneFilter(), Recipe()), max_scenes=2)
    bridge.begin()
    assert bridge.admit("bayer/s0")
    bridge.heartbeat("bayer/s0", "mask: compiling", {"decode_done": 2, "align_done": 1})
    decode, align, mask, write = bridge.snapshot().stages
    assert (decode.waiting, decode.done) == (7, 2)
    assert (align.waiting, align.done) == (5, 1)
    assert (mask.waiting, mask.running) == (5, 1)
    assert (write.waiting, write.done) == (6, 0)
