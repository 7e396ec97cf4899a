"""Check a gradient derivation against autodiff, and say what is wrong with it; knows no layer of this library."""

from jaxbias._jaxpr.sources import hide_folder_of
from jaxbias._trees import leaf_errors, path_name, relative_errors

from .entrances import assert_vjp, custom_vjp, explain, gradient, hessian_vector, jvp, layer, vjp
from .of_autodiff import check_grads
from .on_devices import sharded
from .on_devices_report import Finding, ShardedReport
from .report import KINDS, Diagnosis, Leaf, Line, Report, Undecided
from .single_steps import steps

__all__ = [
    "KINDS",
    "Diagnosis",
    "Finding",
    "Leaf",
    "Line",
    "Report",
    "ShardedReport",
    "Undecided",
    "assert_vjp",
    "check_grads",
    "custom_vjp",
    "explain",
    "gradient",
    "hessian_vector",
    "jvp",
    "layer",
    "leaf_errors",
    "path_name",
    "relative_errors",
    "sharded",
    "steps",
    "vjp",
]

hide_folder_of(__file__)
