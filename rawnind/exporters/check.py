"""Checks that the research code's loaders can read an export."""

import math
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from rawnind.documents import LISTING, read_yaml
from rawnind.errors import ConfigError, printable
from rawnind.exporters.parallel import in_order
from rawnind.exporters.rules import CLEAN, DATASET, MAX_LOSS, MIN_MASK_MEAN, RESERVE, cache_keys

MAX_SHIFT = 1.0
"""Largest offset of a GT crop from its noisy crop, in pixels."""

_TEXTS = ("image_set", "f_fpath", "gt_fpath", "mask_fpath")
_NUMBERS = ("best_alignment_loss", "mask_mean", "raw_gain", "rgb_gain", "overexposure_lb")
_COLOR = ("f_linrec2020_fpath", "gt_linrec2020_fpath")
_BAYER = ("f_bayer_fpath", "gt_bayer_fpath")
ExportEntry = dict[str, Any]


def check(folder: str | Path) -> list[str]:
    """Reads every file of an export as the loaders do.

    Checked are: plain YAML scalars; every key, its type and its range; test scenes that test_reserve.yaml names and whose folder
    `f_fpath` names; names of noisy crops that are unique in the export, as validation losses are cached by them; no test scene in
    clean.yaml; absolute paths of files that are there; shapes and number types; masks of 0 and 255 that hold every crop and are
    valid in each; and that GT and noisy crops of each pair show the same scene to within a pixel.

    Returns:
        One sentence per problem; empty where there is none.
    """
    root = Path(folder)
    problems: list[str] = []
    documents = {name: _load(root / name, problems) for name in (DATASET, CLEAN, RESERVE)}
    reserve = documents[RESERVE]
    names = reserve.get("test_reserve") if isinstance(reserve, dict) else None
    if not isinstance(names, list):
        problems.append(f"{RESERVE}: test_reserve must be a list")
        names = []
    entries = {name: _list(name, documents[name], problems) for name in (DATASET, CLEAN)}
    reserved = {str(name) for name in names}
    for number, found in enumerate(in_order(lambda entry: _entry(entry, reserved), entries[DATASET])):
        problems.extend(f"{DATASET}[{number}]: {problem}" for problem in found)
    problems.extend(f"{DATASET}: {problem}" for problem in _shared_keys(entries[DATASET]))
    files = {path for entry in entries[DATASET] for path in _paths(entry)}
    for number, entry in enumerate(entries[CLEAN]):
        problems.extend(f"{CLEAN}[{number}]: {problem}" for problem in _clean_entry(entry, reserved, files))
    return problems


def _list(name: str, document: Any, problems: list[str]) -> list[Any]:
    if isinstance(document, list):
        return document
    problems.append(f"{name}: must be a list with an entry per pair")
    return []


def _crops_of(entry: Any) -> list[dict[str, Any]]:
    crops = entry.get("crops") if isinstance(entry, dict) else None
    return [crop for crop in crops if isinstance(crop, dict)] if isinstance(crops, list) else []


def _paths(entry: Any) -> Iterator[str]:
    for crop in _crops_of(entry):
        yield from (value for value in crop.values() if isinstance(value, str))


def _shared_keys(entries: list[Any]) -> Iterator[str]:
    """The cache of validation losses must tell the crops of an export apart, for each kind of input."""
    for key in ("f_bayer_fpath", "f_linrec2020_fpath"):
        names = Counter(name for entry in entries for name in cache_keys(_crops_of(entry), key))
        shared = sorted(name for name, count in names.items() if count > 1)
        if shared:
            yield (
                f"{len(shared)} names of noisy crops are not unique, the first is {shared[0]}: the loss of one crop would "
                "stand for the others"
            )


def _clean_entry(entry: Any, reserved: set[str], files: set[str]) -> Iterator[str]:
    """Problems of an entry for clean-clean training; its files are those of the pairs."""
    if not isinstance(entry, dict):
        yield "must be a mapping"
        return
    yield from _plain(entry)
    if str(entry.get("image_set")) in reserved:
        yield f"{entry['image_set']} is a test scene, and the clean-clean loaders train on every entry"
    if not _number(entry, "overexposure_lb") >= 0:
        yield "overexposure_lb must be a number of at least 0"
    if not _is_matrix(entry):
        yield "rgb_xyz_matrix must be 4 x 3 numbers"
    crops = _crops_of(entry)
    if not crops:
        yield "crops must be a list that is not empty"
    for key in ("gt_linrec2020_fpath", "gt_bayer_fpath"):
        if any(crop.get(key) not in files for crop in crops):
            yield f"{key} of a crop is missing, or is not a file of {DATASET}"


def _load(path: Path, problems: list[str]) -> Any:
    try:
        if path.exists() and not path.is_file():
            problems.append(f"{path.name} is not a file")
            return None
        with path.open("rb") as file:
            data = file.read(LISTING + 1)
        return read_yaml(data, path.name, ConfigError, most=LISTING)
    except (OSError, ConfigError) as error:
        problems.append(printable(str(error)))
        return None


