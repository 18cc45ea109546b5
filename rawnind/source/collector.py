"""Photos gathered into scenes, and a count of whatever was left out."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from rawnind.errors import printable
from rawnind.records import Cfa, ImageRef, Scene
from rawnind.source.names import (
    FileKind,
    ParsedScene,
    PhotoName,
    Refused,
    StatedFlags,
    bare,
    kind_of,
    parse_name,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFiles:
    """Counts of files that are skipped although nothing is wrong with them.

    Attributes:
        xmp: sidecar files.
        images: files that are images and not RAW, such as JPEG.
        other: files that are neither.
        duplicates: photos whose bytes are in the same scene and role under another name.
    """

    xmp: int = 0
    images: int = 0
    other: int = 0
    duplicates: int = 0

    def __str__(self) -> str:
        """The counts for people.

        >>> str(SkippedFiles(xmp=11, images=1))
        'set aside: 11 .xmp, 1 not RAW, 0 other files, 0 duplicates'
        """
        return (
            f"set aside: {self.xmp} .xmp, {self.images} not RAW, {self.other} other files, "
            f"{self.duplicates} duplicates"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A source's scenes, sorted by key, and what was left out.

    Attributes:
        root: the folder below which the photos lie, absolute.
    """

    scenes: tuple[Scene, ...]
    skipped_files: SkippedFiles
    refused: tuple[Refused, ...]
    root: str

    def count(self, cfa: Cfa) -> int:
        """Scenes with this colour filter array."""
        return sum(scene.cfa is cfa for scene in self.scenes)

    @property
    def test_reserve(self) -> int:
        """Scenes that are reserved for testing."""
        return sum(scene.test_reserve for scene in self.scenes)

    @property
    def unknown_sensor(self) -> int:
        """Scenes whose index entry is marked `unknown_sensor`."""
        return sum(scene.unknown_sensor for scene in self.scenes)

    @property
    def ground_truths(self) -> int:
        """Ground-truth photos."""
        return sum(len(scene.ground_truths) for scene in self.scenes)

    @property
    def noisy(self) -> int:
        """Noisy photos."""
        return sum(len(scene.noisy) for scene in self.scenes)


@dataclass(slots=True)
class _Gathered:
    """A scene of which more photos may come."""

    test_reserve: bool = False
    unknown_sensor: bool = False
    photos: list[ImageRef] = field(default_factory=list)


