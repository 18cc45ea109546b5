"""The photographer's session: a folder of camera names, from `index` to crops."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

import rawnind
from rawnind.cli import main
from rawnind.output.store import Store
from rawnind.records import Cfa
from rawnind.sample.dng import encode_dng
from rawnind.source.decode import decode
from rawnind.source.index import load_index
from tests.indexing.card import SCENES, shoot
from tests.s3_faults import FaultyProxy
from tests.small_set import CROPS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(sample_set, tmp_path):
    shoot(sample_set, tmp_path / "photos")
    return tmp_path / "photos"


def run(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_pair_of_a_folder_with_camera_names_is_collected(photos, tmp_path, cluster):
    before = files(photos)
    said = run("prepare", photos, "-o", tmp_path / "out", code=2)
    assert f"run `rawnind index {photos} -o pairs.yaml` first" in said
    assert run("plan", photos, code=2) == said
    pairs = tmp_path / "pairs.yaml"
    said = run("index", photos, "-o", pairs)
    assert "4 scenes: 5 ground-truth and 11 noisy photos; set aside: 16 .xmp, 16 not RAW" in said
    assert "kitchen table  bayer, OLYMPUS CORPORATION E-M10, Sample 50mm F1.8" in said
    assert re.search(r"kitchen table/gt/P5000017\.ORF +ISO 100 +2 s +GT +in gt/", said)
    assert "lowest ISO" in said
    assert "Scenes:  4 to process (3 bayer, 1 x-trans)" in run(
        "plan", pairs, "--crop-size", 64, "--stride", 96
    )
    summary = rawnind.prepare(pairs, tmp_path / "out", **CROPS)
    assert (summary.scenes.collected, summary.pairs.planned, summary.pairs.collected) == (4, 11, 11)
    run("report", tmp_path / "out")
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    assert files(photos) == before
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    for row in rows:
        assert row["iso"] == row["exif_iso"]
        assert row["gt_iso"] == row["gt_exif_iso"] < row["iso"]
        assert row["exposure_time"] < row["gt_exposure_time"]
        assert (row["aperture"], row["gt_focal_length"], row["lens"]) == (8.0, 50.0, "Sample 50mm F1.8")
        assert row["captured_at"].startswith("2026-05-01T")
    assert {row["scene"] for row in rows} == {place for place, _ in SCENES.values()}
    assert {Path(row["noisy_file"]).parts[0] for row in rows} == {"photos"}


def test_running_index_again_keeps_edits_and_adds_what_is_new(photos, tmp_path):
    late = photos / "sofa" / "_DSC0018.ARW"
    late.rename(tmp_path / "late.ARW")
    pairs = tmp_path / "lists" / "pairs.yaml"
    pairs.parent.mkdir()
    run("index", photos, "-o", pairs)
    layout = yaml.safe_load(pairs.read_text())
    assert layout["root"] == "../photos"
    garage = layout["Bayer"]["garage"]
    garage["clean_images"][0]["note"] = "the lamp flickered"
    garage["noisy_images"][0] |= {"role": "out", "sha1": ["not one"]}
    moved = layout["Bayer"]["sofa"]["noisy_images"].pop()
    layout["Bayer"]["sofa by night"] = {
        "clean_images": [],
        "noisy_images": [moved],
        "test_reserve": True,
        "unknown_sensor": False,
    }
    layout["X-Trans"]["ward"] = layout["X-Trans"].pop("clinic")
    pairs.write_text(yaml.safe_dump(layout))
    shutil.copy(photos / "clinic" / "DSCF0018.RAF", photos / "clinic" / "new.RAF")
    with (photos / "clinic" / "new.RAF").open("ab") as file:
        file.write(b"more")
    (photos / "sofa!").mkdir()
    shutil.copy(photos / "clinic" / "new.RAF", photos / "sofa!" / "other.RAF")
    with (photos / "sofa!" / "other.RAF").open("ab") as file:
        file.write(b"more")
    (tmp_path / "late.ARW").rename(late)
    (photos / "clinic" / "DSCF0017.RAF").rename(photos / "clinic" / "renamed.RAF")
    said = run("index", photos, "-o", pairs)
    assert "3 photos added, 15 kept as they are listed" in said
    assert "6 scenes: 5 ground-truth and 12 noisy photos; 1 left out" in said
    assert re.search(r"sofa by night .*\n +sofa/\S+ .* noisy +as listed", said)
    assert re.search(r"garage/\S+ .* out +as listed", said)
    assert "moved: clinic/DSCF0017.RAF is now clinic/renamed.RAF" in said
    again = yaml.safe_load(pairs.read_text())
    assert again["Bayer"]["garage"]["clean_images"][0]["note"] == "the lamp flickered"
    assert again["Bayer"]["garage"]["clean_images"][0]["iso"] == 100
    assert [entry["filename"] for entry in again["Bayer"]["sofa"]["noisy_images"]] == ["sofa/_DSC0018.ARW"]
    index = load_index(pairs)
    assert {scene.name: len(scene.noisy) for scene in index.scenes} == {
        "ward": 3, "garage": 3, "kitchen table": 3, "sofa": 1, "sofa by night": 1, "sofa-2": 1,
    }  # fmt: skip
    assert all(len(entry["sha1"]) == 40 for entry in again["Bayer"]["garage"]["noisy_images"])
    assert [scene.name for scene in index.scenes if scene.test_reserve] == ["sofa by night"]
    once = pairs.read_bytes()
    run("index", photos, "-o", pairs)
    assert pairs.read_bytes() == once


def test_photos_in_a_bucket_are_indexed_as_those_in_a_folder(photos, tmp_path, s3):
    port = s3.partition("127.0.0.1:")[2].partition("&")[0]
    with FaultyProxy(int(port), seed=0, share=0) as proxy:
        uri = f"s3://bucket/{tmp_path.name}/photos?{s3.replace(port, str(proxy.port))}"
        index_a_bucket_as_a_folder(uri, proxy, photos, tmp_path)


def index_a_bucket_as_a_folder(uri, proxy, photos, tmp_path):
    store = Store(uri)
    (photos / "sofa" / "page.arw").write_text("<html>404")
    late = photos / "sofa" / "_DSC0018.ARW"
    for path in photos.rglob("*"):
        if path.is_file() and path != late:
            store.write(path.relative_to(photos).as_posix(), path.read_bytes())
    assert f"run `rawnind index '{uri}' -o pairs.yaml` first" in run("plan", uri, code=2)
    there, here = tmp_path / "there.yaml", photos / "here.yaml"
    proxy.requests.clear()
    said = run("index", uri, "-o", there)
    asked = Counter((method, unquote(path)) for method, path in proxy.requests if "list-type" not in path)
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * 16  # HEAD and GET of fifteen photos and a web page
    assert "4 scenes: 5 ground-truth and 10 noisy photos; set aside: 16 .xmp, 16 not RAW" in said
    assert "unusable, a web page (HTML)" in said
    store.write("sofa/_DSC0018.ARW", late.read_bytes())
    store.remove("clinic/DSCF0017.RAF")
    (photos / "clinic/DSCF0017.RAF").unlink()
    said = run("index", uri, "-o", there)
    assert "1 photo added, 14 kept as they are listed" in said
    assert "listed and not there: clinic/DSCF0017.RAF" in said
    there.unlink()
    run("index", uri, "-o", there)
    run("index", photos, "-o", here)
    layout = yaml.safe_load(there.read_text())
    assert layout.pop("root") == uri
    assert layout == yaml.safe_load(here.read_text())
    there.write_text(there.read_text().replace("iso: 6400", "iso: 3200", 1))
    assert "ISO:     1 contradict their files:" in run("plan", there, "--crop-size", 64)
    ref = load_index(there).scenes[0].ground_truths[0]
    assert ref.path.startswith("s3://")
    decode(ref)
    assert "indexed by itself" in run("index", uri, photos, code=2)


def test_files_that_cannot_be_used_are_counted_by_what_they_are(photos, tmp_path):
    (photos / "sofa" / "page.arw").write_text("<html>404")
    (photos / "sofa" / "small.nef").write_bytes(b"\xff\xd8\xff\xe1" + bytes(500))
    (photos / "sofa" / "other.nef").write_bytes(b"\xff\xd8\xff\xe1" + bytes(501))
    (photos / "sofa" / "._DSC0017.ARW").write_bytes(b"of another system")
    shutil.copy(photos / "sofa" / "_DSC0017.ARW", photos / "garage" / "copy.ARW")
    for name in (b"two\nlines.ARW", b"caf\xe9.ARW"):
        shutil.copy(photos / "clinic" / "DSCF0017.RAF", os.fsencode(photos / "garage") + b"/" + name)
    said = run("index", photos)
    assert (
        "refused, the name holds a control character or a broken encoding; rename it: 2: garage/caf\\udce9.ARW, garage/two\\nlines.ARW"
        in said
    )
    assert "unusable, an ordinary JPEG, not a RAW: 2: sofa/other.nef, sofa/small.nef" in said
    assert "unusable, a web page (HTML)" in said
    assert "the same bytes as another file: 1: sofa/_DSC0017.ARW" in said
    table = tmp_path / "scenes.csv"
    table.write_text("file,scene\n_DSC0018.ARW,a\ngone.ARW,a\n")
    assert "in the table and not among the photos: 1: gone.ARW" in run("index", photos, "--csv", table)
    assert not (tmp_path / "pairs.yaml").exists()


def test_a_download_cache_of_links_is_read_on_request(photos, tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    blobs.mkdir()
    for path in (photos / "sofa").glob("*.ARW"):
        target = snapshot / "sofa" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / path.stem)
        target.symlink_to(blobs / path.stem)
    (snapshot / "around").symlink_to(snapshot)
    pairs = tmp_path / "pairs.yaml"
    assert "--follow-links reads it" in run("index", snapshot, "-o", pairs, code=2)
    assert "1 scene: 1 ground-truth and 2 noisy photos" in run(
        "index", snapshot, "-o", pairs, "--follow-links"
    )
    (scene,) = load_index(pairs, follow_links=True).scenes
    assert scene.name == "sofa"


def test_an_iso_that_is_not_the_file_s_and_a_role_that_is_none_are_told(photos, tmp_path):
    pairs = tmp_path / "pairs.yaml"
    run("index", photos / "sofa", "-o", pairs)
    edited = pairs.read_text().replace("iso: 1600", "iso: 6400")
    pairs.write_text("role: blurred".join(edited.rsplit("role: noisy", 1)))
    said = run("plan", pairs, "--crop-size", 64)
    assert "Refused: Bayer/sofa: role: Input should be 'gt', 'noisy' or 'out'" in said
    assert "ISO:     1 contradict their files: photos/sofa/_DSC0018.ARW (index 6400, file 1600)" in said


def test_a_scene_without_a_ground_truth_is_named_and_where_to_write_it(photos, tmp_path):
    pairs = tmp_path / "pairs.yaml"
    assert "ground truth; write" not in run("index", photos / "sofa", "-o", pairs)
    pairs.write_text(pairs.read_text().replace("role: gt", "role: noisy"))
    said = run("index", photos / "sofa", "-o", pairs)
    assert f"scenes without a ground truth; write `role: gt` at their clean photo in {pairs}: 1: sofa" in said


def test_a_ground_truth_that_is_clipped_or_cannot_be_decoded_is_doubted(tmp_path):
    mosaic = np.random.default_rng(3).integers(600, 4000, (60, 72)).astype(np.uint16)
    for scene, truth in (
        ("window", np.where(np.arange(60)[:, None] < 15, 16383, mosaic)),
        ("black", mosaic * 0),
    ):
        (tmp_path / scene).mkdir()
        for name, iso, sites in (("1.arw", 100, truth), ("2.arw", 800, mosaic + len(scene))):
            data = encode_dng(sites.astype(np.uint16), pattern=Cfa.BAYER.tile, black_level=[512], white_level=16383, iso=iso, make="SONY",
                              model="ILCE-7C", color_matrix=np.eye(3).ravel(), as_shot_neutral=[0.5, 1, 0.6])  # fmt: skip
            (tmp_path / scene / name).write_bytes(data)
    said = run("index", tmp_path, "-o", tmp_path / "pairs.yaml")
    assert "? GT clipped: 25% of its sites" in said
    assert "? GT cannot be decoded: 100.00% of its pixels are zero" in said
    assert "? GT clipped: 25% of its sites" in (tmp_path / "pairs.yaml").read_text()


def test_a_yaml_of_someone_else_is_not_overwritten(photos, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("crop_size: 512\n")
    assert "is not an index" in run("index", photos, "-o", other, code=2)
    assert other.read_text() == "crop_size: 512\n"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--by-time", "soon"), "no time span"),
        (("--scene-regex", "("), "not a regular expression"),
        (("--csv", "none.csv"), "cannot be read"),
        (("--by-time", "60", "--scene-regex", "x"), "exclude each other"),
        (("--scene-regex", "nowhere"), "no RAW photo that can be used has a scene"),
    ],
)
def test_wrong_options_are_one_sentence(photos, words, part):
    assert part in run("index", photos, *words, code=2)
