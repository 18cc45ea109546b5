"""A scene that is divided into chunks has the result and the shards that it has undivided."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.bridge.messages import Submission
from rawnind.chunks import Chunk, chunks_of, scene_key
from rawnind.imaging.photo import Photo
from rawnind.installation import Installation
from rawnind.outcomes import problems, whole_scene_result
from rawnind.output.attempts import attempted, remove_marks, scene_digest
from rawnind.output.journal.journal import decode_result, encode_result
from rawnind.output.store import Store
from rawnind.pipeline.job import Assignment
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.pipeline.scene_chunk import process_chunk
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.source.decode import decode
from rawnind.source.fingerprint import fingerprint
from rawnind.source.index import load_index
from tests.output.result_maker import make_scene

RECIPE = Recipe(crop_size=64, stride=192)


class Worker:
    """Processes chunks as a worker does, and counts the photos that it decodes.

    Attributes:
        decoded: photos in the order in which they were decoded.
    """

    def __init__(self, output, run="run", code="code"):
        self.store, self.decoded = Store(str(output)), []
        self.assignment = Assignment(
            output=str(output), run=run, root="", recipe=RECIPE, bridge=None, scene_timeout=None, memory=4e9,
            installation=Installation(host="", folder="", digest=code, versions=()),
        )  # fmt: skip

    def read(self, ref):
        self.decoded.append(ref)
        return Photo.from_visible(*decode(ref))

    def attempt(self, chunk, lost):
        meter = Meter()
        result = process_scene(chunk.part, RECIPE, self.store, meter=meter, read=self.read)
        return result, meter.done()

    def __call__(self, chunk):
        return process_chunk(chunk, self.assignment, store=self.store, attempt=self.attempt)


def divided(scene, count):
    return [Chunk(scene=scene, number=number, count=count) for number in range(count)]


def shards(output):
    return {
        path.relative_to(output): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(output).rglob("*.parquet")
    }


@pytest.fixture(scope="module")
def photos(sample_set, tmp_path_factory):
    """A scene of two ground truths, one of them damaged, and six noisy photos, one of them damaged."""
    folder = tmp_path_factory.mktemp("large")
    for path in sample_set.glob("*_cat_*"):
        name = path.name.partition("_sha1=")[0]
        for number in range(2 if "_GT_" in name else 3):
            data = path.read_bytes() + bytes(number)
            sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            (folder / f"{name}_sha1={sha1}.dng").write_bytes(data)
    for kind in ("_GT_", "ISO65535"):
        damaged = min(folder.glob(f"*{kind}*"))
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (found,) = load_index(folder).scenes
    return found


@pytest.fixture(scope="module")
def scene(photos):
    """The same without the damaged ground truth."""
    return replace(photos, ground_truths=tuple(filter(is_sound, photos.ground_truths)))


def is_sound(ref):
    return hashlib.sha1(Path(ref.path).read_bytes(), usedforsecurity=False).hexdigest() == ref.sha1


def undivided(scene, output):
    """The result and the shards of the whole scene."""
    result, _ = Worker(output).attempt(Chunk(scene=scene), {})
    assert {pair.outcome for pair in result.pairs} == {Outcome.COLLECTED, Outcome.FAILED}
    assert not list(problems(result, scene, RECIPE))
    return encode_result(result), shards(output)


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    return undivided(scene, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_divided_scene_has_the_same_result_and_shards(scene, whole, tmp_path, count):
    worker = Worker(tmp_path)
    *others, last = [worker(chunk) for chunk in reversed(divided(scene, count))]
    assert not any(isinstance(each, Submission) for each in others)
    assert (last.data, shards(tmp_path)) == whole
    assert last.inputs == fingerprint(scene)
    assert last.telemetry["decode_done"] == len(worker.decoded) - 1
    assert last.telemetry["align_done"] == 5


def test_a_ground_truth_that_fails_in_every_chunk_is_listed_once(photos, tmp_path):
    worker = Worker(tmp_path / "divided")
    *_, last = map(worker, divided(photos, 2))
    assert (last.data, shards(worker.store.uri)) == undivided(photos, tmp_path / "whole")


def test_a_chunk_whose_worker_ends_before_the_commit_is_not_processed_again(scene, whole, tmp_path):
    worker = Worker(tmp_path)
    first, last = divided(scene, 2)
    made = worker(first), worker(last)
    decoded = len(worker.decoded)
    assert worker(last).data == made[1].data == whole[0]
    assert len(worker.decoded) == decoded


def damage(output):
    (path,) = (output / "attempts" / "chunks" / scene_digest("bayer/cat")).iterdir()
    path.write_bytes(path.read_bytes().replace(b"cat", b"cow", 1))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("changed", ["nothing", "code", "photo", "no shard", "shard", "file"])
def test_a_later_run_takes_a_chunk_over_unless_something_of_it_has_changed(scene, tmp_path, changed):
    chunk = next(each for each in divided(scene, 6) if is_sound(each.part.noisy[0]))
    Worker(tmp_path, "run1")(chunk)
    made = shards(tmp_path)
    if changed == "photo":
        os.utime(chunk.part.noisy[0].path)
    elif changed == "no shard":
        (tmp_path / next(iter(made))).unlink()
    elif changed == "shard":
        flip_a_bit(tmp_path / next(iter(made)))
    elif changed == "file":
        damage(tmp_path)
    later = Worker(tmp_path, "run2", "other" if changed == "code" else "code")
    later(chunk)
    assert bool(later.decoded) is (changed != "nothing")
    assert shards(tmp_path) == made


def test_a_later_run_tries_a_chunk_again_in_which_a_photo_failed(scene, tmp_path):
    chunk = next(each for each in divided(scene, 6) if not is_sound(each.part.noisy[0]))
    Worker(tmp_path, "run1")(chunk)
    later = Worker(tmp_path, "run2")
    later(chunk)
    assert later.decoded


def test_a_run_that_stops_within_a_scene_is_resumed_within_it(scene, whole, tmp_path):
    chunks, later = divided(scene, 6), Worker(tmp_path, "run2")
    finished = [each for each in chunks[:4] if is_sound(each.part.noisy[0])]
    for each in chunks[:4]:
        Worker(tmp_path, "run1")(each)
    last = [later(each) for each in chunks][-1]
    assert (last.data, shards(tmp_path)) == whole
    assert {ref for ref in later.decoded if not ref.ground_truth} == {
        ref for each in chunks if each not in finished for ref in each.part.noisy
    }
    assert scene_digest(scene.key) in attempted(later.store)  # its shards may be removed
    remove_marks(later.store)
    assert not (tmp_path / "attempts").exists()


def test_a_scene_whose_chunk_is_given_up_fails_as_a_whole(scene, tmp_path):
    def given_up(chunk, lost):
        return whole_scene_result(chunk.part, RECIPE, Reason.TOO_LARGE, "memory ran out"), {"attempts": 1}

    worker = Worker(tmp_path)
    worker.attempt = given_up
    done = worker(divided(scene, 2)[0])
    assert decode_result(done.data) == whole_scene_result(scene, RECIPE, Reason.TOO_LARGE, "memory ran out")
    assert done.inputs == fingerprint(scene)
    assert shards(tmp_path) == {}


@given(photos=st.integers(0, 2000))
def test_chunks_have_each_noisy_photo_once_and_eight_at_least(photos):
    scene = make_scene("s", noisy=photos)
    chunks = chunks_of(scene)
    parts = [chunk.part for chunk in chunks]
    assert [photo for part in parts for photo in part.noisy] == list(scene.noisy)
    assert {chunk.count for chunk in chunks} == {len(chunks)}
    if photos <= 24:
        assert (len(chunks), chunks[0].name, parts[0]) == (1, scene.key, scene)
    else:
        assert 1 < len(chunks) <= 64
        assert all(len(part.noisy) >= 8 for part in parts)
        assert len({chunk.name for chunk in chunks}) == len(chunks)
        assert {scene_key(chunk.name) for chunk in chunks} == {scene.key}
