"""Reads the tags of a DNG whose content LibRaw loses: black levels by site, number format and colours of the filters.

Tags are those of TIFF 6.0 and of the DNG specification 1.4, chapter 4.
"""

import math
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rawnind.errors import SourceError
from rawnind.reasons import Reason
from rawnind.records import Cfa
from rawnind.source.tiff import directory, numbers

Tags = Mapping[int, tuple[float, ...]]

_WIDTH, _HEIGHT, _PHOTOMETRIC, _SUB_IFDS, _SAMPLE_FORMAT = 256, 257, 262, 330, 339
_DNG_VERSION, _PLANE_COLOR = 50706, 50710
_BLACK_REPEAT, _BLACK_LEVEL, _DELTA_H, _DELTA_V, _MASKED_AREAS = 50713, 50714, 50715, 50716, 50830
_WANTED = {_WIDTH, _HEIGHT, _PHOTOMETRIC, _SUB_IFDS, _SAMPLE_FORMAT, _DNG_VERSION, _PLANE_COLOR,
           _BLACK_REPEAT, _BLACK_LEVEL, _DELTA_H, _DELTA_V, _MASKED_AREAS}  # fmt: skip
_CFA, _FLOATING, _RGB = 32803, 3, (0, 1, 2)
_MOST_DIRECTORIES = 32

MAX_BLACK_SPREAD = 1.0
"""Sensor values by which black levels of one plane may differ: less than the file's own quantisation."""

MAX_BLACK_FRACTION = 0.25
"""Of the white level; cameras have up to 0.15 (Canon's 2,048 of 13,600)."""

MAX_MASKED_DEVIATION = 0.05
"""Standard deviation of masked sites over the white level; above it they hold picture: read noise stays below 0.02."""


def mosaic_tags(data: bytes) -> Tags:
    """The wanted tags of a DNG's largest mosaic; empty for other files, and where the directories are damaged.

    Args:
        data: the whole file.
    """
    if data[:4] not in {b"II*\0", b"MM\0*"}:
        return {}
    order = "<" if data[:1] == b"I" else ">"
    try:
        todo = [int(struct.unpack_from(order + "I", data, 4)[0])]
        found: list[Tags] = []
        while todo and len(found) < _MOST_DIRECTORIES:
            entries, following = directory(data, order, todo.pop(0), _WANTED)
            tags = {tag: values for tag, entry in entries.items() if (values := numbers(data, order, entry))}
            found.append(tags)
            todo += [int(start) for start in (*tags.get(_SUB_IFDS, ()), following) if start]
    except struct.error:
        return {}
    if _DNG_VERSION not in found[0]:
        return {}
    mosaics = [tags for tags in found if tags.get(_PHOTOMETRIC) == (_CFA,)]
    return max(
        mosaics, key=lambda tags: math.prod((*tags.get(_WIDTH, ()), *tags.get(_HEIGHT, ()))), default={}
    )


def check_format(tags: Tags, filename: str) -> None:
    """Raises where LibRaw would quantise floating-point values, or take other colours for red, green and blue.

    Raises:
        SourceError: unsupported_levels or unsupported_cfa.
    """
    if _FLOATING in tags.get(_SAMPLE_FORMAT, ()):
        detail = "its sensor values are floating-point numbers"
        raise SourceError(Reason.UNSUPPORTED_LEVELS, f"{filename}: {detail}")
    if (colors := tags.get(_PLANE_COLOR, _RGB)) != _RGB:
        detail = f"its filters have the colours {colors} of CFAPlaneColor, not red, green and blue"
        raise SourceError(Reason.UNSUPPORTED_CFA, f"{filename}: {detail}")


