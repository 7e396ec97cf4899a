"""Losses: each module holds the formula, the forward, and the backward that gives the first error signal."""

from . import cross_entropy as cross_entropy
from . import mean_squared_error as mean_squared_error
from ._loss import Loss as Loss
