import logging
import random
import signal
import threading

import pytest
import torch
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.errors import ConfigError
from rawnind.feed import CropDataset, CropLoader
from rawnind.training.loop import train
from rawnind.training.options import TrainOptions
from rawnind.training.trainer import Trainer, TrainingError

SMALL = {"crop_size": 32, "batch_size": 4, "funit": 4}
FOR_RESUME = {"schedule": "constant", "warmup": 0}
"""A rate that does not depend on the number of steps."""


def quiet(_step, _loss):
    pass


def test_twenty_steps_lower_the_loss_and_are_logged(folder, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    report = train(
        folder.store.location,
        steps=20,
        checkpoint=tmp_path / "c.pt",
        learning_rate=5e-3,
        model="unet",
        **{**SMALL, "funit": 12},
    )
    assert report.last_loss < 0.8 * report.first_loss
    assert (report.steps, report.batches, report.resumed_at, report.skipped) == (20, 20, 0, 0)
    assert len(report.losses) == 20
    assert report.crops == 30 + 30 + 4 * 4
    assert "step     20  loss 0." in caplog.text
    assert capsys.readouterr() == ("", "")  # only the command prints
    assert "Trained 20 steps" in str(report)


def test_a_resumed_training_ends_with_the_same_weights(folder, tmp_path):
    where = folder.store.location
    options = SMALL | FOR_RESUME
    whole = train(where, steps=14, checkpoint=tmp_path / "whole.pt", progress=quiet, workers=0, **options)
    train(where, steps=5, checkpoint=tmp_path / "parts.pt", progress=quiet, workers=2, **options)
    parts = train(where, steps=14, checkpoint=tmp_path / "parts.pt", progress=quiet, **options)
    assert (parts.resumed_at, parts.batches) == (5, 9)
    assert parts.losses == whole.losses
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    for entry in ("model", "average"):
        assert all(torch.equal(one[entry][key], other[entry][key]) for key in one[entry])


def test_a_finished_training_is_only_reported(folder, tmp_path):
    for _ in range(2):
        report = train(folder.store.location, steps=3, checkpoint=tmp_path / "c.pt", progress=quiet, **SMALL)
    assert (report.steps, report.resumed_at, report.batches) == (3, 3, 0)
    assert not [each for each in threading.enumerate() if "EventLogger" in type(each).__name__]


def test_the_seed_decides_the_losses(folder, tmp_path):
    losses = [
        train(
            folder.store.location,
            steps=3,
            seed=seed,
            checkpoint=tmp_path / f"{n}.pt",
            progress=quiet,
            **SMALL,
        ).losses
        for n, seed in enumerate([1, 1, 2])
    ]
    assert losses[0] == losses[1] != losses[2]


def test_colour_input_trains_too(folder, tmp_path):
    report = train(
        folder.store.location, steps=2, input="rgb", checkpoint=tmp_path / "c.pt", progress=quiet, **SMALL
    )
    assert report.steps == 2


def test_x_trans_alone_trains_too(folder, tmp_path):
    options = {"input": "rgb", "cfa": "x-trans", "steps": 1, "checkpoint": tmp_path / "c.pt"}
    with pytest.raises(ConfigError, match=r"a batch of 4 needs as many crops, .* has 3"):
        train(folder.store.location, **SMALL, **options)
    assert train(folder.store.location, progress=quiet, **SMALL | {"batch_size": 3}, **options).crops == 3
    assert torch.load(tmp_path / "c.pt", weights_only=True)["cfa"] == "x-trans"


def test_the_checkpoint_lies_in_the_folder_by_default_and_nothing_is_left_beside_it(maker):
    where = maker.scene("a").finish()
    report = train(str(where), steps=2, save_every=1, progress=quiet, **SMALL)
    assert report.checkpoint == str(where / "checkpoint.pt")
    assert not list(where.glob(".tmp-*"))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"crop_size": 64},
        {"funit": 8},
        {"model": "unet"},
        {"ema": 0},
        {"iso": (1, 2), "split": "all"},
    ],
)
def test_a_checkpoint_of_another_training_is_refused(folder, tmp_path, change):
    train(folder.store.location, steps=1, checkpoint=tmp_path / "c.pt", progress=quiet, **SMALL)
    with pytest.raises(ConfigError):
        train(
            folder.store.location,
            steps=2,
            checkpoint=tmp_path / "c.pt",
            progress=quiet,
            **{**SMALL, **change},
        )


def test_a_file_that_is_no_checkpoint_is_refused(folder, tmp_path):
    (tmp_path / "c.pt").write_bytes(b"hello")
    with pytest.raises(ConfigError, match=r"c\.pt is not a checkpoint"):
        train(folder.store.location, steps=2, checkpoint=tmp_path / "c.pt", **SMALL)


