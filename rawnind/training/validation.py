"""Measures a network, and the plainly demosaiced noisy input beside it, on crops that it was not trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, Self, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from rawnind.errors import printable
from rawnind.feed.batch import Batch, to_device
from rawnind.feed.dataset import CropDataset
from rawnind.training.losses import masked_ms_ssim, masked_psnr
from rawnind.training.model import NetworkConfig
from rawnind.training.options import GainMatch
from rawnind.training.prediction import Prediction, plainly_demosaiced, predict
from rawnind.words import counted

TOLERANCE = 0.1
"""dB; a network counts as worse than its input where its mean PSNR is lower by more than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Of one picture, beside its ground truth.

    Attributes:
        psnr: dB over valid pixels, linear Rec.2020, peak 1.
        msssim: 0..1 over valid pixels, linear Rec.2020.
        display_psnr: dB, encoded as for a display, see `display_encoded`.
        display_msssim: 0..1, encoded as for a display.
    """

    psnr: float
    msssim: float
    display_psnr: float
    display_msssim: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CropScore:
    """Of one crop.

    Attributes:
        iso: of the noisy photo; None where it is unknown.
        camera: its name.
        input: of the plainly demosaiced noisy photo.
        output: of the network's output.
    """

    iso: int | None
    camera: str
    input: Quality
    output: Quality


class Means(TypedDict):
    """Means over crops, in linear Rec.2020; a row by ISO has its `iso` too, a row by camera its `camera`.

    Attributes:
        crops: how many.
        input_psnr: of the plainly demosaiced noisy photo, dB.
        output_psnr: of the network's output, dB.
        input_msssim: 0..1.
        output_msssim: 0..1.
        iso: of the noisy photo; None where it is unknown.
        camera: its name.
    """

    crops: int
    input_psnr: float
    output_psnr: float
    input_msssim: float
    output_msssim: float
    iso: NotRequired[int | None]
    camera: NotRequired[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Of a validation.

    Attributes:
        step: optimiser steps of the network.
        total: over all crops.
        display: over all crops, encoded as for a display.
        by_iso: in rising order; crops of unknown ISO come last.
        by_camera: in the order of their names.
    """

    step: int
    total: Means
    display: Means
    by_iso: tuple[Means, ...]
    by_camera: tuple[Means, ...]

    @classmethod
    def of(cls, step: int, crops: Sequence[CropScore]) -> Self:
        """The means of scores.

        Args:
            step: optimiser steps of the network.
            crops: at least one.
        """
        isos = sorted({crop.iso for crop in crops}, key=lambda iso: (iso is None, iso))
        cameras = sorted({crop.camera for crop in crops})
        return cls(
            step=step,
            total=_means(crops),
            display=_means(crops, "display_"),
            by_iso=tuple(
                Means(iso=iso, **_means([crop for crop in crops if crop.iso == iso])) for iso in isos
            ),
            by_camera=tuple(
                Means(camera=name, **_means([crop for crop in crops if crop.camera == name]))
                for name in cameras
            ),
        )


def _means(crops: Sequence[CropScore], prefix: str = "") -> Means:
    def mean(side: str, name: str) -> float:
        values = [getattr(getattr(crop, side), prefix + name) for crop in crops]
        return round(float(np.mean(values)), 4)

    return Means(
        crops=len(crops),
        input_psnr=mean("input", "psnr"),
        output_psnr=mean("output", "psnr"),
        input_msssim=mean("input", "msssim"),
        output_msssim=mean("output", "msssim"),
    )


