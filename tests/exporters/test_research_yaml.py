import hashlib
import json
import re
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
import yaml
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.errors import ConfigError, DamagedShardError, OutputError
from rawnind.exporters.check import check, offset
from rawnind.exporters.research_yaml import MARK, export
from rawnind.exporters.rules import describe_export, training_crop, unserved
from rawnind.imaging.color import camera_to_rec2020
from rawnind.output.shards import CropPixels, crop_name, read_crop
from rawnind.records import Cfa
from tests.feed.folder_maker import FolderMaker
from tests.output.result_maker import MATRIX


class Textured(FolderMaker):
    """Crops with fine detail, whose mosaics are what their colours look like to the camera; photos in folders, as `index` names them."""

    @staticmethod
    def _ref(scene, cfa, number, iso, digest):
        ref = FolderMaker._ref(scene, cfa, number, iso, digest)
        return replace(ref, filename=f"photos/{scene}'s/{ref.filename}")

    def _crop(self, pair, y, x, cfa, measured, valid, gt_origin):
        rng = np.random.default_rng([y, x, int(pair[:8], 16)])
        light = cv2.GaussianBlur(rng.random((self.size, self.size)), (0, 0), 1.5)
        camera = 0.2 + 0.6 * (light - light.min()) / np.ptp(light) * np.array([0.7, 1.0, 0.8])[:, None, None]
        rows, columns = np.indices((self.size, self.size))
        tile = np.array(cfa.tile)

        def mosaic(shift):
            colors = tile[(rows + shift[0]) % len(tile), (columns + shift[1]) % len(tile)]
            return np.take_along_axis(camera, colors[None], 0)[0]

        noisy = 512 + 15488 * (mosaic((0, 0)) / measured.gain + rng.normal(0, 0.02, light.shape))
        truth = 512 + 15488 * mosaic((measured.shift_y, measured.shift_x))
        return CropPixels(
            crop_id=crop_name(pair, y, x),
            noisy_raw=noisy.clip(0, 65535).astype(np.uint16),
            gt_raw=truth.astype(np.uint16),
            gt_rgb=np.tensordot(camera_to_rec2020(MATRIX), camera, 1).astype(np.float16),
            valid=rng.random(light.shape) < valid,
        )


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    """Two Bayer scenes, one of them with an odd shift, an X-Trans one, and one of the test reserve."""
    maker = Textured(tmp_path_factory.mktemp("made") / "out")
    maker.scene("even", crops=3, shift=(4, -2), valid=0.9).scene("odd", crops=2, shift=(3, 5))
    maker.scene("tree", cfa=Cfa.X_TRANS, crops=2).scene("secret", test=True, crops=2)
    maker.finish()
    return maker


@pytest.fixture(scope="module")
def folder(maker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "research"
    export(maker.store.location, folder)
    return folder


def entries(folder, name="dataset.yaml"):
    return {entry["image_set"]: entry for entry in yaml.safe_load((folder / name).read_text())}


def tensor(path):
    """Reads as the loaders do where OpenImageIO is not there."""
    if path.endswith(".npy"):
        return torch.tensor(np.load(path))
    image = cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH), cv2.COLOR_BGR2RGB)
    image = torch.tensor(image.transpose(2, 0, 1))
    return image / 255 if image.dtype == torch.uint8 else image


def test_an_export_passes_its_own_check(folder):
    assert check(folder) == []
    assert entries(folder).keys() == {"even", "odd", "tree", "TEST_secret"}
    assert entries(folder, "clean.yaml").keys() == {"even", "odd", "tree"}
    assert yaml.safe_load((folder / "test_reserve.yaml").read_text()) == {"test_reserve": ["TEST_secret"]}


