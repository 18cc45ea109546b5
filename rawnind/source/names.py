"""The grammar of RawNIND file names: parses a name, or says why it is refused.

A name is `{Bayer|X-Trans}_[UNK_][TEST_]{scene}_[GT_]ISO{n}_sha1={40 hex}.{ext}`. Scenes hold `_` and `-`, the ISO is
sometimes `Hi 3200` or `Unknown`. Names are parsed here once; no other module compares spellings.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from rawnind.errors import printable
from rawnind.records import Cfa, SceneName, Sha1

EXAMPLE = "Bayer_kitchen_GT_ISO100_sha1=854554a34b339413462eb1538d4cb0fa95d468b5.arw"
"""A name of the grammar, for messages."""

CFA_FOLDERS = {Cfa.BAYER: "Bayer", Cfa.X_TRANS: "X-Trans"}
"""How RawNIND spells each colour filter array in names, folders and its index."""

SRC, GT = "src", "gt"
"""Folders of the nested layout `[src/]{Bayer|X-Trans}/{scene}/[gt/]{file}`."""

FETCH_FOLDER = ".rawnind-fetch"
"""Folder for what `rawnind fetch` keeps beside the photos; it is no part of a data set."""

_RAW = """3fr ari arq arw bay bmq cap cine cr2 cr3 crw cs1 dc2 dcr dng drf dsc erf fff gpr iiq k25 kc2 kdc mdc mef mos mrw
nef nrw orf ori pef ptx pxn qtk raf raw rdc rw2 rwl rwz sr2 srf srw sti x3f"""  # what LibRaw 0.22 reads
_IMAGE = "avif bmp exr gif heic heif hif jpeg jpg jxl npy png tif tiff webp"
RAW_EXTENSIONS = frozenset(_RAW.split())
IMAGE_EXTENSIONS = frozenset(_IMAGE.split())

MAKERS = {"arw": "Sony", "raf": "Fujifilm", "cr2": "Canon", "cr3": "Canon", "crw": "Canon", "nef": "Nikon", "nrw": "Nikon",
          "orf": "Olympus", "rw2": "Panasonic", "pef": "Pentax"}  # fmt: skip
"""Who makes the cameras that write files with an extension; DNG is many makers'."""

_PREFIXES = re.compile(r"(?:UNK_|TEST_)*")
_NAME = re.compile(
    r"(?P<cfa>bayer|x-trans)_(?P<scene>.+?)_(?P<gt>(?-i:GT_))?ISO(?:(?:Hi )?(?P<iso>[0-9]{1,9})|Unknown)"
    r"_sha1=(?P<sha1>[0-9a-f]{40})\.[0-9a-z]+",
    re.IGNORECASE
    | re.ASCII,  # without ASCII, a long s would pass for an s; GT_ marks a photo in capitals only
)
_SCENE: TypeAdapter[str] = TypeAdapter(SceneName)


class FileKind(Enum):
    """What a file is, by its extension."""

    RAW = auto()
    XMP = auto()
    IMAGE = auto()
    OTHER = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A file, folder or index entry that was refused.

    Attributes:
        file: what it is about, relative to the source, with unprintable characters escaped.
        why: the reason, for people.
    """

    file: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedScene:
    """A scene's name without prefixes, and the flags of the prefixes."""

    scene: SceneName
    test_reserve: bool
    unknown_sensor: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoName:
    """The parts of a file name.

    Attributes:
        iso: None where the name has `Unknown`; `Hi 3200` is 3200.
        sha1: lower case.
    """

    filename: str
    cfa: Cfa
    spelling: ParsedScene
    ground_truth: bool
    iso: int | None
    sha1: Sha1


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedFlags:
    """What folders or an index entry state about a file, apart from its name; None where they do not state it."""

    in_src: bool = False
    cfa: Cfa | None = None
    spelling: ParsedScene | None = None
    ground_truth: bool | None = None

    def below(self, folder: str) -> "StatedFlags | None":
        """What holds inside a folder of the nested layout; None where the folder is no part of that.

        >>> NO_FLAGS.below("Bayer").below("TEST_7D-2").spelling.test_reserve
        True
        """
        if self.spelling is not None:
            inside_gt = folder == GT and not self.ground_truth
            return replace(self, ground_truth=True) if inside_gt else None
        if self.cfa is not None:
            spelling = parse_scene(folder)
            return (
                None
                if isinstance(spelling, Refused)
                else replace(self, spelling=spelling, ground_truth=False)
            )
        if cfa := cfa_of_folder(folder):
            return replace(self, cfa=cfa)
        return replace(self, in_src=True) if folder == SRC and not self.in_src else None

    def contradicts(self, name: PhotoName) -> str | None:
        """How a file's name contradicts this, as a sentence; None where it agrees."""
        roles = {True: "ground truth", False: "noisy", None: None}
        for stated, named in (
            (self.cfa, name.cfa),
            (self.spelling and self.spelling.scene, name.spelling.scene),
            (roles[self.ground_truth], roles[name.ground_truth]),
        ):
            if stated is not None and stated != named:
                return f"its folder or index entry has {stated}, its name has {named}"
        return None


