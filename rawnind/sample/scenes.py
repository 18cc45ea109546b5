"""The scenes of the sample data set: content, viewpoint, exposure and fault of each photo."""

import math
from dataclasses import dataclass

from rawnind.reasons import Reason
from rawnind.records import Cfa
from rawnind.sample.truth import Damage

REFERENCE_SIDE = 640
"""A frame's shorter side, in sites, from which on shifts are as written below; smaller frames scale them down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A camera, with LibRaw's own matrix for it (which comes from Adobe's DNG converter).

    Attributes:
        xyz_to_camera: 3x3 row by row, D65.
        margins: rows and columns of its sensor that get no light: top, left, bottom, right. Some cameras leave them out of their
            files.
    """

    make: str
    model: str
    xyz_to_camera: tuple[float, ...]
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)


SONY = Camera(make="SONY", model="ILCE-7C",
              xyz_to_camera=(0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552))  # fmt: skip
CANON = Camera(make="Canon", model="EOS 500D",
               xyz_to_camera=(0.4763, 0.0712, -0.0646, -0.6821, 1.4399, 0.2640, -0.1921, 0.3276, 0.6561),
               margins=(14, 42, 0, 0))  # fmt: skip
PANASONIC = Camera(make="Panasonic", model="DC-G90",
                   xyz_to_camera=(0.9657, -0.3963, -0.0748, -0.3361, 1.1378, 0.2258, -0.0568, 0.1415, 0.5158),
                   margins=(12, 34, 6, 20))  # fmt: skip
OLYMPUS = Camera(make="OLYMPUS CORPORATION", model="E-M10",
                 xyz_to_camera=(0.8380, -0.2630, -0.0639, -0.2887, 1.0725, 0.2496, -0.0627, 0.1427, 0.5438))  # fmt: skip
FUJIFILM = Camera(make="FUJIFILM", model="X-T30",
                  xyz_to_camera=(1.3426, -0.6334, -0.1177, -0.4244, 1.2136, 0.2371, -0.0580, 0.1303, 0.5980),
                  margins=(12, 18, 7, 5))  # fmt: skip
