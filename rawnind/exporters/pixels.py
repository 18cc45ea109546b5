"""The pixels of an export as the research code's loaders read them: planes in .npy, colours in .tif, masks in .png."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from rawnind.feed.rows import Pair
from rawnind.imaging.color import camera_to_rec2020
from rawnind.output.shard_reader import StoredCrop
from rawnind.records import Cfa


def levels(mosaic: NDArray[np.uint16], black: tuple[float, ...], white: float) -> NDArray[np.float32]:
    """The levels of an RGGB mosaic.

    Args:
        mosaic: (h, w) uint16 sensor values that start on red.
        black: black levels of R, G, G, B.
        white: white level.

    Returns:
        (4, h/2, w/2) float32 in R, G, G, B order; 0 is black, 1 white.

    >>> levels(np.array([[3, 5], [7, 9]], np.uint16), (1.0, 1.0, 1.0, 1.0), 5.0).ravel()
    array([0.5, 1. , 1.5, 2. ], dtype=float32)
    """
    planes = np.stack([mosaic[y::2, x::2] for y in (0, 1) for x in (0, 1)]).astype(np.float32)
    offsets = np.array(black, np.float32)[:, None, None]
    return (planes - offsets) / (np.float32(white) - offsets)


def gt_bayer(
    stored: StoredCrop, pair: Pair, shift: tuple[int, int], gt_matrix: Sequence[float]
) -> NDArray[np.float32]:
    """The GT as an RGGB mosaic on the sites of the noisy photo, (4, h/2, w/2) levels; of X-Trans too, for clean-clean training.

    Sampled from the stored RGB, which lies where the noisy photo stood. In folders of earlier versions it lay at a whole shift:
    with an even one, the GT's own values are on the same sites.

    Args:
        stored: a crop of the pair.
        pair: black and white levels.
        shift: (dy, dx) of the crop.
        gt_matrix: XYZ -> camera RGB of the GT, 9 numbers row by row.
    """
    if pair.cfa is Cfa.BAYER and pair.gt_contrast is None and not any(step % 2 for step in shift):
        return levels(stored.gt_raw, pair.gt_black, pair.gt_white)
    to_camera = np.linalg.inv(camera_to_rec2020(gt_matrix)).astype(np.float32)
    sites = ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1))  # colour, row, column of R, G, G, B
    rgb = stored.gt_rgb.astype(np.float32)
    # not by BLAS, whose own threads would wait for each other beside those of the export
    return np.stack([np.einsum("k,khw->hw", to_camera[color], rgb[:, y::2, x::2]) for color, y, x in sites])


def tiff_bytes(image: NDArray[Any]) -> bytes:
    """A float32 TIFF of (3, h, w), which OpenCV reads; only OpenImageIO reads half floats."""
    sink = io.BytesIO()
    pixels = np.ascontiguousarray(np.moveaxis(image, 0, -1), np.float32)
    tifffile.imwrite(sink, pixels, photometric="rgb", metadata=None, software=False)
    return sink.getvalue()


def npy_bytes(planes: NDArray[np.float32]) -> bytes:
    """An .npy file of any array."""
    sink = io.BytesIO()
    np.save(sink, planes, allow_pickle=False)
    return sink.getvalue()


def png_bytes(mask: NDArray[np.uint8]) -> bytes:
    """A PNG of an (h, w) mask of 0 and 255."""
    done, data = cv2.imencode(".png", mask)
    if not done:
        raise ValueError(f"a mask of shape {mask.shape} cannot be encoded as PNG")
    return bytes(data)
