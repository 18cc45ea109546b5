"""`rawnind report`: the page that shows what was kept, what was thrown away, and why."""

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rawnind.errors import ConfigError, printable
from rawnind.output.events import read_events
from rawnind.output.shard_reader import ShardReader
from rawnind.output.store import Store
from rawnind.output.white_levels import contradicted_white_levels
from rawnind.reasons import Outcome, Reason
from rawnind.records import ImageRef
from rawnind.report.canvas import EMPTY
from rawnind.report.figures import charts
from rawnind.report.folder import Folder, Row, photos_of, read_folder, scene_key
from rawnind.report.pixels import DIFFERENCE_GAIN
from rawnind.report.tables import Worst, coverage, stages, what_if, worst
from rawnind.report.thumbnails import SMALLEST, TOTAL, Thumbnails
from rawnind.report.verdicts import advice
from rawnind.report.views import BANDS, Maker, PairKey, pair_key

INDEX = "report/index.html"
MARK = b'<meta name="generator" content="rawnind report">'
"""What a page of ours has among its first bytes; another file is not replaced."""
_HEAD = 1000

_EVERY_PAIR = 150
"""Collected pairs up to which each has a contact sheet; of more, the one with the lowest score of each scene has."""

Progress = Callable[[int, int], None]


def report(
    output: str | Path,
    *,
    scene: str | None = None,
    worst_count: int = 20,
    progress: Progress = lambda *_: None,
) -> str:
    """Writes a page about an output folder, also during a run or after a stopped one.

    Args:
        output: the folder that `prepare` writes: a local path, or a URI that pyarrow.fs opens.
        scene: a scene's name, also as `bayer/NAME`: the page shows that scene alone, in large pictures.
        worst_count: how many crops each list of the worst has.
        progress: called with (pictures made, pictures in all).

    Returns:
        Where the page is: OUT/report/index.html, or for a scene OUT/report/CFA-SCENE.html.

    Raises:
        ConfigError: There is no such scene, or a file of another program has the page's name.
        NotPreparedError: Nothing was committed to the folder.
        ManifestError: The manifest or the journal is damaged.
        OutputError: The page cannot be written.

    Examples:
        >>> report("out")  # doctest: +SKIP
        'out/report/index.html'
    """
    store = Store(str(output))
    folder, name = read_folder(store), INDEX
    if scene is not None:
        folder = _only(folder, scene)
        name = f"report/{folder.scenes[0]['cfa']}-{folder.scenes[0]['scene']}.html"
    _require_ours(store, name)
    page = render(folder, scene is not None, worst_count, progress)
    store.write(name, page.encode(), replace=True)
    return f"{_folder(store)}/{name}"


def _folder(store: Store) -> str:
    """The folder's location without the options of a URI."""
    return store.location.partition("?")[0].rstrip("/")


def _only(folder: Folder, scene: str) -> Folder:
    scenes = tuple(entry for entry in folder.scenes if scene in (entry["scene"], scene_key(entry)))
    if not scenes:
        raise ConfigError(f"{folder.store.location} has no scene {printable(scene)!r}")
    key = scene_key(scenes[0])
    if len(scenes) > 1:
        keys = " and ".join(scene_key(entry) for entry in scenes)
        raise ConfigError(f"{printable(scene)!r} is the name of {keys}; name one of them")
    return replace(
        folder,
        scenes=scenes,
        pairs=tuple(row for row in folder.pairs if scene_key(row) == key),
        crops=folder.crops.filter(
            (pc.field("scene") == scenes[0]["scene"]) & (pc.field("cfa") == scenes[0]["cfa"])
        ),
    )


def _require_ours(store: Store, name: str) -> None:
    """Checks, before anything is drawn, that the page may be written."""
    store.require_unlinked("report")
    try:
        head = store.read(name, _HEAD)
    except FileNotFoundError:
        return
    if MARK not in head:
        raise ConfigError(f"{name} in {store.location} is not a page of `rawnind report`; move it away")


def render(folder: Folder, one_scene: bool, worst_count: int, progress: Progress) -> str:  # noqa: FBT001
    """The page as HTML.

    Args:
        folder: what it shows.
        one_scene: whether it is about one scene.
        worst_count: how many crops each list of the worst has.
        progress: called with (pictures made, pictures in all).
    """
    lists = tuple(each for each in worst(folder.crops, folder.pairs, worst_count) if each.rows)
    lost = [row for row in folder.pairs if row["outcome"] in (Outcome.REJECTED, Outcome.FAILED)]
    sheets = _sheets(folder, one_scene)
    count = 4 * len(sheets) + 2 * len(lost) + len(_crop_ids(lists))
    thumbnails = Thumbnails.for_count(count)
    steps = _Steps(progress, len(sheets) + 2 * len(lost) + len(_crop_ids(lists)))
    with ShardReader(folder.store, keep=4) as reader:
        maker = Maker(folder, reader, sheets, thumbnails, steps.step)
        worst_views, strips = maker.worst(lists)
        return str(
            _environment()
            .get_template("page.html")
            .render(
                **_summary(folder, one_scene),
                lost=tuple(maker.lost(_readable(folder, lost))),
                lost_scenes=[entry for entry in folder.scenes if entry["outcome"] in _LOST],
                left_out=_left_out(folder),
                worst=worst_views,
                strips=strips,
                scenes=tuple(maker.scenes()),
                all_sheets=len(sheets) == _collected(folder),
                charts=[Markup(svg) for svg in charts(folder.pairs, folder.crops, folder.recipe)],  # noqa: S704 - of ours
                kept=tuple(what_if(folder.crops)),
                white_levels=tuple(contradicted_white_levels(folder.pairs)),
                coverage=coverage(folder.pairs),
                stages=stages(() if one_scene else read_events(folder.store)),
            )
        )


