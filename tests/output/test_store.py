"""The store: files appear whole or not at all, on a local disk and on an object store that speaks S3."""

import errno
import hashlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from rawnind import timing
from rawnind.errors import ConfigError, DamagedShardError, ManifestError, OutputError
from rawnind.output.atomic_file import TEMPORARY
from rawnind.output.events import EventLog, NewestEvent, read_events
from rawnind.output.journal.journal import Journal
from rawnind.output.shards import CropPixels, read_crop, shard_name, write_shard
from rawnind.output.store import Store
from rawnind.records import Cfa


@pytest.fixture(params=["local", "s3"])
def each_store(request, store):
    """An empty folder on a local disk, and one on S3."""
    if request.param == "local":
        return store
    return Store(f"s3://bucket/{uuid.uuid4().hex}?{request.getfixturevalue('s3')}")


def everything(store):
    """Names of all files below the root, temporary ones too."""
    selector = fs.FileSelector(store._root, recursive=True, allow_not_found=True)
    return sorted(
        info.path[len(store._root) + 1 :] for info in store._fs.get_file_info(selector) if info.is_file
    )


def test_what_is_written_is_what_is_read(each_store):
    data = np.random.default_rng(0).bytes(100_000)
    assert (
        each_store.write("a/b/c.bin", data)
        == hashlib.sha256(data).hexdigest()
        == each_store.digest("a/b/c.bin")
    )
    assert each_store.read("a/b/c.bin") == data
    with each_store.open("a/b/c.bin") as file:
        assert file.read_at(1000, 50_000) == data[50_000:51_000]
    assert [(entry.path, entry.size) for entry in each_store.list("a")] == [("a/b/c.bin", len(data))]
    assert each_store.exists("a/b/c.bin")
    assert not each_store.exists("a/b")


def test_an_empty_file_is_a_file(each_store):
    assert each_store.write("empty", b"") == hashlib.sha256(b"").hexdigest() == each_store.digest("empty")
    assert each_store.read("empty") == b""


def test_files_are_listed_by_name_at_any_depth_and_a_missing_folder_is_empty(each_store):
    for name in ("x/b", "x/a/z", "x/a/b", "y"):
        each_store.write(name, name.encode())
    assert [entry.path for entry in each_store.list("x")] == ["x/a/b", "x/a/z", "x/b"]
    assert [entry.path for entry in each_store.list()] == ["x/a/b", "x/a/z", "x/b", "y"]
    assert each_store.list("nowhere") == []
    assert all(abs(entry.modified - time.time()) < 60 for entry in each_store.list())


def test_a_folder_goes_with_everything_in_it_and_nothing_else(each_store):
    for name in ("x/a/b", "x/c", "xa/b", "y"):
        each_store.write(name, b"")
    each_store.remove_folder("x")
    each_store.remove_folder("x")
    each_store.remove_folder("nowhere/at/all")
    assert everything(each_store) == ["xa/b", "y"]


def test_a_replaced_folder_is_distinguished_from_the_original(tmp_path):
    store = Store(str(tmp_path / "out"))
    assert store.root_identity() is None
    store.prepare_root()
    before = store.root_identity()
    store.write("a", b"")
    assert store.root_identity() == before is not None
    (tmp_path / "out").rename(tmp_path / "away")
    assert store.root_identity() is None
    store.prepare_root()
    assert store.root_identity() not in {None, before}


def test_proving_that_the_root_can_be_written_leaves_nothing_there(each_store):
    each_store.prepare_root()
    assert everything(each_store) == []


def test_a_file_is_removed_once_or_twice(each_store):
    each_store.write("a/b", b"")
    each_store.remove("a/b")
    each_store.remove("a/b")
    assert everything(each_store) == []


def test_a_name_that_is_taken_is_refused_and_the_file_stays(each_store):
    each_store.write("a", b"first")
    with pytest.raises(FileExistsError):
        each_store.write("a", b"second")
    assert each_store.read("a") == b"first"
    assert everything(each_store) == ["a"]
    each_store.write("a", b"third", replace=True)
    assert each_store.read("a") == b"third"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("replace", [False, True])
