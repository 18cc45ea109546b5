import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rawnind.errors import DamagedShardError
from rawnind.feed.mosaic_rgb import truth_rgb
from rawnind.feed.sampling import Orientation, Window
from rawnind.imaging.color import camera_to_rec2020, to_rec2020
from rawnind.imaging.demosaic.camera_rgb import demosaic
from rawnind.imaging.photo import Photo
from rawnind.records import Cfa
from rawnind.training import CropDataset, collate, to_device
from tests.imaging.simulation import make_sensor
from tests.output.result_maker import MATRIX

KEYS = {"x_crops", "y_crops", "mask_crops", "rgb_xyz_matrix", "gain"}
ORIENTATIONS = [Orientation(bool(n & 1), bool(n & 2), bool(n & 4)) for n in range(8)]


def same(one, other):
    return one.keys() == other.keys() == KEYS and all(
        torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in KEYS
    )


def packed(mosaic):
    """(4, c/2, c/2) in R, G, G, B order of a (c, c) mosaic that starts on red."""
    return np.stack([mosaic[0::2, 0::2], mosaic[0::2, 1::2], mosaic[1::2, 0::2], mosaic[1::2, 1::2]])


def rggb(rgb):
    """What a sensor that starts on red sees of (3, c, c)."""
    return np.stack([rgb[0, 0::2, 0::2], rgb[1, 0::2, 1::2], rgb[1, 1::2, 0::2], rgb[2, 1::2, 1::2]])


@pytest.mark.parametrize("pairing", ["x_y", "x_x", "y_y"])
@pytest.mark.parametrize("source", ["raw", "rgb"])
def test_keys_shapes_and_types_are_those_of_the_research_code(folder, source, pairing):
    dataset = CropDataset(folder.store.location, crop_size=32, num_crops=3, input=source, pairing=pairing)
    item = dataset[0]
    assert item.keys() == KEYS
    assert item["x_crops"].shape == (3, 3, 32, 32)
    assert item["y_crops"].shape == ((3, 4, 16, 16) if source == "raw" else (3, 3, 32, 32))
    assert item["mask_crops"].shape == (3, 3, 32, 32)
    assert item["rgb_xyz_matrix"].shape == (4, 3)
    assert isinstance(item["gain"], float)
    assert {item[key].dtype for key in ("x_crops", "y_crops", "rgb_xyz_matrix")} == {torch.float32}
    assert item["mask_crops"].dtype == torch.bool


def test_a_sample_is_one_window_of_the_stored_crop_with_one_orientation_in_target_input_and_mask(maker):
    maker.scene("a", crops=3, valid=0.7, gain=2.0)
    dataset = CropDataset(maker.finish(), crop_size=32, seed=3)
    black = np.array([512.0, 513.0, 514.0, 515.0])[:, None, None]
    found = set()
    for epoch in range(5):
        dataset.set_epoch(epoch)
        for index in range(3):
            item = dataset[index]
            stored = maker.pixels[dataset.rows.row(index, dataset.rows.pair_at(0)).crop_id]
            window = find(stored.gt_rgb.astype(np.float32), item["x_crops"][0].numpy())
            found.add(window.orientation)
            greens = [0, 2, 1, 3] if window.orientation.transpose else [0, 1, 2, 3]
            raw = packed(window.cut(stored.noisy_raw, 32).astype(np.float64))
            levels = 2.0 * (raw - black[greens]) / (16000.0 - black[greens])
            assert np.allclose(item["y_crops"][0], levels, atol=1e-6)
            assert np.array_equal(item["mask_crops"][0], window.cut(np.stack([stored.valid] * 3), 32))
    assert len(found) > 4


def find(image, part):
    """The one window of `image` that looks like `part`."""
    size, room = part.shape[-1], image.shape[-1] - part.shape[-1]
    sites = np.arange(size * size, dtype=np.float64).reshape(size, size)
    windows = []
    for turned in ORIENTATIONS:
        y, x = divmod(int(turned.apply(sites)[0, 0]), size)  # where the part's first pixel lies in the window
        alike = (image[:, y : y + room + 1, x : x + room + 1] == part[:, :1, :1]).all(axis=0)
        windows += [Window(int(top), int(left), turned) for top, left in np.argwhere(alike)]
    (match,) = [window for window in windows if np.array_equal(window.cut(image, size), part)]
    return match


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -3), (5, 7)])
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("gt_origin", [(0, 0), (1, 0)])
def test_clean_pairs_show_the_same_colour_at_every_site_whatever_the_shift(maker, shift, size, gt_origin):
    maker.scene("a", crops=4, shift=shift, gt_origin=gt_origin)
    dataset = CropDataset(maker.finish(), crop_size=size, pairing="x_x", augment=size == 32, num_crops=4)
    for item in dataset:
        for x, y in zip(item["x_crops"].numpy(), item["y_crops"].numpy(), strict=True):
            assert np.abs(rggb(x) - y).max() < 5e-4  # float16 near 0.5, and black levels that differ by 3


