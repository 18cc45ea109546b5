"""Output folders as `prepare` writes them, with the scenes that a test asks for."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from rawnind.measurements import Crop, Measurements
from rawnind.output.manifest import write_manifest
from rawnind.output.shards import CropPixels, crop_name, shard_name, write_shard
from rawnind.output.store import Store
from rawnind.reasons import Outcome
from rawnind.recipe import Recipe
from rawnind.records import Cfa, ImageRef, PairResult, Scene, SceneResult, Sensor
from tests.output.result_maker import MATRIX, sha1


class FolderMaker:
    """Writes an output folder scene by scene; `pixels` keeps what each crop holds."""

    def __init__(self, root, size=64):
        self.store = Store(str(root))
        self.recipe = Recipe(crop_size=size, stride=size)
        self.size = size
        self.pixels = {}
        self.results = []

    def scene(self, name, *, cfa=Cfa.BAYER, crops=4, iso=3200, shift=(0, 0), gain=1.5, test=False, valid=1.0,
              msssim=0.9, camera="Sony A7", gt_sha1=None, noisy_sha1=None, loss=0.01, photos=1,
              contrast=(None, None), gt_contrast=(None, None), noise=None, gt_origin=(0, 0)):  # fmt: skip
        truth = self._ref(name, cfa, None, 100, gt_sha1 or sha1(f"{cfa}{name} gt"))
        noisy = [
            self._ref(name, cfa, number, iso, noisy_sha1 or sha1(f"{cfa}{name} {number}"))
            for number in range(photos)
        ]
        sensor = Sensor(
            cfa=cfa, origin=(0, 0), height=4000, width=6000,
            black_level=(512.0, 513.0, 514.0, 515.0) if cfa is Cfa.BAYER else (500.0, 500.0, 500.0),
            white_level=16000.0, overexposure_lb=1.0, rgb_xyz_matrix=MATRIX, camera=camera,
        )  # fmt: skip
        measured = Measurements(
            shift_y=shift[0], shift_x=shift[1], subpixel_y=0.0, subpixel_x=0.0, alignment_score=50.0,
            alignment_loss=loss, gain=gain, mask_mean=valid, msssim=msssim, contrast_red=contrast[0],
            contrast_blue=contrast[1], gt_contrast_red=gt_contrast[0], gt_contrast_blue=gt_contrast[1], **noise or {},
        )  # fmt: skip
        scene = Scene(name=name, cfa=cfa, test_reserve=test, unknown_sensor=False, ground_truths=(truth,),
                      noisy=tuple(noisy))  # fmt: skip
        pairs = tuple(
            self._pair(scene, truth, photo, sensor, gt_origin, measured, crops, valid, msssim)
            for photo in noisy
        )
        self.results.append(
            SceneResult(
                scene=scene,
                recipe=self.recipe.digest,
                outcome=Outcome.COLLECTED,
                reason=None,
                detail="",
                pairs=pairs,
                failed_files=(),
            )
        )
        return self

    def finish(self):
        self.results.sort(key=lambda result: (result.scene.name, result.scene.cfa))
        write_manifest(self.store, self.results, self.recipe, versions={}, contents="made for a test")
        return Path(self.store.location)

    @staticmethod
    def _ref(scene, cfa, number, iso, digest):
        return ImageRef(cfa=cfa, scene=scene, ground_truth=number is None, iso=iso, sha1=digest,
                        filename=f"{digest}.dng", path=f"/photos/{digest}.dng")  # fmt: skip

    def _pair(self, scene, truth, noisy, sensor, gt_origin, measured, crops, valid, msssim):
        pair = f"{noisy.sha1[:12]}-{truth.sha1[:12]}"
        places = [(0, number * 6 * self.size) for number in range(crops)]
        rows = [self._crop(pair, y, x, scene.cfa, measured, valid, gt_origin) for y, x in places]
        self.pixels |= {row.crop_id: row for row in rows}
        shard = write_shard(self.store, shard_name(scene.cfa, scene.name, pair), rows, self.size)
        found = tuple(
            Crop(y=y, x=x, valid_fraction=float(row.valid.mean()), msssim=msssim, overexposed_fraction=0.0,
                 changed_fraction=0.0, underexposed_fraction=0.0, hot_fraction=0.0, shift_y=measured.shift_y,
                 shift_x=measured.shift_x, subpixel_y=0.0, subpixel_x=0.0, residual=0.1, misaligned_fraction=0.0)
            for (y, x), row in zip(places, rows, strict=True)
        )  # fmt: skip
        return PairResult(ground_truth=truth, noisy=noisy, outcome=Outcome.COLLECTED, reason=None, detail="",
                          measured=measured, sensor=sensor, gt_sensor=replace(sensor, origin=gt_origin), shard=shard, crops=found)  # fmt: skip

    def _crop(self, pair, y, x, cfa, measured, valid, gt_origin):
        """A smooth scene that can be learned; each crop differs by its seed."""
        size = self.size
        rng = np.random.default_rng([y, x, int(pair[:8], 16)])
        grid = np.linspace(0, 2 * np.pi, size)
        waves = [
            np.sin(rng.uniform(0.5, 3) * grid[:, None] + rng.uniform(0.5, 3) * grid + c) for c in range(3)
        ]
        rgb = (0.3 + 0.2 * np.stack(waves)).astype(np.float16)
        rows, columns = np.indices((size, size))
        tile = np.array(cfa.tile)

        def mosaic(shift):  # a tile starts at (0, 0) less the shift
            colors = tile[(rows + shift[0]) % len(tile), (columns + shift[1]) % len(tile)]
            return np.take_along_axis(rgb.astype(np.float64), colors[None], 0)[0]

        noise = rng.normal(0, 0.02, (size, size))
        levels = mosaic((0, 0)) / measured.gain + noise
        mask = rng.random((size, size)) < valid
        return CropPixels(
            crop_id=crop_name(pair, y, x),
            noisy_raw=(512 + levels * 15488).clip(0, 65535).astype(np.uint16),
            gt_raw=(
                512 + mosaic((measured.shift_y - gt_origin[0], measured.shift_x - gt_origin[1])) * 15488
            ).astype(np.uint16),
            gt_rgb=rgb,
            valid=mask,
        )