class Validator:
    """Measures networks on the same crops again and again; what is measured of the input is kept.

    Args:
        crops: without augmentation, with the extras iso and camera, and the noise where the network is conditioned.
        config: what the networks are built from.
        gain: what is brought to the ground truth's level.
        device: of the networks.
        rank: number of this process, from 0; it takes every `ranks`th crop.
        ranks: number of processes.
    """

    def __init__(
        self,
        crops: CropDataset,
        config: NetworkConfig,
        gain: GainMatch,
        device: torch.device,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.crops = crops
        self._config = config
        self._gain = gain
        self._device = device
        self._rank, self._ranks = rank, ranks
        self._inputs: dict[int, Quality] = {}

    @torch.no_grad()
    def measure(self, network: nn.Module, *, most: int | None = None) -> list[CropScore]:
        """The scores of this rank's crops; a crop without a valid pixel has none.

        Args:
            network: to measure.
            most: crops of all ranks together that are taken at most, evenly spaced; None: all.
        """
        network.eval()
        own = _spaced(len(self.crops), most)[self._rank :: self._ranks]
        scores = [self._score(index, network) for index in own]
        network.train()
        return [score for score in scores if score is not None]

    @torch.no_grad()
    def examples(self, network: nn.Module, count: int) -> Iterator[tuple[Prediction, Prediction]]:
        """The plainly demosaiced input and the network's output of some crops, evenly spaced.

        Args:
            network: a `UNet`.
            count: of crops.
        """
        network.eval()
        for index in _spaced(len(self.crops), count):
            batch = self._batch(index)
            yield plainly_demosaiced(self._config, self._gain, batch), self._predict(network, batch)
        network.train()

    def _batch(self, index: int) -> Batch:
        return to_device(self.crops.native([index]), self._device)

    def _predict(self, network: nn.Module, batch: Batch) -> Prediction:
        return predict(network, self._config, self._gain, batch)

    def _score(self, index: int, network: nn.Module) -> CropScore | None:
        batch = self._batch(index)
        found = self._predict(network, batch)
        if not found.mask.any():
            return None
        if index not in self._inputs:
            self._inputs[index] = _quality(plainly_demosaiced(self._config, self._gain, batch))
        iso = float(batch["iso"][0])
        return CropScore(
            iso=None if np.isnan(iso) else int(iso),
            camera=batch["camera"][0],
            input=self._inputs[index],
            output=_quality(found),
        )


def _spaced(count: int, most: int | None) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced.

    >>> _spaced(9, 3)
    [0, 4, 8]
    """
    spaced = np.linspace(0, count - 1, min(count, most or count)).round().astype(int)
    return [int(number) for number in np.unique(spaced)]


def _quality(found: Prediction) -> Quality:
    output, target, mask = found
    shown, wanted = display_encoded(output), display_encoded(target)
    return Quality(
        psnr=float(masked_psnr(output, target, mask)),
        msssim=float(masked_ms_ssim(output, target, mask)),
        display_psnr=float(masked_psnr(shown, wanted, mask)),
        display_msssim=float(masked_ms_ssim(shown, wanted, mask)),
    )


def display_encoded(linear: Tensor) -> Tensor:
    """Linear values clipped to 0..1 with the curve of sRGB (IEC 61966-2-1); primaries stay as they are.

    >>> display_encoded(torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    tensor([0.0000, 0.0000, 0.7354, 1.0000])
    """
    v = linear.clamp(0, 1)
    return torch.where(v <= 0.0031308, 12.92 * v, 1.055 * v.clamp(min=1e-6) ** (1 / 2.4) - 0.055)


def verdict(scores: Scores) -> str:
    """One sentence on whether the network beats its input, and at which ISO and with which camera it does not."""
    gain = psnr_gain(scores.total)
    named = [(f"at ISO {row['iso'] or 'unknown'}", row) for row in scores.by_iso]
    named += [(f"with {printable(row['camera'])}", row) for row in scores.by_camera]
    worse = [f"{name} ({psnr_gain(row):+.2f} dB)" for name, row in named if psnr_gain(row) < -TOLERANCE]
    where = f"the plainly demosaiced input on {counted(scores.total['crops'], 'held-out crop')}: {gain:+.2f} dB PSNR"
    not_worse = "equals" if gain >= -TOLERANCE and not worse else "does NOT beat"
    word = "beats" if gain > TOLERANCE else not_worse
    rest = f"worse {', '.join(worse)}" if worse else "worse at no ISO and with no camera"
    return f"The network {word} {where}; {rest}."


def psnr_gain(row: Means) -> float:
    """By how many dB the output is better than the input."""
    return row["output_psnr"] - row["input_psnr"]


def table(scores: Scores) -> list[str]:
    """The scores as lines for a terminal, by ISO, by camera and in all."""
    return [
        f"{f'step {scores.step}':26s} crops  PSNR: input  output    gain  MS-SSIM: input  output",
        *(_line(f"ISO {row['iso'] or 'unknown'}", row) for row in scores.by_iso),
        *(_line(printable(row["camera"], 26), row) for row in scores.by_camera),
        _line("all", scores.total),
        _line("all, encoded as displayed", scores.display),
    ]


def _line(name: str, row: Means) -> str:
    return (
        f"{name:26s} {row['crops']:5d}  {row['input_psnr']:11.2f} {row['output_psnr']:7.2f} {psnr_gain(row):+7.2f}  "
        f"{row['input_msssim']:14.4f} {row['output_msssim']:7.4f}"
    )
