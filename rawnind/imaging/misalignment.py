"""What a pair's warp leaves between its photos, from the patches that it was fitted to."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawnind.imaging.alignment.registration import SITE_PATCH, Registration
from rawnind.imaging.coordinates import Rect

SURELY = 3.0  # standard errors by which a patch's shift is taken to be smaller than measured
UNSURE = 4.0  # standard errors by which a surface is taken to be wrong: the worst of a whole photo
LIKELY = 2.5  # the same where it is as smooth as elsewhere
WARP_SHARE = (
    0.2  # of the limit: what a surface that is as smooth as elsewhere may be wrong by; 0.15 of 0.75 sites
)
AREA = 32  # sites: side of the areas in which a surface is judged


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Misalignment:
    """Displacements that local evidence shows to be left, and those that it cannot exclude.

    Attributes:
        boxes: (n, 4) int64 top, left, bottom, right of the area that each patch stands for, in sites of `rect`.
        left: (n,) float64 at least so many sites are left there: the length of the patch's shift less three standard errors.
        areas: (m, 4) int64 top, left, bottom, right of all parts of `rect` where the warp is a smooth surface; else none.
        unsure: (m,) float64 so many sites may be left there: four standard errors of a surface of which nothing is known elsewhere.
        likely: (m,) float64 the same of one that is as smooth as where patches show it: two and a half standard errors.
    """

    boxes: NDArray[np.int64]
    left: NDArray[np.float64]
    areas: NDArray[np.int64]
    unsure: NDArray[np.float64]
    likely: NDArray[np.float64]

    @classmethod
    def of(cls, registration: Registration, rect: Rect, shape: tuple[int, ...]) -> "Misalignment":
        """From the patches of a registration.

        Args:
            registration: of the pair.
            rect: what both photos show, in the noisy frame.
            shape: (H, W) of the noisy frame.
        """
        rest = registration.rest
        middle = rest.at + (np.array(shape) - 1) / 2 - np.array([rect.top, rect.left])
        half = np.array([_spacing(rest.at[:, axis]) / 2 for axis in (0, 1)])
        boxes = np.concatenate([np.floor(middle - half), np.ceil(middle + half)], axis=1).astype(np.int64)
        length = np.hypot(*rest.shift.T)
        toward = rest.shift / np.maximum(length, 1e-9)[:, None]
        error = np.sqrt(np.einsum("ni,nij,nj->n", toward, rest.covariance, toward))
        areas, unsure, likely = np.zeros((0, 4), np.int64), np.zeros(0), np.zeros(0)
        if registration.field is not None:
            corners = np.mgrid[0 : rect.height : AREA, 0 : rect.width : AREA].reshape(2, -1).T
            areas = np.concatenate([corners, corners + AREA - 1], axis=1)
            middles = corners + (AREA - 1) / 2 + np.array([rect.top, rect.left]) - (np.array(shape) - 1) / 2
            unsure, likely = registration.field.errors(middles)
        return cls(
            boxes=np.maximum(boxes, 0),
            left=np.maximum(length - SURELY * error, 0),
            areas=areas,
            unsure=UNSURE * unsure,
            likely=LIKELY * likely,
        )

    @property
    def largest(self) -> float | None:
        """In sites; None where no patch could be measured."""
        return float(self.left.max()) if len(self.left) else None

    def beyond(self, limit: float, shape: tuple[int, ...], cell: int) -> NDArray[np.bool_]:
        """(h, w) bool per cell of `rect`: more than `limit` sites are left, or may be, or more than `WARP_SHARE` of them probably.

        Args:
            limit: in sites.
            shape: (h, w) in cells.
            cell: sites per cell in each direction.
        """
        out = np.zeros((shape[0], shape[1]), np.bool_)
        unsure = (self.unsure > limit) | (self.likely > WARP_SHARE * limit)
        found = np.concatenate([self.boxes[self.left > limit], self.areas[unsure]])
        for top, left, bottom, right in (found // cell).tolist():
            out[top : bottom + 1, left : right + 1] = True
        return out

    def within(self, origins: NDArray[np.int64], size: int) -> list[float | None]:
        """The largest displacement left inside each crop in sites; None where no patch could be measured.

        Args:
            origins: (n, 2) rows (y, x) of the crops in sites of `rect`.
            size: side of a crop in sites.
        """
        top, left, bottom, right = self.boxes.T
        found = []
        for y, x in origins.tolist():
            here = (top < y + size) & (bottom > y) & (left < x + size) & (right > x)
            found.append(float(self.left[here].max()) if here.any() else None)
        return found


def _spacing(places: NDArray[np.float64]) -> float:
    """Distance from one row or column of patches to the next; `SITE_PATCH` where there is only one."""
    steps = np.diff(np.unique(np.round(places)))
    return float(steps.min()) if len(steps) else float(SITE_PATCH)
