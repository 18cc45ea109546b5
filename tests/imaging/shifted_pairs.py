"""Synthetic pairs whose truth is known: photographs seen through a sensor, twice.

A photograph from scikit-image becomes a canvas in linear light at one pixel per sensor site. Both photos of a pair sample
it through the same colour filter array and the same sensor (hot pixels, column pattern), at different places and with
different noise. The same case gives the same pair on every machine with the same libraries.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray

from rawnind.imaging.photo import Photo
from rawnind.records import Cfa, Sensor

MOTIFS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
MAX_ZOOM = 3.0  # a photograph blown up further has no detail left at the size of a site
FULL_WELL = 50_000.0  # electrons at ISO 100, typical of a 24 MP full-frame sensor
READ_NOISE = 2.5  # electrons
ADC_NOISE = 1.5  # sensor values of 14 bit
STEP = 32  # cv2 resamples at multiples of 1/32 px
MARGIN = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is true of a synthetic pair.

    Attributes:
        displacement: (dy, dx) in sites, multiples of 1/32: GT site (y + dy, x + dx) shows what noisy site (y, x) shows.
        rotation: degrees that the noisy photo's content is turned against the GT's about the centre, counter-clockwise.
        scale: size of the noisy photo's content relative to the GT's, minus one.
        gain: what brings the noisy photo to the GT's level.
        hot_pixels: share of sites that are hot, the same in both photos.
        column_pattern: standard deviation of the columns' offsets in units of the read noise, the same in both photos.
        row_noise: standard deviation of the rows' offsets in units of the read noise, fresh in each photo.
        object_size: diameter in sites of something that is here in one photo and there in the other; 0 for none.
        noisy_motif: what the noisy photo shows; None for the same as the GT.
    """

    seed: int
    cfa: Cfa
    height: int
    width: int
    motif: str
    displacement: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: float = 0.0
    gt_iso: int = 100
    iso: int = 3200
    gain: float = 1.0
    hot_pixels: float = 0.0
    column_pattern: float = 0.0
    row_noise: float = 0.0
    object_size: int = 0
    noisy_motif: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Pair:
    """Both photos, and where (H, W) of the noisy photo something moved."""

    case: Case
    ground_truth: Photo
    noisy: Photo
    moved: NDArray[np.bool_]


