"""Rules for outcomes: which pairs a scene plans, what a scene's pairs make of it, and when a result is sound."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rawnind.errors import SourceError
from rawnind.measurements import ALWAYS_MEASURED, Measurements
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Pairing, Recipe
from rawnind.records import FailedFile, ImageRef, PairResult, Scene, SceneResult, Sensor


def partners(scene: Scene, noisy: ImageRef) -> tuple[ImageRef, ...]:
    """The scene's GTs that a noisy photo may be paired with: all but the photo itself."""
    return tuple(truth for truth in scene.ground_truths if truth.sha1 != noisy.sha1)


def planned_pairs(scene: Scene, pairing: Pairing) -> list[tuple[ImageRef, ImageRef | None]]:
    """(noisy, GT) of every pair that a scene plans; the GT is None where it is not chosen yet or does not exist.

    `best` plans one pair per noisy photo, and alignment chooses its GT unless there is only one; `all` plans
    every GT with every noisy photo. A noisy photo without any partner is one planned pair, so that it is counted.
    """
    pairs: list[tuple[ImageRef, ImageRef | None]] = []
    for noisy in scene.noisy:
        truths = partners(scene, noisy)
        if not truths:
            pairs.append((noisy, None))
        elif pairing is Pairing.ALL:
            pairs.extend((noisy, truth) for truth in truths)
        else:
            pairs.append((noisy, truths[0] if len(truths) == 1 else None))
    return pairs


def uncollected_pair(
    noisy: ImageRef,
    ground_truth: ImageRef | None,
    reason: Reason,
    detail: str = "",
    *,
    measured: Measurements | None = None,
    sensor: Sensor | None = None,
    gt_sensor: Sensor | None = None,
) -> PairResult:
    """The result of a pair without crops, with what was measured.

    Args:
        noisy: the noisy photo.
        ground_truth: None where none was chosen.
        reason: why it was not collected.
        detail: what was seen; empty: the reason's sentence.
        measured: what was measured until then.
        sensor: the noisy photo's sensor; None where it was not decoded.
        gt_sensor: the ground truth's.
    """
    return PairResult(
        ground_truth=ground_truth,
        noisy=noisy,
        outcome=reason.outcome,
        reason=reason,
        detail=detail or reason.sentence,
        measured=measured or Measurements(),
        sensor=sensor,
        gt_sensor=gt_sensor,
        shard=None,
        crops=(),
    )


def scene_result(
    scene: Scene, recipe: Recipe, pairs: Sequence[PairResult], failed_files: Sequence[FailedFile] = ()
) -> SceneResult:
    """A scene's result from its pairs.

    One collected pair makes a collected scene. Otherwise a failure takes precedence over a rejection, and the reason
    is that of the first pair (by id) with the scene's outcome. A scene without a noisy photo is rejected.

    Args:
        scene: as planned.
        recipe: what it was processed with.
        pairs: one result per planned pair, in any order.
        failed_files: photos that could not be used, in any order.
    """
    ordered = tuple(sorted(pairs, key=lambda pair: pair.pair_id))
    outcomes = {pair.outcome for pair in ordered}
    outcome = next((kind for kind in _BY_WEIGHT if kind in outcomes), Outcome.REJECTED)
    reason, detail = None, ""
    if not ordered:
        reason, detail = Reason.NO_NOISY, Reason.NO_NOISY.sentence
    elif outcome is not Outcome.COLLECTED:
        first = next(pair for pair in ordered if pair.outcome is outcome)
        reason, detail = first.reason, first.detail
    return SceneResult(
        scene=scene,
        recipe=recipe.digest,
        outcome=outcome,
        reason=reason,
        detail=detail,
        pairs=ordered,
        failed_files=tuple(sorted(failed_files, key=lambda file: (file.photo.sha1, file.photo.ground_truth))),
    )


_BY_WEIGHT = (Outcome.COLLECTED, Outcome.FAILED, Outcome.REJECTED, Outcome.FILTERED)


