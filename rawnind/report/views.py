"""What the page's template shows: plain values and pictures, made from an output folder's rows and shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from rawnind.errors import DamagedShardError
from rawnind.output.shard_reader import ShardReader
from rawnind.reasons import Outcome, Reason
from rawnind.records import ImageRef
from rawnind.report.canvas import PairPicture, pair_picture
from rawnind.report.folder import Folder, Row, scene_key
from rawnind.report.pixels import Why
from rawnind.report.previews import preview
from rawnind.report.tables import Worst
from rawnind.report.thumbnails import Thumbnails
from rawnind.report.verdicts import Verdict, advice, verdict

PairKey = tuple[str, str]
"""Key of the scene, and the pair's pair_id."""

BANDS = (0.7, 0.8, 0.9, 0.95)
"""Between the colours of a crop's MS-SSIM."""

_STRIP = 160
"""Pixels a side of each picture of a crop."""

_NUMBERED = 60
"""Crops of a pair up to which each has its score written on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A picture with its title."""

    title: str
    uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where a pair's crops lie, coloured by their MS-SSIM.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        paths: (number of the band, or -1 where nothing was measured; outline of its crops as an SVG path).
        scores: (x, y, text) of each crop; empty where there are many.
        font: size of the texts.
    """

    width: int
    height: int
    paths: tuple[tuple[int, str], ...]
    scores: tuple[tuple[int, int, str], ...]
    font: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A pair's contact sheet; `problem` says why there is none."""

    panels: tuple[Panel, ...]
    grid: Grid | None
    why: tuple[Why, ...]
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PairView:
    """A collected pair; `row` is that of pairs.parquet, `sheet` is None where the page has no room for it."""

    anchor: str
    row: Row
    sheet: Sheet | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneView:
    """A collected scene with its collected pairs, and how many others it has."""

    key: str
    row: Row
    pairs: tuple[PairView, ...]
    lost: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LostPair:
    """A rejected or failed pair; `pictures` has a picture, or why there is none, for each of its photos."""

    key: str
    row: Row
    decided: Verdict | None
    pictures: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LostGroup:
    """Pairs that were lost for one reason."""

    outcome: str
    reason: str
    sentence: str
    advice: str
    pairs: tuple[LostPair, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstView:
    """The worst of one kind: (anchor of the pair, row of the crop, number, place of its picture among the strips)."""

    title: str
    crops: tuple[tuple[str, Row, float, int], ...]


class Maker:
    """Makes the views of one page.

    Args:
        folder: the output folder.
        reader: of its shards.
        sheets: the pairs that have a contact sheet.
        thumbnails: how large pictures may be.
        progress: called after each picture.
    """

    def __init__(
        self,
        folder: Folder,
        reader: ShardReader,
        sheets: frozenset[PairKey],
        thumbnails: Thumbnails,
        progress: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._reader = reader
        self._sheets = sheets
        self._thumbnails = thumbnails
        self._progress = progress
        self._crops = crops_of_pairs(folder)
        self._anchors = {pair_key(row): f"p{number}" for number, row in enumerate(folder.pairs)}

    def scenes(self) -> Iterator[SceneView]:
        """The collected scenes."""
        by_scene: dict[str, list[Row]] = {}
        for row in self._folder.pairs:
            by_scene.setdefault(scene_key(row), []).append(row)
        for entry in self._folder.scenes:
            if entry["outcome"] == Outcome.COLLECTED:
                rows = by_scene.get(scene_key(entry), [])
                kept = [row for row in rows if row["outcome"] == Outcome.COLLECTED]
                yield SceneView(
                    key=scene_key(entry),
                    row=entry,
                    pairs=tuple(self._pair(row) for row in kept),
                    lost=len(rows) - len(kept),
                )

    def _pair(self, row: Row) -> PairView:
        key = pair_key(row)
        sheet = self._sheet(key) if key in self._sheets else None
        return PairView(anchor=self._anchors[key], row=row, sheet=sheet)

    def _sheet(self, key: PairKey) -> Sheet:
        self._progress()
        try:
            picture = pair_picture(self._reader, self._crops[key](), self._thumbnails.width)
        except (DamagedShardError, KeyError, ValueError) as error:
            return Sheet(panels=(), grid=None, why=(), problem=f"its pixels cannot be read: {error}")
        return Sheet(panels=self._panels(picture), grid=grid(picture), why=picture.why, problem="")

    def _panels(self, picture: PairPicture) -> tuple[Panel, ...]:
        return tuple(Panel(title=title, uri=self._thumbnails.uri(pixels)) for title, pixels in picture.panels)

    def worst(self, lists: Sequence[Worst]) -> tuple[tuple[WorstView, ...], tuple[str, ...]]:
        """The worst crops and pairs, and a strip of pictures for each crop; one that is in several lists is drawn once."""
        rows = {row["crop_id"]: row for each in lists for row, _ in each.rows}
        places = {crop_id: place for place, crop_id in enumerate(rows)}
        views = tuple(
            WorstView(
                title=each.title,
                crops=tuple(
                    (self._anchors[pair_key(row)], row, number, places[row["crop_id"]])
                    for row, number in each.rows
                ),
            )
            for each in lists
        )
        return views, tuple(self._strip(row) for row in rows.values())

    def _strip(self, row: Row) -> str:
        """Ground truth, noisy photo and mask of a crop, beside each other; empty where its pixels cannot be read."""
        self._progress()
        try:
            picture = pair_picture(self._reader, [row], _STRIP)
        except (DamagedShardError, ValueError):
            return ""
        return self._thumbnails.uri(np.hstack([picture.truth, picture.noisy, picture.mask]))

    def lost(self, photos: Mapping[str, ImageRef]) -> Iterator[LostGroup]:
        """Rejected and failed pairs by reason, failed ones first.

        Args:
            photos: SHA-1 -> where the photo was when it was read; the photos that failed are not among them.
        """
        rows = [row for row in self._folder.pairs if row["outcome"] in _LOST]
        rows.sort(
            key=lambda row: (_LOST.index(row["outcome"]), row["reason"] or "", row["scene"], row["pair_id"])
        )
        for (outcome, reason), group in groupby(rows, key=lambda row: (row["outcome"], row["reason"] or "")):
            known = Reason(reason) if reason in set(Reason) else None
            yield LostGroup(
                outcome=outcome,
                reason=reason,
                sentence=known.sentence if known else "",
                advice=advice(known) if known else "",
                pairs=tuple(self._lost_pair(row, photos) for row in group),
            )

    def _lost_pair(self, row: Row, photos: Mapping[str, ImageRef]) -> LostPair:
        return LostPair(
            key=scene_key(row),
            row=row,
            decided=verdict(row, self._folder.recipe),
            pictures=(
                ("ground truth", row["gt_file"] or "none", self._preview(row["gt_sha1"], photos)),
                ("noisy", row["noisy_file"], self._preview(row["noisy_sha1"], photos)),
            ),
        )

    def _preview(self, sha1: str | None, photos: Mapping[str, ImageRef]) -> str:
        """A picture as a data URI; empty where the photo cannot be read."""
        self._progress()
        photo = photos.get(sha1 or "")
        picture = preview(photo, self._thumbnails.width) if photo else None
        return "" if picture is None else self._thumbnails.uri(picture)


_LOST = (str(Outcome.FAILED), str(Outcome.REJECTED))


def pair_key(row: Row) -> PairKey:
    """What identifies a pair in one folder."""
    return scene_key(row), row["pair_id"]


def crops_of_pairs(folder: Folder) -> dict[PairKey, Callable[[], list[Row]]]:
    """The crops of each pair, read from the table when they are asked for: a data set may have a million."""
    columns = (folder.crops[name].to_pylist() for name in ("cfa", "scene", "pair_id"))
    found: dict[PairKey, Callable[[], list[Row]]] = {}
    start = 0
    for (cfa, scene, pair), group in groupby(zip(*columns, strict=True)):
        count = sum(1 for _ in group)
        found[f"{cfa}/{scene}", pair] = _slice(folder, start, count)
        start += count
    return found


def _slice(folder: Folder, start: int, count: int) -> Callable[[], list[Row]]:
    return lambda: folder.crops.slice(start, count).to_pylist()


def grid(picture: PairPicture) -> Grid:
    """Where the crops of a pair lie in its pictures, coloured by MS-SSIM."""
    outlines: dict[int, str] = {}
    for each in picture.places:
        score = each.row["msssim"]
        band = -1 if score is None else sum(score >= limit for limit in BANDS)
        side = max(each.side - 1, 1)
        outlines[band] = f"{outlines.get(band, '')}M{each.left} {each.top}h{side}v{side}h-{side}z"
    few = len(picture.places) <= _NUMBERED
    height, width, _ = picture.truth.shape
    return Grid(
        width=width,
        height=height,
        paths=tuple(sorted(outlines.items())),
        scores=tuple(
            (each.left + each.side // 2, each.top + each.side // 2, _score(each.row["msssim"]))
            for each in picture.places
            if few
        ),
        font=max(min(min(each.side for each in picture.places) // 4, height // 5), 1),
    )


def _score(value: Any) -> str:
    return "none" if value is None else f"{value:.2f}"
