"""Alignment of 200 drawn pairs and of one 24 MP pair, compared with scikit-image and the research code's L1 search.

`make bench` prints the whole study; as plain tests, a few pairs must be aligned correctly. CPU seconds are those of one
thread and start from the mosaics: whatever a contender computes from them is included.
"""

import time
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from rawnind.imaging.alignment.align import align, extract_features
from rawnind.imaging.levels import planes, site_colors
from rawnind.records import Cfa
from tests.imaging.shifted_pairs import Case, draw_case, draw_unrelated, render

GATE = 8.0
PAIRS = 200
ISO_BUCKETS = ((0, 1600), (1600, 6400), (6400, 25600), (25600, 65536))


@dataclass(frozen=True, kw_only=True)
class Found:
    """A contender's answer: (dy, dx) in sites, CPU seconds, and the score where it has one."""

    displacement: tuple[float, float]
    seconds: float
    score: float | None = None


def ours(pair):
    found = align(extract_features(pair.ground_truth), extract_features(pair.noisy))
    return np.add(found.shift, found.subpixel), found.score


def green_planes(pair):
    """Green, one sample per CFA cell: what a user of scikit-image would start from."""
    both = [planes(photo) for photo in (pair.ground_truth, pair.noisy)]
    return [(p[1] + p[2]) / 2 if len(p) == 4 else p[1] for p in both]


def skimage_phase(pair):
    shift, _, _ = phase_cross_correlation(*green_planes(pair), upsample_factor=20)
    return shift * pair.case.cfa.cell, None


def skimage_hann(pair):
    """With the options that improve it most: a Hann window and no normalization by the magnitude."""
    greens = green_planes(pair)
    window = np.outer(*(np.hanning(size).astype(np.float32) for size in greens[0].shape))
    greens = [(green - green.mean()) * window for green in greens]
    shift, _, _ = phase_cross_correlation(*greens, upsample_factor=20, normalization=None)
    return shift * pair.case.cfa.cell, None


def bilinear_rgb(photo):
    """(3, H, W) float32 sensor values over black: at each site the weighted mean of the colour's sites around it."""
    colors = site_colors(photo.cfa, photo.mosaic.shape)
    weights = np.array({Cfa.BAYER: [1, 2, 1], Cfa.X_TRANS: [1, 2, 3, 2, 1]}[photo.cfa], np.float32)
    light = photo.mosaic.astype(np.float32) - np.float32(photo.sensor.black_level[1])
    channels = []
    for color in range(3):
        here = (colors == color).astype(np.float32)
        mean = [cv2.sepFilter2D(values, -1, weights, weights) for values in (light * here, here)]
        channels.append(mean[0] / mean[1])
    return np.stack(channels)


