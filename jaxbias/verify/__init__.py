"""Check a gradient derivation against autodiff, and say what is wrong with it; knows no layer of this library."""

from jaxbias._trees import leaf_errors as leaf_errors
from jaxbias._trees import path_name as path_name
from jaxbias._trees import relative_errors as relative_errors

from .entrances import assert_vjp as assert_vjp
from .entrances import custom_vjp as custom_vjp
from .entrances import gradient as gradient
from .entrances import hessian_vector as hessian_vector
from .entrances import jvp as jvp
from .entrances import layer as layer
from .entrances import vjp as vjp
from .report import KINDS as KINDS
from .report import Diagnosis as Diagnosis
from .report import Leaf as Leaf
from .report import Report as Report
from .steps import steps as steps
