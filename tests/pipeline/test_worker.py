"""What a worker does about scenes that end workers."""

from dataclasses import replace

import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayActorError

from rawnind import timing
from rawnind.chunks import Chunk
from rawnind.errors import OutputError, WorkersDyingError
from rawnind.options import Options
from rawnind.output.attempts import Ledger
from rawnind.output.events import read_events
from rawnind.output.journal.journal import Journal
from rawnind.output.lock import RunLock
from rawnind.output.store import Store
from rawnind.pipeline.graph import assignment, start_bridge
from rawnind.pipeline.job import Job
from rawnind.pipeline.worker import SceneWorker, scene_row, trouble_of
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.source.index import load_index
from tests.polling import poll

RECIPE = Recipe(crop_size=64, stride=96)


@pytest.fixture
def worker(request, cluster, small_set, tmp_path):
    """A worker in this process, the cat scene, and the ledger of its attempts; the parameter is --max-scenes."""
    plan = make_plan(load_index(small_set).scenes, SceneFilter(), RECIPE)
    job = Job(
        output=str(tmp_path / "out"),
        run="run",
        root=str(small_set),
        plan=plan,
        options=Options(recipe=RECIPE, scene_timeout=60),
    )
    Store(job.output).prepare_root()
    bridge = start_bridge(job, max_scenes=getattr(request, "param", 32))
    ray.get(bridge.begin.remote())
    (cat,) = (scene for scene in plan.scenes if scene.name == "cat")
    worker = SceneWorker(assignment(job, bridge, 4e9))
    yield worker, cat, Ledger(Store(job.output), job.run, cat.key)
    ray.kill(bridge)


def answer(work, scene, number=0, count=1):
    """The row that a worker returns for a block of one scene, or of one chunk of it."""
    row = scene_row(Chunk(scene=scene, number=number, count=count))
    return {name: value for name, (value,) in work(pa.Table.from_pylist([row])).items()}


def newest_event(work):
    return list(read_events(work._store))[-1]


def is_dead(bridge):
    try:
        ray.get(bridge.snapshot.remote())
    except RayActorError:
        return True
    return False


def committed(work):
    """The one result that the bridge has."""
    ((_, result),) = ray.get(work._link._bridge.since.remote(0))
    return result


def test_a_worker_that_starts_in_a_folder_that_took_the_place_of_the_runs_writes_nothing(worker):
    work, cat, ledger = worker
    other = SceneWorker(replace(work._assignment, lock=RunLock(run="run", file="run.lock")))
    trouble = trouble_of(answer(other, cat))
    assert isinstance(trouble, OutputError)
    assert "run.lock of this run is not in it" in str(trouble)
    assert ledger.begin() == 0


def test_a_scene_that_kills_workers_though_none_of_its_files_does_stops_the_run(worker):
    work, cat, ledger = worker
    for _ in range(8):
        ledger.begin()
    row = answer(work, cat)
    assert row["scenes"] == 0
    trouble = trouble_of(row)
    assert isinstance(trouble, WorkersDyingError)
    assert "bayer/cat has ended its worker 8 times" in str(trouble)


@pytest.mark.parametrize("deaths", [0, 2, 4])
def test_a_scene_has_the_same_result_when_child_processes_decode_its_files_or_process_it(
    worker, prepared, deaths
):
    work, cat, ledger = worker
    for _ in range(deaths):
        ledger.begin()
    assert answer(work, cat) == {"scenes": 1, "trouble": ""}
    result = committed(work)
    assert result.outcome is Outcome.COLLECTED
    assert newest_event(work)["telemetry"]["attempts"] == deaths + 1
    for pair in result.pairs:
        assert Store(str(prepared)).digest(pair.shard.path) == pair.shard.sha256


@pytest.mark.parametrize("worker", [1], indirect=True)
def test_a_scene_is_committed_with_its_last_chunk_and_each_chunk_counts_its_own_attempts(worker, prepared):
    work, cat, _ = worker
    Ledger(work._store, "run", cat.key, 1).begin()
    assert answer(work, cat, 0, 2) == {"scenes": 0, "trouble": ""}
    assert [row.done for row in ray.get(work._link._bridge.snapshot.remote()).stages] == [2, 1, 1, 1]
    assert answer(work, cat, 1, 2) == {"scenes": 1, "trouble": ""}
    whole = Journal(Store(str(prepared))).read(cat.key)
    assert [pair.shard for pair in committed(work).pairs] == [pair.shard for pair in whole.pairs]
    assert newest_event(work)["telemetry"]["attempts"] == 2
    assert newest_event(work)["telemetry"]["decode_done"] == 3
    assert ray.get(work._link._bridge.snapshot.remote()).peak_in_flight == 1


def test_the_photo_being_read_when_a_scene_times_out_is_left_out(worker):
    work, cat, ledger = worker
    ledger.begin()
    ledger.mark_timeout("decode", cat.noisy[0].sha1)
    answer(work, cat)
    result = committed(work)
    assert [(file.photo, file.reason) for file in result.failed_files] == [(cat.noisy[0], Reason.TIMEOUT)]
    assert sorted(str(pair.outcome) for pair in result.pairs) == ["collected", "failed"]


def test_a_scene_that_times_out_twice_fails(worker):
    work, cat, ledger = worker
    for stage in ("decode", "align"):
        ledger.begin()
        ledger.mark_timeout(stage, cat.noisy[0].sha1)
    answer(work, cat)
    result = committed(work)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TIMEOUT)
    assert "in stage align" in result.detail


def test_a_worker_whose_bridge_was_ended_for_good_begins_no_scene_and_ends_quietly(worker):
    work, cat, ledger = worker
    ray.kill(work._link._bridge)
    poll(lambda: is_dead(work._link._bridge))
    assert answer(work, cat) == {"scenes": 0, "trouble": ""}
    assert ledger.begin() == 0


@pytest.mark.parametrize(("worker", "parts"), [(32, 1), (5, 1), (2, 3), (1, 5)], indirect=["worker"])
def test_small_scenes_are_committed_together_as_far_as_max_scenes_allows_and_leave_no_mark(
    worker, small_set, parts, monkeypatch
):
    monkeypatch.setattr(timing, "COMMIT_GROUP", 60.0)
    work, _, _ = worker
    scenes = load_index(small_set).scenes
    for path in small_set.glob("*.dng"):
        path.unlink()
    (small_set / "readme.txt").touch()  # an empty source counts as one that is not mounted
    work(pa.Table.from_pylist([scene_row(Chunk(scene=scene)) for scene in scenes]))
    results = [result for _, result in ray.get(work._link._bridge.since.remote(0))]
    assert {result.outcome for result in results} == {Outcome.FAILED}
    assert len(results) == len(scenes)
    assert len(work._store.list("parts")) == parts
    assert ray.get(work._link._bridge.snapshot.remote()).peak_in_flight == -(-len(scenes) // parts)
    assert work._store.list("attempts") == []
