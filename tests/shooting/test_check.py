"""What `plan --check` says of pairs that should be shot again, and of pairs that should not."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, rotate

from rawnind.cli import main
from rawnind.imaging.levels import planes
from rawnind.imaging.photo import Photo
from rawnind.imaging.reduce import reduced, reduction
from rawnind.recipe import Recipe
from rawnind.records import Cfa, Sensor
from rawnind.sample.dng import encode_dng
from rawnind.shooting.cameras import Shot, coverage
from rawnind.shooting.check import check_scene
from rawnind.source.decode import decode
from rawnind.source.index import load_index


@pytest.fixture(scope="module")
def scenes(sample_set):
    return {scene.name: scene for scene in load_index(sample_set).scenes}


def changed(scene, folder, *, truth=None, noisy=None):
    """The scene with functions of the planes (4, h, w) applied to the photos."""
    made = {}
    for role, change in (("ground_truths", truth), ("noisy", noisy)):
        refs = []
        for ref in getattr(scene, role):
            visible, sensor = decode(ref)
            if change is None:
                refs.append(ref)
                continue
            split = np.stack([visible[y::2, x::2] for y in (0, 1) for x in (0, 1)]).astype(np.float64) - 512
            split = np.clip(np.rint(change(split) + 512), 0, 16383)
            mosaic = np.empty_like(visible)
            for number, (y, x) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                mosaic[y::2, x::2] = split[number]
            path = folder / ref.filename
            data = encode_dng(mosaic, pattern=[[0, 1], [1, 2]], black_level=[512], white_level=16383, iso=ref.iso, make="SONY",
                              model="ILCE-7C", color_matrix=sensor.rgb_xyz_matrix, as_shot_neutral=(0.5, 1, 0.6))  # fmt: skip
            path.write_bytes(data)
            refs.append(replace(ref, path=str(path), sha1=hashlib.sha1(data).hexdigest()))
        made[role] = tuple(sorted(refs, key=lambda ref: ref.sha1))
    return replace(scene, **made)


def advice(scene):
    return {
        (verdict.pair.noisy.iso, verdict.pair.reason): " ".join(verdict.advice)
        for verdict in check_scene(scene, Recipe()).verdicts
    }


def blurred(split):
    return np.stack([gaussian_filter(plane, 2.0) for plane in split])


def test_good_pairs_need_nothing(scenes):
    for name in ("cat", "coffee-cup", "retina"):
        assert set(advice(scenes[name]).values()) == {""}


def test_what_prepare_rejects_is_said_before(scenes):
    (((_, reason), said),) = advice(scenes["two-motifs"]).items()
    assert reason == "alignment_uncertain"
    assert "another scene" in said
    (((_, reason), said),) = advice(scenes["deep-field"]).items()
    assert (reason, said) == ("no_ground_truth", "shoot a ground truth: base ISO, same place, same light")


def test_a_noisy_photo_that_is_out_of_focus(scenes, tmp_path):
    noise = np.random.default_rng()

    def unsharp(split):
        soft = blurred(split)
        return soft + noise.normal(0, 200, soft.shape)

    said = advice(changed(scenes["cat"], tmp_path, noisy=unsharp))
    for text in said.values():
        assert re.fullmatch(
            r"the noisy photo shows \d\d% of the ground truth's detail: out of focus, use manual focus", text
        )


def test_a_ground_truth_that_is_out_of_focus(scenes, tmp_path):
    said = advice(changed(scenes["cat"], tmp_path, truth=blurred))
    assert any("the ground truth shows" in text for text in said.values())


def test_a_ground_truth_that_is_clipped(scenes, tmp_path):
    said = advice(changed(scenes["cat"], tmp_path, truth=lambda split: split * 8))
    assert any("GT clipped on" in text for text in said.values())


def test_a_camera_that_turned(scenes, tmp_path):
    def turned(split):
        return np.stack([rotate(plane, 0.5, reshape=False, order=1, mode="nearest") for plane in split])

    said = advice(changed(scenes["cat"], tmp_path, noisy=turned))
    assert any(
        "the camera turned by 0.5" in text or "turned or something moved" in text for text in said.values()
    )


def test_roles_that_are_swapped(scenes):
    cat = scenes["cat"]
    swapped = replace(cat, ground_truths=(max(cat.noisy, key=lambda ref: ref.iso),), noisy=cat.ground_truths)
    assert "swap their roles" in " ".join(advice(swapped).values())


def test_the_table_of_isos_shows_gaps(scenes):
    shots = [
        Shot(camera="A", iso=iso, ground_truth=iso == 100, scene="s") for iso in (100, 400, 1600, 6400, 25600)
    ]
    shots += [Shot(camera="A", iso=200, ground_truth=True, scene="t"), Shot(camera="B", iso=None, ground_truth=False, scene="u"),
              Shot(camera="B", iso=160, ground_truth=True, scene="u"), Shot(camera="B", iso=3200, ground_truth=False, scene="u")]  # fmt: skip
    one, other = coverage(shots)
    assert (one.gaps, one.high_truths, len(one.noisy)) == ((800, 3200, 12800), ("t",), 4)
    assert list(one.lines()) == [
        "A: no noisy photo at ISO 800, 3200, 12800",
        "A: ground truths above ISO 100 alone in t: shoot them at base ISO",
    ]
    assert next(other.lines()) == "B: noisy photos at 1 ISO, at least 4 should be there"


@settings(max_examples=25, deadline=None)
@given(cfa=st.sampled_from(Cfa), steps=st.integers(1, 3), levels=st.tuples(*[st.floats(0.01, 0.9)] * 3))
def test_a_reduced_photo_has_the_same_levels_and_pattern(cfa, steps, levels):
    factor = cfa.cell * steps
    black = (512.0,) * len(cfa.plane_colors)
    sensor = Sensor(cfa=cfa, origin=(0, 0), height=24 * factor, width=36 * factor, black_level=black, white_level=16383.0,
                    overexposure_lb=1.0, rgb_xyz_matrix=None, camera="")  # fmt: skip
    tile = np.array(levels)[np.array(cfa.tile)] * (16383 - 512) + 512
    mosaic = np.tile(np.rint(tile).astype(np.uint16), (24 * factor // cfa.period, 36 * factor // cfa.period))
    mosaic[0, 0] = 16383
    small = reduced(Photo(mosaic=mosaic, sensor=sensor), factor)
    assert small.mosaic.shape == (24, 36)
    found = planes(small)
    expected = np.array([levels[color] for color in cfa.plane_colors])
    np.testing.assert_allclose(
        found[:, 4:, 4:], np.broadcast_to(expected[:, None, None], found[:, 4:, 4:].shape), atol=1e-3
    )
    assert found[0, 0, 0] == pytest.approx(1.0) or cfa is Cfa.X_TRANS
    assert reduced(small, 1) is small
    assert reduction(cfa, 1000 * factor, 1000) == factor


def test_plan_prints_what_to_shoot_again(sample_set):
    result = CliRunner().invoke(
        main, ["plan", str(sample_set), "--check", "--crop-size", "64", "--cfa", "x-trans"]
    )
    assert result.exit_code == 0, result.output
    for part in ("Verdict", "retina", "ok", "Noisy photos (+ ground truths)", "FUJIFILM X-T30",
                 "? FUJIFILM X-T30: noisy photos at 2 ISOs", "3 pairs: 0 would be lost"):  # fmt: skip
        assert part in result.output
