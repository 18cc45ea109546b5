"""Commands that read what a run left: status, verify."""

import sys

import click

from rawnind import api
from rawnind.errors import first_of, redacted
from rawnind.exit_codes import ExitCode
from rawnind.printing import print_lines
from rawnind.words import counted


@click.command()
@click.argument("output")
def status(output: str) -> None:
    """Print what was planned and committed, and every scene, pair and file that was left out, rejected or failed.

    It also works while `prepare` is running on OUTPUT, and says what --retry-failed would do.

    \b
    Examples:
      rawnind status out
      rawnind status s3://bucket/out
    """
    from rawnind.errors import DamagedManifestError
    from rawnind.output.store import Store
    from rawnind.output.white_levels import white_level_warnings

    found = api.status(output)
    print_lines(found.lines())
    if found.summary:
        try:
            print_lines(white_level_warnings(Store(output)))
        except DamagedManifestError as error:  # or `prepare` is writing it
            print_lines([str(error)])


@click.command()
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
        f"{redacted(output)}: {counted(len(problems), 'problem') if problems else 'everything is as it was written'}"
    )
    if missing := incompleteness(Store(output)):
        click.echo(missing)
    sys.exit(ExitCode.PROBLEM if problems else ExitCode.COMPLETE)
