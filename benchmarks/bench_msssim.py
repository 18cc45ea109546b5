"""MS-SSIM of all windows of a 24 MP pair, compared with pytorch-msssim, torchmetrics and a NumPy/SciPy loop.

`make bench` runs each in its own process, one thread, and prints CPU seconds and peak memory. As plain tests the
competitors must agree on a small pair.

    python benchmarks/bench_msssim.py NAME PLANES HEIGHT WIDTH REPEATS     one competitor, as JSON
"""

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WINDOW, STRIDE = 192, 96
FULL = (4, 2000, 3000)  # planes of a 24 MP Bayer photo
SMALL = (1, 333, 400)
LOOP_WINDOWS = 120  # of the 2,480: the loop is timed on these and its total is extrapolated
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
BEST_SIZES = {}  # found in the warm-up
Scores = tuple[np.ndarray, float]  # (windows,) mean over planes, and what a time has to be multiplied by


def make_pair(shape):
    """A tiled photograph and its noisy copy, (P, H, W) float32, without large temporaries."""
    from skimage import data

    photo = (data.camera() / np.float32(255)).astype(np.float32)
    x, y, rng = np.empty(shape, np.float32), np.empty(shape, np.float32), np.random.default_rng(0)
    for p, (row, column) in enumerate(itertools.product(range(2), range(2))):
        if p < shape[0]:
            repeats = [-(-n // 512) + 1 for n in shape[1:]]
            x[p] = np.tile(photo, repeats)[row : row + shape[1], column : column + shape[2]]
            rng.standard_normal(out=y[p], dtype=np.float32)
            y[p] *= 0.05
            y[p] += x[p]
    return x, y


def window_origins(shape):
    """Top and left of every window, row by row, in the grid of `windowed_ms_ssim`."""
    ends = [n // 16 * 16 - WINDOW for n in shape[1:]]
    return list(itertools.product(*([*range(0, end, STRIDE), end] for end in ends)))


def ours(x, y) -> Scores:
    from rawnind.imaging.msssim import windowed_ms_ssim

    return windowed_ms_ssim(x, y, window=WINDOW, stride=STRIDE).scores.mean(axis=0).ravel(), 1.0


def ours_torch(x, y) -> Scores:
    import torch

    from rawnind.imaging.msssim import windowed_ms_ssim

    scores = windowed_ms_ssim(torch.from_numpy(x), torch.from_numpy(y), window=WINDOW, stride=STRIDE).scores
    return scores.mean(dim=0).flatten().numpy(), 1.0


def batches(x, y, origins, size, memory_format):
    """Windows with the planes as channels."""
    import torch

    for k in range(0, len(origins), size):
        cuts = [np.s_[:, top : top + WINDOW, left : left + WINDOW] for top, left in origins[k : k + size]]
        yield [torch.from_numpy(np.stack([a[cut] for cut in cuts])).contiguous(memory_format=memory_format)
               for a in (x, y)]  # fmt: skip


def in_best_batches(x, y, metric, memory_format="contiguous_format") -> Scores:
    """A torch metric over all windows, in the batch size that is fastest on the first windows."""
    import torch

    torch.set_num_threads(1)
    origins, layout = window_origins(x.shape), getattr(torch, memory_format)

    def scores(some, size):
        return torch.cat([metric(*pair) for pair in batches(x, y, some, size, layout)]).numpy()

    def cost(size):
        start = time.process_time()
        scores(origins[:32], size)
        return time.process_time() - start

    with torch.inference_mode():
        if (metric, layout) not in BEST_SIZES:
            BEST_SIZES[metric, layout] = min((1, 2, 4, 8, 16, 30), key=cost)
        return scores(origins, BEST_SIZES[metric, layout]), 1.0


def pytorch_msssim_metric(a, b):
    from pytorch_msssim import ms_ssim

    return ms_ssim(a, b, data_range=1.0, size_average=False)


def torchmetrics_metric(a, b):
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    return ms_ssim(a, b, data_range=1.0, reduction="none", normalize="relu").reshape(-1)


def pytorch_msssim(x, y) -> Scores:
    return in_best_batches(x, y, pytorch_msssim_metric)


def pytorch_msssim_nhwc(x, y) -> Scores:
    """In the channels_last memory format, an option that few users set."""
    return in_best_batches(x, y, pytorch_msssim_metric, "channels_last")


def torchmetrics(x, y) -> Scores:
    return in_best_batches(x, y, torchmetrics_metric)


def torchmetrics_nhwc(x, y) -> Scores:
    return in_best_batches(x, y, torchmetrics_metric, "channels_last")


def scipy_loop(x, y) -> Scores:
    """One window after the other, all planes at once; the time of the first LOOP_WINDOWS is extrapolated."""
    origins = window_origins(x.shape)
    cuts = [np.s_[:, top : top + WINDOW, left : left + WINDOW] for top, left in origins[:LOOP_WINDOWS]]
    return np.array([scipy_window(x[cut], y[cut]) for cut in cuts]), len(origins) / len(cuts)


def scipy_window(x, y):
    from scipy.ndimage import gaussian_filter

    def blur(z):
        return gaussian_filter(z, 1.5, radius=5, axes=(1, 2))[:, 5:-5, 5:-5]

    score = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        term = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        if weight == 0.1333:
            term = term * (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
        score = score * term.mean(axis=(1, 2)).clip(0) ** weight
        shape = x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2
        x, y = x.reshape(shape).mean(axis=(2, 4)), y.reshape(shape).mean(axis=(2, 4))
    return score.mean()


COMPETITORS: dict[str, tuple[Callable[..., Scores], tuple[str, ...]]] = {
    "ours": (ours, ("rawnind.imaging.msssim",)),
    "ours_torch": (ours_torch, ("torch", "rawnind.imaging.msssim.torch_backend")),
    "pytorch_msssim": (pytorch_msssim, ("torch", "pytorch_msssim")),
    "pytorch_msssim_nhwc": (pytorch_msssim_nhwc, ("torch", "pytorch_msssim")),
    "torchmetrics": (torchmetrics, ("torch", "torchmetrics.functional.image")),
    "torchmetrics_nhwc": (torchmetrics_nhwc, ("torch", "torchmetrics.functional.image")),
    "scipy_loop": (scipy_loop, ("scipy.ndimage",)),
}


def memory(field):
    """A line of /proc/self/status in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def measure(name, shape, repeats):
    """CPU seconds and memory beyond imports and inputs of one competitor, in this process."""
    function, modules = COMPETITORS[name]
    for module in modules:
        importlib.import_module(module)
    x, y = make_pair(shape)
    before, seconds = memory("VmRSS"), []
    function(x[:, : WINDOW + 16, :1024], y[:, : WINDOW + 16, :1024])  # loads kernels, tries batch sizes
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(repeats):
        start = time.process_time()
        scores, factor = function(x, y)
        seconds.append((time.process_time() - start) * factor)
    return {
        "name": name, "seconds": min(seconds), "peak_mb": memory("VmHWM") - before,
        "extrapolated": factor > 1, "head": scores[:100].tolist(),
    }  # fmt: skip


def measure_apart(name, shape, repeats):
    command = [sys.executable, __file__, name, *map(str, shape), str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | THREADS)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows):
    lines = [f"{'MS-SSIM, 4 x 2000 x 3000':<26}{'CPU s':>9}{'ratio':>8}{'peak MB':>9}"]
    for row in rows:
        ratio, note = (
            row["seconds"] / rows[0]["seconds"],
            f"  from {LOOP_WINDOWS} windows" if row["extrapolated"] else "",
        )
        lines.append(f"{row['name']:<26}{row['seconds']:>9.3f}{ratio:>8.1f}{row['peak_mb']:>9.1f}{note}")
    return "\n".join(lines)


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitors_measure_the_same(name):
    x, y = make_pair(SMALL)
    scores, _ = COMPETITORS[name][0](x, y)
    expected, _ = ours(x, y)
    # torchmetrics includes reflected borders in the fifth scale's mean, which is another definition
    tolerance = 1e-3 if name.startswith("torchmetrics") else 5e-5
    np.testing.assert_allclose(scores, expected[: len(scores)], atol=tolerance, rtol=0)


@pytest.mark.timeout(1200)
def test_windowed_ms_ssim_takes_a_fortieth_of_the_best(benchmark):
    x, y = make_pair(SMALL if benchmark.disabled else FULL)
    ours(x, y)
    benchmark.pedantic(ours, (x, y), rounds=5)
    if benchmark.disabled:
        return
    rows = [measure_apart(name, FULL, 5 if name == "ours" else 1) for name in COMPETITORS]
    print("\n" + table(rows))
    ratios = {row["name"]: row["seconds"] / rows[0]["seconds"] for row in rows}
    assert min(ratios["pytorch_msssim"], ratios["torchmetrics"], ratios["scipy_loop"]) >= 40
    assert min(ratio for name, ratio in ratios.items() if name.endswith("_nhwc")) >= 30
    assert rows[0]["peak_mb"] < 100
    for row in rows[2:]:
        if not row["name"].startswith(
            "torchmetrics"
        ):  # it averages over planes before it multiplies the scales
            np.testing.assert_allclose(row["head"], rows[0]["head"], atol=5e-5, rtol=0)


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    *shape, repeats = map(int, numbers)
    print(json.dumps(measure(name, tuple(shape), repeats)))
