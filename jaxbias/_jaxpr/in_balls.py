"""JAX primitives carried out on balls: what a traced function means in real arithmetic, enclosed between bounds.

Every operation gives a ball (`balls`) that is certain to hold the exact result. So two programs whose difference
excludes 0 differ for certain, and one whose difference is [−1e-60, 1e-60] agrees to 60 digits. Casts between float
dtypes do nothing here, as in `in_numpy`.

Floats are NumPy arrays of objects, `arb` or `acb`; integers and bools are plain NumPy arrays, which are exact. What
only moves entries is `in_numpy`'s own, which does not look at them. A comparison that the radii leave open raises
`Open`: more bits may decide it. A primitive without an entry raises `NoBall`.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import ball_algorithms, in_numpy
from jaxbias._jaxpr.balls import (
    Balls,
    Late,
    NoBall,
    Open,
    compared,
    conjugate,
    is_complex,
    lift,
    map_balls,
    matmul,
    objects,
    python_flint,
    rounded,
)
from jaxbias._jaxpr.evaluation import apply, control_flow, run_by
from jaxbias._jaxpr.program import Equation, Program, digest_of
from jaxbias._jaxpr.queries import backward_slice, written_in


def run(
    program: Program, inputs: Sequence[Any], constants_as_reals: bool = False, deadline: float = math.inf
) -> list[Balls]:
    """Enclosures of the program's outputs at exactly these inputs, at the precision set by `precision`.

    Args:
        constants_as_reals: every float constant stands for all reals that round to it in the dtype it was written in;
            a whole number and 0.75 for themselves.
        deadline: in `time.process_time`.

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

    constants = {
        i: lift(held, _half_ulp(held, written_in(held, program.dtypes[i])) if constants_as_reals else 0.0)
        for i, held in program.constants.items()
    }
    with np.errstate(all="ignore"):
        return run_by(step, replace(program, constants=constants), map(lift, inputs))


def merged(first: Program, second: Program) -> Program:
    """Both programs on the same inputs as one, the outputs of the first before those of the second.

    Each expression stands there once, also where both have it: two balls of one expression are not known to be equal,
    so that `x == max(x)` would stay open where max(x) is computed a second time, and so would a difference of the two.
    """
    out = Program()
    out.inputs = tuple(out.value(first.shapes[i], first.dtypes[i]) for i in first.inputs)
    held: dict[Any, int] = {}
    known: dict[Any, tuple[int, ...]] = {}
    for program in (first, second):
        numbers = dict(zip(program.inputs, out.inputs))
        for number, value in program.constants.items():
            shape, dtype = program.shapes[number], program.dtypes[number]
            key = str(dtype), digest_of([value])
            if key not in held:
                held[key] = out.constant(shape, dtype, value)
            numbers[number] = held[key]
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
    return out


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
        elif equation.name in ball_algorithms.CUBIC:
            total += ball_algorithms.CUBIC[equation.name] * sum(sizes) * equation.shapes.inputs[0][-1]
        else:
            total += max([*sizes, *map(math.prod, equation.shapes.inputs)], default=0) * (
                4 * (equation.name in SLOW) or 1
            )
    return total


