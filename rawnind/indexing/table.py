"""The table of an index, for a person who checks it."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rawnind.errors import printable
from rawnind.indexing.build import OwnPhotos
from rawnind.indexing.roles import Choice
from rawnind.source.names import FileKind
from rawnind.words import counted

_MOST_ROWS = 300
"""Rows of the table; of more photos, those that are doubted and the ground truths."""

_WIDTH = 160
"""Columns where the output is no terminal."""


def print_table(console: Console, choices: Sequence[Choice]) -> None:
    """Prints the photos of each scene below its name, camera and lens."""
    shown = list(choices)
    if len(shown) > _MOST_ROWS:
        shown = [choice for choice in choices if choice.doubts or choice.ground_truth][:_MOST_ROWS]
    width = min(
        max((cell_len(printable(choice.photo.name)) for choice in shown), default=0), console.width // 2
    )
    for (cfa, scene), group in groupby(shown, key=lambda choice: (choice.cfa, choice.scene)):
        photos = list(group)
        console.print(Text(scene, style="bold").append(f"  {cfa}, {_cameras(photos)}", style="not bold"))
        console.print(_table(photos, width))
    if len(shown) < len(choices):
        console.print(
            f"... and {counted(len(choices) - len(shown), 'more photo')}; the YAML lists all of them",
            markup=False,
        )


def _cameras(photos: Sequence[Choice]) -> str:
    """Cameras with their lenses, each once."""
    headers = [choice.photo.header for choice in photos]
    named = [
        ", ".join(filter(None, [header.camera or "unknown camera", header.capture.lens]))
        for header in headers
    ]
    return printable(" / ".join(dict.fromkeys(named)))


def table_console() -> Console:
    """A console on stdout that does not squeeze the table where stdout is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def _table(photos: Sequence[Choice], width: int) -> Table:
    """A table without lines.

    Args:
        photos: of one scene.
        width: of the column of names, the same in all tables.
    """
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(width=width + 2, overflow="fold")
    table.add_column(width=9, justify="right", no_wrap=True)
    table.add_column(width=8, justify="right", no_wrap=True)
    table.add_column(width=5)
    table.add_column(overflow="fold")
    for choice in photos:
        table.add_row(*_cells(choice))
    return table


def _cells(choice: Choice) -> Iterator[Text]:
    capture = choice.photo.header.capture
    yield Text(f"  {printable(choice.photo.name)}")
    yield Text(f"ISO {capture.iso}" if capture.iso else "ISO ?")
    yield Text(shutter(capture.exposure_time))
    role = "out" if choice.left_out else "GT" if choice.ground_truth else "noisy"
    yield Text(role, style={"GT": "green", "out": "dim"}.get(role, ""))
    why = Text(choice.why)
    for doubt in choice.doubts:
        why.append("\n? " + printable(doubt), style="yellow")
    yield why


def shutter(seconds: float | None) -> str:
    """An exposure time as cameras show it.

    >>> shutter(0.008), shutter(2.5), shutter(4.96743), shutter(None)
    ('1/125 s', '2.5 s', '4.967 s', '')
    """
    if seconds is None:
        return ""
    return f"{seconds:.4g} s" if seconds >= 0.3 else f"1/{1 / seconds:.0f} s"


def summary(found: OwnPhotos) -> Iterator[str]:
    """What was found, left out and doubted, in lines."""
    scenes = {(choice.cfa, choice.scene) for choice in found.choices}
    truths = sum(choice.ground_truth for choice in found.choices)
    left_out = sum(choice.left_out for choice in found.choices)
    noisy = len(found.choices) - truths - left_out
    taken_out = f"; {left_out} left out" if left_out else ""
    yield (
        f"{counted(len(scenes), 'scene')}: {truths} ground-truth and {counted(noisy, 'noisy photo')}"
        f"{taken_out}{_set_aside(found)}"
    )
    for words, group in groupby(
        sorted(found.scan.unusable, key=lambda each: each[::-1]), key=lambda each: each[1]
    ):
        yield _listed(f"unusable, {words}", [name for name, _ in group])
    for why, refused in groupby(
        sorted(found.scan.refused, key=lambda each: (each.why, each.file)), key=lambda each: each.why
    ):
        yield _listed(f"refused, {why}", [each.file for each in refused])
    if found.scan.duplicates:
        yield _listed("the same bytes as another file", found.scan.duplicates)
    if found.ungrouped:
        yield _listed("in no scene", found.ungrouped)
    if found.unknown:
        yield _listed("in the table and not among the photos", found.unknown)
    if doubts := sum(len(choice.doubts) for choice in found.choices):
        yield f"{counted(doubts, 'doubt')}, marked with ?"


def without_truth(choices: Sequence[Choice], index: Path | None) -> Iterator[str]:
    """How to name the ground truths of scenes in which none was found; nothing where each scene has one.

    Args:
        choices: all photos.
        index: where they are listed.
    """
    used = [choice for choice in choices if not choice.left_out]
    has_truth = {(choice.cfa, choice.scene) for choice in used if choice.ground_truth}
    scenes = sorted({choice.scene for choice in used if (choice.cfa, choice.scene) not in has_truth})
    if scenes:
        yield _listed(
            f"scenes without a ground truth; write `role: gt` at their clean photo in {index}", scenes
        )


_MOST_NAMED = 10


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{what}: {len(names)}: {', '.join(printable(name) for name in names[:_MOST_NAMED])}{more}"


def _set_aside(found: OwnPhotos) -> str:
    kinds = [
        f"{count} {_KIND_WORDS[kind]}"
        for kind, count in sorted(found.scan.kinds.items(), key=lambda each: each[0].value)
        if kind in _KIND_WORDS
    ]
    return f"; set aside: {', '.join(kinds)}" if kinds else ""


_KIND_WORDS = {FileKind.XMP: ".xmp", FileKind.IMAGE: "not RAW", FileKind.OTHER: "other"}
