"""What a photo becomes: files that LibRaw and any viewer open, with the photo's own colours."""

import io

import numpy as np
import pytest
import rawpy
import tifffile
from click.testing import CliRunner
from PIL import Image, ImageCms

from rawnind.cli import main
from rawnind.denoise.run import denoise
from rawnind.denoise.srgb_tiff import encode_srgb_tiff
from rawnind.errors import ConfigError
from rawnind.feed.crop_options import Input
from rawnind.records import Capture, Cfa
from rawnind.sample.dng import encode_dng
from rawnind.source.editor_tags import EditorTags
from rawnind.training.model import NetworkConfig
from tests.denoise.test_frame import MATRIX, photo
from tests.networks import write_checkpoint

NEUTRAL = (0.5, 1.0, 0.7)


def write_photo(path, cfa=Cfa.BAYER, *, model="ILCE-7C", orientation=1, matrix=MATRIX):
    capture = Capture(
        exposure_time=0.02,
        aperture=4.0,
        focal_length=35.0,
        captured_at="2026-05-01T12:30:05",
        orientation=orientation,
    )
    data = encode_dng(
        photo(cfa, 144, 192).mosaic, pattern=cfa.tile, black_level=(512,), white_level=16383, iso=6400,
        make="SONY", model=model, color_matrix=matrix, as_shot_neutral=NEUTRAL, capture=capture,
    )  # fmt: skip
    path.write_bytes(data)
    return path


@pytest.fixture
def network(tmp_path):
    """A network that adds nothing."""
    return write_checkpoint(tmp_path / "c.pt")


@pytest.fixture
def rgb_network(tmp_path):
    return write_checkpoint(tmp_path / "rgb.pt", NetworkConfig(funit=4, input=Input.RGB))


def developed(path):
    with rawpy.imread(str(path)) as raw:
        return raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16) / 65535


@pytest.mark.parametrize("orientation", [1, 6])
def test_libraw_opens_the_linear_dng_and_shows_the_same_picture(orientation, rgb_network, tmp_path):
    source = write_photo(tmp_path / "a.dng", orientation=orientation)
    denoise(source, tmp_path / "b.dng", checkpoint=rgb_network)
    before, after = developed(source), developed(tmp_path / "b.dng")
    assert after.shape == before.shape
    inner = np.s_[12:-12, 12:-12]
    assert np.abs(after[inner].mean((0, 1)) - before[inner].mean((0, 1))).max() < 0.003
    assert np.corrcoef(after[inner].ravel(), before[inner].ravel())[0, 1] > 0.97


def test_the_linear_dng_keeps_how_the_photo_was_taken(network, tmp_path):
    denoise(write_photo(tmp_path / "a.dng", orientation=6), tmp_path / "b.dng", checkpoint=network)
    with rawpy.imread(str(tmp_path / "b.dng")) as raw:
        assert raw.raw_type == rawpy.RawType.Stack
        assert raw.sizes.flip == 6
        assert raw.other.iso_speed == 6400
        assert raw.other.shutter_speed == pytest.approx(0.02)
        assert raw.camera_whitebalance[:3] == pytest.approx([2, 1, 1 / 0.7], rel=1e-3)
        assert (raw.white_level, raw.black_level_per_channel) == (65535, [0] * 4)
    with tifffile.TiffFile(tmp_path / "b.dng") as file:
        tags = file.pages.first.tags
        assert tags["UniqueCameraModel"].value == "SONY ILCE-7C"
        assert np.reshape(tags["ColorMatrix1"].value, (9, 2))[:, 0] / 1e4 == pytest.approx(MATRIX)


def test_the_pixels_of_the_linear_dng_are_levels(network, tmp_path):
    source = write_photo(tmp_path / "a.dng")
    report = denoise(source, tmp_path / "b.dng", checkpoint=network)
    with rawpy.imread(str(source)) as raw:
        reds = (raw.raw_image_visible[::2, ::2] - 512.0) / (16383 - 512)
    found = tifffile.imread(tmp_path / "b.dng")[::2, ::2, 0] / 65535
    assert report.gain == pytest.approx(1, abs=0.01)
    assert (
        np.abs(found / report.gain - np.clip(reds, 0, 1)).max() < 1e-4
    )  # plain demosaicing keeps what was measured


