"""The commands `train` and `evaluate`."""

import json
from pathlib import Path
from typing import Any, Literal

import click

from rawnind.printing import print_lines


def _input(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    return "raw" if value == "mosaic" else value


_CHECKPOINT = click.Path(path_type=Path, dir_okay=False)
_TRAIN_OPTIONS = (
    click.option("--input", type=click.Choice(["raw", "mosaic", "rgb"]), callback=_input,
                 help="raw (or mosaic): packed Bayer; rgb: demosaiced, also X-Trans.  [default: raw]"),
    click.option("--cfa", type=click.Choice(["bayer", "x-trans"]), help="Only crops with this CFA.  [default: all that the input allows]"),
    click.option("--model", type=click.Choice(["residual", "unet"]),
                 help="residual adds what it computes to the demosaiced input; unet is the published network.  [default: residual]"),
    click.option("--funit", type=int, metavar="N", help="Channels of the first level, 4 to 128; the published network has 32.  [default: 16]"),
    click.option("--preupsample", is_flag=True, default=None, help="Enlarge packed Bayer before the network: four times the work."),
    click.option("--conditioned", is_flag=True, default=None, help="Give the network the noise that was measured on each photo."),
    click.option("--steps", type=int, metavar="N", help="Optimiser steps in all.  [default: 1000]"),
    click.option("--batch-size", type=int, metavar="N", help="Crops in a batch of one worker.  [default: 4]"),
    click.option("--accumulate", type=int, metavar="N", help="Batches whose gradients make one step.  [default: 1]"),
    click.option("--crop-size", type=int, metavar="SITES", help="Side of a training crop, a multiple of 32.  [default: 128]"),
    click.option("--loss", type=click.Choice(["l1", "ms-ssim", "l1+ms-ssim"]), help="What is minimised, over valid pixels.  [default: l1]"),
    click.option("--balance/--no-balance", default=None,
                 help="Whether a crop's loss counts as a share of its input's, so that low ISO counts as much as high.  [default: --balance]"),
    click.option("--gain", type=click.Choice(["input", "output", "none"]),
                 help="What is brought to the ground truth's level.  [default: input]"),
    click.option("--learning-rate", type=float, metavar="RATE", help="The highest.  [default: 0.002]"),
    click.option("--schedule", type=click.Choice(["cosine", "plateau", "constant"]), help="Of the learning rate.  [default: cosine]"),
    click.option("--warmup", type=int, metavar="STEPS", help="Steps in which the rate rises from 0.  [default: 50]"),
    click.option("--weight-decay", type=float, metavar="X", help="Of AdamW.  [default: 0.0001]"),
    click.option("--clip", type=float, metavar="NORM", help="Largest norm of the gradients; 0: any.  [default: 1]"),
    click.option("--ema", type=float, metavar="DECAY", help="Decay of the averaged weights; 0: none.  [default: 0.99]"),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
                 help="auto: bf16 on a GPU that has it, else fp32.  [default: auto]"),
    click.option("--compile", is_flag=True, default=None, help="Compile the network with torch.compile."),
    click.option("--validate-every", type=int, metavar="STEPS", help="0: only at the end.  [default: 500]"),
    click.option("--validation-crops", type=int, metavar="N", help="Crops of one validation at most.  [default: 64]"),
    click.option("--validation-share", type=float, metavar="0..1", help="Expected share of held-out scenes.  [default: 0.1]"),
    click.option("--hold-out-camera", metavar="NAME", help="Validate on this camera, train on all others."),
    click.option("--patience", type=int, metavar="N", help="Stop after N validations without a new best; 0: never.  [default: 0]"),
    click.option("--save-every", type=int, metavar="STEPS", help="Steps between two checkpoints.  [default: 500]"),
    click.option("--min-msssim", type=float, metavar="0..1", help="Leave out crops that score lower.  [default: none]"),
    click.option("--min-valid-fraction", type=float, metavar="0..1", help="Leave out crops with fewer valid pixels.  [default: none]"),
    click.option("--seed", type=int, metavar="N", help="Seed of weights, crops and order.  [default: 0]"),
)  # fmt: skip