def whole_scene_result(scene: Scene, recipe: Recipe, reason: Reason, detail: str = "") -> SceneResult:
    """A scene of which every planned pair has the same outcome, e.g. filtered.

    Args:
        scene: as planned.
        recipe: what it was planned with.
        reason: of the scene and of each of its pairs.
        detail: empty: the reason's sentence.
    """
    pairs = [
        uncollected_pair(noisy, truth, reason, detail)
        for noisy, truth in planned_pairs(scene, recipe.pairing)
    ]
    result = scene_result(scene, recipe, pairs)
    return replace(result, outcome=reason.outcome, reason=reason, detail=detail or reason.sentence)


def failed_file(photo: ImageRef, error: SourceError) -> FailedFile:
    """The record of a photo that could not be used."""
    return FailedFile(photo=photo, reason=error.reason, detail=error.detail)


def problems(result: SceneResult, scene: Scene, recipe: Recipe) -> Iterator[str]:
    """Problems of a worker's result, one sentence each; none where it is valid.

    Args:
        result: what the worker returned; its values were validated by the records.
        scene: what was planned.
        recipe: what it was planned with.
    """
    if result.scene != scene:
        yield "it is not the planned scene"
    if result.recipe != recipe.digest:
        yield f"its recipe is {result.recipe}, the run's is {recipe.digest}"
    if Outcome.FILTERED in {result.outcome, *(pair.outcome for pair in result.pairs)}:
        yield "it filtered a scene that was selected"
    yield from _outcome_problems(result, recipe)
    yield from _planning_problems(result, scene, recipe)
    for file in result.failed_files:
        if (
            file.photo not in (*scene.ground_truths, *scene.noisy)
            or file.reason.outcome is not Outcome.FAILED
        ):
            yield f"{file.photo.filename} did not fail, or is not the scene's"
    for pair in result.pairs:
        for problem in _pair_problems(pair, scene, recipe):
            yield f"pair {pair.pair_id}: {problem}"


def _outcome_problems(result: SceneResult, recipe: Recipe) -> Iterator[str]:
    again = scene_result(result.scene, recipe, result.pairs)
    of_pairs = again.outcome, again.reason
    given_up = result.outcome is Outcome.FAILED and all(pair.reason is result.reason for pair in result.pairs)
    if (result.outcome, result.reason) != of_pairs and not given_up:
        yield f"its outcome is {result.outcome} ({result.reason}), its pairs give  {again.outcome} ({again.reason})"
    fates: list[SceneResult | PairResult] = [result, *result.pairs]
    for each in fates:
        if (each.reason.outcome if each.reason else Outcome.COLLECTED) is not each.outcome:
            yield f"outcome {each.outcome} does not go with reason {each.reason}"


def _planning_problems(result: SceneResult, scene: Scene, recipe: Recipe) -> Iterator[str]:
    """Each planned pair must be there once; where the plan leaves the GT open, it is one of the partners or none."""
    planned = planned_pairs(scene, recipe.pairing)
    named = Counter((pair.noisy, pair.ground_truth) for pair in result.pairs)
    settled = [pair for pair in planned if pair[1] is not None]
    left = named - Counter(settled)
    expected = Counter(noisy for noisy, truth in planned if truth is None)
    if len(settled) != sum((named & Counter(settled)).values()) or expected != Counter(
        noisy for noisy, _ in left.elements()
    ):
        yield "its pairs are not the planned ones"
    if any(truth not in (None, *partners(scene, noisy)) for noisy, truth in named):
        yield "a photo is paired with one that is no ground truth for it"
    ids = [pair.pair_id for pair in result.pairs]
    if ids != sorted(set(ids)):
        yield "its pairs are not in order, or one is there twice"


