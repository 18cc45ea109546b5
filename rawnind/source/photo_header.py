"""What one RAW file says about itself, without its pixels: camera, pattern and how it was taken."""

from dataclasses import dataclass
from pathlib import Path

import rawpy

from rawnind.errors import SourceError
from rawnind.reasons import Reason
from rawnind.records import Capture, Cfa
from rawnind.source.camera import camera_name, joined_name
from rawnind.source.decode import libraw_errors
from rawnind.source.exif import read_exif, with_libraw
from rawnind.source.file_check import check_file

_HEAD = 1 << 16


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


def read_photo_header(path: Path) -> PhotoHeader:
    """Reads a photo's header.

    Raises:
        SourceError: missing_file, or what makes the file unusable.
    """
    try:
        with path.open("rb") as file:
            checked = check_file(file)
            if checked.unusable:
                raise SourceError(checked.unusable.reason, f"{path.name}: {checked.unusable.words}")
            capture, name = read_exif(file)
            file.seek(0)
            head = file.read(_HEAD)
    except FileNotFoundError as error:
        raise SourceError(Reason.MISSING_FILE, path.name) from error
    except OSError as error:
        raise SourceError(Reason.UNREADABLE, f"{path.name}: {error.strerror or error}") from error
    with libraw_errors(path.name), rawpy.imread(str(path)) as raw:
        sizes = raw.sizes
        if capture.iso is None or capture.exposure_time is None:  # LibRaw decodes the pixels for that
            capture = with_libraw(capture, raw.other, raw.lens)
    return PhotoHeader(
        camera=camera_name(head) or joined_name(*name),
        cfa=checked.cfa or Cfa.BAYER,
        height=sizes.height,
        width=sizes.width,
        capture=capture,
    )