def test_an_x_trans_photo_keeps_its_measured_values(rgb_network, tmp_path):
    source = write_photo(tmp_path / "a.dng", Cfa.X_TRANS)
    denoise(source, tmp_path / "b.dng", checkpoint=rgb_network)
    with rawpy.imread(str(source)) as raw:
        levels = np.clip((raw.raw_image_visible - 512.0) / (16383 - 512), 0, 1)
    assert developed(tmp_path / "b.dng").shape == (144, 192, 3)
    found = tifffile.imread(tmp_path / "b.dng") / 65535
    for color in range(3):
        sites = np.tile(np.array(Cfa.X_TRANS.tile) == color, (24, 32))
        assert np.abs(found[..., color] - levels)[sites].max() < 1e-3


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_tiff_is_upright_and_in_srgb(orientation, network, tmp_path):
    source = write_photo(tmp_path / "a.dng", orientation=orientation)
    denoise(source, tmp_path / "b.tif", checkpoint=network)
    with rawpy.imread(str(source)) as raw:
        expected = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=(2.4, 12.92))
    found = tifffile.imread(tmp_path / "b.tif")
    assert (found.shape, found.dtype) == (expected.shape, np.uint16)
    assert np.abs(found.mean((0, 1)) - expected.mean((0, 1))).max() < 0.01 * 65535
    with Image.open(tmp_path / "b.tif") as image:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


@pytest.mark.parametrize("neutral", [NEUTRAL, (2.0, 1.0, 0.7), None])
def test_a_full_sensor_is_white_and_what_is_neutral_is_grey(neutral, tmp_path):
    shown = EditorTags(
        make="SONY",
        model="ILCE-7C",
        camera="SONY ILCE-7C",
        orientation=1,
        as_shot_neutral=neutral,
        capture=Capture(),
    )
    grey = np.array(neutral or (np.reshape(MATRIX, (3, 3)) @ (0.9505, 1, 1.089))) * 0.1
    levels = np.stack([np.ones(3), grey, np.zeros(3)], axis=1)[:, None].repeat(16, axis=1).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(encode_srgb_tiff(levels, shown, MATRIX))
    full, neutral_grey, black = tifffile.imread(tmp_path / "a.tif")[0] / 65535
    assert full == pytest.approx([1, 1, 1], abs=2e-3)
    assert np.ptp(neutral_grey) < 2e-3
    assert black.max() == 0


def test_without_known_colours_a_linear_dng_can_be_written_but_no_tiff(network, rgb_network, tmp_path):
    source = write_photo(tmp_path / "a.dng", model="Knows nobody", matrix=(0,) * 9)
    assert "colours are not known" in str(denoise(source, tmp_path / "b.dng", checkpoint=network))
    with pytest.raises(ConfigError, match="are not known; write a"):
        denoise(source, tmp_path / "b.tif", checkpoint=network)
    with pytest.raises(ConfigError, match="use a network for Bayer"):
        denoise(source, tmp_path / "c.dng", checkpoint=rgb_network)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.dng", "-o", "b.dng"], "cannot be read: No such file"),
        (["broken.dng", "-o", "b.dng"], "cannot be denoised: "),
        (["a.dng", "-o", "a.dng"], "exists already"),
        (["a.dng", "-o", "b.jpg"], "must end in one of .dng, .tif, .tiff"),
        (["a.dng", "-o", "nowhere/b.dng"], "make it first"),
        (["x.dng", "-o", "b.dng"], "is for Bayer sensors, and the photo is x-trans"),
        (["a.dng", "-o", "b.dng", "--checkpoint", "a.dng"], "a.dng is not a checkpoint"),
        (["a.dng", "-o", "b.dng", "--checkpoint", "gone.pt"], "does not exist"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments, sentence, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.dng")
    write_photo(tmp_path / "x.dng", Cfa.X_TRANS)
    (tmp_path / "broken.dng").write_bytes(b"II*\0 and then nothing")
    before = sorted(tmp_path.iterdir())
    result = CliRunner().invoke(main, ["denoise", "--checkpoint", "c.pt", *arguments])
    assert result.exit_code == 2
    assert sentence in result.output
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_says_what_it_wrote(network, tmp_path):
    source = write_photo(tmp_path / "a.dng")
    arguments = ["denoise", str(source), "--checkpoint", str(network), "-o", str(tmp_path / "b.tif")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert result.output.endswith("b.tif: 192 x 144, bayer, gain 1.000\n")


def test_an_interrupted_run_leaves_nothing(network, tmp_path):
    source = write_photo(tmp_path / "a.dng")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise(source, tmp_path / "b.dng", checkpoint=network, progress=interrupt)
    assert not (tmp_path / "b.dng").exists()
