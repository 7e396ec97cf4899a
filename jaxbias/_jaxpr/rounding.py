"""First-order bounds on rounding errors of every value of a traced function, by running error analysis.

An equation's own rounding is eps times the sum of the magnitudes of the terms that it adds up, with a factor √terms for
a long sum (the statistical growth; the worst case is the number of terms); errors of its inputs travel by its
derivative (N. Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.3).

`BOUND[name](params, inputs, bounds, out)` is how far errors of the inputs move the output of one primitive; where there
is no entry (`MEASURED`, and what is left to JAX), it is found by moving the inputs. `terms` gives the sum of the
magnitudes, `EXACT` what rounds nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import Equation, Program, apply
from jaxbias._jaxpr.in_numpy import VALUE, dot_general, scatter_overwrite, select_n, solve_parts, special


def error_bounds(program: Program, values: Sequence[Any], eps: float, narrow: bool = False) -> list[Any]:
    """First-order bound on the rounding error of every value when each equation rounds to relative precision eps.

    The inputs count as rounded too. `narrow`: an equation traced in a narrower dtype rounds to that one's precision.
    """
    bounds: list[Any] = [None] * len(program.shapes)
    for number, value in program.constants.items():
        bounds[number] = np.zeros(np.shape(value))
    for number in program.inputs:
        exact = isinstance(values[number], jax.Array) or not np.issubdtype(values[number].dtype, np.inexact)
        bounds[number] = np.zeros(np.shape(values[number])) if exact else eps * np.abs(values[number])
    with np.errstate(all="ignore"):
        for equation in program.equations:
            xs = [values[i] for i in equation.inputs]
            outs = [values[i] for i in equation.outputs]
            es = [bounds[i] for i in equation.inputs]
            if any(isinstance(x, jax.Array) for x in (*xs, *outs)):
                moved = [np.zeros(np.shape(out)) for out in outs]
            else:
                moved = _moved(equation, xs, es, outs)
            for number, out, error in zip(equation.outputs, outs, moved):
                if not isinstance(out, jax.Array) and np.issubdtype(out.dtype, np.inexact):
                    if equation.name not in EXACT:
                        size, count = terms(equation.name, equation.params, xs, out)
                        own = max(eps, float(jnp.finfo(program.dtypes[number]).eps)) if narrow else eps
                        error = error + own * np.sqrt(count) * size
                    bounds[number] = np.where(np.isinf(out), 0.0, np.abs(error))  # an infinity, as of a mask, is exact
                else:
                    bounds[number] = np.zeros(np.shape(out))
    return bounds


def _moved(equation: Equation, xs: Sequence[Any], es: Sequence[Any], outs: Sequence[Any]) -> list:
    bound = BOUND.get(equation.name)
    if not any(np.any(e) for e in es):
        return [np.zeros(np.shape(out)) for out in outs]
    if bound is not None and (equation.name not in OF_REALS or not any(np.iscomplexobj(x) for x in xs)):
        moved = bound(equation.params, list(xs), list(es), outs if len(outs) > 1 else outs[0])
        return list(moved) if isinstance(moved, list) else [moved]
    # No rule: the largest of a few random perturbations, doubled, over the whole output.
    rng = np.random.default_rng(0)
    worst = [0.0] * len(outs)
    floats = [np.issubdtype(x.dtype, np.inexact) for x in xs]
    for _ in range(3):
        size = [1e-7 * (1 + np.abs(x)) if f else 0 for x, f in zip(xs, floats)]
        scale = max((np.max(e / s, initial=0.0) for e, s, f in zip(es, size, floats) if f), default=0.0)
        moved_xs = [
            x + s * rng.uniform(-1, 1, np.shape(x)) * (e > 0) if f else x for x, s, e, f in zip(xs, size, es, floats)
        ]
        moved = apply(equation, moved_xs)
        for k, (a, b) in enumerate(zip(moved, outs)):
            if np.issubdtype(np.asarray(b).dtype, np.inexact):
                worst[k] = max(worst[k], float(np.max(np.abs(a - b), initial=0.0)) * scale * 2)
    return [np.full(np.shape(out), w) for out, w in zip(outs, worst)]


# --- how errors travel, primitive by primitive ------------------------------------------------------------------------

Bound = Callable[..., Any]


def _slope(f):
    """|f'(x)| e, for an elementwise function; `f(x, out)` is its derivative."""
    return lambda p, xs, es, out: np.abs(f(xs[0], out)) * es[0]


def _same(name, operands=1):
    """The operation only moves or adds its operands: their errors move and add alike."""
    run = VALUE[name]

    def bound(p, xs, es, out):
        return run(p, *es[:operands], *xs[operands:])

    return bound


def _exact(p, xs, es, out):
    return np.zeros(np.shape(out))


