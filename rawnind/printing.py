"""What commands print: their lines on a terminal, and the end of a run of `prepare`."""

import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

import click

from rawnind import api
from rawnind.errors import printable, redacted
from rawnind.reasons import Outcome, Reason
from rawnind.records import Counts, Summary


def print_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Prints text that may quote file names and stored details, without control characters and credentials."""
    is_terminal = (sys.stderr if err else sys.stdout).isatty()
    columns = shutil.get_terminal_size().columns if is_terminal else None
    for line in lines:
        text = printable(redacted(line), most=_LONGEST_LINE)
        click.echo(_wrapped(text, columns) if columns else text, err=err)


def told(line: str) -> None:
    """Prints a line to stderr at once, for those who wait."""
    print_lines([line], err=True)


_LONGEST_LINE = 10_000


def _wrapped(line: str, columns: int) -> str:
    """A line of a terminal, broken between words; a file name that is longer stays whole, so that it can be copied."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(
        line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def print_log() -> None:
    """Prints the log messages of the package to stdout."""
    logger = logging.getLogger("rawnind")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))


def describe(summary: Summary, output: str) -> str:
    """The last lines that `rawnind prepare` prints."""
    lines = [
        f"Scenes: {_sum(summary.scenes)}",
        *(
            f"        {count} {reason}, without a pair: {reason.sentence}"
            for reason, count in summary.scene_reasons
        ),
        f"Pairs:  {_sum(summary.pairs)}",
        *(f"        {count} {reason}: {Reason(reason).sentence}" for reason, count in summary.reasons),
        f"Crops:  {summary.crops}, listed in {redacted(output)}/manifest.parquet",
    ]
    return "\n".join(lines)


def uncollected(summary: Summary, output: str, most: int | None) -> Iterator[str]:
    """A line for each scene and pair that was rejected or failed.

    Args:
        summary: of a run.
        output: the folder that it wrote.
        most: how many scenes and how many pairs to list; None: all.
    """
    if summary.scenes.rejected + summary.scenes.failed + summary.pairs.rejected + summary.pairs.failed:
        yield from api.status(output).uncollected(most)


def _sum(counts: Counts) -> str:
    return f"{counts.planned} = " + " + ".join(f"{getattr(counts, outcome)} {outcome}" for outcome in Outcome)
