"""A small data set with RawNIND's names and typical faults, made from real photographs, with its ground truth."""

from rawnind.sample.make import make_sample
from rawnind.sample.truth import Damage, Ellipse, FileTruth, Motion, PairTruth, SceneTruth, Truth, read_truth

__all__ = [
    "Damage",
    "Ellipse",
    "FileTruth",
    "Motion",
    "PairTruth",
    "SceneTruth",
    "Truth",
    "make_sample",
    "read_truth",
]
