"""Trains on several workers with Ray Train."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from rawnind import timing
from rawnind.errors import ConfigError, RawnindError
from rawnind.feed.crop_options import CropOptions
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.feed.ray_data import location_of, ray_dataset
from rawnind.output.store import Store
from rawnind.training.log import MetricsLog, TrainReport, first_and_last_loss, read_metrics
from rawnind.training.loop import CROP_SIZE, Training, TrainingError, checkpoint_path, log_progress

__all__ = ["ray_dataset", "read_metrics", "train_distributed"]

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class _RankConfig:
    """The configuration of every rank.

    Attributes:
        dataset: options of `CropDataset`.
        start: the checkpoint from which the training was started; None: from random weights.
    """

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
        """The name of the run; equal for trainings that can resume from each other's checkpoints."""
        identity = [
            self.output,
            self.batch_size,
            self.width,
            self.learning_rate,
            sorted(map(repr, self.dataset)),
        ]
        return f"run-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"


def train_distributed(
    output: str | Path,
    *,
    steps: int,
    workers: int,
    batch_size: int = 4,
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
    **options: Unpack[CropOptions],
) -> TrainReport:
    """Trains on several workers with Ray Train until `steps` steps are done.

    Every rank takes its share of every step: the ranks have equal numbers of batches, and their numbers of samples differ by
    at most one. When a worker dies, all ranks restart from the last checkpoint. A training resumes from a checkpoint of either
    trainer, this one or `loop.train`. `storage/metrics.jsonl` holds a line of metrics per `progress_every` steps.

    Args:
        output: the folder that `rawnind prepare` wrote; every node must be able to read it under this name.
        steps: optimiser steps in total, including those before a resume.
        workers: number of ranks; each takes a CPU, and a GPU where there are enough.
        batch_size: rows in a rank's batch.
        checkpoint: file of the final checkpoint; None: `checkpoint.pt` in a local `output`.
        storage: folder in which Ray Train keeps checkpoints and metrics; None: `train` in `output`.
        gpus: whether each worker takes a GPU; None: where there are at least as many as workers.
        threads: threads of each rank that prefetch batches.
        width: channels of the U-Net's first level.
        learning_rate: that of Adam.
        save_every: steps between two checkpoints; the last step is always saved.
        progress_every: steps between two lines of metrics.
        max_failures: how often the training restarts after the death of a worker.
        progress: called at the end with (step, mean loss since the last call); None: lines are logged.
        options: see `CropOptions`; `crop_size` is 128 by default, and `seed` also initialises the weights.

    Returns:
        Losses, counts and times.

    Raises:
        ConfigError: An option is wrong, the cluster has too few CPUs, or there are too few crops.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest or a shard cannot be read.
        TrainingError: The loss is not finite, or too many workers died.

    Examples:
        >>> report = train_distributed("s3://bucket/out", steps=5000, workers=4, checkpoint=Path("c.pt"))  # doctest: +SKIP
    """
    started = time.perf_counter()
    options.setdefault("crop_size", CROP_SIZE)
    location = location_of(output)
    path = checkpoint_path(output, checkpoint)
    crops = CropDataset(location, **options)
    _require_crops(crops, workers, batch_size)
    _connect()
    use_gpu = _use_gpus(workers, gpus)
    config = _RankConfig(
        output=location,
        storage=location_of(storage or f"{location}/train"),
        steps=steps,
        batch_size=batch_size,
        width=width,
        learning_rate=learning_rate,
        save_every=save_every,
        progress_every=progress_every,
        threads=threads,
        dataset=tuple({"seed": crops.options.seed, **options}.items()),
        start=path.read_bytes() if path.exists() else None,
    )
    result = _fit(config, workers, max_failures, use_gpu=use_gpu)
    report = _report(result, path, time.perf_counter() - started)
    for line in read_metrics(config.storage):
        (progress or log_progress)(line["step"], line["loss"])
    return report


def _require_crops(crops: CropDataset, workers: int, batch_size: int) -> None:
    if workers < 1 or batch_size < 1:
        raise ConfigError(f"workers and batch_size must be at least 1, got {workers} and {batch_size}")
    if len(crops) < workers * batch_size:
        raise ConfigError(
            f"{workers} workers with batches of {batch_size} need {workers * batch_size} crops, there are {len(crops)}"
        )


def _connect() -> None:
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")


def _use_gpus(workers: int, wanted: bool | None) -> bool:  # noqa: FBT001
    """Whether workers take GPUs. Ray Train would wait forever for resources that the cluster does not have."""
    available = ray.cluster_resources()
    use = available.get("GPU", 0) >= workers if wanted is None else wanted
    for name, needed in (("CPU", workers), ("GPU", workers if use else 0)):
        if available.get(name, 0) < needed:
            raise ConfigError(f"{needed} {name}s are needed, the cluster has {available.get(name, 0):g}")
    return bool(use)


