"""Fills the reference pages from the code while mkdocs builds them, so that they cannot differ from it.

A line `<!-- NAME -->` of a page is replaced by what `GENERATED[NAME]` returns.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import click

from rawnind.cli import main
from rawnind.records import Outcome, Reason


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the source of every page."""
    return re.sub(r"^<!-- (\w+) -->$", lambda match: GENERATED[match[1]](), markdown, flags=re.MULTILINE)


def reasons() -> str:
    """One table of reasons per outcome."""
    return "\n".join(_reason_lines())


def _reason_lines() -> Iterator[str]:
    for outcome in Outcome:
        chosen = [reason for reason in Reason if reason.outcome is outcome]
        if chosen:
            yield f"\n## {outcome}\n\n| Reason | What happened |\n|---|---|"
            yield from (f"| `{reason}` | {reason.sentence} |" for reason in chosen)


def commands() -> str:
    """The help of every command, as `--help` prints it."""
    return "\n".join(_command_lines())


def _command_lines() -> Iterator[str]:
    for name, command in main.commands.items():
        context = click.Context(
            command, info_name=f"rawnind {name}", terminal_width=100, max_content_width=100
        )
        yield f"## rawnind {name}\n\n```text\n{command.get_help(context)}\n```\n"


GENERATED: dict[str, Callable[[], str]] = {"commands": commands, "reasons": reasons}