def _pair_problems(pair: PairResult, scene: Scene, recipe: Recipe) -> Iterator[str]:
    if pair.outcome is not Outcome.COLLECTED:
        if pair.crops or pair.shard:
            yield "it is not collected and yet has crops"
        return
    measured, sensor, gt_sensor = pair.measured, pair.sensor, pair.gt_sensor
    if not (pair.ground_truth and pair.shard and pair.crops and sensor and gt_sensor):
        yield "it is collected without a GT, a shard, crops or a sensor"
        return
    if pair.shard.path != f"shards/{scene.key}/{pair.pair_id}.parquet":
        yield f"its shard is {pair.shard.path}"
    if any(getattr(measured, name) is None for name in ALWAYS_MEASURED):
        yield "it is collected without having been measured"
        return
    yield from _sensor_problems(sensor, gt_sensor, scene)
    yield from _threshold_problems(pair, sensor, gt_sensor, recipe)
    yield from _crop_problems(pair, sensor, gt_sensor, recipe)


def _sensor_problems(sensor: Sensor, gt_sensor: Sensor, scene: Scene) -> Iterator[str]:
    if not sensor.cfa is gt_sensor.cfa is scene.cfa:
        yield f"its sensors are {sensor.cfa} and {gt_sensor.cfa}, the scene is {scene.cfa}"
    for each in (sensor, gt_sensor):
        if each.rgb_xyz_matrix is None or len(each.rgb_xyz_matrix) != 9:
            yield "it is collected without a colour matrix"
        if len(each.black_level) != len(each.cfa.plane_colors) or max(each.black_level) >= each.white_level:
            yield f"black levels {each.black_level} and white level {each.white_level} are no sensor's"


def _threshold_problems(pair: PairResult, sensor: Sensor, gt_sensor: Sensor, recipe: Recipe) -> Iterator[str]:
    """The recipe rejects what is beyond its limits."""
    measured = pair.measured
    down, across = gt_sensor.first_tile_from(sensor)
    limits = (
        ("shift_y", down - recipe.max_shift, down + recipe.max_shift),
        ("shift_x", across - recipe.max_shift, across + recipe.max_shift),
        ("alignment_score", recipe.min_alignment_score, math.inf),
        ("unexplained_loss", 0, recipe.max_alignment_loss),
        ("mask_mean", recipe.min_mask_mean, 1),
    )
    for name, least, most in limits:
        if not least <= getattr(measured, name) <= most:
            yield f"{name} {getattr(measured, name)} is beyond the recipe's limit"
    if not measured.gain:
        yield "its gain is 0"
    for crop in pair.crops:
        poor = recipe.min_msssim is not None and (crop.msssim is None or crop.msssim < recipe.min_msssim)
        if poor or crop.valid_fraction < recipe.min_valid_fraction:
            yield f"crop ({crop.y}, {crop.x}) is beyond the recipe's limits"


def _crop_problems(pair: PairResult, sensor: Sensor, gt_sensor: Sensor, recipe: Recipe) -> Iterator[str]:
    size, period, origins = recipe.crop_size, sensor.cfa.period, [(crop.y, crop.x) for crop in pair.crops]
    if origins != sorted(set(origins)):
        yield "its crops are not in order, or one is there twice"
    for crop in pair.crops:
        y, x = crop.y, crop.x
        if (y - sensor.origin[0]) % period or (x - sensor.origin[1]) % period:
            yield f"crop ({y}, {x}) does not start on a tile"
        if y + size > sensor.height or x + size > sensor.width:
            yield f"crop ({y}, {x}) reaches outside the noisy photo"
        if crop.shift_y is None or crop.shift_x is None or crop.subpixel_y is None or crop.subpixel_x is None:
            yield f"crop ({y}, {x}) has no shift"
            continue
        top, left = y + crop.shift_y, x + crop.shift_x
        if top < 0 or left < 0 or top + size > gt_sensor.height or left + size > gt_sensor.width:
            yield f"crop ({y}, {x}) reaches outside the GT"
