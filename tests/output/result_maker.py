"""Makes valid results of invented scenes, and the shards that belong to them; strategies for Hypothesis."""

import hashlib
from dataclasses import fields

import numpy as np
import yaml
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rawnind.bridge.messages import Submission
from rawnind.errors import SourceError
from rawnind.measurements import Crop, Measurements
from rawnind.outcomes import failed_file, planned_pairs, scene_result, uncollected_pair
from rawnind.output.manifest import MANIFEST, MANIFEST_YAML, PAIRS
from rawnind.output.shards import CropPixels, crop_name, shard_name, write_shard
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa, ImageRef, PairResult, Scene, SceneName, Sensor, Shard, pair_id

RECIPE = Recipe(crop_size=32, stride=32)
MATRIX = (0.9, -0.3, -0.1, -0.4, 1.2, 0.2, -0.1, 0.2, 0.6)
FAULTS = (Reason.ALIGNMENT_LOSS, Reason.TRUNCATED, Reason.MISSING_FILE, Reason.NO_VALID_CROP)
"""What may become of a pair of a scene, besides being collected."""


def sha1(text):
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def photo(scene, cfa, number, *, ground_truth, iso=3200):
    digest = sha1(f"{cfa}/{scene}/{number}/{ground_truth}")
    return ImageRef(cfa=cfa, scene=scene, ground_truth=ground_truth, iso=iso, sha1=digest,
                    filename=f"{scene}-{number}.dng", path=f"/photos/{scene}-{number}.dng")  # fmt: skip


def commit_one(bridge, key, data):
    """Commits one scene's result; the sequence number of its commit."""
    return bridge.commit([Submission(key=key, data=data)])[0]


def make_scene(name="kitchen", cfa=Cfa.BAYER, *, truths=1, noisy=2, test_reserve=False, unknown_sensor=False):
    def photos(count, ground_truth, iso):
        found = (photo(name, cfa, n, ground_truth=ground_truth, iso=iso) for n in range(count))
        return tuple(sorted(found, key=lambda ref: ref.sha1))

    return Scene(name=name, cfa=cfa, test_reserve=test_reserve, unknown_sensor=unknown_sensor,
                 ground_truths=photos(truths, True, 100), noisy=photos(noisy, False, None if noisy > 2 else 3200))  # fmt: skip


def make_sensor(cfa=Cfa.BAYER, **changes):
    planes = len(cfa.plane_colors)
    values = {
        "cfa": cfa, "origin": (1, 0), "height": 300, "width": 400, "black_level": tuple(range(512, 512 + planes)),
        "white_level": 16383.0, "overexposure_lb": 0.98, "rgb_xyz_matrix": MATRIX, "camera": "Maker Model",
    }  # fmt: skip
    values["black_level"] = tuple(map(float, values["black_level"]))
    return Sensor(**(values | changes))


def make_measured(seed=0, **changes):
    """Every number, each a different one."""
    rng = np.random.default_rng(seed)
    values = {field.name: float(rng.uniform(0.01, 0.03)) for field in fields(Measurements)}
    values |= {"shift_y": 3, "shift_x": -5, "alignment_score": 50 + values["alignment_score"], "gain": 1.25,
               "mask_mean": 0.97, "msssim": 0.9, "rotation": None, "noise_lines": tuple(rng.uniform(0, 1e-3, 15).tolist())}  # fmt: skip
    return Measurements(**(values | changes))


def make_crops(cfa=Cfa.BAYER, count=3, seed=0, sensor=None):
    """A row of crops on the tile of `make_sensor`."""
    sensor, rng = sensor or make_sensor(cfa), np.random.default_rng(seed)
    return tuple(
        Crop(
            y=sensor.origin[0] + 6,
            x=sensor.origin[1] + 36 * (number + 1),
            valid_fraction=float(rng.uniform(0.5, 1)),
            msssim=None if rng.random() < 0.2 else float(rng.uniform(-1, 1)),
            shift_y=3 - number % 2,
            shift_x=-5,
            subpixel_y=float(rng.uniform(-0.5, 0.5)),
            subpixel_x=float(rng.uniform(-0.5, 0.5)),
            residual=None if rng.random() < 0.2 else float(rng.random()),
            **{
                f"{name}_fraction": float(rng.random())
                for name in ("overexposed", "underexposed", "hot", "changed", "misaligned")
            },
        )
        for number in range(count)
    )


