"""The whole way on the built-in sample, from DNG files to training steps, in out/demo."""

import time
from pathlib import Path

import click

from rawnind.cli import describe
from rawnind.demo import tour
from rawnind.options import Options
from rawnind.progress.progress import choose

OUT = Path("out/demo")


def main() -> None:
    """Runs it and says what came of it."""
    start = time.monotonic()
    result = tour(OUT, Options(), steps=20, progress=choose("auto"), echo=click.echo)
    report = result.report
    click.echo(
        f"""
Done in {time.monotonic() - start:.0f} s.
{describe(result.summary, str(OUT / "prepared"))}
Loss:   {report.first_loss:.4f} at first, {report.last_loss:.4f} after {report.steps} steps
The four bad scenes are part of the sample: `rawnind status {OUT}/prepared` names their files.
Next:   rawnind prepare FOLDER --output OUT     with your own pairs"""
    )


if __name__ == "__main__":
    main()
