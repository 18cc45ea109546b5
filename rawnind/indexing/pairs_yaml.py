"""The index YAML that people edit: written from choices, and merged with what was edited in it."""

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rawnind.errors import ConfigError, IndexInvalidError, OutputError, printable
from rawnind.indexing.grouping import free_name
from rawnind.indexing.roles import Choice, in_order
from rawnind.locations import is_uri, join, local_path
from rawnind.output.atomic_file import atomic_file
from rawnind.records import Cfa
from rawnind.source.entries import LEFT_OUT
from rawnind.source.index_file import ROOT, read_layout
from rawnind.source.names import CFA_FOLDERS
from rawnind.source.storage import photo_stat

_LISTS = ("clean_images", "noisy_images")
_NUMBERS = {"iso": int, "exposure_time": float, "aperture": float, "focal_length": float, "orientation": int}
_FLAGS = ("test_reserve", "unknown_sensor")
_SHA1 = re.compile(r"[0-9A-Fa-f]{40}")

_HEADER = """\
# Made by `rawnind index`; edit it by hand. `role` decides: gt, noisy, or out for a photo that is not used. Entries may be moved
# to another scene. `rawnind index ... -o` with this file keeps what you edit (comments are lost) and adds photos that are new.
"""

Entry = dict[str, Any]


@dataclass
class PairsFile:
    """An index YAML in memory.

    Attributes:
        root: the folder that file names are relative to, absolute; a URI as text.
        scenes: CFA folder -> scene -> its keys.
    """

    root: Path | str
    scenes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether a file of this name is there."""
        if isinstance(self.root, Path):
            return (self.root / name).exists()
        try:
            return photo_stat(join(self.root, name)) is not None
        except FileNotFoundError:
            return False
        except OSError as error:
            raise IndexInvalidError(f"cannot look for {name} in {self.root}: {error.strerror}") from error

    def entries(self) -> Iterable[tuple[str, str, Entry]]:
        """(CFA folder, scene, entry) of each photo."""
        for cfa, scenes in self.scenes.items():
            for scene, keys in scenes.items():
                for name in _LISTS:
                    for entry in keys[name]:
                        yield cfa, scene, entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What a merge did.

    Attributes:
        added: file names of new photos.
        moved: old and new names of listed files that were found elsewhere.
        missing: listed files that are not there.
    """

    added: tuple[str, ...]
    moved: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


def read_pairs(path: Path, root: Path | str) -> PairsFile:
    """A file that exists, or an empty one.

    Args:
        path: of the YAML.
        root: of a new file.

    Raises:
        IndexInvalidError: The file is no index.
    """
    if not path.exists():
        return PairsFile(root=root)
    try:
        layout, stated = read_layout(path)
    except OSError as error:
        raise IndexInvalidError(f"{path}: {error.strerror or error}") from error
    folder = Path(os.path.abspath(path.parent / local_path(stated or ".")))  # noqa: PTH100
    pairs = PairsFile(root=stated if stated and is_uri(stated) else folder)
    for cfa, scenes in layout.items():
        for scene, keys in scenes.items():
            pairs.scenes.setdefault(cfa, {})[scene] = _typed_scene(path, scene, keys)
    return pairs


def _typed_scene(path: Path, scene: str, keys: Any) -> dict[str, Any]:
    """A scene's keys, whose texts become numbers and flags again."""
    if not isinstance(keys, dict) or not all(isinstance(keys.get(name), list) for name in _LISTS):
        raise IndexInvalidError(f"{path}: scene {scene} needs the lists clean_images and noisy_images")
    typed = dict(keys)
    for name in _LISTS:
        for entry in keys[name]:
            if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
                raise IndexInvalidError(f"{path}: scene {scene} has an entry without a filename")
        typed[name] = [_typed(entry) for entry in keys[name]]
    for name in _FLAGS:
        typed[name] = str(keys.get(name, "false")).lower() in {"true", "yes", "on"}
    return typed


def _typed(entry: Mapping[str, Any]) -> Entry:
    typed = dict(entry)
    if not _SHA1.fullmatch(str(typed.get("sha1"))):  # it is filled in
        typed.pop("sha1", None)
    for name, kind in _NUMBERS.items():
        with contextlib.suppress(ValueError, TypeError):
            typed[name] = kind(typed.get(name))
    return typed


def merge(pairs: PairsFile, choices: Sequence[Choice]) -> Merged:
    """Adds the photos that a file does not list; what it lists stays as it is, also where it was edited.

    A listed file that is gone while the same bytes were found under another name is listed under that name. A new photo joins those that
    were grouped with it, whatever a person has called their scene.
    """
    listed = {entry["filename"]: entry for _, _, entry in pairs.entries()}
    seen = {choice.photo.name for choice in choices}
    missing = {name for name in listed if name not in seen and not pairs.has(name)}
    by_sha1 = {listed[name].get("sha1", "").lower(): name for name in missing}
    new, moved = [], []
    for choice in choices:
        name = choice.photo.name
        if name in listed:
            listed[name].setdefault("sha1", choice.photo.sha1)
        elif (old := by_sha1.get(choice.photo.sha1, "")) in missing:
            listed[old]["filename"] = name
            missing.remove(old)
            moved.append((old, name))
        else:
            new.append(choice)
    scenes = _scenes_of_new(pairs, choices)
    for choice in new:
        keys = _scene(pairs, choice.cfa, scenes[choice.cfa, choice.scene])
        keys[_LISTS[0 if choice.ground_truth else 1]].append(_entry(choice))
    added = tuple(choice.photo.name for choice in new)
    return Merged(added=added, moved=tuple(moved), missing=tuple(sorted(missing)))