def test_after_an_error_in_the_middle_nothing_new_is_there(each_store, error, replace):
    if replace:
        each_store.write("f/a", b"old")

    def fail():
        with each_store.create("f/a", replace=replace) as sink:
            sink.write(b"x" * 100_000)
            raise error

    with pytest.raises(OutputError if error is OSError else error):
        fail()
    assert everything(each_store) == (["f/a"] if replace else [])
    assert not replace or each_store.read("f/a") == b"old"


def test_a_file_is_invisible_while_it_is_written(each_store):
    with each_store.create("f/a") as sink:
        sink.write(b"x" * 100_000)
        assert not each_store.exists("f/a")
        assert all(TEMPORARY in name for name in everything(each_store))
    assert each_store.read("f/a") == b"x" * 100_000
    assert everything(each_store) == ["f/a"]


def test_a_missing_file_is_distinguished_from_storage_that_refuses_access(each_store):
    for call in (each_store.read, each_store.digest):
        with pytest.raises(FileNotFoundError):
            call("nowhere")


def test_a_store_survives_pickling(each_store):
    each_store.write("a", b"here")
    assert pickle.loads(pickle.dumps(each_store)).read("a") == b"here"


def test_a_shard_and_a_damaged_one_on_either_store(each_store):
    rng = np.random.default_rng(0)
    rows = [
        CropPixels(
            crop_id=f"c-{n}",
            noisy_raw=rng.integers(0, 65536, (32, 32), np.uint16),
            gt_raw=rng.integers(0, 65536, (32, 32), np.uint16),
            gt_rgb=rng.random((3, 32, 32)).astype(np.float16),
            valid=rng.random((32, 32)) < 0.5,
        )
        for n in range(3)
    ]
    name = shard_name(Cfa.BAYER, "scene", "a-b")
    shard = write_shard(each_store, name, rows, 32)
    assert shard.sha256 == each_store.digest(name)
    assert shard.size == len(each_store.read(name))
    np.testing.assert_array_equal(read_crop(each_store, name, 2, 32).gt_raw, rows[2].gt_raw)
    each_store.write(name, each_store.read(name)[:-100], replace=True)
    with pytest.raises(DamagedShardError):
        read_crop(each_store, name, 2, 32)
    with pytest.raises(DamagedShardError):
        read_crop(each_store, "shards/none.parquet", 0, 32)


def test_a_damaged_part_on_either_store(each_store):
    each_store.write("parts/0000000000-1-0123456789abcdef.parquet", b"nonsense")
    with pytest.raises(ManifestError, match="damaged"):
        Journal(each_store)


def test_events_are_kept_on_either_store(each_store):
    log = EventLog(each_store, "run1")
    log.add("begin", next_seq=3)
    log.add_all("commit", ({"seq": seq} for seq in range(10_500)))
    log.add("state", to="collecting")
    again = EventLog(each_store, "run1")
    assert again.last("begin")["next_seq"] == 3
    assert again.last("commit", any_run=True)["seq"] == 10_499
    again.add_all("commit", ({"seq": seq} for seq in range(10_500, 10_600)))
    again.add("begin", next_seq=5)
    assert EventLog(each_store, "run1").last("begin")["next_seq"] == 5
    assert EventLog(each_store, "run1").last("commit", any_run=True)["seq"] == 10_599
    assert EventLog(each_store, "run2").last("begin") is None
    events = list(read_events(each_store))
    assert [event["seq"] for event in events if event["event"] == "commit"] == list(range(10_600))
    assert (events[0]["event"], events[-1]["event"]) == ("begin", "begin")


def test_the_newest_state_on_either_store_is_that_of_the_newest_run(each_store, monkeypatch):
    monkeypatch.setattr(timing, "FEED_LISTING", 0.0)
    newest = NewestEvent(each_store, "state")
    assert newest.read() is None
    for run, state in [
        ("20260101T000000-b", "collecting"),
        ("20260101T000000-b", "ready"),
        ("20260102T000000-a", "error"),
    ]:
        EventLog(each_store, run).add("state", to=state)
        EventLog(each_store, run).add("commit", seq=1)
        assert newest.read()["to"] == state


