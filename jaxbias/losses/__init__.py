"""Losses: each module holds the formula, the forward, and the backward that gives the first error signal."""

from . import binary_cross_entropy as binary_cross_entropy
from . import cross_entropy as cross_entropy
from . import half_squared_error as half_squared_error
from . import hinge as hinge
from . import huber as huber
from . import mean_squared_error as mean_squared_error
from ._loss import Loss as Loss
