"""Which photos are one scene: by folder, by capture time, by a table, or by a pattern in their paths."""

import csv
import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from rawnind.errors import ConfigError, printable
from rawnind.indexing.scan import Found
from rawnind.source.names import Refused, parse_scene

GT_FOLDERS = frozenset({"gt", "gts", "clean", "ground_truth", "ground-truth", "groundtruth"})
"""Folders, in any case, whose photos are ground truths and that do not name a scene."""

_CARD_FOLDER = re.compile(r"\d{3}[A-Z0-9_]{5}")
"""DCF: three digits and five characters, such as 100MSDCF or 101CANON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A photo with its scene.

    Attributes:
        scene: its name.
        origin: what the name was made from; another origin is another scene.
        role: True for a ground truth, False for a noisy photo; None where the scene's photos decide.
        why: what said so; empty where nothing did.
        doubts: what a person should look at.
    """

    photo: Found
    scene: str
    origin: str
    role: bool | None = None
    why: str = ""
    doubts: tuple[str, ...] = ()


Grouping = Callable[[Sequence[Found]], list[Placed]]


def by_folder(photos: Sequence[Found]) -> list[Placed]:
    """A scene per folder, named after it, with the folders above where two have the same name."""
    parts = {photo.name: _scene_folders(photo) for photo in photos}
    paths = Counter(path[-1] for path in set(parts.values()))
    placed: list[Placed] = []
    doubted: set[tuple[str, ...]] = set()
    for photo in photos:
        path = parts[photo.name]
        scene = path[-1] if paths[path[-1]] == 1 else "-".join(path)
        doubts = []
        if path not in doubted and _CARD_FOLDER.fullmatch(path[-1]):
            doubted.add(path)  # once, not at each of a thousand photos
            doubts = [f"{path[-1]} is a camera's folder and may hold several scenes: --by-time 60"]
        placed.append(_placed(photo, scene, origin="/".join(path), doubts=doubts))
    return placed


def _scene_folders(photo: Found) -> tuple[str, ...]:
    """The folders that name the photo's scene, outermost first."""
    folders = photo.below.split("/")[:-1]
    if folders and folders[-1].lower() in GT_FOLDERS:
        folders = folders[:-1]
    return tuple(folders) or (photo.folder,)


def by_time(gap: timedelta) -> Grouping:
    """A scene ends where a camera takes no photo for longer than `gap`; it is named after the time of its first photo."""

    def group(photos: Sequence[Found]) -> list[Placed]:
        cameras: dict[str, list[tuple[datetime, Found]]] = defaultdict(list)
        placed = []
        for photo in photos:
            taken = photo.header.capture.captured_at
            if taken is None:
                (found,) = by_folder([photo])
                doubts = ("the file has no capture time",)
                placed.append(_placed(photo, found.scene, origin=found.origin, doubts=doubts))
            else:
                cameras[photo.header.camera].append((datetime.fromisoformat(taken), photo))
        for camera, series in cameras.items():
            series.sort(key=lambda entry: (entry[0], entry[1].name))
            first = last = series[0][0]
            for time, photo in series:
                if time - last > gap:
                    first = time
                last = time
                placed.append(_placed(photo, f"{first:%Y-%m-%d_%H-%M-%S}", origin=f"{first} {camera}"))
        return placed

    return group


def by_regex(pattern: str) -> Grouping:
    """The scene's name is what a pattern finds in a photo's path: its group `scene`, its first group, or all of it.

    Raises:
        ConfigError: It is no pattern.
    """
    try:
        compiled = re.compile(_composed(pattern))
    except re.error as error:
        raise ConfigError(
            f"--scene-regex {printable(pattern)} is not a regular expression: {error}"
        ) from error

    def group(photos: Sequence[Found]) -> list[Placed]:
        placed = []
        for photo in photos:
            if match := compiled.search(_composed(photo.below)):
                groups = match.groupdict()
                scene = groups.get("scene") or (match[1] if compiled.groups else None) or match[0]
                placed.append(_placed(photo, scene))
        return placed

    return group