NAMES = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "~", "/", "\\", "\0", " ", "C:", "é", "...", ".tmp-"]),
        max_size=6,
    ).map("/".join),
)


@given(name=NAMES)
def test_whatever_the_name_it_never_leaves_the_root(name):
    store = Store("/somewhere/out")
    try:
        full = store.full(name)
    except ValueError:
        return
    assert full.startswith("/somewhere/out/")
    assert os.path.normpath(full).startswith("/somewhere/out/")


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b", "//x"])
def test_names_that_lead_elsewhere_are_refused_by_every_call(tmp_path, name):
    store = Store(str(tmp_path))
    calls = [store.read, store.digest, store.exists, store.remove, store.local, store.open]
    for call in calls if name == "" else [*calls, store.list]:  # an empty name lists the root
        with pytest.raises(ValueError, match="not a name inside"):
            call(name)
    with pytest.raises(ValueError, match="not a name inside"):
        store.write(name, b"")


def test_a_name_that_no_disk_takes_is_an_output_error(tmp_path):
    store = Store(str(tmp_path))
    for call in (store.read, store.exists, lambda name: store.write(name, b"")):
        with pytest.raises(OutputError, match="File name too long"):
            call("x" * 300)


@pytest.mark.parametrize("location", ["nothing://somewhere", "s3://", "gs2://bucket/x"])
def test_a_location_that_cannot_be_opened_is_reported(location):
    with pytest.raises(ConfigError, match=r"cannot open|names no folder"):
        Store(location)


def test_a_file_instead_of_a_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ConfigError, match="is a file"):
        Store(str(tmp_path / "file")).prepare_root()
    with pytest.raises(OutputError, match="a folder is needed"):
        Store(str(tmp_path)).write("file/below", b"")
    assert (tmp_path / "file").read_text() == "here"


def test_a_folder_of_that_name_is_not_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError):
        Store(str(tmp_path)).write("a", b"")
    with pytest.raises(OutputError):
        Store(str(tmp_path)).write("a", b"", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_disk_that_takes_no_more_is_an_output_error_and_leaves_nothing(tmp_path):
    store, before = Store(str(tmp_path)), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # writing more fails as on a full disk
    try:
        with pytest.raises(OutputError, match="File too large"):
            store.write("a/b", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert everything(store) == []


def test_on_a_disk_without_hard_links_names_are_still_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = Store(str(tmp_path))
    store.write("a", b"first")
    with pytest.raises(FileExistsError):
        store.write("a", b"second")
    assert store.read("a") == b"first"
    assert everything(store) == ["a"]


def test_of_two_writers_of_one_name_the_second_is_refused(tmp_path):
    store = Store(str(tmp_path))

    def write_slowly():
        with store.create("a") as slow:
            slow.write(b"slow")
            store.write("a", b"quick")

    with pytest.raises(FileExistsError):
        write_slowly()
    assert store.read("a") == b"quick"
    assert everything(store) == ["a"]


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path):
    code = (
        "import os, signal, sys; from rawnind.output.store import Store\n"
        "with Store(sys.argv[1]).create('f/a') as sink:\n"
        "    sink.write(b'x' * 1_000_000); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not Store(str(tmp_path)).exists("f/a")
    assert all(TEMPORARY in name for name in everything(Store(str(tmp_path))))


def test_an_object_store_that_is_not_there_is_an_output_error(s3):
    with pytest.raises(OutputError, match="cannot write"):
        Store(f"s3://no-such-bucket/out?{s3}").prepare_root()


def test_a_trailing_slash_makes_no_difference(s3, tmp_path):
    name = uuid.uuid4().hex
    Store(f"s3://bucket/{name}/?{s3}").write("a", b"x")
    assert Store(f"s3://bucket/{name}?{s3}").read("a") == b"x"
    Store(f"{tmp_path}/out/").write("b/a", b"y")
    assert [entry.path for entry in Store(f"file://{tmp_path}/out/").list("b")] == ["b/a"]
