"""Which files of a published data set are wanted: only what the chosen scenes need."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from rawnind.errors import ConfigError
from rawnind.planning import SceneFilter, make_plan
from rawnind.recipe import Recipe
from rawnind.records import ImageRef, Scene
from rawnind.source.catalog import Catalog
from rawnind.source.names import MAKERS
from rawnind.source.remote import RemoteFile

_ISO = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class IsoRange:
    """ISO values from `low` to `high`, both included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> "IsoRange":
        """A value or a range.

        Raises:
            ConfigError: The text is neither.

        >>> IsoRange.parse("800-6400")
        IsoRange(low=800, high=6400)
        """
        match = _ISO.fullmatch(text)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"--iso takes a value such as 800 or a range such as 800-6400, got {text}")
        return cls(low=int(match[1]), high=int(match[2] or match[1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which photos to take.

    Attributes:
        scenes: CFA, test reserve and number of scenes.
        patterns: of scene names, with * and ?; one must match. Empty: all.
        isos: of noisy photos; one must contain the photo's. Ground truths always come along. Empty: all.
        cameras: patterns of cameras, as `camera_of` names them. Empty: all.
    """

    scenes: SceneFilter
    patterns: tuple[str, ...] = ()
    isos: tuple[IsoRange, ...] = ()
    cameras: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return self == Wanted(scenes=SceneFilter())


def camera_of(filename: str) -> str:
    """Maker and file type, by the extension: a list of files has no model.

    >>> camera_of("a.ARW")
    'Sony arw'
    """
    extension = filename.rpartition(".")[2].lower()
    return f"{MAKERS.get(extension, '')} {extension}".strip()


def choose_scenes(catalog: Catalog, wanted: Wanted) -> tuple[Scene, ...]:
    """The scenes to take, with the photos of them to take.

    Raises:
        ConfigError: None is left.
    """
    narrowed = [scene for scene in (_narrowed(each, wanted) for each in catalog.index.scenes) if scene]
    chosen = make_plan(narrowed, wanted.scenes, Recipe()).selected
    if not chosen:
        raise ConfigError(
            "no scene is left: loosen --cfa, --limit, --scene, --iso, --camera or --exclude-test-reserve"
        )
    return chosen


def choose_files(catalog: Catalog, wanted: Wanted) -> tuple[RemoteFile, ...]:
    """The files to fetch, sorted by path. Where no name says which scene a photo belongs to, every RAW file.

    Raises:
        ConfigError: None is left, or options choose among scenes that no name says.
    """
    if catalog.index.scenes:
        return catalog.photos(choose_scenes(catalog, wanted))
    if not wanted.is_everything:
        raise ConfigError(
            "these files are not named by scene; fetch all of them, without --cfa, --limit, --scene, --iso and --camera"
        )
    return tuple(sorted(catalog.raw_files, key=lambda file: file.path))


def _narrowed(scene: Scene, wanted: Wanted) -> Scene | None:
    """The scene with the noisy photos that are wanted; None where it is not wanted."""
    if wanted.patterns and not any(fnmatchcase(scene.name.lower(), each.lower()) for each in wanted.patterns):
        return None
    noisy = tuple(ref for ref in scene.noisy if _is_wanted(ref, wanted))
    truths = _by_camera(scene.ground_truths, wanted)
    narrowing = bool(wanted.isos or wanted.cameras)
    if narrowing and not noisy:
        return None
    return replace(scene, noisy=noisy, ground_truths=truths)


def _is_wanted(ref: ImageRef, wanted: Wanted) -> bool:
    in_range = not wanted.isos or any(
        ref.iso is not None and each.low <= ref.iso <= each.high for each in wanted.isos
    )
    return in_range and bool(_by_camera((ref,), wanted))


def _by_camera(refs: Sequence[ImageRef], wanted: Wanted) -> tuple[ImageRef, ...]:
    patterns = [f"*{each.lower()}*" for each in wanted.cameras]
    return tuple(
        ref
        for ref in refs
        if not patterns or any(fnmatchcase(camera_of(ref.filename).lower(), each) for each in patterns)
    )
