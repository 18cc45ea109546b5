"""Scenes that need more memory than there is cost themselves, not the run."""

import json
import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest

from rawnind.errors import SourceError
from rawnind.imaging.photo import Photo
from rawnind.memory import MOST_TRUTHS
from rawnind.outcomes import problems
from rawnind.output.journal.journal import decode_result, encode_result
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.pipeline.scene_subprocess import process_isolated
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.source.decode import decode
from rawnind.source.index import load_index
from tests.conftest import FAULTS
from tests.small_set import digests
from tests.source.huge_photo import TILE, add_huge_scene

RECIPE = Recipe(crop_size=64, stride=96)
HUGE = 32 * TILE  # 67 megapixels


def read(ref, **options):
    return Photo.from_visible(*decode(ref, **options))


def scene_of(folder, name):
    return next(scene for scene in load_index(folder).scenes if scene.name == name)


def process(scene, output, *, reader=read, **options):
    return process_scene(scene, RECIPE, Store(str(output)), meter=Meter(), read=reader, **options)


def process_with_little_memory(source: Path, output: Path, answer: Path) -> None:
    """Processes the huge scene in a process that may take 150 MB more than it has."""
    scene = scene_of(source, "huge")
    np.linalg.inv(np.eye(256))  # OpenBLAS ends the process where it gets no memory for its buffers
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (150 << 20),) * 2)
    answer.write_bytes(encode_result(process(scene, output)))


@pytest.fixture
def huge(tmp_path):
    folder = tmp_path / "huge"
    folder.mkdir()
    add_huge_scene(folder, HUGE, HUGE)
    return folder


def test_memory_that_runs_out_costs_the_scene(huge, tmp_path):
    answer = tmp_path / "answer.json"
    process = multiprocessing.get_context("spawn").Process(
        target=process_with_little_memory, args=(huge, tmp_path / "out", answer)
    )
    process.start()
    process.join(120)
    result, scene = decode_result(answer.read_bytes()), scene_of(huge, "huge")
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TOO_LARGE)
    assert "memory ran out in stage" in result.detail
    assert not list(problems(result, scene, RECIPE))


@pytest.mark.slow
def test_ground_truths_that_are_not_kept_change_no_result(sample_set, tmp_path):
    scene, decoded = scene_of(sample_set, "coffee-cup"), []

    def reader(ref):
        decoded.append(ref)
        return read(ref)

    roomy = process(scene, tmp_path / "roomy", reader=reader)
    assert len(decoded) == len(set(decoded))
    short = process(scene, tmp_path / "short", reader=reader, memory=1)
    assert short == roomy
    assert len(decoded) > 2 * len(set(decoded))  # some were decoded again
    assert 1 < len(scene.ground_truths) <= MOST_TRUTHS


@pytest.mark.slow
def test_a_ground_truth_that_is_gone_when_it_is_decoded_again_leaves_the_others(sample_set, tmp_path):
    scene, seen = scene_of(sample_set, "coffee-cup"), []

    def reader(ref):
        seen.append(ref)
        if seen.count(ref) > 1 and ref == scene.ground_truths[0]:
            raise SourceError(Reason.MISSING_FILE, ref.filename)
        return read(ref)

    result = process(scene, tmp_path, reader=reader, memory=1)
    assert {pair.ground_truth for pair in result.pairs} == {scene.ground_truths[1]}
    assert [file.photo for file in result.failed_files] == [scene.ground_truths[0]]
    assert not list(problems(result, scene, RECIPE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "says"),
    [("allocate", "memory ran out in stage write"), ("SIGKILL", "SIGKILL ended 3 processes")],
)
def test_a_scene_that_exceeds_its_memory_in_a_child_process_fails_by_itself(
    faults, sample_set, tmp_path, monkeypatch, action, says
):
    monkeypatch.syspath_prepend(FAULTS)  # children get this process's sys.path
    monkeypatch.setenv("RAWNIND_FAULTS", str(faults.folder))
    faults.inject("publish-shards", action, "always")
    store, scene = Store(str(tmp_path / "out")), scene_of(sample_set, "cat")
    store.prepare_root()
    result = process_isolated(scene, RECIPE, store, root=sample_set, memory=4e9)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TOO_LARGE)
    assert says in result.detail
    assert not list(problems(result, scene, RECIPE))


def test_a_photo_whose_header_claims_more_than_memory_holds_costs_only_itself(
    prepare, small_set, tmp_path, undisturbed
):
    side = 240 * TILE
    add_huge_scene(small_set, side, side)
    summary = prepare()
    output = tmp_path / "out"
    (huge,) = (
        json.loads(line)
        for line in (output / "events.jsonl").read_text().splitlines()
        if '"bayer/huge"' in line
    )
    assert (huge["outcome"], huge["reason"]) == ("failed", "unreadable")
    assert summary.scenes.planned == 6
    assert list(verify(Store(str(output)))) == []
    text = (output / "manifest.yaml").read_text()
    assert f"its header claims {side} x {side} pixels" in " ".join(text.split())
    assert "for which a worker needs 128.7 GB of memory" in " ".join(text.split())
    shards = {name: digest for name, digest in undisturbed.items() if name.startswith("shards")}
    assert {name: digest for name, digest in digests(output).items() if name.startswith("shards")} == shards
