"""Files that are not the run's own are neither overwritten nor deleted, and credentials are not printed."""

import os

import pytest

import rawnind
from rawnind.bridge.leases import LeaseEntry, LeaseLog
from rawnind.errors import ConfigError, FolderInUseError, LinkError, ManifestError, OutputError, redacted
from rawnind.exit_codes import ExitCode, exit_code
from rawnind.output.attempts import Ledger
from rawnind.output.cleanup import remove_leftovers
from rawnind.output.events import EventLog
from rawnind.output.journal.journal import Journal
from rawnind.output.lock import exclusive_run
from rawnind.output.store import Store

SHARD = "0123456789ab-ba9876543210.parquet"
TEXT = b"another program's file\n"


def _lock(store):
    with exclusive_run(store, "run"):
        pass


def _log(store):
    EventLog(store, "run").add("begin")


def _lease(store):
    LeaseLog(store, "feed").append([LeaseEntry(consumer="one", done=0)])


IN_PLACE = [("run.lock", _lock), ("events.jsonl", _log), ("leases/feed.jsonl", _lease)]


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "out"))
    store.prepare_root()
    return store


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(TEXT)
    return path


@pytest.mark.parametrize(("name", "write"), IN_PLACE)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_a_file_is_not_written_through(store, victim, name, write, link):
    path = store.local(name)
    path.parent.mkdir(exist_ok=True)
    link(victim, path)
    with pytest.raises(OutputError, match="remove it"):
        write(store)
    assert victim.read_bytes() == TEXT
    path.unlink()
    write(store)


@pytest.mark.parametrize(("name", "write"), IN_PLACE)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(store, name, write):
    store.local(name).parent.mkdir(exist_ok=True)
    os.mkfifo(store.local(name))
    with pytest.raises(OutputError):
        write(store)


def test_a_second_run_is_still_refused(store):
    with exclusive_run(store, "one"), pytest.raises(FolderInUseError, match="run one "):
        _lock(store)
    assert not store.exists("run.lock")


@pytest.mark.parametrize("folder", ["shards", "shards/bayer", "shards/bayer/cat"])
def test_nothing_is_written_or_deleted_behind_a_linked_folder(store, tmp_path, folder):
    path = f"shards/bayer/cat/{SHARD}"
    other = tmp_path / "big disk"
    shard = other / os.path.relpath(path, folder)
    shard.parent.mkdir(parents=True)
    shard.write_bytes(TEXT)
    store.local(folder).parent.mkdir(parents=True, exist_ok=True)
    store.local(folder).symlink_to(other)
    Ledger(store, "run", "bayer/cat").begin()
    for change in (
        lambda: store.write(path, b"new", replace=True),
        lambda: store.remove(path),
        lambda: store.remove_folder(folder),
        lambda: store.list(folder),
    ):
        with pytest.raises(OutputError, match="symbolic link"):
            change()
    if folder == "shards/bayer/cat":
        remove_leftovers(store, Journal(store))
    else:
        with pytest.raises(OutputError, match="symbolic link"):
            remove_leftovers(store, Journal(store))
    assert shard.read_bytes() == TEXT


def test_only_shards_of_attempted_scenes_and_own_temporary_files_are_leftovers(store):
    ours = [f"shards/bayer/cat/{SHARD}", f"shards/bayer/cat/.tmp-{'0' * 32}", f".tmp-{'a' * 32}"]
    foreign = [
        f"shards/bayer/dog/{SHARD}",
        "shards/bayer/cat/notes.txt",
        ".tmp-mine",
        "parts/.tmp-mine",
        "photo.dng",
    ]
    for name in (*ours, *foreign):
        store.write(name, TEXT)
    Ledger(store, "run", "bayer/cat").begin()
    remove_leftovers(store, Journal(store))
    assert sorted(entry.path for entry in store.list()) == sorted(foreign)


def test_a_root_that_was_moved_is_not_created_again(store, tmp_path):
    (tmp_path / "out").rename(tmp_path / "away")
    with pytest.raises(OutputError, match="bring it back"):
        store.write("shards/bayer/cat/a", b"")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()  # another folder of the same name
    with pytest.raises(OutputError, match="bring it back"):
        store.write("shards/bayer/cat/a", b"")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("folder", ["", "Bayer", "Bayer/cat", "Bayer/cat/gt", "Bayer/cat/out", "Bayer/out"])
def test_an_output_among_the_sources_scenes_is_refused(tmp_path, folder):
    source = _nested(tmp_path / "pairs")
    before = sorted(source.rglob("*"))
    with pytest.raises(ConfigError, match="outside the source"):
        rawnind.prepare(source, source / folder)
    assert sorted(source.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'crop_size: 64\nflavour: "\\e[2J"',
            r"is not a recipe of this version: unknown recipe key; .*, got 'flavour'",
        ),
        ("crop_size: 0x_", "is not valid YAML: line 1, column 12: 0x_ is not a number"),
        ("crop_size: 65", "is not a recipe of this version: crop_size must be a positive multiple of 32"),
        ("- 1", "is not a recipe"),
    ],
)
def test_a_recipe_yaml_that_cannot_be_read_is_named(tmp_path, text, why):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text(text)
    with pytest.raises(ManifestError, match=rf"^{tmp_path}/out/recipe\.yaml {why}"):
        rawnind.prepare(_nested(tmp_path / "pairs"), tmp_path / "out")


def test_an_output_that_contains_the_source_is_refused(tmp_path):
    source = _nested(tmp_path / "out" / "pairs")
    with pytest.raises(ConfigError, match="outside the source"):
        rawnind.prepare(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pairs"]


@pytest.mark.parametrize("name", ["parts", "shards", "attempts"])
def test_a_run_does_not_start_on_linked_folders(tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "other")
    with pytest.raises(LinkError, match="symbolic link") as refused:
        rawnind.prepare(_nested(tmp_path / "pairs"), tmp_path / "out")
    assert exit_code(refused.value) is ExitCode.USAGE


def _nested(source):
    for number, name in enumerate(("gt/Bayer_cat_GT_ISO100", "Bayer_cat_ISO6400")):
        path = source / "Bayer" / "cat" / f"{name}_sha1={number:040x}.dng"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return source


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/out",
        "s3://KEY:SEC/RET@bucket/out",
        "s3://bucket/out?secret_key=SECRET",
        "SECRET://KEY:SECRET@b/o",
    ],
)
def test_credentials_of_a_uri_are_in_no_message(uri):
    assert "SECRET" not in redacted(uri).removeprefix("SECRET:")
    assert "KEY:" not in redacted(uri)


def test_an_error_of_the_storage_does_not_print_credentials():
    with pytest.raises(ConfigError) as error:
        Store("foo://KEY:SECRET@bucket/out")
    assert "SECRET" not in str(error.value)
    assert Store("s3://KEY:SECRET@bucket/out?region=eu").location == "s3://***@bucket/out?region=eu"
