"""The `rawnind` command."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from rawnind import api
from rawnind.errors import OutputError, RawnindError, first_of, redacted
from rawnind.exit_codes import ExitCode, exit_code
from rawnind.options import Options, load_config
from rawnind.printing import describe, print_lines, uncollected
from rawnind.reasons import Reason
from rawnind.recipe import Compression, Pairing
from rawnind.records import Cfa, Summary


class _Commands(click.Group):
    """Lists commands in the order of their use, and ends with one sentence and an exit code where there was an error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Gives each command -h; click would name its help option after the context that asks for it first."""
        cmd.add_help_option = False
        super().add_command(click.help_option("-h", "--help")(cmd), name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RawnindError as error:
            print_lines([f"rawnind: {error}"], err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("rawnind: interrupted; run the same command again to resume", err=True)
            ctx.exit(ExitCode.STOPPED)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="rawnind")
def main() -> None:
    """Prepares RAW photo pairs for training denoisers: aligned, masked, scored, cropped, checked and listed.

    \b
    A first try:
      rawnind sample pairs                      make a small data set with known truth
      rawnind plan pairs                        estimate scenes, memory and disk
      rawnind prepare pairs --output out        process it
      rawnind status out                        list what was not collected, and why
      rawnind train out --steps 20              train on the result

    \b
    Exit codes of every command:
      0  complete
      1  verify or export found a problem, or an error in rawnind itself
      2  wrong usage: an option, the source or the output folder
      3  stopped early; the same command resumes
      4  prepare collected nothing
      5  prepare --strict: a scene or a pair failed
    """


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the noise and of where the photos are cut from."
)
@click.option("--height", default=800, show_default=True, help="Rows of each photo.")
@click.option("--width", default=1216, show_default=True, help="Columns of each photo.")
def sample(out: Path, seed: int, height: int, width: int) -> None:
    """Write a small RawNIND-like data set into OUT.

    It has 34 DNG files of 12 scenes, some of them damaged, and truth.json with their true shifts, gains and noise.

    \b
    Example:
      rawnind sample pairs --height 1024 --width 1536
    """
    from rawnind.sample import make_sample

    truth = make_sample(out, seed=seed, height=height, width=width)
    click.echo(
        f"{out}: {len(truth.scenes)} scenes, {len(truth.files)} files; truth.json holds their true shifts, gains and noise"
    )


_FOLLOW_LINKS = click.option("--follow-links", is_flag=True, default=None,
                             help="Read files outside of SOURCE that links in it lead to.")  # fmt: skip


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the index as YAML."
)
@_FOLLOW_LINKS
def index(source: Path, output: Path | None, *, follow_links: bool | None) -> None:
    """Print how many scenes and photos SOURCE has.

    SOURCE is a folder of RAW files or an index YAML.

    \b
    Example:
      rawnind index RawNIND/ -o dataset_index.yaml
    """
    from rawnind.source.index import index_to_yaml, load_index

    found = load_index(source, follow_links=bool(follow_links))
    print_lines(first_of(f"refused: {refused.file}: {refused.why}" for refused in found.refused), err=True)
    click.echo(f"{len(found.scenes)} scenes: {', '.join(f'{found.count(cfa)} {cfa}' for cfa in Cfa)}")
    click.echo(f"{found.test_reserve} test-reserve, {found.unknown_sensor} unknown-sensor")
    click.echo(f"{found.ground_truths} ground-truth and {found.noisy} noisy photos; {found.skipped_files}")
    if output:
        _write_text(output, index_to_yaml(found))


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _failure_reason(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """The value of --retry-failed, which may be left out: what follows the option must then not be taken for it."""
    if value and value not in list(Reason) and Path(value).exists():
        raise click.BadParameter(
            f"{value} was taken for a reason. To try all failed scenes again, write --retry-failed=all, or put the option last."
        )
    return value


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that `plan` and `prepare` share. They have no default here, because a config file may set them."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


_RUN_OPTIONS = (
    click.option("--max-scenes", type=int, metavar="N", help="Scenes in flight at once.  [default: two per worker]"),
    click.option("--limit", type=int, metavar="N", help="Number of scenes to process.  [default: all]"),
    click.option("--timeout", type=int, metavar="SECONDS",
                 help="Stop cleanly that long after the first scene started; run again to resume.  [default: none]"),
    click.option("--scene-timeout", type=float, metavar="SECONDS", help="Fail a scene that takes longer.  [default: none]"),
    click.option("--cfa", type=click.Choice([str(cfa) for cfa in Cfa]), help="Only scenes with this CFA."),
    click.option("--exclude-test-reserve", is_flag=True, default=None, help="Leave out scenes reserved for testing."),
    _FOLLOW_LINKS,
    click.option("--crop-size", type=int, metavar="SITES", help="Side of a crop, a multiple of 32.  [default: 512]"),
    click.option("--stride", type=int, metavar="SITES", help="Distance between neighbouring crops.  [default: 512]"),
    click.option("--pairing", type=click.Choice([str(pairing) for pairing in Pairing]),
                 help="Each noisy photo with the GT that aligns best, or with all.  [default: best]"),
    click.option("--min-msssim", type=float, metavar="0..1", help="Leave out crops that score lower.  [default: none]"),
    click.option("--compression", type=click.Choice([str(kind) for kind in Compression]),
                 help="Compression of the shards; zstd for slow storage.  [default: none]"),
    click.option("--cpus-per-scene", type=float, metavar="N", help="CPUs per worker; a worker processes one scene at a time.  [default: 1]"),
    click.option("--gpus-per-scene", type=float, metavar="N", help="GPUs per worker.  [default: 0]"),
    click.option("--address", metavar="ADDRESS", help="Ray cluster; local: a new one here.  [default: RAY_ADDRESS, or a local one]"),
    click.option("--dashboard", is_flag=True, default=None, help="Start Ray's dashboard with a local Ray."),
    click.option("--retry-failed", metavar="REASON", is_flag=False, flag_value="all", callback=_failure_reason,
                 help="Try failed scenes again: all, or those with this reason."),
    click.option("--config", type=click.Path(path_type=Path), help="YAML with any of these options and recipe values."),
    click.option("--strict", is_flag=True, default=None, help="Exit with 5 when a scene or a pair failed."),
)  # fmt: skip


def _options(values: dict[str, Any]) -> Options:
    config = values.pop("config")
    from_command_line = {key: value for key, value in values.items() if value is not None}
    return Options.from_dict((load_config(config) if config else {}) | from_command_line)


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@_run_options
def plan(source: Path, **values: Any) -> None:
    """Estimate what `prepare` would do and need.

    Prints scenes, pairs, crops, disk, memory and workers, from file headers alone. Refuses a run that could do nothing.

    \b
    Example:
      rawnind plan RawNIND/ --cfa x-trans --crop-size 256
    """
    from rawnind.estimate import estimate

    print_lines(estimate(source, _options(values)).lines())


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="Folder or URI (such as s3://bucket/folder)."
)
@click.option("--progress", type=click.Choice(["auto", "live", "plain", "none"]), default="auto", show_default=True,
              help="A live view, plain lines, or no output; auto: live on a terminal.")  # fmt: skip
@click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing but errors; the exit code says how it ended."
)
@click.option("-v", "--verbose", is_flag=True,
              help="List every scene and pair that is not collected, not only the first 20, and print every message of Ray.")  # fmt: skip
@_run_options
def prepare(source: Path, output: str, progress: str, *, quiet: bool, verbose: bool, **values: Any) -> None:
    """Process the scenes of SOURCE; run it again to resume.

    Every scene of SOURCE, a folder of RAW files or an index YAML, ends with an outcome. OUT/manifest.parquet lists the crops.

    \b
    Examples:
      rawnind prepare RawNIND/ --output out
      rawnind prepare dataset_index.yaml --output s3://bucket/out --cfa bayer --crop-size 256 --stride 256
      rawnind prepare RawNIND/ --output out --retry-failed missing_file

    Exit: 0 complete, 2 wrong usage, 3 stopped early (run again to resume), 4 nothing collected, 5 --strict and a scene
    or a pair failed.
    """
    from rawnind.source.index import require_source

    require_source(source)  # before Ray and numba are imported, which takes seconds
    options = _options(values)

    from rawnind.pipeline.run import run
    from rawnind.progress.progress import choose

    summary = run(source, output, options, choose("none" if quiet else progress, verbose=verbose))
    if not quiet:
        print_lines(describe(summary, output).splitlines())
        print_lines(uncollected(summary, output, None if verbose else 20))
    sys.exit(_exit_code_of(summary, options))


@main.command()
@click.argument("output")
def status(output: str) -> None:
    """Print what was planned and committed, and every scene, pair and file that was left out, rejected or failed.

    It also works while `prepare` is running on OUTPUT, and says what --retry-failed would do.

    \b
    Examples:
      rawnind status out
      rawnind status s3://bucket/out
    """
    print_lines(api.status(output).lines())


@main.command()
@click.argument("output")
def verify(output: str) -> None:
    """Recompute every count, hash and coordinate of OUTPUT.

    Exit 1 when something is wrong; each problem is one line, and the first 20 are printed.

    \b
    Example:
      rawnind verify out
    """
    from rawnind.output.manifest import incompleteness
    from rawnind.output.store import Store

    problems = api.verify(output)
    print_lines(first_of(problems), err=True)
    click.echo(
        f"{redacted(output)}: {f'{len(problems)} problems' if problems else 'everything is as it was written'}"
    )
    if missing := incompleteness(Store(output)):
        click.echo(missing)
    sys.exit(ExitCode.PROBLEM if problems else ExitCode.COMPLETE)


@main.command()
@click.argument("output")
@click.option("--to", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="A new folder, or one that an export wrote.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["research-yaml"]), default="research-yaml",
              show_default=True, help="Layout of the exported files.")  # fmt: skip
def export(output: str, to: Path, format_: Literal["research-yaml"]) -> None:
    """Write the pairs for the RawNIND research code.

    The pairs of OUTPUT are written below DIR, and the result is checked as the research code's loaders read it. The research code
    validates on crops of 1024 by default: prepare with --crop-size 1024 for that. Exit 1 when the check finds something.

    \b
    Example:
      rawnind export out --to research
    """
    from rawnind.exporters.check import check
    from rawnind.exporters.research_yaml import describe_export
    from rawnind.exporters.research_yaml import export as run_export

    report = run_export(output, to, format=format_, progress=_every_two_seconds("exported"))
    problems = check(to)
    print_lines(first_of(problems), err=True)
    click.echo(describe_export(report, to, len(problems)))
    sys.exit(ExitCode.PROBLEM if problems else ExitCode.COMPLETE)


def _every_two_seconds(what: str) -> Callable[[int, int], None]:
    """A progress callback that prints the number of crops every two seconds."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 2:
            last = time.monotonic()
            click.echo(f"{what} {done} of {total} crops", err=True)

    return report


@main.command()
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


def _exit_code_of(summary: Summary, options: Options) -> ExitCode:
    if options.strict and (summary.scenes.failed or summary.pairs.failed):
        return ExitCode.FAILED
    return ExitCode.COMPLETE if summary.crops else ExitCode.NOTHING_COLLECTED


if __name__ == "__main__":
    main()
