"""Decoding gives LibRaw's own pixels, and every bad file ends in a SourceError with the right reason."""

import hashlib
import io
import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from rawnind.errors import SourceError
from rawnind.memory import worker_bytes
from rawnind.reasons import Reason
from rawnind.records import Cfa, ImageRef, Sensor
from rawnind.sample.dng import encode_dng
from rawnind.source.camera import camera_name, naming_part
from rawnind.source.decode import ATTEMPTS, decode, headers
from tests.source.huge_photo import TILE, enlarged

MATRIX = (0.7374, -0.2389, -0.0551, -0.5435, 1.3162, 0.2519, -0.1006, 0.1795, 0.6552)
BAYER_TILES = [[[0, 1], [1, 2]], [[1, 0], [2, 1]], [[1, 2], [0, 1]], [[2, 1], [1, 0]]]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 16000, (height, width), dtype=np.uint16)


def dng(mosaic, pattern=BAYER_TILES[0], **changes):
    arguments = {"black_level": (512,), "white_level": 16383, "iso": 800, "make": "SONY", "model": "ILCE-7C",
                 "color_matrix": MATRIX, "as_shot_neutral": (0.5, 1.0, 0.7)}  # fmt: skip
    return encode_dng(mosaic, pattern=pattern, **(arguments | changes))


def ref(path, data=b""):
    return ImageRef(
        cfa=Cfa.BAYER,
        scene="a",
        ground_truth=True,
        iso=100,
        sha1=hashlib.sha1(data).hexdigest(),
        filename=path.name,
        path=str(path),
    )


@pytest.fixture
def put(tmp_path):
    """Writes bytes to a file and returns how the index would name it."""

    def write(data, filename="photo.dng"):
        path = tmp_path / filename
        path.write_bytes(data)
        return ref(path, data)

    return write


def reason_of(photo, call=decode):
    with pytest.raises(SourceError) as caught:
        call(photo, delay=0)
    assert str(Path(photo.path).parent) not in caught.value.detail
    assert photo.filename in caught.value.detail
    return caught.value.reason


def libraw_visible(data):
    with rawpy.imread(io.BytesIO(data)) as raw:
        return raw.raw_image_visible.copy()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cfa=st.sampled_from(Cfa),
    phase=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    margins=st.tuples(*[st.integers(0, 3)] * 4),
    extra=st.tuples(st.integers(0, 13), st.integers(0, 13)),
    model=st.sampled_from([("FUJIFILM", "X-T30"), ("SONY", "ILCE-7C"), ("Nobody", "Knows it")]),
)
def test_pixels_are_libraws_and_the_origin_is_the_tiles_first_site(*, put, cfa, phase, margins, extra, model):
    top, left = (cfa.period * margin for margin in margins[:2])
    mosaic = noise(24 + top + margins[2] + extra[0], 24 + left + margins[3] + extra[1])
    pattern = np.roll(cfa.tile, phase, (0, 1))
    data = dng(mosaic, pattern, margins=(top, left, *margins[2:]), make=model[0], model=model[1])
    visible, sensor = decode(put(data))
    np.testing.assert_array_equal(visible, libraw_visible(data))
    assert visible.flags.c_contiguous
    assert visible.flags.owndata
    assert visible.shape == (24 + extra[0], 24 + extra[1]) == (sensor.height, sensor.width)
    assert (sensor.cfa, sensor.camera) == (cfa, " ".join(model))
    y, x = sensor.origin
    np.testing.assert_array_equal(np.roll(pattern, (-y, -x), (0, 1)), cfa.tile)
    assert max(y, x) < cfa.period
    TypeAdapter(Sensor).validate_python(sensor)


@pytest.mark.parametrize("tile", BAYER_TILES)
def test_black_levels_stand_in_plane_order(put, tile):
    (y, x), = np.argwhere(np.array(tile) == 0)  # fmt: skip
    _, sensor = decode(put(dng(noise(24, 24), tile, black_level=(500, 510, 520, 530))))
    assert sensor.origin == (y, x)
    assert sensor.black_level == (500, 510, 520, 530)
    assert (sensor.white_level, sensor.overexposure_lb) == (16383, 1.0)