NO_FLAGS = StatedFlags()


def flags_of_folders(path: str) -> StatedFlags | None:
    """What the folders of a relative path state; None where they are not of the nested layout.

    >>> flags_of_folders("Bayer/kitchen/gt/a.dng").ground_truth, flags_of_folders("holidays/a.dng")
    (True, None)
    """
    flags: StatedFlags | None = NO_FLAGS
    for folder in path.split("/")[:-1]:
        flags = flags.below(folder) if flags else None
    return flags


NOT_IN_LAYOUT = "the folder is not part of the layout [src/]{Bayer|X-Trans}/{scene}/[gt/]"
"""Why files of a folder are refused of which `below` or `flags_of_folders` is None."""


def bare(filename: str) -> str:
    """A file's name without the folders that an index or a listing gives.

    >>> bare("kitchen/DSC00017.ARW"), bare("DSC00017.ARW")
    ('DSC00017.ARW', 'DSC00017.ARW')
    """
    return filename.rpartition("/")[2]


def kind_of(filename: str) -> FileKind:
    """The kind of a file, from its extension in any case.

    >>> kind_of("a.ARW"), kind_of("a.arw.xmp")
    (<FileKind.RAW: 1>, <FileKind.XMP: 2>)
    """
    extension = filename.rpartition(".")[2].lower() if "." in filename else ""
    if extension in RAW_EXTENSIONS:
        return FileKind.RAW
    if extension == "xmp":
        return FileKind.XMP
    return FileKind.IMAGE if extension in IMAGE_EXTENSIONS else FileKind.OTHER


def parse_name(filename: str) -> PhotoName | Refused:
    """The parts of a file name, or why it does not match the grammar.

    Args:
        filename: a bare name; one with path parts is refused.

    >>> name = parse_name("Bayer_UNK_TEST_a_b-1_ISOHi 3200_sha1=" + "0f" * 20 + ".NEF")
    >>> name.spelling.scene, name.spelling.test_reserve, name.ground_truth, name.iso
    ('a_b-1', True, False, 3200)
    """
    if danger := unsafe(filename):
        return Refused(file=printable(filename), why=danger)
    match = _NAME.fullmatch(filename)
    if match is None:
        return Refused(file=printable(filename), why=f"not a RawNIND name such as {EXAMPLE}")
    spelling = parse_scene(match["scene"])
    if isinstance(spelling, Refused):
        return Refused(file=printable(filename), why=spelling.why)
    return PhotoName(
        filename=filename,
        cfa=Cfa(match["cfa"].lower()),
        spelling=spelling,
        ground_truth=match["gt"] is not None,
        iso=_iso(match["iso"]) if match["iso"] else None,
        sha1=match["sha1"].lower(),
    )


_iso = lru_cache(maxsize=1024)(int)  # photos of the same ISO share the number


@lru_cache(maxsize=1024)  # a scene's photos repeat its name
def parse_scene(text: str) -> ParsedScene | Refused:
    """A scene's name without its prefixes, as folders, names and index keys spell it.

    >>> parse_scene("TEST_7D-2")
    ParsedScene(scene='7D-2', test_reserve=True, unknown_sensor=False)
    """
    text = unicodedata.normalize("NFC", text)  # file systems and archives differ in how they compose letters
    prefix = _PREFIXES.match(text)
    marks = prefix[0] if prefix else ""
    try:
        scene = _SCENE.validate_python(text.removeprefix(marks))
    except ValidationError:
        return Refused(
            file=printable(text),
            why="the scene's name must start with a letter or digit and hold letters, digits, spaces, _ . + - only",
        )
    return ParsedScene(scene=scene, test_reserve="TEST_" in marks, unknown_sensor="UNK_" in marks)


def cfa_of_folder(name: str) -> Cfa | None:
    """The colour filter array that a folder or index key names, or None.

    >>> cfa_of_folder("X-Trans")
    <Cfa.X_TRANS: 'x-trans'>
    """
    return Cfa(name.lower()) if name.lower() in list(Cfa) else None


def unsafe(filename: str) -> str | None:
    """Why a bare file name from outside must not be used; None where it may be."""
    if not filename.isprintable():
        return "the name holds a control character or a broken encoding"
    if "/" in filename or "\\" in filename or ":" in filename:
        return "the name holds a path; a bare file name is expected"
    return "the name holds '..'" if ".." in filename else None
