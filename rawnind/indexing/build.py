"""From folders of RAW files to choices and an index YAML."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rawnind.errors import ConfigError, SourceError
from rawnind.indexing.grouping import CsvTable, Grouping
from rawnind.indexing.pairs_yaml import Merged, PairsFile, as_listed, merge, read_pairs, write_pairs
from rawnind.indexing.roles import Choice, choose_roles
from rawnind.indexing.scan import Report, Scan, scan, scan_objects
from rawnind.indexing.spool import Spool
from rawnind.locations import is_uri
from rawnind.records import ImageRef
from rawnind.source.decode import decode

MOST_CLIPPED = 0.05
"""Share of a ground truth's sites that may be at the sensor's or the camera's limit before it is a doubt."""

_CLIPPED = 0.99
"""Of the limit, as in the test of exposure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnPhotos:
    """What an index of anyone's photos found.

    Attributes:
        choices: every photo that has a scene.
        ungrouped: photos that the grouping gave no scene.
        unknown: files that a table lists and that are not there.
        merged: what was new beside the YAML; None where none was written.
        root: the folder that names are relative to.
    """

    scan: Scan
    choices: tuple[Choice, ...]
    ungrouped: tuple[str, ...]
    unknown: tuple[str, ...]
    merged: Merged | None
    root: str


def index_photos(
    folders: Sequence[Path | str],
    output: Path | None,
    grouping: Grouping,
    report: Report,
    *,
    follow_links: bool = False,
) -> OwnPhotos:
    """Finds photos, groups them into scenes, chooses their roles, and writes an index YAML.

    Nothing is renamed, copied or moved. A YAML that exists keeps what it lists.

    Args:
        folders: trees of RAW files; or the URI of one on an object store.
        output: the YAML; None: none is written.
        grouping: see `indexing.grouping`.
        report: told about progress.
        follow_links: whether to follow links that leave a folder.

    Raises:
        IndexInvalidError: A folder cannot be read, or the YAML that exists is no index.
        ConfigError: A folder does not lie below the root of the YAML that exists, or one of several is on an object store.
        OutputError: The YAML cannot be written.
    """
    target = Path(os.path.abspath(output)) if output else None  # noqa: PTH100
    with Spool() as spool:
        pairs, found = _scanned(folders, target, report, spool, follow_links=follow_links)
        placed = grouping(found.photos)
        known = {entry["filename"] for _, _, entry in pairs.entries()}
        choices = _with_clipping(choose_roles(placed), known, report, spool)
    merged = None
    if target and (choices or target.exists()):  # an index without a scene cannot be read back
        merged = merge(pairs, choices)
        choices = as_listed(pairs, choices)
        write_pairs(target, pairs)
    grouped = {each.photo.name for each in placed}
    return OwnPhotos(
        scan=found,
        choices=tuple(choices),
        ungrouped=tuple(photo.name for photo in found.photos if photo.name not in grouped),
        unknown=grouping.unknown if isinstance(grouping, CsvTable) else (),
        merged=merged,
        root=str(pairs.root),
    )


def _scanned(
    folders: Sequence[Path | str], target: Path | None, report: Report, spool: Spool, *, follow_links: bool
) -> tuple[PairsFile, Scan]:
    """The YAML as it is, and what the folders hold. Errors as in `index_photos`."""
    if any(is_uri(str(folder)) for folder in folders):
        uri = str(folders[0])
        if len(folders) > 1:
            raise ConfigError("a folder of an object store is indexed by itself: name one SOURCE")
        pairs = read_pairs(target, uri) if target else PairsFile(root=uri)
        _require_root(uri, str(pairs.root) == uri, pairs, target)
        return pairs, scan_objects(uri, report, spool)
    absolute = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100 - keeps the user's spelling
    root = _root(absolute, target)
    pairs = read_pairs(target, root) if target else PairsFile(root=root)
    for folder in absolute:
        _require_root(
            folder, isinstance(pairs.root, Path) and folder.is_relative_to(pairs.root), pairs, target
        )
    return pairs, scan(absolute, Path(pairs.root), report, follow_links=follow_links)


def _require_root(folder: Path | str, is_below: bool, pairs: PairsFile, target: Path | None) -> None:  # noqa: FBT001
    if not is_below:
        raise ConfigError(
            f"{folder} does not lie in {pairs.root}, the root of {target}. Write another index with -o, or edit its root."
        )


def _root(folders: Sequence[Path], target: Path | None) -> Path:
    """The YAML's own folder where all photos lie below it, else the deepest folder above all of them."""
    if target and all(folder.is_relative_to(target.parent) for folder in folders):
        return target.parent
    return Path(os.path.commonpath(folders))


def _with_clipping(choices: Sequence[Choice], known: set[str], report: Report, spool: Spool) -> list[Choice]:
    """Decodes ground truths that are new, and doubts those that are clipped or cannot be decoded."""
    new = [choice for choice in choices if choice.ground_truth and choice.photo.name not in known]
    doubts: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for done, choice in enumerate(new, 1):
        doubts[choice.photo.name] = _clipping(choice, spool)
        report("ground truths", done, len(new))
    return [replace(choice, doubts=(*choice.doubts, *doubts[choice.photo.name])) for choice in choices]


def _clipping(choice: Choice, spool: Spool) -> tuple[str, ...]:
    photo = choice.photo
    path = spool.place(photo.path) if is_uri(photo.path) else photo.path
    ref = ImageRef(
        cfa=choice.cfa, scene=choice.scene, ground_truth=True, iso=None, sha1=photo.sha1, filename=photo.name, path=path
    )  # fmt: skip
    try:
        visible, sensor = decode(ref, delay=0)
    except (SourceError, MemoryError) as error:
        detail = error.detail if isinstance(error, SourceError) else str(error)
        return (f"GT cannot be decoded: {detail.removeprefix(photo.name + ': ')}",)
    black = min(sensor.black_level)
    limit = black + _CLIPPED * sensor.overexposure_lb * (sensor.white_level - black)
    share = float(np.mean(visible >= limit))
    return (f"GT clipped: {share:.0%} of its sites",) if share > MOST_CLIPPED else ()
