"""Makes the sample data set."""

import json
from pathlib import Path

from rawnind.documents import json_object
from rawnind.errors import ConfigError, OutputError
from rawnind.sample.more_scenes import scene_plans
from rawnind.sample.photos import ScenePhotos, sha1_of
from rawnind.sample.scenes import SCENES
from rawnind.sample.truth import SIGN, TRUTH_FILE, FileTruth, PairTruth, SceneTruth, Truth, read_truth

VERSION = 3
SMALLEST_SIDE, MOST_PIXELS = 192, 24_000_000
UNFINISHED_FILE = "sample-unfinished.json"


def make_sample(
    out: Path, *, seed: int = 0, height: int = 800, width: int = 1216, scenes: int = len(SCENES)
) -> Truth:
    """Writes 34 DNG files of 12 scenes and `truth.json` into `out`; equal arguments give equal bytes.

    A set that exists is not changed; one that was interrupted, or that lacks files, is completed.
    About 64 MB and 4 CPU seconds at the default size, 1.6 GB and 70 CPU seconds at 24 MP. Below a shorter side of 640
    sites, shifts shrink with it.

    Args:
        out: a folder that is empty, not there yet, or holds a set made with the same arguments.
        seed: of the noise and of where the scenes' photographs are cut; 0 or more.
        height: rows of each visible area, even, at least 192.
        width: columns of each visible area, even, at least 192; at most 24 million pixels in all.
        scenes: how many; those after the twelfth are drawn from the seed, with a GT and two noisy photos each.

    Raises:
        ConfigError: An argument breaks its rule, or `out` holds something else.
        OutputError: `out` cannot be written.
    """
    _check_arguments(seed, height, width, scenes)
    arguments = {"version": VERSION, "seed": seed, "height": height, "width": width, "scenes": scenes}
    done = _claim(out, arguments)
    if done is not None and _is_complete(out, done):
        return done
    try:
        truth = _write(out, seed, (height, width), scenes)
        (out / TRUTH_FILE).write_bytes(truth.to_json())
        (out / UNFINISHED_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return truth


def _check_arguments(seed: int, height: int, width: int, scenes: int) -> None:
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    if scenes < 1:
        raise ConfigError(f"scenes must be at least 1, got {scenes}")
    for name, value in (("height", height), ("width", width)):
        if value < SMALLEST_SIDE or value % 2:
            raise ConfigError(f"{name} must be even and at least {SMALLEST_SIDE}, got {value}")
    if height * width > MOST_PIXELS:
        raise ConfigError(f"height x width must be at most {MOST_PIXELS}, got {height} x {width}")


def _claim(out: Path, arguments: dict[str, int]) -> Truth | None:
    """Checks that `out` may be written; returns the truth of a set that exists there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / TRUTH_FILE).exists():
            truth = read_truth(out)
            _same_arguments(out, arguments, _arguments_of(truth))
            return truth
        marker = out / UNFINISHED_FILE
        if marker.exists():
            _same_arguments(out, arguments, _read_marker(marker))
        elif any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no sample data set; choose another folder")
        marker.write_text(json.dumps(arguments))
    except FileExistsError as error:
        raise ConfigError(f"{out} is a file; choose a folder") from error
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return None


def _arguments_of(truth: Truth) -> dict[str, int]:
    return {
        "version": truth.version,
        "seed": truth.seed,
        "height": truth.height,
        "width": truth.width,
        "scenes": len(truth.scenes),
    }


def _read_marker(marker: Path) -> object:
    return json_object(marker.read_bytes())


def _same_arguments(out: Path, wanted: dict[str, int], found: object) -> None:
    if wanted != found:
        raise ConfigError(
            f"{out} holds a sample data set made with {found}, not {wanted}; choose another folder"
        )


def _is_complete(out: Path, truth: Truth) -> bool:
    return all(
        (out / file.filename).is_file() and sha1_of((out / file.filename).read_bytes()) == file.bytes_sha1
        for file in truth.files
    )


def _write(out: Path, seed: int, size: tuple[int, int], count: int) -> Truth:
    scenes: list[SceneTruth] = []
    files: list[FileTruth] = []
    pairs: list[PairTruth] = []
    for number, plan in enumerate(scene_plans(count, seed)):
        stage = ScenePhotos(plan=plan, number=number, seed=seed, size=size)
        taken = []
        for shot, file, data in stage.photos():
            (out / file.filename).write_bytes(data)
            taken.append((shot, file))
        scenes.append(stage.summary())
        files += [file for _, file in taken]
        pairs += stage.pairs(taken)
    return Truth(
        version=VERSION,
        seed=seed,
        height=size[0],
        width=size[1],
        sign=SIGN,
        scenes=tuple(scenes),
        files=tuple(sorted(files, key=lambda file: file.filename)),
        pairs=tuple(pairs),
    )
