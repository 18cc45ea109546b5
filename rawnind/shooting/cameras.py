"""Which ISOs of each camera a set of photos covers."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rawnind.words import counted

LEAST_ISOS = 4
"""Different ISOs of a camera's noisy photos; a noise model that is fitted to fewer is a guess between them."""

_STOP = 0.75
"""Stops by which two ISOs may differ and still count as the same rung: cameras round, and have rungs of a third."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A photo, as far as the table of ISOs needs it."""

    camera: str
    iso: int | None
    ground_truth: bool
    scene: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """The ISOs of one camera.

    Attributes:
        truths: ISO -> number of ground truths.
        noisy: ISO -> number of noisy photos.
        gaps: ISOs a stop apart, from two stops above the base ISO to the highest, that have no noisy photo.
        high_truths: scenes whose ground truths all have more than the camera's lowest ISO.
    """

    camera: str
    truths: dict[int, int]
    noisy: dict[int, int]
    gaps: tuple[int, ...]
    high_truths: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """What is missing, a sentence each."""
        if len(self.noisy) < LEAST_ISOS:
            yield f"{self.camera}: noisy photos at {counted(len(self.noisy), 'ISO')}, at least {LEAST_ISOS} should be there"
        if self.gaps:
            yield f"{self.camera}: no noisy photo at ISO {', '.join(map(str, self.gaps))}"
        if self.high_truths:
            base = min(self.truths)
            yield f"{self.camera}: ground truths above ISO {base} alone in {', '.join(self.high_truths)}: shoot them at base ISO"


def coverage(shots: Iterable[Shot]) -> list[Coverage]:
    """The ISOs of each camera, sorted by camera. Photos without an ISO do not count."""
    cameras: dict[str, list[Shot]] = defaultdict(list)
    for shot in shots:
        if shot.iso:
            cameras[shot.camera or "unknown camera"].append(shot)
    return [_coverage(camera, group) for camera, group in sorted(cameras.items())]


def _coverage(camera: str, shots: list[Shot]) -> Coverage:
    counts: dict[bool, dict[int, int]] = {True: defaultdict(int), False: defaultdict(int)}
    lowest: dict[str, int] = {}
    for shot in shots:
        iso = shot.iso or 0
        counts[shot.ground_truth][iso] += 1
        if shot.ground_truth:
            lowest[shot.scene] = min(iso, lowest.get(shot.scene, iso))
    base = min(counts[True], default=0)
    return Coverage(
        camera=camera,
        truths=dict(sorted(counts[True].items())),
        noisy=dict(sorted(counts[False].items())),
        gaps=_gaps(base or min(counts[False], default=0), counts[False]),
        high_truths=tuple(sorted(scene for scene, iso in lowest.items() if iso > base)),
    )


def _gaps(base: int, isos: Iterable[int]) -> tuple[int, ...]:
    """Rungs of full stops from two above the base ISO on, up to the highest of `isos`, that none of them is near."""
    known = sorted(isos)
    if not known:
        return ()
    stops = round(math.log2(known[-1] / base))
    rungs = [base * 2**stop for stop in range(2, stops)]
    return tuple(rung for rung in rungs if all(abs(math.log2(iso / rung)) > _STOP for iso in known))
