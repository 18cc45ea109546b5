"""Decoding in a child process gives what decoding here gives."""

import hashlib

import numpy as np

from rawnind.records import Cfa, ImageRef
from rawnind.sample.dng import encode_dng
from rawnind.source.decode import decode
from rawnind.source.decode_subprocess import decode_isolated


def test_a_child_decodes_as_this_process_does_and_imports_nothing_from_the_current_folder(
    tmp_path, monkeypatch
):
    mosaic = np.random.default_rng(0).integers(0, 16000, (32, 48), dtype=np.uint16)
    data = encode_dng(
        mosaic, pattern=[[0, 1], [1, 2]], black_level=(512,), white_level=16383, iso=800, make="SONY",
        model="ILCE-7C", color_matrix=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), as_shot_neutral=(0.5, 1.0, 0.7),
    )  # fmt: skip
    path = tmp_path / "photo.dng"
    path.write_bytes(data)
    sha1 = hashlib.sha1(data).hexdigest()
    ref = ImageRef(
        cfa=Cfa.BAYER, scene="a", ground_truth=True, iso=100, sha1=sha1, filename=path.name, path=str(path)
    )
    here, sensor = decode(ref)
    for name in ("rawpy", "json", "rawnind"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    there, same_sensor = decode_isolated(ref)
    assert np.array_equal(here, there)
    assert sensor == same_sensor
