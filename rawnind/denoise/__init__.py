"""Denoises a RAW photo with a trained network: tiles, colour, and the files that photo editors open."""
