"""Runs every step on the built-in sample, from DNG files to training steps, in out/demo."""

import time
from pathlib import Path

import click

from rawnind.demo import run_demo
from rawnind.options import Options
from rawnind.printing import describe, print_log, uncollected
from rawnind.progress.progress import choose

OUT = Path("out/demo")


def main() -> None:
    """Runs the demo and prints its results."""
    start = time.monotonic()
    print_log()
    result = run_demo(OUT, Options(), steps=20, progress=choose("auto"))
    report, output = result.report, str(OUT / "prepared")
    click.echo(
        f"""
Done in {time.monotonic() - start:.0f} s.
{describe(result.summary, output)}
{chr(10).join(uncollected(result.summary, output, 20))}
Loss:   {report.first_loss:.4f} at first, {report.last_loss:.4f} after {report.steps} steps
Bad files are part of the sample, so some scenes are rejected or fail; `rawnind status {output}` lists them again.
Next:   rawnind prepare FOLDER --output OUT     with your own pairs"""
    )


if __name__ == "__main__":
    main()
