"""Processes one scene from photos to shards, without Ray."""

import math
import operator
import resource
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import cv2

from rawnind.bridge.stages import Stage, ended, pair_counts, passed
from rawnind.errors import SourceError
from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.gates import Rejection
from rawnind.imaging.pair import FinishedPair, align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.memory import MOST_DEMOSAICED, kept_truths
from rawnind.outcomes import failed_file, partners, scene_result, uncollected_pair, whole_scene_result
from rawnind.output.shards import CropPixels, crop_name, shard_name, write_shard
from rawnind.output.store import Store
from rawnind.pipeline.touched_memory import TouchedMemory
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Pairing, Recipe
from rawnind.records import FailedFile, ImageRef, PairResult, Scene, SceneResult, Shard, pair_id

Truths = OrderedDict[str, Prepared]
"""Decoded ground truths of a scene by SHA-1, the last used one last."""


class Meter:
    """Seconds and memory by stage, bytes and counts of one scene, for events.jsonl and the progress display.

    Args:
        on_stage: called when a stage begins, with its name and the counts so far.
        memory: measures what each stage touches; None: nothing does.

    Attributes:
        values: sums by name, and the largest memory of each stage.
        entered: the stage that began last.
    """

    def __init__(
        self,
        on_stage: Callable[[str, Mapping[str, int]], None] = lambda *_: None,
        memory: TouchedMemory | None = None,
    ) -> None:
        self._on_stage = on_stage
        self._memory = memory
        self.values: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self.entered = "starting"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block, and measures the memory that it touches."""
        self.entered = name
        self._on_stage(name, dict(self._counts))
        if self._memory:
            self._memory.begin()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(f"{name}_seconds", time.perf_counter() - start)
            if self._memory and (touched := self._memory.end()) is not None:
                largest = f"{name}_memory_bytes"
                self.values[largest] = max(self.values.get(largest, 0.0), touched)

    def add(self, name: str, amount: float) -> None:
        """Adds to a sum."""
        self.values[name] = round(self.values.get(name, 0.0) + amount, 6)

    def count(self, *names: str) -> None:
        """Counts photos or pairs, by the names of `stages.result_counts`."""
        self._counts.update(names)

    def done(self) -> dict[str, float]:
        """Every number and count, and the process's peak memory so far in bytes."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {**self.values, **self._counts, "peak_memory_bytes": float(peak)}


def process_scene(
    scene: Scene,
    recipe: Recipe,
    store: Store,
    *,
    meter: Meter,
    read: Callable[[ImageRef], Photo],
    memory: float = math.inf,
    truths: Truths | None = None,
    counted: Iterable[ImageRef] = (),
) -> SceneResult:
    """A scene's result; its shards are complete in the store once this returns.

    A scene whose processing runs out of memory is `failed: too_large`.

    Args:
        scene: the planned scene.
        recipe: every parameter.
        store: the output folder.
        meter: receives seconds, bytes and counts.
        read: decodes a photo or raises SourceError.
        memory: bytes that the process may use. Fewer ground truths are kept where it is short; results do not change.
        truths: ground truths of the scene that are decoded already; those that are kept at the end are left there.
        counted: photos that `meter` does not count, because another chunk of the scene does.

    Raises:
        OutputError: The storage refuses.
    """
    try:
        with _opencv_memory_errors():
            run = _SceneRun(scene, recipe, store, meter, read, memory, Truths() if truths is None else truths)
            return run.result(counted)
    except MemoryError as error:
        detail = f"memory ran out in stage {meter.entered}: {str(error) or 'no figure is known'}"
        return whole_scene_result(scene, recipe, Reason.TOO_LARGE, detail)


@contextmanager
def _opencv_memory_errors() -> Iterator[None]:
    try:
        yield
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise MemoryError(error.err) from error


