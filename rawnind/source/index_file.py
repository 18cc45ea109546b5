"""Index files, YAML or Parquet: what they list, scene by scene."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rawnind.documents import LISTING, read_yaml
from rawnind.errors import IndexInvalidError
from rawnind.records import Cfa
from rawnind.source import parquet_index
from rawnind.source.collector import Collector
from rawnind.source.entries import EntryReader, SceneEntry, problems, scene_entry
from rawnind.source.locate import Locator, ObjectLocator
from rawnind.source.names import CFA_FOLDERS, Refused, StatedFlags, cfa_of_folder, parse_scene

INDEX_NAME = "dataset_index.yaml"


ROOT = "root"
"""Key of an index YAML, beside Bayer and X-Trans: the folder that its file names are relative to, itself relative to the
YAML's own folder or absolute; without it they are relative to that folder."""


_NO_CFA = "the index's first level must be Bayer or X-Trans"


_Scenes = Iterator[tuple[Any, Any, Any]]
"""CFA, scene, and what the index says about it, as the file has them."""


PHOTOS = (2, scene_entry)
"""Scenes lie on the second level of an index YAML; each is read as soon as it ends."""


_LAYOUT: TypeAdapter[dict[str, dict[str, Any]]] = TypeAdapter(dict[str, dict[str, Any]])


def listed_scenes(path: Path, collector: Collector) -> tuple[_Scenes, str | None]:
    """The scenes of a YAML or Parquet file, and its `root`."""
    if path.suffix.lower() == parquet_index.SUFFIX and path.is_file():
        return scenes_of_parquet(_bytes(path), str(path))
    layout, stated = read_layout(path, condense=PHOTOS)
    return scenes_of_layout(layout, collector), stated


def scenes_of_parquet(data: bytes, name: str) -> tuple[_Scenes, str | None]:
    """The scenes of a Parquet file's bytes, and its `root`.

    Raises:
        IndexInvalidError: It is no index.
    """
    if len(data) > LISTING:
        raise IndexInvalidError(f"{name} has more than the {LISTING} bytes that are read")
    index = parquet_index.ParquetIndex(data, name)
    _check_root(index.root, name)
    return index.scenes(), index.root


def scenes_of_layout(layout: dict[str, dict[str, Any]], collector: Collector) -> _Scenes:
    """The scenes of a YAML's layout, which is emptied on the way: a large one would fill memory twice."""
    for key, scenes in layout.items():
        if cfa_of_folder(key) is None:
            collector.refuse(key, _NO_CFA)
            continue
        for scene in list(scenes):
            yield key, scene, scenes.pop(scene)


def collect(scenes: _Scenes, locator: Locator | ObjectLocator, collector: Collector) -> Collector:
    """Gathers the photos of scenes, which the locator finds; the collector that was given."""
    reader = EntryReader(locator, collector)
    for key, scene, entry in scenes:
        cfa = cfa_of_folder(str(key))
        if cfa is None:
            collector.refuse(f"{key}/{scene}", _NO_CFA)
        else:
            _read_scene(cfa, str(scene), entry, reader, collector)
    reader.fill()
    return collector


def read_layout(
    path: Path, *, condense: tuple[int, Callable[[Any], Any]] | None = None
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """An index YAML's two upper levels, checked, with the text of all below; and its `root`, None where it has none.

    Args:
        path: of the YAML.
        condense: as `read_yaml` takes it.

    Raises:
        IndexInvalidError: It is no index.
        OSError: It cannot be read.
    """
    if path.suffix.lower() == ".json":
        raise IndexInvalidError(
            f"{path} is JSON. Where it is a saved Dataverse reply, run `rawnind fetch {path} --root DIR` first, then use DIR"
        )
    if path.suffix.lower() not in {".yaml", ".yml"}:
        raise IndexInvalidError(
            f"{path} is neither a folder nor an index YAML; pass the folder that holds the RAW files"
        )
    if not path.is_file():  # a pipe would be waited for forever
        raise IndexInvalidError(f"{path} is not a file; pass a folder of RAW files or an index YAML")
    return layout_of(_bytes(path), str(path), condense=condense)


def layout_of(
    data: bytes, path: str, *, condense: tuple[int, Callable[[Any], Any]] | None
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """As `read_layout`, of a YAML's bytes; `path` names it in errors."""
    found = read_yaml(data, path, IndexInvalidError, most=LISTING, text_only=True, condense=condense)
    root = found.pop(ROOT, None) if isinstance(found, dict) else None
    _check_root(root, path)
    try:
        layout = _LAYOUT.validate_python(found)
    except ValidationError as error:
        raise IndexInvalidError(
            f"{path} is not an index: {problems(error)}. Its levels are Bayer or X-Trans, then scene, then clean_images, "
            "noisy_images, test_reserve and unknown_sensor."
        ) from error
    if not any(cfa_of_folder(key) for key in layout):
        raise IndexInvalidError(f"{path} is not an index: its first level must be Bayer or X-Trans")
    return layout, root


def _check_root(root: Any, path: str) -> None:
    if root is not None and not (isinstance(root, str) and root.isprintable() and "\\" not in root):
        raise IndexInvalidError(f"{path} is not an index: its {ROOT} must be the path of a folder")


def _bytes(path: Path) -> bytes:
    """The file's bytes, at most one more than are read of an index."""
    with path.open("rb") as file:
        return file.read(
            min(LISTING, os.fstat(file.fileno()).st_size) + 1
        )  # read() takes memory for what it is told


def _read_scene(cfa: Cfa, key: str, entry: Any, reader: EntryReader, collector: Collector) -> None:
    label = f"{CFA_FOLDERS[cfa]}/{key}"
    spelling = parse_scene(key)
    scene = entry if isinstance(entry, SceneEntry | Refused) else scene_entry(entry)
    if isinstance(spelling, Refused):
        collector.refuse(label, spelling.why)
        return
    if isinstance(scene, Refused):
        collector.refuse(label, scene.why)
        return
    spelling = replace(
        spelling,
        test_reserve=spelling.test_reserve or scene.test_reserve,
        unknown_sensor=spelling.unknown_sensor or scene.unknown_sensor,
    )
    collector.add_scene(cfa, spelling)
    for images, ground_truth in ((scene.clean_images, True), (scene.noisy_images, False)):
        flags = StatedFlags(cfa=cfa, spelling=spelling, ground_truth=ground_truth)
        for image in images:
            reader.read(image, label, flags)
