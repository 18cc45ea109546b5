"""Charts as SVG that follows the page: its text colour, its font, light and dark."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rawnind.words import plain_label

_TEXT = "#010203"
"""Replaced by the page's text colour."""
SERIES = ("#3b82c4", "#d9731a", "#2a9d6f", "#b5559c", "#8a7f1f", "#c0453b", "#5b6ee1", "#6b8e9b")
"""Colours with enough contrast on white and on black."""
_LIMIT = "#d03a2b"
_MOST_MARKS = 1500
"""Points that are drawn one by one; more become a picture within the chart."""

_STYLE = {
    "axes.edgecolor": _TEXT, "axes.labelcolor": _TEXT, "axes.linewidth": 0.6, "axes.spines.right": False,
    "axes.spines.top": False, "font.size": 9, "grid.alpha": 0.25, "grid.color": _TEXT, "grid.linewidth": 0.4,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "rawnind", "text.color": _TEXT, "xtick.color": _TEXT,
    "ytick.color": _TEXT,
}  # fmt: skip

Points = Sequence[tuple[float, float]]
Point = TypeVar("Point")


def histogram(
    values: Sequence[float],
    title: str,
    *,
    limits: Mapping[str, float],
    span: tuple[float, float] | None = None,
) -> str:
    """How often each value occurs, with the thresholds drawn in.

    Args:
        values: at least one.
        title: what they are.
        limits: name -> threshold.
        span: of the axis; None: from the lowest to the highest value or threshold.
    """
    with _chart(title) as (axes, svg):
        axes.hist(
            values,
            bins=40,
            range=span or _span([*values, *limits.values()]),
            color=SERIES[0],
            histtype="stepfilled",
        )
        axes.set_ylabel("count")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        for name, limit in limits.items():
            axes.axvline(limit, color=_LIMIT, lw=1.2, ls="--", label=f"{name} {limit:g}")
        if limits:
            axes.legend(fontsize=8)
    return svg[0]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What one series measured by ISO, all as (ISO, y) above 0.

    Attributes:
        single: single measurements.
        together: what those of one ISO say together.
        unsure: the same, where it may be too high.
        line: the curve through all of them.
    """

    single: Points
    together: Points
    unsure: Points
    line: Points


def fits(series: Mapping[str, Fit], title: str, labels: tuple[str, str]) -> str:
    """Curves over ISO on logarithmic axes, one line per name, with what they go through: single measurements as small points.

    The axis of y is that of the lines and of what single measurements say together; a single one may lie outside of it.

    Args:
        series: by name.
        title: of the chart.
        labels: of both axes.
    """
    many = sum(len(each.single) for each in series.values()) > _MOST_MARKS
    with _chart(title, legend=len(series) > 1) as (axes, svg):
        for (name, each), color in zip(series.items(), _colors(), strict=False):
            for points, size, style in (
                (each.together, 18, {"color": color}),
                (each.unsure, 18, {"edgecolors": color, "facecolors": "none", "linewidths": 1}),
            ):
                axes.scatter(*_columns(points), s=size, zorder=3, **style)
            axes.scatter(*_columns(each.single), s=5, alpha=0.4, color=color, linewidths=0, rasterized=many)
            axes.plot(*_columns(each.line), lw=1.1, color=color, label=_plain(name))
        shown = [point for each in series.values() for point in (*each.together, *each.unsure, *each.line)]
        axes.set_yscale("log")
        axes.set_ylim(min(y for _, y in shown) / 2, max(y for _, y in shown) * 2)
        _iso_axis(axes, [x for x, _ in shown])
        _label(axes, labels)
    return svg[0]


def _columns(points: Points) -> tuple[Sequence[float], Sequence[float]]:
    return [x for x, _ in points], [y for _, y in points]


def scatter(series: Mapping[str, Points], title: str, labels: tuple[str, str], *, iso: bool = False) -> str:
    """Points in one colour per name.

    Args:
        series: name -> (x, y).
        title: of the chart.
        labels: of both axes.
        iso: whether x is an ISO, which has a logarithmic axis.
    """
    many = sum(map(len, series.values())) > _MOST_MARKS
    with _chart(title, legend=len(series) > 1) as (axes, svg):
        for (name, points), color in zip(series.items(), _colors(), strict=False):
            x, y = zip(*points, strict=True)
            axes.scatter(
                x, y, s=16, alpha=0.8, color=color, label=_plain(name), linewidths=0, rasterized=many
            )
        if iso:
            _iso_axis(axes, [x for points in series.values() for x, _ in points])
        _label(axes, labels)
    return svg[0]


def _colors() -> Iterator[str]:
    while True:
        yield from SERIES


def _iso_axis(axes: Axes, isos: Sequence[float]) -> None:
    """A logarithmic axis with every second stop: 100, 400, 1600 and so on."""
    axes.set_xscale("log")
    first, last = (math.log2(end / 100) for end in (min(isos), max(isos)))
    stops = [
        round(100 * 2.0**stop) for stop in range(math.floor(first / 2) * 2, math.ceil(last / 2) * 2 + 1, 2)
    ]
    axes.set_xticks(stops, [str(stop) for stop in stops], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(stops[0] / 1.3, stops[-1] * 1.3)


def _label(axes: Axes, labels: tuple[str, str]) -> None:
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(visible=True)


@contextmanager
def _chart(title: str, *, legend: bool = False) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; the list has the chart's SVG when the block has ended.

    Args:
        title: of the chart.
        legend: whether the series are named.
    """
    svg: list[str] = []
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.2, 3.1))
        axes = figure.add_axes((0.13, 0.16, 0.84, 0.73))  # a layout engine takes as long as the drawing
        yield axes, svg
        axes.set_title(title, fontsize=10, loc="left")
        if legend:
            axes.legend(fontsize=7)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, dpi=110, metadata=_NO_METADATA)
        svg.append(_for_page(file.getvalue(), title))


_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def _for_page(svg: str, title: str) -> str:
    """An SVG file as an element of the page: no header, no ids that two charts share, colours and fonts of the page."""
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    svg = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<=\.\d\d)\d+(?=[^<>]*>)", "", svg)  # of places: a hundredth of a point is enough
    svg = re.sub(r"\s*\n\s*", " ", svg)
    name = re.sub(r"\W+", "-", title)
    svg = re.sub(r'((?:id="|href="#|url\(#))', rf"\g<1>{name}-", svg)
    return re.sub(
        r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', rf'<svg role="img" aria-label="{title}" \1', svg
    )


def _plain(text: str) -> str:
    """A text in which matplotlib finds no formula, and no name that legends leave out."""
    return plain_label(text).lstrip("_") or "unknown"


def joined(groups: Iterable[tuple[str, Point]]) -> dict[str, list[Point]]:
    """(name, point) by name, in the order of the names.

    >>> joined([("b", (1, 2)), ("a", (3, 4)), ("b", (5, 6))])
    {'a': [(3, 4)], 'b': [(1, 2), (5, 6)]}
    """
    found: dict[str, list[Point]] = {}
    for name, point in groups:
        found.setdefault(name, []).append(point)
    return dict(sorted(found.items()))
