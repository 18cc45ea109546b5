"""Black levels, number formats and filter colours of DNGs are kept as the file says, or refused with the reason."""

import hashlib
import io

import numpy as np
import pytest
import tifffile

from rawnind.errors import SourceError
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef
from rawnind.source.decode import decode

BLACK_REPEAT, BLACK_LEVEL, DELTA_H, DELTA_V, MASKED_AREAS = 50713, 50714, 50715, 50716, 50830
ACTIVE_AREA = 50829


@pytest.fixture
def put(tmp_path):
    """Writes a DNG with these tags and returns how the index would name it."""

    def write(*tags, cfa=Cfa.BAYER, planes=(0, 1, 2), mosaic=None, white=16383):
        if mosaic is None:
            mosaic = np.random.default_rng(0).integers(600, 16000, (96, 96), dtype=np.uint16)
        pattern = bytes(planes[color] for row in cfa.tile for color in row)
        extra = [
            (50706, 1, 4, bytes([1, 4, 0, 0]), True), (50707, 1, 4, bytes([1, 1, 0, 0]), True),
            (271, 2, 0, "Nobody", True), (272, 2, 0, "Knows it", True), (50708, 2, 0, "Nobody Knows it", True),
            (33421, 3, 2, (cfa.period, cfa.period), True), (33422, 1, len(pattern), pattern, True),
            (50710, 1, 3, bytes(planes), True), (50711, 3, 1, 1, True), (50717, 4, 1, white, True), *tags,
        ]  # fmt: skip
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, mosaic, photometric=32803, planarconfig=1, metadata=None,
                         rowsperstrip=len(mosaic), extratags=extra)  # fmt: skip
        path = tmp_path / "photo.dng"
        path.write_bytes(buffer.getvalue())
        return ImageRef(cfa=cfa, scene="a", ground_truth=True, iso=100, filename=path.name, path=str(path),
                        sha1=hashlib.sha1(buffer.getvalue()).hexdigest())  # fmt: skip

    return write


def black_tile(levels):
    levels = np.array(levels)
    rational = [part for level in levels.flat for part in (round(level * 1000), 1000)]
    return (BLACK_REPEAT, 3, 2, levels.shape, True), (BLACK_LEVEL, 5, levels.size, tuple(rational), True)


def refusal(photo):
    with pytest.raises(SourceError) as caught:
        decode(photo)
    return caught.value.reason, caught.value.detail


@pytest.mark.parametrize("level", [512.0, 511.25, 63.875])
def test_rational_black_levels_keep_their_fraction(put, level):
    assert decode(put(*black_tile([[level]])))[1].black_level == (level,) * 4
    tile = [[level, level + 1.5], [level + 2.25, level + 4]]
    assert decode(put(*black_tile(tile)))[1].black_level == (level, level + 1.5, level + 2.25, level + 4)


def test_a_large_tile_that_is_one_level_per_plane_is_kept(put):
    tile = np.tile([[500, 510], [520, 530.5]], (2, 2))
    assert decode(put(*black_tile(tile)))[1].black_level == (500, 510, 520, 530.5)
    by_color = np.array([500.25, 510, 520])[np.array(Cfa.X_TRANS.tile)]
    assert decode(put(*black_tile(by_color), cfa=Cfa.X_TRANS))[1].black_level == (500.25, 510, 520)


@pytest.mark.parametrize(("cfa", "side"), [(Cfa.BAYER, 4), (Cfa.X_TRANS, 6), (Cfa.X_TRANS, 2)])
def test_a_tile_with_several_levels_in_a_plane_is_refused(put, cfa, side):
    tile = 500 + 40.0 * np.arange(side * side).reshape(side, side)
    reason, detail = refusal(put(*black_tile(tile), cfa=cfa))
    assert reason is Reason.UNSUPPORTED_LEVELS
    assert f"black levels of one colour differ within a tile of {side} x {side} sites" in detail


@pytest.mark.parametrize(("tag", "word"), [(DELTA_H, "column"), (DELTA_V, "row")])
def test_black_levels_that_differ_by_row_or_column_are_refused(put, tag, word):
    def delta(values):
        return tag, 10, 96, tuple(part for value in values for part in (int(value * 100), 100)), True

    reason, detail = refusal(put(*black_tile([[512]]), delta(np.linspace(-3, 3, 96))))
    assert reason is Reason.UNSUPPORTED_LEVELS
    assert f"its black level differs from {word} to {word}" in detail
    assert decode(put(*black_tile([[512]]), delta([2.0] * 96)))[1].black_level == (514,) * 4


def test_masked_areas_that_hold_picture_are_refused(put):
    active = (ACTIVE_AREA, 4, 4, (0, 16, 96, 96), True)
    masked = (MASKED_AREAS, 4, 4, (0, 0, 96, 16), True)
    reason, detail = refusal(put(active, masked))
    assert reason is Reason.UNSUPPORTED_LEVELS
    assert "black" in detail
    dark = np.random.default_rng(0).integers(600, 16000, (96, 96), dtype=np.uint16)
    dark[:, :16] = np.random.default_rng(1).normal(512, 6, (96, 16)).round()
    assert decode(put(active, masked, mosaic=dark))[1].black_level == pytest.approx((512,) * 4, abs=2)


def test_an_implausible_black_level_is_refused(put):
    reason, detail = refusal(put(*black_tile([[5000]])))
    assert reason is Reason.UNSUPPORTED_LEVELS
    assert detail == "photo.dng: black level 5000 is implausible with a white level of 16383"


def test_other_filters_than_red_green_and_blue_are_refused(put):
    reason, detail = refusal(put(planes=(3, 4, 5)))
    assert reason is Reason.UNSUPPORTED_CFA
    assert "not red, green and blue" in detail


def test_floating_point_values_are_refused(put):
    mosaic = np.random.default_rng(0).uniform(0, 1, (96, 96)).astype(np.float32)
    reason, detail = refusal(put(mosaic=mosaic, white=1))
    assert reason is Reason.UNSUPPORTED_LEVELS
    assert "floating-point" in detail
