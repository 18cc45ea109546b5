"""The plan: every scene of the source has a place, taken or left out for a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.outcomes import planned_pairs, problems
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa
from tests.output.result_maker import RECIPE, make_scene

scenes = st.lists(
    st.builds(make_scene, st.sampled_from("abcdef"), st.sampled_from(Cfa), truths=st.integers(0, 2),
              noisy=st.integers(0, 2), test_reserve=st.booleans()),
    max_size=8, unique_by=lambda scene: scene.key,
)  # fmt: skip
selections = st.builds(
    SceneFilter,
    cfa=st.none() | st.sampled_from(Cfa),
    exclude_test_reserve=st.booleans(),
    limit=st.none() | st.integers(1, 4),
)


@given(found=scenes, selection=selections)
def test_every_scene_is_taken_or_left_out_for_the_right_reason(found, selection):
    plan = make_plan(found, selection, RECIPE)
    assert sorted(scene.key for scene in plan.scenes) == sorted(scene.key for scene in found)
    assert list(plan.scenes) == sorted(found, key=lambda scene: (scene.name, scene.cfa))
    wanted = [
        scene
        for scene in plan.scenes
        if selection.cfa in {None, scene.cfa} and not (selection.exclude_test_reserve and scene.test_reserve)
    ]
    assert list(plan.selected) == wanted[: selection.limit]
    for scene in plan.scenes:
        reason = plan.left_out.get(scene.key)
        if reason is Reason.CFA_FILTER:
            assert scene.cfa is not selection.cfa
        elif reason is Reason.TEST_RESERVE:
            assert scene.test_reserve
        elif reason is Reason.SCENE_FILTER:
            assert scene in wanted[selection.limit :]
        else:
            assert scene in plan.selected


@given(found=scenes, selection=selections, order=st.randoms())
def test_the_order_of_the_source_changes_nothing(found, selection, order):
    plan = make_plan(found, selection, RECIPE)
    order.shuffle(found)
    assert make_plan(found, selection, RECIPE) == plan


@given(found=scenes, selection=selections)
def test_what_is_left_out_is_counted_with_all_its_pairs(found, selection):
    plan = make_plan(found, selection, RECIPE)
    assert plan.pair_count == sum(len(planned_pairs(scene, RECIPE.pairing)) for scene in found)
    for scene in plan.scenes:
        if scene.key in plan.left_out:
            result = plan.filtered(scene)
            assert result.outcome is Outcome.FILTERED
            assert result.reason is plan.left_out[scene.key]
            assert len(result.pairs) == len(scene.noisy)
            assert {pair.outcome for pair in result.pairs} <= {Outcome.FILTERED}
            assert "it filtered a scene that was selected" in problems(result, scene, RECIPE)


def test_a_scene_that_is_there_twice_is_refused():
    one = make_scene("a")
    with pytest.raises(ValueError, match="bayer/a"):
        make_plan([one, replace(one, test_reserve=True)], SceneFilter(), RECIPE)
    assert len(make_plan([one, make_scene("a", Cfa.X_TRANS)], SceneFilter(), RECIPE).scenes) == 2
