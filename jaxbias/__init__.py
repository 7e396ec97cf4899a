"""Weights, biases and their gradients in JAX: derived by hand, checked by machine."""

from . import initializers as initializers
from . import layers as layers
from . import losses as losses
from . import train as train
from . import verify as verify
from .grads import as_function as as_function
from .grads import deltas as deltas
from .grads import value_and_grad as value_and_grad
from .params import Layer as Layer
from .params import Params as Params
from .params import State as State
from .params import chain as chain
from .params import inference as inference
from .params import parallel as parallel
from .params import residual as residual

__version__ = "0.1.0"
