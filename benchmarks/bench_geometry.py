"""Geometry: how far the stored ground truth is from where the noisy photo stood, on pairs drawn anew at each call.

Kinds of pairs: any sub-pixel shift; rolls up to 1 degree; zooms up to 2 %; smooth fields (parallax, breathing, shear) up to 3
sites; all of them together; scenes that repeat (fabric, grilles, brick, lines of text, rows of plants) with shifts up to 128
sites, of which none may be kept a period off (`-k repeating` draws these alone). `RAWNIND_BENCH_SEED` repeats a call.
"""

import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rawnind.imaging.coordinates import Rect
from rawnind.imaging.crops import AlignedPair
from rawnind.imaging.gates import Rejection
from rawnind.imaging.pair import FinishedPair, align_pair, finish_pair
from rawnind.imaging.photo import Photo
from rawnind.imaging.prepared import Prepared
from rawnind.imaging.resample import warped_rgb
from rawnind.recipe import Recipe
from tests.imaging.warped_pairs import draw_repeating, draw_warp, render_warp

KINDS = ("shift", "roll", "zoom", "field", "all", "repeating")
PAIRS = dict.fromkeys(KINDS, 60) | {"repeating": 110}
LIMIT = Recipe().max_residual
RECIPE = Recipe(crop_size=256, stride=256)
MATRIX = (0.7, 0.1, 0.0, -0.3, 1.1, 0.2, 0.0, 0.1, 0.6)


def judge(kind: str, seed: int, size: tuple[int, int]) -> dict:
    """One drawn pair: its outcome, and of each crop the largest error on valid pixels and the PSNR of both alignments."""
    rng = np.random.default_rng(seed)
    case = draw_repeating(rng, *size) if kind == "repeating" else draw_warp(kind, rng, *size)
    made = render_warp(case)
    truth, noisy = (
        Prepared(Photo(mosaic=photo.mosaic, sensor=replace(photo.sensor, rgb_xyz_matrix=MATRIX)))
        for photo in (made.ground_truth, made.noisy)
    )
    aligned = align_pair(truth, noisy, RECIPE)
    done = finish_pair(aligned, RECIPE) if isinstance(aligned, AlignedPair) else aligned
    if isinstance(done, Rejection):
        return {"case": case, "outcome": str(done.reason), "detail": done.detail}
    assert isinstance(done, FinishedPair)
    return {
        "case": case,
        "outcome": "collected",
        "lost": (done.measured.changed_fraction, done.measured.misaligned_fraction),
        **_crops(done, made),
    }


def _crops(done: FinishedPair, made) -> dict:
    pair, side = done.pair, RECIPE.crop_size
    errors, warped, integer, residual = [], [], [], []
    for crop, _, _, _, valid in done.pixels(RECIPE):
        here = Rect(crop.y, crop.x, side, side)
        at = np.argwhere(np.ones((side, side))) + np.array([crop.y, crop.x])
        found = pair.warp.at(at).reshape(side, side, 2)
        off = np.hypot(*np.moveaxis(found - made.displacement[here.sites], -1, 0))
        errors.append(float(off[valid].max()))
        residual.append(crop.residual)
        light = made.light[:, *here.sites]
        warped.append(_psnr(warped_rgb(pair.truth.rgb, pair.warp, here).levels(), light, valid))
        there = here.shifted((crop.shift_y, crop.shift_x))
        integer.append(_psnr(pair.truth.rgb.levels()[:, *there.sites], light, valid))
    return {"errors": errors, "residual": residual, "warped": warped, "integer": integer}


def _psnr(found: np.ndarray, light: np.ndarray, valid: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((found - light)[:, valid] ** 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_crops_lie_where_the_noisy_photo_stood(benchmark, kind):
    seed = int(os.environ.get("RAWNIND_BENCH_SEED", time.time_ns() % 2**31))
    pairs, size = (PAIRS[kind], (1024, 1536)) if benchmark.enabled else (1, (640, 768))
    seeds = np.random.default_rng([seed, KINDS.index(kind)]).integers(2**31, size=pairs).tolist()
    if benchmark.enabled:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(partial(judge, kind, size=size), seeds))
    else:
        found = [judge(kind, each, size) for each in seeds]
    kept = [each for each in found if each["outcome"] == "collected"]
    wrong = sum(max(each["errors"]) > LIMIT for each in kept)
    outcomes = Counter(each["outcome"] for each in found).most_common()
    print(f"\n{kind}: {pairs} pairs of {size[0]} x {size[1]} sites, RAWNIND_BENCH_SEED={seed}: kept right {len(kept) - wrong}, "
          f"rejected {pairs - len(kept)}, kept wrong {wrong} ({', '.join(f'{n} {name}' for name, n in outcomes)})")  # fmt: skip
    errors, warped, integer = (
        np.array([value for each in kept for value in each[name]]) for name in ("errors", "warped", "integer")
    )
    if len(errors):
        print(f"    {len(errors)} crops, within .15 {(errors <= 0.15).mean():.1%}, .75 {(errors <= LIMIT).mean():.1%}, worst "
              f"{errors.max():.2f}; PSNR warp {warped.mean():.1f}, integer {integer.mean():.1f}")  # fmt: skip
    for each in found:
        if each["outcome"] != "collected" or max(each["errors"]) > LIMIT:
            detail = each.get("detail", f"off by {max(each.get('errors', [0])):.2f}")
            print(f"    {each['outcome']}, {detail}: {each['case']}")
    if kind == "repeating":
        assert not wrong
    if benchmark.enabled and kind in {"shift", "roll", "zoom"}:
        assert (errors <= 0.15).mean() >= 0.99
        assert warped.mean() > integer.mean() + 3
    benchmark(lambda: None)


if __name__ == "__main__":
    pytest.main([__file__, "-s", "--benchmark-only"])
