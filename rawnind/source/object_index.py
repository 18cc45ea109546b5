"""Finds photos on an object store, which has no folders and no links: all names of a source are listed once."""

from collections import defaultdict

from rawnind.locations import join
from rawnind.source.collector import Collector
from rawnind.source.names import PhotoName, Refused, flags_of_folders, parse_name
from rawnind.source.storage import list_objects


class ObjectLocator:
    """Finds the objects that an index YAML names, as `Locator` finds files.

    Args:
        root: URI of the folder that names are relative to.

    Raises:
        IndexInvalidError: The store does not answer.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.names = tuple(sorted(list_objects(root)))
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.names:
            self._by_name[path.rpartition("/")[2]].append(path)

    def find(self, name: PhotoName) -> str:
        """A photo's address in a flat or nested layout; its address in a flat one if it is missing."""
        for path in self._by_name[name.filename]:
            flags = flags_of_folders(path)
            if flags and not flags.contradicts(name):
                return join(self.root, path)
        return join(self.root, name.filename)

    def in_folder(self, filename: str) -> str:
        """The address of a file that is named with its folders."""
        return join(self.root, filename)


def read_objects(locator: ObjectLocator, collector: Collector) -> None:
    """Collects the objects that are named as in RawNIND, in a flat or nested layout."""
    for path in locator.names:
        filename = path.rpartition("/")[2]
        if not collector.is_raw(filename):
            continue
        name, flags = parse_name(filename), flags_of_folders(path)
        if isinstance(name, Refused):
            collector.refuse(path, name.why)
        elif flags is None:
            collector.refuse(path, "the folder is not part of the layout [src/]{Bayer|X-Trans}/{scene}/[gt/]")
        elif why := flags.contradicts(name):
            collector.refuse(path, why)
        else:
            collector.add_photo(name, join(locator.root, path))
            if flags.spelling:
                collector.add_scene(name.cfa, flags.spelling)
