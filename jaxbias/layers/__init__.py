"""Layers: each module holds the formulas, and the init, forward and backward that carry them out."""

from . import activations as activations
from . import avg_pool as avg_pool
from . import batch_norm as batch_norm
from . import conv as conv
from . import dense as dense
from . import dropout as dropout
from . import global_avg_pool as global_avg_pool
from . import group_norm as group_norm
from . import layer_norm as layer_norm
from . import max_pool as max_pool
from . import reshape as reshape
from . import rms_norm as rms_norm
from .activations import elu as elu
from .activations import gelu as gelu
from .activations import identity as identity
from .activations import leaky_relu as leaky_relu
from .activations import log_softmax as log_softmax
from .activations import relu as relu
from .activations import sigmoid as sigmoid
from .activations import silu as silu
from .activations import softmax as softmax
from .activations import softplus as softplus
from .activations import tanh as tanh
