"""Packages of darktable's neural raw denoiser: the contract of a `.dtmodel`, its check, and the export of checkpoints."""