def _half_ulp(held: Any, dtype: Any) -> float:
    """Relative distance of the reals that round to a constant, at most; none of 2, 0.75 or 1e10, which are exact."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return 0.0
    kind = jnp.finfo(dtype)
    if np.ndim(held) == 0 and np.isrealobj(held) and kind.nmant > 20 and np.isfinite(held):
        whole = held % 1 == 0 and abs(held) <= 2.0 ** (kind.nmant + 11)
        if whole or math.frexp(held)[0] * 2**11 % 1 == 0:
            return 0.0
    return float(kind.eps) / 2


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


# --- sums, products, orders -------------------------------------------------------------------------------------------


def _dot_general(p, a, b):
    (contract_a, contract_b), (batch_a, batch_b) = p["dimension_numbers"]
    free_a = [i for i in range(a.ndim) if i not in (*contract_a, *batch_a)]
    free_b = [i for i in range(b.ndim) if i not in (*contract_b, *batch_b)]
    size = [math.prod(x.shape[i] for i in axes) for x, axes in ((a, free_a), (a, contract_a), (b, free_b))]
    batch = [a.shape[i] for i in batch_a]
    left = a.transpose((*batch_a, *free_a, *contract_a)).reshape(math.prod(batch), size[0], size[1])
    right = b.transpose((*batch_b, *contract_b, *free_b)).reshape(math.prod(batch), size[1], size[2])
    out = np.empty((math.prod(batch), size[0], size[2]), object)
    for k in range(len(out)):
        out[k] = matmul(left[k], right[k])
    return out.reshape((*batch, *(a.shape[i] for i in free_a), *(b.shape[i] for i in free_b)))


def _over_axes(combine: Callable[[Any, Any], Any]):
    """A reduction by a function of two elements, axis after axis."""

    def reduce(p, x, *_):
        for axis in sorted(p["axes"], reverse=True):
            x = _reduce_axis(combine, x, axis)
        return x

    return reduce


def _reduce_axis(combine, x, axis):
    if not x.shape[axis]:
        raise NoBall("no enclosure of an extremum of nothing")
    return functools.reduce(lambda a, b: map_balls(combine, a, b), (np.take(x, i, axis) for i in range(x.shape[axis])))


def _cumulative(combine: Callable[[Any, Any], Any]):
    def run(p, x):
        axis = p["axis"]
        slices = [np.take(x, i, axis) for i in range(x.shape[axis])]
        slices = slices[::-1] if p["reverse"] else slices
        sums = list(itertools.accumulate(slices, lambda a, b: map_balls(combine, a, b)))
        return np.stack(sums[::-1] if p["reverse"] else sums, axis) if sums else x

    return run


def _reduce_window(combine: Callable[[Any, Any], Any], start: float):
    def run(p, x):
        windows = in_numpy.windows(p, x, lift(np.float64(start))[()])
        for axis in range(windows.ndim - 1, x.ndim - 1, -1):
            windows = _reduce_axis(combine, windows, axis)
        return windows

    return run


def _select_and_scatter_add(p, source, operand):
    """Each entry of the source is added where its window of the operand holds the first of the largest entries."""
    wins = 1 if p["select_prim"].name in ("ge", "gt") else -1
    undilated = {"base_dilation": (1,) * operand.ndim, "window_dilation": (1,) * operand.ndim}
    places = in_numpy.windows(p | undilated, np.arange(operand.size).reshape(operand.shape), -1)
    out = lift(np.zeros(operand.size))
    for position in np.ndindex(source.shape):
        inside = [place for place in places[position].ravel() if place >= 0]
        best = functools.reduce(
            lambda a, b: b if compared(operand.flat[b], operand.flat[a]) == wins else a, inside[1:], inside[0]
        )
        out[best] = out[best] + source[position]
    return out.reshape(operand.shape)


def _less(xs: Sequence[Any], ys: Sequence[Any]) -> int:
    """Lexicographic order of the keys, NaN last."""
    for x, y in zip(xs, ys):
        if isinstance(x, int | bool | np.generic):
            order = int(x > y) - int(x < y)
        else:
            order = compared(x, y)
            order = x.is_nan() - y.is_nan() if order is None else order
        if order:
            return int(order)
    return 0


def _ranks(keys: list[np.ndarray]) -> list[int]:
    """Positions in stable order of their keys."""
    rows = list(zip(*keys))
    return sorted(range(len(rows)), key=functools.cmp_to_key(lambda i, j: _less(rows[i], rows[j])))


def _sort(p, *xs):
    axis = p["dimension"]
    moved = [np.moveaxis(x, axis, -1) for x in xs]
    outs = [np.empty(x.shape, x.dtype) for x in moved]
    for row in np.ndindex(moved[0].shape[:-1]):
        order = _ranks([x[row] for x in moved[: p["num_keys"]]])
        for out, x in zip(outs, moved):
            out[row] = x[row][order]
    return [np.moveaxis(out, -1, axis) for out in outs]


def _top_k(p, x):
    axis = p.get("axis", x.ndim - 1) % x.ndim
    places = np.broadcast_to(np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)]), x.shape)
    _, order = _sort({"dimension": axis, "num_keys": 2}, map_balls(lambda value: -value, x), places)
    order = np.take(order, np.arange(p["k"]), axis).astype(np.int32)
    return [np.take_along_axis(x, order, axis), order]


def _arg(sign: int):
    def run(p, x):
        (axis,) = p["axes"]
        moved = np.moveaxis(x, axis, -1)
        out = np.empty(moved.shape[:-1], np.int64)
        for row in np.ndindex(out.shape):
            best = 0
            for i in range(1, moved.shape[-1]):
                if compared(moved[row][i], moved[row][best]) == sign:
                    best = i
            out[row] = best
        return out.astype(p["index_dtype"])

    return run


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
    "dot_general": _dot_general,
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
    "reduce_max": _over_axes(_maximum),
    "reduce_min": _over_axes(_minimum),
    "argmax": _arg(1),
    "argmin": _arg(-1),
    "cumsum": _cumulative(lambda a, b: a + b),
    "cumprod": _cumulative(lambda a, b: a * b),
    "cummax": _cumulative(_maximum),
    "cummin": _cumulative(_minimum),
    "cumlogsumexp": _cumulative(lambda a, b: (a.exp() + b.exp()).log()),
    "reduce_window_sum": _reduce_window(lambda a, b: a + b, 0.0),
    "reduce_window_max": _reduce_window(_maximum, -math.inf),
    "reduce_window_min": _reduce_window(_minimum, math.inf),
    "select_and_scatter_add": _select_and_scatter_add,
    "sort": _sort,
    "top_k": _top_k,
    "gather": _gather,
    "scatter-add": in_numpy.VALUE["scatter-add"],
    "scatter-sub": in_numpy.VALUE["scatter-sub"],
    "scatter-mul": _combine(lambda a, b: a * b),
    "scatter-max": _combine(_maximum),
    "scatter-min": _combine(_minimum),
}  # fmt: skip
