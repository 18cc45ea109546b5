"""`rawnind show`: what a picture shows is what is stored, and what cannot be shown ends in a sentence."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import rawnind
from rawnind.cli import main
from rawnind.errors import ConfigError
from rawnind.exit_codes import ExitCode
from rawnind.output.shard_reader import ShardReader
from rawnind.output.versions import COLUMNS_KEY, FORMAT_KEY
from rawnind.reasons import Reason
from rawnind.records import Cfa
from rawnind.report.canvas import pair_picture
from rawnind.report.folder import read_folder
from rawnind.report.pixels import Why, exposure_of, to_srgb, view_sites, view_small
from tests.feed.folder_maker import FolderMaker
from tests.output.result_maker import make_result, make_scene

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=list(Cfa))
def made(request, maker):
    """A folder with one pair, its rows, and how the pixels of its first crop look."""
    maker.scene("cat", cfa=request.param, crops=3, valid=0.9)
    maker.finish()
    folder = read_folder(maker.store)
    row = folder.crops.to_pylist()[0]
    with ShardReader(maker.store) as reader:
        crop = reader.crop(row["shard"], row["row_group"], row["crop_id"], row["size"], row["shard_sha256"])
        yield maker, folder, row, crop


def test_both_photos_have_one_brightness(made):
    """The maker draws both from one scene; the noisy one is 1.5 times darker, which the gain undoes."""
    _, _, row, crop = made
    for view in (view_small(crop, row), view_sites(crop, row)):
        assert view.truth.shape == view.noisy.shape == (*view.why.shape, 3)
        camera = np.linalg.inv(_to_rec2020(row)) @ view.noisy.mean(axis=(0, 1))
        assert camera == pytest.approx(view.truth.mean(axis=(0, 1)), rel=0.05)


def _to_rec2020(row):
    return np.array(rawnind.imaging.color.camera_to_rec2020(row["rgb_xyz_matrix"]))


def test_a_pixel_has_a_cause_exactly_where_its_mask_says_invalid(made):
    maker, _, row, crop = made
    cell = Cfa(row["cfa"]).cell
    valid = maker.pixels[row["crop_id"]].valid
    side = len(view_small(crop, row).why)
    cells = valid[: side * cell, : side * cell].reshape(side, cell, side, cell).any(axis=(1, 3))
    assert np.array_equal(view_small(crop, row).why == Why.VALID, cells)


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({"changed_fraction": 0.2}, Why.CHANGED),
        ({"misaligned_fraction": 0.2}, Why.MISALIGNED),
        ({"changed_fraction": 0.2, "misaligned_fraction": 0.1}, Why.CHANGED_OR_MISALIGNED),
        ({"hot_fraction": 0.2}, Why.HOT),
        ({"changed_fraction": 0.2, "white_level_data": 1000.0}, Why.OVEREXPOSED),  # all sites are brighter
        ({"changed_fraction": 0.2, "gt_white_level_data": 1000.0}, Why.OVEREXPOSED),
    ],
)
def test_the_cause_of_a_large_area_is_what_was_measured_on_the_crop(maker, measured, why):
    maker.scene("cat", crops=1, valid=0.0)
    maker.finish()
    row = read_folder(maker.store).crops.to_pylist()[0] | measured
    with ShardReader(maker.store) as reader:
        crop = reader.crop(row["shard"], row["row_group"], row["crop_id"], row["size"], row["shard_sha256"])
        assert set(view_small(crop, row).why.flat) == {why}


def test_the_crops_of_a_pair_lie_where_they_were_cut(made):
    maker, folder, _, _ = made
    with ShardReader(maker.store) as reader:
        picture = pair_picture(reader, folder.crops.to_pylist(), 300)
    assert not picture.whole  # the maker leaves gaps of five crops
    lefts = [each.left for each in picture.places]
    assert np.diff(lefts) == pytest.approx(6 * picture.places[0].side, abs=2)
    assert {panel.shape for _, panel in picture.panels} == {picture.truth.shape}


def test_white_is_the_brightest_of_the_ground_truth_and_black_stays_black():
    truth = np.zeros((4, 4, 3), np.float32)
    truth[:2] = 0.25
    shown = to_srgb(truth, exposure_of(truth))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[3, 3].tolist() == [0, 0, 0]


def test_a_crop_a_pair_a_scene_and_a_photo_are_drawn(made, tmp_path):
    maker, folder, row, _ = made
    noisy, truth = (folder.pairs[0][column] for column in ("noisy_file", "gt_file"))
    scene = (row["scene"], f"{row['cfa']}/{row['scene']}")
    for what in (row["crop_id"], row["pair_id"], *scene, noisy, Path(noisy).stem, Path(truth).name):
        picture = rawnind.show(maker.store.location, what)
        assert picture._repr_png_() == picture.png
        picture.save(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(SIGNATURE)
        assert cv2.imread(str(tmp_path / "picture.png")).std() > 10, what


def test_names_in_any_script_are_drawn_as_text_without_a_warning(tmp_path):
    name = "台所 בית кухня"
    maker = FolderMaker(tmp_path / "out").scene(name, crops=1, camera=r"$\frac{1$ 台所")
    maker.finish()
    crop = next(iter(maker.pixels))
    for what in (name, crop):
        assert name in rawnind.show(maker.store.location, what).title


def test_names_that_are_not_there_and_pairs_without_pixels_are_sentences(store):
    broken, alone = make_scene("pot"), make_scene("lid", truths=0)
    results = [make_result(broken, faults=[Reason.TRUNCATED] * 2), make_result(alone)]
    rawnind.output.manifest.write_manifest(store, results, rawnind.recipe.Recipe(), versions={}, contents="")
    with pytest.raises(ConfigError, match=r"no pixels are stored of pot: failed, truncated: .*broken"):
        rawnind.show(store.location, "pot")
    with pytest.raises(ConfigError, match=r"no pixels are stored of lid: .*no_ground_truth"):
        rawnind.show(store.location, "lid")
    with pytest.raises(ConfigError, match="has no crop, pair, scene or photo 'pan'"):
        rawnind.show(store.location, "pan")


def test_only_pictures_are_written_and_replaced(made, tmp_path):
    maker, _, _, _ = made
    notes = tmp_path / "notes.png"
    notes.write_text("mine")
    for path, says in ((notes, "is not a PNG file"), (tmp_path / "cat.jpg", "must end with .png")):
        done = CliRunner().invoke(main, ["show", maker.store.location, "cat", "-o", str(path)])
        assert (done.exit_code, says in done.stderr) == (ExitCode.USAGE, True), done.output
    assert notes.read_text() == "mine"
    assert sorted(tmp_path.glob("*.*")) == [notes]


def test_a_shard_says_how_it_is_decoded(made):
    """A reader with nothing but the metadata decodes every column to what was written."""
    maker, _, row, _ = made
    file = pq.ParquetFile(maker.store.local(row["shard"]))
    metadata = file.schema_arrow.metadata
    assert metadata[FORMAT_KEY] == b"shard 1"
    columns = json.loads(metadata[COLUMNS_KEY])
    values = file.read_row_group(row["row_group"]).to_pylist()[0]
    for name, how in columns.items():
        found = np.frombuffer(values[name], how["dtype"]).reshape(how["shape"])
        written = maker.pixels[row["crop_id"]]
        if "packed_bits" in how:
            found = np.unpackbits(found, axis=1, bitorder=how["packed_bits"])
        assert np.array_equal(found, written.valid if name == "mask" else getattr(written, name)), name
