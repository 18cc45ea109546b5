"""Scenes that photographs show too rarely: star fields, text, foliage, fabric, saturated colours, black surroundings.

Each is (H, W, 3) float32 light of white 1, before the sensor's response, drawn by a generator.
"""

from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.imaging.simulation import MOTIFS, canvas

Light = NDArray[np.float32]
BLACK = 0.0005  # light of a dark room at the scene's exposure


class Scene(StrEnum):
    PHOTOGRAPH = "photograph"
    STARS = "stars"
    TEXT = "text"
    FOLIAGE = "foliage"
    FABRIC = "fabric"
    SATURATED = "saturated"
    BLACK_SURROUNDINGS = "black surroundings"


def draw_light(scene: Scene, shape: tuple[int, int], rng: np.random.Generator) -> Light:
    """The light of a scene.

    Args:
        scene: its kind.
        shape: (H, W) in sites.
        rng: what the scene's content is drawn from.
    """
    drawn = {Scene.STARS: _stars, Scene.TEXT: _text, Scene.FOLIAGE: _foliage, Scene.FABRIC: _fabric}
    if scene in drawn:
        return drawn[scene](shape, rng)
    light = canvas(MOTIFS[rng.integers(len(MOTIFS))], shape, int(rng.integers(2**31)))
    if scene is Scene.SATURATED:
        return light * _patchwork(shape, rng)
    if scene is Scene.BLACK_SURROUNDINGS:
        return np.where(_disc(shape, rng), light, np.float32(BLACK))
    return light


def _stars(shape, rng):
    light = np.full((*shape, 3), BLACK, np.float32)
    count = rng.integers(200, 2000)
    places = tuple(rng.integers(extent, size=count) for extent in shape)
    light[places] += rng.exponential(3.0, (count, 1)).astype(np.float32) * rng.uniform(0.5, 1, (count, 3))
    return cv2.GaussianBlur(light, (0, 0), rng.uniform(0.6, 1.2))


def _text(shape, rng):
    ink = np.zeros(shape, np.uint8)
    size = float(rng.uniform(0.35, 1.2))
    for baseline in range(12, shape[0] + 30, round(34 * size) + 4):
        words = "".join(rng.choice(list("abcdefghijklmnoprstuvwyz  "), 160))
        cv2.putText(
            ink,
            words,
            (-int(rng.integers(20)), baseline),
            cv2.FONT_HERSHEY_SIMPLEX,
            size,
            255,
            1,
            cv2.LINE_AA,
        )
    paper, dark = rng.uniform(0.3, 0.8), rng.uniform(0.005, 0.1, 3)
    return (paper + (ink[..., None] / 255) * (dark - paper)).astype(np.float32)


def _foliage(shape, rng):
    light = np.full((*shape, 3), 0.01, np.float32)
    for _ in range(shape[0] * shape[1] // 250):
        center = tuple(int(rng.integers(extent)) for extent in shape[::-1])
        axes = tuple(int(side) for side in rng.integers(3, 18, 2))
        leaf = (rng.uniform(0.02, 0.6) * np.array([0.5, 1.0, 0.25]) * rng.uniform(0.7, 1.3, 3)).tolist()
        cv2.ellipse(light, center, axes, float(rng.uniform(0, 360)), 0, 360, leaf, -1, cv2.LINE_8)
    return light


def _fabric(shape, rng):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(2.5, 7)
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    weave = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    folds = 0.6 + 0.4 * np.sin(along / rng.uniform(60, 200))
    bright = folds * (1 + rng.uniform(0.1, 0.5) * weave)
    return (bright[..., None] * rng.uniform(0.05, 0.5, 3)).astype(np.float32)


def _patchwork(shape, rng):
    """(H, W, 3) factors: one or two of the colours of each patch are nearly 0."""
    colors = rng.choice(np.float32([0.02, 1.0]), (-(-shape[0] // 90), -(-shape[1] // 90), 3))
    return np.repeat(np.repeat(colors, 90, 0), 90, 1)[: shape[0], : shape[1]]


def _disc(shape, rng):
    y, x = np.mgrid[: shape[0], : shape[1]]
    center, radius = (
        [rng.uniform(0.3, 0.7) * extent for extent in shape],
        rng.uniform(0.25, 0.45) * min(shape),
    )
    return (np.hypot(y - center[0], x - center[1]) < radius)[..., None]