class CsvTable:
    """A table with the columns `file`, `scene` and, where wanted, `role` (`gt` or `noisy`); a file's folders may be left out.

    Attributes:
        unknown: files that it lists and that are not among the photos of the last call.
    """

    def __init__(self, path: Path) -> None:
        """Reads the table.

        Raises:
            ConfigError: It cannot be read, or lacks a column.
        """
        self._name = path.name
        self._listed: dict[str, tuple[str, str]] = {}
        self.unknown: tuple[str, ...] = ()
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file)
                rows = list(table)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = (
                error.strerror if isinstance(error, OSError) else None
            ) or f"it is no table in UTF-8 ({error})"
            raise ConfigError(f"--csv {path} cannot be read: {why}") from error
        if not {"file", "scene"} <= set(table.fieldnames or ()):
            raise ConfigError(f"--csv {path}, line 1: it must be file,scene,role, or file,scene")
        for number, row in enumerate(rows, 2):
            file_name, scene, role = (str(row.get(key) or "").strip() for key in ("file", "scene", "role"))
            if not file_name or not scene or role not in _CSV_ROLES:
                raise ConfigError(
                    f"--csv {path}, line {number}: each line needs a file and a scene, and a role of gt, noisy or nothing"
                )
            listed = self._listed.setdefault(_composed(file_name), (scene, role))
            if listed != (scene, role):
                raise ConfigError(
                    f"--csv {path}, line {number}: {printable(file_name)} is listed twice, with another scene or role"
                )

    def __call__(self, photos: Sequence[Found]) -> list[Placed]:
        """The photos that it lists, in their scenes."""
        entries = {photo.name: entry for photo in photos if (entry := self._entry_of(photo))}
        counts = Counter(entries.values())
        self.unknown = tuple(entry for entry in self._listed if entry not in counts)
        placed = []
        for photo in photos:
            if entry := entries.get(photo.name):
                scene, role = self._listed[entry]
                several = f"{counts[entry]} files are called {printable(entry)}: write their folders into {self._name}"
                doubts = [several] if counts[entry] > 1 else []
                placed.append(
                    _placed(photo, scene, role=_CSV_ROLES[role], why=f"in {self._name}", doubts=doubts)
                )
        return placed

    def _entry_of(self, photo: Found) -> str | None:
        """How the table spells a photo's name; None where it does not list it."""
        names = map(_composed, (photo.name, photo.below, photo.name.rpartition("/")[2]))
        return next((name for name in names if name in self._listed), None)


_CSV_ROLES = {"gt": True, "noisy": False, "": None}


def _placed(
    photo: Found,
    scene: str,
    *,
    origin: str | None = None,
    role: bool | None = None,
    why: str = "",
    doubts: Iterable[str] = (),
) -> Placed:
    folders = photo.below.split("/")[:-1]
    if role is None and folders and folders[-1].lower() in GT_FOLDERS:
        role, why = True, f"in {folders[-1]}/"
    return Placed(
        photo=photo,
        scene=scene_name(scene),
        origin=scene if origin is None else origin,
        role=role,
        why=why if role is not None else "",
        doubts=tuple(doubts),
    )


def _composed(text: str) -> str:
    """Names of macOS have letters and their accents apart, what people type has not."""
    return unicodedata.normalize("NFC", text)


def scene_name(text: str) -> str:
    """Any text as a scene's name, which holds letters, digits, spaces, _ . + - only.

    >>> scene_name("Küche (Abend)/2")
    'Küche -Abend-2'
    """
    text = re.sub(r"[^\w.+ -]+", "-", _composed(text))
    text = re.sub(r"-+", "-", text).strip("-_. ")[:60] or "scene"
    parsed = parse_scene(text)
    return "scene" if isinstance(parsed, Refused) else parsed.scene


def with_distinct_names(placed: Iterable[Placed]) -> list[Placed]:
    """Numbers scenes that are not the same and whose names would be, as of the folders `hall!` and `hall?`."""
    placed = list(placed)
    origins = defaultdict(list)
    for scene, origin in sorted({(each.scene, each.origin) for each in placed}):
        origins[scene].append(origin)
    taken, names = set(origins), {}
    for scene, found in origins.items():
        for number, origin in enumerate(found):
            names[scene, origin] = free_name(scene, taken) if number else scene
            taken.add(names[scene, origin])
    return [replace(each, scene=names[each.scene, each.origin]) for each in placed]


def free_name(scene: str, taken: Collection[str]) -> str:
    """A name that is not taken yet.

    >>> free_name("hall", {"hall", "hall-2"})
    'hall-3'
    """
    numbered = (f"{scene}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([scene], numbered) if name not in taken)


_GAP = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_UNITS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def parse_gap(text: str) -> timedelta:
    """A time span in seconds, minutes or hours.

    Raises:
        ConfigError: It is none.

    >>> parse_gap("5m")
    datetime.timedelta(seconds=300)
    """
    match = _GAP.fullmatch(text.strip())
    if not match or not float(match[1]) or float(match[1]) > 1e6:
        raise ConfigError(f"--by-time {printable(text)} is no time span: write 60 (seconds), 5m or 1h")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
