"""Noise, ISO and names in a batch, through every way that makes one."""

import json
import math

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

from rawnind.errors import ConfigError
from rawnind.training import CropDataset, CropLoader, LiveCropDataset, collate, to_device

ALL = ("noise_a", "noise_b", "iso", "scene", "camera", "crop_id")
READY = json.dumps({"time": 1, "run": "r", "event": "state", "from": "collecting", "to": "ready"})
NOISE = {"noise_a_red": 1e-3, "noise_a_green": 2e-3, "noise_a_blue": 3e-3, "noise_b_green": 4e-5}


@pytest.fixture
def output(maker):
    maker.scene("a", crops=2, gain=2.0, noise=NOISE).scene(
        "b", crops=1, iso=None, camera="Canon 5D", gain=3.0
    )
    return maker.finish()


def test_without_extras_a_batch_has_the_keys_of_the_research_code_alone(output):
    (batch, *_) = CropLoader(CropDataset(output, crop_size=32), batch_size=2)
    assert set(batch) == {"x_crops", "y_crops", "mask_crops", "rgb_xyz_matrix", "gain"}


def test_noise_is_that_of_y_with_the_gain_applied_and_nan_where_it_was_not_measured(output):
    batch = to_device(CropDataset(output, crop_size=32, extras=ALL, split="all").native([0, 2]))
    assert torch.allclose(batch["noise_a"][0], torch.tensor([2e-3, 4e-3, 4e-3, 6e-3]))
    assert torch.allclose(
        batch["noise_b"][0], torch.tensor([math.nan, 16e-5, 16e-5, math.nan]), equal_nan=True
    )
    assert batch["noise_a"][1].isnan().all()
    assert batch["iso"][0] == 3200
    assert batch["iso"][1].isnan()
    assert (batch["scene"], batch["camera"]) == (["a", "b"], ["Sony A7", "Canon 5D"])
    plain = to_device(CropDataset(output, crop_size=32, extras=ALL, match_gain=False).native([0]))
    assert torch.allclose(plain["noise_a"], torch.tensor([[1e-3, 2e-3, 2e-3, 3e-3]]))
    colour = to_device(CropDataset(output, crop_size=32, extras="noise_a", input="rgb").native([0]))
    assert torch.allclose(colour["noise_a"], torch.tensor([[2e-3, 4e-3, 6e-3]]))


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value.nan_to_num(-1), torch.as_tensor(other[name]).nan_to_num(-1))
        if isinstance(value, torch.Tensor)
        else value == other[name]
        for name, value in one.items()
    )


def test_every_loader_gives_the_same_extras(output):
    dataset = CropDataset(output, crop_size=32, num_crops=2, extras=ALL, split="all")
    (expected,) = CropLoader(dataset, batch_size=3, shuffle=False)
    assert expected["crop_id"] == [
        dataset.rows.row(index, dataset.rows.pair_at(dataset.rows.pair[index])).crop_id
        for index in (0, 0, 1, 1, 2, 2)
    ]
    ways = {
        "threads": CropLoader(dataset, batch_size=3, shuffle=False, workers=1),
        "torch": DataLoader(dataset, 3),
        "workers": DataLoader(dataset, 3, num_workers=1),
        "native": map(to_device, DataLoader(dataset, 3, num_workers=1, collate_fn=collate)),
        "items": DataLoader(ConcatDataset([dataset]), 3),
        "collated": [to_device(collate([dataset.native([0]), dataset.native([1, 2])]))],
        "moved": [to_device(expected)],
    }
    for name, batches in ways.items():
        (batch,) = batches
        assert same(expected, batch), name


def test_a_live_feed_gives_them_too(output):
    (output / "events.jsonl").write_text(READY)
    options = {
        "batch_size": 3,
        "crop_size": 32,
        "address": "127.0.0.1:1",
        "max_wait": 5,
        "validation_share": 0.0,
    }
    live = LiveCropDataset(str(output), extras=ALL, split="all", **options)
    (batch,) = live
    assert sorted(batch["scene"]) == ["a", "a", "b"]
    assert min(batch["noise_a"][:, 0].nan_to_num(-1).tolist()) == -1
    assert len(set(batch["crop_id"])) == 3


def test_a_resumed_training_may_ask_for_other_extras(output):
    plain = CropLoader(CropDataset(output, crop_size=32), batch_size=1)
    CropLoader(CropDataset(output, crop_size=32, extras=("iso",)), batch_size=1).load_state_dict(
        plain.state_dict()
    )


def test_unknown_extras_and_noise_without_a_noisy_photo_are_refused(output):
    with pytest.raises(ConfigError, match="extras must be one of"):
        CropDataset(output, crop_size=32, extras=("noise",))
    with pytest.raises(ConfigError, match="noisy photo"):
        CropDataset(output, crop_size=32, extras=("noise_b",), pairing="x_x")


def test_a_data_set_says_what_is_in_it(output):
    text = repr(
        CropDataset(output, crop_size=32, min_msssim=0.5, iso=(100, 6400), extras=("iso",), split="all")
    )
    assert "2 crops of 1 pair, 1 scene, cameras Sony A7, ISO 3200 to 3200" in text
    assert "1 x 32 sites" in text
    assert "extras iso; rows removed: iso 1" in text