def _scenes_of_new(pairs: PairsFile, choices: Sequence[Choice]) -> dict[tuple[Cfa, str], str]:
    """CFA and scene of choices -> the scene of the file that their new photos belong to."""
    chosen = {choice.photo.name: choice.scene for choice in choices}
    homes: dict[tuple[str, str], set[str]] = defaultdict(set)
    taken: dict[str, set[str]] = defaultdict(set)
    for cfa, scene, entry in pairs.entries():
        if group := chosen.get(entry["filename"]):
            homes[cfa, group].add(scene)
            taken[cfa].add(scene)
    scenes = {}
    for cfa, group in sorted({(choice.cfa, choice.scene) for choice in choices}):
        folder = CFA_FOLDERS[cfa]
        found = homes[folder, group]
        if len(found) == 1:
            (scene,) = found
        else:
            scene = group if group in found else free_name(group, taken[folder])
        scenes[cfa, group] = scene
        taken[folder].add(scene)
    return scenes


def as_listed(pairs: PairsFile, choices: Sequence[Choice]) -> list[Choice]:
    """The choices as the file has them after a merge: with the scenes and roles that a person gave them."""
    listed = {entry["filename"]: (scene, entry) for _, scene, entry in pairs.entries()}
    truths = {
        entry["filename"]
        for scenes in pairs.scenes.values()
        for keys in scenes.values()
        for entry in _in_lists(keys)[_LISTS[0]]
    }
    found = []
    for choice in choices:
        name = choice.photo.name
        scene, entry = listed[name]
        left_out = entry.get("role") == LEFT_OUT
        has = replace(choice, scene=scene, ground_truth=name in truths, left_out=left_out)
        found.append(choice if has == choice else replace(has, why="as listed", doubts=()))
    return in_order(found)


def _scene(pairs: PairsFile, cfa: Cfa, name: str) -> dict[str, Any]:
    scenes = pairs.scenes.setdefault(CFA_FOLDERS[cfa], {})
    empty = {"clean_images": [], "noisy_images": [], "test_reserve": False, "unknown_sensor": False}
    return scenes.setdefault(name, empty)


def _entry(choice: Choice) -> Entry:
    header = choice.photo.header
    capture = header.capture
    entry = {
        "filename": choice.photo.name,
        "sha1": choice.photo.sha1,
        "role": "gt" if choice.ground_truth else "noisy",
        "why": choice.explanation,
        "iso": capture.iso,
        "exposure_time": capture.exposure_time,
        "aperture": capture.aperture,
        "focal_length": capture.focal_length,
        "captured_at": capture.captured_at,
        "camera": header.camera or None,
        "lens": capture.lens,
        "orientation": capture.orientation,
    }
    return {key: value for key, value in entry.items() if value is not None}


def write_pairs(path: Path, pairs: PairsFile) -> None:
    """Writes the file as a whole, scenes sorted, each entry in the list of its role.

    Raises:
        ConfigError: The name of the root cannot stand in it.
        OutputError: It cannot be written.
    """
    layout: dict[str, Any] = {}
    if pairs.root != path.parent:
        layout[ROOT] = pairs.root if isinstance(pairs.root, str) else _root_text(pairs.root, path.parent)
        if not layout[ROOT].isprintable():
            raise ConfigError(
                f"{printable(layout[ROOT])}: the name of this folder holds a control character or a broken encoding, which an index cannot: "
                "rename it, or write the index into it with -o"
            )
    for cfa, scenes in sorted(pairs.scenes.items()):
        layout[cfa] = {scene: _in_lists(keys) for scene, keys in sorted(scenes.items())}
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(layout, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, replace=True) as file:
            file.write((_HEADER + text).encode())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _root_text(root: Path, folder: Path) -> str:
    """The root relative to the YAML's folder, so that both can be moved together; absolute where they share nothing."""
    shared = os.path.commonpath([root, folder])
    return os.path.relpath(root, folder) if len(Path(shared).parts) > 1 else str(root)


def _in_lists(keys: Mapping[str, Any]) -> dict[str, Any]:
    lists: dict[str, list[Entry]] = {name: [] for name in _LISTS}
    for name in _LISTS:
        for entry in keys[name]:
            place = {"gt": _LISTS[0], "noisy": _LISTS[1], LEFT_OUT: _LISTS[1]}.get(entry.get("role"), name)
            lists[place].append(entry)
    return {**keys, **{name: sorted(entries, key=_place) for name, entries in lists.items()}}


def _place(entry: Entry) -> tuple[float, str]:
    iso = entry.get("iso")
    return (iso if isinstance(iso, int | float) else 0, entry["filename"])