def _entry(entry: Any, reserved: set[str]) -> list[str]:
    if not isinstance(entry, dict):
        return ["must be a mapping"]
    if bad := [*_plain(entry), *_keys(entry)]:
        return bad
    scene, found = entry["image_set"], []
    if "TEST_" in scene[:9] and scene not in reserved:
        found.append(f"{scene} is a test scene that {RESERVE} does not name: a loader would train on it")
    for key, folder in (("f_fpath", (scene,)), ("gt_fpath", (scene, "gt"))):
        if PurePath(entry[key]).parts[-1 - len(folder) : -1] != folder:
            found.append(f"{key} is not in the folder {'/'.join(folder)}, from which test scenes are told")
    return [*found, *_images(entry)]


def _images(entry: ExportEntry) -> Iterator[str]:
    """Problems of an entry's files."""
    mask, found = _mask(entry["mask_fpath"])
    yield from found
    pairs: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {"colour": [], "Bayer": []}
    for crop in entry["crops"]:
        images_by_key = {key: _image(crop[key]) for key in _expected(entry)}
        wrong = [image for image in images_by_key.values() if isinstance(image, str)]
        found = wrong or list(_shapes(crop, images_by_key, mask))
        yield from found
        if found:
            return
        pairs["colour"].append(_greens(images_by_key, _COLOR))
        if entry["is_bayer"]:
            pairs["Bayer"].append(_greens(images_by_key, _BAYER))
    for (what, images), scale in zip(pairs.items(), (1.0, 2.0), strict=True):
        if images:
            steps = (
                scale * step + known
                for step, known in zip(offset(images), entry["best_alignment"], strict=True)
            )
            dy, dx = steps
            if max(abs(dy), abs(dx)) > MAX_SHIFT:
                yield f"the {what} crops of the GT are ({dy:+.1f}, {dx:+.1f}) pixels off the noisy ones"


