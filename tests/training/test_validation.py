import json
import math
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from tensorboardX.proto.event_pb2 import Event

from rawnind.cli import main
from rawnind.errors import ConfigError
from rawnind.feed import CropDataset, to_device
from rawnind.training.crops import training_crops
from rawnind.training.evaluate import as_plain, evaluate
from rawnind.training.log import read_metrics
from rawnind.training.loop import best_path, train
from rawnind.training.model import NetworkConfig, UNet
from rawnind.training.options import GainMatch, split_keywords
from rawnind.training.pictures import GAP
from rawnind.training.validation import CropScore, Quality, Scores, Validator, table, verdict

SMALL = {"crop_size": 32, "batch_size": 4, "funit": 4, "validation_share": 0.5}
KEYS = {"crops", "input_psnr", "output_psnr", "input_msssim", "output_msssim"}


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A report of six steps with three validations."""
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    where = folder.store.location
    return train(where, steps=6, validate_every=2, checkpoint=path, progress=quiet, validated=quiet, **SMALL)


def score(iso, camera, before, after):
    def quality(psnr):
        return Quality(psnr=psnr, msssim=0.9, display_psnr=psnr, display_msssim=0.9)

    return CropScore(iso=iso, camera=camera, input=quality(before), output=quality(after))


def test_a_network_that_does_nothing_scores_as_its_input(folder):
    crops = CropDataset(
        folder.store.location, split="all", crop_size=32, augment=False, extras=("iso", "camera")
    )
    config = NetworkConfig(funit=4)
    found = Validator(crops, config, GainMatch.INPUT, torch.device("cpu")).measure(UNet(config), most=2)
    assert len(found) == 2
    assert all(each.input == each.output for each in found)
    rows = Scores.of(0, found)
    assert rows.total["crops"] == 2
    assert sum(row["crops"] for row in rows.by_iso) == sum(row["crops"] for row in rows.by_camera) == 2


def test_psnr_is_that_of_the_valid_pixels(folder):
    crops = CropDataset(
        folder.store.location, split="all", input="rgb", crop_size=64, augment=False, extras=("iso", "camera")
    )
    config = NetworkConfig(funit=4, input="rgb")
    (found,) = Validator(crops, config, GainMatch.INPUT, torch.device("cpu")).measure(UNet(config), most=1)
    batch = to_device(crops.native([0]))
    x, y, mask = (batch[name].numpy() for name in ("x_crops", "y_crops", "mask_crops"))
    assert found.input.psnr == pytest.approx(-10 * math.log10(np.mean((x - y)[mask] ** 2)), abs=1e-3)
    assert found.iso == int(batch["iso"][0])


def test_ranks_share_the_crops(folder):
    crops = CropDataset(
        folder.store.location, split="all", crop_size=32, augment=False, extras=("iso", "camera")
    )
    config = NetworkConfig(funit=4)

    def measure(**place):
        return Validator(crops, config, GainMatch.INPUT, torch.device("cpu"), **place).measure(
            UNet(config), most=3
        )

    parts = [measure(rank=rank, ranks=2) for rank in range(2)]
    assert [len(part) for part in parts] == [2, 1]
    assert sorted(map(repr, parts[0] + parts[1])) == sorted(map(repr, measure()))


def test_the_verdict_names_what_is_worse():
    better, worse = score(6400, "A", 30.0, 34.0), score(100, "B", 40.0, 39.5)
    assert verdict(Scores.of(1, [better])) == (
        "The network beats the plainly demosaiced input on 1 held-out crop: +4.00 dB PSNR; "
        "worse at no ISO and with no camera."
    )
    assert "beats" in verdict(Scores.of(1, [better, worse]))
    assert verdict(Scores.of(1, [better, worse])).endswith("worse at ISO 100 (-0.50 dB), with B (-0.50 dB).")
    assert "worse with B (-0.50 dB)." in verdict(Scores.of(1, [better, score(100, "A", 40.0, 41.0), worse]))
    assert "does NOT beat" in verdict(Scores.of(1, [worse]))
    assert "equals" in verdict(Scores.of(1, [score(None, "A", 30.0, 30.05)]))
    lines = table(Scores.of(1, [worse, better, score(None, "A", 30.0, 30.0)]))
    assert [line.split("  ")[0] for line in lines[1:4]] == ["ISO 100", "ISO 6400", "ISO unknown"]


def test_a_training_writes_metrics_and_keeps_its_best_state(trained):
    path = Path(trained.checkpoint)
    lines = [line for line in read_metrics(str(path.parent / "train")) if "validation" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["validation"] == json.loads(json.dumps(asdict(trained.scores)))
    scores = torch.load(path, weights_only=True)["scores"]
    best = torch.load(best_path(path), weights_only=True)["scores"]
    assert best[-1] == max(scores, key=lambda score: score[1])


def test_pictures_show_noisy_denoised_truth_and_error_side_by_side(trained):
    folder = Path(trained.checkpoint).parent / "train"
    pictures = sorted((folder / "pictures").glob("step-0000006-*.png"))
    assert pictures
    height, width, _ = cv2.imread(str(pictures[0])).shape
    assert width == 4 * height + 3 * GAP
    tags = {value.tag for event in events(folder / "tensorboard") for value in event.summary.value}
    assert tags >= {"loss", "psnr_linear/input", "psnr_linear/output", "msssim_display/output", "psnr_ISO_3200/output",
                    "psnr_Sony_A7/input", "crop_0"}  # fmt: skip


def events(folder):
    """What TensorBoard reads: each record has its length, a checksum of that, an event, and a checksum of this."""
    (file,) = folder.glob("events.*")
    data = file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_evaluate_measures_what_training_held_out(trained, folder):
    found = as_plain("val", evaluate(folder.store.location, checkpoint=Path(trained.checkpoint), split="val"))
    assert set(found) == {"split", "by_iso", "by_camera", "total"}
    assert set(found["total"]) == KEYS
    assert all(set(row) == KEYS | {"iso"} for row in found["by_iso"])
    assert all(set(row) == KEYS | {"camera"} for row in found["by_camera"])
    assert found["total"]["input_psnr"] == pytest.approx(trained.scores.total["input_psnr"], abs=1e-3)
    secret = as_plain(
        "test", evaluate(folder.store.location, checkpoint=Path(trained.checkpoint), split="test")
    )
    assert secret["total"]["crops"] == 2


def test_the_commands_take_yaml_and_end_with_what_the_network_gains(folder, tmp_path):
    config, path = tmp_path / "train.yaml", tmp_path / "c.pt"
    config.write_text(yaml.safe_dump(SMALL | {"steps": 9, "gain": "output"}))
    where, run = folder.store.location, CliRunner().invoke
    trained = run(main, ["train", where, "--config", str(config), "--steps", "2", "--checkpoint", str(path)])
    assert trained.exit_code == 0, trained.output
    options = torch.load(path, weights_only=True)["options"]
    assert (options["steps"], options["funit"], options["gain"]) == (2, 4, "output")
    best = ["evaluate", where, "--checkpoint", str(best_path(path))]
    scores = evaluate(where, checkpoint=best_path(path))
    for done in (trained, run(main, best)):
        lines = done.stdout.splitlines()
        assert [line in lines for line in table(scores)] == [True] * len(table(scores))
        assert lines[-1] == verdict(scores)
    done = run(main, [*best, "--json"])
    assert json.loads(done.stdout) == json.loads(json.dumps(as_plain("val", scores)))


def test_a_camera_is_held_out_with_all_its_scenes_and_only_it_validates(maker):
    maker.scene("a", crops=4).scene("b", crops=2, camera="Canon 5D").scene("c", crops=1, camera="Canon 5D")
    where = str(maker.scene("secret", test=True, crops=1, camera="Canon 5D").finish())
    options = SMALL | {"hold_out_camera": "Canon 5D", "steps": 1, "progress": quiet, "validated": quiet}
    report = train(where, **options)
    assert [(row["camera"], row["crops"]) for row in report.scores.by_camera] == [("Canon 5D", 3)]
    trained_on = training_crops(where, *split_keywords({"hold_out_camera": "Canon 5D", "crop_size": 32}))
    assert trained_on.rows.pairs["camera"].to_pylist() == ["Sony A7"]
    with pytest.raises(ConfigError, match="no crop of the camera Nikon is left"):
        train(where, **options | {"hold_out_camera": "Nikon", "checkpoint": maker.store.local("other.pt")})


def test_training_ends_when_validations_no_longer_improve(folder, tmp_path):
    options = SMALL | {"learning_rate": 1e-12, "ema": 0.0}  # nothing ever improves
    report = train(
        folder.store.location,
        steps=50,
        validate_every=1,
        patience=2,
        checkpoint=tmp_path / "c.pt",
        progress=quiet,
        validated=quiet,
        **options,
    )
    assert report.steps < 50


def test_without_a_held_out_scene_nothing_is_validated(maker, caplog):
    where = maker.scene("a", crops=5).finish()
    report = train(str(where), steps=1, progress=quiet, **SMALL | {"validation_share": 0.0})
    assert report.scores is None
    assert "Nothing was validated" in str(report)
    assert "no scene is held out" in caplog.text
    caplog.clear()
    with pytest.raises(ConfigError, match=r"the split test of .* has no crop for the network"):
        evaluate(where, split="test")
    assert "no scene of the test reserve" in caplog.text