def test_a_damaged_or_foreign_checkpoint_is_refused_and_changes_nothing(folder, tmp_path):
    path = tmp_path / "c.pt"
    train(folder.store.location, steps=1, checkpoint=path, progress=quiet, **SMALL)
    data, chance = path.read_bytes(), random.Random(0)
    places = [*range(len(data)), *range(-1000, 0)]
    sound = torch.load(path, weights_only=True)
    foreign = [
        {}, [], 7, {**sound, "losses": "many"}, {**sound, "model": {}}, {**sound, "optimizer": {}}, {**sound, "feed": {}},
        {**sound, "feed": {**sound["feed"], "position": -1}}, {**sound, "network": None}, {**sound, "network": {**sound["network"], "model": "other"}}, {**sound, "format": 1}, {**sound, "average": {}},
        {**sound, "feed": {**sound["feed"], "rows": torch.zeros(0)}},
        {**sound, "model": dict.fromkeys(sound["model"], torch.zeros(1))},
        {**sound, "optimizer": {**sound["optimizer"], "state": {0: {"step": 1}}}},
    ]  # fmt: skip
    crops = CropLoader(CropDataset(folder.store.location, crop_size=SMALL["crop_size"]), SMALL["batch_size"])
    training = Trainer(crops, TrainOptions(funit=4))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    for number in range(40 + len(foreign)):
        if number < len(foreign):
            torch.save(foreign[number], path)
        else:
            damaged = bytearray(data)
            for place in chance.choices(places, k=chance.randint(1, 9)):
                damaged[place] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged[: chance.randrange(len(data))] if number % 4 == 0 else damaged)
        try:
            training.load(path)
        except ConfigError as error:
            assert str(error).isprintable()  # noqa: PT017 - a bit that means nothing may have been flipped
            assert training.losses == []
            expected = before
        else:
            assert number >= len(foreign)
            expected = sound["model"]
        found = training.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
        if expected is not before:
            training = Trainer(crops, TrainOptions(funit=4))


def test_too_few_crops_for_a_batch_are_refused(maker):
    where = maker.scene("a", crops=3).finish()
    with pytest.raises(ConfigError, match=r"a batch of 4 needs as many crops, .* has 3"):
        train(str(where), steps=2, **SMALL)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(folder, tmp_path, device):
    with pytest.raises(ConfigError, match=f"torch cannot use the device {device}: "):
        train(folder.store.location, device=device, checkpoint=tmp_path / "c.pt", **SMALL)


def test_what_only_one_process_can_do_is_refused_with_workers():
    result = CliRunner().invoke(main, ["train", "out", "--workers", "2", "--live", "--device", "cpu"])
    assert result.exit_code == 2
    assert "--live, --device is for a training in one process" in result.output


def test_a_remote_folder_needs_a_place_for_the_checkpoint(folder):
    with pytest.raises(ConfigError, match="name a local file with checkpoint"):
        train(f"file://{folder.store.location}", steps=2, **SMALL)


def test_a_loss_that_is_no_number_ends_training(folder, tmp_path):
    with pytest.raises(TrainingError, match="the loss is"):
        train(
            folder.store.location,
            steps=50,
            learning_rate=1e30,
            checkpoint=tmp_path / "c.pt",
            progress=quiet,
            **SMALL,
        )


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "fp16"}, {"accumulate": 3}, {"loss": "l1+ms-ssim"}, {"conditioned": True},
                                     {"gain": "output"}, {"schedule": "plateau", "clip": 0.0}, {"balance": False}])  # fmt: skip
def test_options_of_a_step_train_and_change_the_result(folder, tmp_path, options):
    def last_weights(name, **more):
        train(
            folder.store.location,
            steps=3,
            checkpoint=tmp_path / name,
            progress=quiet,
            **SMALL | {"warmup": 0} | more,
        )
        return torch.load(tmp_path / name, weights_only=True)["model"]

    plain, other = last_weights("a.pt"), last_weights("b.pt", **options)
    assert all(value.isfinite().all() for value in other.values())
    assert any(
        value.shape != plain[key].shape or not torch.equal(value, plain[key]) for key, value in other.items()
    )


def test_an_interrupted_training_saves_and_ends_as_if_it_had_not_been(folder, tmp_path):
    def interrupt(step, _):
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    where, options = folder.store.location, SMALL | {"steps": 6, "progress_every": 1}
    whole = train(where, checkpoint=tmp_path / "whole.pt", progress=quiet, **options)
    with pytest.raises(KeyboardInterrupt):
        train(where, checkpoint=tmp_path / "parts.pt", progress=interrupt, **options)
    parts = train(where, checkpoint=tmp_path / "parts.pt", progress=quiet, **options)
    assert parts.resumed_at == 2
    assert parts.losses == whole.losses
