"""Decodes a RAW file to the sensor values of its visible area and the sensor's parameters; exactly LibRaw's values."""

import hashlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import numpy as np
import rawpy
from numpy.typing import NDArray

from rawnind.errors import SourceError
from rawnind.memory import worker_bytes
from rawnind.reasons import Reason
from rawnind.records import Capture, Cfa, ImageRef, Sensor
from rawnind.source.borders import border_noise
from rawnind.source.camera import camera_name, joined_name
from rawnind.source.dng_levels import Tags, check_black, check_format, exact_black, mosaic_tags
from rawnind.source.exif import read_exif, with_libraw
from rawnind.source.file_check import Unusable, check, check_file
from rawnind.source.libraw_words import libraw_words
from rawnind.source.pixels import check_written, check_zeros, unpack
from rawnind.source.storage import header_source, open_photo, photo_stat

ATTEMPTS = 3
RETRY_DELAY = 2.0
"""Seconds between attempts to read a file that the system refuses (a network drive that hiccups)."""

_MOST_BYTES = 1 << 32
"""What TIFF's 32-bit offsets reach, and with them DNG and nearly every camera's format. Reading more would only fill memory."""

_ALSO_OF_CUT_FILES = {Reason.UNREADABLE, Reason.ALL_ZERO, Reason.INCOMPLETE}
"""What LibRaw makes of a file that was cut depends on its format: an ARW2's missing rows are zeros, a CR2 is no RAW file to it."""

_log = logging.getLogger(__name__)

Read = TypeVar("Read")

