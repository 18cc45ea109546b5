"""Several output folders as one data set, and torch's own ways to combine data sets."""

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from rawnind.errors import ConfigError, NotPreparedError
from rawnind.splits import validation_scenes
from rawnind.training import CropDataset, CropLoader
from tests.feed.folder_maker import FolderMaker
from tests.output.result_maker import sha1

SCENES = [f"scene{number}" for number in range(8)]


@pytest.fixture
def makers(tmp_path):
    """Two folders with crops of different sizes."""
    return FolderMaker(tmp_path / "one"), FolderMaker(tmp_path / "two", size=128)


def rows_of(dataset):
    """(folder, scene) of every row."""
    pairs = [dataset.rows.pair_at(int(number)) for number in dataset.rows.pair]
    return [(pair.folder, pair.scene) for pair in pairs]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_joined_folders_give_the_samples_of_each_in_order(makers):
    one, two = (maker.scene("a", crops=2).scene("b", crops=3).finish() for maker in makers)
    joined = CropDataset([one, two], crop_size=32, augment=False, validation_share=0)
    assert rows_of(joined) == [(0, "a")] * 2 + [(0, "b")] * 3 + [(1, "a")] * 2 + [(1, "b")] * 3
    for number, where in enumerate((one, two)):
        alone = CropDataset(where, crop_size=32, augment=False, validation_share=0)
        for row in range(5):
            assert torch.equal(joined[5 * number + row]["mask_crops"], alone[row]["mask_crops"])
    assert sum(len(batch["x_crops"]) for batch in CropLoader(joined, 3, workers=2)) == 10
    assert joined.digest()["manifest"] != CropDataset([two, one], crop_size=32).digest()["manifest"]


def test_one_folder_in_a_list_is_that_folder(makers):
    where = makers[0].scene("a").scene("b").finish()
    alone, listed = CropDataset(where, crop_size=32), CropDataset([where], crop_size=32)
    assert alone.digest() == listed.digest()


def test_a_scene_is_in_the_same_split_in_every_folder(makers):
    for maker in makers:
        for name in SCENES:
            maker.scene(name, crops=1)
    folders = [maker.finish() for maker in makers]
    train, val = (
        set(rows_of(CropDataset(folders, crop_size=32, split=split, validation_share=0.5)))
        for split in ("train", "val")
    )
    chosen = validation_scenes(SCENES, 0.5)
    assert val == {(folder, name) for folder in (0, 1) for name in chosen}
    assert train == {(folder, name) for folder in (0, 1) for name in set(SCENES) - chosen}


def test_a_photo_of_a_validation_scene_is_not_trained_on_under_another_name(makers):
    chosen = min(validation_scenes(SCENES, 0.5))
    for name in SCENES:
        makers[0].scene(name, crops=1)
    makers[1].scene(
        min(set(SCENES) - validation_scenes(SCENES, 0.5)), crops=1, gt_sha1=sha1(f"bayer{chosen} gt")
    )
    dataset = CropDataset([maker.finish() for maker in makers], crop_size=32, validation_share=0.5)
    assert {folder for folder, _ in rows_of(dataset)} == {0}
    assert dict(dataset.rows.left_out)["photo of split val"] == 1


def test_the_test_reserve_of_one_folder_is_left_out_of_all(makers):
    shared = sha1("shared")
    makers[0].scene("secret", test=True, gt_sha1=shared).scene("a").scene("b")
    makers[1].scene("secret", gt_sha1=sha1("another photo")).scene("renamed", gt_sha1=shared).scene("a")
    folders = [maker.finish() for maker in makers]
    assert set(rows_of(CropDataset(folders, crop_size=32, split="all"))) == {(0, "a"), (0, "b"), (1, "a")}
    assert set(rows_of(CropDataset(folders, crop_size=32, split="test"))) == {(0, "secret")}


def test_wrong_folders_are_named(makers, tmp_path):
    where = makers[0].scene("a").finish()
    with pytest.raises(ConfigError, match="output must name a folder"):
        CropDataset([])
    with pytest.raises(ConfigError, match="each folder once"):
        CropDataset([where, f"{where}/"])
    with pytest.raises(NotPreparedError, match="empty has no"):
        CropDataset([where, tmp_path / "empty"])


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_combined_data_sets_give_batches_of_the_same_shapes_and_values(folder, workers):
    dataset = CropDataset(folder.store.location, crop_size=32, num_crops=2, augment=False)
    expected = next(iter(DataLoader(dataset, batch_size=4)))
    for combined in (
        Subset(dataset, [0, 1, 2, 3]),
        ConcatDataset([Subset(dataset, [0, 1]), Subset(dataset, [2, 3])]),
        dataset + dataset,
    ):
        batch = next(iter(DataLoader(combined, batch_size=4, num_workers=workers)))
        assert same(batch, expected)
