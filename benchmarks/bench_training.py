"""Training: by how much a denoiser beats the plainly demosaiced input, and what the kind of network, more scenes, masks, thresholds
and alignment are worth in dB.

A set is drawn anew at each call: `rawnind sample --scenes N`, in which a further noisy photo of every third scene is one of
another scene under that scene's name. Networks are measured on a camera that training does not see, which photographed what no
other camera did, always on crops and masks of the default recipe. `RAWNIND_BENCH_SEED` repeats a call; RAWNIND_BENCH_SCENES,
RAWNIND_BENCH_STEPS and RAWNIND_BENCH_FUNIT set its size. It runs on the GPU where there is one, else a small version on the CPU.
"""

import functools
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import rawnind
from rawnind.feed import CropLoader
from rawnind.sample import make_sample
from rawnind.training.crops import training_crops, validation_crops
from rawnind.training.loop import torch_cores
from rawnind.training.options import split_keywords, trained_cfa
from rawnind.training.trainer import Trainer
from rawnind.training.validation import Scores, Validator, psnr_gain, table
from tests.feed.folder_maker import FolderMaker

pytestmark = pytest.mark.timeout(3600)
HELD_OUT = {"bayer": "Panasonic DC-G90", "x-trans": "FUJIFILM X-T30"}
CROPS = {"crop_size": 256, "stride": 256}
NO_THRESHOLD = {
    "min_alignment_score": 0, "max_alignment_loss": 1000, "min_mask_mean": 0, "min_valid_fraction": 0, "max_bad_exposure": 1,
    "max_color_deviation": None, "max_noise_ratio": None, "max_residual": None, "max_light_drift": None,
    "max_level_offset": None,
}  # fmt: skip
RECIPES = {"default": {}, "no thresholds": NO_THRESHOLD, "integer": {"gt_alignment": "integer"}}
VARIANTS = (  # name, recipe, whether the mask is used
    ("as prepared by default", "default", True),
    ("mask ignored", "default", False),
    ("thresholds at 0: wrong pairs let in", "no thresholds", True),
    ("thresholds at 0, mask ignored", "no thresholds", False),
    ("ground truth shifted by whole sites", "integer", True),
)
NETWORKS = (  # name, options
    ("unet, the published one", {"model": "unet"}),
    ("residual", {"model": "residual"}),
    ("residual, conditioned on the noise", {"model": "residual", "conditioned": True}),
)
COUNTS = (2, 5, 10, 20)
SEEDS = 2


class Unmasked(Trainer):
    """Trains on every pixel."""

    def _next(self):
        batch = super()._next()
        batch["mask_crops"] = torch.ones_like(batch["mask_crops"])
        return batch


def trained(output, judged, *, kind="bayer", masked=True, scenes=None, device="cpu", **options):
    """Scores of a network that was trained on one folder, on the held-out camera's crops of another.

    Args:
        output: to train on.
        judged: to measure on.
        kind: of the network's input and of the camera that is held out.
        masked: whether the mask is used.
        scenes: names of those to train on; None: all.
        device: torch's name.
        options: of the training.
    """
    wanted = {"hold_out_camera": HELD_OUT[kind], "input": "raw" if kind == "bayer" else "rgb", **options}
    chosen, crops = split_keywords(wanted)
    learned = crops if scenes is None else crops | {"expression": pc.field("scene").isin(scenes)}
    place = torch.device(device)
    loader = CropLoader(training_crops(output, chosen, learned), chosen.batch_size, workers=1, device=place)
    trainer = (Trainer if masked else Unmasked)(loader, chosen, cfa=trained_cfa(crops))
    with torch_cores(1):
        while trainer.step < chosen.steps:
            trainer.advance()
        held_out = validation_crops(judged, chosen, crops)
        network = trainer.validated_network()
        found = Validator(held_out, trainer.config, chosen.gain, place).measure(network)
    return Scores.of(trainer.step, found)


def swap_photos(folder: Path, truth):
    """Adds to every third scene a noisy photo of another scene of the same CFA; how many."""
    noisy = [file for file in truth.files if not file.ground_truth and file.damage is None]
    scenes = sorted({(file.scene, file.cfa) for file in noisy})
    count = 0
    for number, (scene, cfa) in enumerate(scenes):
        others = [file for file in noisy if file.cfa == cfa and file.scene != scene]
        if number % 3 or not others:
            continue
        other = others[number % len(others)]
        data = (folder / other.filename).read_bytes() + b"\0"  # another file, and so another SHA-1
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        prefix = "Bayer" if cfa == "bayer" else "X-Trans"
        (folder / f"{prefix}_{scene}_ISO{other.iso}_sha1={digest}.dng").write_bytes(data)
        count += 1
    return count


