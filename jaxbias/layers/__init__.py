"""Layers: each module holds the formulas, and the init, forward and backward that carry them out."""

from . import activations as activations
from . import dense as dense
from .activations import relu as relu
from .activations import tanh as tanh
