"""Losses: each module holds the formula, the forward, and the backward that gives the first error signal."""

from jaxbias.params import ConfiguredLoss, Loss

from . import binary_cross_entropy, cross_entropy, half_squared_error, hinge, huber, mean_squared_error

__all__ = [
    "ConfiguredLoss",
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "half_squared_error",
    "hinge",
    "huber",
    "mean_squared_error",
]
