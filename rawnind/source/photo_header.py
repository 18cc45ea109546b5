"""What one RAW file says about itself, without its pixels: camera, pattern and how it was taken."""

import io
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

import rawpy

from rawnind.errors import SourceError
from rawnind.locations import is_uri
from rawnind.reasons import Reason
from rawnind.records import Capture, Cfa
from rawnind.source.camera import camera_name, joined_name, naming_part
from rawnind.source.decode import libraw_errors
from rawnind.source.exif import read_exif, with_libraw
from rawnind.source.file_check import check_file
from rawnind.source.storage import header_source, open_photo


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoHeader:
    """A photo whose header was read.

    Attributes:
        camera: make and model; empty where the file does not say.
        cfa: as far as the header shows it; decoding decides.
        height: rows of the visible area.
        width: columns of the visible area.
    """

    camera: str
    cfa: Cfa
    height: int
    width: int
    capture: Capture


def read_photo_header(path: str) -> PhotoHeader:
    """Reads the header of a photo, a file or an object of a store.

    Raises:
        SourceError: missing_file, or what makes the file unusable.
    """
    filename = PurePath(path.partition("?")[0]).name if is_uri(path) else PurePath(path).name
    try:
        with open_photo(path) as file:
            checked = check_file(file)
            if checked.unusable:
                raise SourceError(checked.unusable.reason, f"{filename}: {checked.unusable.words}")
            capture, name = read_exif(file)
            naming = naming_part(file)
    except FileNotFoundError as error:
        raise SourceError(Reason.MISSING_FILE, filename) from error
    except OSError as error:
        raise SourceError(Reason.UNREADABLE, f"{filename}: {error.strerror or error}") from error
    says_little = capture.iso is None or capture.exposure_time is None  # LibRaw decodes the pixels for that
    with libraw_errors(filename), rawpy.imread(_whole(path) if says_little else header_source(path)) as raw:
        sizes = raw.sizes
        if says_little:
            capture = with_libraw(capture, raw.other, raw.lens)
    return PhotoHeader(
        camera=camera_name(naming) or joined_name(*name),
        cfa=checked.cfa or Cfa.BAYER,
        height=sizes.height,
        width=sizes.width,
        capture=capture,
    )


def _whole(path: str) -> str | BinaryIO:
    """What LibRaw reads a whole photo from."""
    if not is_uri(path):
        return header_source(path)
    with open_photo(path) as file:
        return io.BytesIO(file.read())
