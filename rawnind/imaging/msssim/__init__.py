"""MS-SSIM of every window of a pair of planes.

windowed        checks, windows from sums over segments, and means of the scores over pixels and crops
constants       what defines MS-SSIM, and the segments
cpu             the sums for NumPy arrays, in compiled kernels
torch_backend   the sums for torch tensors on any device
"""

from rawnind.imaging.msssim.windowed import WindowScores, crop_means, frame_mean, score_map, windowed_ms_ssim

__all__ = ["WindowScores", "crop_means", "frame_mean", "score_map", "windowed_ms_ssim"]