def draw_case(seed: int, height: int = 512, width: int = 768, *, max_shift: int = 128) -> Case:
    """A case with everything that goes wrong in practice; half of them with a sub-pixel residual."""
    rng = np.random.default_rng(seed)
    cfa = (Cfa.BAYER, Cfa.X_TRANS)[seed % 2]
    whole = rng.integers(-max_shift, max_shift + 1, 2)
    residual = rng.integers(-13, 14, 2) / STEP if rng.random() < 0.5 else (0.0, 0.0)
    return Case(
        seed=seed,
        cfa=cfa,
        height=height // cfa.period * cfa.period,
        width=width // cfa.period * cfa.period,
        motif=MOTIFS[rng.integers(len(MOTIFS))],
        displacement=(float(whole[0] + residual[0]), float(whole[1] + residual[1])),
        gt_iso=int(rng.choice([50, 100, 200, 400])),
        iso=round(200 * (65535 / 200) ** rng.random()),
        gain=float(2.0 ** rng.uniform(-1, 1)),
        hot_pixels=float(rng.choice([0, 1e-4, 1e-3])),
        column_pattern=float(rng.choice([0, 0.3, 1.0])),
        row_noise=float(rng.choice([0, 0.3])),
        object_size=int(rng.choice([0, height // 5, height // 3])),
    )


def draw_strangers(seed: int, height: int = 512, width: int = 768) -> Case:
    """A case whose photos show two different motifs through the same sensor."""
    case = draw_case(seed, height, width)
    other = MOTIFS.index(case.motif) + 1 + seed % (len(MOTIFS) - 1)
    return replace(case, noisy_motif=MOTIFS[other % len(MOTIFS)], object_size=0)


def render(case: Case) -> Pair:
    """The pair of a case."""
    reach = tuple(int(np.ceil(abs(d))) + MARGIN for d in case.displacement)
    shape = (case.height + 2 * reach[0], case.width + 2 * reach[1])
    gt_canvas = canvas(case.motif, shape, case.seed)
    noisy_canvas = gt_canvas if case.noisy_motif is None else canvas(case.noisy_motif, shape, case.seed + 1)
    moved = np.zeros(shape, np.bool_)
    if case.object_size:
        gt_canvas, noisy_canvas, moved = _move_object(case, gt_canvas, noisy_canvas)
    identity = np.array([[1.0, 0, reach[1]], [0, 1.0, reach[0]]])
    light = _look(gt_canvas, _gt_to_canvas(case, reach), case)
    dark = _look(noisy_canvas, identity, case)
    dark *= 1 / case.gain
    sensor = make_sensor(case.cfa, case.height, case.width)
    rng = np.random.default_rng([case.seed, 7])
    return Pair(
        case=case,
        ground_truth=_expose(light, sensor, case.gt_iso, case, rng),
        noisy=_expose(dark, sensor, case.iso, case, rng),
        moved=moved[reach[0] : reach[0] + case.height, reach[1] : reach[1] + case.width],
    )


def make_sensor(cfa: Cfa, height: int, width: int) -> Sensor:
    """A 14-bit sensor with slightly different black levels."""
    black = {Cfa.BAYER: (512.0, 511.0, 513.0, 512.0), Cfa.X_TRANS: (1022.0, 1023.0, 1021.0)}[cfa]
    return Sensor(
        cfa=cfa, origin=(0, 0), height=height, width=width, black_level=black, white_level=16383.0,
        overexposure_lb=1.0, rgb_xyz_matrix=None, camera="synthetic",
    )  # fmt: skip


def color_index(cfa: Cfa, height: int, width: int) -> NDArray[np.int8]:
    """(H, W): 0 red, 1 green, 2 blue."""
    tile = np.array(cfa.tile, np.int8)
    return np.tile(tile, (-(-height // cfa.period), -(-width // cfa.period)))[:height, :width]


@cache
def _photograph(name: str) -> NDArray[np.float32]:
    """(h, w, 3) linear light, 0.01 to 0.8."""
    data = cv2.imread(str(Path(skimage.__file__).parent / "data" / name), cv2.IMREAD_COLOR)[:, :, ::-1]
    light = data.astype(np.float32) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)  # sRGB
    return (0.01 + 0.79 * light).astype(np.float32)


def canvas(motif: str, shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """A (H, W, 3) part of the photograph at up to MAX_ZOOM canvas pixels per pixel, mirrored where it is too small."""
    rng = np.random.default_rng([seed, 3])
    light = _photograph(motif)
    zoom = min(max(shape[0] / light.shape[0], shape[1] / light.shape[1], 1.0), MAX_ZOOM)
    large = cv2.resize(light, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    large = np.maximum(large, 0.002)
    lacks = [max(0, need - have) for need, have in zip(shape, large.shape[:2], strict=True)]
    if any(lacks):
        large = np.pad(large, ((0, lacks[0]), (0, lacks[1]), (0, 0)), mode="symmetric")
    top, left = (
        int(rng.integers(have - need + 1)) for need, have in zip(shape, large.shape[:2], strict=True)
    )
    part = large[top : top + shape[0], left : left + shape[1]]
    return np.ascontiguousarray(part[:, :: rng.choice([-1, 1])])


def _gt_to_canvas(case: Case, reach: tuple[int, int]) -> NDArray[np.float64]:
    """2x3 matrix that takes the GT's (x, y) to the canvas's.

    Seen with y downwards, noisy = centre + (1 + scale) * R * (gt - displacement - centre) with
    R = [[cos, sin], [-sin, cos]] on (x, y), a counter-clockwise turn.
    """
    angle, size = np.deg2rad(case.rotation), 1 + case.scale
    turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([(case.width - 1) / 2, (case.height - 1) / 2])
    offset = centre - turn @ (centre + np.array(case.displacement[::-1])) + np.array(reach[::-1])
    return np.column_stack([turn, offset])


def _look(light: NDArray[np.float32], to_canvas: NDArray[np.float64], case: Case) -> NDArray[np.float32]:
    """(H, W) light on each site behind its filter."""
    seen = cv2.warpAffine(
        light, to_canvas, (case.width, case.height), borderMode=cv2.BORDER_REFLECT,
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
    )  # fmt: skip
    index = color_index(case.cfa, case.height, case.width)
    response = np.array([0.55, 1.0, 0.7], np.float32)  # a daylight-balanced sensor sees least red
    return np.maximum(np.take_along_axis(seen, index[..., None], axis=2)[..., 0] * response[index], 0)


def _move_object(case, gt_canvas, noisy_canvas):
    """Puts a disc of another photograph at one place of the GT and at another of the noisy photo."""
    rng = np.random.default_rng([case.seed, 5])
    size, shape = case.object_size, gt_canvas.shape[:2]
    patch = canvas(MOTIFS[(MOTIFS.index(case.motif) + 5) % len(MOTIFS)], (size, size), case.seed)
    axis = (np.arange(size) - (size - 1) / 2) / (size / 2)
    disc = axis[:, None] ** 2 + axis**2 <= 1
    moved, out = np.zeros(shape, np.bool_), []
    for light in (gt_canvas, noisy_canvas):
        top, left = (int(rng.integers(extent - size + 1)) for extent in shape)
        place = np.s_[top : top + size, left : left + size]
        changed = light.copy()
        changed[place][disc] = patch[disc]
        moved[place] |= disc
        out.append(changed)
    return out[0], out[1], moved


def _expose(light, sensor: Sensor, iso: int, case: Case, rng) -> Photo:
    """Shot, read, row and column noise, hot pixels, clipping and rounding to uint16."""
    black = _black_levels(sensor)
    span = sensor.white_level - black
    well = FULL_WELL * 100 / iso
    read = np.hypot(READ_NOISE * sensor.white_level / well, ADC_NOISE)  # in sensor values
    values = rng.poisson(light * well).astype(np.float32) * (span / well)
    values += rng.standard_normal(light.shape, np.float32) * np.float32(read)
    values += (rng.standard_normal((light.shape[0], 1)) * case.row_noise * read).astype(np.float32)
    fixed = np.random.default_rng([case.seed, 11])  # the sensor's own, the same in both photos
    values += (fixed.standard_normal(light.shape[1]) * case.column_pattern * read).astype(np.float32)
    hot = fixed.random(light.shape, np.float32) < case.hot_pixels
    values[hot] += fixed.exponential(0.3, int(hot.sum())) * sensor.white_level
    mosaic = np.clip(np.rint(values + black), 0, sensor.white_level).astype(np.uint16)
    return Photo(mosaic=mosaic, sensor=sensor)


def _black_levels(sensor: Sensor) -> NDArray[np.float32]:
    """(H, W) black level of each site."""
    index = color_index(sensor.cfa, sensor.height, sensor.width).astype(np.intp)
    if sensor.cfa is Cfa.BAYER:  # planes R, G, G, B: the green of the blue rows is the third
        index = np.array([[0, 1], [2, 3]])[np.arange(sensor.height)[:, None] % 2, np.arange(sensor.width) % 2]
    return np.array(sensor.black_level, np.float32)[index]
