"""The command `train`."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("output")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(min=1), help="Optimiser steps.")
@click.option(
    "--batch-size", default=4, show_default=True, type=click.IntRange(min=1), help="Crops in a batch."
)
@click.option(
    "--crop-size", default=128, show_default=True, type=click.IntRange(min=32), help="Side of a sub-crop."
)
@click.option("--seed", default=0, show_default=True, help="Seed of weights, crops and order.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1),
    help="Ray workers; each takes a CPU, and a GPU where there are enough. 1 trains without Ray.",
)  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False),
              help="File for the weights; training resumes from an existing one.  [default: OUTPUT/checkpoint.pt]")  # fmt: skip
def train(
    output: str, steps: int, batch_size: int, crop_size: int, seed: int, workers: int, checkpoint: Path | None
) -> None:
    """Train a small U-Net on OUTPUT.

    This checks that the data can be learned from. A checkpoint is resumed.

    \b
    Example:
      rawnind train out --steps 200 --batch-size 8
    """
    options: dict[str, Any] = {
        "steps": steps, "batch_size": batch_size, "crop_size": crop_size, "seed": seed, "checkpoint": checkpoint,
        "progress": lambda step, loss: click.echo(f"step {step:6d}  loss {loss:.4f}"),
    }  # fmt: skip
    if workers > 1:
        from rawnind.training.distributed import train_distributed

        click.echo(train_distributed(output, workers=workers, **options))
    else:
        from rawnind.training.loop import train as train_alone

        click.echo(train_alone(output, **options))