def test_gain_is_either_applied_or_handed_out(folder):
    where = folder.store.location
    matched, plain = (CropDataset(where, crop_size=32, match_gain=match)[1] for match in (True, False))
    assert (matched["gain"], plain["gain"]) == (1.0, 1.5)
    assert torch.allclose(matched["y_crops"], plain["y_crops"] * 1.5, atol=1e-6)
    assert abs(matched["y_crops"].mean() / rggb(matched["x_crops"][0].numpy()).mean() - 1) < 0.02


def test_raw_input_says_how_many_rows_it_leaves_out(folder, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = CropDataset(folder.store.location, crop_size=32, split="all")
    assert dataset.rows_without_bayer == 3
    assert "3 of 33 crops are not Bayer" in caplog.text
    assert CropDataset(folder.store.location, crop_size=32, split="all", input="rgb").rows_without_bayer == 0


@pytest.mark.parametrize("cfa", list(Cfa))
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("contrast", [(1.7, 0.6), (None, None)])
def test_colour_input_is_the_window_of_the_demosaiced_noisy_photo_in_rec2020(maker, cfa, size, contrast):
    maker.scene("a", cfa=cfa, crops=2, contrast=contrast)
    dataset = CropDataset(maker.finish(), crop_size=size, input="rgb")
    pair = dataset.rows.pair_at(0)
    inside = np.zeros((64, 64), np.bool_)
    inside[12:48, 12:48] = (
        True  # what the crop's edge does not reach; 60 sites are the whole tiles of X-Trans
    )
    for index, item in enumerate(dataset):
        stored = maker.pixels[dataset.rows.row(index, pair).crop_id]
        scene, found = item["x_crops"][0].numpy(), item["y_crops"][0].numpy()
        window = find(stored.gt_rgb.astype(np.float32), scene)
        shown, expected = window.cut(inside, size), window.cut(whole_rgb(stored.noisy_raw, pair), size)
        assert np.abs(found - expected)[:, shown].max() < 1e-4
        # The fixture's sensor sees the three channels of x_crops as red, green and blue.
        seen = np.einsum("ij,jyx->iyx", camera_to_rec2020(MATRIX), scene)
        assert abs((found - seen).mean()) < 0.005


def whole_rgb(mosaic, pair):
    """(3, 64, 64) gain-matched linear Rec.2020 of a stored crop that is demosaiced in one piece."""
    tiles = len(mosaic) // pair.cfa.period * pair.cfa.period
    sensor = make_sensor(pair.cfa, (tiles, tiles), black=tuple(pair.black), white=pair.white)
    gains = None if pair.contrast is None else np.array([pair.contrast[0], 1, pair.contrast[1]], np.float32)
    rgb = demosaic(Photo(mosaic=mosaic[:tiles, :tiles], sensor=sensor), gains)
    converted = pair.gain * to_rec2020(rgb, camera_to_rec2020(pair.rgb_xyz_matrix))
    return np.pad(converted, ((0, 0), *((0, side - tiles) for side in mosaic.shape)), mode="edge")


def test_windows_with_enough_valid_pixels_are_preferred(maker):
    maker.scene("a", crops=1, valid=0.999)
    dataset = CropDataset(maker.finish(), crop_size=32, least_valid=1.0, tries=1000, num_crops=8)
    few = CropDataset(maker.store.location, crop_size=32, least_valid=1.0, tries=1, num_crops=8)
    assert dataset[0]["mask_crops"].all()
    assert not few[0]["mask_crops"].all()


def test_an_item_depends_on_seed_epoch_and_index_alone(folder):
    where = folder.store.location
    one, other = (CropDataset(where, crop_size=32, seed=4) for _ in range(2))
    assert same(one[3], other[3])
    again = one[3]
    other.set_epoch(1)
    assert not same(again, other[3])
    other.set_epoch(0)
    assert same(again, other[3])
    assert not same(again, CropDataset(where, crop_size=32, seed=5)[3])


def test_without_augmentation_every_epoch_gives_the_same(folder):
    dataset = CropDataset(folder.store.location, crop_size=32, augment=False)
    before = dataset[2]
    dataset.set_epoch(7)
    assert same(before, dataset[2])


@pytest.mark.parametrize("source", ["raw", "rgb"])
def test_native_batches_become_what_single_items_are(folder, source):
    dataset = CropDataset(folder.store.location, crop_size=32, num_crops=2, input=source)
    batch = to_device(dataset.native([3, 0, 9]))
    for place, index in enumerate([3, 0, 9]):
        item = dataset[index]
        for key in ("x_crops", "y_crops", "mask_crops"):
            assert torch.equal(batch[key][2 * place : 2 * place + 2], item[key])
        assert torch.equal(batch["rgb_xyz_matrix"][2 * place], item["rgb_xyz_matrix"])


def test_single_items_are_refused_by_collate_and_plain_batches_are_only_moved(folder):
    dataset = CropDataset(folder.store.location, crop_size=32)
    with pytest.raises(TypeError, match="a Subset of it, or leave collate_fn out"):
        next(iter(DataLoader(dataset + dataset, batch_size=2, collate_fn=collate)))
    plain = next(iter(DataLoader(dataset, batch_size=2)))
    assert same(to_device(plain), plain)
    assert {value.device.type for value in to_device(plain, "meta").values()} == {"meta"}


def batches(dataset, **options):
    return list(DataLoader(dataset, batch_size=4, **options))


def test_batches_are_the_same_for_any_number_of_workers_and_epoch_reaches_those_that_run(folder):
    dataset = CropDataset(folder.store.location, crop_size=32)
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
        collate_fn=collate,
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        alone = batches(dataset)
        forked = [to_device(batch) for batch in loader]
        assert len(alone) == len(forked) == 8
        assert all(same(one, other) for one, other in zip(alone, forked, strict=True))


def test_spawned_workers_give_the_same(folder):
    dataset = CropDataset(folder.store.location, crop_size=32)
    dataset[0]  # a shard is open already
    spawned = batches(dataset, num_workers=1, multiprocessing_context="spawn")
    assert all(same(one, other) for one, other in zip(batches(dataset), spawned, strict=True))


def test_a_data_set_pickles_small_and_gives_the_same(folder):
    dataset = CropDataset(folder.store.location, crop_size=32)
    dataset[0]
    data = pickle.dumps(dataset)
    assert len(data) < 11_000
    assert same(pickle.loads(data)[5], dataset[5])


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def grow(path):
    path.write_bytes(path.read_bytes() + b"PAR1")


def remove(path):
    path.unlink()


def garbage(path):
    path.write_bytes(b"\x00" * path.stat().st_size)


def empty(path):
    path.write_bytes(b"")


def swap(path):
    other = next(shard for shard in path.parents[2].rglob("*.parquet") if shard.parent != path.parent)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, grow, remove, garbage, empty, swap])
