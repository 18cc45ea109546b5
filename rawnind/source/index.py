"""The index: what scenes a source holds. It reads names and one YAML, and opens no photo."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from rawnind.errors import ConfigError, IndexInvalidError, printable
from rawnind.locations import is_uri, local_path, require_text
from rawnind.records import ImageRef
from rawnind.source.collector import Collector, Index, SkippedFiles
from rawnind.source.dataverse import RAWNIND, parse_address
from rawnind.source.index_file import INDEX_NAME, ROOT, collect, listed_scenes, reading, refuse_published
from rawnind.source.locate import Locator, ObjectLocator, list_folder, walk
from rawnind.source.names import (
    CFA_FOLDERS,
    EXAMPLE,
    NO_FLAGS,
    NOT_IN_LAYOUT,
    FileKind,
    Refused,
    StatedFlags,
    bare,
    kind_of,
    parse_name,
)
from rawnind.source.object_index import load_objects
from rawnind.source.storage import list_objects, require_no_secrets

__all__ = ["INDEX_NAME", "Index", "Refused", "SkippedFiles", "index_to_yaml", "load_index"]


def check_source(source: str) -> None:
    """Checks what can be checked of a source without reading it.

    Raises:
        IndexInvalidError: It does not exist on this machine, or is a URI with credentials.
    """
    refuse_published(source)
    if is_uri(source):
        require_no_secrets(source)
    else:
        require_source(source)


def require_source(source: str | Path) -> Path:
    """The absolute path of a source that exists on this machine; its content is not read.

    Raises:
        IndexInvalidError: It does not exist, or is a URI of an object store.
        ConfigError: Its path is no text.
    """
    refuse_published(str(source))
    if not str(source):
        raise IndexInvalidError("SOURCE is empty; name a folder, an index YAML or a DOI")
    if str(source).startswith(("s3:/", "gs:/")):  # a Path has lost one slash
        raise IndexInvalidError(f"{source} is a URI, which must be given as a string")
    path = Path(require_text(os.path.abspath(local_path(str(source)))))  # noqa: PTH100 - resolve() would follow links and change the user's spelling
    with reading(path):
        if not path.exists():
            if str(source).lower().startswith("doi:"):
                raise IndexInvalidError(f"{source} is not a DOI; one looks like {RAWNIND}")
            raise IndexInvalidError(f"{path} does not exist")
    return path


def load_index(source: str | Path, root: Path | str | None = None, *, follow_links: bool = False) -> Index:
    """The scenes of a folder or of an index YAML.

    Args:
        source: a flat folder of RawNIND names, a nested one (`[src/]{Bayer|X-Trans}/{scene}/[gt/]{file}`), an index
            YAML, or a folder that holds a `dataset_index.yaml`, which then decides. Each may lie on an object store, as a URI
            that pyarrow.fs opens, such as `s3://bucket/photos`.
        root: where the files of an index YAML lie; by default where its key `root` says, or beside the YAML. Files that are
            named without a folder are found in a flat or a nested layout. A missing file keeps
            the path that it would have in a flat folder; the decoder reports it.
        follow_links: whether to take files outside of the folder that links in it lead to.

    Returns:
        The scenes, sorted, and what was refused or set aside.

    Raises:
        IndexInvalidError: The source is not there, cannot be read, or names no scene.
        ConfigError: `root` was given for a source that is no YAML.

    Examples:
        >>> len(load_index("dataset_index.yaml", root=Path("RawNIND")).scenes)  # doctest: +SKIP
        307
    """
    refuse_published(str(source))
    if is_uri(str(source)):
        index = load_objects(str(source), root)
        if not index.scenes:
            raise IndexInvalidError(_nothing_found(source, index))
        return index
    path = require_source(source)
    with reading(path):
        index = _load(path, root, follow_links=follow_links)
    if not index.scenes:
        raise IndexInvalidError(_nothing_found(path, index, follow_links=follow_links))
    return index


def index_to_yaml(index: Index) -> str:
    """The index in RawNIND's own layout, sorted, with the root of photos on an object store; `load_index` reads it back."""
    layout: dict[str, Any] = {ROOT: index.root} if is_uri(index.root) or parse_address(index.root) else {}
    for scene in index.scenes:
        layout.setdefault(CFA_FOLDERS[scene.cfa], {})[scene.name] = {
            "clean_images": _listed(scene.ground_truths),
            "noisy_images": _listed(scene.noisy),
            "test_reserve": scene.test_reserve,
            "unknown_sensor": scene.unknown_sensor,
        }
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(layout, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _listed(refs: Iterable[ImageRef]) -> list[dict[str, str | int]]:
    return [{"filename": ref.filename, "sha1": ref.sha1, **_iso_of(ref)} for ref in refs]


def _iso_of(ref: ImageRef) -> dict[str, str | int]:
    """The ISO where the file's name does not say it."""
    named = not isinstance(parse_name(bare(ref.filename)), Refused)
    return {} if named or ref.iso is None else {"iso": ref.iso}


def _load(path: Path, root: Path | str | None, *, follow_links: bool) -> Index:
    listed = path / INDEX_NAME if path.is_dir() else path
    collector = Collector(follow_links=follow_links)
    if listed.exists():
        scenes, stated = listed_scenes(listed, collector)
        if stated and not root:
            refuse_published(stated)
        chosen = str(root or stated or "")
        if is_uri(chosen):
            return collect(scenes, ObjectLocator(chosen), collector).index(chosen)
        folder = Path(os.path.abspath(root or listed.parent / local_path(stated or ".")))  # noqa: PTH100
        collect(scenes, Locator(folder, follow_links=follow_links), collector)
    elif root is not None:
        raise ConfigError(
            f"--root names the folder of an index YAML's files, and {path} is a folder without one"
        )
    else:
        folder = path
        _read_folder(path, path, collector)
    return collector.index(folder)


def _camera_named(top: Path, *, follow_links: bool) -> str | None:
    """The name of a RAW file somewhere below a folder that is not named as in RawNIND; None where there is none."""
    for _, listing in walk(top, lambda *_: None, set(), follow_links=follow_links):
        for name in sorted(listing.files):
            is_photo = kind_of(name) is FileKind.RAW and not name.startswith(".")
            if is_photo and isinstance(parse_name(name), Refused):
                return name
    return None


def is_own_photos(source: str | Path, output: Path | None, *, follow_links: bool = False) -> bool:
    """Whether a source is a folder whose photos are not named as in RawNIND and that no index lists.

    Args:
        source: a folder or an index YAML.
        output: where an index of it is to be written; one that lies there already is not the source.
        follow_links: whether links that leave the folder are followed.

    Raises:
        IndexInvalidError: The source does not exist, or cannot be read.
    """
    refuse_published(str(source))
    if is_uri(str(source)):
        return not str(source).partition("?")[0].endswith((".yaml", ".yml")) and _is_own_bucket(str(source))
    path = require_source(source)
    listed = path / INDEX_NAME
    if not path.is_dir() or (listed.exists() and not (output and os.path.abspath(output) == str(listed))):  # noqa: PTH100
        return False
    collector = Collector(follow_links=follow_links)
    with reading(path):
        _read_folder(path, path, collector)
    return not collector.scenes and _camera_named(path, follow_links=follow_links) is not None


def _is_own_bucket(uri: str) -> bool:
    """Whether no RAW file of a store's folder is named as in RawNIND, and no index lists them."""
    names = list_objects(uri)
    raw = [PurePosixPath(name).name for name in names if kind_of(name) is FileKind.RAW]
    return (
        INDEX_NAME not in names and bool(raw) and all(isinstance(parse_name(name), Refused) for name in raw)
    )


def _example(path: Path | str, index: Index, *, follow_links: bool) -> str | None:
    """A RAW file of a source that is not named as in RawNIND; None where there is none, or an index lists its photos."""
    if isinstance(path, Path):
        is_listed = not path.is_dir() or (path / INDEX_NAME).exists()
        return None if is_listed else _camera_named(path, follow_links=follow_links)
    return next((each.file for each in index.refused if kind_of(each.file) is FileKind.RAW), None)


def _nothing_found(path: Path | str, index: Index, *, follow_links: bool = False) -> str:
    if example := _example(path, index, follow_links=follow_links):
        return (
            f"{path} holds RAW photos that are not named as in RawNIND, such as {printable(example)}: run `rawnind index "
            f"{shlex.quote(str(path))} -o pairs.yaml{' --follow-links' * follow_links}` first, check its table, and pass pairs.yaml instead of the folder."
        )
    first = index.refused[0] if index.refused else None
    seen = f" {len(index.refused)} refused, such as {first.file}: {first.why}." if first else ""
    return (
        f"{path} holds no RAW photo that can be used ({index.skipped_files}).{seen} Name a folder with RAW photos: those called like "
        f"{EXAMPLE} are read as they are, any others through an index (`rawnind index FOLDER -o pairs.yaml`)."
    )


def _read_folder(folder: Path, root: Path, collector: Collector, flags: StatedFlags = NO_FLAGS) -> None:
    """Collects the files of a folder and of the nested layout below it; `flags` are those of the folders above."""
    listing = list_folder(folder, root, follow_links=collector.follow_links)
    for name, why in listing.refused.items():
        collector.refuse(str(folder.relative_to(root) / name), why)
    for filename in sorted(listing.files):
        if collector.is_raw(filename):
            path = folder / filename
            collector.add_named(str(path.relative_to(root)), path, flags)
    for child in listing.folders:
        label = str(folder.relative_to(root) / child)
        below = None if child.startswith(".") else flags.below(child)
        if below is None:
            collector.refuse(label, NOT_IN_LAYOUT)
            continue
        try:
            _read_folder(folder / child, root, collector, below)
        except OSError as error:
            collector.refuse(label, f"{error.strerror or error}")
