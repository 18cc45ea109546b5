import hashlib
import shutil
import struct

import pytest
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.output.dng_tags import WHITE_LEVEL
from rawnind.output.white_levels import contradicted_white_levels, white_level_warnings
from rawnind.report.page import INDEX
from tests.feed.folder_maker import FolderMaker
from tests.small_set import CROPS


def test_a_camera_whose_data_clip_elsewhere_is_named_and_one_that_agrees_is_not(tmp_path):
    maker = FolderMaker(tmp_path / "out").scene("a", crops=1, noise={"white_level_data": 12160.0})
    maker.scene("b", crops=1, camera="Canon 5D", noise={"white_level_data": 15900.0}).scene("c", crops=1)
    maker.finish()
    (warning,) = white_level_warnings(maker.store)
    assert warning == (
        "Sony A7: the data clip at 12160 in 1 noisy photo, LibRaw's white level is 16000 (-24.0%); overexposure is taken from the "
        "data"
    )


def pair(noisy, truth, **columns):
    return {"camera": "Sony A7", "noisy_sha1": noisy, "gt_sha1": truth, "white_level": 16000.0} | columns


def test_a_photo_of_several_pairs_counts_once_and_unmeasured_ones_do_not():
    """The median of three photos is 15700; counted by pairs it would be 12000."""
    pairs = [
        pair("n", "x", gt_white_level=16000.0, gt_white_level_data=12000.0),
        pair("m", "x", gt_white_level=16000.0, gt_white_level_data=12000.0),
        pair("o", "x", gt_white_level=16000.0, gt_white_level_data=12000.0),
        pair("n", "y", gt_white_level=16000.0, gt_white_level_data=15700.0),
        pair("n", "z", gt_white_level=16000.0, gt_white_level_data=15700.0),
        pair("n", None, gt_white_level=None, gt_white_level_data=None),
        pair("k", "k", white_level_data=12000.0),  # of an earlier version
    ]
    (warning,) = contradicted_white_levels(pairs)
    assert warning.startswith("Sony A7: the data clip at 12000 in 1 noisy photo,")
    (warning,) = contradicted_white_levels(pairs[:3])
    assert warning.startswith(
        "Sony A7: the data clip at 12000 in 1 ground truth, LibRaw's white level is 16000 (-25.0%)"
    )


@pytest.fixture
def clipping_below(sample_set, tmp_path):
    """A scene whose ground truth has overexposed sites at 15600 and says that its white level is 20000."""
    source = tmp_path / "source"
    source.mkdir()
    for path in sample_set.glob("*_launch_pad_*.dng"):
        if "_GT_" not in path.name:
            shutil.copy2(path, source)
            continue
        data = path.read_bytes()
        entry = struct.pack("<HHI", WHITE_LEVEL, 4, 1)
        assert data.count(entry + struct.pack("<I", 15600)) == 1
        data = data.replace(entry + struct.pack("<I", 15600), entry + struct.pack("<I", 20000))
        sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        (source / f"{path.name.partition('sha1=')[0]}sha1={sha1}.dng").write_bytes(data)
    return source


def test_a_ground_truth_that_clips_elsewhere_is_named_by_prepare_status_and_report(
    cluster, clipping_below, tmp_path
):
    out = tmp_path / "out"
    run = CliRunner().invoke
    words = [f"--{name.replace('_', '-')}={value}" for name, value in CROPS.items()]
    said = run(main, ["prepare", str(clipping_below), "--output", str(out), *words]).stdout
    warning = "ground truth, LibRaw's white level is 20000 (-22.0%); overexposure is taken from the data"
    assert warning in said.splitlines()[-1]
    assert "the data clip at 15600 in 1 ground truth" in said
    assert "noisy photo, LibRaw" not in said
    assert warning in run(main, ["status", str(out)]).stdout
    assert run(main, ["report", str(out)]).exit_code == 0
    assert warning.replace("'", "&#39;") in (out / INDEX).read_text()
