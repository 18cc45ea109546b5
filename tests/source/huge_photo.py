"""Small files that hold huge photos: all tiles of a DNG lie at the same bytes."""

import hashlib
import struct
from pathlib import Path

import numpy as np

from rawnind.output.dng_tags import ORIENTATION
from rawnind.sample.dng import ACTIVE_AREA, encode_dng

TILE = 256
_IMAGE_WIDTH, _IMAGE_LENGTH = 256, 257  # TIFF 6.0
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_LONG = 4


def enlarged(data: bytes, height: int, width: int) -> bytes:
    """A DNG of `height` x `width` sites that repeats one of `TILE` x `TILE`.

    Args:
        data: what `encode_dng` gives for a mosaic of one tile.
        height: rows, a multiple of `TILE`.
        width: columns, a multiple of `TILE`.
    """
    out = bytearray(data)
    tiles = height // TILE * (width // TILE)
    (start,) = struct.unpack_from("<I", out, 4)
    (entries,) = struct.unpack_from("<H", out, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, _, _, value = struct.unpack_from("<HHII", out, place)
        if tag == ACTIVE_AREA:
            struct.pack_into("<4I", out, value, 0, 0, height, width)
        elif tag in {_STRIP_OFFSETS, _STRIP_BYTES}:
            repeated = value if tag == _STRIP_OFFSETS else 2 * TILE * TILE
            new = _TILE_OFFSETS if tag == _STRIP_OFFSETS else _TILE_BYTES
            struct.pack_into("<HHII", out, place, new, _LONG, tiles, len(out))
            out += struct.pack("<I", repeated) * tiles
        elif tag in _CHANGED:
            new = _CHANGED[tag]
            side = {_IMAGE_WIDTH: width, _IMAGE_LENGTH: height}.get(new, TILE)
            struct.pack_into("<HHII", out, place, new, _LONG, 1, side)
    return bytes(out)


_CHANGED = {
    _IMAGE_WIDTH: _IMAGE_WIDTH,
    _IMAGE_LENGTH: _IMAGE_LENGTH,
    _ROWS_PER_STRIP: _TILE_WIDTH,
    ORIENTATION: _TILE_LENGTH,
}
"""Tags of an image in strips, and those of an image in tiles that take their place."""


def add_huge_scene(folder: Path, height: int, width: int) -> None:
    """Adds a scene whose photos repeat one tile."""
    for number, kind in enumerate(("GT_ISO100", "ISO6400")):
        mosaic = np.random.default_rng(number).integers(600, 9000, (TILE, TILE), dtype=np.uint16)
        data = enlarged(
            encode_dng(mosaic, pattern=((0, 1), (1, 2)), black_level=(512,), white_level=16383, iso=100, make="SONY",
                       model="ILCE-7C", color_matrix=(0.7, 0.1, 0, -0.3, 1.1, 0.2, 0, 0.1, 0.6),
                       as_shot_neutral=(0.5, 1, 0.7)),
            height,
            width,
        )  # fmt: skip
        sha1 = hashlib.sha1(data).hexdigest()
        (folder / f"Bayer_huge_{kind}_sha1={sha1}.dng").write_bytes(data)