def exact_black(
    black: tuple[float, ...], tags: Tags, cfa: Cfa, origin: tuple[int, int], *, filename: str
) -> tuple[float, ...]:
    """The file's own black levels where LibRaw's are these without their fractions, or the least of a large tile.

    Args:
        black: LibRaw's black levels in plane order, sensor values.
        tags: of the mosaic; empty where the file is no DNG.
        cfa: the CFA.
        origin: (y, x) in the visible area of the first site of the CFA's tile.
        filename: for messages.

    Returns:
        Sensor values in plane order.

    Raises:
        SourceError: unsupported_levels: sites of one plane have different black levels.
    """
    levels = tags.get(_BLACK_LEVEL, ())
    rows, columns = (int(side) for side in (*tags.get(_BLACK_REPEAT, ()), 1, 1)[:2])
    deltas = [tags.get(tag) or (0.0,) for tag in (_DELTA_H, _DELTA_V)]
    if not levels or len(levels) != rows * columns:
        return black
    for name, values in zip(("column", "row"), deltas, strict=True):
        if max(values) - min(values) >= MAX_BLACK_SPREAD:
            detail = f"its black level differs from {name} to {name}"
            raise SourceError(Reason.UNSUPPORTED_LEVELS, f"{filename}: {detail}")
    tile = np.reshape(levels, (rows, columns)) + float(sum(np.mean(values) for values in deltas))
    exact = _by_plane(tile, cfa, origin, filename)
    large = rows > 2 or columns > 2  # LibRaw keeps such a tile where rawpy does not reach it
    close = all(abs(one - other) < 1 for one, other in zip(exact, black, strict=True))
    return exact if large or close else black


def _by_plane(
    tile: NDArray[np.float64], cfa: Cfa, origin: tuple[int, int], filename: str
) -> tuple[float, ...]:
    """One black level per plane.

    Args:
        tile: (rows, columns) sensor values, repeated from the visible area's first site.
        cfa: the CFA.
        origin: (y, x) in the visible area of the first site of the CFA's tile.
        filename: for messages.

    Raises:
        SourceError: unsupported_levels: sites of one plane have different black levels.
    """
    height, width = (math.lcm(side, cfa.period) for side in tile.shape)
    planes = np.array([[0, 1], [2, 3]] if cfa is Cfa.BAYER else cfa.tile)
    of_site = np.tile(np.roll(planes, origin, (0, 1)), (height // cfa.period, width // cfa.period))
    black = np.tile(tile, (height // tile.shape[0], width // tile.shape[1]))
    found = [black[of_site == plane] for plane in range(len(cfa.plane_colors))]
    if any(np.ptp(levels) >= MAX_BLACK_SPREAD for levels in found):
        detail = f"black levels of one colour differ within a tile of {tile.shape[0]} x {tile.shape[1]} sites"
        raise SourceError(Reason.UNSUPPORTED_LEVELS, f"{filename}: {detail}")
    return tuple(float(levels.mean()) for levels in found)


def check_black(
    tags: Tags, raw_image: NDArray[np.uint16], black: tuple[float, ...], white: float, filename: str
) -> None:
    """Raises where the black level cannot be one: masked areas of some files hold picture.

    Args:
        tags: of the mosaic.
        raw_image: (H, W) uint16 sensor values with margins.
        black: sensor values.
        white: sensor value at which the sensor is full.
        filename: for messages.

    Raises:
        SourceError: unsupported_levels.
    """
    if max(black) > MAX_BLACK_FRACTION * white:
        detail = f"black level {max(black):g} is implausible with a white level of {white:g}"
        raise SourceError(Reason.UNSUPPORTED_LEVELS, f"{filename}: {detail}")
    areas = tags.get(_MASKED_AREAS, ())
    for top, left, bottom, right in zip(*(map(int, areas[side::4]) for side in range(4)), strict=False):
        masked = raw_image[top:bottom, left:right]
        if masked.size and masked.std() > MAX_MASKED_DEVIATION * white:
            raise SourceError(
                Reason.UNSUPPORTED_LEVELS,
                f"{filename}: its masked areas, which give the black level, hold picture",
            )
