"""Training on any number of workers with Ray Train."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from rawnind.errors import ConfigError, RawnindError
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.feed.ray_data import location_of, ray_dataset
from rawnind.output.store import Store
from rawnind.training.log import Numbers, TrainReport, ends_of, read_metrics
from rawnind.training.loop import Training, TrainingError, place_of, say

__all__ = ["ray_dataset", "read_metrics", "train_distributed"]

CHECKPOINT = "checkpoint.pt"
_TIMEOUT = 300  # seconds that a rank waits for the others before it gives up


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What every rank is told."""

    output: str
    storage: str
    steps: int
    batch_size: int
    width: int
    learning_rate: float
    save_every: int
    progress_every: int
    threads: int
    dataset: tuple[tuple[str, Any], ...]
    start: bytes | None

    def name(self) -> str:
        """The same for trainings that can go on from each other's checkpoints."""
        kept = [self.output, self.batch_size, self.width, self.learning_rate, sorted(map(repr, self.dataset))]
        return f"run-{hashlib.sha256(repr(kept).encode()).hexdigest()[:12]}"


def train_distributed(
    output: str | Path,
    *,
    steps: int,
    workers: int,
    batch_size: int = 4,
    crop_size: int = 128,
    seed: int = 0,
    checkpoint: Path | None = None,
    storage: str | Path | None = None,
    gpus: bool | None = None,
    threads: int = 1,
    width: int = 16,
    learning_rate: float = 2e-3,
    save_every: int = 500,
    progress_every: int = 5,
    max_failures: int = 3,
    progress: Callable[[int, float], None] | None = None,
    **dataset: Any,
) -> TrainReport:
    """Trains on several workers with Ray Train until `steps` steps are done.

    Every rank takes part in every step, with its share of it: numbers of batches are equal, numbers of samples differ by one
    at most. When a worker dies all begin again at the last checkpoint. A checkpoint of `loop.train` is gone on with, and the other
    way round. `storage/metrics.jsonl` holds a line of numbers per `progress_every` steps.

    Args:
        output: the folder that `rawnind prepare` wrote; every node must see it by the same name.
        steps: optimiser steps in all.
        workers: ranks; each takes a CPU, and a GPU where there are enough.
        batch_size: rows in a rank's batch.
        crop_size: side of a sub-crop, a multiple of 32.
        seed: of weights, order and windows.
        checkpoint: where the final one goes; None: `checkpoint.pt` in a local `output`.
        storage: where Ray Train keeps checkpoints and numbers meanwhile; None: `train` in `output`.
        gpus: whether each worker takes a GPU; None: where there are as many as workers.
        threads: of each rank that make batches ahead.
        width: of the U-Net's first level.
        learning_rate: Adam's.
        save_every: steps between two checkpoints; there is one at the end in any case.
        progress_every: steps between two lines of numbers.
        max_failures: so many deaths of workers are survived.
        progress: called with (step, mean loss since the last call) when the training has ended; None prints lines.
        dataset: further options of `CropDataset`.

    Raises:
        ConfigError: An option is wrong, the cluster has too few CPUs, or there are too few crops.
        ManifestError: The folder, or a shard in it, cannot be read.
        TrainingError: The loss is no longer a number, or too many workers died.
    """
    started = time.perf_counter()
    location = location_of(output)
    place = place_of(output, checkpoint)
    _enough(CropDataset(location, crop_size=crop_size, seed=seed, **dataset), workers, batch_size)
    _connect()
    use_gpu = _gpus(workers, gpus)
    plan = _Plan(
        output=location,
        storage=location_of(storage or f"{location}/train"),
        steps=steps,
        batch_size=batch_size,
        width=width,
        learning_rate=learning_rate,
        save_every=save_every,
        progress_every=progress_every,
        threads=threads,
        dataset=tuple({"crop_size": crop_size, "seed": seed, **dataset}.items()),
        start=place.read_bytes() if place.exists() else None,
    )
    result = _fit(plan, workers, max_failures, use_gpu=use_gpu)
    report = _report(result, place, time.perf_counter() - started)
    for line in read_metrics(plan.storage):
        (progress or say)(line["step"], line["loss"])
    return report


def _enough(crops: CropDataset, workers: int, batch_size: int) -> None:
    if workers < 1 or batch_size < 1:
        raise ConfigError(f"workers and batch_size must be at least 1, got {workers} and {batch_size}")
    if len(crops) < workers * batch_size:
        raise ConfigError(
            f"{workers} workers with batches of {batch_size} need {workers * batch_size} crops, there are {len(crops)}"
        )


def _connect() -> None:
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")


def _gpus(workers: int, wanted: bool | None) -> bool:  # noqa: FBT001
    """Whether workers take GPUs. Ray Train would wait for ever for what the cluster does not have."""
    there = ray.cluster_resources()
    use = there.get("GPU", 0) >= workers if wanted is None else wanted
    for name, needed in (("CPU", workers), ("GPU", workers if use else 0)):
        if there.get(name, 0) < needed:
            raise ConfigError(f"{needed} {name}s are needed, the cluster has {there.get(name, 0):g}")
    return bool(use)


