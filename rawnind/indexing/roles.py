"""Which photos of a scene are ground truths, and what a person should look at."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rawnind.indexing.grouping import Placed, with_distinct_names
from rawnind.indexing.scan import Found
from rawnind.records import Cfa

MOST_BASE_ISO = 200
"""Base ISOs of cameras lie between 50 and this."""

MOST_EV = 1.0
"""Stops by which a noisy photo's exposure may differ from its ground truth's before it is a doubt."""

_SAME_EXPOSURE = 1.05
"""Ratio of two exposure times that count as equal: cameras round them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A photo with everything that was decided about it.

    Attributes:
        ground_truth: its role.
        why: what decided, for people.
        doubts: what a person should look at; each is printed after a question mark.
        left_out: a person took it out.
    """

    photo: Found
    scene: str
    ground_truth: bool
    why: str
    doubts: tuple[str, ...] = ()
    left_out: bool = False

    @property
    def cfa(self) -> Cfa:
        """The photo's colour filter array."""
        return self.photo.header.cfa

    @property
    def explanation(self) -> str:
        """Why, and the doubts."""
        return "; ".join([self.why, *(f"? {doubt}" for doubt in self.doubts)])


def choose_roles(placed: Iterable[Placed]) -> list[Choice]:
    """The role of each photo, sorted by scene, ground truths first, then by ISO.

    A `gt` folder or a table decides; else the lowest ISO of each camera in a scene is a ground truth, and at equal ISO the longest
    exposure. Photos of the same ISO and exposure as the ground truth are ground truths too: a burst.
    """
    scenes: dict[tuple[Cfa, str], list[Placed]] = defaultdict(list)
    for each in with_distinct_names(placed):
        scenes[each.photo.header.cfa, each.scene].append(each)
    lowest = _lowest_isos(each for group in scenes.values() for each in group)
    choices = [
        choice for group in scenes.values() for choice in _with_doubts(_by_scene(group), group, lowest)
    ]
    return in_order(choices)


def _lowest_isos(placed: Iterable[Placed]) -> dict[str, int]:
    """The lowest ISO of each camera."""
    lowest: dict[str, int] = {}
    for header in (each.photo.header for each in placed):
        if iso := header.capture.iso:
            lowest[header.camera] = min(iso, lowest.get(header.camera, iso))
    return lowest


def in_order(choices: Iterable[Choice]) -> list[Choice]:
    """Sorted by scene, ground truths first, then by ISO."""
    return sorted(choices, key=_order)


def _order(choice: Choice) -> tuple[str, str, bool, int, str]:
    iso = choice.photo.header.capture.iso
    return choice.cfa, choice.scene, not choice.ground_truth, iso or 0, choice.photo.name


def _by_scene(group: Sequence[Placed]) -> list[Choice]:
    if any(each.role for each in group):
        return [
            _choice(each, each.why or "not among the ground truths", ground_truth=bool(each.role))
            for each in group
        ]
    cameras: dict[str, list[Placed]] = defaultdict(list)
    for each in group:
        cameras[each.photo.header.camera].append(each)
    return [choice for photos in cameras.values() for choice in _by_exposure(photos)]


def _by_exposure(group: Sequence[Placed]) -> list[Choice]:
    """The roles of one camera's photos of a scene."""
    free = [each for each in group if each.role is None]
    known = [each for each in free if each.photo.header.capture.iso]
    best_iso = min((each.photo.header.capture.iso or 0 for each in known), default=0)
    best = [each for each in known if each.photo.header.capture.iso == best_iso]
    longest = max((_seconds(each) for each in best), default=0.0)
    truths = {each.photo.name for each in best if _seconds(each) * _SAME_EXPOSURE >= longest}
    if len(truths) == len(group):
        what = (
            "all photos have the same ISO and exposure"
            if len(group) > 1
            else "the scene has one photo of this camera"
        )
        doubt = f"{what}: which is the ground truth?"
        return [_choice(each, "no ground truth was found", doubt, ground_truth=False) for each in group]
    differs = len(best) > len(truths)
    why = f"lowest ISO{', longest exposure' if differs else ''}{', burst' if len(truths) > 1 else ''}"
    return [
        _choice(each, why, ground_truth=True)
        if each.photo.name in truths
        else _choice(each, each.why or _why_noisy(each, best_iso), ground_truth=False)
        for each in group
    ]


def _seconds(each: Placed) -> float:
    return each.photo.header.capture.exposure_time or 0.0


def _why_noisy(each: Placed, best_iso: int) -> str:
    iso = each.photo.header.capture.iso
    if iso is None:
        return "ISO unknown"
    return "higher ISO" if iso > best_iso else "shorter exposure"


def _choice(each: Placed, why: str, *doubts: str, ground_truth: bool) -> Choice:
    return Choice(
        photo=each.photo, scene=each.scene, ground_truth=ground_truth, why=why, doubts=(*each.doubts, *doubts)
    )


def _with_doubts(
    choices: Sequence[Choice], group: Sequence[Placed], lowest: Mapping[str, int]
) -> list[Choice]:
    cameras = Counter(each.photo.header.camera for each in group)
    usual = cameras.most_common(1)[0][0]
    here = _lowest_isos(group)
    truths = {choice.photo.header.camera: choice for choice in reversed(choices) if choice.ground_truth}
    return [
        replace(
            choice,
            doubts=(
                *choice.doubts,
                *_doubts(choice, truths.get(choice.photo.header.camera), usual, here, lowest),
            ),
        )
        for choice in choices
    ]


def _doubts(
    choice: Choice, truth: Choice | None, usual: str, here: Mapping[str, int], lowest: Mapping[str, int]
) -> Iterable[str]:
    header = choice.photo.header
    iso = header.capture.iso
    if header.camera != usual:
        yield f"one camera differs: {header.camera or 'unknown'} among {usual or 'unknown'}"
    if iso is None:
        yield "the file does not say its ISO"
    elif choice.ground_truth:
        base = lowest.get(header.camera, iso)
        if iso > min(base, MOST_BASE_ISO):
            known = f"this camera has {base}" if base < iso else f"that is {MOST_BASE_ISO} or less"
            what = "lowest ISO is not" if iso == here[header.camera] else "not at"
            yield f"{what} base ISO: {iso}, {known}"
    if truth and not choice.ground_truth:
        difference = _brightness(choice.photo) - _brightness(truth.photo)
        if abs(difference) >= MOST_EV:
            yield f"exposure differs by {abs(difference):.1f} EV"
        focal, other = header.capture.focal_length, truth.photo.header.capture.focal_length
        if focal and other and focal != other:
            yield f"focal length differs: {focal:g} and {other:g} mm"


def _brightness(photo: Found) -> float:
    """How bright the photo is for a given light, in stops; nan where the file does not say."""
    capture = photo.header.capture
    if not (capture.iso and capture.exposure_time):
        return math.nan
    return math.log2(capture.iso * capture.exposure_time / (capture.aperture or 1.0) ** 2)
