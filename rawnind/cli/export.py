"""The command `export`."""

import sys
from pathlib import Path
from typing import Literal

import click

from rawnind.cli.progress_line import every_two_seconds
from rawnind.errors import first_of
from rawnind.exit_codes import ExitCode
from rawnind.printing import print_lines


@click.command()
@click.argument("output")
@click.option("--to", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="A new folder, or one that an export wrote.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["research-yaml"]), default="research-yaml",
              show_default=True, help="Layout of the exported files.")  # fmt: skip
def export(output: str, to: Path, format_: Literal["research-yaml"]) -> None:
    """Write the pairs for the RawNIND research code.

    The pairs of OUTPUT are written below DIR, and the result is checked as the research code's loaders read it. The last lines name
    the command that trains on it, and the loaders that its crops are too small for: the research code validates on crops of 1024
    by default, which prepare --crop-size 1024 makes. Exit 1 when the check finds something.

    \b
    Example:
      rawnind export out --to research
    """
    from rawnind.exporters.check import check
    from rawnind.exporters.research_yaml import export as run_export
    from rawnind.exporters.rules import describe_export

    report = run_export(output, to, format=format_, progress=every_two_seconds("exported", "crops"))
    problems = check(to)
    print_lines(first_of(problems), err=True)
    click.echo(describe_export(report, to, len(problems)))
    sys.exit(ExitCode.PROBLEM if problems else ExitCode.COMPLETE)
