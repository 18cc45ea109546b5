"""The rules for outcomes, and that no lie in a worker's answer passes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.errors import SourceError
from rawnind.measurements import Measurements
from rawnind.outcomes import (
    failed_file,
    partners,
    planned_pairs,
    problems,
    scene_result,
    uncollected_pair,
    whole_scene_result,
)
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Pairing, Recipe
from rawnind.records import Cfa
from tests.output.result_maker import (
    FAULTS,
    RECIPE,
    collected,
    make_result,
    make_scene,
    make_sensor,
    photo,
    results,
)

scenes = st.builds(make_scene, cfa=st.sampled_from(Cfa), truths=st.integers(0, 4), noisy=st.integers(0, 4))


@given(scene=scenes)
def test_best_plans_one_pair_for_each_noisy_photo(scene):
    planned = planned_pairs(scene, Pairing.BEST)
    assert [noisy for noisy, _ in planned] == list(scene.noisy)
    settled = scene.ground_truths[0] if len(scene.ground_truths) == 1 else None
    assert {truth for _, truth in planned} <= {settled}


@given(scene=scenes)
def test_all_plans_every_combination_and_counts_photos_without_a_partner(scene):
    planned = planned_pairs(scene, Pairing.ALL)
    assert len(set(planned)) == len(planned) == len(scene.noisy) * max(1, len(scene.ground_truths))


@pytest.mark.parametrize("pairing", Pairing)
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_photo_is_never_paired_with_itself(pairing, others):
    scene = make_scene(truths=1 + others, noisy=1)
    same = replace(scene.ground_truths[0], ground_truth=False)
    scene = replace(scene, noisy=(same,))
    assert scene.ground_truths[0] not in partners(scene, same)
    for _, truth in planned_pairs(scene, pairing):
        assert truth is None or truth.sha1 != same.sha1
    assert len(planned_pairs(scene, pairing)) == (max(1, others) if pairing is Pairing.ALL else 1)


@given(result=results())
def test_a_sound_result_has_no_problems(result):
    assert list(problems(result, result.scene, RECIPE)) == []


@given(scene=scenes, reason=st.sampled_from([r for r in Reason if r.outcome is Outcome.FAILED]),
       pairing=st.sampled_from(Pairing))  # fmt: skip
def test_a_given_up_scene_has_one_outcome_and_no_problems(scene, reason, pairing):
    recipe = Recipe(pairing=pairing)
    result = whole_scene_result(scene, recipe, reason, "why")
    assert (result.outcome, result.reason, result.detail) == (Outcome.FAILED, reason, "why")
    assert {pair.reason for pair in result.pairs} <= {reason}
    assert list(problems(result, scene, recipe)) == []


@given(order=st.permutations(range(4)))
def test_the_scenes_outcome_does_not_depend_on_the_order_of_its_pairs(order):
    scene = make_scene(noisy=4)
    result = make_result(
        scene, faults=(Reason.TRUNCATED, Reason.ALIGNMENT_LOSS, Reason.MISSING_FILE, Reason.EXPOSURE)
    )
    again = scene_result(scene, RECIPE, [result.pairs[n] for n in order], result.failed_files[::-1])
    assert again == result
    assert result.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("faults", "outcome"),
    [
        ((None, Reason.TRUNCATED), Outcome.COLLECTED),
        ((Reason.EXPOSURE, Reason.TRUNCATED), Outcome.FAILED),
        ((Reason.EXPOSURE, Reason.MASK_MEAN), Outcome.REJECTED),
    ],
)
def test_collected_outweighs_failed_outweighs_rejected(faults, outcome):
    assert make_result(make_scene(), faults=faults).outcome is outcome


def test_a_scene_without_a_noisy_photo_is_rejected():
    result = scene_result(make_scene(noisy=0), RECIPE, [])
    assert (result.outcome, result.reason) == (Outcome.REJECTED, Reason.NO_NOISY)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_an_outcome_other_than_collected_and_a_sentence(reason):
    assert reason.outcome is not Outcome.COLLECTED
    assert reason.sentence.endswith(".")
    assert (
        uncollected_pair(photo("a", Cfa.BAYER, 0, ground_truth=False), None, reason).detail == reason.sentence
    )


def test_a_source_error_reads_as_a_sentence_about_the_file():
    error = SourceError(Reason.TRUNCATED, "a.dng: 3 of 5 bytes")
    assert str(error) == "The file ends too early. a.dng: 3 of 5 bytes"
    ref = photo("a", Cfa.BAYER, 0, ground_truth=False)
    assert (failed_file(ref, error).reason, failed_file(ref, error).photo) == (Reason.TRUNCATED, ref)


SCENE = make_scene(truths=2, noisy=3)
OTHER = make_scene("garden", truths=1, noisy=1)
SOUND = make_result(SCENE, faults=(Reason.TRUNCATED, Reason.ALIGNMENT_LOSS))
CRACKED = next(n for n, pair in enumerate(SOUND.pairs) if pair.reason is Reason.TRUNCATED)
WHOLE = next(n for n, pair in enumerate(SOUND.pairs) if pair.outcome is Outcome.COLLECTED)


def with_pair(number=WHOLE, **changes):
    pairs = list(SOUND.pairs)
    pairs[number] = replace(pairs[number], **changes)
    return replace(SOUND, pairs=tuple(pairs))


def with_measured(**changes):
    return with_pair(measured=replace(SOUND.pairs[WHOLE].measured, **changes))


def with_crop(**changes):
    crops = SOUND.pairs[WHOLE].crops
    return with_pair(crops=(replace(crops[0], **changes), *crops[1:]))


def with_sensor(which="sensor", **changes):
    return with_pair(**{which: make_sensor(**changes)})


GOOD = SOUND.pairs[WHOLE]
LIES = {
    "another scene": replace(SOUND, scene=OTHER),
    "the scene's flags": replace(SOUND, scene=replace(SCENE, test_reserve=True)),
    "another recipe": replace(SOUND, recipe="0" * 16),
    "another outcome": replace(SOUND, outcome=Outcome.REJECTED, reason=Reason.EXPOSURE),
    "a reason and yet collected": replace(SOUND, reason=Reason.TRUNCATED),
    "collected after a timeout": replace(whole_scene_result(SCENE, RECIPE, Reason.TIMEOUT), outcome=Outcome.COLLECTED),
    "rejected after a timeout": replace(whole_scene_result(SCENE, RECIPE, Reason.TIMEOUT), outcome=Outcome.REJECTED),
    "filtered by a worker": whole_scene_result(SCENE, RECIPE, Reason.TEST_RESERVE),
    "failed with collected pairs": replace(SOUND, outcome=Outcome.FAILED, reason=Reason.TIMEOUT),
    "a pair left out": replace(SOUND, pairs=SOUND.pairs[1:]),
    "no pairs": replace(SOUND, pairs=(), outcome=Outcome.REJECTED, reason=Reason.NO_NOISY),
    "a pair twice": replace(SOUND, pairs=(*SOUND.pairs, SOUND.pairs[0])),
    "a pair instead of another": replace(SOUND, pairs=(SOUND.pairs[0], SOUND.pairs[0], SOUND.pairs[2])),
    "pairs out of order": replace(SOUND, pairs=SOUND.pairs[::-1]),
    "a noisy photo with two ground truths": replace(SOUND, pairs=tuple(sorted(
        (collected(SCENE, SCENE.noisy[0], SCENE.ground_truths[0]), collected(SCENE, SCENE.noisy[0], SCENE.ground_truths[1]),
         collected(SCENE, SCENE.noisy[1], SCENE.ground_truths[0])), key=lambda pair: pair.pair_id))),
    "another scene's noisy photo": with_pair(noisy=OTHER.noisy[0]),
    "another scene's ground truth": with_pair(ground_truth=OTHER.ground_truths[0]),
    "a noisy photo as ground truth": with_pair(ground_truth=SCENE.noisy[0]),
    "a photo at another place": with_pair(noisy=replace(GOOD.noisy, path="/elsewhere")),
    "a pair's outcome": with_pair(CRACKED, outcome=Outcome.REJECTED),
    "a pair's reason": with_pair(CRACKED, reason=Reason.EXPOSURE),
    "a collected pair with a reason": with_pair(reason=Reason.EXPOSURE),
    "crops of a failed pair": with_pair(CRACKED, crops=GOOD.crops),
    "a shard of a failed pair": with_pair(CRACKED, shard=GOOD.shard),
    "no ground truth": with_pair(ground_truth=None),
    "no crops": with_pair(crops=()),
    "no shard": with_pair(shard=None),
    "another pair's shard": with_pair(shard=replace(GOOD.shard, path=GOOD.shard.path.replace("bayer", "x-trans"))),
    "a shard outside": with_pair(shard=replace(GOOD.shard, path="shards/bayer/kitchen/../../../etc/passwd")),
    "no sensor": with_pair(sensor=None),
    "no sensor of the ground truth": with_pair(gt_sensor=None),
    "nothing measured": with_pair(measured=Measurements()),
    "no shift": with_measured(shift_x=None),
    "no gain": with_measured(gain=None),
    "gain 0": with_measured(gain=0.0),
    "a shift beyond the limit": with_measured(shift_y=RECIPE.max_shift + 1),
    "too weak a peak": with_measured(alignment_score=RECIPE.min_alignment_score - 0.1),
    "too high a loss": with_measured(alignment_loss=RECIPE.max_alignment_loss + 1e-6, expected_loss=0.0),
    "too small a mask": with_measured(mask_mean=RECIPE.min_mask_mean - 1e-6),
    "no colour matrix": with_sensor(rgb_xyz_matrix=None),
    "no colour matrix of the ground truth": with_sensor("gt_sensor", rgb_xyz_matrix=None),
    "half a colour matrix": with_sensor(rgb_xyz_matrix=(1.0, 0.0, 0.0)),
    "another CFA": with_pair(sensor=make_sensor(Cfa.X_TRANS), gt_sensor=make_sensor(Cfa.X_TRANS)),
    "another CFA of the ground truth": with_pair(gt_sensor=make_sensor(Cfa.X_TRANS)),
    "too few black levels": with_sensor(black_level=(512.0,)),
    "black above white": with_sensor(white_level=100.0),
    "a crop off the tile in y": with_crop(y=GOOD.crops[0].y + 1),
    "a crop off the tile in x": with_crop(x=GOOD.crops[0].x + 1),
    "a crop outside": with_crop(y=301),
    "a crop partly outside the noisy photo": with_crop(y=271),
    "a crop partly outside the ground truth above": with_crop(shift_y=-GOOD.crops[0].y - 1),
    "a crop without its own shift": with_crop(shift_y=None),
    "a crop partly outside the ground truth on the left": with_crop(shift_x=-GOOD.crops[0].x - 1),
    "a crop partly outside the ground truth below": with_sensor("gt_sensor", height=GOOD.crops[0].y + 32),
    "a crop partly outside the ground truth on the right": with_sensor("gt_sensor", width=20),
    "a crop twice": with_pair(crops=(GOOD.crops[0], *GOOD.crops)),
    "crops out of order": with_pair(crops=(replace(GOOD.crops[0], x=GOOD.crops[0].x + 72), GOOD.crops[0])),
    "a crop with too few valid pixels": with_crop(valid_fraction=RECIPE.min_valid_fraction - 1e-6),
    "a file that is not the scene's": replace(SOUND, failed_files=(
        *SOUND.failed_files, failed_file(OTHER.noisy[0], SourceError(Reason.TRUNCATED, "")))),
    "a file that failed for being rejected": replace(SOUND, failed_files=(
        *SOUND.failed_files, failed_file(SCENE.noisy[0], SourceError(Reason.EXPOSURE, "")))),
}  # fmt: skip


def test_the_result_that_is_falsified_was_sound():
    assert list(problems(SOUND, SCENE, RECIPE)) == []
    assert SOUND.outcome is Outcome.COLLECTED


@pytest.mark.parametrize("lie", LIES)
def test_every_false_statement_of_a_result_is_found(lie):
    assert LIES[lie] != SOUND
    assert list(problems(LIES[lie], SCENE, RECIPE)), lie


@pytest.mark.parametrize("score", [None, 0.2])
def test_a_crop_below_min_msssim_is_found(score):
    recipe = Recipe(crop_size=32, stride=32, min_msssim=0.7)
    result = replace(with_crop(msssim=score), recipe=recipe.digest)
    assert any("beyond the recipe's limits" in problem for problem in problems(result, SCENE, recipe))


@given(result=results(), other=results())
def test_one_scenes_result_never_passes_for_anothers(result, other):
    assert (list(problems(result, other.scene, RECIPE)) == []) == (result.scene == other.scene)


@pytest.mark.parametrize("missing", range(4))
def test_with_all_pairs_every_combination_must_be_there(missing):
    recipe = Recipe(crop_size=32, stride=32, pairing=Pairing.ALL)
    scene = make_scene(truths=2, noisy=2)
    result = make_result(scene, recipe=recipe, faults=FAULTS[:2])
    assert len(result.pairs) == 4
    assert list(problems(result, scene, recipe)) == []
    less = [pair for number, pair in enumerate(result.pairs) if number != missing]
    assert "its pairs are not the planned ones" in problems(scene_result(scene, recipe, less), scene, recipe)
    vague = [*less, uncollected_pair(result.pairs[missing].noisy, None, Reason.TRUNCATED)]
    assert "its pairs are not the planned ones" in problems(scene_result(scene, recipe, vague), scene, recipe)
