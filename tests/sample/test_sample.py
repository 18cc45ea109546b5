"""The sample data set is what its truth says."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rawpy
from scipy import ndimage

from rawnind.errors import ConfigError, OutputError
from rawnind.imaging.color import camera_to_rec2020
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa
from rawnind.sample import Damage, make_sample, read_truth
from rawnind.sample.make import VERSION
from rawnind.sample.photos import ScenePhotos
from rawnind.sample.scenes import SCENES
from rawnind.sample.simulator import SRGB_TO_XYZ, camera_rgb, linear_photo

SIZE = {"height": 288, "width": 384}
NAME = re.compile(
    r"(?P<cfa>Bayer|X-Trans)_(?P<unk>UNK_)?(?P<test>TEST_)?(?P<scene>.+?)_(?P<gt>GT_)?ISO(?:Hi )?(?P<iso>\d+)"
    r"_sha1=(?P<sha1>[0-9a-f]{40})\.dng"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sample") / "set"


@pytest.fixture(scope="session")
def truth(folder):
    return make_sample(folder, **SIZE)


@pytest.fixture(scope="session")
def frames(folder, truth):
    """SHA-1 in the name -> visible area as levels, for every file that LibRaw reads."""
    return {f.sha1: levels(folder, f) for f in truth.files if f.damage is not Damage.TRUNCATED}


def levels(folder, file):
    with rawpy.imread(str(folder / file.filename)) as raw:
        top, left = raw.sizes.top_margin, raw.sizes.left_margin
        period = len(file.pattern)
        colors = np.array([[raw.raw_color(top + y, left + x) for x in range(period)] for y in range(period)])
        black = np.array(raw.black_level_per_channel, dtype=float)[colors]
        visible = raw.raw_image_visible
        repeats = [-(-side // period) for side in visible.shape]
        floor = np.tile(black, repeats)[: visible.shape[0], : visible.shape[1]]
        return (visible - floor) / (raw.white_level - floor)


def grey(frame, file):
    """Means over one whole tile around each site: the same for every phase of the pattern."""
    return ndimage.uniform_filter(frame, file.cfa.period)


def looks_alike(truth, frames, pair, shift):
    """Mean squared difference of the pair at that shift, over the middle, where nothing moved or glows."""
    gt, noisy = truth.file(pair.gt_sha1), truth.file(pair.noisy_sha1)
    still = ~pair.motion.covers(truth.height, truth.width, grow=8) if pair.motion else True
    difference = (
        np.roll(grey(frames[gt.sha1], gt), [-s for s in shift], (0, 1))
        - grey(frames[noisy.sha1], noisy) * pair.gain
    )
    difference = np.where(still, difference, 0)
    if noisy.lamp:
        difference[noisy.lamp.covers(truth.height, truth.width, grow=40)] = 0
    middle = difference[52:-52, 52:-52]
    return float(np.mean(middle * middle))


def aligned_pairs(truth):
    return [p for p in truth.pairs if p.shift is not None and truth.file(p.noisy_sha1).damage is None]


def test_names_hashes_and_sizes_are_those_of_the_files(folder, truth):
    for file in truth.files:
        data = (folder / file.filename).read_bytes()
        name = NAME.fullmatch(file.filename)
        scene = next(scene for scene in truth.scenes if scene.name == file.scene)
        assert (name["scene"], name["sha1"], int(name["iso"])) == (file.scene, file.sha1, file.iso)
        assert name["cfa"].lower() == file.cfa == scene.cfa
        assert (bool(name["gt"]), bool(name["test"]), bool(name["unk"])) == (
            file.ground_truth, scene.test_reserve, scene.unknown_sensor)  # fmt: skip
        assert hashlib.sha1(data).hexdigest() == file.bytes_sha1
        assert len(data) == file.size
        assert (file.sha1 != file.bytes_sha1) == (file.damage is Damage.FLIPPED)
    on_disk = {path.name for path in folder.iterdir()}
    assert on_disk == {file.filename for file in truth.files} | {"truth.json"}


def test_libraw_reads_in_each_file_what_the_truth_records(folder, truth):
    for file in truth.files:
        if file.damage is Damage.TRUNCATED:
            continue
        with rawpy.imread(str(folder / file.filename)) as raw:
            sizes = raw.sizes
            assert (sizes.top_margin, sizes.left_margin) == file.margins[:2]
            assert raw.raw_image_visible.shape == (file.height, file.width) == (truth.height, truth.width)
            colors = np.array(
                [
                    [raw.raw_color(sizes.top_margin + y, sizes.left_margin + x) for x in range(6)]
                    for y in range(6)
                ]
            )
            period = len(file.pattern)
            assert np.where(colors == 3, 1, colors)[:period, :period].tolist() == [
                list(row) for row in file.pattern
            ]
            assert raw.white_level == file.white_level
            assert raw.other.iso_speed == file.iso
            known = np.any(raw.rgb_xyz_matrix)
            assert known == (not file.camera.startswith("Homemade"))
            if known:
                np.testing.assert_allclose(raw.rgb_xyz_matrix[:3].ravel(), file.rgb_xyz_matrix, atol=1e-6)


def test_the_origin_is_the_first_site_of_the_tile(truth):
    for file in truth.files:
        rolled = np.roll(file.pattern, [-value for value in file.origin], (0, 1))
        assert rolled.tolist() == [list(row) for row in file.cfa.tile]


def test_the_ground_truth_shifted_by_the_truth_shows_what_the_noisy_photo_shows(truth, frames):
    for pair in aligned_pairs(truth):
        (dy, dx), around = pair.shift, (-1, 0, 1)
        down = [looks_alike(truth, frames, pair, (dy + step, dx)) for step in around]
        across = [looks_alike(truth, frames, pair, (dy, dx + step)) for step in around]
        for (before, here, after), part in zip((down, across), pair.subpixel, strict=True):
            found = 0.5 * (before - after) / (before - 2 * here + after)  # vertex of the parabola
            assert found == pytest.approx(part, abs=0.2), (pair.scene, truth.file(pair.noisy_sha1).iso)


def test_the_gain_brings_the_noisy_photo_to_the_level_of_the_ground_truth(truth, frames):
    for pair in aligned_pairs(truth):
        gt, noisy = truth.file(pair.gt_sha1), truth.file(pair.noisy_sha1)
        shown = grey(frames[gt.sha1], gt), grey(frames[noisy.sha1], noisy)
        use = np.ones_like(shown[1], dtype=bool)
        if pair.motion:
            use &= ~pair.motion.covers(truth.height, truth.width, grow=8)
        if noisy.lamp:
            use &= ~noisy.lamp.covers(truth.height, truth.width, grow=40)
        at = np.s_[52:-52, 52:-52]
        moved = np.roll(shown[0], [-value for value in pair.shift], (0, 1))
        found = moved[at][use[at]].mean() / shown[1][at][use[at]].mean()
        assert found == pytest.approx(pair.gain, rel=0.01), (pair.scene, noisy.iso)
        assert gt.exposure / noisy.exposure == pytest.approx(pair.gain)


@pytest.mark.parametrize(("scene", "shot"), [("cat", 0), ("cat", 2), ("tissue", 1)])
def test_noise_is_what_the_truth_says(truth, frames, scene, shot):
    number = next(index for index, plan in enumerate(SCENES) if plan.name == scene)
    stage = ScenePhotos(plan=SCENES[number], number=number, seed=0, size=(truth.height, truth.width))
    plan = stage.plan.shots[shot]
    clean = stage.levels(stage.scenery(plan)[0], plan) / plan.gain
    file = next(f for f in truth.files if f.scene == scene and f.iso == plan.iso)
    noise = frames[file.sha1] - clean
    rows = noise.mean(axis=1)
    per_row = (
        file.row_sigma**2 + file.shot_variance * clean.mean() / truth.width + file.read_sigma**2 / truth.width
    )
    assert np.var(rows) == pytest.approx(per_row, rel=0.35)  # 288 rows
    for low, high in ((0.03, 0.06), (0.06, 0.12), (0.12, 0.3)):
        chosen = (clean > low) & (clean < high)
        step = 1 / (file.white_level - file.black_level[0])
        expected = (
            file.shot_variance * clean[chosen].mean() + file.read_sigma**2 + file.row_sigma**2 + step**2 / 12
        )
        assert np.var(noise[chosen]) == pytest.approx(expected, rel=0.08)
        assert abs(noise[chosen].mean()) < 0.01 * clean[chosen].mean()


def test_the_scene_differs_where_the_truth_says_and_nowhere_else(truth, frames):
    moved = [pair for pair in aligned_pairs(truth) if pair.motion]
    assert {truth.file(pair.noisy_sha1).iso for pair in moved} >= {800, 6400, 25600, 65535}
    for pair in moved:
        gt, noisy = truth.file(pair.gt_sha1), truth.file(pair.noisy_sha1)
        assert pair.motion.contrast > 2 * pair.motion.noise
        assert pair.motion.covers(truth.height, truth.width).mean() < 0.1
        if noisy.iso > 800:
            continue
        shown = grey(frames[gt.sha1], gt), grey(frames[noisy.sha1], noisy)
        difference = np.abs(
            np.roll(shown[0], [-value for value in pair.shift], (0, 1)) - shown[1] * pair.gain
        )
        inside = pair.motion.covers(truth.height, truth.width)
        outside = ~pair.motion.covers(truth.height, truth.width, grow=3)
        at = np.s_[8:-8, 8:-8]
        assert difference[at][inside[at]].mean() > 0.5 * pair.motion.contrast
        assert (
            difference[at][outside[at]] > 0.02
        ).mean() < 0.01  # edges: after an odd shift, other colours see them
        assert (difference[at][inside[at]] > 0.02).mean() > 0.9


def test_the_lamp_is_overexposed_in_every_colour(truth, frames):
    lit = [file for file in truth.files if file.lamp]
    assert len(lit) == 3
    for file in lit:
        assert frames[file.sha1][file.lamp.covers(file.height, file.width)].min() == 1
        assert (frames[file.sha1] >= 1).mean() == pytest.approx(file.overexposed_fraction, rel=0.1)


def test_a_truncated_file_fails_to_decode_and_a_flipped_one_decodes(folder, truth):
    truncated, flipped = (
        next(file for file in truth.files if file.damage is damage)
        for damage in (Damage.TRUNCATED, Damage.FLIPPED)
    )
    with rawpy.imread(str(folder / truncated.filename)) as raw, pytest.raises(rawpy.LibRawIOError):
        _ = raw.raw_image
    assert levels(folder, flipped).shape == (truth.height, truth.width)


def test_the_sample_has_every_kind_of_defect(truth):
    names = {(0, 1, 1, 2): "RGGB", (1, 0, 2, 1): "GRBG", (1, 2, 0, 1): "GBRG", (2, 1, 1, 0): "BGGR"}
    bayer = [file for file in truth.files if file.cfa is Cfa.BAYER]
    assert {names[sum(file.pattern, ())] for file in bayer} == set(names.values())
    x_trans = [file for file in truth.files if file.cfa is Cfa.X_TRANS]
    assert any(min(file.margins[:2]) > 6 for file in x_trans)
    assert any(min(file.margins) > 0 for file in bayer)
    assert any(len(set(file.black_level)) == 4 for file in bayer)
    assert {100, 65535} <= {file.iso for file in truth.files}
    assert any("ISOHi 3200" in file.filename for file in truth.files)
    shifts = np.array([pair.shift for pair in aligned_pairs(truth)])
    assert (shifts % 2 == 1).any(axis=0).all()
    assert (shifts < 0).any(axis=0).all()
    assert (shifts > 0).any(axis=0).all()
    assert {pair.subpixel for pair in aligned_pairs(truth)} == {(0.0, 0.0), (-0.5, -0.5)}
    assert {pair.gain for pair in aligned_pairs(truth)} >= {0.5, 1.0, 2.0}
    assert any(scene.test_reserve for scene in truth.scenes)
    assert any(scene.unknown_sensor for scene in truth.scenes)
    reasons = {scene.name: scene.reason for scene in truth.scenes if scene.outcome is not Outcome.COLLECTED}
    assert reasons == {
        "deep-field": Reason.NO_GROUND_TRUTH,
        "moon": Reason.TRUNCATED,
        "two-motifs": Reason.ALIGNMENT_UNCERTAIN,
    }
    assert {pair.reason for pair in truth.pairs} == {None, Reason.SHA1_MISMATCH, *reasons.values()}
    assert len(truth.scenes) == 12


def test_a_photo_times_its_exposure_is_the_scene_in_linear_rec2020():
    camera = SCENES[0].camera
    pixels, exposure = camera_rgb("coffee.png", camera.xyz_to_camera, 0.09, 0.42)
    xyz_to_rec2020 = camera_to_rec2020(np.eye(3).ravel())
    seen = pixels @ np.asarray(camera_to_rec2020(camera.xyz_to_camera)).T
    scene = linear_photo("coffee.png") @ (np.asarray(xyz_to_rec2020) @ SRGB_TO_XYZ).T
    np.testing.assert_allclose(seen, exposure * scene, atol=1e-6)
    assert pixels.min() > 0


def test_json_and_records_are_the_same_truth(folder, truth):
    assert read_truth(folder) == truth
    plain = json.loads((folder / "truth.json").read_text())
    assert plain["pairs"][0]["shift"] == list(truth.pairs[0].shift)
    assert all(truth.pair(pair.gt_sha1, pair.noisy_sha1) is pair for pair in truth.pairs)
    for look_up in (lambda: truth.file("0" * 40), lambda: truth.pair(None, "0" * 40)):
        with pytest.raises(KeyError):
            look_up()


def test_a_photograph_that_scikit_image_lacks_is_named():
    with pytest.raises(ConfigError, match=r"skimage_has_no_such\.png"):
        linear_photo("skimage_has_no_such.png")


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path):
    small = {"height": 192, "width": 192}
    sets = [make_sample(tmp_path / name, seed=seed, **small) for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    assert sets[0] == sets[1]
    assert {f.sha1 for f in sets[0].files}.isdisjoint(f.sha1 for f in sets[2].files)


def test_a_complete_set_is_left_unchanged_and_one_with_missing_files_is_completed(folder, truth):
    victim, other = folder / truth.files[0].filename, folder / truth.files[1].filename
    before = other.stat().st_mtime_ns
    assert make_sample(folder, **SIZE) == truth
    assert other.stat().st_mtime_ns == before
    data = victim.read_bytes()
    victim.unlink()
    assert make_sample(folder, **SIZE) == truth
    assert victim.read_bytes() == data


def test_an_interrupted_set_is_completed(tmp_path):
    small = {"seed": 0, "height": 192, "width": 192}
    (tmp_path / "sample-unfinished.json").write_text(json.dumps({"version": VERSION, **small, "scenes": 12}))
    (tmp_path / "half").write_bytes(b"a file that was being written")
    with pytest.raises(ConfigError, match="choose another folder"):
        make_sample(tmp_path, seed=1, height=192, width=192)
    make_sample(tmp_path, **small)
    assert not (tmp_path / "sample-unfinished.json").exists()


def test_folders_that_hold_something_else_are_refused(folder, truth, tmp_path):
    with pytest.raises(ConfigError, match="choose another folder"):
        make_sample(folder, seed=truth.seed + 1, **SIZE)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="not empty"):
        make_sample(tmp_path, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(ConfigError, match="is a file"):
        make_sample(tmp_path / "holiday.jpg", **SIZE)
    with pytest.raises(OutputError, match="cannot be written"):
        make_sample(tmp_path / "holiday.jpg" / "set", **SIZE)
    with pytest.raises(ConfigError, match="no sample data set"):
        read_truth(tmp_path)
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(ConfigError, match="not written by this version"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"height": 190}, "height"),
        ({"width": 385}, "width"),
        ({"height": 4002, "width": 6000}, "24000000"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(arguments, word, tmp_path):
    with pytest.raises(ConfigError, match=word):
        make_sample(tmp_path / "set", **(SIZE | arguments))
    assert list(Path(tmp_path).iterdir()) == []
