import hashlib
import inspect

import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.errors import ConfigError, ManifestError
from rawnind.feed.crop_options import CropOptions, checked_options
from rawnind.records import Cfa
from rawnind.splits import validation_scenes
from rawnind.training import CropDataset
from tests.feed.folder_maker import FolderMaker

names = st.sets(st.text("abcdef", min_size=1, max_size=6), max_size=30)


def scenes_of(dataset):
    return set(dataset.rows.pairs["scene"].to_pylist())


@given(scenes=names, more=names, share=st.floats(0, 1))
def test_scenes_keep_their_split_when_others_come_and_training_is_never_empty(scenes, more, share):
    before, after = validation_scenes(scenes, share), validation_scenes(scenes | more, share)
    assert before <= after
    assert len(after - before - more) <= 1  # the one that training was lent while it had nothing else
    assert not scenes or before < scenes


def test_about_a_tenth_of_many_scenes_is_kept_for_validation():
    scenes = [f"scene{number}" for number in range(3000)]
    assert 250 < len(validation_scenes(scenes)) < 350


def test_splits_share_no_scene_and_only_test_has_the_reserve(folder):
    where = folder.store.location
    train, val, test, both = (
        scenes_of(CropDataset(where, split=split, crop_size=32, input="rgb", validation_share=0.5))
        for split in ("train", "val", "test", "all")
    )
    assert train | val == both
    assert not train & val
    assert train
    assert val
    assert test == {"secret"}
    assert "secret" not in both


def test_a_photo_of_the_test_reserve_is_left_out_under_any_name(maker):
    shared = hashlib.sha256(b"shared").hexdigest()[:40]
    maker.scene("a").scene("b", gt_sha1=shared).scene("hidden", gt_sha1=shared, test=True)
    dataset = CropDataset(maker.finish(), split="all", crop_size=32)
    assert scenes_of(dataset) == {"a"}
    assert dict(dataset.rows.left_out)["photo of the test reserve"] == 4


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"cfa": "x-trans", "input": "rgb"}, {"xt"}),
        ({"cfa": "bayer"}, {"good", "bad", "night"}),
        ({"min_msssim": 0.8}, {"good"}),
        ({"max_alignment_loss": 0.01}, {"good", "night"}),
        ({"min_valid_fraction": 0.8}, {"good", "night"}),
        ({"iso": (1000, 6400)}, {"good", "bad"}),
        ({"camera": "Canon"}, {"night"}),
        ({"camera": ["Canon", "Sony A7"]}, {"good", "bad", "night"}),
        ({"expression": (pc.field("gain") > 2) & (pc.field("y") == 0)}, {"bad"}),
    ],
)
def test_filters_keep_what_they_say(variety, options, kept):
    dataset = CropDataset(variety, split="all", crop_size=32, **options)
    assert scenes_of(dataset) == kept


@pytest.fixture(scope="module")
def variety(tmp_path_factory):
    maker = FolderMaker(tmp_path_factory.mktemp("variety") / "out")
    maker.scene("good", crops=2).scene("bad", crops=2, msssim=0.5, loss=0.03, valid=0.6, gain=3.0)
    maker.scene("night", crops=2, iso=65535, msssim=None, camera="Canon").scene(
        "xt", cfa=Cfa.X_TRANS, crops=2
    )
    return maker.finish()


def test_an_empty_choice_says_which_filter_removed_how_many(variety):
    with pytest.raises(
        ConfigError, match=r"no crop is left of the 8.* input raw 2, min_msssim 4, iso 2 \(input='rgb'"
    ):
        CropDataset(variety, split="all", crop_size=32, min_msssim=0.8, iso=(1, 2))
    with pytest.raises(ConfigError, match=r"stored size >= crop_size 8 \(choose a smaller"):
        CropDataset(variety, split="all", crop_size=128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "training"}, "split must be one of train, val, test, all, got 'training'"),
        ({"crop_size": 100}, "crop_size must be a positive multiple of 32, got 100"),
        ({"crop_size": "64"}, "crop_size must be a whole number, got '64'"),
        ({"crop_size": 64.0}, "crop_size must be a whole number"),
        ({"num_crops": 0}, "num_crops"),
        ({"pairing": "y_x"}, "pairing must be one of x_y, x_x, y_y"),
        ({"input": "bayer"}, "input must be one of raw, rgb"),
        ({"cfa": "Bayer"}, "cfa must be one of bayer, x-trans"),
        ({"iso": (6400, 100)}, "iso must be"),
        ({"expression": "iso > 3"}, "expression must be a pyarrow.compute expression"),
        ({"expression": pc.field("isoo") > 3}, "filter expression does not fit the manifest"),
    ],
)
def test_wrong_options_are_named(variety, options, message):
    with pytest.raises(ConfigError, match=message):
        CropDataset(variety, **{"split": "all", "crop_size": 32, **options})


def test_the_typed_options_are_those_that_are_checked():
    assert list(CropOptions.__annotations__) == list(inspect.signature(checked_options).parameters)
    with pytest.raises(TypeError, match="crop_sise"):
        CropDataset("out", crop_sise=64)


def test_a_folder_without_a_manifest_is_an_error_that_names_the_command_to_run(tmp_path):
    with pytest.raises(ManifestError, match="run `rawnind prepare` first"):
        CropDataset(tmp_path)


def test_a_split_by_camera_holds_out_a_camera_with_all_its_scenes(tmp_path):
    maker = FolderMaker(tmp_path / "out")
    for number, camera in enumerate(["Sony A7", "Canon 5D", "Nikon D5", "Sony A7", "Canon 5D", "Nikon D5"]):
        maker.scene(f"scene{number}", crops=2, camera=camera)
    where = maker.scene("secret", crops=1, test=True, camera="Leica M8").finish()
    found = {
        split: set(
            CropDataset(where, split=split, crop_size=32, split_by="camera").rows.pairs["camera"].to_pylist()
        )
        for split in ("train", "val", "all", "test")
    }
    assert len(found["val"]) == 1
    assert found["train"] | found["val"] == found["all"] == {"Sony A7", "Canon 5D", "Nikon D5"}
    assert not found["train"] & found["val"]
    assert found["test"] == {"Leica M8"}
    assert f'`split_by="camera"` val has {next(iter(found["val"]))} and' in (where / "README.md").read_text()


def test_a_split_by_camera_of_one_camera_is_refused(folder):
    with pytest.raises(ConfigError, match="needs photos of two cameras, there is 1"):
        CropDataset(folder.store.location, crop_size=32, split_by="camera")
