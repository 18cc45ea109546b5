import json
import logging

import pytest
import torch

from rawnind.training.log import read_metrics
from rawnind.training.loop import train

SMALL = {"crop_size": 32, "batch_size": 2, "funit": 4, "validation_share": 0.45, "validation_crops": 4}


def quiet(*_):
    pass


READY = {"time": 1, "run": "r", "event": "state", "from": "collecting", "to": "ready"}


@pytest.fixture
def finished(maker):
    """A folder whose run has ended."""
    where = maker.scene("cat", crops=8).scene("coins", crops=4).finish()
    maker.store.write("events.jsonl", json.dumps(READY).encode())
    return where


def test_a_finished_folder_is_one_live_epoch_and_then_goes_on_as_any_other(finished, tmp_path):
    options = SMALL | {"progress": quiet, "validated": quiet, "checkpoint": tmp_path / "c.pt"}
    report = train(finished, live=True, steps=8, validate_every=2, **options)
    assert report.steps == 8
    assert 0 < report.seen_live < report.crops
    assert f"It had seen {report.seen_live} crops when production ended." in str(report)
    validated = [line["step"] for line in read_metrics(str(tmp_path / "c-train")) if "validation" in line]
    assert validated[-1] == 8
    assert min(validated) >= report.seen_live / 2
    resumed = train(finished, live=True, steps=10, **options)
    assert (resumed.resumed_at, resumed.steps) == (8, 10)
    assert resumed.losses[:8] == report.losses


def test_a_training_that_ends_first_says_so(finished, tmp_path):
    report = train(finished, live=True, steps=2, checkpoint=tmp_path / "c.pt", progress=quiet, **SMALL)
    assert report.seen_live is None
    assert report.scores is None
    torch.load(tmp_path / "c.pt", weights_only=True)


@pytest.mark.slow
def test_training_begins_with_the_first_scene_of_a_run(start, small_set, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    production = start(output=tmp_path / "out")
    report = train(
        tmp_path / "out", live=True, steps=30, progress=quiet, validated=quiet, **SMALL | {"input": "rgb"}
    )
    summary = production.result()
    assert summary.crops
    assert 0 < report.seen_live <= summary.crops
    assert report.scores is not None
