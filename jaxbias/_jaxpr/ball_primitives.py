"""The enclosure of each primitive: how it is carried out on balls.

Floats are NumPy arrays of objects, `arb` or `acb`; integers and bools are plain NumPy arrays, which are exact. What
only moves entries is `in_numpy`'s own, which does not look at them. A comparison that the radii leave open raises
`Open`: more bits may decide it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import ball_algorithms, ball_reductions, in_numpy
from jaxbias._jaxpr.balls import (
    NoBall,
    Open,
    compared,
    conjugate,
    is_complex,
    lift,
    map_balls,
    objects,
    python_flint,
    rounded,
)

# --- comparisons, orders, integers: decided for certain or not at all -------------------------------------------------


def _compares(*signs: int, nan: bool = False):
    def compare(p, a, b):
        def of(x, y):
            order = compared(x, y)
            return nan if order is None else order in signs

        if a.dtype != object:
            a, b = lift(a.astype(np.float64)), lift(b.astype(np.float64))
        return map_balls(of, a, b).astype(bool)

    return compare


def _equal(same: bool):
    def compare(p, a, b):
        def of(x, y):
            if is_complex(x) or is_complex(y):
                of_x, of_y = (x.real, x.imag), (y.real, y.imag)
                parts = list(map(compared, of_x, of_x if x is y else of_y))
                return (parts == [0, 0]) is same
            return (compared(x, y) == 0) is same

        return map_balls(of, a, b).astype(bool)

    return compare


def _maximum(a: Any, b: Any) -> Any:
    """The larger of two, itself where it is known which, so that a later `x == max(x)` is known too."""
    if a.is_nan() or b.is_nan():
        return python_flint().arb.nan()
    return a if a is b or a >= b else b if b >= a else a.max(b)


def _minimum(a: Any, b: Any) -> Any:
    if a.is_nan() or b.is_nan():
        return python_flint().arb.nan()
    return a if a is b or a <= b else b if b <= a else a.min(b)


def _integer(x: Any) -> int:
    """The integer towards 0 of a ball, if there is only one."""
    whole = x.floor() if x >= 0 else x.ceil() if x <= 0 else None
    whole = whole.unique_fmpz() if whole is not None else None
    if whole is None:
        raise Open("a rounding to an integer")
    return int(whole)


def _round(p, x):
    half_to_even = in_numpy.half_to_even(p)
    arb = python_flint().arb

    def of(value):
        up = (value + arb(0.5)).floor().unique_fmpz()
        if up is None:
            raise Open("a rounding to an integer")
        if compared(value + arb(0.5), arb(up)) == 0:  # a tie
            if half_to_even:
                return arb(up - up % 2)
            return arb(up if value > 0 else up - 1)
        return arb(up)

    return map_balls(of, x)


def _sign(x: Any) -> Any:
    return x.csgn() if is_complex(x) and x.imag == 0 else x / abs(x) if is_complex(x) else x.sgn()


def _finite(x: Any) -> bool:
    parts = (x.real, x.imag) if is_complex(x) else (x,)
    for part in parts:
        if part.is_nan() or not part.mid().is_finite():
            return False
        if not part.is_finite():
            raise Open("whether a value is finite")
    return True


def _convert(p, x, *_):
    new = p["new_dtype"]
    if jnp.issubdtype(new, jnp.inexact):
        if x.dtype != object:
            arb = python_flint().arb
            return objects(x, lambda value: arb(int(value)))
        real = not jnp.issubdtype(new, jnp.complexfloating)
        return map_balls(lambda value: value.real if real and is_complex(value) else value, x)
    if x.dtype != object:
        return x.astype(new)
    if np.dtype(new) == bool:
        return _equal(False)(p, x, lift(np.zeros(x.shape)))
    return map_balls(_integer, x).astype(new)


def _bitcast(p, x):
    """The bits of exact numbers; a ball has none."""
    new = np.dtype(p["new_dtype"])
    if x.dtype == object:
        near = rounded(x)
        x = near if all(value.is_exact() and value == held for value, held in zip(x.flat, lift(near).flat)) else None
    if x is None or x.dtype.itemsize != new.itemsize:
        raise NoBall("no enclosure of the bits of a number that is not exact")
    return lift(x.view(new))


# --- element by element -----------------------------------------------------------------------------------------------


def _method(name: str):
    return lambda p, x: map_balls(lambda value: getattr(value, name)(), x)


def _unary(f: Callable[[Any], Any]):
    return lambda p, x: map_balls(f, x)


def _binary(f: Callable[[Any, Any], Any]):
    return lambda p, a, b: map_balls(f, a, b)


def _number(x: float | int) -> Any:
    return python_flint().arb(x)


def _cbrt(x: Any) -> Any:
    if x.is_zero():
        return x
    if x > 0:
        return x.root(3)
    if x < 0:
        return -(-x).root(3)
    raise Open("the sign of a cube root's argument")


def _integer_power(p, x):
    return map_balls(lambda value: value ** p["y"] if p["y"] >= 0 else 1 / value ** -p["y"], x)


def _power(a: Any, b: Any) -> Any:
    if isinstance(b, int | np.generic):
        return a ** int(b)
    return a**b


def _pow(p, a, b):
    return map_balls(_power, a, b)


def _polynomial(p, x, *coefficients):
    return functools.reduce(lambda total, a: a + x * total, reversed(coefficients))


def _remainder(a: Any, b: Any) -> Any:
    return a - b * _number(_integer(a / b))


def _log_gamma(x: Any) -> Any:
    return x.lgamma() if x > 0 else abs(x.gamma()).log()


def _bessel(x: Any, order: int) -> Any:
    return (-abs(x)).exp() * x.bessel_i(_number(order))


def _polygamma(n: Any, x: Any) -> Any:
    acb = python_flint().acb
    return acb(x).polygamma(acb(n)).real if x > 0 or not x.contains_integer() else python_flint().arb.nan()


def _select(p, which, *cases):
    if len(cases) == 2 and which.dtype == bool:
        return np.where(which, cases[1], cases[0])
    which = np.broadcast_to(which, cases[0].shape)
    return functools.reduce(lambda out, k: np.where(which == k, cases[k], out), range(1, len(cases)), cases[0])


def _gather(p, x, indices):
    flat, inside = in_numpy.gather_positions(p, x.shape, indices)
    missing = python_flint().arb.nan() if p["fill_value"] is None else _number(float(p["fill_value"]))
    if not x.size:
        return np.where(inside, missing, missing)
    return np.where(inside, x.ravel()[flat], missing)


def _combine(f: Callable[[Any, Any], Any]):
    """Scatter with repeated positions combined one after another."""

    def run(p, x, indices, update):
        flat, inside = in_numpy.scatter_positions(p, x.shape, indices, update.shape)
        out = np.array(x).ravel()
        for place, value in zip(flat[inside], np.broadcast_to(update, flat.shape)[inside]):
            out[place] = f(out[place], value)
        return out.reshape(x.shape)

    return run


BALL: dict[str, Callable[..., Any]] = {
    **{
        name: in_numpy.VALUE[name]
        for name in (
            "broadcast_in_dim", "reshape", "squeeze", "transpose", "rev", "tile", "concatenate", "stack",
            "unstack", "split", "pad", "slice", "dynamic_slice", "dynamic_update_slice", "scatter",
            "optimization_barrier", "stop_gradient", "copy", "reduce_precision", "loop_index", "loop_stack",
            "iota",
        )
    },
    **{
        name: _method(method)
        for name, method in {
            "exp": "exp", "log": "log", "log1p": "log1p", "expm1": "expm1", "sqrt": "sqrt", "rsqrt": "rsqrt",
            "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh",
            "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erf": "erf",
            "erfc": "erfc", "erf_inv": "erfinv", "digamma": "digamma", "floor": "floor", "ceil": "ceil",
        }.items()
    },
    **{
        name: _unary(f)
        for name, f in {
            "neg": lambda x: -x, "abs": abs, "sign": _sign, "square": lambda x: x * x, "cbrt": _cbrt,
            "exp2": lambda x: _number(2) ** x, "log2": lambda x: x.log() / _number(2).log(),
            "logistic": lambda x: 1 / (1 + (-x).exp()), "lgamma": _log_gamma,
            "one_minus_square": lambda x: (1 - x) * (1 + x), "exp_neg_sq": lambda x: (-x * x).exp(),
            "bessel_i0e": lambda x: _bessel(x, 0), "bessel_i1e": lambda x: _bessel(x, 1),
            "real": lambda x: x.real, "imag": lambda x: x.imag, "conj": conjugate,
        }.items()
    },
    **{
        name: _binary(f)
        for name, f in {
            "add": lambda a, b: a + b, "add_any": lambda a, b: a + b, "sub": lambda a, b: a - b,
            "mul": lambda a, b: a * b, "div": lambda a, b: a / b, "max": _maximum, "min": _minimum,
            "atan2": lambda a, b: python_flint().arb.atan2(a, b), "rem": _remainder, "polygamma": _polygamma,
            "complex": lambda a, b: python_flint().acb(a, b),
            "zeta": lambda s, q: python_flint().acb(s).zeta(python_flint().acb(q)).real,
            "igamma": lambda a, x: x.gamma_lower(a, regularized=1),
            "igammac": lambda a, x: x.gamma_upper(a, regularized=1),
        }.items()
    },
    "pow": _pow,
    "regularized_incomplete_beta": lambda p, *abx: map_balls(lambda a, b, x: x.beta_lower(a, b, regularized=1), *abx),
    "polynomial": _polynomial,
    "integer_pow": _integer_power,
    "round": _round,
    "clamp": lambda p, low, x, high: map_balls(lambda a, b, c: _minimum(_maximum(b, a), c), low, x, high),
    "select_n": _select,
    "is_finite": lambda p, x: map_balls(_finite, x).astype(bool),
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
    "eq": _equal(True),
    "ne": _equal(False),
    "lt": _compares(-1),
    "le": _compares(-1, 0),
    "gt": _compares(1),
    "ge": _compares(0, 1),
    "eq_to": _equal(True),
    "lt_to": _compares(-1),
    "le_to": _compares(-1, 0),
    "dot_general": ball_reductions.dot_general,
    "conv_general_dilated": ball_algorithms.convolution,
    "fft": ball_algorithms.fourier,
    "triangular_solve": ball_algorithms.triangular_solve,
    "cholesky": ball_algorithms.cholesky,
    "lu": ball_algorithms.lu,
    "qr": ball_algorithms.qr,
    "eigh": ball_algorithms.eigh,
    "svd": ball_algorithms.svd,
    "reduce_sum": lambda p, x, *_: x.sum(axis=tuple(p["axes"])),
    "reduce_prod": lambda p, x, *_: x.prod(axis=tuple(p["axes"])),
    "reduce_max": ball_reductions.over_axes(_maximum),
    "reduce_min": ball_reductions.over_axes(_minimum),
    "argmax": ball_reductions.arg(1),
    "argmin": ball_reductions.arg(-1),
    "cumsum": ball_reductions.cumulative(lambda a, b: a + b),
    "cumprod": ball_reductions.cumulative(lambda a, b: a * b),
    "cummax": ball_reductions.cumulative(_maximum),
    "cummin": ball_reductions.cumulative(_minimum),
    "cumlogsumexp": ball_reductions.cumulative(lambda a, b: (a.exp() + b.exp()).log()),
    "reduce_window_sum": ball_reductions.reduce_window(lambda a, b: a + b, 0.0),
    "reduce_window_max": ball_reductions.reduce_window(_maximum, -math.inf),
    "reduce_window_min": ball_reductions.reduce_window(_minimum, math.inf),
    "select_and_scatter_add": ball_reductions.select_and_scatter_add,
    "sort": ball_reductions.sort,
    "top_k": ball_reductions.top_k,
    "gather": _gather,
    "scatter-add": in_numpy.VALUE["scatter-add"],
    "scatter-sub": in_numpy.VALUE["scatter-sub"],
    "scatter-mul": _combine(lambda a, b: a * b),
    "scatter-max": _combine(_maximum),
    "scatter-min": _combine(_minimum),
}  # fmt: skip
