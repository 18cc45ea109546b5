"""Photos of an index YAML: RawNIND's own entries, and entries that name any file in any sub-folder."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from rawnind.errors import printable
from rawnind.source.collector import Collector
from rawnind.source.locate import Locator, ObjectLocator
from rawnind.source.names import PhotoName, Refused, StatedFlags, bare, parse_name
from rawnind.source.sha1_cache import sha1s_of

LEFT_OUT = "out"
"""The role of a photo that an index lists and that is not used."""

Role = Literal["gt", "noisy", "out"]

_ROLES: dict[Role, bool] = {"gt": True, "noisy": False}


def _unknown_is_none(value: Any) -> Any:
    return None if isinstance(value, str) and value in {"", "null", "~", "Unknown", "unknown"} else value


_Iso = Annotated[int, Field(ge=1, lt=1 << 31)]
_Sha1 = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{40}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """What an index says about a photo. Other keys are for people and are passed over.

    Attributes:
        filename: below the index's root, with `/` between folders.
        sha1: of the file's bytes; None: computed.
        role: decides over the list that the entry stands in; None: the list decides.
        iso: for files whose name does not say it.
    """

    filename: str
    sha1: Annotated[_Sha1 | None, BeforeValidator(_unknown_is_none)] = None
    role: Role | None = None
    iso: Annotated[_Iso | None, BeforeValidator(_unknown_is_none)] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneEntry:
    """What an index says about a scene.

    Attributes:
        clean_images: photos; of an entry that describes none, why it does not.
        noisy_images: likewise.
    """

    clean_images: list[Any]
    noisy_images: list[Any]
    test_reserve: bool
    unknown_sensor: bool


_IMAGE = TypeAdapter(ImageEntry)
_SCENE = TypeAdapter(SceneEntry)


def scene_entry(entry: Any) -> SceneEntry | Refused:
    """What an index says about a scene, or why it is refused.

    Args:
        entry: as YAML has it.
    """
    try:
        scene = _SCENE.validate_python(entry)
    except ValidationError as error:
        return Refused(file="", why=problems(error))
    for images in (scene.clean_images, scene.noisy_images):
        images[:] = [_image(image) for image in images]
    return scene


def _image(entry: Any) -> ImageEntry | str:
    try:
        return _IMAGE.validate_python(entry)
    except ValidationError as error:
        return problems(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unhashed:
    name: PhotoName
    path: str
    label: str


class EntryReader:
    """Puts the photos that index entries name into a collector; those without a SHA-1 at the end, by `fill`.

    Args:
        locator: finds the files.
        collector: receives photos and refusals.
    """

    def __init__(self, locator: Locator | ObjectLocator, collector: Collector) -> None:
        self._locator = locator
        self._collector = collector
        self._unhashed: list[_Unhashed] = []

    def read(self, image: ImageEntry | str, label: str, flags: StatedFlags) -> None:
        """Reads one entry.

        Args:
            image: the entry, or why it describes no photo.
            label: of the scene, for messages.
            flags: what the scene and the list say about it.
        """
        if isinstance(image, str):
            self._collector.refuse(label, image)
            return
        if image.role == LEFT_OUT or not self._collector.is_raw(image.filename):
            return
        if image.role:
            flags = replace(flags, ground_truth=_ROLES[image.role])
        placed = self._placed(image, flags)
        if isinstance(placed, Refused):
            self._collector.refuse(f"{label}/{image.filename}", placed.why)
        elif placed[0].sha1:
            self._collector.add_photo(*placed)
        else:
            unhashed = _Unhashed(name=placed[0], path=placed[1], label=f"{label}/{image.filename}")
            self._unhashed.append(unhashed)

    def fill(self) -> None:
        """Computes the SHA-1s that entries lack."""
        sha1s = sha1s_of(photo.path for photo in self._unhashed)
        for photo in self._unhashed:
            sha1 = sha1s[photo.path]
            if isinstance(sha1, OSError):
                why = f"it has no sha1, and its file cannot be read: {sha1.strerror or sha1}"
                self._collector.refuse(photo.label, why)
            else:
                self._collector.add_photo(replace(photo.name, sha1=sha1), photo.path)

    def _placed(self, image: ImageEntry, flags: StatedFlags) -> tuple[PhotoName, str] | Refused:
        """The photo as its entry describes it, with an empty SHA-1 where that is not known, and its path."""
        if danger := unsafe_in_index(image.filename):
            return Refused(file=printable(image.filename), why=danger)
        sha1 = image.sha1.lower() if image.sha1 else ""
        name = parse_name(bare(image.filename))
        if isinstance(name, Refused):
            name = _any_name(image, sha1, flags)
        else:
            why = flags.contradicts(name)
            if sha1 and sha1 != name.sha1:
                why = f"the index has SHA-1 {sha1}, the name {name.sha1}"
            if why:
                return Refused(file=name.filename, why=why)
        if "/" not in image.filename:
            place = self._locator.find(name)
        else:
            place = self._locator.in_folder(image.filename)
            name = replace(name, filename=image.filename)
        return place if isinstance(place, Refused) else (name, place)


def _any_name(image: ImageEntry, sha1: str, flags: StatedFlags) -> PhotoName:
    """A photo that is not named as in RawNIND: everything about it stands in its entry."""
    if flags.cfa is None or flags.spelling is None or flags.ground_truth is None:
        raise ValueError(f"the entry of {image.filename} stands in no scene")
    return PhotoName(
        filename=image.filename,
        cfa=flags.cfa,
        spelling=flags.spelling,
        ground_truth=flags.ground_truth,
        iso=image.iso,
        sha1=sha1,
    )


def unsafe_in_index(filename: str) -> str | None:
    """Why a name with its folders must not stand in an index; None where it may.

    >>> unsafe_in_index("kitchen/DSC00017.ARW"), unsafe_in_index("../DSC00017.ARW")
    (None, "the name holds a path that is not below the index's root")
    """
    if not filename.isprintable():
        return "the name holds a control character or a broken encoding"
    if "\\" in filename or any(part in {"", ".", ".."} for part in filename.split("/")):
        return "the name holds a path that is not below the index's root"
    return None


def problems(error: ValidationError) -> str:
    """What pydantic found, without the values: they may be huge."""
    found = error.errors(include_input=False, include_url=False)
    shown = [
        f"{'.'.join(printable(str(part)) for part in each['loc']) or 'it'}: {each['msg']}"
        for each in found[:3]
    ]
    return "; ".join(shown) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
