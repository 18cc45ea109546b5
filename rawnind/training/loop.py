"""Trains a denoiser on an output folder, in one process."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Unpack

import torch

from rawnind.errors import ConfigError, printable, redacted
from rawnind.feed.crop_options import CropOptions
from rawnind.feed.dataset import CropDataset
from rawnind.feed.loader import CropLoader
from rawnind.pipeline.signals import Interrupts
from rawnind.training.crops import training_crops, validation_crops
from rawnind.training.log import MetricsLog, TrainReport, first_and_last_loss
from rawnind.training.options import TrainKeywords, TrainOptions, split_keywords, trained_cfa
from rawnind.training.schedule import since_best
from rawnind.training.trainer import Trainer
from rawnind.training.validation import Scores, Validator, table

if TYPE_CHECKING:  # it imports Ray, which takes seconds
    from rawnind.training.live import LiveLoader

log = logging.getLogger(__name__)


def train(
    output: str | Path,
    *,
    checkpoint: Path | None = None,
    live: bool = False,
    workers: int = 1,
    device: str | None = None,
    cores: int = 1,
    progress_every: int = 5,
    progress: Callable[[int, float], None] | None = None,
    validated: Callable[[Scores], None] | None = None,
    **options: Unpack[TrainKeywords],
) -> TrainReport:
    """Trains until `steps` steps are done, resuming from a checkpoint of the same training.

    The checkpoint has the last state; beside it, `<name>-best` has that of the best validation so far, and the folder of
    `log_folder` has metrics, pictures and events for TensorBoard. Ctrl-C saves before it ends the training.

    Args:
        output: the folder that `rawnind prepare` wrote.
        checkpoint: file for weights, optimiser and position; None: `checkpoint.pt` in a local `output`.
        live: whether to begin while `rawnind prepare` still fills the folder, with the first scene; each crop is used
            once as it comes, and validation begins when the run has ended.
        workers: threads that prefetch batches.
        device: torch's name of the device; None: "cuda" where there is one, else "cpu".
        cores: number of cores that torch uses for one operation on a CPU. With one, the result is the same on every
            machine. More are faster only on an idle machine (on two busy cores, two were 30 times slower).
        progress_every: steps between two calls of `progress`.
        progress: called with (step, mean loss since the last call); None: a line is logged.
        validated: called with the scores of each validation; None: they are logged.
        options: see `TrainOptions` and `CropOptions`; `crop_size` is 128 by default, and `seed` also initialises the weights.

    Returns:
        Losses, scores, counts and times.

    Raises:
        ConfigError: An option is wrong, there are fewer crops than a batch needs, or the checkpoint is of another training.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest or a shard cannot be read.
        TrainingError: The loss is not finite.

    Examples:
        >>> report = train("out", steps=2000, batch_size=8, iso=(800, 12800))  # doctest: +SKIP
    """
    started = time.perf_counter()
    chosen, crops = split_keywords(dict(options))
    path = checkpoint_path(output, checkpoint)
    found = torch_device(device)

    def set_validator() -> None:
        held_out = validation_crops(output, chosen, crops)
        if held_out is not None:
            trainer.validator = Validator(held_out, trainer.config, chosen.gain, found)

    loader: CropLoader | LiveLoader
    if live:
        from rawnind.training import live as live_feed  # noqa: PLC0415 as above

        loader = live_feed.LiveLoader(
            output, chosen, crops, workers=workers, device=found, ended=set_validator
        )
    else:
        loader = CropLoader(_enough(output, chosen, crops), chosen.batch_size, workers=workers, device=found)
    trainer = Trainer(loader, chosen, cfa=trained_cfa(crops))
    if not live:
        set_validator()
    trainer.load(path)
    resumed_at = trainer.step
    metrics = MetricsLog(str(log_folder(path)), resumed_at)
    files = _Files(trainer, metrics, path, progress or log_progress, validated or log_scores)
    with torch_cores(cores), contextlib.closing(metrics), Interrupts() as interrupts:
        run = Run(trainer, progress_every)
        interrupts.listen(run.stop)
        scores = run.go(files)
    return _report(trainer, resumed_at, path, time.perf_counter() - started, scores)


def _enough(output: str | Path, options: TrainOptions, crops: CropOptions) -> CropDataset:
    dataset = training_crops(output, options, crops)
    if len(dataset) < options.batch_size:
        raise ConfigError(
            f"a batch of {options.batch_size} needs as many crops, {redacted(str(output))} has {len(dataset)} to train on"
        )
    return dataset


class Reporter(Protocol):
    """Shows and keeps what a training does."""

    def progress(self) -> None:
        """Some steps were taken."""
        ...

    def validated(self, scores: Scores) -> None:
        """The network was measured."""
        ...

    def save(self, *, best: bool) -> None:
        """The state is to be kept; `best`: the validation of this step was the best so far."""
        ...


class Run:
    """Takes the steps of a training, and reports, validates and saves between them.

    Args:
        trainer: takes a step.
        progress_every: steps between two reports.
    """

    def __init__(self, trainer: Trainer, progress_every: int) -> None:
        self._trainer = trainer
        self._progress_every = progress_every
        self._stopped = False

    def stop(self) -> None:
        """Saves after the current step and raises KeyboardInterrupt."""
        self._stopped = True

    def go(self, reporter: Reporter) -> Scores | None:
        """Takes steps until all are done or validations no longer improve; the scores of the last validation.

        Raises:
            KeyboardInterrupt: `stop` was called.
        """
        trainer, options = self._trainer, self._trainer.options
        scores = None
        while not self._ended():
            trainer.advance()
            step, last = trainer.step, trainer.step >= options.steps
            if step % self._progress_every == 0 or last:
                reporter.progress()
            due = last or bool(options.validate_every and step % options.validate_every == 0)
            if due:
                scores = trainer.validate() or scores
            if due and scores is not None:
                reporter.validated(scores)
            if due or step % options.save_every == 0 or self._stopped:
                reporter.save(best=due and trainer.is_best)
            if self._stopped:
                raise KeyboardInterrupt
        return scores

    def _ended(self) -> bool:
        trainer, options = self._trainer, self._trainer.options
        out_of_patience = since_best([psnr for _, psnr in trainer.scores]) >= options.patience > 0
        return trainer.step >= options.steps or out_of_patience


class _Files:
    """Writes checkpoints and metrics to local files, and calls the caller's functions."""

    def __init__(
        self,
        trainer: Trainer,
        metrics: MetricsLog,
        path: Path,
        progress: Callable[[int, float], None],
        validated: Callable[[Scores], None],
    ) -> None:
        self._trainer = trainer
        self._metrics = metrics
        self._path = path
        self._progress, self._validated = progress, validated

    def progress(self) -> None:
        self._progress(self._trainer.step, self._metrics.add(self._trainer))

    def validated(self, scores: Scores) -> None:
        self._metrics.add_scores(scores, self._trainer.pictures())
        self._validated(scores)

    def save(self, *, best: bool) -> None:
        self._trainer.save(self._path)
        if best:
            self._trainer.save(best_path(self._path))
        self._metrics.write()


