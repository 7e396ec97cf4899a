"""JAX primitives carried out on balls: what a traced function means in real arithmetic, enclosed between bounds.

Every operation gives a ball (`balls`) that is certain to hold the exact result. So two programs whose difference
excludes 0 differ for certain, and one whose difference is [−1e-60, 1e-60] agrees to 60 digits. Casts between float
dtypes do nothing here, as in `in_numpy`.

A comparison that the radii leave open raises `Open`: more bits may decide it. A primitive without an enclosure
(`ball_primitives`) raises `NoBall`.
"""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr.ball_algorithms import CUBIC
from jaxbias._jaxpr.ball_primitives import BALL
from jaxbias._jaxpr.balls import (
    Balls,
    Late,
    NoBall,
    lift,
    map_balls,
    python_flint,
)
from jaxbias._jaxpr.evaluation import apply, control_flow, run_by
from jaxbias._jaxpr.program import Equation, Program, digest_of
from jaxbias._jaxpr.queries import backward_slice, written_in


def run(
    program: Program,
    inputs: Sequence[Any],
    constants_as_reals: bool = False,
    deadline: float = math.inf,
    exact: Collection[int] = (),
) -> list[Balls]:
    """Enclosures of the program's outputs at exactly these inputs, at the precision set by `precision`.

    Args:
        constants_as_reals: every float constant stands for the reals that it may be the rounding of, in the dtype it
            was written in.
        deadline: in `time.process_time`.
        exact: numbers of constants that stand for themselves all the same.

    Raises:
        NoBall: a primitive has no enclosure.
        Late: the deadline is over.
        Open: a comparison is left open at this precision.
    """

    def step(_, equation: Equation, values: list[Balls]) -> list[Balls]:
        if time.process_time() > deadline:
            raise Late("no time for an enclosure")
        if equation.bodies:
            return control_flow(equation, values, lambda body, inputs: run(body, inputs, constants_as_reals, deadline))
        return _apply(equation, values)

    rounded = {i for i in program.constants if constants_as_reals and i not in exact}
    constants = {
        i: _as_reals(held, written_in(held, program.dtypes[i])) if i in rounded else lift(held)
        for i, held in program.constants.items()
    }
    with np.errstate(all="ignore"):
        return run_by(step, replace(program, constants=constants), map(lift, inputs))


def merged(first: Program, second: Program) -> tuple[Program, frozenset[int]]:
    """Both programs on the same inputs as one, the outputs of the first before those of the second; and the numbers of
    its arrays in half precision whose entries both hold, in whatever order or dtype: these are no roundings.

    Each expression stands there once, also where both have it: two balls of one expression are not known to be equal,
    so that `x == max(x)` would stay open where max(x) is computed a second time, and so would a difference of the two.
    """
    out = Program()
    out.inputs = tuple(out.value(first.shapes[i], first.dtypes[i]) for i in first.inputs)
    held: dict[Any, int] = {}
    entries: dict[Any, dict[Program, set[int]]] = {}
    known: dict[Any, tuple[int, ...]] = {}
    for program in (first, second):
        numbers = dict(zip(program.inputs, out.inputs))
        for number, value in program.constants.items():
            shape, dtype = program.shapes[number], program.dtypes[number]
            key = str(dtype), digest_of([value])
            if key not in held:
                held[key] = out.constant(shape, dtype, value)
            numbers[number] = held[key]
            if np.size(value) > 1 and jnp.issubdtype(dtype, jnp.floating):
                entries.setdefault(digest_of([np.sort(value, None)]), {}).setdefault(program, set()).add(held[key])
        for equation in backward_slice(program, program.outputs).equations:
            inputs = tuple(numbers[i] for i in equation.inputs)
            key = _expression(equation, inputs)
            outputs = known.get(key) if key is not None else None
            if outputs is None:
                shapes, dtypes = equation.shapes.outputs, equation.dtypes.outputs
                outputs = tuple(map(out.value, shapes, dtypes))
                out.equations.append(replace(equation, inputs=inputs, outputs=outputs, program=out))
                if key is not None:
                    known[key] = outputs
            numbers.update(zip(equation.outputs, outputs))
        out.outputs += tuple(numbers[i] for i in program.outputs)
    in_half = lambda its: any(jnp.finfo(out.dtypes[number]).bits < 32 for number in its)
    shared = [its[first] | its[second] for its in entries.values() if len(its) == 2]
    return out, frozenset().union(*filter(in_half, shared))


