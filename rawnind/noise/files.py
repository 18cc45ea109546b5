"""Files of noise profiles: JSON with every number, a plot, and the format of darktable's noiseprofiles.json."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from rawnind.errors import ConfigError
from rawnind.imaging.photo_noise import LARGEST_ERROR
from rawnind.noise.profile import CameraNoise, Curve, Entry, Value
from rawnind.noise.samples import COLORS, Method
from rawnind.output.store import Store
from rawnind.words import plain_label

PROFILE, PLOT, DARKTABLE = "noise.json", "noise.svg", "noiseprofiles.json"
_FORMAT = "rawnind-noise 1"
CONVENTION = (
    "variance = a * level + b of a single site, in levels squared; level 0 is black, 1 the white level; camera's own levels, not "
    "white-balanced: where a colour is multiplied by m, use m * a and m^2 * b"
)


def write_files(store: Store, cameras: Sequence[CameraNoise], folder: str = "") -> None:
    """Writes the three files.

    Args:
        store: where.
        cameras: profiles.
        folder: below it, with a slash at the end; empty for none.

    Raises:
        ConfigError: Files of these names that rawnind did not write are there.
        OutputError: The storage reports an error.
    """
    made = {PROFILE: profile_json(cameras), PLOT: plot(cameras), DARKTABLE: darktable_json(cameras)}
    known = f"{folder}{PROFILE}"
    ours = store.exists(known) and f'"{_FORMAT}"'.encode() in store.read(known, 1 << 12)
    if not ours and (theirs := [name for name in made if store.exists(f"{folder}{name}")]):
        raise ConfigError(
            f"{store.location} holds {folder}{theirs[0]} that rawnind did not write; choose another folder with -o"
        )
    store.prepare_root()
    for name, data in made.items():
        store.write(f"{folder}{name}", data, replace=True)


def profile_json(cameras: Sequence[CameraNoise]) -> bytes:
    """Every number with its error, number of photos and confidence, and the curves over ISO."""
    document = {
        "format": _FORMAT,
        "convention": CONVENTION,
        "curve": "a = a_per_iso * iso, b = b_fixed + b_per_iso2 * iso^2",
        "cameras": [
            {
                "camera": each.camera,
                "span": each.span,
                "profiles": [_entry(entry, each.span) for entry in each.entries],
                "curves": [asdict(curve) for curve in each.curves],
            }
            for each in cameras
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _entry(entry: Entry, span: float | None) -> dict[str, Any]:
    read = entry.b.value**0.5 if entry.b else None
    return {
        "iso": entry.iso,
        "color": entry.color,
        "a": _value(entry.a),
        "b": _value(entry.b),
        "read_noise": read,
        "read_noise_sensor_values": read * span if read is not None and span else None,
        "row_noise": _value(entry.row),
    }


def _value(value: Value | None) -> dict[str, Any] | None:
    return None if value is None else {**asdict(value), "confidence": value.confidence}


def darktable_json(cameras: Sequence[CameraNoise]) -> bytes:
    """The format of darktable's noiseprofiles.json: a and b of red, green and blue at every ISO where they are known, from the curves.

    What photos alone show is left out: it may be too high.
    The values are those of levels before white balance. b may be more uncertain than a: what counts is the noise of middle grey.
    """
    makers: dict[str, list[dict[str, Any]]] = {}
    for each in cameras:
        curves = {curve.color: curve for curve in each.curves}
        isos = [
            iso
            for iso in sorted({entry.iso for entry in each.entries})
            if all(color in curves and _is_known(curves[color], iso) for color in COLORS)
        ]
        if not isos:
            continue
        maker, model = maker_and_model(each.camera)
        made = [_darktable_profile(model, iso, [curves[color] for color in COLORS]) for iso in isos]
        comment = f"measured by rawnind; {CONVENTION}"
        makers.setdefault(maker, []).append({"comment": comment, "model": model, "profiles": made})
    document = {
        "version": 0,
        "noiseprofiles": [{"maker": maker, "models": models} for maker, models in makers.items()],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


_MIDDLE_GREY = 0.18  # level


def _is_known(curve: Curve, iso: int) -> bool:
    """Whether a is sure, and b as far as the noise of middle grey depends on it."""
    a, b = (curve.value(part, iso) for part in "ab")
    if curve.method is Method.PHOTO or a is None or b is None or a.error > LARGEST_ERROR * a.value:
        return False
    return b.error <= LARGEST_ERROR * (_MIDDLE_GREY * a.value + b.value)


def _darktable_profile(model: str, iso: int, curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "name": f"{model} iso {iso}",
        "iso": iso,
        "a": [curve.a(iso) for curve in curves],
        "b": [curve.b(iso) for curve in curves],
    }


def maker_and_model(camera: str) -> tuple[str, str]:
    """Splits a camera's name, which begins with its maker.

    >>> maker_and_model("SONY ILCE-7C"), maker_and_model("OLYMPUS CORPORATION E-M10"), maker_and_model("Q3")
    (('SONY', 'ILCE-7C'), ('OLYMPUS CORPORATION', 'E-M10'), ('Q3', 'Q3'))
    """
    words = camera.split()
    first = 2 if len(words) > 2 and words[1].upper() in {"CORPORATION", "IMAGING", "CORP."} else 1
    return " ".join(words[:first]), " ".join(words[first:]) or camera


_LINES = {"red": "#c0453b", "green": "#2a9d6f", "blue": "#3b82c4"}


def plot(cameras: Sequence[CameraNoise]) -> bytes:
    """An SVG with a and b over ISO for each camera: measured values as dots, curves as lines."""
    with mpl.rc_context({"svg.hashsalt": "rawnind", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(9, max(len(cameras), 1) * 2.6), layout="constrained")
        axes = figure.subplots(max(len(cameras), 1), 2, squeeze=False)
        for row, each in zip(axes, cameras, strict=False):
            for part, axis in zip("ab", row, strict=True):
                _draw(axis, each, part)
                axis.set_title(
                    f"{plain_label(each.camera)}: {'a, photon noise' if part == 'a' else 'b, read noise squared'}",
                    loc="left",
                )
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def _draw(axis: Any, camera: CameraNoise, part: str) -> None:
    drawn = False
    for color in COLORS:
        entries = [(entry.iso, getattr(entry, part)) for entry in camera.entries if entry.color == color]
        points = [(iso, value.value) for iso, value in entries if value and value.value > 0]
        if points:
            axis.plot(*zip(*points, strict=True), "o", ms=4, color=_LINES[color], label=color)
            drawn = True
        curve = next((curve for curve in camera.curves if curve.color == color), None)
        if curve and points:
            isos = sorted({iso for iso, _ in entries})
            line = [(iso, value) for iso in isos if (value := getattr(curve, part)(iso))]
            if line:
                axis.plot(*zip(*line, strict=True), "-", lw=1, color=_LINES[color])
    if drawn:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.legend(fontsize=7, frameon=False)
    else:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
    axis.set_xlabel("ISO")
