"""`status` says what the journal and the manifest say."""

import pytest

from rawnind.cli import describe
from rawnind.errors import ManifestError, NotPreparedError
from rawnind.outcomes import whole_scene_result
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import read_summary, write_manifest
from rawnind.output.status import read_status
from rawnind.output.store import Store
from rawnind.reasons import Reason
from tests.output.result_maker import RECIPE, make_result, make_scene

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
    assert f"Scenes without a pair: 1\n  no_noisy: bayer/only links: {sentence}" in text(committed)
    results = sorted([*RESULTS, alone], key=lambda result: result.scene.name)
    summary = write_manifest(committed, results, RECIPE, versions={}, contents="")
    assert summary.scene_reasons == ((Reason.NO_NOISY, 1),)
    assert read_summary(committed) == summary
    assert f"1 no_noisy, without a pair: {sentence}" in describe(summary, "out")


def test_status_names_every_failed_file_and_how_to_retry(committed):
    found = text(committed)
    assert "Failed files: 3" in found
    assert "--retry-failed" in found
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
    assert "Failed" not in text(committed)
    assert "3 collected" in text(committed)


def test_an_empty_folder_is_no_output(tmp_path):
    with pytest.raises(NotPreparedError, match="holds no committed scene"):
        text(Store(str(tmp_path / "nowhere")))


def test_a_damaged_journal_is_a_manifest_error(committed):
    committed.write("parts/0000000004-1-0123456789abcdef.parquet", b"")
    with pytest.raises(ManifestError, match="damaged"):
        text(committed)
