"""What `rawnind fetch` takes: a DOI, a saved reply, an index YAML, or a list of URLs."""

from dataclasses import dataclass
from pathlib import PurePath

from rawnind.errors import IndexInvalidError, printable
from rawnind.fetch.selection import Wanted, choose_files
from rawnind.source.catalog import (
    Catalog,
    from_listing,
    is_published,
    is_url_list,
    load_catalog,
    read_url_list,
)
from rawnind.source.dataverse import RAWNIND, Listing, address_of, ask, with_server
from rawnind.source.http_client import HttpClient
from rawnind.source.index import check_source, load_index
from rawnind.source.index_file import INDEX_SUFFIXES
from rawnind.source.names import PhotoName, parse_name
from rawnind.source.remote import RemoteFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is to be fetched.

    Attributes:
        files: sorted by path.
        notes: what people should know before.
        has_scenes: whether names or an index say which scenes there are.
    """

    files: tuple[RemoteFile, ...]
    notes: tuple[str, ...]
    has_scenes: bool


def files_of(source: str, wanted: Wanted, client: HttpClient) -> Selection:
    """The files of a source that are wanted.

    Args:
        source: a DOI or the address of a data set's page, a saved Dataverse reply, an index YAML of RawNIND or one whose root is a DOI,
            or a list of URLs.
        wanted: which of its photos.
        client: that servers are asked with.

    Raises:
        IndexInvalidError: The source is none of these.
        ConfigError: No photo is left.
        DownloadError: The server of a DOI cannot be reached.
    """
    if is_url_list(source) and wanted.is_everything:
        listed = sorted(read_url_list(source), key=lambda file: file.path)
        named = any(isinstance(parse_name(file.filename), PhotoName) for file in listed)
        return Selection(files=tuple(listed), notes=(), has_scenes=named)
    catalog = load_catalog(source, client) if is_published(source) else _of_index(source, client)
    files = choose_files(catalog, wanted)
    notes = [f"differs: {note}" for note in catalog.notes]
    taken = {
        printable(file.path) for file in files
    }  # where no name says a scene, names are no reason to leave a file out
    notes += [f"refused: {each.file}: {each.why}" for each in catalog.index.refused if each.file not in taken]
    return Selection(
        files=_with_server(files, catalog, client), notes=tuple(notes), has_scenes=bool(catalog.index.scenes)
    )


def _of_index(source: str, client: HttpClient) -> Catalog:
    """An index that names no data set: where its photos are called as in RawNIND, they are RawNIND's."""
    check_source(source)
    if PurePath(source.partition("?")[0]).suffix.lower() not in INDEX_SUFFIXES:
        raise IndexInvalidError(
            f"{source} is a folder or a photo: there is nothing to fetch; give a DOI, a saved Dataverse reply, an index YAML or a list of URLs"
        )
    own = load_index(source)
    photos = (ref for scene in own.scenes for ref in (*scene.ground_truths, *scene.noisy))
    if not any(isinstance(parse_name(PurePath(ref.filename).name), PhotoName) for ref in photos):
        raise IndexInvalidError(
            f"{source} does not say where its photos are published: write the data set into it, such as `root: {RAWNIND}`"
        )
    return from_listing(ask(address_of(RAWNIND), client), own)


def _with_server(
    files: tuple[RemoteFile, ...], catalog: Catalog, client: HttpClient
) -> tuple[RemoteFile, ...]:
    return with_server(Listing(doi=catalog.doi, files=files), client).files
