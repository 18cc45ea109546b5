"""Prepares RAW photo pairs for training denoisers: aligned, masked, scored, cropped, checked and listed."""
