"""Runs every step on the built-in sample in a minute: `ray job submit --working-dir . -- python jobs/smoke_test.py`.

It prints one line per stage, then the counters of the Bridge and the DataLoader, and fails when one of them is zero or
differs from the manifest.
"""

import tempfile
from collections import Counter
from pathlib import Path

import click

from rawnind.demo import run_demo
from rawnind.errors import RawnindError
from rawnind.options import Options
from rawnind.output.events import read_events
from rawnind.output.store import Store
from rawnind.printing import print_log
from rawnind.progress.progress import choose


@click.command()
@click.option(
    "--max-scenes", type=int, metavar="N", help="Scenes in flight at once.  [default: 32 per worker]"
)
@click.option("--timeout", type=int, metavar="SECONDS", help="Fail when `prepare` takes longer.")
@click.option("--steps", default=5, show_default=True, type=click.IntRange(min=1), help="Training steps.")
def main(max_scenes: int | None, timeout: int | None, steps: int) -> None:
    """Run sample, prepare, load and train in a temporary folder."""
    print_log()
    with tempfile.TemporaryDirectory(prefix="rawnind-smoke-") as folder:
        options = Options(max_scenes=max_scenes, timeout=timeout)
        try:
            result = run_demo(Path(folder), options, steps=steps, progress=choose("plain"))
        except RawnindError as error:
            raise click.ClickException(str(error)) from error
        _print_stages(Path(folder) / "prepared")
    scenes = result.summary.scenes
    click.echo(
        f"Bridge:     {scenes.collected} collected, {scenes.filtered} filtered, {scenes.rejected} rejected, "
        f"{scenes.failed} failed of {scenes.planned} scenes; {result.summary.crops} crops"
    )
    click.echo(f"DataLoader: {result.loaded_scenes} scenes, {result.loaded_crops} crops")
    click.echo(f"Training:   {result.report.steps} steps, loss {result.report.last_loss:.4f}")


def _print_stages(output: Path) -> None:
    seconds: Counter[str] = Counter()
    scenes: Counter[str] = Counter()
    for event in read_events(Store(str(output))):
        for name, value in event.get("telemetry", {}).items():
            stage, _, unit = name.rpartition("_")
            if unit == "seconds":
                seconds[stage] += value
                scenes[stage] += 1
    for stage, total in seconds.items():
        click.echo(f"{stage + ':':<12}{scenes[stage]} scenes, {total:.2f} s")


if __name__ == "__main__":
    main()
