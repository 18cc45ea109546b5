"""How much memory a worker needs for a scene.

The peak is that of one pair, and of the ground truths that are kept for the scene's next noisy photo. Measured on scenes of 20
megapixels with two noisy photos, in bytes per site above a process without a photo (benchmarks/bench_scene.py compares peaks with the estimate):

    ground truths     1     2     4     8   (8, all kept)
    Bayer          31.5  40.5  51.2  56.8    64.8
    X-Trans        25.7  34.9  47.5  59.7    65.1
"""

PROCESS_BYTES = 350e6
"""A worker with its libraries and no photo."""

_PAIR = 34.0
"""Bytes per site of a pair with one ground truth, measured on 6 to 100 megapixels (see benchmarks/bench_pair.py)."""

_DEMOSAICED, _KEPT = 9.5, 3.5
"""Bytes per site of each further ground truth that is kept demosaiced, and of one that is kept without."""

MOST_DEMOSAICED, MOST_TRUTHS = 3, 4
"""Ground truths of a scene that are kept demosaiced, and that are kept at all; the others are decoded again when they are used.
The one that aligns best until now may be kept besides.

189 of RawNIND's 196 Bayer scenes and all of its X-Trans scenes have four or fewer.
"""


def worker_bytes(sites: int, truths: int = 1) -> float:
    """Peak memory of a worker on one scene, in bytes.

    Args:
        sites: of the scene's largest photo, with its margins.
        truths: ground truths of the scene.

    >>> worker_bytes(24_000_000) / 1e9
    1.166
    >>> worker_bytes(24_000_000, 5) == worker_bytes(24_000_000, 10)
    True
    """
    kept = min(max(truths, 1), MOST_TRUTHS + 1)
    demosaiced = min(kept, MOST_DEMOSAICED)
    per_site = _PAIR + _DEMOSAICED * (demosaiced - 1) + _KEPT * (kept - demosaiced)
    return PROCESS_BYTES + sites * per_site


def kept_truths(sites: int, memory: float) -> int:
    """Ground truths that a worker keeps of a scene, 1 to `MOST_TRUTHS`.

    Args:
        sites: of the scene's largest photo.
        memory: bytes that the worker may use.

    >>> kept_truths(24_000_000, 8e9), kept_truths(24_000_000, 1.5e9), kept_truths(24_000_000, 1e9)
    (4, 2, 1)
    """
    fitting = (count for count in range(MOST_TRUTHS, 1, -1) if worker_bytes(sites, count) <= memory)
    return next(fitting, 1)
