"""MS-SSIM of every window of a pair of planes."""

from rawnind.imaging.msssim.windowed import WindowScores, crop_means, frame_mean, score_map, windowed_ms_ssim

__all__ = ["WindowScores", "crop_means", "frame_mean", "score_map", "windowed_ms_ssim"]