class _SceneRun:
    def __init__(  # noqa: PLR0917
        self,
        scene: Scene,
        recipe: Recipe,
        store: Store,
        meter: Meter,
        read: Callable[[ImageRef], Photo],
        memory: float,
        truths: Truths,
    ) -> None:
        self._scene = scene
        self._recipe = recipe
        self._store = store
        self._meter = meter
        self._read = read
        self._memory = memory
        self._truths = truths
        self._counted_photos: set[ImageRef] = set()
        self._broken: dict[str, SourceError] = {}
        self._failed: list[FailedFile] = []

    def result(self, counted: Iterable[ImageRef]) -> SceneResult:
        self._counted_photos.update(counted)
        for ref in self._scene.ground_truths if self._scene.noisy else ():
            self._truth(ref)
        pairs = [self._counted(pair) for ref in self._scene.noisy for pair in self._pairs(ref)]
        return scene_result(self._scene, self._recipe, pairs, self._failed)

    def _counted(self, pair: PairResult) -> PairResult:
        self._meter.count(*pair_counts(pair.reason))
        return pair

    def _prepare(self, ref: ImageRef) -> Prepared | SourceError:
        try:
            with self._meter.stage("decode"):
                photo = self._read(ref)
        except SourceError as error:
            self._failed.append(failed_file(ref, error))
            self._count_photo(ref, ended(Stage.DECODE, Outcome.FAILED))
            return error
        self._count_photo(ref, passed(Stage.DECODE))
        self._meter.add("decoded_bytes", photo.mosaic.nbytes)
        return Prepared(photo)

    def _count_photo(self, ref: ImageRef, name: str) -> None:
        """Counts a photo once, also where it is decoded again."""
        if ref not in self._counted_photos:
            self._counted_photos.add(ref)
            self._meter.count(name)

    def _truth(self, ref: ImageRef) -> Prepared | SourceError:
        """A GT, decoded anew where it is not kept; the least recently used ones are dropped."""
        if error := self._broken.get(ref.sha1):
            return error
        truth = self._truths.pop(ref.sha1, None) or self._prepare(ref)
        if isinstance(truth, SourceError):
            self._broken[ref.sha1] = truth
            return truth
        self._keep(ref, truth)
        return truth

    def _keep(self, ref: ImageRef, truth: Prepared) -> None:
        """Keeps a GT as the last used one."""
        self._truths[ref.sha1] = truth
        self._truths.move_to_end(ref.sha1)
        for other in list(self._truths.values())[:-MOST_DEMOSAICED]:
            other.release_rgb()
        while len(self._truths) > kept_truths(truth.photo.mosaic.size, self._memory):
            self._truths.popitem(last=False)[1].release_rgb()

    def _in_turn(self, truths: tuple[ImageRef, ...]) -> list[ImageRef]:
        """The GTs in the order in which they are decoded least often: those first that are kept."""
        return sorted(truths, key=lambda truth: truth.sha1 not in self._truths)

    def _pairs(self, ref: ImageRef) -> Iterator[PairResult]:
        noisy = self._prepare(ref)
        candidates = partners(self._scene, ref)
        if isinstance(noisy, SourceError):
            for truth in self._planned(candidates):
                yield uncollected_pair(ref, truth, noisy.reason, noisy.detail)
        elif noisy.photo.cfa is not self._scene.cfa:
            detail = f"{ref.filename} is {noisy.photo.cfa}, its scene is listed as {self._scene.cfa}"
            for truth in self._planned(candidates):
                yield uncollected_pair(ref, truth, Reason.CFA_MISMATCH, detail)
        elif not candidates:
            yield uncollected_pair(ref, None, Reason.NO_GROUND_TRUTH)
        elif self._recipe.pairing is Pairing.ALL:
            for truth in self._in_turn(candidates):
                yield self._pair(ref, truth, noisy)
        else:
            yield self._best_pair(ref, candidates, noisy)

    def _planned(self, candidates: tuple[ImageRef, ...]) -> tuple[ImageRef | None, ...]:
        """The GTs of a noisy photo's planned pairs; None where alignment would have chosen one."""
        known = self._recipe.pairing is Pairing.ALL or len(candidates) == 1
        return candidates if candidates and known else (None,)

    def _pair(self, ref: ImageRef, truth: ImageRef, noisy: Prepared) -> PairResult:
        aligned = self._align(truth, noisy)
        if isinstance(aligned, SourceError):
            return uncollected_pair(ref, truth, aligned.reason, aligned.detail)
        return self._finish(ref, truth, aligned)

    def _best_pair(self, ref: ImageRef, candidates: tuple[ImageRef, ...], noisy: Prepared) -> PairResult:
        """The pair with the GT that aligns best: an aligned pair before a rejected one, then the lowest loss, then the SHA-1."""
        best = min(self._ranked(candidates, noisy), key=operator.itemgetter(0), default=None)
        if best is None:
            return self._pair(ref, candidates[0], noisy)
        _, truth, aligned = best
        if isinstance(aligned, AlignedPair) and not aligned.truth.is_cut:
            self._keep(truth, aligned.truth)
        return self._finish(ref, truth, aligned)

    def _ranked(
        self, candidates: tuple[ImageRef, ...], noisy: Prepared
    ) -> Iterator[tuple[tuple[bool, float, str], ImageRef, AlignedPair | Rejection]]:
        """Each GT that can be used, with its rank; the smallest is the best."""
        for truth in self._in_turn(candidates):
            aligned = self._align(truth, noisy)
            if isinstance(aligned, AlignedPair) and len(candidates) > 1:
                aligned.planes.clear()  # they would wait for the last candidate
            if not isinstance(aligned, SourceError):
                loss = aligned.measured.alignment_loss
                yield (loss is None, loss or 0.0, truth.sha1), truth, aligned

    def _align(self, ref: ImageRef, noisy: Prepared) -> AlignedPair | Rejection | SourceError:
        truth = self._truth(ref)
        if isinstance(truth, SourceError):
            return truth
        with self._meter.stage("align"):
            return align_pair(truth, noisy, self._recipe)

    def _finish(self, ref: ImageRef, truth: ImageRef, aligned: AlignedPair | Rejection) -> PairResult:
        finished: FinishedPair | Rejection
        if isinstance(aligned, AlignedPair):
            with self._meter.stage("mask"):
                finished = finish_pair(aligned, self._recipe)
        else:
            finished = aligned
        if isinstance(finished, Rejection):
            return uncollected_pair(
                ref,
                truth,
                finished.reason,
                finished.detail,
                measured=finished.measured,
                sensor=finished.sensor,
                gt_sensor=finished.gt_sensor,
            )
        with self._meter.stage("write"):
            shard = self._write(ref, truth, finished)
        self._meter.add("written_bytes", shard.size)
        return PairResult(
            ground_truth=truth,
            noisy=ref,
            outcome=Outcome.COLLECTED,
            reason=None,
            detail="",
            measured=finished.measured,
            sensor=finished.pair.noisy.photo.sensor,
            gt_sensor=finished.pair.truth.photo.sensor,
            shard=shard,
            crops=finished.crops,
        )

    def _write(self, noisy: ImageRef, truth: ImageRef, finished: FinishedPair) -> Shard:
        size, name = self._recipe.crop_size, pair_id(noisy, truth)
        rows = (
            CropPixels(
                crop_id=crop_name(name, crop.y, crop.x), noisy_raw=raw, gt_raw=gt_raw, gt_rgb=rgb, valid=valid
            )
            for crop, raw, gt_raw, rgb, valid in finished.pixels(self._recipe)
        )
        path = shard_name(noisy.cfa, noisy.scene, name)
        return write_shard(self._store, path, rows, size, compression=self._recipe.compression)
