"""Losses: each module holds the formula, the forward, and the backward that gives the first error signal.

All of them take `row_weight`, one number per row, where there are classes `class_weight`, and `reduction`: "mean"
(divided by the sum of the weights where there are any), "sum", or "none". `forward` gets them, or `loss(...)` binds
them. Weights are constants: they get no gradient.

With "none" forward returns a loss per row, and `backward(residuals, delta)` takes the cotangent of each. An objective
is one number, so `value_and_grad`, `deltas`, `fit` and `sweep` refuse such a loss: it is for what stands between a loss
and an objective of your own. Row weights reach `value_and_grad` as part of the targets: `with_row_weight(loss)`.

Where the network ends in its loss (`layers.linear_cross_entropy`), its input is (x, targets) and the loss for
`value_and_grad`, `fit` and `sweep` is `of_network`.
"""

from jaxbias.params import ConfiguredLoss, Loss, of_network

from . import (
    binary_cross_entropy,
    cross_entropy,
    ctc,
    dice,
    focal,
    gaussian_nll,
    half_squared_error,
    hinge,
    huber,
    info_nce,
    kl_divergence,
    log_cosh,
    mean_squared_error,
    negative_binomial_nll,
    pinball,
    poisson_nll,
    triplet,
)
from ._loss import with_row_weight

__all__ = [
    "ConfiguredLoss",
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "ctc",
    "dice",
    "focal",
    "gaussian_nll",
    "half_squared_error",
    "hinge",
    "huber",
    "info_nce",
    "kl_divergence",
    "log_cosh",
    "mean_squared_error",
    "negative_binomial_nll",
    "of_network",
    "pinball",
    "poisson_nll",
    "triplet",
    "with_row_weight",
]