def _fit(plan: _Plan, workers: int, max_failures: int, *, use_gpu: bool) -> ray.train.Result:
    trainer = ray.train.torch.TorchTrainer(
        _train_rank,
        train_loop_config={"plan": plan},
        torch_config=ray.train.torch.TorchConfig(timeout_s=_TIMEOUT),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=plan.name(),
            storage_path=plan.storage,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        return trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _ours(error) from error


def _ours(error: Exception) -> RawnindError:
    """What a rank raised on purpose, or that the training failed."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, RawnindError):
            return cause
    return TrainingError(f"training failed on {len(failures) or 'some'} workers: {error}")


class _Rank(Training):
    """One rank's side: gradients and losses are means over all ranks."""

    def join(self) -> None:
        """Puts the network among the others'; to be called after `load`."""
        self.forward = ray.train.torch.prepare_model(self.model)

    def mean(self, loss: Tensor) -> float:
        """The mean over ranks."""
        total = loss.clone()
        torch.distributed.all_reduce(total)
        return float(total) / torch.distributed.get_world_size()

    def counted(self) -> dict[str, float]:
        """Crops and damaged crops of all ranks, and the longest wait."""
        own = self.loader.counters
        device = self.loader.device
        counts = torch.tensor([own.crops, own.skipped], device=device)
        waited = torch.tensor(own.waited, device=device)
        torch.distributed.all_reduce(counts)
        torch.distributed.all_reduce(waited, torch.distributed.ReduceOp.MAX)
        return {"crops": int(counts[0]), "skipped": int(counts[1]), "waited": float(waited)}


def _train_rank(config: dict[str, Any]) -> None:
    plan: _Plan = config["plan"]
    context = ray.train.get_context()
    torch.set_num_threads(1)
    crops = CropDataset(plan.output, **dict(plan.dataset))
    loader = CropLoader(
        crops,
        plan.batch_size,
        workers=plan.threads,
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        ranks=context.get_world_size(),
    )
    training = _Rank(loader, plan.width, plan.learning_rate)
    _load_furthest(training, plan)
    first = len(training.losses)
    training.join()
    started = time.perf_counter()
    numbers = Numbers(plan.storage, first)
    while (step := len(training.losses)) < plan.steps:
        training.advance()
        step += 1
        if step % plan.progress_every == 0 or step == plan.steps:
            numbers.add(training, time.perf_counter() - started)
        if step % plan.save_every == 0 or step == plan.steps:
            _save(training, numbers, lead=loader.rank == 0)
    if first >= plan.steps:
        _save(training, numbers, lead=loader.rank == 0)


def _load_furthest(training: _Rank, plan: _Plan) -> None:
    """Goes on at the checkpoint of this run, or at the one that it was started with, whichever is further."""
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        if plan.start is not None:
            (Path(folder) / CHECKPOINT).write_bytes(plan.start)
            training.load(Path(folder) / CHECKPOINT)
    kept = ray.train.get_checkpoint()
    if kept is not None and kept.get_metadata().get("step", 0) >= len(training.losses):
        with kept.as_directory() as folder:
            training.load(Path(folder) / CHECKPOINT)


def _save(training: _Rank, numbers: Numbers, *, lead: bool) -> None:
    """All ranks report, the first one with the checkpoint."""
    told = {
        "step": len(training.losses),
        "first": numbers.first,
        "batches": training.loader.counters.batches,
        "device": str(training.loader.device),
        **training.counted(),
    }
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        kept = None
        if lead:
            training.save(Path(folder) / CHECKPOINT)
            kept = ray.train.Checkpoint.from_directory(folder)
            kept.set_metadata({"step": len(training.losses)})
            numbers.write()
        ray.train.report({**told, "loss": training.losses[-1]}, checkpoint=kept)


def _report(result: ray.train.Result, place: Path, seconds: float) -> TrainReport:
    """Puts the final checkpoint into its place and says what the training came to."""
    told = result.metrics
    with result.checkpoint.as_directory() as folder:
        data = (Path(folder) / CHECKPOINT).read_bytes()
        state = torch.load(Path(folder) / CHECKPOINT, map_location="cpu", weights_only=True)
    Store(str(place.absolute().parent)).write(place.name, data, replace=True)
    first, last = ends_of(state["losses"])
    return TrainReport(
        steps=told["step"],
        resumed_at=told["first"],
        first_loss=first,
        last_loss=last,
        losses=tuple(state["losses"]),
        batches=told["batches"],
        crops=told["crops"],
        skipped=told["skipped"],
        waited=told["waited"],
        seconds=seconds,
        device=told["device"],
        parameters=sum(value.numel() for value in state["model"].values()),
        checkpoint=str(place),
    )