def test_a_loader_finds_the_noisy_photo_the_gt_and_the_mask_at_one_place(folder, maker):
    rows = {row["crop_id"]: row for row in pq.read_table(maker.store.full("manifest.parquet")).to_pylist()}
    for row in rows.values():
        entry = entries(folder)["TEST_" * row["test_reserve"] + row["scene"]]
        (crop,) = [crop for crop in entry["crops"] if crop["coordinates"] == [row["x"], row["y"]]]
        stored = read_crop(maker.store, row["shard"], row["row_group"], row["size"])
        truth, noisy = tensor(crop["gt_linrec2020_fpath"]), tensor(crop["f_linrec2020_fpath"])
        assert truth.shape == noisy.shape == (3, 64, 64)
        assert np.array_equal(truth, stored.gt_rgb.astype(np.float32))
        x, y = crop["coordinates"]
        mask = tensor(entry["mask_fpath"])[:, y : y + truth.shape[1], x : x + truth.shape[2]].expand(
            truth.shape
        )
        assert np.array_equal(mask.bool().numpy(), np.broadcast_to(stored.valid, (3, 64, 64)))
        if row["cfa"] == "bayer":
            planes = tensor(crop["f_bayer_fpath"])
            assert planes.shape == (4, 32, 32)
            black, white = row["black_level"][1], row["white_level"]
            expected = (stored.noisy_raw[0::2, 1::2] - black) / (white - black)
            np.testing.assert_allclose(planes[1], expected, atol=1e-6)
        assert entry["is_bayer"] == (row["cfa"] == "bayer")
        assert "f_bayer_fpath" in crop or not entry["is_bayer"]


@pytest.mark.parametrize("scene", ["even", "odd"])
def test_the_gts_mosaic_starts_on_red_after_any_shift(folder, scene):
    crop = entries(folder)[scene]["crops"][0]
    truth, planes = tensor(crop["gt_linrec2020_fpath"]), tensor(crop["gt_bayer_fpath"])
    camera = np.tensordot(np.linalg.inv(camera_to_rec2020(MATRIX)), truth.numpy(), 1)
    for plane, (color, y, x) in zip(planes, [(0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)], strict=True):
        np.testing.assert_allclose(plane, camera[color, y::2, x::2], atol=2e-3)


def test_both_cameras_matrices_are_listed_and_the_gts_own_makes_its_mosaic(tmp_path):
    other = tuple(np.array(MATRIX) * np.repeat([1.4, 1.0, 0.7], 3))
    maker = Textured(tmp_path / "out").scene("odd", crops=1, shift=(3, 5))
    (result,) = maker.results
    (pair,) = result.pairs
    pair = replace(pair, gt_sensor=replace(pair.gt_sensor, rgb_xyz_matrix=other))
    maker.results = [replace(result, pairs=(pair,))]
    maker.finish()
    (row,) = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert (tuple(row["rgb_xyz_matrix"]), tuple(row["gt_rgb_xyz_matrix"])) == (MATRIX, other)
    export(tmp_path / "out", tmp_path / "export")
    entry = entries(tmp_path / "export")["odd"]
    for key, matrix in (("rgb_xyz_matrix", MATRIX), ("gt_rgb_xyz_matrix", other)):
        np.testing.assert_array_equal(entry[key], [*np.reshape(matrix, (3, 3)), [0, 0, 0]])
    (crop,) = entry["crops"]
    truth, planes = tensor(crop["gt_linrec2020_fpath"]), tensor(crop["gt_bayer_fpath"])
    camera = np.tensordot(np.linalg.inv(camera_to_rec2020(other)), truth.numpy(), 1)
    np.testing.assert_allclose(planes[0], camera[0, 0::2, 0::2], atol=2e-3)


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_folder_gives_the_same_bytes_and_what_is_stale_goes(folder, maker):
    before = hashes(folder)
    stale = folder / "masks" / "bayer" / "gone" / "0123456789ab-ba9876543210.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    victim = next(folder.rglob("*-gt.npy"))
    victim.write_bytes(b"half")
    export(maker.store.location, folder)
    assert hashes(folder) == before
    assert json.loads((folder / MARK).read_text())["complete"] is True


@pytest.mark.parametrize("mark", ["{}", "[]", "[" * 900, '{"format": "research-yaml"}'])
def test_a_file_that_is_no_mark_does_not_make_a_folder_an_export(maker, tmp_path, mark):
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(ConfigError, match="not written by an export"):
        export(maker.store.location, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MARK]


