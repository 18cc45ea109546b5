"""Finds a data set's files, in folders or on an object store; listings never leave the source folder."""

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rawnind.errors import printable
from rawnind.locations import join
from rawnind.records import Cfa
from rawnind.source.names import (
    FETCH_FOLDER,
    GT,
    SRC,
    PhotoName,
    Refused,
    cfa_of_folder,
    flags_of_folders,
    parse_scene,
)
from rawnind.source.storage import list_objects

_OUTSIDE = "a link that points outside of the source folder; --follow-links reads it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What a folder holds, sorted by name.

    Attributes:
        refused: reasons by name: links that leave the source or lead nowhere, pipes, devices.
    """

    files: frozenset[str]
    folders: tuple[str, ...]
    refused: dict[str, str]

    def spelled(self, filename: str) -> str:
        """A file's name as the folder has it, which may compose its letters in another way (Unicode NFC or NFD)."""
        if filename.isascii() or filename in self.files:
            return filename
        forms = (filename, *(unicodedata.normalize(form, filename) for form in ("NFC", "NFD")))
        return next((form for form in forms if form in self.files or form in self.refused), filename)


def list_folder(folder: Path, root: Path, *, follow_links: bool = False) -> Listing:
    """Lists a folder, by default without following a link that leaves `root`.

    Args:
        folder: inside `root`.
        root: the source.
        follow_links: whether to follow links that leave `root`.

    Raises:
        OSError: The folder cannot be read.
    """
    inside = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - never raises on loops, unlike resolve()
    files, folders, refused = [], [], {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == FETCH_FOLDER:
                continue
            mode = _mode(entry)
            if mode is None:
                refused[entry.name] = "a link that leads nowhere"
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                refused[entry.name] = "neither a file nor a folder"
            elif entry.is_symlink() and not (follow_links or os.path.realpath(entry.path).startswith(inside)):
                refused[entry.name] = _OUTSIDE
            elif stat.S_ISDIR(mode):
                folders.append(entry.name)
            else:
                files.append(entry.name)
    return Listing(files=frozenset(files), folders=tuple(sorted(folders)), refused=refused)


def _mode(entry: os.DirEntry[str]) -> int | None:
    """The kind of what an entry leads to; None for a link that leads nowhere or around in circles."""
    try:
        if entry.is_dir(follow_symlinks=False):  # known without asking the disk
            return stat.S_IFDIR
        return stat.S_IFREG if entry.is_file(follow_symlinks=False) else entry.stat().st_mode
    except OSError:
        return None


def walk(
    top: Path, failed: Callable[[Path, OSError], None], seen: set[str], *, follow_links: bool = False
) -> Iterator[tuple[Path, Listing]]:
    """Lists a folder and those below it whose names begin with no dot, each once, sorted in each folder.

    Args:
        top: the source.
        failed: called with a folder that cannot be listed.
        seen: real paths of folders that are left out; those listed are added.
        follow_links: whether to follow links that leave `top`.
    """
    todo = [top]
    while todo:
        folder = todo.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            listing = list_folder(folder, top, follow_links=follow_links)
        except OSError as error:
            failed(folder, error)
            continue
        yield folder, listing
        todo += [folder / name for name in reversed(listing.folders) if not name.startswith(".")]


class Locator:
    """Finds the files that an index YAML names, in a flat or nested folder. Lists each folder once.

    Args:
        root: the folder; it need not exist.
        follow_links: whether to follow links that leave it.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self._follow_links = follow_links
        self._root = str(root)
        self._listings: dict[str, Listing] = {}
        src = os.path.join(self._root, SRC)  # noqa: PTH118 - text: an index has millions of names
        self._bases = [self._root, src] if SRC in self._list(self._root).folders else [self._root]
        self._scenes: dict[tuple[Cfa, str], list[str]] = defaultdict(list)
        for base in self._bases:
            for folder in self._list(base).folders:
                if cfa := cfa_of_folder(folder):
                    self._add_scenes(cfa, os.path.join(base, folder))  # noqa: PTH118

    def find(self, name: PhotoName) -> str | Refused:
        """A photo's path; its path in a flat folder if it is missing; or why it must not be read."""
        for folder in (*self._bases, *self._scenes.get((name.cfa, name.spelling.scene), ())):
            for place in (folder, f"{folder}/{GT}") if name.ground_truth else (folder,):
                listing = self._list(place)
                filename = listing.spelled(name.filename)
                if filename in listing.files:
                    return os.path.join(place, filename)  # noqa: PTH118
                if why := listing.refused.get(filename):
                    return Refused(file=printable(name.filename), why=why)
        return os.path.join(self._root, name.filename)  # noqa: PTH118

    def in_folder(self, filename: str) -> str | Refused:
        """The path of a file that is named with its folders, or why it must not be read."""
        path = os.path.join(self._root, filename)  # noqa: PTH118
        inside = os.path.join(os.path.realpath(self._root), "")  # noqa: PTH118 - never raises on loops
        if not self._follow_links and not os.path.realpath(path).startswith(inside):
            return Refused(file=filename, why=_OUTSIDE)
        return path

    def _add_scenes(self, cfa: Cfa, folder: str) -> None:
        for scene_folder in self._list(folder).folders:
            spelling = parse_scene(scene_folder)
            if not isinstance(spelling, Refused):
                self._scenes[cfa, spelling.scene].append(f"{folder}/{scene_folder}")

    def _list(self, folder: str) -> Listing:
        if folder not in self._listings:
            try:
                self._listings[folder] = list_folder(
                    Path(folder), Path(self._root), follow_links=self._follow_links
                )
            except OSError:  # the error is reported when the file is read
                self._listings[folder] = Listing(files=frozenset(), folders=(), refused={})
        return self._listings[folder]


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
