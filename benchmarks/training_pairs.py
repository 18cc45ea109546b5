"""For the benchmark of training: a folder of photos as people bring them, the same without any check, and rendered truth to measure on."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from rawnind.imaging import coordinates
from rawnind.imaging.alignment.align import align
from rawnind.imaging.color import camera_to_rec2020, rec2020_crop
from rawnind.imaging.coordinates import Rect
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.imaging.warp import Warp
from rawnind.measurements import Crop, Measurements
from rawnind.output.manifest import write_manifest
from rawnind.output.shards import CropPixels, crop_name, shard_name, write_shard
from rawnind.output.store import Store
from rawnind.reasons import Outcome
from rawnind.recipe import Recipe
from rawnind.records import Cfa, PairResult, SceneResult, pair_id
from rawnind.sample.more_scenes import scene_plans
from rawnind.sample.photos import ScenePhotos
from rawnind.sample.scenes import PANASONIC, SCENES, ScenePlan, Shot
from rawnind.sample.simulator import Noise, expose
from rawnind.source.decode import decode
from rawnind.source.index import load_index
from rawnind.training.model import to_rec2020

HELD_OUT = PANASONIC  # of the measured photographs, which no other camera shows
TEST_PHOTOS, TEST_ISOS = (
    ("astronaut.png", "ihc.png", "retina.jpg"),
    (800, 1600, 3200, 6400, 12800, 25600, 65535),
)
SIZE, CROP = (800, 1216), 256
TOUCHED = 3.0  # sites that the viewpoint is off at most: a tripod that was touched between the shots
SWAY = (2.0, 10.0)  # sites by which foliage, water or people in a part of the frame are elsewhere
SWAYING = (0.05, 0.25)  # of the frame
WRONG_EVERY = 4  # of the still scenes have a photo of another scene: 1 in 9 photos
BLACK, WHITE = 512, 16383


class Swaying(ScenePhotos):
    """A scene in whose middle part everything is somewhere else in each photo, and in which an object moves."""

    def levels(self, scenery, shot, object_of=None):
        still = super().levels(scenery, shot, object_of)
        rng = np.random.default_rng([self.seed, self.number, 99])
        share, at = rng.uniform(*SWAYING), rng.uniform(0.3, 0.7, 2)
        own = np.random.default_rng([self.seed, self.number, shot.iso, shot.ground_truth])
        angle, length = own.uniform(0, 2 * np.pi), own.uniform(*SWAY)
        offset = np.array(self.offset(shot))
        elsewhere = scenery.levels(
            tuple(offset + length * np.array([np.sin(angle), np.cos(angle)])), self.size, self.tile, None
        )
        part = np.zeros(self.size, np.float32)
        axes = np.sqrt(share / np.pi) * np.array(self.size)
        middle = at * self.size - offset
        cv2.ellipse(
            part,
            tuple(middle[::-1].astype(int).tolist()),
            tuple(axes[::-1].astype(int).tolist()),
            0,
            0,
            360,
            1,
            -1,
        )
        part = cv2.GaussianBlur(part, (0, 0), 4)
        return still + part * (elsewhere - still)


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder of drawn photos.

    Attributes:
        still: names of the scenes in which nothing moves.
        moving: names of the others.
        wrong: SHA-1s of the photos of another scene, all in still scenes.
    """

    source: Path
    still: tuple[str, ...]
    moving: tuple[str, ...]
    wrong: tuple[str, ...]