class DrawnSet:
    """Photos that are drawn anew, and what `prepare` makes of them.

    Attributes:
        moving: names of the scenes in which an object moves between the photos.
    """

    def __init__(self, folder, seed, scenes):
        self._folder, self._source = folder, folder / "pairs"
        truth = make_sample(self._source, seed=seed, scenes=scenes)
        self.moving = sorted({pair.scene for pair in truth.pairs if pair.motion})
        wrong = swap_photos(self._source, truth)
        print(f"\n{scenes} scenes, {wrong} wrong pairs, RAWNIND_BENCH_SEED={seed}")

    def output(self, name="default"):
        """The folder that one of `RECIPES` gives."""
        output = self._folder / name
        if not output.exists():
            summary = rawnind.prepare(self._source, output, **CROPS, **RECIPES[name])
            print(f"  prepared, {name}: {summary.pairs.collected} pairs, {summary.crops} crops")
        return output


def setting(name, default):
    return int(os.environ.get(f"RAWNIND_BENCH_{name}", default))


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = DEVICE == "cuda"
OPTIONS = {
    "steps": setting("STEPS", 2000 if LARGE else 200), "funit": setting("FUNIT", 16 if LARGE else 8), "device": DEVICE,
}  # fmt: skip


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """Gives the set, which is drawn at the first call."""
    seed, scenes = setting("SEED", time.time_ns() % 2**31), setting("SCENES", 40)
    return functools.cache(lambda: DrawnSet(tmp_path_factory.mktemp("drawn"), seed, scenes))


@pytest.fixture
def small(tmp_path):
    """A folder of two scenes and the options of the shortest training, to see that the benchmark runs."""
    folder = FolderMaker(tmp_path / "out").scene("a").scene("b", camera=HELD_OUT["bayer"]).finish()
    return functools.partial(trained, folder, folder, steps=2, funit=4, crop_size=32, batch_size=2)


def test_a_denoiser_beats_the_input(benchmark, draw, small):
    if benchmark.enabled:
        for kind, camera in HELD_OUT.items():
            output, started = draw().output(), time.process_time()
            scores = trained(output, output, kind=kind, **OPTIONS)
            seconds = time.process_time() - started
            print(f"\n{kind}, {camera} held out, {OPTIONS}, {seconds:.0f} CPU s")
            print("\n".join(table(scores)))
    else:
        assert small().total["crops"] == 4
    benchmark(lambda: None)


def test_what_the_kind_of_network_is_worth(benchmark, draw, small):
    if benchmark.enabled:
        for kind, camera in HELD_OUT.items():
            print(
                f"\n{kind}, {camera} held out, {OPTIONS}, {SEEDS} seeds: PSNR over input, all and worst ISO"
            )
            for name, options in NETWORKS:
                output, started = draw().output(), time.process_time()
                found = [
                    trained(output, output, kind=kind, **OPTIONS, **options, seed=n) for n in range(SEEDS)
                ]
                seconds = (time.process_time() - started) / SEEDS
                print(f"  {name:40}{gains(found)}, {seconds:.0f} CPU s each")
    else:
        for _, options in NETWORKS:
            assert small(**options).total["crops"] == 4
    benchmark(lambda: None)


def test_what_more_scenes_are_worth(benchmark, draw, small):
    if benchmark.enabled:
        output = draw().output()
        names = learnable(output)
        print(
            f"\nscenes, {HELD_OUT['bayer']} held out, {OPTIONS}, {SEEDS} draws: PSNR over input, all and worst ISO"
        )
        for count in (count for count in COUNTS if count <= len(names)):
            drawn = [np.random.default_rng(n).permutation(names)[:count].tolist() for n in range(SEEDS)]
            found = [trained(output, output, scenes=scenes, **OPTIONS) for scenes in drawn]
            print(f"  {count:4d} scenes {gains(found)}")
    else:
        assert small(scenes=["a"]).total["crops"] == 4
    benchmark(lambda: None)


def learnable(output):
    """The scenes that may be trained on, in the order of their names."""
    rows = pq.read_table(output / "manifest.parquet", columns=["scene", "cfa", "camera", "test_reserve"])
    wanted = (
        (pc.field("cfa") == "bayer") & (pc.field("camera") != HELD_OUT["bayer"]) & ~pc.field("test_reserve")
    )
    return sorted(set(rows.filter(wanted)["scene"].to_pylist()))


def gains(found):
    """Mean gain in dB over trainings, over all crops and at the ISO where it is least."""
    total = np.mean([psnr_gain(scores.total) for scores in found])
    worst = np.mean([min(map(psnr_gain, scores.by_iso)) for scores in found])
    return f"{total:+7.2f} dB {worst:+7.2f} dB"


def test_what_the_choice_of_pairs_is_worth(benchmark, draw, small):
    if benchmark.enabled:
        drawn = draw()
        for title, scenes in (("all scenes", None), ("scenes in which an object moves", drawn.moving)):
            print(
                f"\n{title}, {HELD_OUT['bayer']} held out, {OPTIONS}, {SEEDS} seeds: PSNR over input, all and worst ISO"
            )
            for name, recipe, masked in VARIANTS:
                place = drawn.output(recipe)
                found = [
                    trained(place, drawn.output(), masked=masked, scenes=scenes, **OPTIONS, seed=n)
                    for n in range(SEEDS)
                ]
                print(f"  {name:40}{gains(found)}")
    else:
        assert small(masked=False).total["crops"] == 4
    benchmark(lambda: None)


if __name__ == "__main__":
    pytest.main([__file__, "-s", "--benchmark-only", "--benchmark-enable"])