UNKNOWN = Camera(make="Homemade", model="Camera One",  # LibRaw has no such camera; its matrix is only in the DNG
                 xyz_to_camera=(0.8000, -0.2500, -0.0700, -0.4000, 1.2000, 0.2000, -0.0800, 0.2000, 0.5500),
                 margins=(0, 24, 0, 12))  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One photo of a scene.

    Attributes:
        offset: (y, x): the visible area's first site shows the scene's point (y, x). The shift between two photos is
            the noisy one's offset less the GT's.
        gain: how many times darker than the scene's exposure the photo is.
        label: the ISO in the file's name, where it is not a number.
        object_at: centre of the scene's object as shares of height and width; None where the scene has none.
        photo: shown instead of the scene's own.
        detail: texture instead of the scene's own.
    """

    ground_truth: bool = False
    iso: int
    offset: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    label: str | None = None
    object_at: tuple[float, float] | None = None
    photo: str | None = None
    detail: str | None = None
    damage: Damage | None = None
    reason: Reason | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenePlan:
    """A scene before it is rendered.

    Attributes:
        photo: file of scikit-image's `data` folder.
        detail: the texture that adds the detail that the enlarged photo lacks.
        origin: (y, x) in the visible area of the first site of `cfa.tile`.
        black_level: one value, or four in plane order.
        lamp_at: centre of a lamp as shares of height and width.
        dark_corner: no light comes from the scene's lower left corner.
        object_photo: what the scene's moving object shows.
        zoom: sites per pixel of the photo; None: as many as fill the frame.
        pan: how far the seed moves the view, as a share of the photograph.
    """

    name: str
    photo: str
    shots: tuple[Shot, ...]
    cfa: Cfa = Cfa.BAYER
    camera: Camera = SONY
    detail: str = "gravel.png"
    origin: tuple[int, int] = (0, 0)
    black_level: tuple[int, ...] = (512,)
    white_level: int = 16383
    lamp_at: tuple[float, float] | None = None
    dark_corner: bool = False
    object_photo: str = "coffee.png"
    zoom: float | None = None
    pan: float = 0.04
    test_reserve: bool = False
    unknown_sensor: bool = False
    reason: Reason | None = None


def _gt(iso: int, offset: tuple[float, float] = (0, 0), gain: float = 1.0,
        object_at: tuple[float, float] | None = None) -> Shot:  # fmt: skip
    return Shot(ground_truth=True, iso=iso, offset=offset, gain=gain, object_at=object_at)


SCENES = (
    ScenePlan(
        name="cat",
        photo="chelsea.png",
        dark_corner=True,
        shots=(_gt(100), Shot(iso=1600, offset=(3, -5)), Shot(iso=65535, offset=(-8, 13), gain=0.8)),
    ),
    ScenePlan(  # two ground truths, twelve bits, four black levels, an ISO that is a word, half a pixel
        name="coffee-cup",
        photo="coffee.png",
        detail="grass.png",
        camera=OLYMPUS,
        origin=(0, 1),  # GRBG
        black_level=(254, 256, 257, 255),
        white_level=4095,
        dark_corner=True,
        shots=(
            _gt(100),
            _gt(200, (2, 1), gain=1.25),
            Shot(iso=3200, offset=(-17, 22), gain=2.0),
            Shot(iso=3200, label="Hi 3200", offset=(5, -4), gain=0.6),
            Shot(iso=12800, offset=(4.5, -2.5)),
        ),
    ),
    ScenePlan(
        name="launch_pad",
        photo="rocket.jpg",
        camera=CANON,
        origin=(1, 0),  # GBRG
        black_level=(1023,),
        white_level=15600,
        lamp_at=(0.3, 0.62),
        shots=(
            _gt(100),
            Shot(iso=800, offset=(11, -9), gain=0.5),
            Shot(iso=25600, offset=(-6, -31), gain=1.6),
        ),
    ),
    ScenePlan(
        name="spacesuit",
        photo="astronaut.png",
        detail="brick.png",
        camera=PANASONIC,
        origin=(1, 1),  # BGGR
        shots=(
            _gt(200),
            Shot(iso=3200, offset=(-41, 64), gain=1.3),
            Shot(iso=51200, offset=(97, -58), gain=0.7),
        ),
    ),
    ScenePlan(
        name="motorbike",
        photo="motorcycle_left.png",
        dark_corner=True,
        shots=(
            _gt(100, object_at=(0.3, 0.3)),
            Shot(iso=800, offset=(1, 0), object_at=(0.62, 0.7)),
            Shot(iso=6400, offset=(0, -7), gain=0.9, object_at=(0.7, 0.35)),
            Shot(iso=25600, offset=(-15, 4), gain=1.2, object_at=(0.35, 0.75)),
            Shot(iso=65535, offset=(6, 20), gain=0.7, object_at=(0.5, 0.52)),
        ),
    ),
    ScenePlan(
        name="retina",
        photo="retina.jpg",
        detail="grass.png",
        cfa=Cfa.X_TRANS,
        camera=FUJIFILM,
        origin=(2, 4),
        black_level=(1022,),
        object_photo="coins.png",
        shots=(
            _gt(160, object_at=(0.35, 0.4)),
            Shot(iso=1600, offset=(-7, 12), gain=1.4, object_at=(0.35, 0.4)),
            Shot(iso=12800, offset=(9, 5), gain=0.75, object_at=(0.6, 0.65)),
        ),
    ),
    ScenePlan(
        name="tissue",
        photo="ihc.png",
        cfa=Cfa.X_TRANS,
        camera=UNKNOWN,
        unknown_sensor=True,
        shots=(_gt(200), Shot(iso=6400, offset=(1, -2))),
    ),
    ScenePlan(
        name="cameraman",
        photo="camera.png",
        detail="grass.png",
        test_reserve=True,
        shots=(_gt(100), Shot(iso=12800, offset=(-3, 6), gain=1.1)),
    ),
    ScenePlan(
        name="deep-field",
        photo="hubble_deep_field.jpg",
        reason=Reason.NO_GROUND_TRUTH,
        shots=(Shot(iso=3200, reason=Reason.NO_GROUND_TRUTH),),
    ),
    ScenePlan(
        name="coins",
        photo="coins.png",
        shots=(
            _gt(100),
            Shot(iso=1600, offset=(7, 7)),
            Shot(iso=6400, offset=(2, -3), damage=Damage.FLIPPED, reason=Reason.SHA1_MISMATCH),
        ),
    ),
    ScenePlan(
        name="moon",
        photo="moon.png",
        reason=Reason.TRUNCATED,
        shots=(
            _gt(100),
            Shot(iso=3200, offset=(-5, 5), damage=Damage.TRUNCATED, reason=Reason.TRUNCATED),
        ),
    ),
    ScenePlan(
        name="two-motifs",
        photo="motorcycle_right.png",
        reason=Reason.ALIGNMENT_UNCERTAIN,
        shots=(
            _gt(100),
            Shot(iso=1600, photo="ihc.png", detail="grass.png", reason=Reason.ALIGNMENT_UNCERTAIN),
        ),
    ),
)


def scaled_offset(offset: tuple[float, float], shorter_side: int) -> tuple[float, float]:
    """The offset for a frame of that size: no larger in proportion; what is odd, even or half stays so.

    >>> scaled_offset((97, -58), 288), scaled_offset((4.5, -2.5), 320), scaled_offset((3, -5), 4000)
    ((43.0, -26.0), (2.5, -0.5), (3.0, -5.0))
    """
    y, x = (_scaled(value, min(1.0, shorter_side / REFERENCE_SIDE)) for value in offset)
    return y, x


def _scaled(value: float, factor: float) -> float:
    size = abs(value)
    rest = math.fmod(size, 2)
    return math.copysign(2 * math.floor((size - rest) / 2 * factor) + rest, value) + 0.0  # no -0.0
