"""Runs the pair chain on photos at reduced size, and says of each pair what to shoot again.

The verdicts are those of `prepare` itself, on mosaics whose sites are means of blocks: rotation, light, colours, roles and
exposure show at any size. Residual shifts of less than a reduced site do not.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rawnind.errors import SourceError
from rawnind.imaging.exposure import overexposed
from rawnind.imaging.focus import sharpness
from rawnind.imaging.levels import planes
from rawnind.imaging.photo import Photo
from rawnind.imaging.reduce import reduced, reduction
from rawnind.output.store import Store
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import ImageRef, PairResult, Scene
from rawnind.shooting.cameras import Shot
from rawnind.source.decode import decode, headers

WANTED_SIDE = 1000
"""Sites of the shorter side at which pairs are looked at."""

MOST_CLIPPED = 0.05
"""Share of the ground truth that may be overexposed."""

MOST_ROTATION = 0.1
"""Degrees; 5 sites at the corner of a 24 MP photo. The warp undoes more, at the cost of the border."""

MOST_SHIFT = 0.5
"""Share of the recipe's largest shift."""

MOST_DRIFT = 0.5
"""Share of the recipe's largest drift of light."""

SOFT, SOFT_TRUTH = 0.8, 1.25
"""Sharpness below which the noisy photo, and above which the ground truth, is out of focus."""

_CROP = 32
_LEAST_RESIDUAL = 0.3
"""Reduced sites: what is left of a shift is not measured more finely there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is said of a planned pair.

    Attributes:
        pair: the result at reduced size.
        advice: what to do, a sentence each; empty where all is well.
    """

    pair: PairResult
    advice: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneCheck:
    """What is said of a scene.

    Attributes:
        verdicts: one per planned pair.
        shots: the photos that could be decoded.
        reason: of the scene; None where a pair of it would be collected.
    """

    scene: Scene
    verdicts: tuple[Verdict, ...]
    shots: tuple[Shot, ...]
    reason: Reason | None


_ADVICE = {
    Reason.NO_GROUND_TRUTH: "shoot a ground truth: base ISO, same place, same light",
    Reason.ALIGNMENT_UNCERTAIN: "the camera moved too far, or this is another scene: shoot again from a tripod, or correct the index",
    Reason.ALIGNMENT_LOSS: "the photos differ too much: shoot both again",
    Reason.MISALIGNED: "the camera turned or something moved: shoot again with a firm tripod and a remote release",
    Reason.EXPOSURE: "too much is clipped or black: shoot again with another exposure time",
    Reason.MASK_MEAN: "too much of the scene changed between the photos: shoot again without moving things and people",
    Reason.NO_VALID_CROP: "too much of the scene changed between the photos: shoot again without moving things and people",
    Reason.CFA_MISMATCH: "these are two cameras: correct the index",
    Reason.SIZE_MISMATCH: "these are two cameras or two sizes: correct the index, and shoot full-size RAW",
    Reason.CAMERA_MISMATCH: "these are two cameras: correct the index",
    Reason.COLOR_MISMATCH: "the colour of the light changed: shoot again under one kind of lamp, without daylight",
    Reason.ROLES_SWAPPED: "the ground truth is noisier: swap their roles in the index, or shoot the ground truth at base ISO",
    Reason.LIGHT_MISMATCH: "the light moved: shoot again under constant light",
    Reason.LEVEL_MISMATCH: "black levels differ: turn off long-exposure noise reduction and shoot again",
}  # fmt: skip


def check_scene(scene: Scene, recipe: Recipe) -> SceneCheck:
    """Looks at every planned pair of a scene.

    Args:
        scene: as planned.
        recipe: its limits count; its crop size does not.
    """
    factor = _factor(scene)
    photos: dict[str, Photo] = {}
    shots: dict[tuple[str, bool], Shot] = {}

    def read(ref: ImageRef) -> Photo:
        photo = Photo.from_visible(*decode(ref, delay=0))
        iso = (photo.sensor.capture.iso if photo.sensor.capture else None) or ref.iso
        shots[ref.sha1, ref.ground_truth] = Shot(
            camera=photo.sensor.camera, iso=iso, ground_truth=ref.ground_truth, scene=scene.name
        )
        photos[ref.sha1] = reduced(photo, factor) if photo.cfa is scene.cfa else photo
        return photos[ref.sha1]

    with tempfile.TemporaryDirectory(prefix="rawnind-check-") as folder:
        store = Store(str(Path(folder) / "out"))
        store.prepare_root()
        result = process_scene(scene, _at_reduced_size(recipe, factor), store, meter=Meter(), read=read)
    verdicts = tuple(_verdict(pair, photos, recipe, factor) for pair in result.pairs)
    return SceneCheck(scene=scene, verdicts=verdicts, shots=tuple(shots.values()), reason=result.reason)


