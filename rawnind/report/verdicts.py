"""Why a pair was not collected: the number that decided, its limit in the recipe, and what a person can do about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rawnind.reasons import Reason

_COLORS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The number that decided.

    Attributes:
        name: of the number.
        value: measured.
        limit: of the recipe's key `key`.
        key: the recipe's key.
    """

    name: str
    value: float
    limit: float
    key: str


def verdict(pair: Mapping[str, Any], recipe: Mapping[str, Any]) -> Verdict | None:
    """The number that decided about a pair; None where no measured number did, or where it is in the pair's detail alone.

    A reason may have several causes: a scene that repeats is uncertain however high its correlation peak is.

    Args:
        pair: a row of pairs.parquet.
        recipe: parameters by name.
    """
    name, measure, key = _DECIDERS.get(pair["reason"], ("", lambda _: None, ""))
    value, limit = measure(pair), recipe.get(key)
    if value is None or not isinstance(limit, int | float):
        return None
    if value > limit if key.startswith("min_") else value < limit:
        return None
    return Verdict(name=name, value=value, limit=limit, key=key)


def _column(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda pair: pair[name]


def _unexplained(pair: Mapping[str, Any]) -> float | None:
    loss = pair["alignment_loss"]
    return None if loss is None else max(loss - (pair["expected_loss"] or 0.0), 0.0)


def color_deviation(pair: Mapping[str, Any]) -> float | None:
    """By which share the gain of one colour differs most from the pair's gain; None where it was not measured."""
    gains = [pair[f"gain_{color}"] for color in _COLORS]
    if None in gains or not pair["gain"]:
        return None
    return float(max(abs(gain / pair["gain"] - 1) for gain in gains))


_DECIDERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], float | None], str]] = {
    Reason.ALIGNMENT_UNCERTAIN: (
        "correlation peak",
        _column("alignment_score"),
        "min_alignment_score",
    ),
    Reason.ALIGNMENT_LOSS: ("difference beyond noise", _unexplained, "max_alignment_loss"),
    Reason.MISALIGNED: ("residual in sites", _column("residual"), "max_residual"),
    Reason.MASK_MEAN: ("valid share", _column("mask_mean"), "min_mask_mean"),
    Reason.COLOR_MISMATCH: ("colour deviation", color_deviation, "max_color_deviation"),
    Reason.LIGHT_MISMATCH: ("drift of the light", _column("light_drift"), "max_light_drift"),
}


def advice(reason: Reason) -> str:
    """What a person can do about pairs and scenes with a reason."""
    return _ADVICE[reason]


_SAME_SCENE = "Look at both photos: is it the same motif, from the same place?"
_FETCH = "Fetch the file again, then run `rawnind prepare` again: it notices that the file has changed."
_ADVICE = {
    Reason.TEST_RESERVE: "Intended: without --exclude-test-reserve these scenes are prepared, and stay out of training splits.",
    Reason.CFA_FILTER: "Intended: prepare without --cfa to have both kinds of sensors.",
    Reason.SCENE_FILTER: "Intended: prepare with a higher --limit, or without one.",
    Reason.NO_GROUND_TRUTH: "Add a low-ISO photo of the scene, named with GT, or look whether the existing one failed.",
    Reason.NO_NOISY: "Add a high-ISO photo of the scene.",
    Reason.ALIGNMENT_UNCERTAIN: f"{_SAME_SCENE} If so, raise max_shift; a scene that repeats needs something that does not. "
    "A lower min_alignment_score lets unrelated photos in.",
    Reason.ALIGNMENT_LOSS: f"{_SAME_SCENE} If the difference is small, raise max_alignment_loss in a new folder.",
    Reason.MISALIGNED: "The camera moved, near things shifted, or a photo shows another scene. Take the photos from a tripod; "
    "max_residual is the limit of what is left.",
    Reason.EXPOSURE: "Expose so that less of the frame is white or black; max_bad_exposure is the limit.",
    Reason.MASK_MEAN: "Look at what moved or is overexposed; a lower min_mask_mean keeps the valid rest.",
    Reason.CFA_MISMATCH: "The photos are of different sensors: sort them into different scenes.",
    Reason.SIZE_MISMATCH: "Use one image size and one crop mode of the camera for a scene.",
    Reason.TOO_SMALL: "Prepare with a smaller --crop-size, or take photos that overlap more.",
    Reason.NO_VALID_CROP: "Prepare with a smaller --crop-size, or lower min_valid_fraction or --min-msssim.",
    Reason.NO_COLOR_MATRIX: "LibRaw does not know the camera: convert the files to DNG, which carry a matrix, or update rawpy.",
    Reason.CAMERA_MISMATCH: "Sort the photos of each camera into a scene of their own.",
    Reason.COLOR_MISMATCH: "Keep the light the same for both photos; max_color_deviation is the limit.",
    Reason.ROLES_SWAPPED: "Look whether ground truth and noisy photo were named the wrong way round.",
    Reason.LIGHT_MISMATCH: "Keep lamps, sun and shadows the same for both photos; max_light_drift is the limit.",
    Reason.LEVEL_MISMATCH: "Look for long-exposure noise reduction, another bit depth or stray light; max_level_offset is the limit.",
    Reason.MISSING_FILE: "Fetch the file, then run `rawnind prepare` again.",
    Reason.SHA1_MISMATCH: _FETCH,
    Reason.TRUNCATED: _FETCH,
    Reason.UNREADABLE: "Open the file in a RAW converter. If that works, it may be of a format that LibRaw does not know yet.",
    Reason.ALL_ZERO: _FETCH,
    Reason.INCOMPLETE: _FETCH,
    Reason.UNSUPPORTED_CFA: "Leave the file out: only Bayer and X-Trans sensors can be prepared.",
    Reason.UNSUPPORTED_LEVELS: "Convert the file to DNG, or leave it out.",
    Reason.WORKER_DIED: "Look at the file in a RAW converter; `rawnind prepare --retry-failed` tries it again.",
    Reason.TIMEOUT: "Run `rawnind prepare --retry-failed` with a longer --scene-timeout.",
    Reason.TOO_LARGE: "Run `rawnind prepare --retry-failed` on a machine with more memory, or with fewer --max-scenes.",
    Reason.INVALID_RESULT: "Run `rawnind prepare --retry-failed`; if it stays, please report it.",
}
