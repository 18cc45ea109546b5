"""Scenes of a published data set whose photos are fetched while others are processed."""

import contextlib
import hashlib
import json
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

import rawnind
from rawnind import timing
from rawnind.bridge.in_flight import DiskBudget, InFlightScenes
from rawnind.chunks import Chunk
from rawnind.download_estimate import estimate_download
from rawnind.errors import ConfigError, IndexInvalidError, OutputError, SourceLostError
from rawnind.fetch import on_demand as module
from rawnind.fetch.on_demand import fetch_scene, on_demand, remove_fetched, remove_scene
from rawnind.options import Options
from rawnind.output.events import read_events
from rawnind.output.store import Store
from rawnind.pipeline.graph import assignment, start_bridge
from rawnind.pipeline.job import Job
from rawnind.pipeline.worker import SceneWorker, scene_row
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.source.catalog import is_published, load_catalog
from rawnind.source.decode import decode
from rawnind.source.http_client import HttpClient, Patience
from rawnind.source.index import index_to_yaml, load_index
from rawnind.source.parquet_index import write_parquet_index
from tests.fetch import dataverse_server as faults
from tests.fetch.dataverse_server import DOI, DataverseServer
from tests.polling import poll
from tests.small_set import CROPS, digests

HASTY = Patience(attempts=2, delay=0.02, longest=0.1, connect=5, read=0.3)


@pytest.fixture
def server(small_set):
    with DataverseServer(small_set, names=sorted(path.name for path in small_set.glob("*.dng"))) as server:
        yield server


@pytest.fixture
def published(server, tmp_path):
    return on_demand(load_catalog(server.page), str(tmp_path / "out"), HttpClient(HASTY), keep=False)


def go_on(waiting):
    """Does not stop."""


def photos(scene):
    return (*scene.ground_truths, *scene.noisy)


def scene_of(index, name):
    return next(scene for scene in index.scenes if scene.name == name)


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_scene_arrives_as_its_folder_has_it_and_is_removed_without_a_trace(published, small_set, tmp_path):
    here = load_index(small_set)
    for scene in published.index.scenes:
        lost, _ = fetch_scene(scene, published.files[scene.key], go_on, HttpClient(HASTY))
        assert not lost
    kept = load_index(tmp_path / "out/raw")

    def seen(index):
        return [(scene.key, scene.test_reserve, scene.unknown_sensor, [ref.sha1 for ref in photos(scene)]) for scene in index.scenes]  # fmt: skip

    assert seen(kept) == seen(published.index) == seen(here)
    far, near = (scene_of(index, "cat").ground_truths[0] for index in (published.index, here))
    np.testing.assert_array_equal(decode(far)[0], decode(near)[0])
    other = Path(far.path).parent / "notes.txt"
    other.write_text("mine")
    for scene in published.index.scenes:
        remove_scene(scene, published.files[scene.key])
    assert files_below(tmp_path / "out") == ["raw/Bayer/cat/gt/notes.txt"]


