"""Fetches the photos of a published data set scene by scene, when a run needs them."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rawnind import timing
from rawnind.errors import (
    ConfigError,
    DownloadError,
    FolderInUseError,
    OutputError,
    SourceError,
    SourceLostError,
)
from rawnind.fetch.run import Fetched, fetch
from rawnind.fetch.tally import Counts, Failed
from rawnind.fetch.target import Target
from rawnind.locations import is_uri
from rawnind.reasons import Reason
from rawnind.records import ImageRef, Scene, SceneResult
from rawnind.source.catalog import Catalog
from rawnind.source.collector import Index
from rawnind.source.dataverse import Listing, with_server
from rawnind.source.http_client import HttpClient
from rawnind.source.names import CFA_FOLDERS, FETCH_FOLDER, GT, bare
from rawnind.source.remote import RemoteFile

RAW_FOLDER = "raw"
"""Folder of a local output folder that photos are fetched into."""

_SHARED = f"{FETCH_FOLDER}/shared"
"""Below the raw folder: files that more than one scene has; each scene's folder has links to them."""

_REASONS = {
    "not_found": Reason.MISSING_FILE,
    "wrong_bytes": Reason.SHA1_MISMATCH,
    "wrong_size": Reason.SHA1_MISMATCH,
    "too_long": Reason.SHA1_MISMATCH,
}
"""Reasons of photos that cannot be fetched; all others are unreadable."""

_THIS_MACHINE = {"disk", "link", "in_the_way"}
"""Failures of a download that are no fault of the server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnDemand:
    """A published data set whose photos are fetched as they are needed.

    Attributes:
        index: its scenes; their photos have the paths that they will be fetched to.
        files: key of a scene -> its files, whose paths are relative to the scene's folder.
        keep: whether the photos stay there once the scene is committed.
        shared: addresses of the files that more than one scene has.
    """

    index: Index
    files: Mapping[str, tuple[RemoteFile, ...]]
    keep: bool
    shared: frozenset[str] = frozenset()

    def sizes(self) -> dict[str, int]:
        """Bytes of each scene's files, by the scene's key."""
        return {key: sum(file.size or 0 for file in files) for key, files in self.files.items()}


def raw_folder(output: str) -> str:
    """The folder that the photos of a run are fetched into: in a local output folder, else in each machine's own temporary folder.

    >>> raw_folder("/data/out")
    '/data/out/raw'
    """
    if not is_uri(output):
        return f"{output}/{RAW_FOLDER}"
    return f"{tempfile.gettempdir()}/rawnind-raw-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def on_demand(catalog: Catalog, output: str, client: HttpClient, *, keep: bool) -> OnDemand:
    """What a run needs to fetch the photos of a data set itself.

    Args:
        catalog: of the data set.
        output: local path or URI of the output folder.
        client: that doi.org is asked with where a saved reply does not say where its server is.
        keep: whether fetched photos stay.

    Raises:
        IndexInvalidError: The files are not named by scene.
        ConfigError: Photos are to be kept beside an output folder that is on an object store.
        DownloadError: doi.org cannot be reached.
    """
    catalog.require_scenes()
    if keep and is_uri(output):
        raise ConfigError(
            "--keep-raw keeps photos in a local output folder; for one on an object store run `rawnind fetch` first"
        )
    root = raw_folder(output)
    scenes, files = [], {}
    for scene in catalog.index.scenes:
        places = _places(scene)
        folder = f"{root}/{_folder(scene)}"
        found = {ref.filename: catalog.file_of(ref) for ref in (*scene.ground_truths, *scene.noisy)}
        listed = tuple(replace(file, path=places[name]) for name, file in sorted(found.items()) if file)
        files[scene.key] = with_server(Listing(doi=catalog.doi, files=listed), client).files
        roles = (
            tuple(replace(ref, path=f"{folder}/{places[ref.filename]}") for ref in refs)
            for refs in (scene.ground_truths, scene.noisy)
        )
        scenes.append(replace(scene, ground_truths=next(roles), noisy=next(roles)))
    return OnDemand(
        index=replace(catalog.index, scenes=tuple(scenes), root=root),
        files=files,
        keep=keep,
        shared=frozenset(url for url, count in _addresses(files.values()).items() if count > 1),
    )


def _addresses(files: Iterable[tuple[RemoteFile, ...]]) -> Counter[str]:
    return Counter(file.url for each in files for file in each)


def on_this_machine(scene: Scene, root: str, output: str) -> Scene:
    """A scene with its photos in this machine's raw folder, whose place depends on TMPDIR where the output is on an object store.

    Args:
        scene: of `OnDemand.index`.
        root: of that index.
        output: local path or URI of the output folder.
    """
    here = raw_folder(output)
    moved = (
        tuple(replace(ref, path=here + ref.path.removeprefix(root)) for ref in refs)
        for refs in (scene.ground_truths, scene.noisy)
    )
    return replace(scene, ground_truths=next(moved), noisy=next(moved))


def as_planned(result: SceneResult, scene: Scene) -> SceneResult:
    """A result of a scene `on_this_machine` as that of the planned scene, whose photos have the paths that the driver knows."""
    planned = {(ref.sha1, ref.ground_truth): ref for ref in (*scene.ground_truths, *scene.noisy)}

    def swapped(ref: ImageRef) -> ImageRef:
        return planned[ref.sha1, ref.ground_truth]

    pairs = tuple(
        replace(
            pair, ground_truth=pair.ground_truth and swapped(pair.ground_truth), noisy=swapped(pair.noisy)
        )
        for pair in result.pairs
    )
    failed = tuple(replace(file, photo=swapped(file.photo)) for file in result.failed_files)
    return replace(result, scene=scene, pairs=pairs, failed_files=failed)


def _folder(scene: Scene) -> str:
    """A scene's folder as in the nested layout; its name has the flags, which an index may have without the files' names."""
    flags = f"{'UNK_' if scene.unknown_sensor else ''}{'TEST_' if scene.test_reserve else ''}"
    return f"{CFA_FOLDERS[scene.cfa]}/{flags}{scene.name}"


def _places(scene: Scene) -> dict[str, str]:
    """Path below the scene's folder by file name; a photo in both roles lies among the ground truths."""
    truths = {ref.filename for ref in scene.ground_truths}
    names = truths | {ref.filename for ref in scene.noisy}
    return {name: f"{GT}/{bare(name)}" if name in truths else bare(name) for name in names}


