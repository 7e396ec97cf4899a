"""Weights, biases and their gradients in JAX: derived by hand, checked by machine."""

from importlib import import_module
from typing import TYPE_CHECKING

from . import initializers as initializers
from . import io as io
from . import layers as layers
from . import losses as losses
from . import penalties as penalties
from ._summary import summary as summary
from .foreign.capture import capture as capture
from .foreign.capture import clipped_grad as clipped_grad
from .foreign.capture import delta_histograms as delta_histograms
from .foreign.capture import fisher_diagonal as fisher_diagonal
from .foreign.capture import ggn_diagonal as ggn_diagonal
from .foreign.capture import gradient_dots as gradient_dots
from .foreign.capture import grand_scores as grand_scores
from .foreign.capture import kfac_factors as kfac_factors
from .foreign.capture import noise_scale as noise_scale
from .foreign.capture import per_example_norms as per_example_norms
from .foreign.capture import second_moments as second_moments
from .foreign.contact import contacts as contacts
from .foreign.roles import bias_only as bias_only
from .foreign.roles import labels as labels
from .foreign.roles import lr_by_role as lr_by_role
from .foreign.roles import mask as mask
from .foreign.roles import no_decay as no_decay
from .foreign.roles import roles as roles
from .grads import as_function as as_function
from .grads import deltas as deltas
from .grads import value_and_grad as value_and_grad
from .leaves import freeze as freeze
from .leaves import get_weights as get_weights
from .leaves import named_parameters as named_parameters
from .leaves import set_weights as set_weights
from .leaves import with_frozen as with_frozen
from .params import Layer as Layer
from .params import Params as Params
from .params import State as State
from .params import chain as chain
from .params import inference as inference
from .params import parallel as parallel
from .params import residual as residual

__version__ = "0.1.0"

# Large rooms that few programs need all of: imported when first used.
if TYPE_CHECKING:
    from . import train as train
    from . import verify as verify
    from .foreign import surgery as surgery

_LATE = {"surgery": ".foreign.surgery", "train": ".train", "verify": ".verify"}


def __getattr__(name: str):
    if name in _LATE:
        return import_module(_LATE[name], __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