def _bilinear(run):
    return lambda p, xs, es, out: run(p, np.abs(xs[0]), es[1]) + run(p, es[0], np.abs(xs[1]))


def _add_errors(p, xs, es, out):
    return es[0] + es[1]


def _div_bound(p, xs, es, out):
    return (es[0] + np.abs(out) * es[1]) / np.abs(xs[1])


def _pow_bound(p, xs, es, out):
    x, y = xs
    log = np.log(np.where(x > 0, x, 1))
    return np.abs(y * np.power(np.abs(x), y - 1)) * es[0] + np.abs(out * log) * es[1]


def _select_bound(p, xs, es, out):
    return select_n(p, xs[0], *es[1:])


def _order_bound(p, xs, es, out):
    return [np.broadcast_to(np.max(e, axis=p["dimension"], keepdims=True), e.shape) for e in es]


def _top_k_bound(p, xs, es, out):
    return [_monotone("top_k", lambda outs: outs[0])(p, xs, es, out), np.zeros(out[1].shape)]


def _monotone(name, first=lambda out: out):
    """For an operation that grows with its operands, as a maximum: how far it moves when all of them move.

    The error of an element that is far from being the maximum, such as a score that a mask sets to -1e30, does not
    reach the result. All errors are magnified for the comparison, so that adding them to the values does not round.
    """
    run, magnified = VALUE[name], 2.0**20

    def bound(p, xs, es, out):
        up = first(run(p, *(x + magnified * e for x, e in zip(xs, es))))
        down = first(run(p, *(x - magnified * e for x, e in zip(xs, es))))
        moved = np.maximum(up - first(out), first(out) - down)
        return np.where(np.isnan(moved), 0.0, moved) / magnified

    return bound


def _scatter_add_bound(p, xs, es, out):
    return VALUE["scatter-add"](p, es[0], xs[1], es[2])


def _cumprod_bound(p, xs, es, out):
    relative = np.where(xs[0] != 0, es[0] / np.abs(np.where(xs[0] != 0, xs[0], 1)), 1)
    return np.abs(out) * VALUE["cumsum"](p, relative)


def _prod_bound(p, xs, es, out):
    relative = np.where(xs[0] != 0, es[0] / np.abs(np.where(xs[0] != 0, xs[0], 1)), 1)
    return np.abs(out) * relative.sum(axis=tuple(p["axes"]))


def _solve_bound(p, xs, es, out):
    a, b = solve_parts(p, xs[0], xs[1])
    if not np.all(np.isfinite(out)):
        return np.full(out.shape, np.inf)
    inverse = np.abs(np.linalg.inv(a))
    e, _ = solve_parts({**p, "unit_diagonal": False}, es[0], b)
    if p["left_side"]:
        return inverse @ (es[1] + e @ np.abs(out))
    return (es[1] + np.abs(out) @ e) @ inverse


