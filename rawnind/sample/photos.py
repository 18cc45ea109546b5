"""One scene at one size: its photos as DNG files, and what is true of them and of their pairs."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rawnind.reasons import Outcome
from rawnind.records import Capture, Cfa
from rawnind.sample.dng import bayer_planes, encode_dng
from rawnind.sample.scenes import ScenePlan, Shot, scaled_offset
from rawnind.sample.simulator import (
    DETAIL_ZOOM,
    SMALLEST_ZOOM,
    SRGB_TO_XYZ,
    Levels,
    Noise,
    Picture,
    Scenery,
    camera_rgb,
    expose,
    fill_zoom,
    texture,
)
from rawnind.sample.truth import Damage, Ellipse, FileTruth, Motion, PairTruth, SceneTruth

MEAN_LEVEL, BRIGHTEST_LEVEL = 0.09, 0.42  # dark enough for gains of 0.5, bright enough for ISO 65535
THING_LEVEL, THING_SIDE, LAMP_SIDE = 0.25, 0.13, 0.08  # sides as shares of the frame's shorter side
DARK_SIDE = 0.7  # a quarter of a disc lies in the frame: 6 % of 2 by 3
THING_PIXELS = 110  # the part of its photograph that the object shows, in the photograph's pixels
PREFIXES = {Cfa.BAYER: "Bayer", Cfa.X_TRANS: "X-Trans"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenePhotos:
    """A scene at a size, ready to be photographed."""

    plan: ScenePlan
    number: int
    seed: int
    size: tuple[int, int]

    @property
    def tile(self) -> NDArray[np.uint8]:
        """Colour indices from the visible area's first site on."""
        return np.roll(np.array(self.plan.cfa.tile, np.uint8), self.plan.origin, (0, 1))

    def offset(self, shot: Shot) -> tuple[float, float]:
        """The scene point at the visible area's first site."""
        return scaled_offset(shot.offset, min(self.size))

    def photos(self) -> Iterator[tuple[Shot, FileTruth, bytes]]:
        """Takes every photo: its plan, the truth about it, and the bytes of its file."""
        for index, shot in enumerate(self.plan.shots):
            scenery, exposure = self.scenery(shot)
            levels = self.levels(scenery, shot)
            levels /= np.float32(shot.gain)
            rng = np.random.default_rng([self.seed, self.number, index + 1])
            whole = self.develop(levels, shot.iso, rng, self.capture(index, shot))
            written = _damage(whole, shot.damage)
            named = sha1_of(written if shot.damage is Damage.TRUNCATED else whole)
            bright = float(np.mean(levels >= 1))
            yield shot, self._describe(shot, named, written, exposure / shot.gain, bright), written

    def _describe(self, shot: Shot, sha1: str, data: bytes, exposure: float, overexposed: float) -> FileTruth:
        plan, noise = self.plan, Noise.at(shot.iso)
        lamp = self.ellipse(plan.lamp_at, LAMP_SIDE)
        return FileTruth(
            filename=_filename(plan, shot, sha1),
            scene=plan.name,
            cfa=plan.cfa,
            ground_truth=shot.ground_truth,
            iso=shot.iso,
            sha1=sha1,
            bytes_sha1=sha1_of(data),
            size=len(data),
            damage=shot.damage,
            photo=shot.photo or plan.photo,
            camera=f"{plan.camera.make} {plan.camera.model}",
            pattern=tuple(tuple(row) for row in self.tile.tolist()),
            origin=plan.origin,
            margins=plan.camera.margins,
            height=self.size[0],
            width=self.size[1],
            black_level=plan.black_level * (len(plan.cfa.plane_colors) // len(plan.black_level)),
            white_level=plan.white_level,
            rgb_xyz_matrix=plan.camera.xyz_to_camera,
            exposure=exposure,
            shot_variance=1 / noise.electrons,
            read_sigma=noise.read / noise.electrons,
            row_sigma=noise.row / noise.electrons,
            overexposed_fraction=overexposed,
            lamp=_seen(lamp, self.offset(shot)) if lamp else None,
        )

    def scenery(self, shot: Shot) -> tuple[Scenery, float]:
        """What the shot sees, and the scene's exposure."""
        matrix = self.plan.camera.xyz_to_camera
        photo, exposure = camera_rgb(shot.photo or self.plan.photo, matrix, MEAN_LEVEL, BRIGHTEST_LEVEL)
        thing, _ = camera_rgb(self.plan.object_photo, matrix, THING_LEVEL, 2 * BRIGHTEST_LEVEL)
        rng = np.random.default_rng([self.seed, self.number])
        pan_y, pan_x, texture_y, texture_x = rng.uniform(size=4).tolist()
        height, width, _ = photo.shape
        zoom = self.plan.zoom or fill_zoom(photo, self.size)
        start = (
            (height - self.size[0] / zoom) / 2 + height * self.plan.pan * (pan_y - 0.5),
            (width - self.size[1] / zoom) / 2 + width * self.plan.pan * (pan_x - 0.5),
        )
        scenery = Scenery(
            view=Picture(pixels=photo, zoom=zoom, at=start),
            detail=Picture(
                pixels=texture(shot.detail or self.plan.detail),
                zoom=DETAIL_ZOOM,
                at=(512 * texture_y, 512 * texture_x),
            ),
            lamp=self.ellipse(self.plan.lamp_at, LAMP_SIDE),
            dark=self.ellipse((1.0, 0.0) if self.plan.dark_corner else None, DARK_SIDE),
            thing=Picture(
                pixels=thing,
                zoom=max(THING_SIDE * min(self.size) / THING_PIXELS, SMALLEST_ZOOM),
                at=(thing.shape[0] / 2, thing.shape[1] / 2),
            ),
        )
        return scenery, exposure

    def ellipse(self, at: tuple[float, float] | None, side: float) -> Ellipse | None:
        """A disc in scene coordinates; centre and side as shares of the frame."""
        if at is None:
            return None
        radius = side * min(self.size) / 2
        return Ellipse(y=at[0] * self.size[0], x=at[1] * self.size[1], semi_y=radius, semi_x=radius)

    def levels(self, scenery: Scenery, shot: Shot, object_of: Shot | None = None) -> Levels:
        """The frame before noise at the scene's exposure, with the object where `object_of` (or the shot) has it.

        Args:
            scenery: the scene.
            shot: the photo of it.
            object_of: the photo whose object is shown; None: of `shot`.
        """
        thing = self.ellipse((object_of or shot).object_at, THING_SIDE)
        return scenery.levels(self.offset(shot), self.size, self.tile, thing)

    def capture(self, index: int, shot: Shot) -> Capture:
        """How the shot says that it was taken: a shutter that makes up for the ISO, every scene at another hour.

        Args:
            index: of the shot in its scene.
            shot: the photo.
        """
        return Capture(
            exposure_time=float(f"{200 / shot.iso / shot.gain:.3g}"),
            aperture=8.0,
            focal_length=50.0,
            captured_at=f"2026-05-01T{8 + self.number:02}:00:{10 * index:02}",
            lens="Sample 50mm F1.8",
        )

    def develop(self, levels: Levels, iso: int, rng: np.random.Generator, capture: Capture) -> bytes:
        """The DNG of a frame.

        Args:
            levels: (H, W) levels before noise.
            iso: of the photo.
            rng: for the noise.
            capture: how it says that it was taken.
        """
        plan = self.plan
        planes = bayer_planes(self.tile) if len(plan.black_level) == 4 else np.zeros_like(self.tile, np.int64)
        mosaic = expose(
            levels,
            Noise.at(iso),
            black=np.array(plan.black_level)[planes],
            white=plan.white_level,
            margins=plan.camera.margins,
            rng=rng,
        )
        grey = np.reshape(plan.camera.xyz_to_camera, (3, 3)) @ np.sum(SRGB_TO_XYZ, axis=1)
        return encode_dng(
            mosaic,
            pattern=self.tile,
            black_level=plan.black_level,
            white_level=plan.white_level,
            iso=iso,
            make=plan.camera.make,
            model=plan.camera.model,
            color_matrix=plan.camera.xyz_to_camera,
            as_shot_neutral=tuple((grey / grey[1]).tolist()),
            margins=plan.camera.margins,
            capture=capture,
        )

    def summary(self) -> SceneTruth:
        """The truth about the scene."""
        plan = self.plan
        return SceneTruth(
            name=plan.name,
            cfa=plan.cfa,
            test_reserve=plan.test_reserve,
            unknown_sensor=plan.unknown_sensor,
            outcome=plan.reason.outcome if plan.reason else Outcome.COLLECTED,
            reason=plan.reason,
        )

    def pairs(self, taken: list[tuple[Shot, FileTruth]]) -> Iterator[PairTruth]:
        """Every noisy photo with every GT; with none where the scene has no GT."""
        clean = [photo for photo in taken if photo[0].ground_truth]
        for noisy in taken:
            if not noisy[0].ground_truth:
                yield from (self._pair(noisy, gt) for gt in clean)
                if not clean:
                    yield self._pair(noisy, None)

    def _pair(self, noisy: tuple[Shot, FileTruth], gt: tuple[Shot, FileTruth] | None) -> PairTruth:
        shot, file = noisy
        pair = PairTruth(
            scene=self.plan.name,
            cfa=self.plan.cfa,
            gt_sha1=gt[1].sha1 if gt else None,
            noisy_sha1=file.sha1,
            shift=None,
            subpixel=None,
            gain=None,
            motion=None,
            outcome=shot.reason.outcome if shot.reason else Outcome.COLLECTED,
            reason=shot.reason,
        )
        if gt is None or gt[1].photo != file.photo:
            return pair
        dy, dx = (to - start for to, start in zip(self.offset(shot), self.offset(gt[0]), strict=True))
        whole_y, whole_x = math.floor(dy + 0.5), math.floor(dx + 0.5)
        return replace(
            pair,
            shift=(whole_y, whole_x),
            subpixel=(dy - whole_y, dx - whole_x),
            gain=shot.gain / gt[0].gain,
            motion=self.motion(gt[0], shot),
        )

    def motion(self, gt: Shot, noisy: Shot) -> Motion | None:
        """How the object moved, in the noisy photo's coordinates; None where it did not."""
        was, now = self.ellipse(gt.object_at, THING_SIDE), self.ellipse(noisy.object_at, THING_SIDE)
        if was is None or now is None or was == now:
            return None
        scenery, _ = self.scenery(noisy)
        motion = Motion(
            was=_seen(was, self.offset(noisy)), now=_seen(now, self.offset(noisy)), contrast=0, noise=0
        )
        where = motion.covers(*self.size)
        before = self.levels(scenery, noisy, object_of=gt)[where] / gt.gain
        after = self.levels(scenery, noisy)[where] / noisy.gain
        gain = noisy.gain / gt.gain
        variance = _variance(before, gt.iso) + gain**2 * _variance(after, noisy.iso)
        contrast = float(np.mean(np.abs(before - after * gain), dtype=np.float64))
        return replace(motion, contrast=contrast, noise=math.sqrt(variance))


def _variance(levels: Levels, iso: int) -> float:
    """Of the noise on a region of these levels."""
    noise = Noise.at(iso)
    mean = float(levels.mean(dtype=np.float64))
    return mean / noise.electrons + (noise.read**2 + noise.row**2) / noise.electrons**2


def _seen(ellipse: Ellipse, offset: tuple[float, float]) -> Ellipse:
    """An ellipse of the scene in the coordinates of a photo."""
    return replace(ellipse, y=ellipse.y - offset[0], x=ellipse.x - offset[1])


def _damage(data: bytes, damage: Damage | None) -> bytes:
    match damage:
        case Damage.FLIPPED:
            flipped = bytearray(data)
            middle = len(data) // 2
            flipped[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
            return bytes(flipped)
        case Damage.TRUNCATED:
            return data[: len(data) * 6 // 10]
        case None:
            return data


def _filename(plan: ScenePlan, shot: Shot, sha1: str) -> str:
    marks = "UNK_" * plan.unknown_sensor + "TEST_" * plan.test_reserve
    role = "GT_" * shot.ground_truth
    return f"{PREFIXES[plan.cfa]}_{marks}{plan.name}_{role}ISO{shot.label or shot.iso}_sha1={sha1}.dng"


def sha1_of(data: bytes) -> str:
    """40 hex digits."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