def _root_of(scene: Scene) -> Path:
    if scene.ground_truths:
        return Path(scene.ground_truths[0].path).parent.parent
    return Path(scene.noisy[0].path).parent


def fetch_scene(
    scene: Scene,
    files: tuple[RemoteFile, ...],
    going_on: Callable[[str], None],
    client: HttpClient | None = None,
    shared: Collection[str] = (),
) -> tuple[dict[str, SourceError], Counts]:
    """Fetches what is missing of a scene's photos; lengths and the server's checksums are checked, the decoder checks the SHA-1s.

    A file that other scenes have too is fetched once for all scenes of this machine.

    Args:
        scene: of `OnDemand.index`.
        files: the scene's, of `OnDemand.files`.
        going_on: called five times a second with why the fetch waits, empty where it does not; may raise to stop, then what came
            stays for the next attempt.
        client: that servers are asked with; it is not shared with other threads.
        shared: `OnDemand.shared`.

    Returns:
        Why photos cannot be had, by file name; and the counts.

    Raises:
        SourceLostError: The server cannot be reached.
        OutputError: The disk is full, or the folder cannot be written or is another user's.
    """
    root, common = _root_of(scene), _shared_files(files, shared)
    _claim(root.parent.parent)
    transferred = 0
    if common:
        lent = _fetch(tuple(common.values()), _shared_folder(root), going_on, client)
        transferred = lent.counts.transferred
        _link(common, root)
    done = _fetch(files, root, going_on, client)
    failed = {each.path: each for each in done.failures}
    there = {file.path for file in files}
    lost = {}
    for name, place in _places(scene).items():
        if place not in there:
            lost[name] = SourceError(Reason.MISSING_FILE, f"{name} is not published")
        elif place in failed:
            lost[name] = _error_of(name, failed[place])
    return lost, replace(done.counts, transferred=done.counts.transferred + transferred)


