"""Scenes of a folder or an index file on an object store, which has no folders and no links: all names of a source are listed once."""

from pathlib import Path

from rawnind.locations import is_uri, join
from rawnind.source import parquet_index
from rawnind.source.collector import Collector, Index
from rawnind.source.index_file import (
    INDEX_NAME,
    INDEX_SUFFIXES,
    PHOTOS,
    collect,
    layout_of,
    refuse_published,
    scenes_of_layout,
    scenes_of_parquet,
)
from rawnind.source.locate import ObjectLocator
from rawnind.source.names import NOT_IN_LAYOUT, bare, flags_of_folders
from rawnind.source.storage import read_listing


def load_objects(uri: str, root: Path | str | None) -> Index:
    """The scenes of a folder or an index YAML on an object store."""
    collector = Collector()
    folder, mark, query = uri.partition("?")
    if folder.endswith(tuple(INDEX_SUFFIXES)):
        listed, base = uri, folder.rpartition("/")[0] + mark + query
    else:
        listed, base = join(uri, INDEX_NAME), uri
    locator = ObjectLocator(str(root or base))
    if listed == uri or INDEX_NAME in locator.names:
        if folder.endswith(parquet_index.SUFFIX):
            scenes, stated = scenes_of_parquet(read_listing(listed), listed)
        else:
            layout, stated = layout_of(read_listing(listed), listed, condense=PHOTOS)
            scenes = scenes_of_layout(layout, collector)
        if stated and not root:
            refuse_published(stated)
            locator = ObjectLocator(stated if is_uri(stated) else join(base, stated))
        return collect(scenes, locator, collector).index(locator.root)
    _read_objects(locator, collector)
    return collector.index(uri)


def _read_objects(locator: ObjectLocator, collector: Collector) -> None:
    """Collects the objects that are named as in RawNIND, in a flat or nested layout."""
    for path in locator.names:
        if not collector.is_raw(bare(path)):
            continue
        flags = flags_of_folders(path)
        if flags is None:
            collector.refuse(path, NOT_IN_LAYOUT)
        else:
            collector.add_named(path, join(locator.root, path), flags)
