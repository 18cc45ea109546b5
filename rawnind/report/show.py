"""`rawnind show`: one picture of a crop, a pair or a scene."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.compute as pc
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from rawnind.errors import ConfigError, OutputError, printable
from rawnind.output.atomic_file import atomic_file
from rawnind.output.shard_reader import ShardReader
from rawnind.output.store import Store
from rawnind.report.canvas import EMPTY, PairPicture, Place, pair_picture
from rawnind.report.folder import Folder, Row, read_folder, scene_key
from rawnind.report.pixels import (
    DIFFERENCE_GAIN,
    Why,
    difference,
    exposure_of,
    over_picture,
    to_srgb,
    view_sites,
)
from rawnind.words import plain_label

_CROP = re.compile(r"([0-9a-f]{12}-[0-9a-f]{12})-\d+-\d+")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WIDTH = 640
"""Pixels of each picture of a pair."""
_MOST_PAIRS = 8
"""Of a scene in one picture."""
_MORE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS", "Hiragino Sans",
    "PingFang SC", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Noto Sans Devanagari",
    "Noto Sans Thai",
)  # fmt: skip
"""Fonts of Linux, macOS and Windows with the letters of other scripts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that a notebook displays and that can be saved.

    Attributes:
        png: the file's bytes.
        title: what it shows.
    """

    png: bytes
    title: str

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Writes the picture; a PNG of that name is replaced.

        Raises:
            ConfigError: The name does not end with .png, or another kind of file has it.
            OutputError: The file cannot be written.
        """
        final = Path(path)
        if final.suffix.lower() != ".png":
            raise ConfigError(f"{final} must end with .png: pictures are written as PNG")
        try:
            if final.exists() and not _is_png(final):
                raise ConfigError(f"{final} exists and is not a PNG file; choose another name")
            with atomic_file(final, replace=True, durable=False) as stream:
                stream.write(self.png)
        except OSError as error:
            raise OutputError(f"cannot write {final}: {error.strerror}") from error


def show(output: str | Path, what: str) -> Picture:
    """A picture of a crop, a pair or a scene: ground truth, noisy photo, mask, difference, scores.

    Args:
        output: the folder that `prepare` writes: a local path, or a URI that pyarrow.fs opens.
        what: a crop_id or pair_id of the manifest; the name of a scene, also as `bayer/NAME`; or that of a photo, with or
            without its folder and extension: all pairs that it is part of.

    Returns:
        The picture; the last line of a notebook's cell displays it.

    Raises:
        ConfigError: Nothing of that name is stored.
        NotPreparedError: Nothing was committed to the folder.
        ManifestError: A file of the folder is damaged.

    Examples:
        >>> rawnind.show("out", "kitchen").save("kitchen.png")  # doctest: +SKIP
    """
    folder = read_folder(Store(str(output)))
    with ShardReader(folder.store) as reader, mpl.rc_context({"font.family": _fonts(), "font.size": 9}):
        if match := _CROP.fullmatch(what):
            rows = _crops(folder, match[1], what)
            return _crop_picture(reader, rows[0])
        pairs = _pairs(folder, what)
        return _pairs_picture(folder, reader, pairs, what)