def test_x_trans_has_three_black_levels(put):
    _, sensor = decode(put(dng(noise(24, 24), Cfa.X_TRANS.tile, black_level=(1024,))))
    assert sensor.black_level == (1024, 1024, 1024)


def test_colour_matrix_of_a_known_camera_is_libraws_own(put):
    data = dng(noise(24, 24), color_matrix=np.eye(3).ravel() + 0.1)
    _, sensor = decode(put(data))
    with rawpy.imread(io.BytesIO(data)) as raw:
        np.testing.assert_allclose(sensor.rgb_xyz_matrix, raw.rgb_xyz_matrix[:3].ravel(), atol=1e-7)


@given(
    matrix=st.lists(st.integers(-2000, 2000), min_size=9, max_size=9),
    neutral=st.lists(st.floats(0.3, 1), min_size=2, max_size=2),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_colour_matrix_of_an_unknown_camera_is_the_files_own(put, matrix, neutral):
    written = np.eye(3).ravel() + np.array(matrix) / 10_000
    data = dng(noise(24, 24), color_matrix=written, make="Nobody", model="Knows it",
               as_shot_neutral=(neutral[0], 1.0, neutral[1]))  # fmt: skip
    _, sensor = decode(put(data))
    np.testing.assert_allclose(sensor.rgb_xyz_matrix, written, atol=1e-4)


def test_headers_give_the_size_without_the_pixels(put):
    data = dng(noise(60, 50), margins=(4, 6, 2, 2))
    size = headers(put(data[: len(data) - 2000] + bytes(2000)))
    assert (size.height, size.width, size.raw_height, size.raw_width) == (54, 42, 60, 50)
    photo = put(data[: len(data) - 2000])
    assert reason_of(photo) is reason_of(photo, headers) is Reason.TRUNCATED


@pytest.mark.parametrize("call", [decode, headers])
def test_files_that_are_no_photo_have_a_reason(put, tmp_path, call):
    os.mkfifo(tmp_path / "pipe.dng")
    assert reason_of(ref(tmp_path / "nothing.dng"), call) is Reason.MISSING_FILE
    assert (
        reason_of(ref(put(b"x").path and tmp_path / "photo.dng" / "below.dng"), call) is Reason.MISSING_FILE
    )
    assert reason_of(ref(tmp_path), call) is Reason.UNREADABLE
    assert reason_of(ref(tmp_path / "pipe.dng"), call) is Reason.UNREADABLE
    assert reason_of(put(b""), call) is Reason.TRUNCATED
    assert reason_of(put(b"some text, not a photo\n" * 100), call) is Reason.UNREADABLE


@pytest.mark.parametrize("call", [decode, headers])
def test_a_file_that_no_memory_holds_is_refused_before_it_is_read(put, call):
    photo = put(b"x")
    os.truncate(photo.path, 1 << 40)  # sparse: it takes no space
    with pytest.raises(
        SourceError, match=r"photo.dng: 1099511627776 bytes, and a RAW photo has at most"
    ) as caught:
        call(photo)
    assert caught.value.reason is Reason.UNREADABLE


def test_a_header_that_claims_more_pixels_than_memory_holds_is_unreadable_with_its_figure(put):
    tile = noise(TILE, TILE)
    photo = put(enlarged(dng(tile), 4 * TILE, 2 * TILE))
    needed = worker_bytes(8 * TILE * TILE)
    assert np.array_equal(decode(photo, memory=needed)[0], np.tile(tile, (4, 2)))
    claim = "its header claims 512 x 1024 pixels, for which a worker needs 0.4 GB of memory, more than it can have"
    with pytest.raises(SourceError, match=claim) as caught:
        decode(photo, memory=needed - 1)
    assert caught.value.reason is Reason.UNREADABLE
    with pytest.raises(SourceError, match="bytes, and a worker can read at most 1000"):
        decode(photo, memory=1000)


def test_bytes_that_do_not_match_the_name(put):
    data = bytearray(dng(noise(24, 24)))
    photo = put(bytes(data))
    data[-100] ^= 1
    Path(photo.path).write_bytes(data)
    assert reason_of(photo) is Reason.SHA1_MISMATCH


def test_a_photo_of_zeros(put):
    mosaic = np.zeros((40, 40), np.uint16)
    assert reason_of(put(dng(mosaic))) is Reason.ALL_ZERO
    mosaic[:2] = 1
    decode(put(dng(mosaic)))


def test_a_white_level_below_black(put):
    with rawpy.imread(io.BytesIO(dng(noise(24, 24), black_level=(512,)))) as raw:
        assert raw.white_level == 16383
    data = dng(noise(24, 24), black_level=(600,)).replace(struct.pack("<I", 16383), struct.pack("<I", 600))
    assert reason_of(put(data)) is Reason.UNREADABLE


def plain_dng(array, photometric, *tags):
    buffer = io.BytesIO()
    version = [(50706, 1, 4, bytes([1, 4, 0, 0]), True), (50707, 1, 4, bytes([1, 1, 0, 0]), True)]
    names = [(271, 2, 0, "Nobody", True), (272, 2, 0, "Knows it", True)]
    tifffile.imwrite(buffer, array, photometric=photometric, planarconfig=1, metadata=None,
                     rowsperstrip=len(array), extratags=[*version, *names, *tags])  # fmt: skip
    return buffer.getvalue()


def test_sensors_without_a_bayer_or_x_trans_pattern(put):
    linear_raw, cfa = 34892, 32803  # DNG's PhotometricInterpretation
    stack = plain_dng(np.dstack([noise(64, 64)] * 3), linear_raw)
    repeat, planes = (33421, 3, 2, (4, 4), True), (50710, 1, 3, bytes([0, 1, 2]), True)
    quad = np.kron([[0, 1], [1, 2]], np.ones((2, 2), int)).astype(np.uint8)
    quad_bayer = plain_dng(noise(64, 64), cfa, repeat, planes, (33422, 1, 16, quad.tobytes(), True))
    assert reason_of(put(stack)) is Reason.UNSUPPORTED_CFA
    assert reason_of(put(quad_bayer)) is Reason.UNSUPPORTED_CFA


def test_a_file_that_the_system_refuses_is_tried_again(tmp_path):
    path = tmp_path / "loop.dng"
    path.symlink_to("loop.dng")  # opening it fails with ELOOP, for root too
    started = time.monotonic()
    with pytest.raises(SourceError, match=f"tried {ATTEMPTS} times") as caught:
        decode(ref(path), delay=0.02)
    assert caught.value.reason is Reason.UNREADABLE
    assert time.monotonic() - started >= 0.02 * (ATTEMPTS - 1)


def test_a_file_that_comes_back_is_read(tmp_path):
    path, data = tmp_path / "loop.dng", dng(noise(24, 24))
    path.symlink_to("loop.dng")
    (tmp_path / "ready").write_bytes(data)
    timer = threading.Timer(0.05, (tmp_path / "ready").replace, [path])
    timer.start()
    visible, _ = decode(ref(path, data), delay=0.3)
    timer.join()
    np.testing.assert_array_equal(visible, noise(24, 24))


SEEDS = {
    "bayer": dng(noise(40, 48)),
    "x-trans": dng(noise(40, 48), Cfa.X_TRANS.tile, make="FUJIFILM", model="X-T30"),
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(sorted(SEEDS)),
    keep=st.integers(0, 6000),
    flips=st.lists(st.tuples(st.integers(0, 1200), st.integers(1, 255)), max_size=12),
)
def test_damaged_files_decode_or_end_in_a_source_error(put, seed, keep, flips):
    data = bytearray(SEEDS[seed])
    for at, bits in flips:
        data[at % len(data)] ^= bits
    if keep < len(data):
        del data[keep:]
    photo = put(bytes(data))
    assert outcome(photo, decode) in {
        None, Reason.TRUNCATED, Reason.UNREADABLE, Reason.INCOMPLETE, Reason.UNSUPPORTED_CFA, Reason.UNSUPPORTED_LEVELS
    }  # fmt: skip
    assert outcome(photo, headers) in {None, Reason.TRUNCATED, Reason.UNREADABLE}


def outcome(photo, call):
    try:
        call(photo, delay=0)
    except SourceError as error:
        return error.reason
    return None


def tiff(make, model, order="<"):
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 2)
    texts = b"".join(text + b"\0" for text in (make, model))
    entries = struct.pack(order + "HHII", 271, 2, len(make) + 1, 38)
    entries += struct.pack(order + "HHII", 272, 2, len(model) + 1, 38 + len(make) + 1)
    return head + entries + bytes(4) + texts


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (tiff(b"SONY", b"ILCE-7C"), "SONY ILCE-7C"),
        (tiff(b"Canon", b"Canon EOS 500D", ">"), "Canon EOS 500D"),
        (tiff(b"NIKON CORPORATION", b"NIKON D90"), "NIKON D90"),
        (tiff(b"OLYMPUS CORPORATION  ", b"E-M10  ").replace(b"II*\0", b"IIRO"), "OLYMPUS CORPORATION E-M10"),
        (tiff(b"Panasonic", b"DC-G90").replace(b"II*\0", b"IIU\0"), "Panasonic DC-G90"),
        (b"FUJIFILMCCD-RAW 0201FF383501X-T30" + bytes(60), "FUJIFILM X-T30"),
        (b"II\x1a\0\0\0HEAPCCDR" + bytes(99) + b"Canon\0Canon EOS D60\0", "Canon EOS D60"),
        (bytes(4) + b"ftypcrx " + bytes(40) + b"CMT1" + tiff(b"Canon", b"Canon EOS R5"), "Canon EOS R5"),
        (tiff(b"SONY", b"ILCE-7C")[:40], "SO"),
        (b"qktk", ""),
        (b"", ""),
    ],
)
def test_camera_names_of_each_format(data, name):
    assert camera_name(data) == name