def draw_folder(source: Path, seed: int, count: int) -> Folder:
    """Takes the photos of half as many still scenes and as many in which something moves, by three Bayer cameras.

    Args:
        source: a folder that is not there yet.
        seed: of everything.
        count: of scenes.
    """
    source.mkdir()
    names, photos = ([], []), defaultdict(list)
    for number, plan in enumerate(_plans(seed, count)):
        moves = number % 2
        names[moves].append(plan.name)
        for shot, file, data in (Swaying if moves else ScenePhotos)(
            plan=plan, number=number, seed=seed, size=SIZE
        ).photos():
            (source / file.filename).write_bytes(data)
            if not shot.ground_truth:
                photos[file.camera].append((plan.name, file.iso, data))
    wrong = []
    for number, name in enumerate(names[0]):
        if number % WRONG_EVERY == 0:
            (taken,) = (each for each in photos.values() if name in {scene for scene, _, _ in each})
            others = [(iso, data) for scene, iso, data in taken if scene != name]
            iso, data = others[number % len(others)]
            data += b"\0"  # another file, and so another SHA-1
            wrong.append(hashlib.sha1(data, usedforsecurity=False).hexdigest())
            (source / f"Bayer_{name}_ISO{iso}_sha1={wrong[-1]}.dng").write_bytes(data)
    return Folder(source=source, still=tuple(names[0]), moving=tuple(names[1]), wrong=tuple(wrong))


def _plans(seed: int, count: int) -> Iterator[ScenePlan]:
    drawn = scene_plans(len(SCENES) + 2 * count, seed)[len(SCENES) :]
    wanted = [plan for plan in drawn if plan.cfa is Cfa.BAYER and plan.camera is not HELD_OUT][:count]
    rng = np.random.default_rng(seed)
    for number, plan in enumerate(wanted):
        shots = tuple(
            replace(
                shot,
                offset=(0.0, 0.0)
                if shot.ground_truth
                else tuple(rng.uniform(-TOUCHED, TOUCHED, 2).round(2).tolist()),
                object_at=tuple(rng.uniform(0.2, 0.8, 2).round(3).tolist()) if number % 2 else None,
            )
            for shot in plan.shots
        )
        yield replace(plan, shots=shots)


def write_unchecked(source: Path, output: Path, *, shifted: bool) -> None:
    """What a script makes of a folder that compares nothing: every photo with its scene's ground truth, every pixel valid.

    Args:
        source: the photos.
        output: written as `rawnind prepare` would.
        shifted: whether the ground truth is moved by the whole shift of the correlation's peak, however low that is.
    """
    store, recipe, results = Store(str(output)), Recipe(crop_size=CROP, stride=CROP), []
    for scene in load_index(source).scenes:
        truth = Prepared(Photo.from_visible(*decode(scene.ground_truths[0])))
        pairs = tuple(_pair(store, scene, truth, ref, shifted=shifted) for ref in scene.noisy)
        results.append(
            SceneResult(
                scene=scene, recipe=recipe.digest, outcome=Outcome.COLLECTED, reason=None, detail="",
                pairs=tuple(sorted(pairs, key=lambda pair: pair.pair_id)), failed_files=(),
            )
        )  # fmt: skip
    results.sort(key=lambda result: (result.scene.name, result.scene.cfa))
    write_manifest(store, results, recipe, versions={}, contents="pairs that nothing was compared of")


def _pair(store, scene, truth, ref, *, shifted):
    noisy = Prepared(Photo.from_visible(*decode(ref)))
    shape = tuple(np.minimum(truth.photo.mosaic.shape, noisy.photo.mosaic.shape).tolist())
    truth, noisy = truth.cut_to(shape), noisy.cut_to(shape)
    shift = align(truth.features, noisy.features, max_shift=128).shift if shifted else (0, 0)
    sensor = noisy.photo.sensor
    rect = Warp.constant(shape, shift).overlap(shape, shape, 2)
    gain = _mean_level(truth.photo, rect.shifted(shift)) / _mean_level(noisy.photo, rect)
    origins = coordinates.grid(rect, CROP, CROP, 2)
    matrix = camera_to_rec2020(truth.photo.sensor.rgb_xyz_matrix)
    name = pair_id(ref, scene.ground_truths[0])
    places, rows, crops = coordinates.to_visible(origins, sensor.origin).tolist(), [], []
    for (y, x), (top, left) in zip(places, origins.tolist(), strict=True):
        here = Rect(top, left, CROP, CROP)
        there = here.shifted(shift)
        rows.append(
            CropPixels(
                crop_id=crop_name(name, y, x),
                noisy_raw=noisy.photo.mosaic[here.sites],
                gt_raw=truth.photo.mosaic[there.sites],
                gt_rgb=rec2020_crop(truth.rgb, there.top, there.left, CROP, matrix),
                valid=np.ones((CROP, CROP), np.bool_),
            )
        )
        crops.append(
            Crop(y=y, x=x, valid_fraction=1.0, msssim=None, overexposed_fraction=0.0, underexposed_fraction=0.0,
                 hot_fraction=0.0, changed_fraction=0.0, shift_y=shift[0], shift_x=shift[1], subpixel_y=0.0, subpixel_x=0.0)
        )  # fmt: skip
    return PairResult(
        ground_truth=scene.ground_truths[0], noisy=ref, outcome=Outcome.COLLECTED, reason=None, detail="",
        measured=Measurements(shift_y=shift[0], shift_x=shift[1], subpixel_y=0.0, subpixel_x=0.0, alignment_score=0.0, alignment_loss=0.0, gain=gain, mask_mean=1.0), sensor=sensor, gt_sensor=truth.photo.sensor,
        shard=write_shard(store, shard_name(scene.cfa, scene.name, name), rows, CROP), crops=tuple(crops),
    )  # fmt: skip


