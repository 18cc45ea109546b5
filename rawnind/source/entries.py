"""Photos of an index YAML: RawNIND's own entries, and entries that name any file in any sub-folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from rawnind.errors import printable
from rawnind.source.collector import Collector
from rawnind.source.locate import Locator
from rawnind.source.names import PhotoName, Refused, StatedFlags, parse_name
from rawnind.source.object_index import ObjectLocator
from rawnind.source.sha1_cache import sha1s_of

LEFT_OUT = "out"
"""The role of a photo that an index lists and that is not used."""

Role = Literal["gt", "noisy", "out"]

_ROLES: dict[Role, bool] = {"gt": True, "noisy": False}


def _unknown_is_none(value: Any) -> Any:
    return None if value in {"", "null", "~", "Unknown", "unknown"} else value


_Iso = Annotated[int, Field(ge=1, lt=1 << 31)]


class ImageEntry(BaseModel):
    """What an index says about a photo. Other keys are for people and are passed over.

    Attributes:
        filename: below the index's root, with `/` between folders.
        sha1: of the file's bytes; None: computed.
        role: decides over the list that the entry stands in; None: the list decides.
        iso: for files whose name does not say it.
    """

    filename: str
    sha1: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{40}$")] | None = None
    role: Role | None = None
    iso: Annotated[_Iso | None, BeforeValidator(_unknown_is_none)] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unhashed:
    name: PhotoName
    path: Path | str
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

    def read(self, entry: Any, label: str, flags: StatedFlags) -> None:
        """Reads one entry.

        Args:
            entry: as YAML has it.
            label: of the scene, for messages.
            flags: what the scene and the list say about it.
        """
        try:
            image = ImageEntry.model_validate(entry)
        except ValidationError as error:
            self._collector.refuse(label, problems(error))
            return
        if image.role == LEFT_OUT or not self._collector.is_raw(image.filename):
            return
        if image.role:
            flags = replace(flags, ground_truth=_ROLES[image.role])
        label = f"{label}/{image.filename}"
        placed = self._placed(image, flags)
        if isinstance(placed, Refused):
            self._collector.refuse(label, placed.why)
        elif placed[0].sha1:
            self._collector.add_photo(*placed)
        else:
            self._unhashed.append(_Unhashed(name=placed[0], path=placed[1], label=label))

    def fill(self) -> None:
        """Computes the SHA-1s that entries lack."""
        sha1s = sha1s_of(str(photo.path) for photo in self._unhashed)
        for photo in self._unhashed:
            sha1 = sha1s[str(photo.path)]
            if isinstance(sha1, OSError):
                why = f"it has no sha1, and its file cannot be read: {sha1.strerror or sha1}"
                self._collector.refuse(photo.label, why)
            else:
                self._collector.add_photo(replace(photo.name, sha1=sha1), photo.path)

    def _placed(self, image: ImageEntry, flags: StatedFlags) -> tuple[PhotoName, Path | str] | Refused:
        """The photo as its entry describes it, with an empty SHA-1 where that is not known, and its path."""
        if danger := _unsafe(image.filename):
            return Refused(file=printable(image.filename), why=danger)
        sha1 = image.sha1.lower() if image.sha1 else ""
        name = parse_name(image.filename.rpartition("/")[2])
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


def _unsafe(filename: str) -> str | None:
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