def _claim(raw: Path) -> None:
    """Makes a raw folder that lies in the temporary folder, where anybody may have put something of its name.

    Raises:
        OutputError: It is a link, or belongs to another user.
    """
    if str(raw.parent) != tempfile.gettempdir():
        return
    try:
        raw.mkdir(mode=0o700, exist_ok=True)
        status = raw.lstat()
    except OSError as error:
        raise OutputError(f"cannot use {raw}: {error.strerror}; remove it, or set TMPDIR") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise OutputError(f"cannot use {raw}: it is a link or another user's; remove it, or set TMPDIR")


def _shared_files(files: Iterable[RemoteFile], shared: Collection[str]) -> dict[str, RemoteFile]:
    """Path in the scene's folder -> the same file in the folder of shared ones."""
    return {
        file.path: replace(file, path=f"{hashlib.sha256(file.url.encode()).hexdigest()[:16]}-{file.filename}")
        for file in files
        if file.url in shared
    }


def _shared_folder(root: Path) -> Path:
    return root.parent.parent / _SHARED


def _link(common: Mapping[str, RemoteFile], root: Path) -> None:
    """Links shared files that have come into a scene's folder; what is there already is checked by those who fetch it."""
    for path, file in common.items():
        with contextlib.suppress(DownloadError, FileNotFoundError, FileExistsError):
            here, there = _shared_folder(root) / file.path, Target(root=root).place(replace(file, path=path))
            there.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(here, there)
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError:  # a file system without links
                shutil.copyfile(here, there)


def _fetch(
    files: tuple[RemoteFile, ...], root: Path, going_on: Callable[[str], None], client: HttpClient | None
) -> Fetched:
    while True:
        try:
            return fetch(
                files, root, lambda counts: going_on(counts.waiting), retry_failed=True, client=client
            )
        except FolderInUseError:  # a worker that Ray takes for dead is about to end
            going_on("")
            time.sleep(timing.HEARTBEAT_MIN)


def _error_of(name: str, failed: Failed) -> SourceError:
    if failed.reason == "unreachable":
        raise SourceLostError(f"{failed.detail}; run again to resume when the server can be reached")
    if failed.reason in _THIS_MACHINE:
        raise OutputError(f"{name}: {failed.detail}")
    return SourceError(_REASONS.get(failed.reason, Reason.UNREADABLE), f"{name}: {failed.detail}")


def remove_scene(scene: Scene, files: tuple[RemoteFile, ...]) -> None:
    """Removes a scene's fetched and partial photos, and its folder where nothing else is in it."""
    root = _root_of(scene)
    Target(root=root).clear(files)
    for folder in (root, root.parent, root.parent.parent):  # scene, CFA, all
        try:
            folder.rmdir()
        except OSError:  # others' photos are in it
            return


def remove_fetched(fetched: OnDemand, scenes: Iterable[Scene], output: str) -> None:
    """Removes what is left on this machine of scenes that are committed, and the files that they shared.

    Args:
        fetched: the data set.
        scenes: of its index.
        output: local path or URI of the output folder.
    """
    root = Path(raw_folder(output))
    if not root.is_dir():
        return
    common: dict[str, RemoteFile] = {}
    for scene in scenes:
        files = fetched.files[scene.key]
        here = on_this_machine(scene, fetched.index.root, output)
        if _root_of(here).exists():
            remove_scene(here, files)
        common |= {file.path: file for file in _shared_files(files, fetched.shared).values()}
    if common:
        Target(root=root / _SHARED).clear(common.values())
    for folder in (root / _SHARED, root / FETCH_FOLDER, root):
        with contextlib.suppress(OSError):  # others' photos are in it
            folder.rmdir()