def _greens(
    images_by_key: dict[str, Any], keys: tuple[str, str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    noisy, truth = (images_by_key[key][1] for key in keys)
    return noisy, truth


def _plain(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _plain(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _plain(inner, f"{where}[{number}]")
    elif type(value) not in {bool, int, float, str}:
        yield f"{where} is a {type(value).__name__}, not a plain scalar"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"


def _expected(entry: ExportEntry) -> tuple[str, ...]:
    return (*_COLOR, *_BAYER) if entry["is_bayer"] else (*_COLOR, _BAYER[1])


def _keys(entry: ExportEntry) -> Iterator[str]:
    """Keys of an entry that are missing or have a value that the loaders cannot use."""
    rules: list[tuple[str, bool, str]] = [
        *((key, isinstance(entry.get(key), str) and entry[key] != "", "must be text") for key in _TEXTS),
        *((key, _number(entry, key) >= 0, "must be a number of at least 0") for key in _NUMBERS),
        ("is_bayer", isinstance(entry.get("is_bayer"), bool), "must be true or false"),
        ("rgb_msssim_score", isinstance(entry.get("rgb_msssim_score", 1.0), float), "must be a number"),
        ("best_alignment_loss", _number(entry, "best_alignment_loss") <= MAX_LOSS,
         f"is above {MAX_LOSS}: the loaders leave the pair out"),
        ("mask_mean", _number(entry, "mask_mean") >= MIN_MASK_MEAN,
         f"is below {MIN_MASK_MEAN}: the loaders leave the pair out"),
        ("best_alignment", _is_list(entry.get("best_alignment"), 2, int), "must be [dy, dx]"),
        ("rgb_xyz_matrix", _is_matrix(entry), "must be 4 x 3 numbers"),
        ("crops", isinstance(entry.get("crops"), list) and bool(entry["crops"]), "must be a list that is not empty"),
    ]  # fmt: skip
    bad = [f"{key} {rule}" for key, holds, rule in rules if not holds]
    yield from bad
    if bad:
        return
    for number, crop in enumerate(entry["crops"]):
        yield from (f"crops[{number}]{problem}" for problem in _crop_keys(entry, crop))


def _crop_keys(entry: ExportEntry, crop: Any) -> Iterator[str]:
    if not isinstance(crop, dict):
        yield " must be a mapping"
        return
    if not _is_list(crop.get("coordinates"), 2, int) or min(crop["coordinates"]) < 0:
        yield ".coordinates must be [x, y]"
    yield from (f".{key} is missing" for key in _expected(entry) if not isinstance(crop.get(key), str))


def _number(entry: ExportEntry, key: str) -> float:
    """The value, or NaN, which breaks every rule."""
    value = entry.get(key)
    return value if isinstance(value, float) else math.nan


def _is_matrix(entry: ExportEntry) -> bool:
    matrix = entry.get("rgb_xyz_matrix")
    return isinstance(matrix, list) and len(matrix) == 4 and all(_is_list(row, 3, float) for row in matrix)


def _is_list(value: Any, count: int, kind: type) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(each) is kind for each in value)


def _mask(name: str) -> tuple[NDArray[np.uint8] | None, list[str]]:
    if not Path(name).is_absolute():
        return None, [f"{name} is not an absolute path"]
    mask = _decoded(name, cv2.IMREAD_UNCHANGED) if name.endswith(".png") else None
    if mask is None:
        return None, [f"{name} is not a PNG that can be read"]
    if mask.dtype != np.uint8 or mask.ndim != 2 or not np.isin(mask, (0, 255)).all():
        return None, [f"{name} is not an 8-bit mask of 0 and 255"]
    return np.asarray(mask, np.uint8), []


def _image(name: str) -> NDArray[np.float32] | str:
    """(channels, h, w), or a problem."""
    if not Path(name).is_absolute():
        return f"{name} is not an absolute path"
    image = _read_npy(name) if name.endswith(".npy") else _read_tiff(name)
    if isinstance(image, str):
        return image
    if image.dtype not in {np.dtype(np.float16), np.dtype(np.float32)} or image.ndim != 3:
        return f"{name} holds {image.dtype} values of shape {image.shape}"
    if not np.isfinite(image).all():
        return f"{name} holds values that are not finite"
    return np.asarray(image, np.float32)


def _read_npy(name: str) -> NDArray[Any] | str:
    try:
        if Path(name).exists() and not Path(name).is_file():  # a pipe would be waited for
            return f"{name} is not a file"
        return np.asarray(np.load(name, mmap_mode="r", allow_pickle=False))  # a header may claim any size
    except (
        OSError,
        ValueError,
        EOFError,
        OverflowError,
        SyntaxError,
        TypeError,
        tokenize.TokenError,
    ) as error:  # its header is Python
        return f"{name} cannot be read: {error}"


def _read_tiff(name: str) -> NDArray[Any] | str:
    found = _decoded(name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if name.endswith(".tif") else None
    if found is None:
        return f"{name} is neither an .npy nor a .tif file that OpenCV reads"
    return np.asarray(np.moveaxis(found[:, :, ::-1], -1, 0))  # OpenCV has blue first, in values of any kind


def _decoded(name: str, flags: int) -> NDArray[Any] | None:
    """What OpenCV reads; None where it reads nothing."""
    try:
        return cv2.imread(name, flags) if Path(name).is_file() else None  # a pipe would be waited for
    except cv2.error:  # more pixels than it reads, or than memory holds
        return None


def _shapes(
    crop: ExportEntry, images_by_key: dict[str, Any], mask: NDArray[np.uint8] | None
) -> Iterator[str]:
    size = images_by_key[_COLOR[0]].shape[1]
    for key, image in images_by_key.items():
        expected = (4, size // 2, size // 2) if key in _BAYER else (3, size, size)
        if image.shape != expected:
            yield f"{crop[key]} has shape {image.shape}, not {expected}"
    if mask is None:
        return
    x, y = crop["coordinates"]
    part = mask[y : y + size, x : x + size]
    if part.shape != (size, size):
        yield f"the crop at [x, y] = [{x}, {y}] reaches outside its mask"
    elif not part.any():
        yield f"the crop at [x, y] = [{x}, {y}] has no valid pixel in its mask"


def offset(pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> tuple[float, float]:
    """The offset of the second images from the first, from the sum of the Hann-windowed cross-correlations of all pairs.

    Args:
        pairs: (noisy, GT), all (h, w), of any brightness.

    Returns:
        (dy, dx): pixel (y + dy, x + dx) of the GT shows what (y, x) of the noisy image shows; parabolic sub-pixel.

    >>> image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    >>> [round(step) for step in offset([(image, np.roll(image, (2, -3), (0, 1)))])]
    [2, -3]
    """
    height, width = pairs[0][0].shape
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    total: NDArray[Any] = np.zeros((), np.complex64)
    for noisy, truth in pairs:
        one, other = (_contrast(image) * window for image in (noisy, truth))
        total = total + np.conj(scipy.fft.rfft2(one)) * scipy.fft.rfft2(other)
    peak = scipy.fft.irfft2(total, (height, width))
    y, x = np.unravel_index(int(peak.argmax()), peak.shape)
    return (
        _peak_position(peak[:, x], int(y)),
        _peak_position(peak[y], int(x)),
    )


def _contrast(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Band-pass contrast (difference of Gaussians of 1.5 and 8 pixels), clipped so that bright edges do not dominate."""
    detail = cv2.GaussianBlur(image, None, 1.5) - cv2.GaussianBlur(image, None, 8)
    typical = float(np.median(np.abs(detail)))
    clipped: NDArray[np.float32] = np.clip(detail / (3 * typical or 1.0), -1, 1)
    return clipped


def _peak_position(line: NDArray[np.float32], at: int) -> float:
    before, here, after = (float(line[(at + step) % len(line)]) for step in (-1, 0, 1))
    curvature = before - 2 * here + after
    fraction = 0.5 * (before - after) / curvature if curvature else 0.0
    position = at + fraction
    return position - len(line) if position > len(line) / 2 else position
