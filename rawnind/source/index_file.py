"""Index files, YAML or Parquet: what they list, scene by scene."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rawnind.documents import LISTING, read_yaml
from rawnind.errors import IndexInvalidError, printable, redacted
from rawnind.records import Cfa
from rawnind.source import parquet_index
from rawnind.source.collector import Collector
from rawnind.source.dataverse import parse_address
from rawnind.source.entries import EntryReader, SceneEntry, problems, scene_entry
from rawnind.source.locate import Locator, ObjectLocator
from rawnind.source.names import CFA_FOLDERS, Refused, StatedFlags, cfa_of_folder, parse_scene

INDEX_NAME = "dataset_index.yaml"

INDEX_SUFFIXES = frozenset({".yaml", ".yml", parquet_index.SUFFIX})

ROOT = "root"
"""Key of an index YAML, beside Bayer and X-Trans: the folder that its file names are relative to, itself relative to the
YAML's own folder or absolute, or a URI; without it they are relative to the YAML's folder. Or the DOI of the data set that has the files."""

_NO_CFA = "the index's first level must be Bayer or X-Trans"

_Scenes = Iterator[tuple[Any, Any, Any]]
"""CFA, scene, and what the index says about it, as the file has them."""

PHOTOS = (2, scene_entry)
"""Scenes lie on the second level of an index YAML; each is read as soon as it ends."""

_LAYOUT: TypeAdapter[dict[str, dict[str, Any]]] = TypeAdapter(dict[str, dict[str, Any]])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system says about a source into a sentence.

    Raises:
        IndexInvalidError: It cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise IndexInvalidError(
            f"{path}: {error.strerror or error}. Check the path and its permissions."
        ) from error


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


def refuse_published(source: str) -> None:
    """Refuses a source or a root that is on a web server.

    Raises:
        IndexInvalidError: It is the address of a data set, or of something else.
    """
    address = source if "://" in source else source.replace(":/", "://", 1)  # a Path has lost one slash
    if parse_address(source) or parse_address(address):
        raise IndexInvalidError(
            f"the photos of {address} are not on this machine yet; run `rawnind fetch {address} --root DIR` first, then use DIR"
        )
    if source.lower().startswith(("http://", "https://")):
        raise IndexInvalidError(
            f"{printable(redacted(source))} is not the page of a data set on a Dataverse server, which ends with ?persistentId=doi:...; put the "
            "addresses of files and their checksums into a list, which `rawnind fetch` takes"
        )


def published_root(source: str) -> str | None:
    """The data set that an index on this machine names as its `root`: a DOI, or the address of its page.

    No scene is read: a key of a YAML's first level begins a line.

    Args:
        source: an index, or a folder that may hold one.

    Raises:
        IndexInvalidError: It cannot be read.
    """
    path = Path(source)
    with reading(path):
        if path.is_dir():
            path /= INDEX_NAME
        suffix = path.suffix.lower()
        if suffix not in INDEX_SUFFIXES or not path.is_file():
            return None
        if suffix == parquet_index.SUFFIX:
            stated = parquet_index.stated_root(path)
        else:
            found = _PUBLISHED_ROOT.search(_bytes(path))
            stated = found[1].decode("utf-8", "replace") if found else None
    return stated if stated and parse_address(stated) else None


_PUBLISHED_ROOT = re.compile(rb"""^root:[ \t]+["']?((?:doi:|https?://)[^"'\s]+)""", re.MULTILINE)


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
