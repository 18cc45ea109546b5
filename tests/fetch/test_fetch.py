"""What is fetched from a server that misbehaves: exact bytes or a reason, and nothing outside of the root."""

import hashlib
import json
import shutil
import time

import pytest

from rawnind.errors import FolderInUseError, OutputError
from rawnind.fetch.run import fetch
from rawnind.fetch.sources import files_of
from rawnind.fetch.target import Target
from rawnind.output.store import Store
from rawnind.source.catalog import load_catalog
from rawnind.source.http_client import TOKEN, HttpClient
from rawnind.source.index import load_index
from rawnind.source.names import FETCH_FOLDER
from rawnind.source.remote import Checksums, RemoteFile
from tests.fetch import dataverse_server as faults
from tests.fetch.dataverse_server import DataverseServer
from tests.fetch.downloads import EVERYTHING, HASTY, below, ignore, whole


def test_a_data_set_arrives_byte_for_byte_and_is_indexed_as_its_source(server, root, run, small_set):
    done = run()
    assert done.is_complete
    assert done.counts.fetched == len(server.files)
    assert whole(server, root) == below(root) == set(server.files.values())

    def keys(index):
        return [
            (scene.key, [ref.sha1 for ref in (*scene.ground_truths, *scene.noisy)]) for scene in index.scenes
        ]

    assert keys(load_index(root)) == keys(load_catalog(server.page).index)
    assert not load_index(root).refused


def test_what_came_before_a_kill_is_not_asked_for_again_where_no_length_is_declared(server, root):
    number, name = next(iter(server.files.items()))
    data = server.data(name)
    file = RemoteFile(path=name, url=f"{server.url}/api/access/datafile/{number}", size=None, checksums=Checksums(sha1=hashlib.sha1(data).hexdigest()))  # fmt: skip
    with Target(root=root).claimed():
        Target(root=root).part(file).write_bytes(data)
    assert fetch([file], root, ignore, client=HttpClient(HASTY)).is_complete
    assert not server.asked
    assert whole(server, root) == {name}


def test_a_download_that_has_just_ended_does_not_disturb_the_end_of_the_others(server):
    client = HttpClient(HASTY)
    with client.open(f"{server.url}/api/access/datafile/{next(iter(server.files))}") as response:
        assert sum(map(len, response.blocks)) == response.total
        client.abort()


def test_what_is_there_is_neither_downloaded_nor_touched(server, root, run):
    run()
    before = {path: path.stat().st_mtime_ns for path in root.glob("*.dng")}
    server.asked.clear()
    assert run().counts.here == len(server.files)
    shutil.rmtree(root / FETCH_FOLDER)  # without the list they are read again, and still not downloaded
    assert run().counts.here == len(server.files)
    assert not server.asked
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("*.dng")}


RECOVERABLE = {
    "500, then 503": [faults.status(500), faults.status(503)],
    "429 with seconds": [faults.status(429, Retry_After="0.05"), faults.status(429, Retry_After="1")],
    "cut in the middle, three times": [faults.cut(10_000), faults.cut(1), faults.cut(50_000)],
    "cut, and no ranges": [faults.cut(10_000), faults.without_ranges],
    "other bytes once": [faults.other_bytes],
    "drip": [faults.drip],
    "no answer": [faults.silent],
    "a length of 5,000 digits": [
        faults.status(200, Content_Length="9" * 5000),
        faults.status(200, Content_Length="-5"),
    ],
    "a cut, and no such range": [faults.cut(10_000), faults.status(416)],
    "a redirect to itself": "redirect",
}


@pytest.mark.parametrize("fault", RECOVERABLE)
def test_what_can_be_recovered_arrives_byte_for_byte(server, root, run, fault):
    number, name = next(iter(server.files.items()))
    fault = RECOVERABLE[fault]
    server.faults[name] = (
        [faults.redirect(f"{server.url}/api/access/datafile/{number}")]
        if fault == "redirect"
        else list(fault)
    )
    assert run().is_complete
    assert not server.faults[name]
    assert whole(server, root) == set(server.files.values())