class Collector:
    """Gathers photos into scenes, and what is left out.

    Args:
        follow_links: whether links that leave the source are followed.
    """

    def __init__(self, *, follow_links: bool = False) -> None:
        self.follow_links = follow_links
        self.scenes: dict[tuple[Cfa, str], _Gathered] = {}
        self.kinds: Counter[FileKind] = Counter()
        self.refused: list[Refused] = []

    def refuse(self, file: str, why: str) -> None:
        """Notes what was not taken."""
        self.refused.append(Refused(file=printable(file), why=why))

    def is_raw(self, filename: str) -> bool:
        """Whether a file is a RAW photo; others are counted."""
        kind = kind_of(filename)
        self.kinds[kind] += 1
        return kind is FileKind.RAW

    def add_scene(self, cfa: Cfa, spelling: ParsedScene) -> None:
        """Notes a scene; a flag that any spelling of it carries stays."""
        self._gathered(cfa, spelling)

    def _gathered(self, cfa: Cfa, spelling: ParsedScene) -> _Gathered:
        scene = self.scenes.get((cfa, spelling.scene))
        if scene is None:
            scene = self.scenes[cfa, spelling.scene] = _Gathered()
        scene.test_reserve |= spelling.test_reserve
        scene.unknown_sensor |= spelling.unknown_sensor
        return scene

    def add_photo(self, name: PhotoName, path: Path | str) -> None:
        """Notes a photo, which lies at a path or a URI, and its scene."""
        ref = ImageRef(
            cfa=name.cfa,
            scene=name.spelling.scene,
            ground_truth=name.ground_truth,
            iso=name.iso,
            sha1=name.sha1,
            filename=name.filename,
            path=str(path),
        )
        self._gathered(name.cfa, name.spelling).photos.append(ref)

    def add_named(
        self, file: str, path: Path | str, flags: StatedFlags, *, server_sha1: str | None = None
    ) -> None:
        """Notes a photo that is named as in RawNIND and as its folders say, and its scene; refuses others.

        Args:
            file: its path below the source, with `/`.
            path: where it lies, a path or a URI.
            flags: what its folders state.
            server_sha1: what a server says that its SHA-1 is.
        """
        name = parse_name(bare(file))
        if isinstance(name, Refused):
            self.refuse(file, name.why)
            return
        why = flags.contradicts(name)
        if server_sha1 not in {None, name.sha1}:
            why = f"the server has SHA-1 {server_sha1}, the name {name.sha1}"
        if why:
            self.refuse(file, why)
            return
        self.add_photo(name, path)
        if flags.spelling:
            self.add_scene(name.cfa, flags.spelling)

    def index(self, root: Path | str) -> Index:
        """The scenes of a folder, sorted; one entry per SHA-1 and role. Afterwards the collector is empty."""
        duplicates = 0
        scenes = []
        while self.scenes:
            (cfa, name), gathered = self.scenes.popitem()
            ground_truths, more = _distinct([ref for ref in gathered.photos if ref.ground_truth])
            noisy, still_more = _distinct([ref for ref in gathered.photos if not ref.ground_truth])
            duplicates += more + still_more
            scenes.append(
                Scene(name=name, cfa=cfa, test_reserve=gathered.test_reserve, unknown_sensor=gathered.unknown_sensor,
                      ground_truths=ground_truths, noisy=noisy)
            )  # fmt: skip
        scenes.sort(key=lambda scene: scene.key)
        skipped_files = SkippedFiles(
            xmp=self.kinds[FileKind.XMP],
            images=self.kinds[FileKind.IMAGE],
            other=self.kinds[FileKind.OTHER],
            duplicates=duplicates,
        )
        return Index(
            scenes=tuple(_spread_test_reserve(scenes)),
            skipped_files=skipped_files,
            refused=tuple(sorted(self.refused, key=lambda refused: (refused.file, refused.why))),
            root=str(root),
        )


def _distinct(refs: list[ImageRef]) -> tuple[tuple[ImageRef, ...], int]:
    """One entry per SHA-1, the first by name, sorted by SHA-1; and how many were left out."""
    kept: dict[str, ImageRef] = {}
    for ref in sorted(refs, key=lambda ref: (ref.sha1, ref.filename, ref.path)):
        kept.setdefault(ref.sha1, ref)
    return tuple(kept.values()), len(refs) - len(kept)


def _spread_test_reserve(scenes: list[Scene]) -> list[Scene]:
    """Reserves every scene that shares a photo with a reserved one, until none is left that does."""
    shared = _shared(scenes)
    owners: dict[str, list[int]] = defaultdict(list)
    for number, scene in enumerate(scenes):
        for sha1 in _sha1s(scene) & shared:
            owners[sha1].append(number)
    reserved = {number for number, scene in enumerate(scenes) if scene.test_reserve}
    todo = list(reserved)
    while todo:
        for sha1 in _sha1s(scenes[todo.pop()]) & shared:
            found = [number for number in owners[sha1] if number not in reserved]
            reserved.update(found)
            todo.extend(found)
    return [
        replace(scene, test_reserve=True) if number in reserved and not scene.test_reserve else scene
        for number, scene in enumerate(scenes)
    ]


def _sha1s(scene: Scene) -> set[str]:
    return {ref.sha1 for ref in scene.ground_truths + scene.noisy}


def _shared(scenes: list[Scene]) -> set[str]:
    """SHA-1s of photos that more than one scene has."""
    seen: set[str] = set()
    shared: set[str] = set()
    for sha1s in map(_sha1s, scenes):
        shared |= sha1s & seen
        seen |= sha1s
    return shared
