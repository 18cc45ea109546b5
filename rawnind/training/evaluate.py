"""Measures a checkpoint on an output folder."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from rawnind.errors import ConfigError
from rawnind.feed.crop_options import CropOptions
from rawnind.training.checkpoint import load_network
from rawnind.training.crops import validation_crops
from rawnind.training.loop import best_path, checkpoint_path, torch_cores, torch_device
from rawnind.training.options import GainMatch, TrainOptions, split_keywords
from rawnind.training.validation import Scores, Validator


def evaluate(
    output: str | Path,
    *,
    checkpoint: Path | None = None,
    split: Literal["val", "test", "all"] = "val",
    device: str | None = None,
    cores: int = 1,
) -> Scores:
    """The scores of a trained network, and of the plainly demosaiced noisy input, on every crop of a split.

    Args:
        output: the folder that `rawnind prepare` wrote.
        checkpoint: file that `train` wrote; None: the best one in `output`, or else the last one.
        split: "val": what the training held out; "test": the test reserve; "all": training and validation scenes.
        device: torch's name of the device; None: "cuda" where there is one, else "cpu".
        cores: number of cores that torch uses for one operation on a CPU; more are faster only on an idle machine.

    Raises:
        ConfigError: The file is no checkpoint, torch has no such device, or the split has no crop for this network.
        NotPreparedError: The folder has no manifest.
        ManifestError: The manifest or a shard cannot be read.
    """
    path = checkpoint or _found(output)
    where = torch_device(device)
    network, state = load_network(path, where)
    options = _options(state.options)
    crops: CropOptions = {
        "input": network.config.input, "cfa": state.cfa,
        "match_gain": options.gain is GainMatch.INPUT, "validation_share": options.validation_share,
    }  # fmt: skip
    held_out = validation_crops(output, options, crops, split)
    scores = []
    if held_out is not None:
        with torch_cores(cores):
            scores = Validator(held_out, network.config, options.gain, where).measure(network)
    if not scores:
        raise ConfigError(
            f"the split {split} of {output} has no crop for the network in {path}; name another --split"
        )
    return Scores.of(len(state.losses), scores)


def _found(output: str | Path) -> Path:
    last = checkpoint_path(output, None)
    best = best_path(last)
    return best if best.exists() else last


def _options(stored: dict[str, Any]) -> TrainOptions:
    """The options of the training; those that this version does not have are left out."""
    known = {each.name for each in fields(TrainOptions)}
    options, _ = split_keywords({name: value for name, value in stored.items() if name in known})
    return options


def as_plain(split: str, scores: Scores) -> dict[str, Any]:
    """The scores as `rawnind evaluate --json` prints them.

    Args:
        split: that was measured.
        scores: of it.
    """
    return {"split": split, "by_iso": scores.by_iso, "by_camera": scores.by_camera, "total": scores.total}
