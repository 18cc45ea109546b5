"""Makes the sample data set."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rawnind.errors import ConfigError, OutputError
from rawnind.records import Cfa, Outcome
from rawnind.sample.render import (
    DETAIL_CONTRAST,
    DETAIL_ZOOM,
    SRGB_TO_XYZ,
    Levels,
    Noise,
    Picture,
    Scenery,
    expose,
    linear_photo,
)
from rawnind.sample.scenes import SCENES, ScenePlan, Shot, scaled_offset
from rawnind.sample.truth import (
    SIGN,
    TRUTH_FILE,
    Damage,
    Ellipse,
    FileTruth,
    Motion,
    PairTruth,
    SceneTruth,
    Truth,
    read_truth,
)
from rawnind.storage.dng import bayer_planes, encode_dng

VERSION = 1
SMALLEST_SIDE, MOST_PIXELS = 192, 24_000_000
MEAN_LEVEL, BRIGHTEST_LEVEL = (
    0.09,
    0.42,
)  # of a scene: dark enough for gains of 0.5, bright enough for ISO 65535
THING_LEVEL, THING_SIDE, LAMP_SIDE = 0.25, 0.13, 0.08  # sides as shares of the frame's shorter side
PREFIXES = {Cfa.BAYER: "Bayer", Cfa.X_TRANS: "X-Trans"}
UNFINISHED_FILE = "sample-unfinished.json"


def make_sample(out: Path, *, seed: int = 0, height: int = 800, width: int = 1216) -> Truth:
    """Writes 34 DNG files of 12 scenes and `truth.json` into `out`; equal arguments give equal bytes.

    A set that is there already is left as it is; one that was interrupted, or that lost files, is completed.
    About 70 MB at the default size. Shifts shrink with frames whose shorter side is below 640.

    Args:
        out: a folder that is empty, not there yet, or holds a set made with the same arguments.
        seed: of the noise and of where the scenes' photographs are cut; 0 or more.
        height: rows of each visible area, even, at least 192.
        width: columns of each visible area, even, at least 192; at most 24 million pixels in all.

    Raises:
        ConfigError: An argument breaks its rule, or `out` holds something else.
        OutputError: `out` cannot be written.
    """
    _check_arguments(seed, height, width)
    done = _claim(out, {"version": VERSION, "seed": seed, "height": height, "width": width})
    if done is not None and _is_complete(out, done):
        return done
    try:
        truth = _write(out, seed, (height, width))
        (out / TRUTH_FILE).write_bytes(truth.to_json())
        (out / UNFINISHED_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return truth


def _check_arguments(seed: int, height: int, width: int) -> None:
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    for name, value in (("height", height), ("width", width)):
        if value < SMALLEST_SIDE or value % 2:
            raise ConfigError(f"{name} must be even and at least {SMALLEST_SIDE}, got {value}")
    if height * width > MOST_PIXELS:
        raise ConfigError(f"height x width must be at most {MOST_PIXELS}, got {height} x {width}")


def _claim(out: Path, arguments: dict[str, int]) -> Truth | None:
    """Makes sure that `out` is ours to write; the truth of a set that is already there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / TRUTH_FILE).exists():
            truth = read_truth(out)
            _same_arguments(out, arguments, {name: getattr(truth, name) for name in arguments})
            return truth
        marker = out / UNFINISHED_FILE
        if marker.exists():
            _same_arguments(out, arguments, _read_marker(marker))
        elif any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no sample data set; choose another folder")
        marker.write_text(json.dumps(arguments))
    except FileExistsError as error:
        raise ConfigError(f"{out} is a file; choose a folder") from error
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return None


def _read_marker(marker: Path) -> object:
    try:
        return json.loads(marker.read_text())
    except ValueError:
        return None


def _same_arguments(out: Path, wanted: dict[str, int], found: object) -> None:
    if wanted != found:
        raise ConfigError(
            f"{out} holds a sample data set made with {found}, not {wanted}; choose another folder"
        )


def _is_complete(out: Path, truth: Truth) -> bool:
    return all(
        (out / file.filename).is_file() and _sha1((out / file.filename).read_bytes()) == file.bytes_sha1
        for file in truth.files
    )


