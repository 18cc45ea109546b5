"""What the research code's loaders ask of an export, and which of them a given export serves."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from rawnind.words import counted

DATASET, CLEAN, RESERVE = "dataset.yaml", "clean.yaml", "test_reserve.yaml"
MAX_LOSS, MIN_MASK_MEAN = 0.035, 0.8
"""The research code's loaders pass over pairs beyond these by default."""
TRAINING_CROP, VALIDATION_CROP = 256, 1024
"""Sides in pixels that its configurations ask for."""


def image_set(row: dict[str, Any]) -> str:
    """The scene's name in the research code, with the prefixes that its list of test scenes has.

    >>> image_set({"scene": "board", "unknown_sensor": True, "test_reserve": True})
    'UNK_TEST_board'
    """
    return f"{'UNK_' * row['unknown_sensor']}{'TEST_' * row['test_reserve']}{row['scene']}"


def training_crop(size: int) -> int:
    """The training crop to ask for: the loaders draw it from [0, size - crop), which must not be empty.

    Args:
        size: side of the exported crops.

    >>> training_crop(512), training_crop(256), training_crop(32)
    (256, 128, 0)
    """
    return min(TRAINING_CROP, size // 2 // 32 * 32)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """How much was written.

    Attributes:
        pairs: entries of dataset.yaml.
        test_pairs: those of the test reserve.
        bayer_pairs: those of Bayer photos outside the test reserve.
        bayer_test_pairs: those of Bayer photos of the test reserve.
        crops: crops of all pairs.
        crop_size: side of the smallest crop in sites.
        left_out: collected pairs that the research code's loaders would pass over: their alignment loss or mask mean is
            beyond its limits, the loss mostly by noise.
        reserve: names of the scenes of the test reserve, with the prefixes that the research code gives them.
    """

    pairs: int
    test_pairs: int
    bayer_pairs: int
    bayer_test_pairs: int
    crops: int
    crop_size: int
    left_out: int
    reserve: tuple[str, ...]


def unserved(report: ExportReport) -> list[str]:
    """One sentence for each kind of loader that finds nothing to read, or that its default sizes stop; empty where all work."""
    size, training = report.crop_size, report.pairs - report.test_pairs
    found = []
    if not training_crop(size) or not training:
        why = f"crops of {size} pixels are too small" if training else "there is no pair to train on"
        found.append(f"The training loaders do not work: {why}.")
    elif not report.bayer_pairs:
        found.append(
            "train_denoiser_bayer2prgb.py has nothing to train on: there is no Bayer pair outside the test reserve."
        )
    if not report.test_pairs:
        found.append("The validation and test loaders stop with an error: no pair is of the test reserve.")
    elif not report.bayer_test_pairs:
        found.append(
            "Validation and test of train_denoiser_bayer2prgb.py stop with an error: no Bayer pair is of the test reserve."
        )
    if size < VALIDATION_CROP:
        found.append(
            f"With its default --val_crop_size and --test_crop_size of {VALIDATION_CROP} the research code finds no crop in its "
            f"validation and test sets: pass {size}, as below, or prepare with --crop-size {VALIDATION_CROP}."
        )
    if 0 < training_crop(size) < TRAINING_CROP:
        found.append(
            f"Its default --crop_size of {TRAINING_CROP} fails: it must be smaller than the exported crops of {size} pixels."
        )
    return found


def _advice(report: ExportReport, to: str | Path) -> list[str]:
    if not (training_crop(report.crop_size) and 0 < report.test_pairs < report.pairs):
        return ["No script of the research code both trains on it and validates."]
    intro = f"One {DATASET} serves training, validation and test. In the research code's folder src/rawnind:"
    return [intro, f"  {command(report, to)}"]


def command(report: ExportReport, to: str | Path) -> str:
    """The command that trains on the export, in the research code's folder src/rawnind."""
    script = (
        "bayer2prgb"
        if report.bayer_pairs and (report.bayer_test_pairs or not report.test_pairs)
        else "prgb2prgb"
    )
    size = min(report.crop_size, VALIDATION_CROP)
    folder = Path(to).absolute()
    words = [
        "python", f"train_denoiser_{script}.py", "--noise_dataset_yamlfpaths", str(folder / DATASET),
        "--clean_dataset_yamlfpaths", str(folder / CLEAN), "--crop_size", str(training_crop(size)), "--val_crop_size", str(size),
        "--test_crop_size", str(size), "--test_reserve", *report.reserve,
    ]  # fmt: skip
    return shlex.join(words)


def describe_export(report: ExportReport, to: str | Path, problems: int) -> str:
    """The last lines that `rawnind export` prints.

    Args:
        report: how much was written.
        to: the folder of the export.
        problems: how many problems `check` found.
    """
    found = counted(problems, "problem") if problems else "the check found no problem"
    lines = (
        [
            f"left out: {counted(report.left_out, 'noisy pair')}; the loaders accept an alignment loss of at most {MAX_LOSS}."
        ]
        if report.left_out
        else []
    )
    return "\n".join(
        [
            *lines,
            *unserved(report),
            f"{counted(report.crops, 'crop')} of {counted(report.pairs, 'pair')} in {to}, {report.test_pairs} of them of the test reserve; {found}.",
            *_advice(report, to),
        ]
    )


def cache_keys(crops: Sequence[dict[str, Any]], key: str) -> list[str]:
    """The names by which the research code caches validation losses: the noisy crop's file without its folder.

    Args:
        crops: of an entry.
        key: of the noisy file, f_bayer_fpath or f_linrec2020_fpath.

    >>> cache_keys([{"f_bayer_fpath": "/to/crops/a-0-32-noisy.npy"}], "f_bayer_fpath")
    ['a-0-32-noisy.npy']
    """
    return [PurePath(crop[key]).name for crop in crops if isinstance(crop.get(key), str)]
