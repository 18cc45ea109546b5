"""What a published data set has: its scenes as in an index, and for each photo the file on the server."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rawnind.errors import DownloadError, IndexInvalidError, printable
from rawnind.locations import is_uri, local_path
from rawnind.records import ImageRef, Scene
from rawnind.source.collector import Collector, Index
from rawnind.source.dataverse import RAWNIND, Address, Listing, ask, parse_address, parse_reply
from rawnind.source.http_client import HttpClient
from rawnind.source.index import INDEX_NAME, load_index
from rawnind.source.index_file import INDEX_SUFFIXES, published_root, reading
from rawnind.source.names import NO_FLAGS, FileKind, bare, flags_of_folders, kind_of
from rawnind.source.remote import RemoteFile, unsafe_path
from rawnind.source.storage import read_listing
from rawnind.source.url_list import parse_url_list
from rawnind.words import counted

_OWN_INDEXES = (INDEX_NAME, "dataset.yaml")

_NOT_INDEXED = {RAWNIND: ("x-trans/fabrics", "x-trans/kitchen", "x-trans/knives")}
"""Scenes whose photos are published, and which the data set's own index leaves out."""

_REPLY, _URLS = ".json", ".txt"
"""How the names of saved replies and, mostly, of lists of URLs end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """A published data set.

    Attributes:
        doi: of the data set; empty where it has none.
        index: its scenes; their photos' paths are relative.
        files: every published file, by its path and by its name without folders, which is that of the first where several have it.
        notes: how names, folders and the data set's own index differ, a sentence each.
    """

    doi: str
    index: Index
    files: dict[str, RemoteFile]
    notes: tuple[str, ...]

    def photos(self, scenes: Iterable[Scene]) -> tuple[RemoteFile, ...]:
        """The files of scenes, each once, sorted by path, with the SHA-1s of the scenes' photos."""
        found = {}
        for ref in (ref for scene in scenes for ref in (*scene.ground_truths, *scene.noisy)):
            if file := self.file_of(ref):
                found[file.path] = replace(file, checksums=replace(file.checksums, sha1=ref.sha1))
        return tuple(found[path] for path in sorted(found))

    def file_of(self, ref: ImageRef) -> RemoteFile | None:
        """A photo's file on the server; None where it is not published."""
        return self.files.get(ref.filename) or self.files.get(bare(ref.filename))

    def require_scenes(self) -> None:
        """Checks that names or an index say which scenes there are.

        Raises:
            IndexInvalidError: They do not.
        """
        if not self.index.scenes:
            raise IndexInvalidError(
                "the files of this data set are not named by scene: run `rawnind fetch` first, then `rawnind index` on the folder"
            )

    @property
    def raw_files(self) -> tuple[RemoteFile, ...]:
        """Every RAW file, whatever it is called."""
        files = {each.path: each for each in self.files.values()}
        return tuple(each for each in files.values() if kind_of(each.filename) is FileKind.RAW)


def is_published(source: str) -> bool:
    """Whether the photos of a source are on a web server: it is a DOI, the page of a data set, a list of files, or an index whose root is such.

    Raises:
        IndexInvalidError: The system refuses to say what it is.

    >>> is_published("doi:10.14428/DVN/DEQCIM"), is_published("RawNIND")
    (True, False)
    """
    return parse_address(source) is not None or _is_list(source) or published_root(source) is not None


def _is_list(source: str) -> bool:
    """Whether a source is a saved reply or a list of URLs, by its name; or a file here whose name says nothing else."""
    place = PurePosixPath(source.partition("?")[0] if is_uri(source) else source)
    if is_uri(source):
        return place.suffix.lower() in {_REPLY, _URLS}
    path = Path(local_path(source))
    with reading(path):
        if place.suffix.lower() in {_REPLY, _URLS}:
            return not path.is_dir()
        return (
            place.suffix.lower() not in INDEX_SUFFIXES
            and kind_of(place.name) is FileKind.OTHER
            and path.is_file()
        )


def is_url_list(source: str) -> bool:
    """Whether a source is a list of URLs."""
    return parse_address(source) is None and _is_list(source) and not _is_reply(source)


def _is_reply(source: str) -> bool:
    return source.partition("?")[0].lower().endswith(_REPLY)


def read_url_list(source: str) -> tuple[RemoteFile, ...]:
    """The files of a list of URLs, here or on an object store.

    Raises:
        IndexInvalidError: It is no such list, or cannot be read.
    """
    return parse_url_list(read_listing(local_path(source)), source)