def _fit(config: _RankConfig, workers: int, max_failures: int, *, use_gpu: bool) -> ray.train.Result:
    trainer = ray.train.torch.TorchTrainer(
        _train_rank,
        train_loop_config={"rank": config},
        torch_config=ray.train.torch.TorchConfig(timeout_s=int(timing.RANK_TIMEOUT)),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=config.name(),
            storage_path=config.storage,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        return trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _cause_of(error) from error


def _cause_of(error: Exception) -> RawnindError:
    """The RawnindError that a rank raised, or else a TrainingError."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, RawnindError):
            return cause
    return TrainingError(f"training failed on {len(failures) or 'some'} workers: {error}")


class _Rank(Training):
    """One rank; gradients and losses are means over all ranks."""

    def distribute(self) -> None:
        """Wraps the network for distributed training; call it after `load`."""
        self.forward = ray.train.torch.prepare_model(self.model)

    def mean(self, loss: Tensor) -> float:
        """The mean loss of the step over all ranks."""
        total = loss.clone()
        torch.distributed.all_reduce(total)
        return float(total) / torch.distributed.get_world_size()

    def total_counters(self) -> dict[str, float]:
        """The sums of crops and of replaced crops over all ranks, and the longest wait of a rank."""
        own = self.loader.counters
        device = self.loader.device
        counts = torch.tensor([own.crops, own.skipped], device=device)
        waited = torch.tensor(own.waited, device=device)
        torch.distributed.all_reduce(counts)
        torch.distributed.all_reduce(waited, torch.distributed.ReduceOp.MAX)
        return {"crops": int(counts[0]), "skipped": int(counts[1]), "waited": float(waited)}


def _train_rank(train_loop_config: dict[str, Any]) -> None:
    config: _RankConfig = train_loop_config["rank"]
    context = ray.train.get_context()
    torch.set_num_threads(1)
    crops = CropDataset(config.output, **dict(config.dataset))
    loader = CropLoader(
        crops,
        config.batch_size,
        workers=config.threads,
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        ranks=context.get_world_size(),
    )
    training = _Rank(loader, config.width, config.learning_rate)
    _load_latest(training, config)
    first = len(training.losses)
    training.distribute()
    started = time.perf_counter()
    metrics = MetricsLog(config.storage, first)
    while (step := len(training.losses)) < config.steps:
        training.advance()
        step += 1
        if step % config.progress_every == 0 or step == config.steps:
            metrics.add(training, time.perf_counter() - started)
        if step % config.save_every == 0 or step == config.steps:
            _save(training, metrics, first_rank=loader.rank == 0)
    if first >= config.steps:
        _save(training, metrics, first_rank=loader.rank == 0)


def _load_latest(training: _Rank, config: _RankConfig) -> None:
    """Resumes from this run's checkpoint or from the one that it was started with, whichever has more steps."""
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        if config.start is not None:
            (Path(folder) / CHECKPOINT).write_bytes(config.start)
            training.load(Path(folder) / CHECKPOINT)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None and checkpoint.get_metadata().get("step", 0) >= len(training.losses):
        with checkpoint.as_directory() as folder:
            training.load(Path(folder) / CHECKPOINT)


def _save(training: _Rank, metrics: MetricsLog, *, first_rank: bool) -> None:
    """Reports to Ray Train from every rank, from the first one with the checkpoint."""
    report = {
        "step": len(training.losses),
        "first": metrics.first,
        "batches": training.loader.counters.batches,
        "device": str(training.loader.device),
        **training.total_counters(),
    }
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        checkpoint = None
        if first_rank:
            training.save(Path(folder) / CHECKPOINT)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            checkpoint.set_metadata({"step": len(training.losses)})
            metrics.write()
        ray.train.report({**report, "loss": training.losses[-1]}, checkpoint=checkpoint)


def _report(result: ray.train.Result, path: Path, seconds: float) -> TrainReport:
    """Writes the final checkpoint to `path`; the result of the training."""
    metrics = result.metrics
    with result.checkpoint.as_directory() as folder:
        data = (Path(folder) / CHECKPOINT).read_bytes()
        state = torch.load(Path(folder) / CHECKPOINT, map_location="cpu", weights_only=True)
    Store(str(path.absolute().parent)).write(path.name, data, replace=True)
    first, last = first_and_last_loss(state["losses"])
    return TrainReport(
        steps=metrics["step"],
        resumed_at=metrics["first"],
        first_loss=first,
        last_loss=last,
        losses=tuple(state["losses"]),
        batches=metrics["batches"],
        crops=metrics["crops"],
        skipped=metrics["skipped"],
        waited=metrics["waited"],
        seconds=seconds,
        device=metrics["device"],
        parameters=sum(value.numel() for value in state["model"].values()),
        checkpoint=str(path),
    )