_LOST = (Outcome.REJECTED, Outcome.FAILED)


class _Steps:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def step(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _crop_ids(lists: Sequence[Worst]) -> set[str]:
    return {row["crop_id"] for each in lists for row, _ in each.rows}


def _collected(folder: Folder) -> int:
    return sum(row["outcome"] == Outcome.COLLECTED for row in folder.pairs)


def _sheets(folder: Folder, one_scene: bool) -> frozenset[PairKey]:  # noqa: FBT001
    """The pairs that have a contact sheet: all of a few, else one of each scene, as many as fit in the page."""
    rows = [row for row in folder.pairs if row["outcome"] == Outcome.COLLECTED]
    if not one_scene and len(rows) > _EVERY_PAIR:
        rows.sort(key=lambda row: (row["msssim"] is None, row["msssim"]))
        rows = list({scene_key(row): row for row in reversed(rows)}.values())[::-1]
    return frozenset(pair_key(row) for row in rows[: TOTAL // SMALLEST // 4])


def _readable(folder: Folder, lost: Sequence[Row]) -> Mapping[str, ImageRef]:
    """Photos of lost pairs that were decoded once; a file that failed is not opened again."""
    keys = {scene_key(row) for row in lost if row["outcome"] == Outcome.REJECTED or row["gt_sha1"]}
    photos = photos_of(folder.store, sorted(keys))
    failed = {file["file"] for entry in folder.scenes for file in entry["failed_files"]}
    return {sha1: photo for sha1, photo in photos.items() if photo.filename not in failed}


def _left_out(folder: Folder) -> list[dict[str, Any]]:
    """Scenes that the run left out on purpose, by reason, each with its pairs."""
    pairs: dict[str, list[Row]] = {}
    for row in folder.pairs:
        pairs.setdefault(scene_key(row), []).append(row)
    groups: dict[str, list[tuple[str, list[Row]]]] = {}
    for entry in folder.scenes:
        if entry["outcome"] == Outcome.FILTERED:
            key = scene_key(entry)
            groups.setdefault(entry["reason"], []).append((key, pairs.get(key, [])))
    return [
        {
            "reason": reason,
            "sentence": Reason(reason).sentence if reason in set(Reason) else "",
            "advice": advice(Reason(reason)) if reason in set(Reason) else "",
            "scenes": scenes,
        }
        for reason, scenes in sorted(groups.items())
    ]


def _summary(folder: Folder, one_scene: bool) -> dict[str, Any]:  # noqa: FBT001
    """What the head and the foot of the page say."""
    return {
        "location": _folder(folder.store),
        "one_scene": scene_key(folder.scenes[0]) if one_scene else "",
        "incomplete": folder.incomplete,
        "conservation": folder.conservation,
        "scene_counts": Counter(entry["outcome"] for entry in folder.scenes),
        "pair_counts": Counter(row["outcome"] for row in folder.pairs),
        "outcomes": [str(outcome) for outcome in Outcome],
        "scenes_planned": len(folder.scenes),
        "pairs_planned": len(folder.pairs),
        "crops": folder.crops.num_rows,
        "means": {
            title: pc.mean(folder.crops[column]).as_py()
            for title, column in (("mean MS-SSIM", "msssim"), ("mean valid share", "valid_fraction"))
        },
        "cameras": len({row["camera"] for row in folder.pairs if row["camera"]}),
        "recipe": folder.recipe,
        "versions": folder.versions,
        "manifest": folder.manifest,
        "bands": BANDS,
        "empty": EMPTY,
        "difference_gain": DIFFERENCE_GAIN,
    }


def _environment() -> Environment:
    """Every value of the page is escaped: names of scenes, cameras and files come from outside."""
    files = resources.files("rawnind.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("rawnind.report", ""),
    )
    script = (files / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {
        "mark": Markup(MARK.decode("ascii")),  # noqa: S704
        "style": Markup((files / "page.css").read_text(encoding="utf-8")),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "script_hash": f"sha256-{digest}",
    }
    return environment
