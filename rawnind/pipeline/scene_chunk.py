"""Processes a chunk of a large scene, and makes the scene's result once all chunks are finished."""

from collections.abc import Callable, Mapping, Sequence

from rawnind.bridge.messages import Submission
from rawnind.chunks import Chunk, is_given_up, merged
from rawnind.errors import SourceError
from rawnind.outcomes import whole_scene_result
from rawnind.output.finished_chunks import FinishedChunk, FinishedChunks
from rawnind.output.journal.journal import encode_result
from rawnind.output.store import Store
from rawnind.pipeline.job import Assignment
from rawnind.recipe import Recipe
from rawnind.records import SceneResult, SeenFiles
from rawnind.source.fingerprint import fingerprint, fingerprint_of, seen_files

Attempt = Callable[[Chunk, Mapping[str, SourceError]], tuple[SceneResult, dict[str, float]]]


def process_chunk(
    chunk: Chunk, assignment: Assignment, *, store: Store, attempt: Attempt
) -> FinishedChunk | Submission:
    """The finished chunk, or the scene's result where it was the last unfinished one or the scene is given up with it.

    Two workers that finish the last chunks of a scene at once may both return its result; the bridge commits the first.

    Args:
        chunk: what to process.
        assignment: of the worker.
        store: the output folder.
        attempt: processes it, as `SceneAttempt`; it is not called for a chunk that this run has finished, or an earlier one.

    Raises:
        RawnindError: One of `FATAL`, which must stop the run.
    """
    recipe = assignment.recipe
    stored = FinishedChunks(store, assignment.run, chunk.scene.key, chunk.count)
    if files := stored.of_this_run().get(chunk.number):  # its worker ended before the scene was committed
        done = stored.read(files)
    else:
        seen = seen_files(chunk.part)  # before the files are read: a later change then shows
        code = assignment.installation.name if assignment.installation else ""
        done = _earlier(stored, chunk, recipe, seen, code) or _processed(chunk, seen, code, attempt)
        if is_given_up(done.result):
            return _given_up(chunk, recipe, done)
        stored.add(chunk.number, done)
    found = stored.of_this_run()
    if not all(number in found for number in range(chunk.count)):
        return done
    return _whole(chunk, recipe, [stored.read(found[number]) for number in range(chunk.count)])


def _earlier(
    stored: FinishedChunks, chunk: Chunk, recipe: Recipe, seen: SeenFiles, code: str
) -> FinishedChunk | None:
    for each in stored.of_earlier_runs(chunk.number):
        if each.is_what_would_be_made(chunk.part, recipe.digest, seen, code) and stored.has_sound_shards(
            each.result
        ):
            return each
    return None


def _processed(chunk: Chunk, seen: SeenFiles, code: str, attempt: Attempt) -> FinishedChunk:
    result, telemetry = attempt(chunk, {})
    photos = len(chunk.scene.noisy)
    return FinishedChunk(result=result, seen=seen, code=code, photos=photos, telemetry=telemetry)


def _given_up(chunk: Chunk, recipe: Recipe, done: FinishedChunk) -> Submission:
    """The result of a scene that fails as a whole with one of its chunks, as it would if it were not divided."""
    reason, detail = done.result.reason, done.result.detail
    if reason is None:
        raise ValueError(f"{chunk.name} failed without a reason")
    unchanged = seen_files(chunk.part) == done.seen
    return Submission(
        key=chunk.scene.key,
        data=encode_result(whole_scene_result(chunk.scene, recipe, reason, detail)),
        telemetry=done.telemetry,
        # No scene has the fingerprint of its chunk, so that the next run sees that a file has changed.
        inputs=fingerprint(chunk.scene) if unchanged else fingerprint_of(done.seen),
    )


def _whole(chunk: Chunk, recipe: Recipe, done: Sequence[FinishedChunk]) -> Submission:
    """The result of a scene from all its chunks."""
    truths = len(chunk.scene.ground_truths)
    noisy = [photo for each in done for photo in each.seen[truths:]]
    return Submission(
        key=chunk.scene.key,
        data=encode_result(merged(chunk.scene, recipe, [each.result for each in done])),
        telemetry=_total([each.telemetry for each in done]),
        inputs=fingerprint_of((*done[0].seen[:truths], *noisy)),
    )


def _total(telemetry: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Telemetry of a scene: sums, and the largest memory and number of attempts."""
    names = dict.fromkeys(name for each in telemetry for name in each)
    found = {name: [each[name] for each in telemetry if name in each] for name in names}
    return {
        name: max(values) if name.endswith(_LARGEST) else round(sum(values), 6)
        for name, values in found.items()
    }


_LARGEST = ("_memory_bytes", "attempts")
