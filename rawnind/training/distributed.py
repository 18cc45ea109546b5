"""Trains on several workers with Ray Train."""

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import ray
import ray.exceptions
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from rawnind import timing
from rawnind.errors import ConfigError, RawnindError, RayLostError
from rawnind.feed.crop_options import CropOptions, Input
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.feed.ray_data import location_of, ray_dataset
from rawnind.output.store import Store
from rawnind.training.crops import training_crops, validation_crops
from rawnind.training.log import MetricsLog, TrainReport, first_and_last_loss, read_metrics
from rawnind.training.loop import Run, best_path, checkpoint_path, log_progress, log_scores
from rawnind.training.options import TrainKeywords, TrainOptions, split_keywords, trained_cfa
from rawnind.training.trainer import Trainer, TrainingError
from rawnind.training.validation import CropScore, Scores, Validator
from rawnind.words import counted

__all__ = ["ray_dataset", "read_metrics", "train_distributed"]

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
_LOOK_EVERY = 1.0  # seconds between two looks at the metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class _RankConfig:
    """The configuration of every rank.

    Attributes:
        crops: options of `CropDataset`.
        start: the checkpoint from which the training was started; None: from random weights.
    """

    output: str
    storage: str
    options: TrainOptions
    crops: CropOptions
    progress_every: int
    threads: int
    start: bytes | None

    def name(self) -> str:
        """The name of the run; equal for trainings that can resume from each other's checkpoints."""
        options = self.options
        identity = [
            self.output, options.batch_size, options.network(Input(self.crops.get("input", Input.RAW))),
            options.learning_rate, options.hold_out_camera, sorted(map(repr, self.crops.items())),
        ]  # fmt: skip
        return f"run-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"


def train_distributed(
    output: str | Path,
    *,
    workers: int,
    checkpoint: Path | None = None,
    storage: str | Path | None = None,
    gpus: bool | None = None,
    threads: int = 1,
    progress_every: int = 5,
    max_failures: int = 3,
    progress: Callable[[int, float], None] | None = None,
    validated: Callable[[Scores], None] | None = None,
    **options: Unpack[TrainKeywords],
) -> TrainReport:
    """Trains on several workers with Ray Train until `steps` steps are done.

    Every rank takes its share of every step: the ranks have equal numbers of batches, and their numbers of samples differ by
    at most one. When a worker dies, all ranks restart from the last checkpoint. A training resumes from a checkpoint of either
    trainer, this one or `loop.train`. `storage/metrics.jsonl` holds a line of metrics per `progress_every` steps.

    Args:
        output: the folder that `rawnind prepare` wrote; every node must be able to read it under this name.
        workers: number of ranks; each takes a CPU, and a GPU where there are enough.
        checkpoint: file of the final checkpoint; None: `checkpoint.pt` in a local `output`.
        storage: folder in which Ray Train keeps checkpoints and metrics; None: `train` in `output`.
        gpus: whether each worker takes a GPU; None: where there are at least as many as workers.
        threads: threads of each rank that prefetch batches.
        progress_every: steps between two lines of metrics.
        max_failures: how often the training restarts after the death of a worker.
        progress: called with (step, mean loss since the last call), within seconds; None: lines are logged.
        validated: called with the scores of each validation, within seconds; None: they are logged.
        options: see `TrainOptions` and `CropOptions`; `batch_size` is that of a rank, `crop_size` is 128 by default, and
            `seed` also initialises the weights.

    Returns:
        Losses, scores, counts and times.

    Raises:
        ConfigError: An option is wrong, the cluster has too few CPUs, or there are too few crops.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest or a shard cannot be read.
        TrainingError: The loss is not finite, or too many workers died.
        RayLostError: Ray itself ended.

    Examples:
        >>> report = train_distributed("s3://bucket/out", steps=5000, workers=4, checkpoint=Path("c.pt"))  # doctest: +SKIP
    """
    started = time.perf_counter()
    chosen, crop_options = split_keywords(dict(options))
    location = location_of(output)
    path = checkpoint_path(output, checkpoint)
    crops = training_crops(location, chosen, crop_options)
    _require_crops(crops, workers, chosen.batch_size)
    _connect()
    use_gpu = _use_gpus(workers, gpus)
    config = _RankConfig(
        output=location,
        storage=location_of(storage or f"{location}/train"),
        options=chosen,
        crops=crop_options,
        progress_every=progress_every,
        threads=threads,
        start=path.read_bytes() if path.exists() else None,
    )
    Store(config.storage).remove(BEST)  # of an earlier training
    with _Watch(config.storage, progress or log_progress, validated or log_scores):
        result = _fit(config, workers, max_failures, use_gpu=use_gpu)
    return _report(result, config.storage, path, time.perf_counter() - started)


class _Watch:
    """Reads the metrics while the ranks train, and calls the caller's functions with what is new."""

    def __init__(
        self, storage: str, progress: Callable[[int, float], None], validated: Callable[[Scores], None]
    ) -> None:
        self._storage = storage
        self._progress, self._validated = progress, validated
        self._shown = max(map(_place, read_metrics(storage)), default=(0, False))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._show()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            self._show()

    def _show(self) -> None:
        lines = [line for line in read_metrics(self._storage) if _place(line) > self._shown]
        for line in lines:
            if "validation" in line:
                self._validated(Scores(**line["validation"]))
            else:
                self._progress(line["step"], line["loss"])
        self._shown = max(map(_place, lines), default=self._shown)


def _place(line: dict[str, Any]) -> tuple[int, bool]:
    """The order of lines: a step's validation comes after its loss."""
    return line["step"], "validation" in line


