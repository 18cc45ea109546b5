"""Links in a source: those that lead out of it are read on request only."""

import os
import socket
from pathlib import Path

import pytest

from rawnind.errors import IndexInvalidError
from rawnind.source.index import INDEX_NAME, index_to_yaml, is_own_photos, load_index
from tests.source.index_maker import entry, listed, name, sha1, touch, why


def test_links_inside_are_followed_and_links_outside_refused(tmp_path):
    outside, source = tmp_path / "outside", tmp_path / "source"
    touch(outside, "secret.arw", "Bayer/b/" + name("b", 9))
    touch(source, "store/x.arw", name("a", 1, gt=True))
    (source / name("a", 2)).symlink_to("store/x.arw")
    (source / name("a", 3)).symlink_to(outside / "secret.arw")
    (source / name("a", 4)).symlink_to("../outside/secret.arw")
    (source / name("a", 5)).symlink_to(name("a", 5))
    (source / "Bayer").symlink_to(outside / "Bayer")
    os.mkfifo(source / name("a", 6))
    index = load_index(source)
    assert [ref.sha1 for ref in index.scenes[0].noisy] == [sha1(2)]
    assert [scene.name for scene in index.scenes] == ["a"]
    assert {file: text.split()[0] for file, text in why(index).items()} == {
        name("a", 3): "a",
        name("a", 4): "a",
        name("a", 5): "a",
        name("a", 6): "neither",
        "Bayer": "a",
        "store": "the",
    }


def test_a_listed_file_that_is_a_link_outside_is_refused(tmp_path):
    source = tmp_path / "source"
    touch(tmp_path, "secret.arw")
    touch(source, name("a", 1, gt=True))
    (source / name("a", 2)).symlink_to(tmp_path / "secret.arw")
    listed(source, {"Bayer": {"a": entry([name("a", 1, gt=True)], [name("a", 2)])}})
    index = load_index(source)
    assert index.scenes[0].noisy == ()
    assert "outside" in index.refused[0].why


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_a_data_set_of_links_is_read_on_request(tmp_path, layout):
    source, blobs = tmp_path / "snapshot", tmp_path / "blobs"  # the layout of a download cache
    blobs.mkdir()
    for number, filename in ((1, name("a", 1, gt=True)), (2, name("a", 2))):
        (blobs / sha1(number)).write_bytes(b"raw")
        gt = "gt/" if "_GT_" in filename else ""
        place = source / (filename if layout == "flat" else f"Bayer/a/{gt}{filename}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blobs / sha1(number))
    with pytest.raises(IndexInvalidError, match="outside of the source folder; --follow-links reads it"):
        load_index(source)
    (scene,) = load_index(source, follow_links=True).scenes
    paths = [Path(ref.path) for ref in (*scene.ground_truths, *scene.noisy)]
    assert [path.read_bytes() for path in paths] == [b"raw"] * 2
    assert all(path.is_relative_to(source) for path in paths)
    (source / INDEX_NAME).write_text(index_to_yaml(load_index(source, follow_links=True)))
    assert load_index(source, follow_links=True).scenes == (scene,)
    assert load_index(source).scenes[0].noisy == ()


def test_a_source_may_itself_be_a_link(tmp_path):
    touch(tmp_path / "real", name("a", 1))
    (tmp_path / "link").symlink_to("real")
    (scene,) = load_index(str(tmp_path / "link")).scenes
    assert scene.noisy[0].path == str(tmp_path / "link" / name("a", 1))


def lay_socket(place):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))


def lay_circle(place):
    place.symlink_to(place)


@pytest.mark.parametrize(
    ("lay", "says"),
    [
        (os.mkfifo, "neither a file nor a folder"),
        (lay_socket, "neither a file nor a folder"),
        (Path.mkdir, "not part of the layout"),
        (lambda place: place.symlink_to("gone.NEF"), "a link that leads nowhere"),
        (lambda place: place.symlink_to("/gone/a.NEF"), "a link that leads nowhere"),
        (lay_circle, "a link that leads nowhere"),
        (lambda place: place.symlink_to("/dev/null"), "neither a file nor a folder"),
    ],
)
def test_only_files_count_as_photos(tmp_path, monkeypatch, lay, says):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    lay(Path("x.NEF"))
    for follow_links in (False, True):
        assert not is_own_photos(tmp_path, None, follow_links=follow_links)
        with pytest.raises(IndexInvalidError, match=rf"no RAW photo.* 1 refused, such as x\.NEF: .*{says}"):
            load_index(tmp_path, follow_links=follow_links)


def test_links_to_photos_of_any_name_count_where_they_are_followed(tmp_path):
    touch(tmp_path, "card/DSC1.NEF")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/DSC1.NEF").symlink_to("../card/DSC1.NEF")
    for follow_links, says in (
        (True, "DSC1.NEF: run .* --follow-links`"),
        (False, "DSC1.NEF: a link that points outside"),
    ):
        assert is_own_photos(tmp_path / "links", None, follow_links=follow_links) is follow_links
        with pytest.raises(IndexInvalidError, match=says):
            load_index(tmp_path / "links", follow_links=follow_links)