BOUND: dict[str, Bound] = {
    **{
        name: _same(name)
        for name in (
            "broadcast_in_dim", "reshape", "squeeze", "transpose", "rev", "tile", "unstack",
            "split", "slice", "dynamic_slice", "gather", "reduce_sum", "cumsum", "stop_gradient", "copy",
            "real", "conj", "convert_element_type", "reduce_precision", "reduce_window_sum", "loop_index",
        )
    },
    **{name: _same(name, 2) for name in ("pad", "dynamic_update_slice")},
    **{name: lambda p, xs, es, out, run=VALUE[name]: run(p, *es) for name in ("concatenate", "stack", "loop_stack")},
    **dict.fromkeys(
        (
            "sign", "floor", "ceil", "round", "is_finite", "not", "eq", "ne", "lt", "le", "gt", "ge", "lt_to", "le_to",
            "eq_to", "and", "or", "xor", "shift_left", "shift_right_logical", "shift_right_arithmetic", "iota",
            "argmax", "argmin", "reduce_and", "reduce_or", "population_count",
        ),
        _exact,
    ),
    **{
        name: _monotone(name)
        for name in (
            "max", "min", "clamp", "reduce_max", "reduce_min", "cummax", "cummin", "cumlogsumexp",
            "reduce_window_max", "reduce_window_min",
        )
    },
    **dict.fromkeys(("neg", "imag"), lambda p, xs, es, out: es[0]),  # errors are moduli, which have no imaginary part
    "optimization_barrier": lambda p, xs, es, out: list(es),
    "add": _add_errors,
    "add_any": _add_errors,
    "sub": _add_errors,
    "complex": _add_errors,
    "rem": lambda p, xs, es, out: es[0] + np.abs(np.trunc(xs[0] / xs[1])) * es[1],
    "mul": _bilinear(VALUE["mul"]),
    "dot_general": _bilinear(dot_general),
    "div": _div_bound,
    "pow": _pow_bound,
    "atan2": lambda p, xs, es, out: (np.abs(xs[1]) * es[0] + np.abs(xs[0]) * es[1]) / (xs[0] ** 2 + xs[1] ** 2),
    "select_n": _select_bound,
    "sort": _order_bound,
    "top_k": _top_k_bound,
    "scatter-add": _scatter_add_bound,
    "scatter-sub": _scatter_add_bound,
    "scatter": lambda p, xs, es, out: scatter_overwrite(p, es[0], xs[1], es[2]),
    "reduce_prod": _prod_bound,
    "cumprod": _cumprod_bound,
    "triangular_solve": _solve_bound,
    "integer_pow": lambda p, xs, es, out: np.abs(p["y"] * xs[0] ** (p["y"] - 1.0)) * es[0],
    **{
        name: _slope(f)
        for name, f in {
            "abs": lambda x, y: np.ones(np.shape(x)), "exp": lambda x, y: y, "exp2": lambda x, y: y * math.log(2),
            "log2": lambda x, y: 1 / (x * math.log(2)),
            "log": lambda x, y: 1 / x, "log1p": lambda x, y: 1 / (1 + x), "expm1": lambda x, y: y + 1,
            "sqrt": lambda x, y: 0.5 / y, "rsqrt": lambda x, y: 0.5 * y / x, "cbrt": lambda x, y: y / (3 * x),
            "square": lambda x, y: 2 * x, "sin": lambda x, y: np.cos(x), "cos": lambda x, y: np.sin(x),
            "tan": lambda x, y: 1 + y * y, "asin": lambda x, y: 1 / np.sqrt(1 - x * x),
            "acos": lambda x, y: 1 / np.sqrt(1 - x * x), "atan": lambda x, y: 1 / (1 + x * x),
            "sinh": lambda x, y: np.cosh(x), "cosh": lambda x, y: np.sinh(x), "tanh": lambda x, y: 1 - y * y,
            "asinh": lambda x, y: 1 / np.sqrt(1 + x * x), "acosh": lambda x, y: 1 / np.sqrt(x * x - 1),
            "atanh": lambda x, y: 1 / (1 - x * x), "logistic": lambda x, y: y * (1 - y),
            "erf": lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-x * x),
            "erfc": lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-x * x),
            "erf_inv": lambda x, y: math.sqrt(math.pi) / 2 * np.exp(y * y), "lgamma": lambda x, y: special.digamma(x),
            "digamma": lambda x, y: special.polygamma(1, x), "one_minus_square": lambda x, y: 2 * x,
            "exp_neg_sq": lambda x, y: 2 * x * y,
        }.items()
    },
}  # fmt: skip

OF_REALS = {"sign", "pow", "max", "min", "reduce_max", "reduce_min", "cummax", "cummin"}
"""Primitives whose bound holds for real operands only; any other takes |error| of a complex one as well."""

EXACT = {
    "neg", "abs", "sign", "broadcast_in_dim", "reshape", "squeeze", "transpose", "rev", "tile",
    "unstack", "split", "slice", "dynamic_slice", "gather", "stop_gradient", "copy", "real", "imag", "conj",
    "pad", "dynamic_update_slice", "concatenate", "stack", "loop_index", "loop_stack", "max", "min", "reduce_max",
    "reduce_min", "select_n", "sort", "top_k", "scatter", "clamp", "cummax", "cummin", "reduce_window_max",
    "reduce_window_min", "floor", "ceil", "round", "is_finite", "not", "eq", "ne", "lt", "le", "gt", "ge", "iota",
    "and", "or",
}  # fmt: skip
"""Primitives that round nothing themselves."""

MEASURED: dict[str, str] = {
    **dict.fromkeys(("scatter-mul", "scatter-max", "scatter-min"), "its bound would depend on which updates collide"),
    "polygamma": "its derivative is another order of itself, and its order is an operand",
    "nextafter": "a step of one rounding, whatever the error of its operand",
}
"""Primitives with a value and without a bound → why: how far they move is measured (`_moved`), not derived."""


def terms(name: str, params: dict[str, Any], xs: list[Any], out: Any) -> tuple[Any, int]:
    """Sum of the magnitudes of the terms that one primitive adds up, and how many they are."""
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        return dot_general(params, np.abs(xs[0]), np.abs(xs[1])), math.prod(xs[0].shape[i] for i in contract)
    if name in ("reduce_sum", "cumsum", "reduce_window_sum"):
        return VALUE[name](params, np.abs(xs[0])), max(1, xs[0].size // max(1, np.size(out) if name != "cumsum" else 1))
    if name in ("scatter-add", "scatter-sub"):
        return VALUE["scatter-add"](params, np.abs(xs[0]), xs[1], np.abs(xs[2])), max(
            1, xs[2].size // max(1, xs[0].size)
        )
    if name == "triangular_solve":
        return np.abs(out) * 4, xs[0].shape[-1]
    return np.abs(out), 1
