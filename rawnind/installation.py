"""Which code and libraries a process runs: driver, bridge and workers must run the same."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import socket
from dataclasses import dataclass
from pathlib import Path

from rawnind.errors import CodeMismatchError

_LIBRARIES = {
    "numpy": ("numpy", "numpy"),
    "numba": ("numba", "numba"),
    "OpenCV": ("opencv-python-headless", "cv2"),
    "SciPy": ("scipy", "scipy"),
    "rawpy": ("rawpy", "rawpy"),
    "ExifRead": ("exifread", "exifread"),
}
"""What makes pixels and numbers: the name of each library, its distribution, and its module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What a process imports.

    Attributes:
        host: the machine.
        folder: of the package; empty where it is not installed.
        digest: SHA-256 of the package's files.
        versions: (name, version) of each library that makes pixels or numbers.
    """

    host: str
    folder: str
    digest: str
    versions: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Names code and libraries; the same on every host."""
        return hashlib.sha256(repr((self.digest, self.versions)).encode()).hexdigest()[:16]

    def require_same(self, other: "Installation") -> None:
        """Refuses another process whose code or libraries differ.

        Raises:
            CodeMismatchError: They differ; the message names both folders.
        """
        if not other.folder:
            raise CodeMismatchError(
                f"the package rawnind is not installed on {other.host}. Submit the run with `ray job submit --working-dir .`, or "
                "install the same version of rawnind on every node."
            )
        changes = [
            f"{name} {there} there and {here} here"
            for (name, here), (_, there) in zip(self.versions, other.versions, strict=True)
            if here != there
        ]
        if self.digest != other.digest:
            changes.insert(0, "other code")
        if changes:
            raise CodeMismatchError(
                f"{other.folder} on {other.host} is not what this command runs, {self.folder} on {self.host}: {', '.join(changes)}. "
                "Install the same versions on every node, and start Python where no other rawnind is found first."
            )


def describe() -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    """The fields of this process's `Installation`; uses nothing of the package, so that it runs where that is missing."""
    spec = importlib.util.find_spec("rawnind")
    if spec is None or not spec.submodule_search_locations:
        return socket.gethostname(), "", "", ()
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    versions = [(name, _version(*library)) for name, library in _LIBRARIES.items()]
    try:
        libraw = importlib.import_module("rawpy").libraw_version
    except ImportError:
        libraw = "missing"
    versions.append(("LibRaw", str(libraw)))
    return socket.gethostname(), str(folder), digest.hexdigest(), tuple(versions)


def _version(distribution: str, module: str) -> str:
    """Version of a library, without the seconds that it takes to import it; the file's name where another module is found first."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return "missing"
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return spec.origin
    its_own = Path(spec.origin).parent.resolve() == Path(str(found.locate_file(module))).resolve()
    return found.version if its_own else spec.origin


def this_installation() -> Installation:
    """What this process imports."""
    return as_installation(describe())


def as_installation(described: tuple[str, str, str, tuple[tuple[str, str], ...]]) -> Installation:
    """What `describe` returned in any process, as a record."""
    host, folder, digest, versions = described
    return Installation(host=host, folder=folder, digest=digest, versions=versions)