def _write(out: Path, seed: int, size: tuple[int, int]) -> Truth:
    scenes, files, pairs = [], [], []
    for number, plan in enumerate(SCENES):
        stage = Stage(plan=plan, number=number, seed=seed, size=size)
        taken = []
        for shot, file, data in stage.photos():
            (out / file.filename).write_bytes(data)
            taken.append((shot, file))
        files += [file for _, file in taken]
        pairs += stage.pairs(taken)
        scenes.append(
            SceneTruth(
                name=plan.name,
                cfa=plan.cfa,
                test_reserve=plan.test_reserve,
                unknown_sensor=plan.unknown_sensor,
                outcome=plan.reason.outcome if plan.reason else Outcome.COLLECTED,
                reason=plan.reason,
            )
        )
    return Truth(
        version=VERSION,
        seed=seed,
        height=size[0],
        width=size[1],
        sign=SIGN,
        scenes=tuple(scenes),
        files=tuple(sorted(files, key=lambda file: file.filename)),
        pairs=tuple(pairs),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
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
        """The scene's point that the visible area's first site shows."""
        return scaled_offset(shot.offset, min(self.size))

    def photos(self) -> Iterator[tuple[Shot, FileTruth, bytes]]:
        """Takes every photo: the file's truth and its bytes."""
        for index, shot in enumerate(self.plan.shots):
            scenery, exposure = self.scenery(shot)
            levels = self.levels(scenery, shot) / np.float32(shot.gain)
            rng = np.random.default_rng([self.seed, self.number, index + 1])
            data = self.develop(levels, shot.iso, rng)
            yield (
                shot,
                self.describe(shot, data, exposure / shot.gain, float(np.mean(levels >= 1))),
                _damage(data, shot),
            )

    def scenery(self, shot: Shot) -> tuple[Scenery, float]:
        """What the shot sees, and the scene's exposure."""
        photo, exposure = self.camera_rgb(shot.photo or self.plan.photo, MEAN_LEVEL, BRIGHTEST_LEVEL)
        thing, _ = self.camera_rgb(self.plan.object_photo, THING_LEVEL, 2 * BRIGHTEST_LEVEL)
        texture = linear_photo(self.plan.detail)
        grain = 1 + DETAIL_CONTRAST * (texture / texture.mean(dtype=np.float64).astype(np.float32) - 1)
        rng = np.random.default_rng([self.seed, self.number])
        pan, texture_at = rng.uniform(-0.02, 0.02, 2), tuple(rng.uniform(0, 512, 2).tolist())
        zoom = _zoom(photo, self.size)
        at = [
            (have - want / zoom) / 2 + have * p
            for have, want, p in zip(photo.shape[:2], self.size, pan.tolist(), strict=True)
        ]
        side = THING_SIDE * min(self.size)
        return Scenery(
            view=Picture(pixels=photo, zoom=zoom, at=(at[0], at[1])),
            detail=Picture(pixels=grain, zoom=DETAIL_ZOOM, at=(texture_at[0], texture_at[1])),
            lamp=self.ellipse(self.plan.lamp_at, LAMP_SIDE),
            thing=Picture(
                pixels=thing, zoom=max(side / 110, 1.25), at=(thing.shape[0] / 2, thing.shape[1] / 2)
            ),
        ), exposure

    def camera_rgb(self, name: str, mean: float, brightest: float) -> tuple[Levels, float]:
        """A photograph in camera RGB levels, and the factor between linear light and these levels.

        The green plane's mean is `mean`, or less where the brightest 0.1 % would pass `brightest`.
        """
        matrix = np.reshape(self.plan.camera.xyz_to_camera, (3, 3)) @ SRGB_TO_XYZ
        pixels = linear_photo(name) @ matrix.T.astype(np.float32)
        exposure = min(
            mean / float(pixels[..., 1].mean(dtype=np.float64)), brightest / float(np.quantile(pixels, 0.999))
        )
        return pixels * np.float32(exposure), exposure

    def ellipse(self, at: tuple[float, float] | None, side: float) -> Ellipse | None:
        """A disc in scene coordinates; centre and side as shares of the frame."""
        if at is None:
            return None
        radius = side * min(self.size) / 2
        return Ellipse(y=at[0] * self.size[0], x=at[1] * self.size[1], semi_y=radius, semi_x=radius)

    def levels(self, scenery: Scenery, shot: Shot, object_of: Shot | None = None) -> Levels:
        """The frame before noise at the scene's exposure, with the object where `object_of` (or the shot) has it."""
        thing = self.ellipse((object_of or shot).object_at, THING_SIDE)
        return scenery.levels(self.offset(shot), self.size, self.tile, thing)

    def develop(self, levels: Levels, iso: int, rng: np.random.Generator) -> bytes:
        """The DNG of a frame."""
        plan = self.plan
        planes = bayer_planes(self.tile) if len(plan.black_level) == 4 else np.zeros_like(self.tile, np.int64)
        mosaic = expose(
            levels,
            Noise.at(iso),
            black=np.array(plan.black_level)[planes],
            white=plan.white_level,
            margins=plan.margins,
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
            margins=plan.margins,
        )

    def describe(self, shot: Shot, data: bytes, exposure: float, overexposed: float) -> FileTruth:
        """The truth about a shot whose undamaged bytes are `data`."""
        plan, noise, written = self.plan, Noise.at(shot.iso), _damage(data, shot)
        sha1 = _sha1(written if shot.damage is Damage.TRUNCATED else data)
        planes = len(plan.cfa.plane_colors)
        lamp = self.ellipse(plan.lamp_at, LAMP_SIDE)
        return FileTruth(
            filename=_filename(plan, shot, sha1),
            scene=plan.name,
            cfa=plan.cfa,
            ground_truth=shot.ground_truth,
            iso=shot.iso,
            sha1=sha1,
            bytes_sha1=_sha1(written),
            size=len(written),
            damage=shot.damage,
            photo=shot.photo or plan.photo,
            camera=f"{plan.camera.make} {plan.camera.model}",
            pattern=tuple(tuple(row) for row in self.tile.tolist()),
            origin=plan.origin,
            margins=plan.margins,
            height=self.size[0],
            width=self.size[1],
            black_level=plan.black_level * (planes // len(plan.black_level)),
            white_level=plan.white_level,
            rgb_xyz_matrix=plan.camera.xyz_to_camera,
            exposure=exposure,
            shot_variance=1 / noise.electrons,
            read_sigma=noise.read / noise.electrons,
            row_sigma=noise.row / noise.electrons,
            overexposed_fraction=overexposed,
            lamp=_seen(lamp, self.offset(shot)) if lamp else None,
        )

    def pairs(self, taken: list[tuple[Shot, FileTruth]]) -> Iterator[PairTruth]:
        """Every noisy photo with every GT; with none where the scene has no GT."""
        clean = [(shot, file) for shot, file in taken if shot.ground_truth]
        for noisy, file in taken:
            if noisy.ground_truth:
                continue
            for gt, gt_file in clean or [(None, None)]:
                same = gt is not None and gt.photo == noisy.photo
                shift = _difference(self.offset(noisy), self.offset(gt)) if gt and same else None
                whole = tuple(math.floor(value + 0.5) for value in shift) if shift else None
                yield PairTruth(
                    scene=self.plan.name,
                    cfa=self.plan.cfa,
                    gt_sha1=gt_file.sha1 if gt_file else None,
                    noisy_sha1=file.sha1,
                    shift=(whole[0], whole[1]) if whole else None,
                    subpixel=_difference(shift, (whole[0], whole[1])) if shift and whole else None,
                    gain=noisy.gain / gt.gain if gt and same else None,
                    motion=self.motion(gt, noisy) if gt and gt.object_at != noisy.object_at else None,
                    outcome=noisy.reason.outcome if noisy.reason else Outcome.COLLECTED,
                    reason=noisy.reason,
                )

    def motion(self, gt: Shot, noisy: Shot) -> Motion:
        """How the object moved, as the noisy photo's coordinates have it."""
        was, now = self.ellipse(gt.object_at, THING_SIDE), self.ellipse(noisy.object_at, THING_SIDE)
        if was is None or now is None:
            raise ValueError(f"{self.plan.name}: an object must be in every shot or in none")
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


def _zoom(photo: Levels, size: tuple[int, int]) -> float:
    """Fills the frame, with at least 1.25 (nothing aliases) and at most 3 sites per pixel (it is mirrored beyond)."""
    fill = max(want / have for want, have in zip(size, photo.shape[:2], strict=True))
    return min(max(fill, 1.25), 3.0)


def _variance(levels: Levels, iso: int) -> float:
    noise = Noise.at(iso)
    return (
        float(levels.mean(dtype=np.float64)) / noise.electrons
        + (noise.read**2 + noise.row**2) / noise.electrons**2
    )


def _difference(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] - b[0], a[1] - b[1]


def _seen(ellipse: Ellipse, offset: tuple[float, float]) -> Ellipse:
    """An ellipse of the scene in the coordinates of a photo."""
    return replace(ellipse, y=ellipse.y - offset[0], x=ellipse.x - offset[1])


def _damage(data: bytes, shot: Shot) -> bytes:
    middle = len(data) // 2
    match shot.damage:
        case Damage.FLIPPED:
            return (
                data[:middle]
                + bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
                + data[middle + 64 :]
            )
        case Damage.TRUNCATED:
            return data[: len(data) * 6 // 10]
        case None:
            return data


def _filename(plan: ScenePlan, shot: Shot, sha1: str) -> str:
    marks = "UNK_" * plan.unknown_sensor + "TEST_" * plan.test_reserve
    role = "GT_" * shot.ground_truth
    return f"{PREFIXES[plan.cfa]}_{marks}{plan.name}_{role}ISO{shot.label or shot.iso}_sha1={sha1}.dng"


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
