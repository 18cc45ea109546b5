"""Training: by how much a denoiser beats the plainly demosaiced input, and what the kind of network, more scenes, alignment, masks
and the choice of pairs are worth in dB.

A set is drawn anew at each call: `rawnind sample --scenes N`, and for the choice of pairs folders of `training_pairs`. Networks
are measured on a camera that training does not see, which photographed what no other camera did. `RAWNIND_BENCH_SEED` repeats a
call; RAWNIND_BENCH_SCENES, RAWNIND_BENCH_STEPS, RAWNIND_BENCH_FUNIT and RAWNIND_BENCH_DRAWS set its size. It runs on the GPU
where there is one, else a small version on the CPU.
"""

import functools
import hashlib
import os
import time

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import rawnind
from benchmarks.training_pairs import RenderedCrops, draw_folder, write_unchecked
from rawnind.feed import CropLoader
from rawnind.sample import make_sample
from rawnind.training.crops import training_crops, validation_crops
from rawnind.training.loop import torch_cores
from rawnind.training.options import split_keywords, trained_cfa
from rawnind.training.trainer import Trainer
from rawnind.training.validation import Scores, Validator, psnr_gain, table
from tests.feed.folder_maker import FolderMaker

pytestmark = pytest.mark.timeout(7200)
HELD_OUT = {"bayer": "Panasonic DC-G90", "x-trans": "FUJIFILM X-T30"}
CROPS = {"crop_size": 256, "stride": 256}
NO_THRESHOLD = {
    "min_alignment_score": 0, "max_alignment_loss": 1000, "min_mask_mean": 0, "min_valid_fraction": 0, "max_bad_exposure": 1,
    "max_color_deviation": None, "max_noise_ratio": None, "max_residual": None, "max_light_drift": None,
    "max_level_offset": None,
}  # fmt: skip
WAYS = (  # name, the folder that is trained on, whether its mask is used
    ("default", "default", True),
    ("ground truth shifted by whole sites", "whole sites", True),
    ("mask ignored", "default", False),
    ("thresholds at 0", "no thresholds", True),
    ("thresholds at 0, mask ignored", "no thresholds", False),
    ("a script: whole shift, no check, no mask", "script", False),
    ("the same without the shift", "as they lie", False),
)
RECIPES = {"default": {}, "no thresholds": NO_THRESHOLD, "whole sites": {"gt_alignment": "integer"}}
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


def trained(output, judged=None, *, kind="bayer", masked=True, rows=None, device="cpu", **options):
    """Scores of a network that was trained on a folder.

    Args:
        output: to train on.
        judged: crops to measure on; None: the held-out camera's of the same folder.
        kind: of the network's input and of the camera that is held out.
        masked: whether the mask is used.
        rows: of the manifest to train on; None: all.
        device: torch's name.
        options: of the training.
    """
    wanted = {"hold_out_camera": HELD_OUT[kind], "input": "raw" if kind == "bayer" else "rgb", **options}
    chosen, crops = split_keywords(wanted)
    learned = crops if rows is None else crops | {"expression": rows}
    place = torch.device(device)
    loader = CropLoader(training_crops(output, chosen, learned), chosen.batch_size, workers=1, device=place)
    trainer = (Trainer if masked else Unmasked)(loader, chosen, cfa=trained_cfa(crops))
    with torch_cores(1):
        while trainer.step < chosen.steps:
            trainer.advance()
        held_out = validation_crops(output, chosen, crops) if judged is None else judged
        network = trainer.validated_network()
        found = Validator(held_out, trainer.config, chosen.gain, place).measure(network)
    return Scores.of(trainer.step, found)


def drawn_set(folder, seed, scenes):
    """What `prepare` makes of a sample that is drawn anew."""
    make_sample(folder / "pairs", seed=seed, scenes=scenes)
    summary = rawnind.prepare(folder / "pairs", folder / "out", address="local", **CROPS)
    print(f"\n{scenes} scenes, {summary.pairs.collected} pairs, RAWNIND_BENCH_SEED={seed}")
    return folder / "out"


def setting(name, default):
    return int(os.environ.get(f"RAWNIND_BENCH_{name}", default))


SEED = setting("SEED", time.time_ns() % 2**31)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = DEVICE == "cuda"
OPTIONS = {
    "steps": setting("STEPS", 2000 if LARGE else 200), "funit": setting("FUNIT", 16 if LARGE else 8), "device": DEVICE,
}  # fmt: skip


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """Gives the set, which is drawn at the first call."""
    return functools.cache(lambda: drawn_set(tmp_path_factory.mktemp("drawn"), SEED, setting("SCENES", 40)))


@pytest.fixture
def small(tmp_path):
    """A folder of two scenes and the options of the shortest training, to see that the benchmark runs."""
    folder = FolderMaker(tmp_path / "out").scene("a").scene("b", camera=HELD_OUT["bayer"]).finish()
    return functools.partial(trained, folder, steps=2, funit=4, crop_size=32, batch_size=2)