def test_photos_in_and_behind_the_folders_of_an_export_stay(maker, tmp_path):
    to, photos = tmp_path / "to", tmp_path / "photos"
    export(maker.store.location, to)
    theirs = (to / "crops" / "bayer" / "holiday.jpg", to / "train.yaml")
    for path in theirs:
        path.write_bytes(b"theirs")
    export(maker.store.location, to)
    assert [path.read_bytes() for path in theirs] == [b"theirs"] * 2
    (to / "crops").rename(photos)
    (to / "crops").symlink_to(photos)
    before = hashes(photos)
    with pytest.raises(OutputError, match="symbolic link"):
        export(maker.store.location, to)
    assert hashes(photos) == before


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(maker, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and was not written by an export"):
        export(maker.store.location, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_shard_is_named_and_the_export_stays_marked_as_incomplete(maker, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(maker.store.location, out)
    shard = next(out.glob("shards/bayer/odd/*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedShardError, match=shard.name):
        export(out, tmp_path / "to")
    assert json.loads((tmp_path / "to" / MARK).read_text())["complete"] is False
    assert check(tmp_path / "to")


def _crop(entry):
    return entry["crops"][0]


SPOILED = {
    "swapped coordinates": (
        lambda entry: _crop(entry).update(coordinates=[900, 0]),
        r"the crop at \[x, y\] = \[900, 0\]",
    ),
    "shift twice": (
        lambda entry: entry.update(best_alignment=[4, -2]),
        r"the (colour|Bayer) crops of the GT are \(\+[34]\.\d, -[12]\.\d\) pixels off",
    ),
    "relative path": (
        lambda entry: _crop(entry).update(f_linrec2020_fpath="crops/x.tif"),
        "crops/x.tif is not an absolute path",
    ),
    "missing file": (lambda entry: _crop(entry).update(f_bayer_fpath="/nowhere/x.npy"), "cannot be read"),
    "raw file as picture": (
        lambda entry: _crop(entry).update(gt_linrec2020_fpath=entry["mask_fpath"]),
        "is neither an .npy nor a .tif",
    ),
    "missing number": (lambda entry: entry.pop("raw_gain"), "raw_gain must be a number"),
    "perfect by default": (
        lambda entry: entry["rgb_xyz_matrix"].pop(),
        "rgb_xyz_matrix must be 4 x 3 numbers",
    ),
    "loss too high": (
        lambda entry: entry.update(best_alignment_loss=0.1),
        r"best_alignment_loss is above 0\.035",
    ),
    "mask too small": (lambda entry: entry.update(mask_mean=0.5), r"mask_mean is below 0\.8"),
    "no crops": (lambda entry: entry.update(crops=[]), "crops must be a list that is not empty"),
    "test scene": (
        lambda entry: entry.update(image_set="TEST_a", f_fpath="TEST_a/x.arw", gt_fpath="TEST_a/gt/y.arw"),
        "TEST_a is a test scene that",
    ),
    "no scene in the path": (
        lambda entry: entry.update(f_fpath="x.arw"),
        "f_fpath is not in the folder even, from which test scenes are told",
    ),
    "one name for two crops": (
        lambda entry: _crop(entry).update(
            f_bayer_fpath=_crop({"crops": entry["crops"][1:]})["f_bayer_fpath"]
        ),
        "1 names of noisy crops are not unique, the first is|crops of the GT are",
    ),
    "another scene": (
        lambda entry: [
            crop.update(gt_linrec2020_fpath=other["gt_linrec2020_fpath"])
            for crop, other in zip(entry["crops"], entry["crops"][1:] + entry["crops"][:1], strict=True)
        ],
        "the colour crops of the GT are",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_the_check_finds_each_kind_of_damage(folder, tmp_path, what):
    spoil, said = SPOILED[what]
    shutil.copy(folder / "test_reserve.yaml", tmp_path)
    (tmp_path / "clean.yaml").write_text("[]")
    listed = list(entries(folder).values())
    spoil(next(entry for entry in listed if entry["image_set"] == "even"))
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(listed))
    problems = check(tmp_path)
    assert problems
    assert all(re.search(said, problem) for problem in problems), problems


def test_the_check_names_a_picture_whose_values_are_of_another_kind(folder, tmp_path):
    entry = next(each for each in entries(folder).values() if each["image_set"] == "even")
    picture = tmp_path / "counts.tif"
    tifffile.imwrite(picture, np.ones((64, 64, 3), np.uint32), photometric="rgb")
    _crop(entry).update(f_linrec2020_fpath=str(picture))
    for name, text in (("dataset.yaml", yaml.safe_dump([entry])), ("clean.yaml", "[]")):
        (tmp_path / name).write_text(text)
    shutil.copy(folder / "test_reserve.yaml", tmp_path)
    problems = check(tmp_path)
    assert any(f"{picture} holds uint32 values of shape (3, 64, 64)" in problem for problem in problems), (
        problems
    )


def test_the_check_finds_scalars_that_are_not_plain_and_files_that_are_not_there(tmp_path):
    (tmp_path / "dataset.yaml").write_text("- !!python/tuple [1, 2]\n")
    assert any("dataset.yaml" in problem for problem in check(tmp_path))
    assert any("clean.yaml" in problem for problem in check(tmp_path))


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-3, 7), (12, -9)])
def test_the_offset_is_found_in_heavy_noise(shift):
    rng = np.random.default_rng(5)
    scene = cv2.GaussianBlur(rng.random((160, 160)), (0, 0), 2)
    scene = (scene - scene.min()) / np.ptp(scene)
    pairs = []
    for _ in range(4):
        noisy = scene[16:144, 16:144] / 2 + rng.normal(0, 0.2, (128, 128))
        truth = scene[16 - shift[0] : 144 - shift[0], 16 - shift[1] : 144 - shift[1]]
        pairs.append((noisy.astype(np.float32), truth.astype(np.float32)))
    np.testing.assert_allclose(offset(pairs), shift, atol=0.5)


@pytest.mark.ray
def test_pairs_that_the_loaders_would_pass_over_are_left_out_and_counted(tmp_path):
    maker = Textured(tmp_path / "out")
    maker.scene("quiet", crops=1).scene("loud", crops=2, loss=0.06)
    maker.finish()
    report = export(maker.store.location, tmp_path / "research")
    assert (report.pairs, report.crops, report.left_out) == (1, 1, 1)
    assert set(entries(tmp_path / "research")) == {"quiet"}
    assert list(check(tmp_path / "research")) == []
    assert "left out: 1 noisy pair;" in describe_export(report, tmp_path, 0)


def test_the_command_exports_what_prepare_made(prepared, tmp_path):
    result = CliRunner().invoke(main, ["export", str(prepared), "--to", str(tmp_path / "to")])
    assert result.exit_code == 0, result.output
    assert check(tmp_path / "to") == []
    listed = yaml.safe_load((tmp_path / "to" / "dataset.yaml").read_text())
    crops = sum(len(entry["crops"]) for entry in listed)
    assert crops == len(pq.read_table(prepared / "manifest.parquet"))
    assert f"{crops} crops" in result.output
    again = CliRunner().invoke(main, ["export", str(prepared), "--to", str(prepared)])
    assert again.exit_code == 2


def test_names_of_noisy_crops_are_unique_over_the_whole_export(folder):
    """The research code caches validation losses by them; two pairs of one noisy photo and crops at one place are told apart."""
    names = [
        crop["f_linrec2020_fpath"].rsplit("/", 1)[1] for e in entries(folder).values() for crop in e["crops"]
    ]
    assert len(set(names)) == len(names) == 9


def test_the_research_codes_rule_finds_the_test_scene_in_the_path(folder):
    for scene, entry in entries(folder).items():
        assert entry["f_fpath"].split("/")[-2] == scene
        assert entry["gt_fpath"].split("/")[-3:-1] == [scene, "gt"]


def test_clean_clean_training_finds_each_gt_once_x_trans_too_and_no_test_scene(folder):
    for entry in entries(folder, "clean.yaml").values():
        for crop in entry["crops"]:
            truth, planes = tensor(crop["gt_linrec2020_fpath"]), tensor(crop["gt_bayer_fpath"])
            camera = np.tensordot(np.linalg.inv(camera_to_rec2020(MATRIX)), truth.numpy(), 1)
            assert planes.shape == (4, 32, 32)
            np.testing.assert_allclose(planes[2], camera[1, 1::2, 0::2], atol=2e-3)


def test_it_says_which_loaders_the_crops_are_too_small_for_and_which_command_works(maker, tmp_path):
    report = export(maker.store.location, tmp_path / "to")
    text = describe_export(report, tmp_path / "to", 0)
    assert "With its default --val_crop_size and --test_crop_size of 1024" in text
    assert "Its default --crop_size of 256 fails" in text
    assert f"--noise_dataset_yamlfpaths {tmp_path}/to/dataset.yaml" in text
    assert "--crop_size 32 --val_crop_size 64 --test_crop_size 64 --test_reserve TEST_secret" in text
    assert unserved(replace(report, crop_size=1024)) == []
    assert "training loaders do not work" in unserved(replace(report, crop_size=32))[0]
    assert "no pair is of the test reserve" in unserved(replace(report, test_pairs=0))[0]
    assert [training_crop(size) for size in (1024, 512, 64)] == [256, 256, 32]
