"""Losses: each module holds the formula, the forward, and the backward that gives the first error signal."""

from . import binary_cross_entropy, cross_entropy, half_squared_error, hinge, huber, mean_squared_error
from ._loss import Loss

__all__ = [
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "half_squared_error",
    "hinge",
    "huber",
    "mean_squared_error",
]