def _report(
    trainer: Trainer, resumed_at: int, path: Path, seconds: float, scores: Scores | None
) -> TrainReport:
    first, last = first_and_last_loss(trainer.losses)
    counters = trainer.loader.counters
    return TrainReport(
        steps=trainer.step,
        resumed_at=resumed_at,
        first_loss=first,
        last_loss=last,
        losses=tuple(trainer.losses),
        batches=counters.batches,
        crops=counters.crops,
        skipped=counters.skipped,
        waited=counters.waited,
        seconds=seconds,
        device=str(trainer.loader.device),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        checkpoint=str(path),
        scores=scores,
        seen_live=None if isinstance(trainer.loader, CropLoader) else trainer.loader.seen,
    )


def torch_device(name: str | None) -> torch.device:
    """A device that works.

    Args:
        name: as torch spells it; None: "cuda" where there is one, else "cpu".

    Raises:
        ConfigError: There is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = printable(str(error).partition("\n")[0])
        raise ConfigError(f"torch cannot use the device {name}: {reason}") from error
    return device


@contextlib.contextmanager
def torch_cores(count: int) -> Iterator[None]:
    """Within the block, torch uses `count` cores for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checkpoint_path(output: str | Path, checkpoint: Path | None) -> Path:
    """The file of the checkpoint.

    Raises:
        ConfigError: `output` is remote, and `checkpoint` is None.
    """
    if checkpoint is None and "://" in str(output):
        raise ConfigError(
            f"{redacted(str(output))} is not a local folder; name a local file with checkpoint (--checkpoint)"
        )
    return checkpoint or Path(output) / "checkpoint.pt"


def best_path(checkpoint: Path) -> Path:
    """The file of the best state, beside that of the last one.

    >>> best_path(Path("out/checkpoint.pt")).as_posix()
    'out/checkpoint-best.pt'
    """
    return checkpoint.with_name(f"{checkpoint.stem}-best{checkpoint.suffix}")


def log_folder(checkpoint: Path) -> Path:
    """The folder of metrics, pictures and events, beside the checkpoint.

    >>> [log_folder(Path(name)).as_posix() for name in ("out/checkpoint.pt", "out/x-trans.pt")]
    ['out/train', 'out/x-trans-train']
    """
    return checkpoint.with_name("train" if checkpoint.stem == "checkpoint" else f"{checkpoint.stem}-train")


def log_progress(step: int, loss: float) -> None:
    """Logs the progress of a training."""
    log.info("step %6d  loss %.4f", step, loss)


def log_scores(scores: Scores) -> None:
    """Logs the table of a validation."""
    for line in table(scores):
        log.info("%s", line)