def test_a_damaged_shard_is_named_or_skipped_with_a_count(maker, damage):
    where = maker.scene("a").scene("b").scene("c").finish()
    (shard,) = (where / "shards/bayer/b").iterdir()
    damage(shard)
    dataset = CropDataset(where, crop_size=32, split="all")
    with pytest.raises(DamagedShardError, match=f"shards/bayer/b/{shard.name}: "):
        dataset[4]
    skipping = CropDataset(where, crop_size=32, split="all", on_damage="skip")
    batch = skipping.native(range(12))
    assert batch.damaged == (f"shards/bayer/b/{shard.name}",) * 4
    assert len(batch) == 12


def test_a_shard_that_is_cut_while_it_is_open_is_noticed(maker):
    where = maker.scene("a").finish()
    dataset = CropDataset(where, crop_size=32)
    dataset[0]
    (shard,) = (where / "shards/bayer/a").iterdir()
    with shard.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DamagedShardError, match=f"{shard.name}: has 100 bytes now"):
        dataset[1]


def test_a_flipped_bit_is_found_when_every_byte_is_verified(maker):
    where = maker.scene("a").scene("b").finish()
    (shard,) = (where / "shards/bayer/a").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedShardError, match=f"{shard.name}: its SHA-256 is not the manifest's"):
        CropDataset(where, crop_size=32, verify="sha256", split="all")[0]


def test_when_nothing_can_be_read_skipping_ends(maker):
    where = maker.scene("a").scene("b").finish()
    for shard in where.rglob("shards/**/*.parquet"):
        shard.unlink()
    with pytest.raises(DamagedShardError, match="none of the 2 shards"):
        CropDataset(where, crop_size=32, split="all", on_damage="skip")[0]


def test_a_row_that_is_not_there_is_an_index_error(folder):
    dataset = CropDataset(folder.store.location, crop_size=32)
    with pytest.raises(IndexError, match="row 30 of 30"):
        dataset[30]
    assert same(dataset[-1], dataset[29])


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -3), (5, 7)])
def test_any_window_of_the_ground_truth_is_that_of_its_whole_mosaic(maker, shift):
    maker.scene("a", crops=1, shift=shift, contrast=(1.7, 0.6), gt_contrast=(1.7, 0.6))
    dataset = CropDataset(maker.finish(), crop_size=64, pairing="x_x")
    row = dataset.rows.row(0, dataset.rows.pair_at(0))
    mosaic, (y, x) = maker.pixels[row.crop_id].gt_raw, row.gt_tile
    sensor = make_sensor(Cfa.BAYER, (62, 62), black=tuple(row.pair.gt_black), white=row.pair.gt_white)
    photo = Photo(mosaic=mosaic[y : y + 62, x : x + 62], sensor=sensor)
    whole = to_rec2020(demosaic(photo, np.array([1.7, 1, 0.6], np.float32)), camera_to_rec2020(MATRIX))
    assert dataset[0]["x_crops"].shape == (1, 3, 64, 64)  # as large as the crop, which may not start on red
    for top, left, size in [(0, 0, 64), (y, x, 32), (y + 30, x, 32)]:
        part = truth_rgb(mosaic, row, top, left, size)
        inside = (slice(None), slice(20, 44 - top), slice(20, 44 - left))
        expected = np.pad(whole, ((0, 0), (y, 64), (x, 64)))[:, top : top + size, left : left + size]
        assert np.abs(part - expected)[inside].max(initial=0) < 1e-5