def _train_options(command: Any) -> Any:
    for option in reversed(_TRAIN_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("output")
@_train_options
@click.option("--config", type=click.Path(path_type=Path), help="YAML with any of these options.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1),
              help="Ray workers; each takes a CPU, and a GPU where there are enough. 1 trains without Ray.")  # fmt: skip
@click.option(
    "--live", is_flag=True, help="Begin while `rawnind prepare` still fills OUTPUT; with --workers 1."
)
@click.option("--cores", default=1, show_default=True, type=click.IntRange(min=1),
              help="Cores for one operation on a CPU; more than 1 only on an idle machine, and with --workers 1.")  # fmt: skip
@click.option("--device", metavar="NAME", help="torch's name, such as cpu or cuda, with --workers 1.  [default: cuda where there is one]")  # fmt: skip
@click.option("--checkpoint", type=_CHECKPOINT,
              help="File for the weights; training resumes from an existing one.  [default: OUTPUT/checkpoint.pt]")  # fmt: skip
def train(
    output: str, config: Path | None, workers: int, cores: int, device: str | None, checkpoint: Path | None, *,
    live: bool, **values: Any,
) -> None:  # fmt: skip
    """Train a denoiser on OUTPUT, and measure it on held-out scenes beside the noisy input.

    A checkpoint is resumed. The best state is kept beside it, and metrics, pictures and events for TensorBoard in the
    folder train.

    \b
    Examples:
      rawnind train out --steps 2000 --funit 16
      rawnind train out --input rgb --cfa x-trans --checkpoint x-trans.pt
      rawnind train out --hold-out-camera "SONY ILCE-7C" --workers 4
      rawnind train out --live                      while rawnind prepare fills it
    """
    from rawnind.options import load_config
    from rawnind.training.validation import table

    options = load_config(config) if config else {}
    options |= {name: value for name, value in values.items() if value is not None}
    options |= {
        "checkpoint": checkpoint,
        "progress": lambda step, loss: click.echo(f"step {step:6d}  loss {loss:.5f}"),
        "validated": lambda scores: print_lines(table(scores)),
    }
    alone = {"--live": live, "--device": device is not None, "--cores": cores > 1}
    if workers > 1 and any(alone.values()):
        names = ", ".join(name for name, given in alone.items() if given)
        raise click.UsageError(f"{names} is for a training in one process; leave it or --workers out")
    if workers > 1:
        from rawnind.training.distributed import train_distributed

        report = train_distributed(output, workers=workers, **options)
    else:
        from rawnind.training.loop import train as train_alone

        report = train_alone(output, live=live, cores=cores, device=device, **options)
    print_lines(str(report).splitlines())


@click.command()
@click.argument("output")
@click.option(
    "--checkpoint",
    type=_CHECKPOINT,
    help="File that `train` wrote.  [default: OUTPUT/checkpoint-best.pt, or checkpoint.pt]",
)
@click.option("--split", type=click.Choice(["val", "test", "all"]), default="val", show_default=True,
              help="val: what the training held out; test: the test reserve; all: training and validation scenes.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--device", metavar="NAME", help="torch's name, such as cpu or cuda.  [default: cuda where there is one]"
)
def evaluate(
    output: str,
    checkpoint: Path | None,
    split: Literal["val", "test", "all"],
    device: str | None,
    *,
    as_json: bool,
) -> None:
    """Measure a trained network on OUTPUT beside the plainly demosaiced noisy input.

    PSNR and MS-SSIM are means over crops, of valid pixels in linear Rec.2020.

    \b
    Example:
      rawnind evaluate out --checkpoint out/checkpoint-best.pt --split test
    """
    from rawnind.training.evaluate import as_plain
    from rawnind.training.evaluate import evaluate as measure
    from rawnind.training.validation import table, verdict

    scores = measure(output, checkpoint=checkpoint, split=split, device=device)
    print_lines([json.dumps(as_plain(split, scores))] if as_json else [*table(scores), verdict(scores)])