def load_catalog(source: str, client: HttpClient | None = None) -> Catalog:
    """The catalog of a published data set.

    Args:
        source: a DOI, the address of a data set's page, a saved reply of a Dataverse server, a list of URLs, or an index whose root is a
            DOI or such an address. A `dataset_index.yaml` beside the reply decides which scenes there are.
        client: that the server is asked with.

    Raises:
        IndexInvalidError: The source is none of these, or lists no RAW file.
        DownloadError: The server cannot be reached.

    Examples:
        >>> len(load_catalog("reply.json").index.scenes)  # doctest: +SKIP
        307
    """
    if address := parse_address(source):
        return _checked(from_listing(_asked(address, client)), source)
    if (root := published_root(source)) and (address := parse_address(root)):
        own = replace(load_index(source, root=Path(source).parent), root=root)
        return _checked(from_listing(_asked(address, client), own), root)
    if not _is_reply(source):
        return _checked(from_listing(Listing(doi="", files=read_url_list(source))), source)
    data = read_listing(local_path(source))
    own_index = None if is_uri(source) else _own_index(Path(local_path(source)).parent)
    return _checked(from_listing(parse_reply(data, source), own_index), source)


def _asked(address: Address, client: HttpClient | None) -> Listing:
    try:
        listing = ask(address, client or HttpClient())
    except DownloadError as error:
        if error.final and error.reason != "unreachable":
            raise IndexInvalidError(f"{printable(address.doi)}: {error}") from error
        raise
    return replace(listing, doi=address.doi)


def from_listing(listing: Listing, own: Index | None = None) -> Catalog:
    """The catalog of a data set whose files are listed.

    Args:
        listing: its files.
        own: the data set's own index, which decides where there is one.
    """
    collector = Collector()
    files: dict[str, RemoteFile] = {}
    for file in listing.files:
        why = "another file has this path" if file.path in files else unsafe_path(file.path)
        if why:
            collector.refuse(file.path, why)
            continue
        files[file.path] = file
        if collector.is_raw(file.filename):
            flags = flags_of_folders(file.path) or NO_FLAGS
            collector.add_named(file.path, Path(file.path), flags, server_sha1=file.checksums.sha1)
    files = {file.filename: file for file in reversed(files.values())} | files
    index = collector.index(Path())
    notes = []
    if own:
        notes = list(differences(own, index, files))
        index = _as_in(own, index)
    elif left_out := set(_NOT_INDEXED.get(listing.doi, ())):
        notes = [
            f"{scene.key}: {counted(len(scene.ground_truths) + len(scene.noisy), 'published photo')} not in the data set's own index; left out"
            for scene in index.scenes
            if scene.key in left_out
        ]
        index = replace(index, scenes=tuple(each for each in index.scenes if each.key not in left_out))
    return Catalog(doi=listing.doi, index=index, files=files, notes=tuple(notes))


def differences(own: Index, published: Index, files: dict[str, RemoteFile]) -> Iterator[str]:
    """How a data set's own index and its published files differ, a sentence for each scene.

    Args:
        own: the data set's own index.
        published: the scenes by the names of the files.
        files: what is published, by name.
    """
    by_key = {scene.key: scene for scene in published.scenes}
    for scene in own.scenes:
        refs = (*scene.ground_truths, *scene.noisy)
        missing = [ref.filename for ref in refs if bare(ref.filename) not in files]
        if missing:
            yield f"{scene.key}: {counted(len(missing), 'photo')} of the index not published, such as {missing[0]}"
        other = by_key.pop(scene.key, None)
        if other is None:
            continue
        listed = {bare(ref.filename) for ref in refs}
        extra = [ref.filename for ref in (*other.ground_truths, *other.noisy) if ref.filename not in listed]
        if extra:
            yield f"{scene.key}: {counted(len(extra), 'published photo')} not in the index, such as {extra[0]}; left out"
        for flag in ("test_reserve", "unknown_sensor"):
            stated, named = getattr(scene, flag), getattr(other, flag)
            if stated != named:
                yield f"{scene.key}: the index has {flag} {stated}, the names say {named}; it counts as {stated or named}"
    for key, scene in by_key.items():
        count = len(scene.ground_truths) + len(scene.noisy)
        yield f"{key}: {counted(count, 'published photo')} not in the data set's own index; left out"


def _as_in(own: Index, published: Index) -> Index:
    """The own index's scenes; a flag that either states holds."""
    flags = {scene.key: (scene.test_reserve, scene.unknown_sensor) for scene in published.scenes}
    scenes = []
    for scene in own.scenes:
        test, unknown = flags.get(scene.key, (False, False))
        scenes.append(
            replace(
                scene, test_reserve=scene.test_reserve or test, unknown_sensor=scene.unknown_sensor or unknown
            )
        )
    return replace(own, scenes=tuple(scenes), refused=published.refused)


def _own_index(folder: Path) -> Index | None:
    for name in _OWN_INDEXES:
        if (folder / name).is_file():
            return load_index(folder / name)
    return None


def _checked(catalog: Catalog, source: str) -> Catalog:
    if not catalog.raw_files:
        raise IndexInvalidError(f"{printable(source)} lists no RAW file")
    return catalog