def _fonts() -> list[str]:
    """Matplotlib's own font, and for letters that it lacks those that are installed here."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


def _crops(folder: Folder, pair_id: str, crop_id: str = "", scene: str = "") -> list[Row]:
    table = folder.crops.filter(pc.field("pair_id") == pair_id)
    rows: list[Row] = table.to_pylist()
    if scene:
        rows = [row for row in rows if scene_key(row) == scene]
    if crop_id:
        rows = [row for row in rows if row["crop_id"] == crop_id]
        if not rows:
            _pairs(folder, pair_id)  # says so where the pair is unknown or was not collected
            raise ConfigError(
                f"{folder.store.location} has no crop {crop_id}; `rawnind show` its pair {pair_id}"
            )
    return rows


def _pairs(folder: Folder, what: str) -> list[Row]:
    """The collected pairs that a name means."""
    named = [row for row in folder.pairs if what in _names(row)]
    found = [row for row in named if row["shard"]]
    if found:
        return found
    if named:
        raise ConfigError(
            f"no pixels are stored of {printable(what)}: {named[0]['outcome']}, {named[0]['reason']}: {named[0]['detail']}"
        )
    names = sorted({row["scene"] for row in folder.pairs if row["shard"]})
    raise ConfigError(
        f"{folder.store.location} has no crop, pair, scene or photo {printable(what)!r}; scenes are "
        f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
    )


def _names(row: Row) -> set[str]:
    """What a pair may be called: its id, its scene, and each of its photos with or without folders and extension."""
    files = (row["noisy_file"], row["gt_file"])  # the GT of a pair that failed may be unknown
    photos = [PurePosixPath(file) for file in files if file]
    return {row["pair_id"], row["scene"], scene_key(row)} | {
        name for photo in photos for name in (str(photo), photo.name, photo.stem)
    }


def _crop_picture(reader: ShardReader, row: Row) -> Picture:
    crop = reader.crop(row["shard"], row["row_group"], row["crop_id"], row["size"], row["shard_sha256"])
    view = view_sites(crop, row)
    exposure = exposure_of(view.truth)
    truth, noisy = to_srgb(view.truth, exposure), to_srgb(view.noisy, exposure)
    panels = (
        ("ground truth", truth),
        (f"noisy, ISO {row['iso'] or 'unknown'}, times {row['gain']:.3g}", noisy),
        ("mask", over_picture(truth, view.why)),
        (_DIFFERENCE, difference(noisy, truth)),
    )
    figure = Figure(figsize=(10, 10.9), layout="constrained")
    for axes, (title, pixels) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        _draw(axes, title, pixels)
    _legend(figure, {Why(int(value)) for value in np.unique(view.why) if value}, bare=False)
    title = f"{scene_key(row)}  {row['crop_id']}"
    figure.suptitle(f"{_plain(title)}\n{_numbers(row)}")
    return _saved(figure, title)


_DIFFERENCE = f"difference, {DIFFERENCE_GAIN} times; grey is equal"


def _numbers(row: Row) -> str:
    named = (("MS-SSIM", "msssim"), ("valid", "valid_fraction"), ("residual", "residual"))
    found = [f"{name} {row[column]:.3f}" for name, column in named if row[column] is not None]
    return "   ".join([*found, f"shift {row['shift_y']:+d}, {row['shift_x']:+d}", _plain(row["camera"])])


def _pairs_picture(folder: Folder, reader: ShardReader, pairs: Sequence[Row], what: str) -> Picture:
    shown = pairs[:_MOST_PAIRS]
    drawn = [
        pair_picture(reader, _crops(folder, row["pair_id"], scene=scene_key(row)), _WIDTH) for row in shown
    ]
    height = sum(0.55 + 2.9 * _aspect(picture) for picture in drawn) + 0.9
    figure = Figure(figsize=(15, height), layout="constrained")
    grid = figure.subplots(len(shown), 5, squeeze=False)
    for axes, row, picture in zip(grid, shown, drawn, strict=True):
        _pair_row(axes, row, picture)
    _legend(
        figure,
        {kind for picture in drawn for kind in picture.why},
        bare=not all(each.whole for each in drawn),
    )
    more = f"; the first {len(shown)} of {len(pairs)} pairs" if len(pairs) > len(shown) else ""
    title = f"{scene_key(pairs[0])}  {pairs[0]['pair_id']}" if len(pairs) == 1 else f"{what}{more}"
    figure.suptitle(_plain(title))
    return _saved(figure, title)


def _aspect(picture: PairPicture) -> float:
    height, width, _ = picture.truth.shape
    return float(height / width)


def _pair_row(axes: Sequence[Axes], row: Row, picture: PairPicture) -> None:
    titles = (
        f"ground truth, ISO {row['gt_iso'] or 'unknown'}",
        f"noisy, ISO {row['iso'] or 'unknown'}, times {row['gain']:.3g}",
        f"mask, {row['mask_mean']:.1%} valid",
        _DIFFERENCE,
    )
    for each, title, (_, pixels) in zip(axes, titles, picture.panels, strict=False):
        _draw(each, title, pixels)
    score = f", mean {row['msssim']:.3f}" if row["msssim"] is not None else ""
    _draw(axes[4], f"MS-SSIM of its crops{score}", picture.mask * 0 + EMPTY[0])
    for place in picture.places:
        _score(axes[4], place)


def _score(axes: Axes, place: Place) -> None:
    value = place.row["msssim"]
    color = "#bbbbbb" if value is None else mpl.colormaps["viridis"](max(0.0, min(1.0, (value - 0.5) * 2)))
    axes.add_patch(
        Rectangle(
            (place.left - 0.5, place.top - 0.5),
            place.side,
            place.side,
            facecolor=color,
            edgecolor="white",
            lw=0.5,
        )
    )
    if place.side > _WIDTH / 12:
        middle = place.left + place.side / 2, place.top + place.side / 2
        text = "none" if value is None else f"{value:.2f}"
        axes.text(
            *middle,
            text,
            ha="center",
            va="center",
            color="black" if (value or 0) > 0.8 else "white",
            fontsize=8,
        )


def _draw(axes: Axes, title: str, pixels: Any) -> None:
    axes.imshow(pixels.astype("uint8"), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _legend(figure: Figure, why: set[Why], *, bare: bool) -> None:
    handles = [_patch(kind.color, kind.label) for kind in sorted(why)]
    handles += [_patch(EMPTY, "no crop is stored")] * bare
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _patch(color: tuple[int, int, int], label: str) -> Patch:
    red, green, blue = (value / 255 for value in color)
    return Patch(facecolor=(red, green, blue), label=label)


def _plain(text: str) -> str:
    """A text in which matplotlib finds no formula."""
    return plain_label(printable(text))


def _saved(figure: Figure, title: str) -> Picture:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Glyph .* missing from font"
        )  # it is a box in the picture; `title` has it
        figure.savefig(file, format="png", dpi=110)
    return Picture(png=file.getvalue(), title=printable(title))
