"""Finished chunks in a folder and on an object store: each counts for its run when it is written, and a damaged one never."""

import uuid
from dataclasses import replace

import pytest

from rawnind.chunks import Chunk
from rawnind.errors import OutputError
from rawnind.output.attempts import attempted, remove_marks, scene_digest
from rawnind.output.finished_chunks import FinishedChunk, FinishedChunks
from rawnind.output.store import Store
from tests.output.result_maker import make_result, make_scene

SCENE = make_scene(noisy=4)


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    if request.param == "folder":
        return Store(str(tmp_path))
    return Store(f"s3://bucket/{uuid.uuid4().hex}?{request.getfixturevalue('s3')}")


def finished(number, **changes):
    result = make_result(Chunk(scene=SCENE, number=number, count=2).part)
    return replace(FinishedChunk(result=result, seen=(("0" * 40, 1, 2), ("1" * 40,)), code="", photos=4, telemetry={"attempts": 1}), **changes)  # fmt: skip


def test_a_chunk_counts_for_its_run_and_is_read_as_it_was_written(place):
    ours, others = (FinishedChunks(place, run, SCENE.key, 2) for run in ("run-1", "run-2"))
    assert ours.of_this_run() == {}
    ours.add(1, finished(1))
    ours.add(1, finished(1))  # by a worker that was taken for dead
    others.add(0, finished(0))
    ((number, files),) = ours.of_this_run().items()
    assert (number, len(files), ours.read(files)) == (1, 1, finished(1))
    assert (
        list(ours.of_earlier_runs(1))
        == list(FinishedChunks(place, "run-1", SCENE.key, 3).of_this_run())
        == []
    )
    assert attempted(place) == {scene_digest(SCENE.key)}
    remove_marks(place)
    assert place.list() == []


def test_a_chunk_that_was_written_twice_with_other_times_is_read_once(place):
    chunks = FinishedChunks(place, "run", SCENE.key, 2)
    written = [finished(0, telemetry={"decode_seconds": seconds}) for seconds in (1.5, 2)]
    for each in written:
        chunks.add(0, each)
    (files,) = chunks.of_this_run().values()
    assert len(files) == 2
    assert chunks.read(files) in written


def test_a_damaged_chunk_ends_its_run_and_is_ignored_by_the_next(place):
    chunks = FinishedChunks(place, "run-1", SCENE.key, 2)
    chunks.add(0, finished(0))
    (entry,) = place.list()
    place.write(entry.path, place.read(entry.path).replace(b"kitchen", b"chicken"), replace=True)
    with pytest.raises(OutputError, match="is damaged or gone; run the same command again"):
        chunks.read(chunks.of_this_run()[0])
    assert list(FinishedChunks(place, "run-2", SCENE.key, 2).of_earlier_runs(0)) == []
