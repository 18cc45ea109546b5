"""`status` says what the journal and the manifest say."""

import time

import pytest

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.ledger import OutcomeLedger
from rawnind.chunks import Chunk
from rawnind.errors import ManifestError, NotPreparedError
from rawnind.outcomes import whole_scene_result
from rawnind.output.attempts import remove_marks
from rawnind.output.events import EventLog
from rawnind.output.finished_chunks import FinishedChunk, FinishedChunks
from rawnind.output.journal.journal import Journal, encode_result
from rawnind.output.manifest import read_summary, write_manifest
from rawnind.output.status import read_status
from rawnind.output.store import Store
from rawnind.planning import SceneFilter, make_plan
from rawnind.printing import describe
from rawnind.reasons import Outcome, Reason
from tests.output.result_maker import RECIPE, commit_one, make_result, make_scene

RESULTS = [
    make_result(make_scene("attic", noisy=2)),
    make_result(make_scene("broken"), faults=(Reason.TRUNCATED, Reason.MISSING_FILE)),
    make_result(make_scene("half broken"), faults=(Reason.SHA1_MISMATCH,)),
    make_result(make_scene("no truth", truths=0)),
]


@pytest.fixture
def committed(store):
    """A store with the results in its journal."""
    Journal(store).append(RESULTS)
    return store


def text(store):
    return "\n".join(read_status(store).lines())


def test_status_counts_what_was_committed(committed):
    crops = sum(len(pair.crops) for result in RESULTS for pair in result.pairs)
    assert f"Committed: 4 scenes (2 collected, 1 rejected, 1 failed), {crops} crops" in text(committed)


def test_status_shows_whether_there_is_a_manifest(committed):
    assert "not written yet; run `rawnind prepare` again to resume" in text(committed)
    summary = write_manifest(committed, RESULTS, RECIPE, versions={}, contents="")
    assert f"Manifest:  4 scenes, {summary.pairs.collected} pairs, {summary.crops} crops" in text(committed)


def test_scenes_without_a_pair_are_named_with_their_reason(committed):
    alone = whole_scene_result(make_scene("only links", noisy=0), RECIPE, Reason.NO_NOISY)
    Journal(committed).append([alone])
    sentence = "The scene has no noisy photo that can be used."
    assert f"\n  rejected, no_noisy: bayer/only links: {sentence}\n" in text(committed)
    results = sorted([*RESULTS, alone], key=lambda result: result.scene.name)
    summary = write_manifest(committed, results, RECIPE, versions={}, contents="")
    assert summary.scene_reasons == ((Reason.NO_NOISY, 1),)
    assert read_summary(committed) == summary
    assert f"1 no_noisy, without a pair: {sentence}" in describe(summary, "out")


def test_every_scene_and_pair_that_is_not_collected_is_listed_with_reason_and_file(committed):
    status = read_status(committed)
    lost = [(result, pair) for result in RESULTS for pair in result.pairs if pair.reason]
    assert len(lost) == len(status.uncollected_pairs) == 5
    assert [each.outcome for each in status.uncollected_pairs] == [Outcome.FAILED] * 3 + [
        Outcome.REJECTED
    ] * 2
    found = text(committed)
    assert (
        f"Scenes that are not collected: 2\n  failed, {RESULTS[1].reason}: bayer/broken: no pair is collected, of 2"
        in found
    )
    assert "Pairs that are not collected: 5\n" in found
    for result, pair in lost:
        (line,) = [
            line
            for line in found.splitlines()
            if f": {result.scene.key}: " in line and pair.noisy.filename in line
        ]
        assert f"{pair.outcome}, {pair.reason}: {result.scene.key}: " in line
        assert pair.detail in line


def test_a_long_list_ends_with_how_many_more_there_are(committed):
    lines = list(read_status(committed).uncollected(most=2))
    assert lines[3:] == ["Pairs that are not collected: 5", *lines[4:6], "... and 3 more"]


def test_scenes_that_were_left_out_are_named_by_reason(committed):
    filtered = [whole_scene_result(make_scene(name), RECIPE, Reason.SCENE_FILTER) for name in ("x", "y")]
    write_manifest(committed, [*RESULTS, *filtered], RECIPE, versions={}, contents="")
    assert f"Left out: 2 scenes, scene_filter: {Reason.SCENE_FILTER.sentence}\n  bayer/x, bayer/y" in text(
        committed
    )


