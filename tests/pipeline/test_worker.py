"""What a worker does about scenes that end workers."""

import json

import pytest
import ray

from rawnind.errors import OutputError, WorkersDyingError
from rawnind.options import Options
from rawnind.output.attempts import Ledger
from rawnind.output.journal.journal import decode_result
from rawnind.output.lock import RunLock
from rawnind.output.store import Store
from rawnind.pipeline.graph import Job, start_bridge
from rawnind.pipeline.worker import SceneWorker, scene_row, trouble_of
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.source.index import load_index

RECIPE = Recipe(crop_size=64, stride=96)


@pytest.fixture
def worker(cluster, small_set, tmp_path):
    """A worker in this process, the cat scene, and the ledger of its attempts."""
    plan = make_plan(load_index(small_set).scenes, SceneFilter(), RECIPE)
    job = Job(
        output=str(tmp_path / "out"),
        run="run",
        root=str(small_set),
        plan=plan,
        options=Options(recipe=RECIPE),
    )
    Store(job.output).prepare_root()
    bridge = start_bridge(job, max_scenes=1)
    ray.get(bridge.begin.remote())
    (cat,) = (scene for scene in plan.scenes if scene.name == "cat")
    worker = SceneWorker(
        output=job.output,
        run=job.run,
        root=job.root,
        recipe=RECIPE,
        bridge=bridge,
        scene_timeout=60,
        memory=4e9,
    )
    yield worker, cat, Ledger(Store(job.output), job.run, cat.key)
    ray.kill(bridge)


def test_a_worker_that_starts_in_a_folder_that_took_the_place_of_the_runs_writes_nothing(worker):
    work, cat, ledger = worker
    other = SceneWorker(
        output=work._store.uri,
        lock=RunLock(run="run", file="run.lock"),
        run="run",
        root=str(work._root),
        recipe=RECIPE,
        bridge=work._bridge,
        scene_timeout=60,
        memory=4e9,
    )
    trouble = trouble_of(other(scene_row(cat)))
    assert isinstance(trouble, OutputError)
    assert "run.lock of this run is not in it" in str(trouble)
    assert ledger.begin() == 0


def test_a_scene_that_kills_workers_though_none_of_its_files_does_stops_the_run(worker):
    work, cat, ledger = worker
    for _ in range(8):
        ledger.begin()
    row = work(scene_row(cat))
    assert row["result"] == b""
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
    row = work(scene_row(cat))
    result = decode_result(row["result"])
    assert result.outcome is Outcome.COLLECTED
    assert json.loads(row["telemetry"])["attempts"] == deaths + 1
    for pair in result.pairs:
        assert Store(str(prepared)).digest(pair.shard.path) == pair.shard.sha256


def test_the_photo_being_read_when_a_scene_times_out_is_left_out(worker):
    work, cat, ledger = worker
    ledger.begin()
    ledger.mark_timeout("decode", cat.noisy[0].sha1)
    result = decode_result(work(scene_row(cat))["result"])
    assert [(file.photo, file.reason) for file in result.failed_files] == [(cat.noisy[0], Reason.TIMEOUT)]
    assert sorted(str(pair.outcome) for pair in result.pairs) == ["collected", "failed"]


def test_a_scene_that_times_out_twice_fails(worker):
    work, cat, ledger = worker
    for stage in ("decode", "align"):
        ledger.begin()
        ledger.mark_timeout(stage, cat.noisy[0].sha1)
    result = decode_result(work(scene_row(cat))["result"])
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TIMEOUT)
    assert "in stage align" in result.detail
