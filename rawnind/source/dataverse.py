"""Data sets on Dataverse servers: addresses, and what a server answers about the files of a data set."""

import os
import re
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import BaseModel, Field, TypeAdapter

from rawnind.documents import LISTING, json_record
from rawnind.errors import DownloadError, IndexInvalidError, printable
from rawnind.source.http_client import HttpClient
from rawnind.source.remote import Checksums, RemoteFile

SERVER = "DATAVERSE_SERVER"
"""Environment variable with the address of the Dataverse server to ask; else the one that the DOI leads to."""

RAWNIND = "doi:10.14428/DVN/DEQCIM"
"""The Raw Natural Image Noise Dataset."""

_HOMES = {"10.14428/DVN/": "https://dataverse.uclouvain.be"}
"""Servers that are known without asking doi.org."""

_DOI = re.compile(r"(?:doi:|https?://(?:dx\.)?doi\.org/)(10\.\d{4,9}/[^\s?#]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A data set, and the server that it is asked from.

    Attributes:
        doi: `doi:10.14428/DVN/DEQCIM`.
        server: `https://dataverse.uclouvain.be`; None where doi.org must be asked.
    """

    doi: str
    server: str | None


class _Checksum(BaseModel):
    type: str
    value: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{32,128}$")]


class _DataFile(BaseModel):
    id: Annotated[int, Field(ge=0, lt=1 << 63)]
    filename: str
    filesize: Annotated[int, Field(ge=0, lt=1 << 53)] | None = None
    md5: str | None = None
    checksum: _Checksum | None = None


class _File(BaseModel):
    dataFile: _DataFile  # noqa: N815 - the server's spelling
    directoryLabel: str = ""  # noqa: N815


class _Version(BaseModel):
    files: list[_File]
    datasetPersistentId: str = ""  # noqa: N815


class _DataSet(BaseModel):
    latestVersion: _Version  # noqa: N815


class _Reply(BaseModel):
    status: str
    data: _DataSet | _Version | None = None
    message: str = ""


_REPLY = TypeAdapter(_Reply)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files of a data set.

    Attributes:
        doi: of the data set; empty where the reply does not say.
        files: in the server's order; their addresses begin with / where the server is not known.
    """

    doi: str
    files: tuple[RemoteFile, ...]


def parse_address(source: str) -> Address | None:
    """The data set that a DOI or the address of its page names; None for anything else.

    >>> parse_address("doi:10.14428/DVN/DEQCIM")
    Address(doi='doi:10.14428/DVN/DEQCIM', server='https://dataverse.uclouvain.be')
    >>> parse_address("https://data.example.org/dataset.xhtml?persistentId=doi:10.5072/FK2/ABC").server
    'https://data.example.org'
    """
    if match := _DOI.fullmatch(source):
        return address_of(f"doi:{match[1]}")
    parts = urlsplit(source)
    named = parse_qs(parts.query).get("persistentId", [""])[0]
    if parts.scheme in {"http", "https"} and (match := _DOI.fullmatch(named)):
        return Address(doi=f"doi:{match[1]}", server=f"{parts.scheme}://{parts.netloc}")
    return None


def address_of(doi: str) -> Address:
    """The data set of a DOI that begins with `doi:`."""
    return Address(doi=doi, server=_home(doi.removeprefix("doi:")))


def _home(name: str) -> str | None:
    if chosen := os.environ.get(SERVER, "").rstrip("/"):
        return chosen if "://" in chosen else f"https://{chosen}"
    return next((server for prefix, server in _HOMES.items() if name.upper().startswith(prefix)), None)


def find_server(address: Address, client: HttpClient) -> str:
    """The server of a data set, which doi.org is asked for where it is not known.

    Raises:
        DownloadError: doi.org cannot be reached, or does not know the DOI.
    """
    if address.server:
        return address.server
    link = f"https://doi.org/{quote(address.doi.removeprefix('doi:'))}"
    page = urlsplit(client.persist(lambda: client.location(link)))
    return f"{page.scheme}://{page.netloc}"


def ask(address: Address, client: HttpClient) -> Listing:
    """The files of a data set, from its server.

    Raises:
        DownloadError: The server cannot be reached, or does not answer in full.
        IndexInvalidError: It answers something else, or does not have the data set.
    """
    server = find_server(address, client)
    url = f"{server}/api/datasets/:persistentId/?persistentId={quote(address.doi, safe=':/')}"
    name = f"the answer of {printable(server)} about {printable(address.doi)}"

    def attempt() -> bytes:
        data = client.read(url, LISTING)
        if json_record(data, _REPLY, most=LISTING) is None:
            raise DownloadError("cut", f"{name} is not a whole Dataverse reply")
        return data

    return parse_reply(client.persist(attempt), name, server)


def parse_reply(data: bytes, name: str, server: str | None = None) -> Listing:
    """The files that a Dataverse server lists in its reply about a data set.

    Args:
        data: JSON, as `/api/datasets/:persistentId/` gives it.
        name: of the reply, for the error.
        server: that the files are read from; None: where the data set's DOI leads.

    Raises:
        IndexInvalidError: It is no such reply, or it is cut off.
    """
    reply = json_record(data, _REPLY, most=LISTING)
    if reply is None:
        raise IndexInvalidError(f"{name} is not a whole Dataverse reply about a data set; save it again")
    if reply.data is None or reply.status != "OK":
        raise IndexInvalidError(f"{name} reports {printable(reply.status)}: {printable(reply.message)}")
    version = reply.data.latestVersion if isinstance(reply.data, _DataSet) else reply.data
    address = parse_address(version.datasetPersistentId)
    base = server or (address.server if address else None) or ""
    files = tuple(_remote(each, base) for each in version.files)
    return Listing(doi=version.datasetPersistentId, files=files)


def with_server(listing: Listing, client: HttpClient) -> Listing:
    """The listing with whole addresses; doi.org is asked where a saved reply's server is not known.

    Raises:
        DownloadError: doi.org cannot be reached, or does not know the DOI.
        IndexInvalidError: The reply does not say which data set it is about.
    """
    if all(not each.url.startswith("/") for each in listing.files):
        return listing
    address = parse_address(listing.doi)
    if address is None:
        raise IndexInvalidError(
            f"the reply names no server; set {SERVER} to the address of its Dataverse server"
        )
    server = find_server(address, client)
    return replace(listing, files=tuple(replace(each, url=server + each.url) for each in listing.files))


def _remote(file: _File, server: str) -> RemoteFile:
    data = file.dataFile
    folder = f"{file.directoryLabel}/" if file.directoryLabel else ""
    sums = {"md5": data.md5.lower()} if data.md5 else {}
    if data.checksum:
        sums[data.checksum.type.lower().replace("-", "")] = data.checksum.value.lower()
    known = {name: value for name, value in sums.items() if len(value) == _LENGTHS.get(name)}
    return RemoteFile(
        path=folder + data.filename,
        url=f"{server}/api/access/datafile/{data.id}",
        size=data.filesize,
        checksums=Checksums(**known),
    )


_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
