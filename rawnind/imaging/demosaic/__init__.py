"""Mosaics to camera RGB."""
