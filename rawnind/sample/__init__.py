"""A small data set with RawNIND's names and troubles, made of real photographs, and the truth about it."""

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
