"""The published data set: what its list of files says, beside its own index."""

import json
import os
import shutil
from pathlib import Path

import pytest

import rawnind
from rawnind.errors import IndexInvalidError
from rawnind.source.catalog import load_catalog
from rawnind.source.dataverse import parse_address, parse_reply
from rawnind.source.index import load_index

DATA = os.environ.get("RAWNIND_DATA")
REAL = Path(DATA or "") / "rawnind"
needs_data = pytest.mark.skipif(not DATA, reason="RAWNIND_DATA does not say where the real reply lies")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The real reply, without an index beside it."""
    return shutil.copy(REAL / "dataset_metadata.json", tmp_path_factory.mktemp("reply"))


def scenes(index):
    return {
        scene.key: (scene.test_reserve, scene.unknown_sensor, *({ref.sha1 for ref in role} for role in (scene.ground_truths, scene.noisy)))
        for scene in index.scenes
    }  # fmt: skip


@needs_data
def test_the_reply_alone_gives_the_scenes_and_flags_of_the_data_set_s_own_index(alone):
    own = load_index(REAL / "dataset_index.yaml")
    catalog = load_catalog(alone)
    assert (
        scenes(catalog.index)
        == scenes(own)
        == scenes(load_catalog(str(REAL / "dataset_metadata.json")).index)
    )
    assert len(own.scenes) == 307
    assert len(catalog.photos(catalog.index.scenes)) == 2825


@needs_data
@pytest.mark.parametrize("beside", [True, False], ids=["with its index", "alone"])
def test_differences_are_listed(alone, beside):
    catalog = load_catalog(str(REAL / "dataset_metadata.json") if beside else alone)
    assert [note.partition(":")[0] for note in catalog.notes] == [
        "x-trans/fabrics",
        "x-trans/kitchen",
        "x-trans/knives",
    ]
    assert all("5 published photos" in note for note in catalog.notes)


@needs_data
def test_a_disagreement_about_a_flag_says_which_and_the_flag_holds(alone, tmp_path):
    text = (REAL / "dataset_index.yaml").read_text()
    reply = Path(shutil.copy(alone, tmp_path))
    (tmp_path / "dataset_index.yaml").write_text(text.replace("test_reserve: false", "test_reserve: true", 1))
    catalog = load_catalog(str(reply))
    (said,) = [note for note in catalog.notes if "test_reserve" in note]
    assert (
        said
        == "bayer/2pilesofplates: the index has test_reserve True, the names say False; it counts as True"
    )
    assert catalog.index.test_reserve == 17


@needs_data
def test_the_plan_of_the_reply_has_bytes_disk_memory_and_time_by_camera_and_iso(alone):
    found = rawnind.plan(alone)
    assert len(found.plan.selected) == 307
    listed = json.loads(Path(alone).read_text())["data"]["latestVersion"]["files"]
    sizes = {file["dataFile"]["filename"]: file["dataFile"]["filesize"] for file in listed}
    index = load_index(REAL / "dataset_index.yaml")
    photos = [ref for scene in index.scenes for ref in (*scene.ground_truths, *scene.noisy)]
    assert found.download_bytes == sum(sizes[ref.filename] for ref in photos)
    sony = [sizes[ref.filename] for ref in photos if ref.iso == 6400 and ref.filename.endswith(".arw")]
    (group,) = [group for group in found.groups if (group.camera, group.iso) == ("Sony", 6400)]
    assert (group.photos, group.bytes) == (len(sony), sum(sony))
    assert sum(group.photos for group in found.groups) == len(photos)


def test_a_reply_that_is_cut_or_reports_an_error_is_refused(tmp_path):
    with pytest.raises(IndexInvalidError, match="not a whole Dataverse reply"):
        parse_reply(b'{"status": "OK", "data": {"latestVersion": {"files": [', "reply.json")
    with pytest.raises(IndexInvalidError, match="reports ERROR: Dataset with ID x not found"):
        parse_reply(b'{"status": "ERROR", "message": "Dataset with ID x not found."}', "reply.json")
    with pytest.raises(IndexInvalidError, match="does not exist"):
        load_catalog(str(tmp_path / "nothing.json"))


def test_the_server_of_a_doi_is_known_named_or_that_of_its_page(monkeypatch):
    monkeypatch.delenv("DATAVERSE_SERVER", raising=False)
    assert parse_address("https://doi.org/10.14428/DVN/DEQCIM").server == "https://dataverse.uclouvain.be"
    assert parse_address("doi:10.7910/DVN/ABC").server is None
    monkeypatch.setenv("DATAVERSE_SERVER", "data.example.org/")
    assert parse_address("doi:10.7910/DVN/ABC").server == "https://data.example.org"
    assert (
        parse_address("https://x.org/dataset.xhtml?persistentId=doi:10.7910/DVN/ABC").server
        == "https://x.org"
    )
    assert parse_address("RawNIND") is None


def test_what_needs_the_photos_names_the_command_that_fetches_them():
    for source in ("doi:10.14428/DVN/DEQCIM", Path("https://doi.org/10.14428/DVN/DEQCIM")):
        with pytest.raises(IndexInvalidError, match="run `rawnind fetch "):
            load_index(source)
