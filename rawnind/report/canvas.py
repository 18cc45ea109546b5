"""A pair's crops, put together where they lie in the photo: small pictures of the whole pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rawnind.output.shard_reader import ShardReader
from rawnind.report.pixels import (
    Rgb,
    Why,
    difference,
    exposure_of,
    over_picture,
    to_srgb,
    view_small,
)

EMPTY = (127, 127, 127)
"""Colour of places without a stored crop."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Place:
    """A crop in a picture of its pair, in the picture's pixels.

    Attributes:
        row: of manifest.parquet.
        top: first row.
        left: first column.
        side: of the square; at least 1.
    """

    row: dict[str, Any]
    top: int
    left: int
    side: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class PairPicture:
    """Pictures of a pair, all of one size; grey where no crop is stored.

    Attributes:
        truth: the ground truth.
        noisy: the noisy photo at its brightness.
        mask: the ground truth in grey, invalid pixels in the colour of their cause.
        difference: noisy minus truth, amplified about grey.
        why: the causes that occur.
        whole: whether crops cover the picture.
        places: where the crops lie.
    """

    truth: Rgb
    noisy: Rgb
    mask: Rgb
    difference: Rgb
    why: tuple[Why, ...]
    whole: bool
    places: tuple[Place, ...]

    @property
    def panels(self) -> tuple[tuple[str, Rgb], ...]:
        """(title, picture) in the order in which they are shown."""
        return (
            ("ground truth", self.truth),
            ("noisy, at its brightness", self.noisy),
            ("mask", self.mask),
            ("difference", self.difference),
        )


def place(rows: Sequence[dict[str, Any]], width: int) -> tuple[tuple[Place, ...], tuple[int, int]]:
    """Where the crops of a pair lie in a picture of it, and the picture's (height, width).

    Args:
        rows: of manifest.parquet, at least one.
        width: of the picture in pixels; less where a crop would be shown larger than a pixel per cell.
    """
    top, left = (min(row[axis] for row in rows) for axis in ("y", "x"))
    scale = min(width / (max(row["x"] + row["size"] for row in rows) - left), 0.5)
    places = tuple(
        Place(
            row=row,
            top=round((row["y"] - top) * scale),
            left=round((row["x"] - left) * scale),
            side=max(round(row["size"] * scale), 1),
        )
        for row in rows
    )
    return places, (
        max(each.top + each.side for each in places),
        max(each.left + each.side for each in places),
    )


def pair_picture(reader: ShardReader, rows: Sequence[dict[str, Any]], width: int) -> PairPicture:
    """Reads the crops of a pair and draws them.

    Args:
        reader: of the output folder.
        rows: the pair's rows of manifest.parquet, at least one.
        width: of each picture in pixels.

    Raises:
        DamagedShardError: A shard is not what the manifest says.
    """
    places, shape = place(rows, width)
    truth = np.zeros((*shape, 3), np.float32)
    noisy, why = np.zeros_like(truth), np.zeros(shape, np.uint8)
    covered = np.zeros(shape, np.bool_)
    for each in places:
        row, (ys, xs) = (
            each.row,
            (slice(each.top, each.top + each.side), slice(each.left, each.left + each.side)),
        )
        crop = reader.crop(row["shard"], row["row_group"], row["crop_id"], row["size"], row["shard_sha256"])
        view = view_small(crop, row, each.side)
        truth[ys, xs], noisy[ys, xs], why[ys, xs] = view.truth, view.noisy, view.why
        covered[ys, xs] = True
    exposure = exposure_of(truth[covered])
    shown = [to_srgb(values, exposure) for values in (truth, noisy)]
    pictures = (*shown, over_picture(shown[0], why), difference(shown[1], shown[0]))
    for picture in pictures:
        picture[~covered] = EMPTY
    return PairPicture(
        truth=pictures[0],
        noisy=pictures[1],
        mask=pictures[2],
        difference=pictures[3],
        why=tuple(Why(value) for value in np.unique(why) if value),
        whole=bool(covered.all()),
        places=places,
    )