def _expression(equation: Equation, inputs: tuple[int, ...]) -> Any:
    """Equal for equations that compute the same; None where it cannot be told."""
    bodies = [body.fingerprint for body in (*equation.bodies, equation.test) if body is not None]
    params: Any = equation.params
    if bodies:
        params = {name: value for name, value in params.items() if isinstance(value, int)}
        params["counts"] = equation.carried if equation.name == "scan" else ()
    text = repr(params)
    if None in bodies or " at 0x" in text or "..." in text:
        return None
    return equation.name, inputs, text, tuple(bodies), len(equation.outputs)


SLOW = frozenset(
    "exp exp2 log log2 log1p expm1 sqrt rsqrt cbrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf "  # noqa: SIM905
    "bessel_i0e bessel_i1e erfc erf_inv igamma igammac digamma lgamma polygamma logistic pow atan2 cumlogsumexp "
    "regularized_incomplete_beta zeta".split()
)
"""Primitives that take about four times as long as a product."""


def operations(program: Program) -> float:
    """About how many products of balls one evaluation takes as long as; a loop of unknown length counts as one pass."""
    total = 0.0
    for equation in program.equations:
        sizes = [math.prod(shape) for shape in equation.shapes.outputs]
        if equation.bodies:
            total += equation.params.get("length", 1) * sum(map(operations, equation.bodies))
        elif equation.name == "dot_general":
            total += sum(sizes) * math.prod(equation.shapes.inputs[0][i] for i in equation.dot_axes()[0].contracted)
        elif equation.name == "conv_general_dilated":
            kernel = equation.shapes.inputs[1]
            total += sum(sizes) * math.prod(kernel) / max(1, kernel[equation.params["dimension_numbers"].rhs_spec[0]])
        elif equation.name in CUBIC:
            total += CUBIC[equation.name] * sum(sizes) * equation.shapes.inputs[0][-1]
        else:
            total += max([*sizes, *map(math.prod, equation.shapes.inputs)], default=0) * (
                4 * (equation.name in SLOW) or 1
            )
    return total


COMPUTED = {64: 2.0**-40, 32: 2.0**-20}
"""Of the largest entry of an array: how far its entries may be from the reals that they stand for. It was computed in
NumPy with its own rounding, as cos(2πjk/n) of a Fourier matrix is, and not only rounded once; of a narrower dtype the
first is not likely."""


def _as_reals(held: Any, dtype: Any) -> Balls:
    """Balls around a constant that hold the reals it stands for; 2, 0.75 and 1e10 stand for themselves."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return lift(held)
    kind = jnp.finfo(dtype)
    rounding = float(kind.eps) / 2
    if np.ndim(held):
        largest = np.max(np.abs(held), initial=0.0, where=np.isfinite(held))
        return lift(held, np.maximum(rounding * np.abs(held), COMPUTED.get(kind.bits, 0.0) * largest) * (held != 0))
    if np.isrealobj(held) and kind.nmant > 20 and np.isfinite(held):
        whole = held % 1 == 0 and abs(held) <= 2.0 ** (kind.nmant + 11)
        if whole or math.frexp(held)[0] * 2**11 % 1 == 0:
            return lift(held)
    return lift(held, rounding * np.abs(held))


def _apply(equation: Equation, inputs: list[Balls]) -> list[Balls]:
    floats = [x.dtype == object for x in inputs]
    if not any(floats) and equation.name not in ("convert_element_type", "iota", "bitcast_convert_type"):
        return [lift(out) for out in apply(equation, inputs)]  # integers: exact there
    rule = BALL.get(equation.name)
    if rule is None:
        raise NoBall(f"no enclosure of {equation.name}")
    out = rule(equation.params, *inputs)
    outs = out if isinstance(out, list) else [out]
    return [_array(out, dtype) for out, dtype in zip(outs, equation.dtypes.outputs)]


def _array(x: Any, dtype: Any) -> Balls:
    """What NumPy hands back from arrays of objects (a bare object, an int for an empty sum) as an array again."""
    if not isinstance(x, np.ndarray):
        held = np.empty((), object)
        held[()] = x
        x = held
    if not jnp.issubdtype(dtype, jnp.inexact):
        return x if x.dtype != object else x.astype(dtype)
    flint = python_flint()
    kind = flint.acb if jnp.issubdtype(dtype, jnp.complexfloating) else flint.arb
    return map_balls(lambda value: value if isinstance(value, kind) else kind(value), x)
