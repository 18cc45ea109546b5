"""`rawnind noise`: profiles from an output folder or RAW files, written as files and told as lines."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rawnind.errors import ConfigError
from rawnind.noise.files import write_files
from rawnind.noise.profile import CameraNoise, Value, profiles
from rawnind.noise.samples import (
    Method,
    Progress,
    samples_of_dark_frames,
    samples_of_output,
    samples_of_source,
)
from rawnind.output.manifest import MANIFEST_YAML
from rawnind.output.store import Store
from rawnind.source.index import require_source
from rawnind.words import counted


def noise(
    source: str | Path,
    *,
    to: str | Path | None = None,
    dark: Path | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[list[CameraNoise], str]:
    """Measures the noise of cameras and writes noise.json, noise.svg and darktable's noiseprofiles.json.

    Args:
        source: a folder that `rawnind prepare` wrote, or RAW files as `load_index` takes them.
        to: a folder for the files; by default `noise` in the output folder.
        dark: a folder of RAW files that were taken with the cap on.
        progress: called with (scenes done, scenes in all) while RAW files are read.

    Returns:
        The profiles, and where the files are.

    Raises:
        ConfigError: A folder is wrong, or nothing could be measured.
        IndexInvalidError: The source names no scene.
        ManifestError: The list of pairs cannot be read.
        OutputError: The folder cannot be written.
    """
    store = Store(str(source))
    prepared = store.exists(MANIFEST_YAML)
    if not prepared:
        require_source(source)
    if to is None and not prepared:
        raise ConfigError(
            f"{source} is no output folder; say with -o where to write the profiles of its photos"
        )
    found = list(samples_of_output(store) if prepared else samples_of_source(source, progress))
    if dark is not None:
        found += samples_of_dark_frames(dark)
    cameras = profiles(found)
    if not cameras:
        raise ConfigError(f"no noise was measured in {source}: no photo of a known ISO has a measured noise")
    if to is None:
        store.require_unlinked("noise")
        write_files(store, cameras, "noise/")
        return cameras, f"{store.location}/noise"
    target = Store(str(to))
    write_files(target, cameras)
    return cameras, target.location


def describe(cameras: Sequence[CameraNoise]) -> Iterator[str]:
    """A table for the terminal: green of every camera and ISO."""
    yield f"{'camera':28} {'ISO':>6}  {'a':>10} {'read noise':>10} {'row noise':>10}  from"
    for each in cameras:
        for entry in each.entries:
            if entry.color != "green":
                continue
            read = f"{entry.b.value**0.5:10.2e}" if entry.b else " " * 10
            yield (
                f"{each.camera[:28]:28} {entry.iso:6}  {_number(entry.a)} {read} {_number(entry.row)}  "
                f"{_origin(entry.a or entry.b)}"
            )
    if any(entry.a and entry.a.method is Method.PHOTO for each in cameras for entry in each.entries):
        yield (
            "low: in a photo alone, texture as fine as the noise counts as noise; noiseprofiles.json leaves such values out. "
            "The output folder of `rawnind prepare` has surer ones."
        )


def _number(value: Value | None) -> str:
    return f"{value.value:10.3e}" if value else " " * 10


def _origin(value: Value | None) -> str:
    return f"{counted(value.photos, value.method)}, {value.confidence}" if value else ""
