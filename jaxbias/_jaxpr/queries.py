"""What can be told of a traced function without changing it: which value depends on which, what its constants hold."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import Equation, Program
from jaxbias._jaxpr.in_numpy import gather_positions


def coarsest_constant(program: Program) -> float:
    """Relative precision of the narrowest NumPy value that is closed over: it may have been rounded to that.

    A scalar has become float64 before it comes here; one that float32 holds exactly, with many digits, was a float32.
    """
    dtypes = {program.dtypes[number] for number in program.constants}
    scalars = [float(v) for v in program.constants.values() if v.ndim == 0 and v.dtype == np.float64]
    if any(float(np.float32(v)) == v and math.frexp(v)[0] * 2**16 % 1 and v % 1 for v in scalars if math.isfinite(v)):
        dtypes.add(np.dtype(np.float32))
    return max((float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating)), default=0.0)


def reads_outside(program: Program, values: Sequence[Any]) -> bool:
    """Does an index lie outside of the array that it reads from? JAX then takes another, or a fill value."""
    for equation in program.equations:
        if equation.name == "gather":
            x, indices = equation.inputs
            strict = {**equation.params, "mode": "FILL_OR_DROP"}
            if not np.all(gather_positions(strict, program.shapes[x], values[indices])[1]):
                return True
    return False


def depends_on(program: Program, numbers: Sequence[int], without: Sequence[Equation] = ()) -> set[int]:
    """Numbers of the values that are computed from any of the given ones, these included, but by some equations."""
    reached = set(numbers)
    for equation in program.equations:
        if equation not in without and any(i in reached for i in equation.inputs):
            reached.update(equation.outputs)
    return reached


def needed_for(program: Program, numbers: Sequence[int]) -> set[int]:
    """Numbers of the values that the given ones are computed from, these included."""
    needed = set(numbers)
    for equation in reversed(program.equations):
        if any(i in needed for i in equation.outputs):
            needed.update(equation.inputs)
    return needed
