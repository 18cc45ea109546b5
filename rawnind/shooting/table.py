"""What `rawnind plan --check` prints."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rawnind.errors import printable
from rawnind.shooting.cameras import Coverage, coverage
from rawnind.shooting.check import SceneCheck, Verdict
from rawnind.words import counted


def print_checks(console: Console, checks: Sequence[SceneCheck]) -> None:
    """Prints a row per pair, the ISOs of each camera, and what is missing."""
    console.print(_pairs(checks))
    cameras = coverage(shot for check in checks for shot in check.shots)
    console.print(_isos(cameras))
    for camera in cameras:
        for line in camera.lines():
            console.print(Text(f"? {line}", style="yellow"))
    verdicts = [verdict for check in checks for verdict in check.verdicts]
    lost = sum(verdict.pair.reason is not None for verdict in verdicts)
    better = sum(verdict.pair.reason is None and bool(verdict.advice) for verdict in verdicts)
    console.print(
        f"{counted(len(verdicts), 'pair')}: {lost} would be lost, {better} could be better", markup=False
    )


def _pairs(checks: Sequence[SceneCheck]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Scene", "Noisy photo", "ISO", "Verdict", "What to do"):
        table.add_column(name, overflow="fold", justify="right" if name == "ISO" else "left")
    for check in checks:
        scene = Text(check.scene.name, style="bold")
        if not check.verdicts:
            table.add_row(
                scene,
                "",
                "",
                Text(str(check.reason or ""), style="red"),
                "shoot noisy photos: higher ISO, same place",
            )
        for verdict in check.verdicts:
            table.add_row(scene, *_cells(verdict))
            scene = Text("")
        table.add_section()
    return table


def _cells(verdict: Verdict) -> Iterator[Text]:
    pair = verdict.pair
    yield Text(printable(pair.noisy.filename))
    yield Text(str(pair.noisy.iso) if pair.noisy.iso else "?")
    if pair.reason:
        yield Text(f"{pair.reason}: {printable(pair.detail)}", style="red")
    else:
        yield Text("ok", style="yellow" if verdict.advice else "green")
    yield Text("\n".join(verdict.advice))


def _isos(cameras: Sequence[Coverage]) -> Table:
    """A row per ISO and a column per camera: the number of noisy photos, with ground truths after a plus."""
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="Noisy photos (+ ground truths)",
        title_justify="left",
    )
    table.add_column("ISO", justify="right")
    for camera in cameras:
        table.add_column(printable(camera.camera), justify="right")
    isos = sorted({iso for camera in cameras for iso in (*camera.truths, *camera.noisy, *camera.gaps)})
    for iso in isos:
        table.add_row(str(iso), *(_count(camera, iso) for camera in cameras))
    return table


def _count(camera: Coverage, iso: int) -> Text:
    if iso in camera.gaps:
        return Text("missing", style="yellow")
    noisy, truths = camera.noisy.get(iso, 0), camera.truths.get(iso, 0)
    return Text(f"{noisy or ''}{f' +{truths}' if truths else ''}")