def test_a_list_of_urls_and_an_index_whose_root_is_the_data_set_are_fetched_as_the_data_set_is(
    server, published, small_set, tmp_path, monkeypatch
):
    client = HttpClient(HASTY)
    urls = tmp_path / "SHA1SUMS"
    base = f"{server.url}/api/access/datafile"
    sums = {name: hashlib.sha1(server.data(name)).hexdigest() for name in server.files.values()}
    urls.write_text("".join(f"{sha1}  {base}/{name}\n" for name, sha1 in sums.items() if sha1 in name))
    pairs = tmp_path / "pairs.yaml"
    pairs.write_text(index_to_yaml(replace(load_index(small_set), root=server.page)))
    table = tmp_path / "pairs.parquet"
    with table.open("wb") as file:
        write_parquet_index(file, load_catalog(str(pairs), client).index, tmp_path)
    doi = tmp_path / "doi.yaml"
    doi.write_text(pairs.read_text().replace(server.page, DOI))
    monkeypatch.setenv("DATAVERSE_SERVER", server.url)
    for source in (pairs, table, doi):
        assert is_published(str(source))
        found = on_demand(load_catalog(str(source), client), str(tmp_path / "out"), client, keep=False)
        assert found.index.scenes == published.index.scenes
        assert found.files == published.files
        with pytest.raises(IndexInvalidError, match="are not on this machine yet; run `rawnind fetch"):
            load_index(source)
    listed = on_demand(load_catalog(str(urls), client), str(tmp_path / "out"), client, keep=False)
    assert [scene.key for scene in listed.index.scenes] == [scene.key for scene in published.index.scenes]
    scene = scene_of(listed.index, "cat")
    lost, counts = fetch_scene(scene, listed.files[scene.key], go_on, client)
    assert (lost, counts.fetched) == ({}, len(photos(scene)))
    near = scene_of(load_index(small_set), "cat").ground_truths[0]
    np.testing.assert_array_equal(decode(scene.ground_truths[0])[0], decode(near)[0])
    assert "11 files without a length" in "\n".join(estimate_download(str(urls), Options(), client).lines())


LOST = {
    "status 404": (faults.status(404), Reason.MISSING_FILE),
    "status 403": (faults.status(403), Reason.UNREADABLE),
    "status 503": (faults.status(503), Reason.UNREADABLE),
    "in time": (faults.silent, Reason.UNREADABLE),
    "MD5": (faults.other_bytes, Reason.SHA1_MISMATCH),
    "declared": (faults.shorter, Reason.SHA1_MISMATCH),
}


def test_what_cannot_be_fetched_is_a_reason_and_is_asked_for_again_the_next_time(server, published):
    scene = scene_of(published.index, "cat")
    files = published.files[scene.key]
    name = scene.noisy[0].filename
    for words, (fault, reason) in LOST.items():
        server.faults[name] = fault
        lost, _ = fetch_scene(scene, files, go_on, HttpClient(HASTY))
        assert [(each, error.reason) for each, error in lost.items()] == [(name, reason)]
        assert words in lost[name].detail
        assert name in lost[name].detail
    server.faults[name] = [faults.status(503)]
    lost, counts = fetch_scene(scene, files, go_on, HttpClient(HASTY))
    assert not lost
    assert (counts.fetched, counts.here) == (1, len(files) - 1)
    assert all(server.asked[file.filename] == 1 for file in files if file.filename != name)


def test_a_server_that_is_gone_stops_the_run_and_blames_no_photo(server, published):
    scene = published.index.scenes[0]
    server.__exit__()
    with pytest.raises(SourceLostError, match="run again to resume"):
        fetch_scene(scene, published.files[scene.key], go_on, HttpClient(HASTY))


