"""Finds the RAW files of folder trees and reads their headers and SHA-1s."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rawnind.errors import IndexInvalidError, SourceError
from rawnind.indexing.spool import Spool
from rawnind.locations import join
from rawnind.source.entries import unsafe_in_index
from rawnind.source.locate import walk
from rawnind.source.names import FileKind, Refused, kind_of
from rawnind.source.photo_header import PhotoHeader, read_photo_header
from rawnind.source.sha1_cache import Key, sha1_memory, sha1s_of
from rawnind.source.storage import object_stats, require_no_secrets

_SECOND = 1_000_000_000
"""In nanoseconds; a store's answer about one object has its time to the second."""

Report = Callable[[str, int, int], None]
"""Receives what is done, how many files are done, and how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A RAW file.

    Attributes:
        path: absolute.
        name: relative to the index's root, with `/`.
        below: relative to the folder that was given, with `/`.
        folder: name of the folder that was given.
        sha1: 40 hex digits.
    """

    path: str
    name: str
    below: str
    folder: str
    sha1: str
    header: PhotoHeader


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What folders hold.

    Attributes:
        photos: those that can be used, sorted by name.
        unusable: file and what is wrong with it, in words of `source.file_check`.
        refused: links out of a folder and the like.
        kinds: files by kind.
        duplicates: files whose bytes were found under an earlier name.
    """

    photos: tuple[Found, ...]
    unusable: tuple[tuple[str, str], ...]
    refused: tuple[Refused, ...]
    kinds: Counter[FileKind]
    duplicates: tuple[str, ...]


def scan(folders: Sequence[Path], root: Path, report: Report, *, follow_links: bool = False) -> Scan:
    """Reads folder trees.

    Args:
        folders: absolute.
        root: a folder above all of them.
        report: told about progress.
        follow_links: whether to follow links that leave a folder.

    Raises:
        IndexInvalidError: A folder cannot be read.
    """
    tree = _Tree(root, follow_links=follow_links)
    for folder in folders:
        tree.walk(folder)
    found = _Read()
    for done, path in enumerate(tree.raw, 1):
        found.read_header(path, path, tree)
        report("headers", done, len(tree.raw))
    found.sha1s = sha1s_of(found.headers, progress=lambda done, total: report("SHA-1", done, total))
    return _scan(tree, found)


def scan_objects(uri: str, report: Report, spool: Spool) -> Scan:
    """Reads a folder of an object store: each photo once, and only the header of one whose SHA-1 is remembered.

    Args:
        uri: of the folder.
        report: told about progress.
        spool: what was read, for those who look at pixels.

    Raises:
        IndexInvalidError: The store does not answer.
    """
    tree = _Objects(uri)
    found = _Read()
    with sha1_memory() as memory, ThreadPoolExecutor(_AHEAD) as pool:
        known = {path: memory.find(key) for path, key in tree.keys.items()}
        fetching = _ahead(pool, lambda path: known[path] or spool.fetch(path), tree.raw)
        for done, (path, fetched) in enumerate(fetching, 1):
            try:
                found.sha1s[path] = sha1 = fetched.result()
                found.read_header(path, spool.place(path), tree)
                memory.note(tree.keys[path], sha1)
                if path in found.headers and not known[path]:
                    spool.keep(path, found.headers[path].capture.iso)
            except OSError as error:
                found.unusable.append((tree.name(path), error.strerror or str(error)))
            if path not in found.headers:
                spool.drop(path)
            report("photos", done, len(tree.raw))
    return _scan(tree, found)


_AHEAD = 4
"""Objects that are read while the header of one is looked at."""


def _ahead(
    pool: ThreadPoolExecutor, fetch: Callable[[str], str], paths: Iterable[str]
) -> Iterator[tuple[str, "Future[str]"]]:
    """Each path with the call of `fetch` for it, of which only a few run ahead."""
    running: deque[tuple[str, Future[str]]] = deque()
    for path in paths:
        running.append((path, pool.submit(fetch, path)))
        if len(running) > _AHEAD:
            yield running.popleft()
    yield from running


@dataclass(slots=True)
class _Read:
    """What was read of RAW files, by path."""

    headers: dict[str, PhotoHeader] = field(default_factory=dict)
    sha1s: dict[str, str | OSError] = field(default_factory=dict)
    unusable: list[tuple[str, str]] = field(default_factory=list)

    def read_header(self, path: str, place: str, tree: "_Tree | _Objects") -> None:
        """Reads a header, from a place that may be another than the path."""
        try:
            self.headers[path] = read_photo_header(place)
        except SourceError as error:
            words = error.detail.removeprefix(f"{PurePosixPath(tree.name(path)).name}: ")
            self.unusable.append((tree.name(path), words))


def _scan(tree: "_Tree | _Objects", found: _Read) -> Scan:
    photos: dict[str, Found] = {}
    unusable, duplicates = list(found.unusable), []
    for path, header in found.headers.items():
        sha1 = found.sha1s[path]
        if isinstance(sha1, OSError):
            unusable.append((tree.name(path), sha1.strerror or str(sha1)))
        elif sha1 in photos:
            duplicates.append(tree.name(path))
        else:
            photos[sha1] = tree.found(path, sha1, header)
    return Scan(
        photos=tuple(sorted(photos.values(), key=lambda photo: photo.name)),
        unusable=tuple(sorted(unusable)),
        refused=tuple(tree.refused),
        kinds=tree.kinds,
        duplicates=tuple(duplicates),
    )


class _Tree:
    """Files of folder trees, each once, sorted in each folder.

    Attributes:
        raw: absolute path of a RAW file -> the folder that was given.
    """

    def __init__(self, root: Path, *, follow_links: bool) -> None:
        self._root = root
        self._follow_links = follow_links
        self._seen: set[str] = set()
        self.raw: dict[str, Path] = {}
        self.kinds: Counter[FileKind] = Counter()
        self.refused: list[Refused] = []

    def walk(self, top: Path) -> None:
        def failed(folder: Path, error: OSError) -> None:
            if folder == top:
                raise IndexInvalidError(
                    f"{folder}: {error.strerror}. Check the path and its permissions."
                ) from error
            self.refused.append(Refused(file=self.name(str(folder)), why=str(error.strerror)))

        for folder, listing in walk(top, failed, self._seen, follow_links=self._follow_links):
            for name, why in listing.refused.items():
                self.refused.append(Refused(file=self.name(str(folder / name)), why=why))
            for name in sorted(listing.files):
                kind = FileKind.OTHER if name.startswith(".") else kind_of(name)  # ._DSC1.ARW is no photo
                self.kinds[kind] += 1
                if kind is FileKind.RAW and not self._refuses(str(folder / name)):
                    self.raw.setdefault(str(folder / name), top)

    def _refuses(self, path: str) -> bool:
        if why := unsafe_in_index(self.name(path)):
            self.refused.append(Refused(file=self.name(path), why=f"{why}; rename it"))
        return bool(why)

    def name(self, path: str) -> str:
        return Path(path).relative_to(self._root).as_posix()

    def found(self, path: str, sha1: str, header: PhotoHeader) -> Found:
        top = self.raw[path]
        return Found(
            path=path,
            name=self.name(path),
            below=Path(path).relative_to(top).as_posix(),
            folder=top.name,
            sha1=sha1,
            header=header,
        )


class _Objects:
    """What `_Tree` is for folders, for a folder of an object store, which has no links.

    Attributes:
        raw: address of a RAW file -> its name below the folder.
        keys: address of a RAW file -> what its SHA-1 is remembered by.
    """

    def __init__(self, uri: str) -> None:
        self._folder = uri.partition("?")[0].rstrip("/").rpartition("/")[2]
        self.raw: dict[str, str] = {}
        self.kinds: Counter[FileKind] = Counter()
        self.refused: list[Refused] = []
        self.keys: dict[str, Key] = {}
        require_no_secrets(uri)
        for name, (size, time) in sorted(object_stats(uri, must_exist=True).items()):
            parts = name.split("/")
            kind = FileKind.OTHER if any(part.startswith(".") for part in parts) else kind_of(parts[-1])
            self.kinds[kind] += 1
            if kind is FileKind.RAW and (why := unsafe_in_index(name)):
                self.refused.append(Refused(file=name, why=why))
            elif kind is FileKind.RAW:
                path = join(uri, name)
                self.raw[path] = name
                self.keys[path] = path, size, time // _SECOND * _SECOND

    def name(self, path: str) -> str:
        return self.raw[path]

    def found(self, path: str, sha1: str, header: PhotoHeader) -> Found:
        name = self.raw[path]
        return Found(path=path, name=name, below=name, folder=self._folder, sha1=sha1, header=header)
