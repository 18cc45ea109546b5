"""A list of URLs with checksums, one file a line."""

import re
from dataclasses import replace
from posixpath import commonpath, dirname
from urllib.parse import unquote, urlsplit

from rawnind.documents import LISTING
from rawnind.errors import IndexInvalidError, printable
from rawnind.source.remote import Checksums, RemoteFile

_DIGESTS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_HEX = re.compile(r"[0-9a-fA-F]+")


def parse_url_list(data: bytes, name: str) -> tuple[RemoteFile, ...]:
    """The files of a list: in each line a URL and, before or after it, checksums (MD5, SHA-1, SHA-256, SHA-512) and a length.

    What `sha1sum` prints, with URLs in place of names, is such a list. Empty lines and those that begin with # are comments. Files are
    called as in their URLs, with the folders below what all URLs share where two have the same name.

    Args:
        data: the list.
        name: of the file, for messages.

    Raises:
        IndexInvalidError: It is no text, a line has no URL or no checksum, a file is listed twice, or there is no file.

    >>> parse_url_list(b"d41d8cd98f00b204e9800998ecf8427e  https://example.org/a%20b.dng", "urls.txt")[0].path
    'a b.dng'
    """
    if len(data) > LISTING or b"\0" in data:
        raise IndexInvalidError(
            f"{name} is no list of URLs; give a DOI, a saved Dataverse reply, an index YAML or such a list"
        )
    lines = {
        number: _parse_line(line, f"{name}, line {number}")
        for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    }
    if not lines:
        raise IndexInvalidError(f"{name} lists no file")
    if len({file.filename for file in lines.values()}) == len(lines):
        return tuple(replace(file, path=file.filename) for file in lines.values())
    above = commonpath([dirname(file.path) for file in lines.values()])
    found: dict[str, RemoteFile] = {}
    for number, file in lines.items():
        path = file.path.removeprefix(above).lstrip("/")
        if path in found:
            raise IndexInvalidError(f"{name}, line {number}: {printable(path)} is listed twice")
        found[path] = replace(file, path=path)
    return tuple(found.values())


def _parse_line(line: str, where: str) -> RemoteFile:
    """The file of a line, with the whole path of its URL."""
    url, size, sums = "", None, {}
    for word in line.split():
        word = word.removeprefix("*")  # noqa: PLW2901 - `sha1sum --binary` marks names with it
        if word.lower().startswith(("http://", "https://")) and not url:
            url = word
        elif _HEX.fullmatch(word) and len(word) in _DIGESTS:
            sums[_DIGESTS[len(word)]] = word.lower()
        elif word.isascii() and word.isdecimal() and size is None and len(word) < 16:
            size = int(word)
        else:
            raise IndexInvalidError(
                f"{where}: {printable(word, 80)} is no http address, checksum or length, which a list of URLs has"
            )
    if not url or not sums:
        raise IndexInvalidError(f"{where}: it needs a URL and its MD5, SHA-1, SHA-256 or SHA-512")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # half of an IPv6 address, or a port above 65535
        raise IndexInvalidError(f"{where}: {printable(url, 80)} is no http address") from None
    path = unquote(parts.path)
    if not path.rpartition("/")[2]:
        raise IndexInvalidError(f"{where}: {printable(url, 80)} ends without the name of a file")
    return RemoteFile(path=path, url=url, size=size, checksums=Checksums(**sums))