def test_a_raw_folder_in_the_temporary_folder_that_someone_else_made_is_not_used(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    published = on_demand(load_catalog(server.page), "s3://bucket/out", HttpClient(HASTY), keep=False)
    scene, raw, theirs = published.index.scenes[0], Path(published.index.root), tmp_path / "theirs"
    theirs.mkdir()
    raw.symlink_to(theirs)
    with pytest.raises(OutputError, match="it is a link or another user's; remove it, or set TMPDIR"):
        fetch_scene(scene, published.files[scene.key], go_on, HttpClient(HASTY))
    assert not list(theirs.iterdir())
    raw.unlink()
    lost, _ = fetch_scene(scene, published.files[scene.key], go_on, HttpClient(HASTY))
    assert (lost, raw.stat().st_mode & 0o777) == ({}, 0o700)


def test_a_scene_waits_until_another_worker_has_ended_its_fetch(server, published, monkeypatch):
    scene = scene_of(published.index, "cat")
    monkeypatch.setattr(timing, "HEARTBEAT_MIN", 0.01)
    other = module.Target(root=module._root_of(scene)).claimed()
    other.__enter__()
    waited = []

    def going_on(waiting):
        waited.append(1)
        if len(waited) == 3:
            other.__exit__(None, None, None)

    lost, _ = fetch_scene(scene, published.files[scene.key], going_on, HttpClient(HASTY))
    assert not lost
    assert len(waited) >= 3


def test_a_photo_of_two_scenes_is_fetched_once_by_the_workers_of_a_machine(small_set, tmp_path):
    """Two workers at once, each for its scene, of a data set whose index names one ground truth in both."""
    (tmp_path / "card").mkdir()
    names = [f"DSC0000{number}.DNG" for number in range(3)]
    for name, path in zip(names, sorted(small_set.glob("*_coins_*")), strict=False):
        shutil.copy(path, tmp_path / "card" / name)
    truth, first, second = ({"filename": name, "sha1": hashlib.sha1((tmp_path / "card" / name).read_bytes()).hexdigest(), "iso": 100} for name in names)  # fmt: skip
    flags = {"test_reserve": False, "unknown_sensor": False}
    output = str(tmp_path / "out")
    with DataverseServer(tmp_path / "card") as server:
        scenes = {"a": {"clean_images": [truth], "noisy_images": [first], **flags}, "b": {"clean_images": [truth], "noisy_images": [second], **flags}}  # fmt: skip
        (tmp_path / "pairs.yaml").write_text(f"root: {server.page}\nBayer: {json.dumps(scenes)}")
        published = on_demand(
            load_catalog(str(tmp_path / "pairs.yaml")), output, HttpClient(HASTY), keep=False
        )
        server.pace = 0.05
        with ThreadPoolExecutor() as pool:
            fetching = [pool.submit(fetch_scene, scene, published.files[scene.key], go_on, HttpClient(HASTY), published.shared) for scene in published.index.scenes]  # fmt: skip
        assert [done.result()[0] for done in fetching] == [{}, {}]
        assert server.asked == dict.fromkeys(names, 1)
        assert sum(done.result()[1].transferred for done in fetching) == sum(
            map(len, map(server.data, names))
        )
    for scene in published.index.scenes:
        for ref in photos(scene):
            assert Path(ref.path).read_bytes() == server.data(ref.filename)
        remove_scene(scene, published.files[scene.key])
    assert len(list((tmp_path / "out").rglob("*.DNG"))) == 1
    remove_fetched(published, published.index.scenes, output)
    assert not (tmp_path / "out/raw").exists()


def test_a_disk_budget_admits_scenes_whose_photos_fit_together():
    scenes = InFlightScenes(9, after_restart=False, budget=DiskBudget(limit=10, sizes={"a": 6, "b": 5, "c": 4}))  # fmt: skip
    assert [scenes.admit(key, None, 0.0) for key in "abca"] == [True, False, True, True]
    scenes.remove("a")
    assert scenes.admit("b", None, 0.0)


def test_options_of_fetched_sources_are_refused_where_they_mean_nothing(server, small_set, tmp_path):
    with pytest.raises(ConfigError, match="are for a SOURCE that is fetched"):
        rawnind.prepare(small_set, tmp_path / "out", keep_raw=True)
    with pytest.raises(ConfigError, match=r"take 0.000.* GB, more than --disk-budget 1e-06"):
        rawnind.prepare(server.page, tmp_path / "out", disk_budget=1e-6, **CROPS)
    with pytest.raises(ConfigError, match="keeps photos in a local output folder"):
        rawnind.prepare(server.page, "s3://bucket/out", keep_raw=True)
    (tmp_path / "out/raw").mkdir(parents=True)
    (tmp_path / "out/raw/mine.dng").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds raw but no recipe"):
        rawnind.prepare(server.page, tmp_path / "out", **CROPS)


def test_a_run_that_is_stopped_ends_its_downloads_and_keeps_what_came(
    cluster, server, published, tmp_path, monkeypatch
):
    plan = make_plan(published.index.scenes, SceneFilter(), Recipe(**CROPS))
    job = Job(output=str(tmp_path / "out"), run="run", root="", plan=plan, options=Options(), fetched=published)  # fmt: skip
    Store(job.output).prepare_root()
    bridge = start_bridge(job, max_scenes=9)
    ray.get(bridge.begin.remote())
    work = SceneWorker(assignment(job, bridge, 4e9))
    monkeypatch.setattr(timing, "HEARTBEAT_MIN", 0.01)
    server.pace = 0.2
    scene = scene_of(published.index, "cat")
    threading.Thread(target=lambda: poll(lambda: server.asked) and ray.get(bridge.stop.remote())).start()
    row = work(pa.Table.from_pylist([scene_row(Chunk(scene=scene), published.files[scene.key])]))
    assert row == {"scenes": [0], "trouble": [""]}
    assert not ray.get(bridge.snapshot.remote()).in_flight
    assert [path for path in (tmp_path / "out/raw").rglob("parts/*") if path.stat().st_size]
    ray.kill(bridge)


def test_a_run_fetches_the_next_scene_while_it_processes_one_and_gives_the_same_bytes(
    cluster, server, undisturbed, tmp_path
):
    output = tmp_path / "out"
    server.pace = 0.05
    catalog = load_catalog(server.page)
    sizes = on_demand(catalog, str(output), HttpClient(), keep=False).sizes()
    budget = sum(sorted(sizes.values())[-2:])
    most, done = [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            with contextlib.suppress(FileNotFoundError):  # one has just been removed
                most.append(sum(path.stat().st_size for path in (output / "raw").rglob("*.dng")))

    watching = threading.Thread(target=watch)
    watching.start()
    try:  # one worker: two scenes in flight are one that is processed and one that is fetched
        summary = rawnind.prepare(server.page, output, cpus_per_scene=2, max_scenes=2, disk_budget=budget / 1e9, **CROPS)  # fmt: skip
    finally:
        done.set()
        watching.join()
    assert digests(output) == undisturbed
    assert not (output / "raw").exists()
    assert 0 < max(most) <= budget
    assert all(server.asked[name] == 1 for name in server.files.values())
    events = list(read_events(Store(str(output))))
    assert next(each for each in events if each.get("to") == "ready")["peak_in_flight"] == 2
    commits = [each for each in events if each["event"] == "commit"]
    assert sum(each["telemetry"]["fetched_bytes"] for each in commits) == sum(sizes.values())
    assert rawnind.prepare(server.page, output, **CROPS) == summary
    assert all(server.asked[name] == 1 for name in server.files.values())


def test_kept_photos_are_a_source_of_their_own_and_nothing_is_fetched_again(
    cluster, server, undisturbed, small_set, tmp_path
):
    output = tmp_path / "out"
    rawnind.prepare(server.page, output, keep_raw=True, limit=1, **CROPS)
    first = {path: path.stat().st_mtime_ns for path in (output / "raw").rglob("*.dng")}
    assert {path.name for path in first} == set(server.asked)
    summary = rawnind.prepare(server.page, output, keep_raw=True, **CROPS)
    kept = {path: path.stat().st_mtime_ns for path in (output / "raw").rglob("*.dng")}
    assert {path.name for path in kept} == set(server.files.values())
    assert all(path.read_bytes() == server.data(path.name) for path in kept)
    assert kept.items() >= first.items()
    assert server.asked == dict.fromkeys(server.files.values(), 1)
    assert (
        rawnind.prepare(server.page, output, **CROPS) == summary
    )  # and without --keep-raw nothing is removed
    rawnind.prepare(output / "raw", tmp_path / "again", **CROPS)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert server.asked == dict.fromkeys(server.files.values(), 1)
    assert digests(output) == digests(tmp_path / "again") == undisturbed
