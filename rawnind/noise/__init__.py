"""Noise profiles of cameras: photon noise, read noise and row noise for each ISO, as a by-product of pairs, bursts and dark frames."""
