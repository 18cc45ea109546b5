"""Writes the parts of the reference pages that follow from the code. `make docs` runs it; a test says when it must.

A page holds such a part between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from rawnind.cli import main
from rawnind.reasons import Outcome, Reason

PAGES = Path(__file__).parent


def generate(text: str) -> str:
    """A page's text with its generated parts as the code has them now."""
    return re.sub(
        r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)",
        lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def reasons() -> str:
    """One table of reasons per outcome."""
    return "\n\n".join(_reason_tables())


def _reason_tables() -> Iterator[str]:
    for outcome in Outcome:
        if chosen := [reason for reason in Reason if reason.outcome is outcome]:
            rows = "\n".join(f"| `{reason}` | {reason.sentence} |" for reason in chosen)
            yield f"## {outcome}\n\n| Reason | What happened |\n|---|---|\n{rows}"


def commands() -> str:
    """The help of every command, as `--help` prints it."""
    return "\n\n".join(_helps())


def _helps() -> Iterator[str]:
    for name, command in main.commands.items():
        context = click.Context(
            command, info_name=f"rawnind {name}", terminal_width=100, max_content_width=100
        )
        yield f"## rawnind {name}\n\n```text\n{command.get_help(context)}\n```"


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "reasons": reasons}


if __name__ == "__main__":
    for page in PAGES.glob("*.md"):
        page.write_text(generate(page.read_text(encoding="utf-8")), encoding="utf-8")
