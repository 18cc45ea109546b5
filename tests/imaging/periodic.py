"""Scenes that repeat: fabric, grilles, brick, lines of text, rows of plants, flat or in perspective, with and without other things.

Each is (H, W, 3) float32 light of white 1, before the sensor's response.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.imaging.simulation import MOTIFS, canvas

Light = NDArray[np.float32]
Float32s = NDArray[np.float32]
OPTICS = 0.6  # standard deviation in sites of what a lens blurs


class Texture(StrEnum):
    FABRIC = "fabric"
    GRILLE = "grille"
    BRICK = "brick"
    LINES = "lines of one text"
    ROWS = "rows of plants"


class Beside(StrEnum):
    """What else there is to see."""

    NOTHING = "nothing"
    FOLDS = "folds"
    BUTTON = "a button"
    THREADS = "uneven threads"
    HALF = "half a photograph"


@dataclass(frozen=True, kw_only=True, slots=True)
class Periodic:
    """A scene that repeats.

    Attributes:
        texture: what repeats: in two directions, of grille and rows of plants in one.
        period: sites.
        turn: radians.
        perspective: relative change of the period from the middle to the border.
        contrast: of the texture, 0..1.
        beside: what else there is to see.
    """

    texture: Texture
    period: float
    turn: float
    perspective: float = 0.0
    contrast: float = 0.5
    beside: Beside = Beside.NOTHING


def draw_periodic(rng: np.random.Generator) -> Periodic:
    """A scene with a period of 4 to 60 sites."""
    flat = rng.random() < 0.6
    return Periodic(
        texture=Texture(rng.choice(list(Texture))),
        period=float(4 * 15 ** rng.random()),
        turn=float(rng.choice([0.0, rng.normal(0, 0.03), rng.uniform(0, np.pi)])),
        perspective=0.0 if flat else float(rng.uniform(-0.2, 0.2)),
        contrast=float(rng.uniform(0.1, 0.8)),
        beside=Beside(rng.choice(list(Beside))),
    )


def periodic_light(scene: Periodic, shape: tuple[int, int], seed: int) -> Light:
    """The light of a scene.

    Args:
        scene: what it shows.
        shape: (H, W) in sites.
        seed: of what is drawn at random.
    """
    rng = np.random.default_rng([seed, 17])
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) - np.float32(shape)[:, None, None] / 2
    x = x / (1 + np.float32(scene.perspective) * y / shape[0] * 2)
    along, across = (
        np.cos(scene.turn) * x + np.sin(scene.turn) * y,
        np.cos(scene.turn) * y - np.sin(scene.turn) * x,
    )
    u, v = (np.float32(each / scene.period + rng.random()) for each in (along, across))
    depth = np.full(shape, np.float32(scene.contrast))
    if scene.beside is Beside.THREADS:  # of each thread its own brightness
        depth *= _per_thread(v, rng, 0.3) * _per_thread(u, rng, 0.3)
    bright = 1 - depth * _pattern(scene.texture, u, v, rng)
    if scene.beside is Beside.FOLDS:
        bright *= 0.7 + 0.3 * cv2.resize(
            rng.random((5, 7), np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC
        )
    light = bright[..., None] * rng.uniform(0.15, 0.6, 3).astype(np.float32)
    if scene.beside in {Beside.BUTTON, Beside.HALF}:
        photo = canvas(MOTIFS[rng.integers(len(MOTIFS))], shape, seed)
        light = np.where(_place(scene.beside, shape, rng)[..., None], photo, light)
    return cv2.GaussianBlur(np.maximum(light, np.float32(0.002)), (0, 0), OPTICS)


def _per_thread(across: Float32s, rng: np.random.Generator, spread: float) -> Float32s:
    number = np.floor(across).astype(np.int64)
    factors = np.exp(rng.normal(0, spread, int(np.ptp(number)) + 1)).astype(np.float32)
    return np.minimum(factors[number - number.min()], 1.5)


def _pattern(texture: Texture, u: Float32s, v: Float32s, rng: np.random.Generator) -> Float32s:
    """0..0.6, with period 1 in `v` and, but for the grille and the rows, in `u`."""
    if texture is Texture.FABRIC:
        return np.float32(0.3) + np.float32(0.3) * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)
    if texture is Texture.GRILLE:
        return np.float32(0.6) * (v % 1 < 0.4)
    if texture is Texture.BRICK:
        joint = (v % 1 < 0.15) | ((u / 2 + np.floor(v) / 2) % 1 < 0.08)
        return np.float32(0.6) * joint
    tile = gaussian_filter(rng.random((32, 32), np.float32), 2, mode="wrap")
    tile = (tile - tile.min()) / np.ptp(tile)
    if texture is Texture.LINES:
        return np.float32(0.6) * (_sampled(tile, u / 2, v) > 0.6) * (v % 1 < 0.7)
    plants = np.exp(-(((v % 1 - 0.5) / 0.2) ** 2))
    rough = cv2.GaussianBlur(rng.random((2048, 2048), np.float32), (0, 0), 1)
    return np.float32(0.6) * plants * _sampled((rough - rough.min()) / np.ptp(rough), u / 200, v / 200)


def _sampled(tile: Float32s, u: Float32s, v: Float32s) -> Float32s:
    """A tile that repeats with period 1, at (u, v)."""
    height, width = tile.shape
    padded = np.pad(tile, 2, mode="wrap")
    at = ((u % 1) * width + 2).astype(np.float32), ((v % 1) * height + 2).astype(np.float32)
    return cv2.remap(padded, *at, cv2.INTER_LINEAR)


def _place(beside: Beside, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    if beside is Beside.HALF:
        return x < shape[1] * rng.uniform(0.3, 0.6)
    center = [rng.uniform(0.3, 0.7) * extent for extent in shape]
    return np.hypot(y - center[0], x - center[1]) < rng.uniform(20, 80)
