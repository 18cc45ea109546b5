"""What `rawnind fetch` takes: a DOI, a saved reply, an index YAML, or a list of URLs."""

from dataclasses import dataclass
from pathlib import Path

from rawnind.documents import LISTING
from rawnind.errors import ConfigError, IndexInvalidError
from rawnind.fetch.selection import Wanted, choose_files
from rawnind.fetch.url_list import parse_url_list
from rawnind.source.catalog import Catalog, from_listing, is_published, load_catalog
from rawnind.source.dataverse import RAWNIND, Listing, address_of, ask, with_server
from rawnind.source.http_client import HttpClient
from rawnind.source.index import load_index
from rawnind.source.remote import RemoteFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is to be fetched.

    Attributes:
        files: sorted by path.
        notes: what people should know before.
    """

    files: tuple[RemoteFile, ...]
    notes: tuple[str, ...]


def files_of(source: str, wanted: Wanted, client: HttpClient) -> Selection:
    """The files of a source that are wanted.

    Args:
        source: a DOI or the address of a data set's page, a saved Dataverse reply, an index YAML of RawNIND, or a list of URLs.
        wanted: which of its photos.
        client: that servers are asked with.

    Raises:
        IndexInvalidError: The source is none of these.
        ConfigError: No photo is left.
        DownloadError: The server of a DOI cannot be reached.
    """
    path = Path(source)
    if is_published(source):
        catalog = load_catalog(source, client)
    elif path.suffix.lower() in {".yaml", ".yml"}:
        catalog = _of_index(path, client)
    else:
        return _of_urls(path, wanted)
    files = choose_files(catalog, wanted)
    notes = [f"differs: {note}" for note in catalog.notes]
    notes += [f"refused: {each.file}: {each.why}" for each in catalog.index.refused]
    return Selection(files=_with_server(files, catalog, client), notes=tuple(notes))


def _of_index(path: Path, client: HttpClient) -> Catalog:
    """An index has names and no addresses: they are RawNIND's."""
    own = load_index(path)
    return from_listing(ask(address_of(RAWNIND), client), own)


def _with_server(
    files: tuple[RemoteFile, ...], catalog: Catalog, client: HttpClient
) -> tuple[RemoteFile, ...]:
    return with_server(Listing(doi=catalog.doi, files=files), client).files


def _of_urls(path: Path, wanted: Wanted) -> Selection:
    if path.is_dir():
        raise IndexInvalidError(f"{path} is a folder: there is nothing to fetch")
    try:
        with path.open("rb") as file:
            data = file.read(LISTING + 1)
    except OSError as error:
        raise IndexInvalidError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > LISTING or b"\0" in data:
        raise IndexInvalidError(
            f"{path} is no list of URLs; give a DOI, a saved Dataverse reply, an index YAML or such a list"
        )
    if not wanted.is_everything:
        raise ConfigError("a list of URLs has no scenes to choose among; leave the lines that you want in it")
    files = parse_url_list(data.decode("utf-8", "replace"), str(path))
    return Selection(files=tuple(sorted(files, key=lambda file: file.path)), notes=())
