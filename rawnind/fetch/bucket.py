"""A folder of an object store that files are fetched into, by way of a folder on this machine."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rawnind.errors import DownloadError, redacted
from rawnind.fetch.target import Found, Target
from rawnind.locations import join, open_object
from rawnind.source.remote import RemoteFile, unsafe_path
from rawnind.source.sha1_cache import cache_folder
from rawnind.source.storage import object_stats, open_photo, photo_stat

_SECOND = 1_000_000_000
"""In nanoseconds. A store's listing has times to the millisecond, its answer about one object to the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketTarget(Target):
    """A `Target` on an object store. `root` is a folder on this machine for partial files and lists.

    Attributes:
        uri: of the folder.
    """

    uri: str
    _found: dict[str, Found] = field(default_factory=dict)

    @classmethod
    def at(cls, uri: str) -> "BucketTarget":
        """The target of a URI; its folder on this machine is in the user's cache."""
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        return cls(root=cache_folder() / "fetch" / name, uri=uri)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other processes of this machine from fetching into it, and lists what is there.

        Raises:
            OutputError: The folder on this machine cannot be written.
            IndexInvalidError: The store does not answer.
            FolderInUseError: Another process fetches into it.
        """
        with Target.claimed(self):
            found = object_stats(self.uri)
            self._found.update({path: _to_the_second(each) for path, each in found.items()})
            yield

    def found(self, file: RemoteFile) -> Found | None:
        """Length and time of the object of this name; None where there is none."""
        if why := unsafe_path(file.path):
            raise DownloadError("unsafe_name", why, final=True)
        return self._found.get(file.path)

    def room(self, sizes: list[int], jobs: int) -> int:
        """Bytes that this machine needs: each file is removed once it is uploaded."""
        return sum(sorted(sizes)[-jobs:])

    @contextlib.contextmanager
    def open(self, file: RemoteFile) -> Iterator[IO[bytes]]:
        """The object for reading."""
        with open_photo(join(self.uri, file.path)) as stream:
            yield stream

    def publish(self, file: RemoteFile, part: Path) -> None:
        """Uploads a complete and checked file in one call, and removes it here. An object of this name is replaced.

        Raises:
            DownloadError: The store refuses.
        """
        address = join(self.uri, file.path)
        data = part.read_bytes()
        try:
            filesystem, place = open_object(address)
            with filesystem.open_output_stream(place) as stream:
                stream.write(data)
            self._found[file.path] = _to_the_second(photo_stat(address) or (0, 0))
        except OSError as error:
            raise DownloadError("store", f"cannot be uploaded: {redacted(str(error))[:300]}") from None
        part.unlink()
        self.note_checked(file)


def _to_the_second(found: Found) -> Found:
    size, time = found
    return size, time // _SECOND * _SECOND