def make_pixels(name, crops, seed=0, size=32):
    rng = np.random.default_rng(seed)
    for crop in crops:
        yield CropPixels(
            crop_id=crop_name(name, crop.y, crop.x),
            noisy_raw=rng.integers(0, 65536, (size, size), np.uint16),
            gt_raw=rng.integers(0, 65536, (size, size), np.uint16),
            gt_rgb=rng.normal(size=(3, size, size)).astype(np.float16),
            valid=rng.random((size, size)) < 0.7,
        )


def collected(scene, noisy, truth, *, store=None, count=3, seed=0, **measured):
    """A collected pair; with a store, its shard is there."""
    name, sensor = pair_id(noisy, truth), make_sensor(scene.cfa)
    crops, path = make_crops(scene.cfa, count, seed), shard_name(scene.cfa, scene.name, name)
    shard = Shard(path=path, sha256="0" * 64, size=0)
    if store is not None:
        shard = write_shard(store, path, make_pixels(name, crops, seed), RECIPE.crop_size)
    return PairResult(ground_truth=truth, noisy=noisy, outcome=Outcome.COLLECTED, reason=None, detail="",
                      measured=make_measured(seed, **measured), sensor=sensor, gt_sensor=sensor, shard=shard,
                      crops=crops)  # fmt: skip


def make_result(scene, *, store=None, faults=(), recipe=RECIPE, seed=0):
    """A scene's result: its first pairs have the faults, the others are collected."""
    pairs, broken = [], []
    faults = list(faults)
    for number, (noisy, truth) in enumerate(planned_pairs(scene, recipe.pairing)):
        fault = faults.pop(0) if faults else None
        truth = truth or next(iter(scene.ground_truths), None)  # noqa: PLW2901
        if truth is None:
            pairs.append(uncollected_pair(noisy, None, Reason.NO_GROUND_TRUTH))
        elif fault is None:
            pairs.append(
                collected(scene, noisy, truth, store=store, count=1 + (number + seed) % 3, seed=seed + number)
            )
        elif fault.outcome is Outcome.FAILED:
            broken.append(failed_file(noisy, SourceError(fault, f"{noisy.filename}: broken")))
            pairs.append(uncollected_pair(noisy, truth, fault, f"{noisy.filename}: broken"))
        else:
            pairs.append(uncollected_pair(noisy, truth, fault, measured=make_measured(seed, msssim=None)))
    return scene_result(scene, recipe, pairs, broken)


def edit_yaml(store, change):
    whole = yaml.safe_load(store.read(MANIFEST_YAML))
    change(whole)
    store.write(
        MANIFEST_YAML, yaml.safe_dump(whole, sort_keys=False, allow_unicode=True).encode(), replace=True
    )


def seal(store):
    """Makes manifest.yaml name the files as they are now, as a careful forger would."""
    edit_yaml(
        store, lambda whole: whole.update(files={name: store.digest(name) for name in (MANIFEST, PAIRS)})
    )


def _is_name(text):
    try:
        return bool(_NAME.validate_python(text))
    except ValidationError:
        return False


_NAME = TypeAdapter(SceneName)
names = st.from_regex(r"\A[^\W_][\w.+ -]{0,12}\Z").filter(_is_name)


@st.composite
def results(draw, name=None):
    """Any sound result."""
    scene = make_scene(
        name or draw(names),
        draw(st.sampled_from(Cfa)),
        truths=draw(st.integers(0, 3)),
        noisy=draw(st.integers(0, 3)),
        test_reserve=draw(st.booleans()),
        unknown_sensor=draw(st.booleans()),
    )
    faults = draw(st.lists(st.sampled_from([None, *FAULTS]), max_size=3))
    return make_result(scene, faults=faults, seed=draw(st.integers(0, 1000)))