_SRGB_TO_XYZ = np.array(  # IEC 61966-2-1, as LibRaw's table has it
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_PATTERN_SIDE = 16  # the longest period in LibRaw (Leaf Catchlight)


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameSize:
    """Sizes that LibRaw reads from the headers, before it decodes pixels.

    Attributes:
        height: rows of the visible area.
        width: columns of the visible area.
        raw_height: rows with margins.
        raw_width: columns with margins.
    """

    height: int
    width: int
    raw_height: int
    raw_width: int


def decode(
    ref: ImageRef, *, delay: float = RETRY_DELAY, memory: float | None = None
) -> tuple[NDArray[np.uint16], Sensor]:
    """Reads and decodes a photo.

    The file is read once; its SHA-1 is checked before LibRaw sees a byte of it.

    Args:
        ref: the photo, as the index names it.
        delay: seconds between the attempts to read a file that the system refuses.
        memory: bytes that the process may use; a photo whose header says that it needs more is unreadable. None: unlimited.

    Returns:
        The visible area, (H, W) C-contiguous, exactly LibRaw's values; and the sensor, whose `rgb_xyz_matrix` is None
        where the camera is not known.

    Raises:
        SourceError: missing_file, sha1_mismatch, truncated, unreadable, all_zero, incomplete,
            unsupported_cfa or unsupported_levels. The detail names the file, without folders.
        MemoryError: LibRaw got no memory.
    """
    data = _with_retries(ref, delay, lambda file: file.read(), most=min(_MOST_BYTES, memory or math.inf))
    _check_sha1(ref, data)
    kind = check(data).unusable
    if kind and kind is not Unusable.CUT:  # of a file that was cut off, LibRaw may know more
        raise SourceError(kind.reason, f"{ref.filename}: {kind.words}")
    try:
        decoded = _decoded(ref, data, memory)
    except SourceError as error:
        if kind and error.reason in _ALSO_OF_CUT_FILES:
            said = error.detail.removeprefix(f"{ref.filename}: ")
            raise SourceError(kind.reason, f"{ref.filename}: {kind.words} ({said})") from error
        raise
    if kind:  # LibRaw repeats the last row of an ARW, or the last block of an RW2, and says nothing
        raise SourceError(kind.reason, f"{ref.filename}: {kind.words}")
    return decoded


def _decoded(ref: ImageRef, data: bytes, memory: float | None) -> tuple[NDArray[np.uint16], Sensor]:
    """What `decode` returns of a file's bytes. Errors as there."""
    tags = mosaic_tags(data)
    check_format(tags, ref.filename)
    with libraw_errors(ref.filename), rawpy.imread(io.BytesIO(data)) as raw:
        _check_size(raw, memory, ref.filename)
        unpack(raw)
        visible = np.array(raw.raw_image_visible, order="C")  # a copy: after close() LibRaw's memory is gone
        check_written(data, visible, ref.filename)
        capture, name = read_exif(io.BytesIO(data))
        camera = camera_name(data) or joined_name(*name)
        sensor = _sensor(raw, ref.filename, camera, tags, with_libraw(capture, raw.other, raw.lens))
    if visible.shape != (sensor.height, sensor.width):
        raise SourceError(Reason.UNREADABLE, f"{ref.filename}: the margins exceed the frame")
    check_zeros(visible, min(sensor.black_level), ref.filename)
    return visible, sensor


def headers(ref: ImageRef, *, delay: float = RETRY_DELAY) -> FrameSize:
    """A photo's size from its headers alone: neither is its SHA-1 checked nor a pixel decoded.

    rawpy has no other field of `Sensor` before the pixels are decoded.

    Raises:
        SourceError: missing_file, truncated or unreadable.
    """
    kind = _with_retries(ref, delay, lambda file: check_file(file).unusable)
    if kind:
        raise SourceError(kind.reason, f"{ref.filename}: {kind.words}")
    with libraw_errors(ref.filename), rawpy.imread(header_source(ref.path)) as raw:
        sizes = raw.sizes  # `other` and `lens` would decode the pixels
    return FrameSize(
        height=sizes.height, width=sizes.width, raw_height=sizes.raw_height, raw_width=sizes.raw_width
    )


def _with_retries(
    ref: ImageRef, delay: float, read: Callable[[BinaryIO], Read], *, most: float = _MOST_BYTES
) -> Read:
    """The result of `read` on the opened file; retried while the system refuses to read.

    Args:
        ref: the photo.
        delay: seconds between attempts.
        read: reads from the opened file.
        most: the largest file that is opened, in bytes.
    """
    seen: OSError | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(delay)
        try:
            found = photo_stat(ref.path)
            if found is None:  # opening a pipe would wait for ever
                raise SourceError(Reason.UNREADABLE, f"{ref.filename}: not a regular file")
            if found[0] > most:
                limit = "a RAW photo has" if most == _MOST_BYTES else "a worker can read"
                size = f"{found[0]} bytes, and {limit} at most {most:.0f}"
                raise SourceError(Reason.UNREADABLE, f"{ref.filename}: {size}")
            if found[0] == 0:
                raise SourceError(Unusable.EMPTY.reason, f"{ref.filename}: {Unusable.EMPTY.words}")
            with open_photo(ref.path) as file:
                return read(file)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError(Reason.MISSING_FILE, ref.filename) from None
        except OSError as error:
            seen = error
    why = seen.strerror if seen else "unknown"
    raise SourceError(Reason.UNREADABLE, f"{ref.filename}: {why} (tried {ATTEMPTS} times)")


def _check_size(raw: rawpy.RawPy, memory: float | None, filename: str) -> None:
    """Raises where the size that the header claims needs more memory than there is.

    Args:
        raw: the opened photo.
        memory: bytes that the process may use; None: unlimited.
        filename: for messages.

    Raises:
        SourceError: unreadable. Its detail does not depend on `memory`, and with it not on the number of workers.
    """
    height, width = raw.sizes.raw_height, raw.sizes.raw_width
    needed = worker_bytes(height * width)
    if memory is not None and needed > memory:
        claim = f"its header claims {width} x {height} pixels, for which a worker needs {needed / 1e9:.1f} GB of memory"
        raise SourceError(Reason.UNREADABLE, f"{filename}: {claim}, more than it can have")


def _check_sha1(ref: ImageRef, data: bytes) -> None:
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    if sha1 != ref.sha1:
        seen = f"{len(data)} bytes with SHA-1 {sha1} instead of {ref.sha1}"
        if kind := check(data).unusable:
            seen += f" ({kind.words})"
        raise SourceError(Reason.SHA1_MISMATCH, f"{ref.filename}: {seen}; fetch the file again")


@contextmanager
def libraw_errors(filename: str) -> Iterator[None]:
    """Turns LibRaw's errors into ours, and what it writes to stderr into a log message with the file's name.

    Raises:
        SourceError: truncated or unreadable.
        MemoryError: LibRaw got no memory.
    """
    words: list[str] = []
    try:
        with libraw_words() as words:
            yield
    except rawpy.LibRawUnsufficientMemoryError as error:
        raise MemoryError(f"{filename}: LibRaw got no memory") from error
    except rawpy.LibRawError as error:
        said = error.args[0] if error.args else ""
        said = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
        said = "; ".join([said, *words])
        reason = Reason.TRUNCATED if isinstance(error, rawpy.LibRawIOError) else Reason.UNREADABLE
        raise SourceError(reason, f"{filename}: LibRaw reports: {said}") from error
    if words:
        _log.warning("%s: LibRaw reports: %s", filename, "; ".join(words))


def _sensor(raw: rawpy.RawPy, filename: str, camera: str, tags: Tags, capture: Capture) -> Sensor:
    """What a photo with decoded pixels says about them.

    Args:
        raw: the photo.
        filename: for messages.
        camera: make and model.
        tags: of its mosaic; empty where it is no DNG.
        capture: how it was taken.

    Raises:
        SourceError: unreadable, unsupported_cfa or unsupported_levels.
    """
    cfa, origin, indices = _pattern(raw, filename)
    levels, limits = raw.black_level_per_channel, raw.camera_white_level_per_channel
    black = tuple(float(levels[index]) for index in indices)
    black = exact_black(black, tags, cfa, origin, filename=filename)
    white = float(raw.white_level)
    if white <= max(black):
        raise SourceError(
            Reason.UNREADABLE, f"{filename}: white level {white:g} is not above black {max(black):g}"
        )
    check_black(tags, raw.raw_image, black, white, filename)
    sizes = raw.sizes
    visible = sizes.top_margin, sizes.left_margin, sizes.height, sizes.width
    return Sensor(
        cfa=cfa,
        origin=origin,
        height=sizes.height,
        width=sizes.width,
        black_level=black,
        white_level=white,
        overexposure_lb=overexposure_bound(limits and [limits[index] for index in indices], black, white),
        rgb_xyz_matrix=_rgb_xyz(raw),
        camera=camera,
        capture=capture,
        border_noise=border_noise(raw.raw_image, visible, cfa, origin, black, white),
    )


def _pattern(raw: rawpy.RawPy, filename: str) -> tuple[Cfa, tuple[int, int], tuple[int, ...]]:
    """The CFA, the visible area's first tile, and LibRaw's colour index of each plane.

    LibRaw numbers Bayer's second green 3. `raw_pattern` is not used: it is wrong for X-Trans with margins over 6.
    """
    if raw.raw_type != rawpy.RawType.Flat:
        raise SourceError(Reason.UNSUPPORTED_CFA, f"{filename}: {Unusable.DEMOSAICED.words}")
    if raw.num_colors == 1:
        raise SourceError(Reason.UNSUPPORTED_CFA, f"{filename}: {Unusable.MONOCHROME.words}")
    if raw.color_desc != b"RGBG":
        kind = f"{raw.raw_type.name.lower()} pixels of colours {raw.color_desc.decode('ascii', 'replace')}"
        raise SourceError(Reason.UNSUPPORTED_CFA, f"{filename}: {kind}")
    side, top, left = range(_PATTERN_SIDE), raw.sizes.top_margin, raw.sizes.left_margin
    seen = np.array([[raw.raw_color(top + y, left + x) for x in side] for y in side])
    colors = np.where(seen == 3, 1, seen)
    for cfa in Cfa:
        tile = np.array(cfa.tile)
        for y, x in np.ndindex(tile.shape):
            rows, columns = (
                (np.arange(_PATTERN_SIDE) - y) % cfa.period,
                (np.arange(_PATTERN_SIDE) - x) % cfa.period,
            )
            if np.array_equal(colors, tile[np.ix_(rows, columns)]):
                indices = tuple(seen[y : y + 2, x : x + 2].flat) if cfa is Cfa.BAYER else (0, 1, 2)
                return cfa, (y, x), tuple(int(index) for index in indices)
    shown = "/".join("".join(map(str, row[:6])) for row in colors[:6])
    raise SourceError(Reason.UNSUPPORTED_CFA, f"{filename}: its pattern begins {shown}")


def overexposure_bound(limits: Sequence[float] | None, black: Sequence[float], white: float) -> float:
    """The level (0..1) of the camera's own limit, the lowest of its colours.

    Args:
        limits: sensor values, in plane order; None where the file does not say.
        black: sensor values, in plane order.
        white: sensor value at which the sensor is full.

    >>> overexposure_bound((900, 500), (100, 100), 1100)
    0.4
    >>> overexposure_bound(None, (100, 100), 1100)
    1.0
    """
    if limits is None:
        return 1.0
    lowest = min((limit - b) / (white - b) for limit, b in zip(limits, black, strict=True))
    return min(lowest, 1.0) if lowest > 0 else 1.0  # a limit below black is meaningless


def _rgb_xyz(raw: rawpy.RawPy) -> tuple[float, ...] | None:
    """XYZ -> camera: from LibRaw's table of cameras, else from the file's own matrix, else None.

    `color_matrix` is white-balanced camera -> sRGB; the daylight balance and sRGB's primaries are taken out of it, as
    dcraw put them in.
    """
    table = np.asarray(raw.rgb_xyz_matrix, np.float64)[:3]
    if table.any():
        return _plain(table)
    daylight = np.asarray(raw.daylight_whitebalance[:3], np.float64)
    to_srgb = np.asarray(raw.color_matrix, np.float64)[:, :3]
    if not (np.isfinite(to_srgb).all() and (daylight > 0).all() and abs(np.linalg.det(to_srgb)) > 1e-6):
        return None
    return _plain(np.diag(1 / daylight) @ np.linalg.inv(to_srgb) @ np.linalg.inv(_SRGB_TO_XYZ))


def _plain(matrix: NDArray[np.float64]) -> tuple[float, ...] | None:
    return tuple(float(value) for value in matrix.flat) if np.isfinite(matrix).all() else None
