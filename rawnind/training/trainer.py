"""Network, optimiser and loader, which are saved and loaded together."""

import math
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rawnind.errors import ConfigError, RawnindError
from rawnind.feed.batch import Batch
from rawnind.feed.loader import CropLoader
from rawnind.output.versions import VERSIONS
from rawnind.training.augmentation import DRAWS, other_light
from rawnind.training.checkpoint import fits, read_checkpoint, require_shapes
from rawnind.training.losses import sample_losses
from rawnind.training.model import UNet
from rawnind.training.options import Precision, TrainOptions
from rawnind.training.pictures import strips
from rawnind.training.prediction import plainly_demosaiced, predict
from rawnind.training.schedule import learning_rate
from rawnind.training.validation import CropScore, Scores, Validator

if TYPE_CHECKING:  # it imports Ray, which takes seconds
    from rawnind.training.live import LiveLoader

_PICTURES = 4
_LEAST_LOSS = 1e-4  # of an input, below which it counts no less
_OTHER = "choose another checkpoint or remove it"


class TrainingError(RawnindError):
    """Training failed. Try a lower learning rate, or look at the data with `rawnind report`."""


class Trainer:
    """Takes the steps of a training.

    Args:
        loader: the loader of the batches, with the noise where the network is conditioned.
        options: of the training.
        cfa: the one that is trained on; None: any.

    Attributes:
        model: the network.
        forward: the module that is called with the input: `model`, or a wrapper of it.
        average: the moving average of the network's parameters, by name; empty with `ema=0`.
        losses: the loss of every step so far.
        scores: (step, mean PSNR in dB) of every validation so far.
        validator: measures the network; None where no crop is held out.
    """

    def __init__(
        self, loader: "CropLoader | LiveLoader", options: TrainOptions, *, cfa: str | None = None
    ) -> None:
        samples = loader.dataset.options if isinstance(loader, CropLoader) else loader.options
        self.options = options
        self.config = options.network(samples.input)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(samples.seed)
            self.model = UNet(self.config)
        self.model.to(loader.device)
        self.forward: Callable[..., Tensor] = torch.compile(self.model) if options.compile else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()} if options.ema else {}
        self.losses: list[float] = []
        self.scores: list[tuple[int, float]] = []
        self.loader = loader
        self.validator: Validator | None = None
        self._cfa = cfa
        self._samples = samples
        self._number_type = _number_type(options.precision, loader.device)
        self._scaler = torch.amp.GradScaler(
            loader.device.type, enabled=self._number_type is torch.float16 and loader.device.type == "cuda"
        )
        self._batches = iter(loader)

    @property
    def step(self) -> int:
        """Steps that were taken, including those before a resume."""
        return len(self.losses)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.options, self.step, [psnr for _, psnr in self.scores])

    def advance(self) -> None:
        """Takes one optimiser step.

        Raises:
            TrainingError: The loss is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.loader.device)
        for part in range(self.options.accumulate):
            loss = self._loss(self._lit(self._next(), part)) / self.options.accumulate
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._scaler.unscale_(self.optimizer)
        if self.options.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.losses.append(self.mean(total))
        if not math.isfinite(self.losses[-1]):
            raise TrainingError(f"the loss is {self.losses[-1]} at step {self.step}")
        self._update_average()

    def _lit(self, batch: Batch, part: int) -> Batch:
        """The batch in other light, drawn from the seed and the step, for all ranks together."""
        if not self._samples.augment:
            return batch
        rank, ranks = (self.loader.rank, self.loader.ranks) if isinstance(self.loader, CropLoader) else (0, 1)
        count = len(batch["y_crops"])
        rng = np.random.default_rng([self._samples.seed, self.step, part])
        draws = torch.from_numpy(rng.random((ranks, count, DRAWS), np.float32)[rank])
        return other_light(batch, self.config.input, draws.to(self.loader.device))

    def _loss(self, batch: Batch) -> Tensor:
        found = predict(self._in_number_type, self.config, self.options.gain, batch)
        losses = sample_losses(self.options.loss, *found)
        if self.options.balance:
            with torch.no_grad():
                plain = plainly_demosaiced(self.config, self.options.gain, batch)
                of_input = sample_losses(self.options.loss, *plain)
            losses = losses / of_input.clamp(min=_LEAST_LOSS)
        return losses.mean()

    def _in_number_type(self, *inputs: Tensor) -> Tensor:
        """The network's output; colours and losses are float32 in any case."""
        kind, enabled = self.loader.device.type, self._number_type is not torch.float32
        with torch.autocast(kind, self._number_type, enabled=enabled):
            return self.forward(*inputs)

    def _next(self) -> Batch:
        while True:
            for batch in self._batches:
                return batch
            self._batches = iter(self.loader)

    @torch.no_grad()
    def _update_average(self) -> None:
        """The average follows closely at first, so that it does not remember the random start."""
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        own = self.model.state_dict()
        for name, value in self.average.items():
            value.lerp_(own[name], 1 - decay)

    def mean(self, loss: Tensor) -> float:
        """The mean loss of the step over all ranks."""
        return float(loss)

    def gathered(self, scores: Sequence[CropScore]) -> Sequence[CropScore]:
        """The scores of all ranks."""
        return scores

    def validate(self) -> Scores | None:
        """Measures the averaged network, or the network where there is no average, and notes the result.

        Returns:
            The scores; None where no crop with a valid pixel is held out.
        """
        if self.validator is None:
            return None
        network = self.validated_network()
        own = self.validator.measure(network, most=self.options.validation_crops)
        crops = self.gathered(own)
        if not crops:
            return None
        scores = Scores.of(self.step, crops)
        self.scores.append((self.step, scores.total["output_psnr"]))
        return scores

    def validated_network(self) -> UNet:
        """The network with the averaged parameters, where there are any."""
        if not self.average:
            return self.model
        network = UNet(self.config).to(self.loader.device)
        network.load_state_dict(self.average)
        return network

    def pictures(self) -> list[NDArray[np.uint8]]:
        """(h, w, 3) pictures of what the network does with some of the crops that are held out."""
        if self.validator is None:
            return []
        return strips(self.validator, self.validated_network(), _PICTURES)

    @property
    def is_best(self) -> bool:
        """Whether the last validation was the best so far."""
        return bool(self.scores) and self.scores[-1][1] >= max(psnr for _, psnr in self.scores)

    def save(self, path: Path) -> None:
        """Writes a checkpoint atomically: a killed run leaves the previous one."""
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                torch.save(self._state(), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _state(self) -> dict[str, object]:
        return {
            "format": VERSIONS["checkpoint"],
            "network": self.config.plain(),
            "cfa": self._cfa,
            "options": self.options.plain(),
            "model": self.model.state_dict(),
            "average": self.average or None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "feed": self.loader.state_dict(),
            "losses": self.losses,
            "scores": self.scores,
        }

    def load(self, path: Path) -> None:
        """Resumes from a checkpoint, if the file exists.

        Raises:
            ConfigError: It is damaged, or of another training.
        """
        if not path.exists():
            return
        state = read_checkpoint(path, self.loader.device)
        if state.config() != self.config or (state.average is None) != (not self.average):
            raise ConfigError(f"{path} is of another network; {_OTHER}")
        for weights in (state.model, state.model if state.average is None else state.average):
            require_shapes(path, weights, self.model)
        if not fits(state.optimizer, self.optimizer.state_dict(), self.model.state_dict()):
            raise ConfigError(f"{path} does not fit the network; {_OTHER}")
        try:
            self.loader.load_state_dict(state.feed)
        except ConfigError as error:
            raise ConfigError(f"{path} is of another training; {_OTHER}: {error}") from error
        self.model.load_state_dict(state.model)
        for name, value in (state.average or {}).items():
            self.average[name].copy_(value)
        self.optimizer.load_state_dict(state.optimizer)
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state.scaler)
        self.losses = list(state.losses)
        self.scores = list(state.scores)


def _number_type(precision: Precision, device: torch.device) -> torch.dtype:
    if precision is Precision.AUTO:
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return {
        Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16,
    }[precision]  # fmt: skip