def test_the_names_of_a_crw_lie_behind_its_pixels():
    data = b"II\x1a\0\0\0HEAPCCDR" + bytes(200_000) + b"Canon\0Canon PowerShot S40\0" + bytes(5000)
    assert camera_name(naming_part(io.BytesIO(data))) == "Canon PowerShot S40"
    assert len(naming_part(io.BytesIO(data))) == 1 << 17


@given(st.binary(max_size=80).map(lambda tail: b"II*\0\x08\0\0\0" + tail))
def test_any_tiff_start_has_a_printable_name(data):
    assert camera_name(data).isprintable()


@pytest.mark.parametrize(
    ("filename", "origin", "shape", "black", "camera"),
    [
        (
            "kodak_dc50.KDC",
            (0, 1),
            (512, 768),
            0,
            "Eastman Kodak Company Kodak Digital Science DC50 Zoom Camera",
        ),
        ("quicktake100.QTK", (0, 1), (240, 320), 0, "Apple QuickTake 100"),
        ("blackmagic.dng", (0, 0), (2176, 4128), 512, "Blackmagic Pocket Cinema Camera 4K"),
    ],
)
def test_real_files_decode(filename, origin, shape, black, camera):
    if "RAWNIND_DATA" not in os.environ:
        pytest.skip("RAWNIND_DATA does not say where real camera files lie")
    path = Path(os.environ["RAWNIND_DATA"]) / "raw" / filename
    data = path.read_bytes()
    visible, sensor = decode(ref(path, data))
    np.testing.assert_array_equal(visible, libraw_visible(data))
    assert (sensor.cfa, sensor.origin, visible.shape) == (Cfa.BAYER, origin, shape)
    assert (sensor.black_level, sensor.camera) == ((black,) * 4, camera)
    assert (sensor.rgb_xyz_matrix is None) == (filename == "kodak_dc50.KDC")
    assert (headers(ref(path)).height, headers(ref(path)).width) == shape
