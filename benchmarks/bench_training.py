"""Training: by how much a denoiser beats the plainly demosaiced input, and what masks, thresholds and alignment are worth in dB.

A set is drawn anew at each call: `rawnind sample --scenes N`, in which a further noisy photo of every third scene is one of
another scene under that scene's name. Networks are measured on a camera that training does not see, which photographed what no
other camera did, always on crops and masks of the default recipe. `RAWNIND_BENCH_SEED` repeats a call; RAWNIND_BENCH_SCENES,
RAWNIND_BENCH_STEPS and RAWNIND_BENCH_FUNIT set its size. It runs on the GPU where there is one, else a small version on the CPU.
"""

import hashlib
import os
import time
from pathlib import Path

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


class Unmasked(Trainer):
    """Trains on every pixel."""

    def _next(self):
        batch = super()._next()
        batch["mask_crops"] = torch.ones_like(batch["mask_crops"])
        return batch


def trained(output, judged, *, kind="bayer", masked=True, device="cpu", **options):
    """Scores of a network that was trained on one folder, on the held-out camera's crops of another."""
    wanted = {"hold_out_camera": HELD_OUT[kind], "input": "raw" if kind == "bayer" else "rgb", **options}
    chosen, crops = split_keywords(wanted)
    place = torch.device(device)
    loader = CropLoader(training_crops(output, chosen, crops), chosen.batch_size, workers=1, device=place)
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


def prepared(folder, seed, scenes):
    source = folder / "pairs"
    truth = make_sample(source, seed=seed, scenes=scenes)
    wrong = swap_photos(source, truth)
    print(f"\n{scenes} scenes, {wrong} wrong pairs, RAWNIND_BENCH_SEED={seed}")
    for name, recipe in RECIPES.items():
        summary = rawnind.prepare(source, folder / name, **CROPS, **recipe)
        print(f"  prepared, {name}: {summary.pairs.collected} pairs, {summary.crops} crops")


def setting(name, default):
    return int(os.environ.get(f"RAWNIND_BENCH_{name}", default))


def test_training_beats_the_input_and_pairs_decide_by_how_much(benchmark, tmp_path):
    if not benchmark.enabled:
        small = FolderMaker(tmp_path / "out").scene("a").scene("b", camera=HELD_OUT["bayer"]).finish()
        for masked in (True, False):
            found = trained(small, small, masked=masked, steps=2, funit=4, crop_size=32, batch_size=2)
            assert found.total["crops"] == 4
        benchmark(lambda: None)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    large = device == "cuda"
    seed, steps = setting("SEED", time.time_ns() % 2**31), setting("STEPS", 2000 if large else 200)
    options = {"steps": steps, "funit": setting("FUNIT", 16 if large else 8), "device": device}
    prepared(tmp_path, seed, setting("SCENES", 40 if large else 20))
    output = tmp_path / "default"
    for kind, camera in HELD_OUT.items():
        started = time.perf_counter()
        scores = trained(output, output, kind=kind, **options)
        print(
            f"\n{kind}, {camera} held out, {steps} steps on {device}, {time.perf_counter() - started:.0f} s"
        )
        print("\n".join(table(scores)))
    print(f"\nwhat the pairs are worth, {HELD_OUT['bayer']} held out: PSNR over input, MS-SSIM")
    for name, recipe, masked in VARIANTS:
        scores = trained(tmp_path / recipe, output, masked=masked, **options)
        print(f"  {name:40}{psnr_gain(scores.total):+7.2f} dB  {scores.total['output_msssim']:.4f}")
    benchmark(lambda: None)


if __name__ == "__main__":
    pytest.main([__file__, "-s", "--benchmark-only", "--benchmark-enable"])