def test_cut_files_are_resumed_where_they_ended(server, root, run):
    name = next(iter(server.files.values()))
    server.faults[name] = [faults.cut(30_000), faults.cut(20_000)]
    assert run().is_complete
    assert server.starts[name] == [0, 30_000, 50_000]
    assert server.sent[name] == len(server.data(name))


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("not_found", faults.status(404)),
        ("forbidden", faults.status(403)),
        ("wrong_bytes", faults.other_bytes),
        ("wrong_size", faults.shorter),
        ("too_long", faults.endless),
        ("unsafe_redirect", faults.redirect("file:///etc/passwd")),
        ("unsafe_redirect", faults.redirect("http://[::1")),
        ("bad_address", faults.redirect("http://127.0.0.1:99999/a")),
        ("server_error", faults.status(500)),
        ("server_error", faults.status(429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT")),
        ("server_error", faults.status(503, Retry_After="Mon, 01 Jan 0001 00:00:00 -0000")),
    ],
)
def test_what_cannot_be_had_is_named_with_its_reason_and_the_others_arrive(server, root, run, reason, fault):
    name = next(iter(server.files.values()))
    server.faults[name] = fault
    done = run()
    assert [(each.path, each.reason) for each in done.failures] == [(name, reason)]
    assert whole(server, root) == below(root) == set(server.files.values()) - {name}
    again = reason in {"forbidden", "server_error"}
    assert done.may_come == again
    listed = [] if again else [name]
    assert [
        each["path"] for each in json.loads((root / FETCH_FOLDER / "quarantine.json").read_text())["files"]
    ] == listed
    server.asked.clear()
    server.faults[name] = []
    assert run().is_complete == again
    assert bool(server.asked) == again
    assert run(retry_failed=True).is_complete
    assert whole(server, root) == set(server.files.values())


def test_bytes_that_have_the_servers_md5_and_not_the_sha1_of_their_name_get_no_name(small_set, root, run):
    (wrong,) = [path.name for path in small_set.glob("*.dng") if hashlib.sha1(path.read_bytes()).hexdigest() not in path.name]  # fmt: skip
    with DataverseServer(small_set, names=[wrong]) as server:
        (failed,) = run(server.page).failures
    assert (failed.path, failed.reason) == (wrong, "wrong_bytes")
    assert failed.detail.startswith("its SHA-1 is ")
    assert below(root) == set()


def test_no_more_bytes_than_declared_are_taken(server, root, run):
    name = next(iter(server.files.values()))
    server.faults[name] = faults.longer
    (failed,) = run().failures
    assert failed.reason == "wrong_size"
    server.faults[name] = faults.endless
    (failed,) = run(retry_failed=True).failures
    assert failed.reason == "too_long"
    assert sum(path.stat().st_size for path in (root / FETCH_FOLDER).rglob("*")) < 1 << 20


@pytest.mark.parametrize("path", ["../evil.dng", "/evil.dng", "a/../../evil.dng", "nul\0.dng", "a\\b.dng", ".rawnind-fetch/x.dng", "x" * 300 + ".dng"])  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(root, tmp_path, path):
    file = RemoteFile(path=path, url="http://127.0.0.1:9/x", size=1, checksums=Checksums(md5="0" * 32))
    before = set(tmp_path.parent.rglob("*"))
    done = fetch([file], root, ignore, client=HttpClient(HASTY))
    assert [each.reason for each in done.failures] == ["unsafe_name"]
    assert {
        path for path in set(tmp_path.parent.rglob("*")) - before if not path.is_relative_to(root)
    } == set()


def test_links_in_the_way_are_not_followed(server, root, run, tmp_path):
    name = next(iter(server.files.values()))
    root.mkdir()
    (tmp_path / "elsewhere").write_text("mine")
    (root / name).symlink_to(tmp_path / "elsewhere")
    (failed,) = run().failures
    assert failed.reason == "link"
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_our_folder_must_be_no_link(root, run, tmp_path):
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / FETCH_FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link"):
        run()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_damaged_file_is_moved_aside_and_fetched(server, root, run):
    run()
    name = next(iter(server.files.values()))
    (root / name).write_bytes(b"damaged")
    assert run().is_complete
    assert whole(server, root) == set(server.files.values())
    (aside,) = (root / FETCH_FOLDER / "replaced").iterdir()
    assert aside.read_bytes() == b"damaged"