def _factor(scene: Scene) -> int:
    """By how much the scene's photos are reduced."""
    for ref in (*scene.ground_truths, *scene.noisy):
        with contextlib.suppress(SourceError):
            size = headers(ref, delay=0)
            return reduction(scene.cfa, min(size.height, size.width), WANTED_SIDE)
    return 1


def _at_reduced_size(recipe: Recipe, factor: int) -> Recipe:
    residual = recipe.max_residual and max(recipe.max_residual / factor, _LEAST_RESIDUAL)
    return replace(
        recipe, crop_size=_CROP, stride=4 * _CROP, min_msssim=None, max_residual=residual, max_shift=recipe.max_shift // factor
    )  # fmt: skip


def _verdict(pair: PairResult, photos: Mapping[str, Photo], recipe: Recipe, factor: int) -> Verdict:
    focus = _focus(pair, photos)
    advice = [*focus, *_further(pair, photos, recipe, factor)]
    if pair.reason and not (focus and pair.reason in _OF_BLUR):
        advice.insert(0, _ADVICE.get(pair.reason, "this file cannot be used: copy it again, or leave it out"))
    return Verdict(pair=pair, advice=tuple(advice))


_OF_BLUR = {Reason.ALIGNMENT_LOSS, Reason.MASK_MEAN, Reason.NO_VALID_CROP}
"""What a photo that is out of focus looks like to the gates: texture is lost."""


def _focus(pair: PairResult, photos: Mapping[str, Photo]) -> list[str]:
    seen = _sharpness(pair, photos)
    if seen is None or SOFT <= seen <= SOFT_TRUTH:
        return []
    if seen < SOFT:
        return [
            f"the noisy photo shows {seen:.0%} of the ground truth's detail: out of focus, use manual focus"
        ]
    return [
        f"the ground truth shows {1 / seen:.0%} of the noisy photo's detail: out of focus, use manual focus"
    ]


def _further(pair: PairResult, photos: Mapping[str, Photo], recipe: Recipe, factor: int) -> Iterator[str]:
    """What would not reject the pair, and still be better."""
    measured, truth = pair.measured, pair.ground_truth
    clipped = truth and truth.sha1 in photos and _clipped(photos[truth.sha1])
    if clipped and clipped > MOST_CLIPPED:
        yield f"GT clipped on {clipped:.0%} of the frame: expose less"
    if measured.shift_y is None or measured.shift_x is None or pair.reason is Reason.ALIGNMENT_UNCERTAIN:
        return
    shift = factor * max(abs(measured.shift_y), abs(measured.shift_x))
    if shift > MOST_SHIFT * recipe.max_shift:
        yield f"the camera moved by {shift} sites, at most {recipe.max_shift} are found: touch it less"
    if abs(measured.rotation or 0) > MOST_ROTATION:
        yield f"the camera turned by {abs(measured.rotation or 0):.2f} degrees: tighten the tripod's head"
    drift = measured.light_drift
    if (
        drift
        and recipe.max_light_drift
        and MOST_DRIFT * recipe.max_light_drift < drift
        and pair.reason is None
    ):
        yield f"the light differs by {drift:.0%} within the frame, {recipe.max_light_drift:.0%} is the limit: wait for constant light"


def _clipped(photo: Photo) -> float:
    return float(overexposed(photo.mosaic, photo.sensor).mean())


def _sharpness(pair: PairResult, photos: Mapping[str, Photo]) -> float | None:
    """`imaging.focus.sharpness` of the greens; None where it cannot be measured."""
    measured, truth = pair.measured, pair.ground_truth
    if truth is None or measured.gain is None or measured.shift_y is None or measured.shift_x is None:
        return None
    one, other = (planes(photos[sha1])[1] for sha1 in (truth.sha1, pair.noisy.sha1))
    cell = pair.noisy.cfa.cell
    dy, dx = measured.shift_y + (measured.subpixel_y or 0), measured.shift_x + (measured.subpixel_x or 0)
    return sharpness(one, other * measured.gain, (dy / cell, dx / cell))
