"""Index entries that name any file: paths, roles, SHA-1s, and what must not be followed."""

import hashlib
import os
import random
from pathlib import Path

import pytest
import yaml

from rawnind.errors import ConfigError
from rawnind.output.store import Store
from rawnind.source.index import index_to_yaml, load_index
from rawnind.source.sha1_cache import sha1s_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rawnind" / "sha1.sqlite"


def write(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if data is not None else random.randbytes(50))
    return hashlib.sha1(path.read_bytes()).hexdigest()


def listed(path, clean=(), noisy=(), **top):
    scene = {
        "clean_images": list(clean),
        "noisy_images": list(noisy),
        "test_reserve": False,
        "unknown_sensor": False,
    }
    path.write_text(yaml.safe_dump({**top, "Bayer": {"kitchen": scene}}))
    return path


def test_an_entry_names_any_file_in_any_folder(tmp_path):
    sha1 = write(tmp_path / "100MSDCF" / "DSC 01.ARW")
    write(tmp_path / "DSC02.ARW")
    path = listed(tmp_path / "pairs.yaml", [{"filename": "100MSDCF/DSC 01.ARW", "iso": 100, "why": "lowest ISO", "lens": "50 mm"}],
                  [{"filename": "DSC02.ARW", "sha1": "0A" * 20, "iso": None}])  # fmt: skip
    index = load_index(path)
    (scene,) = index.scenes
    (truth,), (noisy,) = scene.ground_truths, scene.noisy
    assert (truth.sha1, truth.iso, truth.filename) == (sha1, 100, "100MSDCF/DSC 01.ARW")
    assert truth.path == str(tmp_path / "100MSDCF" / "DSC 01.ARW")
    assert (noisy.sha1, noisy.iso, noisy.path) == ("0a" * 20, None, str(tmp_path / "DSC02.ARW"))
    assert index.refused == ()
    again = tmp_path / "again.yaml"
    again.write_text(index_to_yaml(index))
    assert load_index(again).scenes == index.scenes


def test_the_role_of_an_entry_decides_over_its_list(tmp_path):
    files = [
        {"filename": f"{n}.nef", "sha1": f"{n}" * 40, "role": role}
        for n, role in enumerate(("noisy", "out", "gt"))
    ]
    (scene,) = load_index(listed(tmp_path / "pairs.yaml", files)).scenes
    assert [ref.filename for ref in scene.ground_truths] == ["2.nef"]
    assert [ref.filename for ref in scene.noisy] == ["0.nef"]


@pytest.mark.parametrize("root", ["../photos", None])
def test_the_root_of_an_index_may_lie_elsewhere(tmp_path, root):
    write(tmp_path / "photos" / "a" / "1.cr2")
    path = tmp_path / "lists" / "pairs.yaml"
    path.parent.mkdir()
    listed(path, [{"filename": "a/1.cr2"}], root=root or str(tmp_path / "photos"))
    index = load_index(path)
    assert index.scenes[0].ground_truths[0].path == str(tmp_path / "photos" / "a" / "1.cr2")
    assert index.root == str(tmp_path / "photos")


@pytest.mark.parametrize(
    "filename", ["../x.arw", "/etc/x.arw", "a/../../x.arw", "a//x.arw", "a\\x.arw", "a/\x07.arw", "./x.arw"]
)
def test_a_path_that_leaves_the_root_is_refused(tmp_path, filename):
    write(tmp_path / "x.arw")
    (tmp_path / "lists").mkdir()
    path = listed(
        tmp_path / "lists" / "pairs.yaml", [{"filename": filename}], [{"filename": "y.arw", "sha1": "0" * 40}]
    )
    index = load_index(path)
    assert index.ground_truths == 0
    assert "the name holds a" in index.refused[0].why


def test_a_link_out_of_the_root_is_followed_on_request_only(tmp_path):
    sha1 = write(tmp_path / "blobs" / "1")
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "1.raf").symlink_to(tmp_path / "blobs" / "1")
    path = listed(
        tmp_path / "set" / "pairs.yaml", [{"filename": "a/1.raf"}], [{"filename": "y.arw", "sha1": "0" * 40}]
    )
    assert "--follow-links" in load_index(path).refused[0].why
    assert load_index(path, follow_links=True).scenes[0].ground_truths[0].sha1 == sha1


def test_an_empty_sha1_is_computed_and_none_that_is_no_text_ends_in_a_traceback(tmp_path):
    sha1 = write(tmp_path / "1.nef")
    entries = [
        {"filename": "1.nef", "sha1": ""},
        {"filename": "1.nef", "iso": [1]},
        {"filename": "1.nef", "sha1": [1]},
    ]
    index = load_index(listed(tmp_path / "pairs.yaml", [], entries))
    assert [ref.sha1 for ref in index.scenes[0].noisy] == [sha1]
    assert len(index.refused) == 2


def test_sha1s_of_files_in_a_folder_whose_name_is_no_text_are_remembered(tmp_path, cache):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nef")
    sha1 = write(Path(path))
    os.utime(path, (1, 1))
    for _ in range(2):
        assert sha1s_of([path]) == {path: sha1}
    assert b"caf\xe9" in cache.read_bytes()
    for opened in (load_index, Store):
        with pytest.raises(ConfigError, match=r"caf\\udce9\.nef: the name of this folder, .* rename it"):
            opened(path)


def test_a_missing_file_without_sha1_costs_only_itself(tmp_path):
    write(tmp_path / "b.orf")
    index = load_index(listed(tmp_path / "pairs.yaml", [{"filename": "a.orf"}, {"filename": "b.orf"}]))
    assert index.ground_truths == 1
    assert index.refused[0].file == "Bayer/kitchen/a.orf"
    assert "cannot be read: No such file" in index.refused[0].why


def age(path, seconds=100):
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - seconds * 10**9))


def test_sha1s_are_remembered_until_size_or_time_changes(tmp_path, cache):
    path = tmp_path / "a.pef"
    first = write(path)
    age(path)
    assert sha1s_of([str(path)]) == {str(path): first}
    stamp = path.stat()
    path.write_bytes(random.randbytes(50))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert sha1s_of([str(path)]) == {str(path): first}  # neither size nor time: what the memory cannot see
    second = write(path)
    assert sha1s_of([str(path)]) == {str(path): second}
    third = write(path)  # in the same tick, perhaps: a file this young is not remembered
    assert sha1s_of([str(path)]) == {str(path): third}
    assert cache.is_file()


def test_a_memory_that_is_damaged_or_cannot_be_written_only_costs_time(tmp_path, cache):
    path = tmp_path / "a.pef"
    sha1 = write(path)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"no database" * 100)
    assert sha1s_of([str(path)]) == {str(path): sha1}
    cache.unlink()
    cache.mkdir()
    seen = []
    found = sha1s_of([str(path), str(tmp_path / "none")], progress=lambda *counts: seen.append(counts))
    assert found[str(path)] == sha1
    assert isinstance(found[str(tmp_path / "none")], FileNotFoundError)
    assert seen[-1] == (2, 2)
    assert Path(path).is_file()