def test_a_bucket_is_fetched_into_as_a_folder_is(server, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = f"s3://bucket/{tmp_path.name}?{s3}"

    def run():
        client = HttpClient(HASTY)
        return fetch(files_of(server.page, EVERYTHING, client).files, root, ignore, client=client)

    gone, *_, name = server.files.values()
    server.faults[gone] = faults.status(404)
    server.faults[name] = [faults.cut(10_000), faults.status(503)]
    assert [(each.path, each.reason) for each in run().failures] == [(gone, "not_found")]
    assert sum(server.sent.values()) == sum(len(server.data(each)) for each in server.files.values() if each != gone)  # fmt: skip
    store = Store(root)
    assert {entry.path: store.read(entry.path) for entry in store.list()} == {each: server.data(each) for each in server.files.values() if each != gone}  # fmt: skip
    store.write(name, b"damaged", replace=True)
    server.asked.clear()
    assert run().counts.fetched == 1
    assert dict(server.asked) == {name: 1}
    assert store.read(name) == server.data(name)
    assert not list((tmp_path / "cache").rglob("parts/*"))
    assert {ref.sha1 for scene in load_index(root).scenes for ref in (*scene.ground_truths, *scene.noisy)} == {each.partition("sha1=")[2][:40] for each in server.files.values() if each != gone}  # fmt: skip


def test_a_second_fetch_into_the_same_folder_is_refused(root, run):
    with Target(root=root).claimed(), pytest.raises(FolderInUseError):
        run()


def test_the_token_is_sent_to_the_data_set_server_alone_and_never_shown(
    server, root, run, small_set, monkeypatch
):
    monkeypatch.setenv(TOKEN, "s3cr3t-token")
    with DataverseServer(small_set) as other:
        name = next(iter(server.files.values()))
        number = next(number for number, each in other.files.items() if each == name)
        server.faults[name] = [faults.redirect(f"{other.url}/api/access/datafile/{number}?signature=s3cr3t")]
        gone = list(server.files.values())[1]
        server.faults[gone] = faults.redirect(f"{other.url}/gone?signature=s3cr3t")
        done = run()
        assert all(headers["X-Dataverse-key"] == "s3cr3t-token" for headers in server.headers)
        assert other.headers
        assert not [headers for headers in other.headers if "X-Dataverse-key" in headers]
    assert "s3cr3t" not in str(done.failures)
    assert not [
        path for path in (root / FETCH_FOLDER).rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()
    ]


def test_a_fetch_that_is_interrupted_goes_on_where_it_was(server, root, run):
    """Stopped by an exception in the main thread, as Ctrl-C is; bytes that were on the way are lost, at most a buffer of each."""
    server.pace = 0.002
    interrupted = 0

    def interrupt(counts):
        raise KeyboardInterrupt

    for _ in range(4):
        client = HttpClient(HASTY)
        files = files_of(server.page, EVERYTHING, client).files
        try:
            fetch(files, root, interrupt, client=client, jobs=2)
        except KeyboardInterrupt:
            interrupted += 1
    server.pace = 0
    assert run().is_complete
    assert interrupted
    assert whole(server, root) == set(server.files.values())
    for name, starts in server.starts.items():
        assert starts == sorted(set(starts)), f"{name} began twice at the same place: {starts}"


def test_2845_files_that_are_there_are_looked_at_in_under_five_seconds(tmp_path, root):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2845):
        data = b"photo %d" % number
        name = f"Bayer_s{number // 9}_ISO{number % 9 + 1}00_sha1={hashlib.sha1(data).hexdigest()}.dng"
        (folder / name).write_bytes(data)
    shutil.copytree(folder, root)
    seconds = []
    with DataverseServer(folder) as server:
        for _ in range(2):
            began = time.perf_counter()
            client = HttpClient(HASTY)
            done = fetch(files_of(server.page, EVERYTHING, client).files, root, ignore, client=client)
            seconds.append(time.perf_counter() - began)
            assert done.counts.here == 2845
        assert not server.asked
    assert seconds[1] < 5, seconds