def finished_chunk(chunk):
    result = make_result(chunk.part)
    return FinishedChunk(result=result, seen=(), code="", photos=len(chunk.scene.noisy), telemetry={})


def test_how_far_large_scenes_are_is_shown_until_they_are_committed(store):
    kitchen, attic = make_scene("kitchen", noisy=20), make_scene("attic", noisy=9)
    for scene, run, number in (
        (kitchen, "run1", 0),
        (kitchen, "run2", 0),
        (kitchen, "run2", 2),
        (attic, "run2", 1),
    ):
        chunk = Chunk(scene=scene, number=number, count=3)
        FinishedChunks(store, run, scene.key, 3).add(number, finished_chunk(chunk))
    EventLog(store, "run2").add("begin", next_seq=0, planned_scenes=2, planned_pairs=29, open_scenes=2)
    EventLog(store, "run2").add("state", **{"from": "initialized", "to": "collecting"})
    assert "Begun:     bayer/attic: 3 of 9 noisy photos are done\nBegun:     bayer/kitchen: 13 of 20" in text(
        store
    )
    Journal(store).append([make_result(attic)])
    assert text(store).count("Begun: ") == 1
    assert "Begun:     bayer/kitchen: 13 of 20 noisy photos are done" in text(store)
    remove_marks(store)
    assert "Begun: " not in text(store)


def test_the_last_run_its_plan_and_its_recipe_are_named(tmp_path):
    plan = make_plan([result.scene for result in RESULTS], SceneFilter(), RECIPE)
    bridge = Bridge(str(tmp_path), "run7", plan, max_scenes=1)
    bridge.begin()
    bridge.note("No worker runs.")
    waits = text(Store(str(tmp_path)))
    assert f"Last note: {time.strftime('%Y-%m-%d', time.gmtime())}" in waits
    assert "UTC: No worker runs.\nPlanned:   4 scenes, 8 pairs; 4 scenes without an outcome yet" in waits
    assert "Committed: 0 scenes (none yet), 0 crops" in waits
    for result in (RESULTS[1], RESULTS[3]):
        commit_one(bridge, result.scene.key, encode_result(result))
    found = text(Store(str(tmp_path)))
    assert f"Recipe:    {RECIPE.digest}, see recipe.yaml" in found
    assert "Planned:   4 scenes, 8 pairs; 2 scenes without an outcome yet" in found
    now = time.strftime("%Y-%m-%d", time.gmtime())
    assert f"Last run:  run7 began {now}" in found
    assert "has not ended (or was killed), collecting since" in found
    bridge.fail("it burns")
    ended = text(Store(str(tmp_path)))
    assert "UTC, failed (it burns) 2" in ended
    assert "note" not in ended


def test_status_says_what_a_retry_would_do(committed):
    would = "--retry-failed` would process 2 scenes again: "
    assert would + "1 for missing_file, 1 for sha1_mismatch, 1 for truncated" in text(committed)
    plan = make_plan([result.scene for result in RESULTS], SceneFilter(), RECIPE)
    journal = Journal(committed)
    ledger = OutcomeLedger(
        plan, journal, retry=frozenset(Reason), changed=frozenset(), first=journal.next_seq
    )
    assert len(ledger.open_scenes()) == 2


def test_status_names_every_failed_file(committed):
    found = text(committed)
    assert "Failed files: 3" in found
    for result in RESULTS:
        for file in result.failed_files:
            assert f"{file.reason}: {result.scene.name}: {file.detail}" in found


def test_status_names_scenes_that_failed_without_a_file_as_the_cause(committed):
    Journal(committed).append(
        [whole_scene_result(make_scene("slow"), RECIPE, Reason.TIMEOUT, "gave up after 5 s")]
    )
    assert "timeout: slow: gave up after 5 s" in text(committed)
    assert "Failed files: 3" in text(committed)


def test_a_scene_retried_with_success_is_no_longer_a_failure(committed):
    Journal(committed).append([make_result(make_scene("broken")), make_result(make_scene("half broken"))])
    assert "ailed" not in text(committed)
    assert "3 collected" in text(committed)


def test_an_empty_folder_is_no_output(tmp_path):
    with pytest.raises(NotPreparedError, match="holds no committed scene"):
        text(Store(str(tmp_path / "nowhere")))


def test_a_damaged_journal_is_a_manifest_error(committed):
    committed.write("parts/0000000004-1-0123456789abcdef.parquet", b"")
    with pytest.raises(ManifestError, match="damaged"):
        text(committed)
