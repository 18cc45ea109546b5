"""Further scenes of the sample, drawn from its seed: for training, which the twelve fixed ones are too few for."""

import numpy as np

from rawnind.records import Cfa
from rawnind.sample.scenes import CANON, FUJIFILM, OLYMPUS, PANASONIC, SCENES, SONY, Camera, ScenePlan, Shot

_PHOTOS: tuple[tuple[Camera, tuple[str, ...]], ...] = (
    (SONY, ("chelsea.png", "motorcycle_left.png", "hubble_deep_field.jpg")),
    (CANON, ("rocket.jpg",)),
    (OLYMPUS, ("coffee.png",)),
    (PANASONIC, ("astronaut.png",)),
    (FUJIFILM, ("retina.jpg",)),
)
"""As in the fixed scenes, no photograph is shown to two cameras: a camera that is held out shows nothing that was trained on."""
_DETAILS = ("gravel.png", "grass.png", "brick.png")
_ISOS = (800, 1600, 3200, 6400, 12800, 25600, 65535)
_NOISY = 2  # noisy photos of a scene
_REACH = 24.0  # sites that a photo's viewpoint is off at most
_ZOOMS = (1.25, 2.5)  # sites per pixel of the photograph


def scene_plans(count: int, seed: int) -> tuple[ScenePlan, ...]:
    """The first scenes of the sample: the twelve fixed ones, then as many drawn ones as are wanted.

    Args:
        count: of scenes.
        seed: of the sample; a scene depends on it and on its number alone.

    >>> [plan.name for plan in scene_plans(14, 0)[11:]]
    ['two-motifs', 'scene-012', 'scene-013']
    """
    drawn = (_drawn(number, np.random.default_rng([seed, number])) for number in range(len(SCENES), count))
    return (*SCENES[:count], *drawn)


def _drawn(number: int, rng: np.random.Generator) -> ScenePlan:
    """A scene with one GT and two noisy photos; in every third one an object moves between them."""
    camera, photos = _PHOTOS[number % len(_PHOTOS)]
    x_trans = camera is FUJIFILM
    moves = number % 3 == 0
    period = 6 if x_trans else 2
    origin = (int(rng.integers(period)), int(rng.integers(period)))
    shots = [Shot(ground_truth=True, iso=100, object_at=_place(rng) if moves else None)]
    for iso in rng.choice(_ISOS, _NOISY, replace=False).tolist():
        y, x = rng.uniform(-_REACH, _REACH, 2).round(2).tolist()
        gain = round(float(rng.uniform(0.7, 1.5)), 3)
        shots.append(Shot(iso=iso, offset=(y, x), gain=gain, object_at=_place(rng) if moves else None))
    return ScenePlan(
        name=f"scene-{number:03}",
        photo=photos[int(rng.integers(len(photos)))],
        detail=_DETAILS[int(rng.integers(len(_DETAILS)))],
        shots=tuple(shots),
        cfa=Cfa.X_TRANS if x_trans else Cfa.BAYER,
        camera=camera,
        origin=origin,
        black_level=(1022,) if x_trans else (512,),
        zoom=round(float(rng.uniform(*_ZOOMS)), 3),
        pan=1.0,
    )


def _place(rng: np.random.Generator) -> tuple[float, float]:
    y, x = rng.uniform(0.2, 0.8, 2).round(3).tolist()
    return y, x
