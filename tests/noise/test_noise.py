"""Noise profiles: which measurements count, and the files that are written. The measurements are tested in tests/imaging."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.errors import ConfigError, IndexInvalidError
from rawnind.noise.files import darktable_json
from rawnind.noise.profile import profiles
from rawnind.noise.run import noise
from rawnind.noise.samples import COLORS, Method, Sample, samples_of_dark_frames, samples_of_output
from rawnind.output.store import Store
from rawnind.sample.dng import encode_dng
from tests.feed.folder_maker import FolderMaker

NAMES = itertools.count()


def sample(
    iso, a, *, color="green", method=Method.PAIR, b=None, camera="SONY ILCE-7C", error=0.02, photo=None
):
    a_error, b_error = (None if value is None else error * value for value in (a, b))
    return Sample(
        camera=camera, iso=iso, color=color, method=method, photo=photo or str(next(NAMES)), a=a, b=b, a_error=a_error,
        b_error=b_error, span=15871.0,
    )  # fmt: skip


def test_many_uncertain_photos_together_are_sure_and_the_errors_are_honest():
    rng = np.random.default_rng()
    a, b, error = 8e-4, 4e-6, 0.1
    off = []
    for _ in range(20):
        noisy = a * (1 + error * rng.standard_normal(30)), b * (1 + error * rng.standard_normal(30))
        found = [
            replace(sample(1600, a, b=b, error=error), a=one, b=other)
            for one, other in zip(*noisy, strict=True)
        ]
        (camera,) = profiles(found)
        entry = next(entry for entry in camera.entries if entry.color == "green")
        assert entry.a.error < 0.025 * a
        off += [(entry.a.value - a) / entry.a.error, (entry.b.value - b) / entry.b.error]
    assert 0.6 < np.std(off) < 1.6
    (camera,) = profiles(found[:3])
    assert next(entry for entry in camera.entries if entry.color == "green").a is None


@pytest.mark.parametrize("error", [0.2, 3.0])
def test_the_row_noise_of_many_photos_is_sure_unbiased_and_has_an_honest_error(error):
    """Errors are shares of the variance; of single photos above 1 many show less than none."""
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")
    rng, row, off = np.random.default_rng(seed), 2e-4, []
    for _ in range(20):
        variances = row**2 * (1 + error * rng.standard_normal(50))
        signed = np.sign(variances) * np.abs(variances) ** 0.5
        photos = [
            replace(sample(800, None, b=1e-6, method=Method.BORDER), row=float(each), row_error=float(error * row**2 / (2 * abs(each))))
            for each in signed
        ]  # fmt: skip
        (camera,) = profiles([*photos, sample(800, 1e-4)])
        found = camera.entries[1].row
        off.append(
            (found.value**2 - row**2) / (2 * found.value * found.error) if found else -(50**0.5) / error
        )
    assert abs(np.mean(off)) < 4.5 / 20**0.5
    assert 0.5 < np.std(off) < 1.7


def test_a_few_wrong_measurements_count_little():
    good = [sample(1600, 8e-4 * factor, error=0.03) for factor in (0.97, 0.99, 1.0, 1.02, 1.03, 1.01)]
    (camera,) = profiles([*good, sample(1600, 2e-3, error=0.03)])
    assert camera.entries[1].a.value == pytest.approx(8e-4, rel=0.05)


def test_an_iso_without_a_sure_measurement_takes_the_curve():
    sure = [sample(iso, 2e-7 * iso, b=4e-14 * iso**2) for iso in (6400, 12800) for _ in range(4)]
    (camera,) = profiles([*sure, sample(800, 3e-4, b=9e-7, error=2.0)])
    entry = next(entry for entry in camera.entries if (entry.iso, entry.color) == (800, "green"))
    assert (entry.a.value, str(entry.a.method), entry.a.confidence) == (
        pytest.approx(1.6e-4, rel=0.02),
        "curve",
        "high",
    )
    assert entry.b is None  # a part that does not grow with ISO cannot be excluded


def test_photos_alone_are_of_low_confidence_and_not_darktables():
    alone = [
        sample(iso, 2e-7 * iso, color=color, b=4e-14 * iso**2, method=Method.PHOTO, error=0.01)
        for iso in (800, 6400)
        for color in COLORS
        for _ in range(3)
    ]
    found = profiles(alone)
    assert {value.confidence for entry in found[0].entries for value in (entry.a, entry.b)} == {"low"}
    assert json.loads(darktable_json(found))["noiseprofiles"] == []


def test_a_colour_with_another_amplifier_has_its_own_values():
    found = [
        sample(1600, 8e-4 * (1.2 if color == "red" else 1), color=color, error=0.01)
        for color in COLORS
        for _ in range(4)
    ]
    (camera,) = profiles(found)
    assert [entry.a.value for entry in camera.entries] == pytest.approx([9.6e-4, 8e-4, 8e-4], rel=0.02)


def test_a_curve_follows_iso_and_the_better_method_counts():
    found = [sample(iso, 2e-7 * iso, b=4e-14 * iso**2 + 1e-8) for iso in (100, 800, 6400) for _ in range(3)]
    (camera,) = profiles(
        [*found, sample(800, 9e-4, method=Method.PHOTO), sample(800, None, b=3.6e-8, method=Method.DARK)]
    )
    curve = camera.curves[1]
    assert [each.color for each in camera.curves] == list(COLORS)  # all have one amplifier
    assert curve.a(1600) == pytest.approx(3.2e-4)
    assert curve.b_fixed == pytest.approx(1e-8, rel=0.5)
    assert curve.b(6400) == pytest.approx(4e-14 * 6400**2, rel=0.05)
    entry = next(entry for entry in camera.entries if (entry.iso, entry.color) == (800, "green"))
    assert (entry.a.value, entry.a.photos, entry.a.method) == (pytest.approx(1.6e-4), 3, Method.PAIR)
    assert entry.a.confidence == "high"
    assert (entry.b.value, entry.b.confidence) == (pytest.approx(3.6e-8), "single")


def test_darktables_file_has_its_keys_and_leaves_out_what_was_not_measured():
    whole = [
        sample(iso, 2e-7 * iso, color=color, b=4e-14 * iso**2)
        for iso in (800, 6400)
        for color in ("red", "green", "blue")
    ]
    document = json.loads(darktable_json(profiles([*whole, sample(100, 1e-4, camera="Canon EOS 500D")])))
    assert document["version"] == 0
    ((maker,),) = [document["noiseprofiles"]]
    (model,) = maker["models"]
    assert (maker["maker"], model["model"]) == ("SONY", "ILCE-7C")
    assert "not white-balanced" in model["comment"]
    assert [profile["name"] for profile in model["profiles"]] == ["ILCE-7C iso 800", "ILCE-7C iso 6400"]
    for profile in model["profiles"]:
        assert profile["a"] == pytest.approx([2e-7 * profile["iso"]] * 3)
        assert profile["b"] == pytest.approx([4e-14 * profile["iso"] ** 2] * 3)


def test_an_output_folder_gives_three_files_and_other_files_stay(tmp_path):
    measured = {"noise_a_green": 6e-4, "noise_b_green": 5e-7}
    camera = r"Sony A7 $\frac{1$ <b>"  # no formula, though matplotlib would take it for one
    maker = FolderMaker(tmp_path / "out").scene("a", crops=1, noise=measured, camera=camera)
    out = maker.finish()
    result = CliRunner().invoke(main, ["noise", str(out)])
    assert result.exit_code == 0, result.output
    assert "Sony A7" in result.output
    found = json.loads((out / "noise" / "noise.json").read_text())
    assert found["cameras"][0]["profiles"][0]["a"]["value"] == pytest.approx(6e-4)
    assert found["cameras"][0]["profiles"][0]["read_noise_sensor_values"] == pytest.approx(
        5e-7**0.5 * (16000 - 513.5)
    )
    assert (out / "noise" / "noise.svg").read_text().rstrip().endswith("</svg>")
    assert json.loads((out / "noise" / "noiseprofiles.json").read_text())["version"] == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "noise.svg").write_text("mine")
    with pytest.raises(ConfigError, match=r"noise\.svg that rawnind did not write"):
        noise(out, to=mine)
    assert (mine / "noise.svg").read_text() == "mine"


def test_what_cannot_be_measured_is_said(tmp_path, sample_set):
    with pytest.raises(ConfigError, match="say with -o where to write"):
        noise(sample_set)
    out = FolderMaker(tmp_path / "out").scene("a", crops=1).finish()
    with pytest.raises(IndexInvalidError, match="does not exist"):
        noise(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no noise was measured in"):
        noise(out)
    with pytest.raises(ConfigError, match="is not a folder"):
        list(samples_of_dark_frames(tmp_path / "nothing"))


def dark_frame(read, side=300):
    values = np.random.default_rng().normal(512, read, (side, side))
    return encode_dng(
        np.rint(values).astype(np.uint16), pattern=((0, 1), (1, 2)), black_level=(512,), white_level=16383, iso=100, make="SONY",
        model="ILCE-7C", color_matrix=(0.7, 0.1, 0, -0.3, 1.1, 0.2, 0, 0.1, 0.6), as_shot_neutral=(0.5, 1, 0.7),
    )  # fmt: skip


def test_raw_files_and_dark_frames_are_read(tmp_path, sample_set, caplog):
    source, dark = tmp_path / "source", tmp_path / "dark"
    source.mkdir()
    dark.mkdir()
    (truth,) = sample_set.glob("Bayer_moon_GT*")
    (bordered,) = sample_set.glob("Bayer_launch_pad_GT*")
    for photo in (truth, bordered):
        shutil.copy(photo, source)
    for number in "12":
        (dark / f"{number}.dng").write_bytes(dark_frame(read=9.0))
    shutil.copy(dark / "1.dng", dark / "1 again.dng")
    shutil.copy(truth, dark / "cap off.dng")
    (dark / "notes.txt").write_text("a text")
    found = list(samples_of_dark_frames(dark))
    assert {(each.iso, each.method) for each in found} == {(100, Method.DARK)}
    assert [each.b for each in found] == pytest.approx([(81 + 1 / 12) / (16383 - 512) ** 2] * 3, rel=0.05)
    again, lit, text = (record.message for record in caplog.records)
    assert again == "left out: 1.dng has the bytes of another dark frame"
    assert lit.startswith("left out: cap off.dng shows light")
    assert "notes.txt" in text
    cameras, place = noise(source, to=tmp_path / "to", dark=dark)
    canon = next(each for each in cameras if each.camera == "Canon EOS 500D")
    assert {entry.b.method for entry in canon.entries} == {Method.BORDER}
    assert (tmp_path / "to" / "noise.json").exists()
    assert place == str(tmp_path / "to")


def test_what_one_photo_does_not_show_for_sure_is_read_from_its_lines(tmp_path):
    lines = (6e-4, 5e-7, 3e-5, 1e-7, -1e-13) * 3
    out = FolderMaker(tmp_path / "out").scene("a", crops=1, noise={"noise_lines": lines}).finish()
    found = list(samples_of_output(Store(str(out))))
    assert [each.color for each in found] == list(COLORS)
    assert {(each.a, each.b, each.a_error, each.b_error, each.covariance) for each in found} == {lines[:5]}


def test_beside_two_ground_truths_the_noise_of_a_photo_is_no_surer(tmp_path):
    lines = (6e-4, 5e-7, 3e-5, 1e-7, -1e-13) * 3
    maker = FolderMaker(tmp_path / "out")
    for number in "12":
        maker.scene(number, crops=1, noise={"noise_lines": lines}, gt_sha1=number * 40, noisy_sha1="a" * 40)
    found = list(samples_of_output(Store(str(maker.finish()))))
    assert len(found) == 6
    for each in found:
        assert (each.a_error, each.b_error, each.covariance) == pytest.approx(
            (3e-5 * 2**0.5, 1e-7 * 2**0.5, -2e-13)
        )


def test_of_a_folder_of_an_earlier_version_only_sure_values_count(tmp_path):
    noisy = {"noise_a_green": 6e-4, "noise_b_green": 5e-7, "noise_a_blue": 7e-4}
    out = FolderMaker(tmp_path / "out").scene("a", crops=1, noise=noisy).finish()
    found = {each.color: (each.a, each.a_error, each.b) for each in samples_of_output(Store(str(out)))}
    assert found == {"green": (6e-4, 0.025 * 6e-4, 5e-7), "blue": (7e-4, 0.025 * 7e-4, None)}


def test_a_ground_truth_counts_where_none_of_its_pairs_contradicts(tmp_path):
    maker = FolderMaker(tmp_path / "out")
    maker.scene("a", crops=1, noise={"gt_noise_a_green": 2e-5, "gt_noise_a_red": 2e-5}, gt_sha1="1" * 40)
    maker.scene("b", crops=1, noise={"gt_noise_a_green": 2e-5}, gt_sha1="1" * 40)
    found = {each.color: each for each in samples_of_output(Store(str(maker.finish())))}
    assert {name: (each.a, each.method, each.iso) for name, each in found.items()} == {
        "green": (2e-5, Method.PHOTO, 100)
    }
