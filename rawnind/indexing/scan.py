"""Finds the RAW files of folder trees and reads their headers and SHA-1s."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rawnind.errors import IndexInvalidError, SourceError
from rawnind.locations import join
from rawnind.source.locate import list_folder
from rawnind.source.names import FileKind, Refused, kind_of
from rawnind.source.photo_header import PhotoHeader, read_photo_header
from rawnind.source.sha1_cache import sha1s_of
from rawnind.source.storage import list_objects

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
    return _read(tree, report)


def scan_objects(uri: str, report: Report) -> Scan:
    """Reads a folder of an object store. Arguments as in `scan`.

    Raises:
        IndexInvalidError: The store does not answer.
    """
    return _read(_Objects(uri), report)


def _read(tree: "_Tree | _Objects", report: Report) -> Scan:
    """Reads the headers and SHA-1s of RAW files."""
    headers: dict[str, PhotoHeader] = {}
    unusable = []
    for done, path in enumerate(tree.raw, 1):
        try:
            headers[path] = read_photo_header(path)
        except SourceError as error:
            words = error.detail.removeprefix(f"{PurePosixPath(tree.name(path)).name}: ")
            unusable.append((tree.name(path), words))
        report("headers", done, len(tree.raw))
    sha1s = sha1s_of(headers, progress=lambda done, total: report("SHA-1", done, total))
    photos: dict[str, Found] = {}
    duplicates = []
    for path, header in headers.items():
        sha1 = sha1s[path]
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
        todo = [top]
        while todo:
            folder = todo.pop()
            real = os.path.realpath(folder)
            if real in self._seen:
                continue
            self._seen.add(real)
            try:
                listing = list_folder(folder, top, follow_links=self._follow_links)
            except OSError as error:
                if folder == top:
                    raise IndexInvalidError(
                        f"{folder}: {error.strerror}. Check the path and its permissions."
                    ) from error
                self.refused.append(Refused(file=self.name(str(folder)), why=str(error.strerror)))
                continue
            for name, why in listing.refused.items():
                self.refused.append(Refused(file=self.name(str(folder / name)), why=why))
            for name in sorted(listing.files):
                kind = FileKind.OTHER if name.startswith(".") else kind_of(name)  # ._DSC1.ARW is no photo
                self.kinds[kind] += 1
                if kind is FileKind.RAW:
                    self.raw.setdefault(str(folder / name), top)
            todo += [folder / name for name in reversed(listing.folders) if not name.startswith(".")]

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
    """

    def __init__(self, uri: str) -> None:
        self._folder = uri.partition("?")[0].rstrip("/").rpartition("/")[2]
        self.raw: dict[str, str] = {}
        self.kinds: Counter[FileKind] = Counter()
        self.refused: list[Refused] = []
        for name in sorted(list_objects(uri)):
            parts = name.split("/")
            kind = FileKind.OTHER if any(part.startswith(".") for part in parts) else kind_of(parts[-1])
            self.kinds[kind] += 1
            if kind is FileKind.RAW:
                self.raw[join(uri, name)] = name

    def name(self, path: str) -> str:
        return self.raw[path]

    def found(self, path: str, sha1: str, header: PhotoHeader) -> Found:
        name = self.raw[path]
        return Found(path=path, name=name, below=name, folder=self._folder, sha1=sha1, header=header)