def l1_search(pair):
    """Hill climbing over 7x7 neighbours by the mean L1 of the gain-matched RGB images, until none is better."""
    gt, noisy = (bilinear_rgb(photo) for photo in (pair.ground_truth, pair.noisy))
    noisy = noisy * np.float32(gt.mean() / noisy.mean())
    height, width = gt.shape[1:]
    losses = {}

    def loss(dy, dx):
        if (dy, dx) not in losses:
            there = np.s_[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            here = np.s_[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            total = sum(cv2.norm(gt[c][there], noisy[c][here], cv2.NORM_L1) for c in range(3))
            losses[dy, dx] = total / (3 * gt[0][there].size)
        return losses[dy, dx]

    at = (0, 0)
    while True:
        steps = [(at[0] + dy, at[1] + dx) for dy in range(-3, 4) for dx in range(-3, 4)]
        best = min((step for step in steps if max(map(abs, step)) <= 128), key=lambda step: loss(*step))
        if best == at:
            return np.array(at, float), None
        at = best


CONTENDERS = {
    "ours": ours,
    "skimage, phase": skimage_phase,
    "skimage, Hann, plain": skimage_hann,
    "L1 hill climb": l1_search,
}


def timed(contender, pair):
    start = time.process_time()
    displacement, score = contender(pair)
    seconds = time.process_time() - start
    return Found(displacement=tuple(map(float, displacement)), seconds=seconds, score=score)


def study(pairs):
    """Every contender on every drawn pair, and our scores of as many unrelated pairs."""
    cases, found = [], {name: [] for name in CONTENDERS}
    for seed in range(pairs):
        pair = render(draw_case(seed))
        cases.append(pair.case)
        for name, contender in CONTENDERS.items():
            found[name].append(timed(contender, pair))
    unrelated = [timed(ours, render(draw_unrelated(seed))).score for seed in range(pairs)]
    return cases, found, unrelated


def whole_errors(cases, found):
    truth = np.array([case.displacement for case in cases])
    return np.abs(np.rint([f.displacement for f in found]) - np.rint(truth)).max(axis=1)


def errors(cases, found):
    truth = np.array([case.displacement for case in cases])
    return np.abs(np.array([f.displacement for f in found]) - truth).max(axis=1)


def report(cases, found, unrelated):
    groups = {"all": lambda _: True}
    groups |= {str(cfa): lambda case, cfa=cfa: case.cfa is cfa for cfa in Cfa}
    groups |= {
        f"ISO < {high}": lambda case, low=low, high=high: low <= case.iso < high for low, high in ISO_BUCKETS
    }
    heads = ("", "pairs", "exact %", "within 1 %", "largest", "median error", "CPU ms")
    print("\n" + "{:22} {:12}{:>6}{:>9}{:>12}{:>9}{:>14}{:>9}".format("contender", *heads))
    for name, answers in found.items():
        whole, rest = whole_errors(cases, answers), errors(cases, answers)
        for group, belongs in groups.items():
            of = np.array([belongs(case) for case in cases])
            if of.any():
                ms = 1e3 * np.mean([a.seconds for a, o in zip(answers, of, strict=True) if o])
                print(f"{name:22} {group:12}{of.sum():6}{100 * (whole[of] == 0).mean():9.1f}"
                      f"{100 * (whole[of] <= 1).mean():12.1f}{whole[of].max():9.0f}{np.median(rest[of]):14.3f}{ms:9.1f}")  # fmt: skip
    scores = np.sort([answer.score for answer in found["ours"]])
    print(f"scores of true pairs: lowest {scores[:3].round(1)}, median {np.median(scores):.1f}; "
          f"of unrelated photos: highest {np.sort(unrelated)[-3:].round(1)}; gate {GATE}")  # fmt: skip


def test_drawn_pairs(benchmark):
    warm_up()
    pairs = PAIRS if benchmark.enabled else 4
    cases, found, unrelated = benchmark.pedantic(study, args=(pairs,), rounds=1)
    if benchmark.enabled:
        report(cases, found, unrelated)
    whole = whole_errors(cases, found["ours"])
    assert (whole == 0).mean() >= 0.97
    assert whole.max() <= 1
    assert np.median(errors(cases, found["ours"])) < 0.15
    assert max(unrelated) < GATE < min(answer.score for answer in found["ours"])
    for name in CONTENDERS:
        assert (whole_errors(cases, found[name]) == 0).mean() <= (whole == 0).mean()


def warm_up():
    cv2.setNumThreads(1)
    for cfa in Cfa:
        pair = render(Case(seed=0, cfa=cfa, height=240, width=360, motif="gravel.png"))
        for contender in CONTENDERS.values():
            contender(pair)


@pytest.mark.parametrize("cfa", Cfa)
def test_24_megapixels(benchmark, cfa):
    warm_up()
    height, width = (4000, 6000) if benchmark.enabled else (400, 600)
    case = Case(seed=3, cfa=cfa, height=height // cfa.period * cfa.period, width=width, motif="gravel.png",
                displacement=(57, -33), iso=6400, hot_pixels=1e-4, column_pattern=0.3, object_size=height // 5)  # fmt: skip
    pair = render(case)
    runs = []
    benchmark.pedantic(lambda: runs.append(timed(ours, pair)), rounds=5 if benchmark.enabled else 1)
    assert tuple(np.rint(runs[-1].displacement)) == case.displacement
    if benchmark.enabled:
        other = {name: timed(CONTENDERS[name], pair) for name in ("skimage, phase", "skimage, Hann, plain")}
        print(f"\n{cfa}, 24 MP, CPU ms: ours {[round(1e3 * run.seconds) for run in runs]}")
        for name, answer in other.items():
            print(
                f"    {name} {1e3 * answer.seconds:.0f}, found {answer.displacement} where {case.displacement} is true"
            )
        assert min(run.seconds for run in runs) < 0.150