def test_a_denoiser_beats_the_input(benchmark, draw, small):
    if benchmark.enabled:
        for kind, camera in HELD_OUT.items():
            output, started = draw(), time.process_time()
            scores = trained(output, kind=kind, **OPTIONS)
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
                output, started = draw(), time.process_time()
                found = [trained(output, kind=kind, **OPTIONS, **options, seed=n) for n in range(SEEDS)]
                seconds = (time.process_time() - started) / SEEDS
                print(f"  {name:40}{gains(found)}, {seconds:.0f} CPU s each")
    else:
        for _, options in NETWORKS:
            assert small(**options).total["crops"] == 4
    benchmark(lambda: None)


def test_what_more_scenes_are_worth(benchmark, draw, small):
    if benchmark.enabled:
        output = draw()
        names = learnable(output)
        print(
            f"\nscenes, {HELD_OUT['bayer']} held out, {OPTIONS}, {SEEDS} draws: PSNR over input, all and worst ISO"
        )
        for count in (count for count in COUNTS if count <= len(names)):
            drawn = [np.random.default_rng(n).permutation(names)[:count].tolist() for n in range(SEEDS)]
            found = [trained(output, rows=pc.field("scene").isin(scenes), **OPTIONS) for scenes in drawn]
            print(f"  {count:4d} scenes {gains(found)}")
    else:
        assert small(rows=pc.field("scene") == "a").total["crops"] == 4
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


def test_what_the_choice_of_pairs_is_worth(benchmark, tmp_path, small):
    if not benchmark.enabled:
        assert small(RenderedCrops(0, isos=(800,)), masked=False).total["crops"] == 6
        benchmark(lambda: None)
        return
    found = {}
    for seed in (SEED + number for number in range(setting("DRAWS", 3))):
        place = tmp_path / str(seed)
        place.mkdir()
        photos = draw_folder(place / "photos", seed, setting("FOLDER", 24))
        judged, started = RenderedCrops(seed), time.process_time()
        right = ~pc.field("noisy_sha1").isin(photos.wrong)
        kinds = {
            "still": pc.field("scene").isin(photos.still) & right,
            "moving": pc.field("scene").isin(photos.moving),
            "wrong": pc.field("scene").isin(photos.still),
        }
        print(
            f"\n{len(photos.still)} still and {len(photos.moving)} moving scenes, {len(photos.wrong)} photos of other scenes, "
            f"{OPTIONS}, RAWNIND_BENCH_SEED={seed}"
        )
        same = {}
        for name, recipe, masked in WAYS:
            folder = prepared(place, photos.source, recipe)
            for kind, rows in kinds.items():
                data = masked, digest(folder, rows)  # the same data give the same network
                if data not in same:
                    same[data] = trained(folder, judged, masked=masked, rows=rows, **OPTIONS, seed=seed)
                scores = same[data].total
                found.setdefault((name, kind), []).append(scores)
                print(
                    f"  {name:42}{kind:8}{psnr_gain(scores):+6.2f} dB  MS-SSIM {scores['output_msssim']:.4f}",
                    flush=True,
                )
        print(f"  {time.process_time() - started:.0f} CPU s")
    print(
        f"\nPSNR over input in dB, mean and standard deviation over draws, and MS-SSIM\n{'':42}"
        + "".join(f"{kind:>23}" for kind in kinds)
    )
    for name, _, _ in WAYS:
        print(f"{name:42}" + "".join(f"{spread(found[name, kind]):>23}" for kind in kinds))
    benchmark(lambda: None)


def prepared(place, source, recipe):
    """The folder that `prepare` makes of photos with one of RECIPES, or a script without checks."""
    folder = place / recipe
    if not folder.exists():
        if recipe in RECIPES:
            rawnind.prepare(source, folder, address="local", **CROPS, **RECIPES[recipe])
        else:
            write_unchecked(source, folder, shifted=recipe == "script")
        rows = pq.read_table(folder / "manifest.parquet", columns=["noisy_sha1"])["noisy_sha1"]
        print(f"  {recipe}: {len(set(rows.to_pylist()))} photos, {len(rows)} crops")
    return folder


def digest(folder, rows):
    """Of the shards of some rows of a manifest."""
    table = pq.read_table(folder / "manifest.parquet", columns=["scene", "noisy_sha1", "shard"]).filter(rows)
    whole = hashlib.sha256()
    for shard in sorted(set(table["shard"].to_pylist())):
        whole.update((folder / shard).read_bytes())
    return whole.digest()


def spread(found):
    """Gain in dB with its standard deviation over draws, and MS-SSIM."""
    dB = [psnr_gain(scores) for scores in found]
    return f"{np.mean(dB):+.2f} +-{np.std(dB, ddof=min(len(dB) - 1, 1)):.2f}  {np.mean([scores['output_msssim'] for scores in found]):.4f}"


if __name__ == "__main__":
    pytest.main([__file__, "-s", "--benchmark-only", "--benchmark-enable"])
