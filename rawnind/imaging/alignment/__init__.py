"""Estimates the shift between two photos of one scene."""