def _require_crops(crops: CropDataset, workers: int, batch_size: int) -> None:
    if workers < 1 or batch_size < 1:
        raise ConfigError(f"workers and batch_size must be at least 1, got {workers} and {batch_size}")
    if len(crops) < workers * batch_size:
        raise ConfigError(
            f"{counted(workers, 'worker')} with batches of {batch_size}: {workers * batch_size} crops are needed, there are {len(crops)}"
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
    except ray.exceptions.RayError as error:
        raise RayLostError(f"Ray lost the training: {type(error).__name__}") from error


def _cause_of(error: Exception) -> RawnindError:
    """The RawnindError that a rank raised, or else a TrainingError."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, RawnindError):
            return cause
    return TrainingError(f"training failed on {len(failures) or 'some'} workers: {error}")


class _Rank(Trainer):
    """One rank; gradients and losses are means over all ranks."""

    def distribute(self) -> None:
        """Wraps the network for distributed training; call it after `load`."""
        wrapped = ray.train.torch.prepare_model(self.model)
        self.forward = torch.compile(wrapped) if self.options.compile else wrapped

    def mean(self, loss: Tensor) -> float:
        """The mean loss of the step over all ranks."""
        total = loss.clone()
        torch.distributed.all_reduce(total)
        return float(total) / torch.distributed.get_world_size()

    def gathered(self, scores: Sequence[CropScore]) -> Sequence[CropScore]:
        """The scores of all ranks."""
        parts: list[Sequence[CropScore]] = [()] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, scores)
        return [score for part in parts for score in part]

    def total_counters(self) -> dict[str, float]:
        """The sums of crops and of replaced crops over all ranks, and the longest wait of a rank."""
        own = self.loader.counters
        device = self.loader.device
        counts = torch.tensor([own.crops, own.skipped], device=device)
        waited = torch.tensor(own.waited, device=device)
        torch.distributed.all_reduce(counts)
        torch.distributed.all_reduce(waited, torch.distributed.ReduceOp.MAX)
        return {"crops": int(counts[0]), "skipped": int(counts[1]), "waited": float(waited)}


class _Reports:
    """Metrics from the first rank, checkpoints through Ray Train."""

    def __init__(self, rank: _Rank, storage: str) -> None:
        self._rank = rank
        self._metrics = MetricsLog(storage, rank.step, active=torch.distributed.get_rank() == 0)
        self._store = Store(storage)

    def progress(self) -> None:
        self._metrics.add(self._rank)

    def validated(self, scores: Scores) -> None:
        self._metrics.add_scores(scores, self._rank.pictures() if self._metrics.active else [])

    def save(self, *, best: bool) -> None:
        """Reports to Ray Train from every rank, from the first one with the checkpoint."""
        rank = self._rank
        report = {
            "step": rank.step,
            "first": self._metrics.first,
            "batches": rank.loader.counters.batches,
            "device": str(rank.loader.device),
            "loss": rank.losses[-1],
            **rank.total_counters(),
        }
        with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
            checkpoint = None
            if self._metrics.active:
                rank.save(Path(folder) / CHECKPOINT)
                if best:
                    self._store.write(BEST, (Path(folder) / CHECKPOINT).read_bytes(), replace=True)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
                checkpoint.set_metadata({"step": rank.step})
                self._metrics.write()
            ray.train.report(report, checkpoint=checkpoint)


def _train_rank(train_loop_config: dict[str, Any]) -> None:
    config: _RankConfig = train_loop_config["rank"]
    options = config.options
    context = ray.train.get_context()
    torch.set_num_threads(1)
    loader = CropLoader(
        training_crops(config.output, options, config.crops),
        options.batch_size,
        workers=config.threads,
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        ranks=context.get_world_size(),
    )
    held_out = validation_crops(config.output, options, config.crops)
    rank = _Rank(loader, options, cfa=trained_cfa(config.crops))
    if held_out is not None:
        place = {"rank": loader.rank, "ranks": loader.ranks}
        rank.validator = Validator(held_out, rank.config, options.gain, loader.device, **place)
    _load_latest(rank, config)
    rank.distribute()
    reports = _Reports(rank, config.storage)
    if rank.step >= options.steps:
        reports.save(best=False)
    Run(rank, config.progress_every).go(reports)


def _load_latest(rank: _Rank, config: _RankConfig) -> None:
    """Resumes from this run's checkpoint or from the one that it was started with, whichever has more steps."""
    with tempfile.TemporaryDirectory(prefix="rawnind-") as folder:
        if config.start is not None:
            (Path(folder) / CHECKPOINT).write_bytes(config.start)
            rank.load(Path(folder) / CHECKPOINT)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None and checkpoint.get_metadata().get("step", 0) >= rank.step:
        with checkpoint.as_directory() as folder:
            rank.load(Path(folder) / CHECKPOINT)


def _report(result: ray.train.Result, storage: str, path: Path, seconds: float) -> TrainReport:
    """Writes the final checkpoint to `path`; the result of the training."""
    metrics = result.metrics
    with result.checkpoint.as_directory() as folder:
        data = (Path(folder) / CHECKPOINT).read_bytes()
        state = torch.load(Path(folder) / CHECKPOINT, map_location="cpu", weights_only=True)
    beside, kept = Store(str(path.absolute().parent)), Store(storage)
    beside.write(path.name, data, replace=True)
    if kept.exists(BEST):
        beside.write(best_path(path).name, kept.read(BEST), replace=True)
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
        scores=_last_scores(storage, metrics["first"]),
    )


def _last_scores(storage: str, first: int) -> Scores | None:
    found = [
        line["validation"] for line in read_metrics(storage) if line["step"] > first and "validation" in line
    ]
    return Scores(**found[-1]) if found else None
