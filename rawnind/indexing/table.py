"""The table of an index, for a person who checks it."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rawnind.errors import printable
from rawnind.indexing.build import OwnPhotos
from rawnind.indexing.roles import Choice

_MOST_ROWS = 300
"""Rows of the table; of more photos, those that are doubted and the ground truths."""

_WIDTH = 160
"""Columns where the output is no terminal."""


def print_table(console: Console, choices: Sequence[Choice]) -> None:
    """Prints a table of photos, a section per scene."""
    shown = list(choices)
    if len(shown) > _MOST_ROWS:
        shown = [choice for choice in choices if choice.doubts or choice.ground_truth][:_MOST_ROWS]
    console.print(_table(shown))
    if len(shown) < len(choices):
        console.print(
            f"... and {len(choices) - len(shown)} more photos; the YAML lists all of them", markup=False
        )


def table_console() -> Console:
    """A console on stdout that does not squeeze the table where stdout is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def _table(choices: Sequence[Choice]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Scene", "File", "Camera", "Lens", "CFA"):
        table.add_column(name, overflow="fold")
    for name in ("ISO", "Exposure"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("Role", "Why"):
        table.add_column(name, overflow="fold")
    for scene, group in groupby(choices, key=lambda choice: (choice.cfa, choice.scene)):
        for number, choice in enumerate(group):
            table.add_row(*_cells(choice, scene[1] if number == 0 else ""))
        table.add_section()
    return table


def _cells(choice: Choice, scene: str) -> Iterator[Text]:
    header = choice.photo.header
    capture = header.capture
    yield Text(scene, style="bold")
    yield Text(printable(choice.photo.name))
    yield Text(header.camera or "?")
    yield Text(capture.lens or "")
    yield Text(str(choice.cfa))
    yield Text(str(capture.iso) if capture.iso else "?")
    yield Text(shutter(capture.exposure_time))
    yield Text("GT" if choice.ground_truth else "noisy", style="green" if choice.ground_truth else "")
    why = Text(choice.why)
    for doubt in choice.doubts:
        why.append("\n? " + printable(doubt), style="yellow")
    yield why


def shutter(seconds: float | None) -> str:
    """An exposure time as cameras show it.

    >>> shutter(0.008), shutter(2.5), shutter(None)
    ('1/125 s', '2.5 s', '')
    """
    if seconds is None:
        return ""
    return f"{seconds:g} s" if seconds >= 0.3 else f"1/{1 / seconds:.0f} s"


def summary(found: OwnPhotos) -> Iterator[str]:
    """What was found, left out and doubted, in lines."""
    scenes = {(choice.cfa, choice.scene) for choice in found.choices}
    truths = sum(choice.ground_truth for choice in found.choices)
    noisy = len(found.choices) - truths
    yield f"{len(scenes)} scenes: {truths} ground-truth and {noisy} noisy photos{_set_aside(found)}"
    for words, group in groupby(
        sorted(found.scan.unusable, key=lambda each: each[::-1]), key=lambda each: each[1]
    ):
        yield _listed(f"unusable, {words}", [name for name, _ in group])
    for refused in found.scan.refused[:_MOST_NAMED]:
        yield f"refused: {refused.file}: {refused.why}"
    if found.scan.duplicates:
        yield _listed("the same bytes as another file", found.scan.duplicates)
    if found.ungrouped:
        yield _listed("in no scene", found.ungrouped)
    if doubts := sum(len(choice.doubts) for choice in found.choices):
        yield f"{doubts} doubts, marked with ?"


_MOST_NAMED = 10


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{what}: {len(names)}: {', '.join(printable(name) for name in names[:_MOST_NAMED])}{more}"


def _set_aside(found: OwnPhotos) -> str:
    kinds = [f"{count} {kind.name.lower()}" for kind, count in sorted(found.scan.kinds.items(), key=lambda each: each[0].value)
             if kind.name != "RAW"]  # fmt: skip
    return f"; set aside: {', '.join(kinds)}" if kinds else ""