def _mean_level(photo: Photo, rect: Rect) -> float:
    black = float(np.mean(photo.sensor.black_level))
    return (float(photo.mosaic[rect.sites].mean()) - black) / (photo.sensor.white_level - black)


class RenderedCrops:
    """Crops of a camera and of photographs that training does not see, beside the light that fell on each site without noise.

    Every pixel counts. It stands in for a `CropDataset` where networks are measured.

    Args:
        seed: of the part of each photograph that is shown, and of the noise.
        isos: of the noisy photos.
    """

    def __init__(self, seed: int, isos: tuple[int, ...] = TEST_ISOS) -> None:
        self._batches = [
            batch
            for number, (iso, photo) in enumerate((iso, photo) for iso in isos for photo in TEST_PHOTOS)
            for batch in _rendered(seed, number, iso, photo)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def native(self, indices):
        """The crop with the one index."""
        return self._batches[indices[0]]


def _rendered(seed, number, iso, photo):
    """Two crops side by side as batches of one."""
    shot = Shot(iso=iso)
    plan = ScenePlan(
        name="test", photo=photo, camera=HELD_OUT, shots=(shot,), detail="grass.png", zoom=1.5, pan=1.0
    )
    stage = ScenePhotos(plan=plan, number=number, seed=seed, size=(CROP, 2 * CROP))
    scenery, _ = stage.scenery(shot)
    light = np.stack(
        [scenery.levels((0, 0), stage.size, np.full((2, 2), c, np.uint8), None) for c in range(3)]
    )
    mosaic = np.take_along_axis(light, np.tile(np.array(Cfa.BAYER.tile), (CROP // 2, CROP))[None], 0)[0]
    rng = np.random.default_rng([seed, number, 1])
    black = np.full((2, 2), BLACK)
    values = expose(mosaic, Noise.at(iso), black=black, white=WHITE, margins=(0, 0, 0, 0), rng=rng)
    levels = (values.astype(np.float32) - BLACK) / (WHITE - BLACK)
    packed = np.stack([levels[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    matrix = torch.zeros(1, 4, 3)
    matrix[0, :3] = torch.tensor(HELD_OUT.xyz_to_camera).reshape(3, 3)
    for part in (0, 1):
        rgb = torch.from_numpy(light[None, :, :, part * CROP : (part + 1) * CROP].copy())
        yield {
            "x_crops": to_rec2020(rgb, matrix),
            "y_crops": torch.from_numpy(packed[None, :, :, part * CROP // 2 : (part + 1) * CROP // 2].copy()),
            "mask_crops": torch.ones(1, 1, CROP, CROP, dtype=torch.bool).expand(-1, 3, -1, -1),
            "rgb_xyz_matrix": matrix,
            "gain": torch.ones(1),
            "iso": torch.tensor([float(iso)]),
            "camera": [f"{HELD_OUT.make} {HELD_OUT.model}"],
        }
