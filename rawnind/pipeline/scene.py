"""Processes one scene from photos to shards, without Ray."""

import operator
import resource
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rawnind.bridge.stages import Stage, ended, pair_counts, passed
from rawnind.errors import SourceError
from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.gates import Rejection
from rawnind.imaging.pair import FinishedPair, align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.outcomes import failed_file, partners, scene_result, uncollected_pair
from rawnind.output.shards import CropPixels, crop_name, shard_name, write_shard
from rawnind.output.store import Store
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Pairing, Recipe
from rawnind.records import FailedFile, ImageRef, PairResult, Scene, SceneResult, Shard, pair_id

_MAX_DEMOSAICED = 3
"""Ground truths of one scene that are kept demosaiced; 144 MB each at 24 megapixels."""


class Meter:
    """Seconds by stage, bytes and counts of one scene, for events.jsonl and the progress display.

    Args:
        on_stage: called when a stage begins, with its name and the counts so far.
    """

    def __init__(self, on_stage: Callable[[str, Mapping[str, int]], None] = lambda *_: None) -> None:
        self._on_stage = on_stage
        self.values: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block."""
        self._on_stage(name, dict(self._counts))
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(f"{name}_seconds", time.perf_counter() - start)

    def add(self, name: str, amount: float) -> None:
        """Adds to a sum."""
        self.values[name] = round(self.values.get(name, 0.0) + amount, 6)

    def count(self, *names: str) -> None:
        """Counts photos or pairs, by the names of `stages.result_counts`."""
        self._counts.update(names)

    def done(self) -> dict[str, float]:
        """Every sum and count, and the process's peak memory so far in bytes."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {**self.values, **self._counts, "peak_memory_bytes": float(peak)}


def process_scene(
    scene: Scene, recipe: Recipe, store: Store, *, meter: Meter, read: Callable[[ImageRef], Photo]
) -> SceneResult:
    """A scene's result; its shards are complete in the store once this returns.

    Args:
        scene: the planned scene.
        recipe: every parameter.
        store: the output folder.
        meter: receives seconds, bytes and counts.
        read: decodes a photo or raises SourceError.

    Raises:
        OutputError: The storage refuses.
    """
    return _SceneRun(scene, recipe, store, meter, read).result()


class _SceneRun:
    def __init__(
        self, scene: Scene, recipe: Recipe, store: Store, meter: Meter, read: Callable[[ImageRef], Photo]
    ) -> None:
        self._scene = scene
        self._recipe = recipe
        self._store = store
        self._meter = meter
        self._read = read
        self._truths: OrderedDict[str, Prepared] = OrderedDict()  # last used last
        self._broken: dict[str, SourceError] = {}
        self._failed: list[FailedFile] = []

    def result(self) -> SceneResult:
        for ref in self._scene.ground_truths if self._scene.noisy else ():
            photo = self._prepare(ref)
            if isinstance(photo, SourceError):
                self._broken[ref.sha1] = photo
            else:
                self._truths[ref.sha1] = photo
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
            self._meter.count(ended(Stage.DECODE, Outcome.FAILED))
            return error
        self._meter.count(passed(Stage.DECODE))
        self._meter.add("decoded_bytes", photo.mosaic.nbytes)
        return Prepared(photo)

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
            for truth in candidates:
                yield self._pair(ref, truth, noisy)
        else:
            yield self._best_pair(ref, candidates, noisy)

    def _planned(self, candidates: tuple[ImageRef, ...]) -> tuple[ImageRef | None, ...]:
        """The GTs of a noisy photo's planned pairs; None where alignment would have chosen one."""
        known = self._recipe.pairing is Pairing.ALL or len(candidates) == 1
        return candidates if candidates and known else (None,)

    def _pair(self, ref: ImageRef, truth: ImageRef, noisy: Prepared) -> PairResult:
        if error := self._broken.get(truth.sha1):
            return uncollected_pair(ref, truth, error.reason, error.detail)
        return self._finish(ref, truth, self._align(truth, noisy))

    def _best_pair(self, ref: ImageRef, candidates: tuple[ImageRef, ...], noisy: Prepared) -> PairResult:
        """The pair with the GT that aligns best: an aligned pair before a rejected one, then the lowest loss, then the SHA-1."""
        usable = [truth for truth in candidates if truth.sha1 not in self._broken]
        if not usable:
            return self._pair(ref, candidates[0], noisy)
        best = min((self._ranked(truth, noisy) for truth in usable), key=operator.itemgetter(0))
        return self._finish(ref, best[1], best[2])

    def _ranked(
        self, truth: ImageRef, noisy: Prepared
    ) -> tuple[tuple[bool, float, str], ImageRef, AlignedPair | Rejection]:
        aligned = self._align(truth, noisy)
        loss = aligned.measured.alignment_loss
        return (loss is None, loss or 0.0, truth.sha1), truth, aligned

    def _align(self, truth: ImageRef, noisy: Prepared) -> AlignedPair | Rejection:
        self._truths.move_to_end(truth.sha1)
        for sha1 in list(self._truths)[:-_MAX_DEMOSAICED]:
            self._truths[sha1].release_rgb()
        with self._meter.stage("align"):
            return align_pair(self._truths[truth.sha1], noisy, self._recipe)

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
