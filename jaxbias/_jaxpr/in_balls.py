"""JAX primitives carried out on balls: what a traced function means in real arithmetic, enclosed between bounds.

A ball is a midpoint with a radius, and every operation gives a ball that is certain to hold the exact result, whatever
was rounded on the way (python-flint's `arb` and `acb`; F. Johansson, Arb: efficient arbitrary-precision midpoint-radius
interval arithmetic (2017)). So two programs whose difference excludes 0 differ for certain, and one whose difference
is [−1e-60, 1e-60] agrees to 60 digits. Casts between float dtypes do nothing here, as in `in_numpy`.

Floats are NumPy arrays of objects, `arb` or `acb`; integers and bools are plain NumPy arrays, which are exact. What
only moves entries is `in_numpy`'s own, which does not look at them. A comparison that the radii leave open raises
`Open`: more bits may decide it. A primitive without an entry raises `NoBall`.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._jaxpr import in_numpy
from jaxbias._jaxpr.evaluation import apply, control_flow, run_by
from jaxbias._jaxpr.program import Equation, Program, digest_of
from jaxbias._jaxpr.queries import backward_slice

Balls = Any
"""A NumPy array of objects, each an `arb` or an `acb`; or a plain array of integers or bools."""


class NoBall(Exception):
    """A primitive that has no enclosure here; the message is its name."""


class Late(Exception):
    """The time that was given is over."""


class Open(Exception):
    """A comparison, an order or a rounding to an integer that the radii leave open."""


@functools.cache
def _flint() -> Any:
    """python-flint, imported when first used.

    Raises:
        NoBall: it is not installed.
    """
    try:
        import flint
    except ModuleNotFoundError as missing:
        raise NoBall("python-flint is not installed") from missing
    return flint


def available() -> bool:
    """Whether enclosures can be computed here."""
    try:
        return bool(_flint())
    except NoBall:
        return False


@contextmanager
def precision(bits: int):
    """Within, every operation keeps so many bits."""
    context = _flint().ctx
    before, context.prec = context.prec, bits
    try:
        yield
    finally:
        context.prec = before


def lift(x: Any, ulp: float = 0.0) -> Balls:
    """The array as balls: exact, or of radius `ulp`·|x| around each entry; integers and bools as they are."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x  # random keys
    x = np.asarray(x)
    if x.dtype == object or not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    flint = _flint()
    if x.dtype.kind == "c":
        return _objects(x, lambda value: flint.acb(value.real, value.imag))
    x = x.astype(np.float64)
    if not ulp:
        return _objects(x, lambda value: flint.arb(value))
    return _objects(x, lambda value: flint.arb(value, abs(value) * ulp if math.isfinite(value) else 0))


def rounded(x: Balls) -> np.ndarray:
    """Midpoints in float64 or complex128."""
    if x.dtype != object:
        return x
    numbers = [complex(value.mid()) if _is_complex(value) else float(value.mid()) for value in x.ravel()]
    return np.array(numbers, np.complex128 if any(isinstance(n, complex) for n in numbers) else float).reshape(x.shape)


def _objects(x: np.ndarray, make: Callable[[Any], Any]) -> np.ndarray:
    out = np.empty(x.size, object)
    out[:] = [make(value) for value in x.ravel().tolist()]
    return out.reshape(x.shape)


def run(
    program: Program, inputs: Sequence[Any], constants_as_reals: bool = False, deadline: float = math.inf
) -> list[Balls]:
    """Enclosures of the program's outputs at exactly these inputs, at the precision set by `precision`.

    Args:
        constants_as_reals: every float constant stands for all reals that round to it in the dtype it was traced with.
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

    radii = [_half_ulp(program.dtypes[i]) if constants_as_reals else 0.0 for i in program.constants]
    constants = {i: lift(held, radius) for (i, held), radius in zip(program.constants.items(), radii)}
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
        elif equation.name in ("cholesky", "lu", "triangular_solve"):
            total += sum(sizes) * equation.shapes.inputs[0][-1]
        else:
            total += max([*sizes, *map(math.prod, equation.shapes.inputs)], default=0) * (
                4 * (equation.name in SLOW) or 1
            )
    return total


def _half_ulp(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) / 2 if jnp.issubdtype(dtype, jnp.inexact) else 0.0


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
    flint = _flint()
    kind = flint.acb if jnp.issubdtype(dtype, jnp.complexfloating) else flint.arb
    return _map(lambda value: value if isinstance(value, kind) else kind(value), x)


def _map(f: Callable[..., Any], *xs: Balls) -> Balls:
    out = np.frompyfunc(f, len(xs), 1)(*xs)
    if isinstance(out, np.ndarray):
        return out
    held = np.empty((), object)
    held[()] = out
    return held


# --- comparisons, orders, integers: decided for certain or not at all -------------------------------------------------


def _order(a: Any, b: Any) -> int | None:
    """−1, 0 or 1; None for a NaN, as IEEE's comparisons are all false there."""
    if a is b:
        return None if a.is_nan() else 0
    if a < b:
        return -1
    if a > b:
        return 1
    if a.is_nan() or b.is_nan():
        return None
    if a.is_exact() and b.is_exact() and a == b:
        return 0
    raise Open("a comparison")


def _compares(*signs: int, nan: bool = False):
    def compare(p, a, b):
        def of(x, y):
            order = _order(x, y)
            return nan if order is None else order in signs

        if a.dtype != object:
            a, b = lift(a.astype(np.float64)), lift(b.astype(np.float64))
        return _map(of, a, b).astype(bool)

    return compare


def _equal(same: bool):
    def compare(p, a, b):
        def of(x, y):
            if _is_complex(x) or _is_complex(y):
                one, other = (x.real, x.imag), (y.real, y.imag)
                parts = list(map(_order, one, one if x is y else other))
                return (parts == [0, 0]) is same
            return (_order(x, y) == 0) is same

        return _map(of, a, b).astype(bool)

    return compare


def _is_complex(x: Any) -> bool:
    return isinstance(x, _flint().acb)


def _maximum(a: Any, b: Any) -> Any:
    """The larger of two, itself where it is known which, so that a later `x == max(x)` is known too."""
    if a.is_nan() or b.is_nan():
        return _flint().arb.nan()
    return a if a is b or a >= b else b if b >= a else a.max(b)


def _minimum(a: Any, b: Any) -> Any:
    if a.is_nan() or b.is_nan():
        return _flint().arb.nan()
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
    arb = _flint().arb

    def of(value):
        up = (value + arb(0.5)).floor().unique_fmpz()
        if up is None:
            raise Open("a rounding to an integer")
        if _order(value + arb(0.5), arb(up)) == 0:  # a tie
            if half_to_even:
                return arb(up - up % 2)
            return arb(up if value > 0 else up - 1)
        return arb(up)

    return _map(of, x)


def _sign(x: Any) -> Any:
    return x.csgn() if _is_complex(x) and x.imag == 0 else x / abs(x) if _is_complex(x) else x.sgn()


def _finite(x: Any) -> bool:
    parts = (x.real, x.imag) if _is_complex(x) else (x,)
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
            arb = _flint().arb
            return _objects(x, lambda value: arb(int(value)))
        real = not jnp.issubdtype(new, jnp.complexfloating)
        return _map(lambda value: value.real if real and _is_complex(value) else value, x)
    if x.dtype != object:
        return x.astype(new)
    if np.dtype(new) == bool:
        return _equal(False)(p, x, lift(np.zeros(x.shape)))
    return _map(_integer, x).astype(new)


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

SMALL_PRODUCT = 512
"""Products up to which NumPy's loop over objects is as fast as `arb_mat`."""


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
        out[k] = _matmul(left[k], right[k])
    return out.reshape((*batch, *(a.shape[i] for i in free_a), *(b.shape[i] for i in free_b)))


def _matmul(a: Balls, b: Balls) -> Balls:
    (m, k), n = a.shape, b.shape[1]
    if not m * n:
        return np.empty((m, n), object)
    if not k:
        return lift(np.zeros((m, n)))
    if m * k * n <= SMALL_PRODUCT:
        return a @ b
    flint = _flint()
    kind = flint.acb_mat if _is_complex(a.flat[0]) or _is_complex(b.flat[0]) else flint.arb_mat
    product = kind(m, k, list(a.flat)) * kind(k, n, list(b.flat))
    out = np.empty(m * n, object)
    out[:] = product.entries()
    return out.reshape(m, n)


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
    return functools.reduce(lambda a, b: _map(combine, a, b), (np.take(x, i, axis) for i in range(x.shape[axis])))


def _cumulative(combine: Callable[[Any, Any], Any]):
    def run(p, x):
        axis = p["axis"]
        slices = [np.take(x, i, axis) for i in range(x.shape[axis])]
        slices = slices[::-1] if p["reverse"] else slices
        sums = list(itertools.accumulate(slices, lambda a, b: _map(combine, a, b)))
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
            lambda a, b: b if _order(operand.flat[b], operand.flat[a]) == wins else a, inside[1:], inside[0]
        )
        out[best] = out[best] + source[position]
    return out.reshape(operand.shape)


def _less(xs: Sequence[Any], ys: Sequence[Any]) -> int:
    """Lexicographic order of the keys, NaN last."""
    for x, y in zip(xs, ys):
        if isinstance(x, int | bool | np.generic):
            order = int(x > y) - int(x < y)
        else:
            order = _order(x, y)
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
    _, order = _sort({"dimension": axis, "num_keys": 2}, _map(lambda value: -value, x), places)
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
                if _order(moved[row][i], moved[row][best]) == sign:
                    best = i
            out[row] = best
        return out.astype(p["index_dtype"])

    return run


# --- convolution, Fourier transform, linear systems -------------------------------------------------------------------


def _convolution(p, x, kernel):
    """One product for every position in the kernel; batch groups become feature groups of their own."""
    d = p["dimension_numbers"]
    x = x.transpose(d.lhs_spec)  # (n, channels in, *spatial)
    kernel = kernel.transpose(d.rhs_spec)  # (channels out, channels in per group, *spatial)
    config = [(0, 0, 0), (0, 0, 0)]
    config += [(lo, hi, e - 1) for (lo, hi), e in zip(p["padding"], p["lhs_dilation"])]
    x = in_numpy.pad({"padding_config": config}, x, lift(np.float64(0))[()])
    groups, by_batch = p["feature_group_count"], p["batch_group_count"]
    outs = []
    for g in range(groups * by_batch):
        if by_batch > 1:
            part = x[g * (len(x) // by_batch) : (g + 1) * (len(x) // by_batch)]
        else:
            per = x.shape[1] // groups
            part = x[:, g * per : (g + 1) * per]
        per = len(kernel) // (groups * by_batch)
        outs.append(_correlate(part, kernel[g * per : (g + 1) * per], p["window_strides"], p["rhs_dilation"]))
    return np.concatenate(outs, axis=1).transpose(np.argsort(d.out_spec))


def _correlate(x, kernel, strides, dilations):
    lengths = [
        max(0, (n - (k - 1) * f - 1) // s + 1) for n, k, s, f in zip(x.shape[2:], kernel.shape[2:], strides, dilations)
    ]
    n, c, o = len(x), x.shape[1], len(kernel)
    columns = []
    for u in np.ndindex(kernel.shape[2:]):
        window = tuple(slice(v * f, v * f + (m - 1) * s + 1, s) for v, f, s, m in zip(u, dilations, strides, lengths))
        columns.append(np.moveaxis(x[(slice(None), slice(None), *window)], 1, -1).reshape(-1, c))
    patches = np.concatenate(columns, axis=1) if columns else np.empty((n * math.prod(lengths), 0), object)
    weights = np.moveaxis(kernel.reshape(o, c, -1), 0, -1)  # (c, positions, o)
    product = _matmul(patches, weights.transpose(1, 0, 2).reshape(-1, o))
    return np.moveaxis(product.reshape(n, *lengths, o), -1, 1)


def _fft(p, x):
    kind, lengths = str(p["fft_type"]).rpartition(".")[2], p["fft_lengths"]
    kind = {"0": "FFT", "1": "IFFT", "2": "RFFT", "3": "IRFFT"}.get(kind, kind)
    axes = range(x.ndim - len(lengths), x.ndim)
    acb = _flint().acb
    x = _map(acb, x)
    inverse = kind in ("IFFT", "IRFFT")
    if kind == "IRFFT":  # the other half is the conjugate of this one
        last, axis = lengths[-1], x.ndim - 1
        for each in list(axes)[:-1]:
            x = _dft(x, each, True)
        x = np.take(x, range(last // 2 + 1), axis)
        ends = x[..., :1], x[..., -1:] if last % 2 == 0 else x[..., :0]
        x[..., :1] = _map(lambda value: acb(value.real), ends[0])
        if last % 2 == 0:
            x[..., -1:] = _map(lambda value: acb(value.real), ends[1])
        mirrored = _map(lambda value: value.conjugate(), x[..., 1 : (last + 1) // 2][..., ::-1])
        return _map(lambda value: value.real, _dft(np.concatenate([x, mirrored], axis), axis, True))
    for axis in reversed(axes):
        x = _dft(x, axis, inverse)
        if kind == "RFFT" and axis == x.ndim - 1:
            x = np.take(x, range(lengths[-1] // 2 + 1), axis)
    return x


def _dft(x: Balls, axis: int, inverse: bool) -> Balls:
    moved = np.moveaxis(x, axis, -1)
    out = np.empty(moved.shape, object)
    for row in np.ndindex(moved.shape[:-1]):
        out[row] = _flint().acb.dft(list(moved[row]), inverse)
    return np.moveaxis(out, -1, axis)


def _triangular_solve(p, a, b):
    if not p["left_side"]:
        turned = p | {"left_side": True, "transpose_a": not p["transpose_a"], "lower": p["lower"]}
        return np.swapaxes(_triangular_solve(turned, a, np.swapaxes(b, -1, -2)), -1, -2)
    if p["transpose_a"]:
        a = np.swapaxes(_map(_conjugate, a) if p["conjugate_a"] else a, -1, -2)
    lower = p["lower"] is not p["transpose_a"]
    out = np.array(b)
    n = a.shape[-1]
    for i in range(n) if lower else range(n - 1, -1, -1):
        others = range(i) if lower else range(i + 1, n)
        row = out[..., i, :]
        for j in others:
            row = row - a[..., i, j, None] * out[..., j, :]
        out[..., i, :] = row if p["unit_diagonal"] else row / a[..., i, i, None]
    return out


def _conjugate(x: Any) -> Any:
    return x.conjugate() if _is_complex(x) else x


def _cholesky(p, a):
    n = a.shape[-1]
    out = np.array(np.broadcast_to(lift(np.zeros(())), a.shape))
    if _is_complex(a.flat[0]):
        out = _map(_flint().acb, out)
    for j in range(n):
        squares = sum((out[..., j, k] * _map(_conjugate, out[..., j, k]) for k in range(j)), start=out[..., j, j])
        out[..., j, j] = _map(lambda value: value.sqrt(), a[..., j, j] - squares)
        for i in range(j + 1, n):
            row = sum((out[..., i, k] * _map(_conjugate, out[..., j, k]) for k in range(j)), start=out[..., i, j])
            out[..., i, j] = (a[..., i, j] - row) / out[..., j, j]
    return out


def _lu(p, a):
    """LU with partial pivoting; the pivot is the first of the largest entries, decided for certain.

    Of complex entries LAPACK compares |real part| + |imaginary part|.
    """
    size = lambda x: abs(x.real) + abs(x.imag) if _is_complex(x) else abs(x)
    m, n = a.shape[-2:]
    out = np.array(a)
    pivots = np.zeros((*a.shape[:-2], min(m, n)), np.int32)
    orders = np.broadcast_to(np.arange(m, dtype=np.int32), (*a.shape[:-2], m)).copy()
    for batch in np.ndindex(a.shape[:-2]):
        matrix = out[batch]
        for k in range(min(m, n)):
            sizes = [size(matrix[i, k]) for i in range(k, m)]
            best = 0
            for i in range(1, len(sizes)):
                best = i if _order(sizes[i], sizes[best]) == 1 else best
            pivots[(*batch, k)] = k + best
            matrix[[k, k + best]] = matrix[[k + best, k]]
            orders[batch][[k, k + best]] = orders[batch][[k + best, k]]
            if matrix[k, k] == 0:
                continue
            for i in range(k + 1, m):
                matrix[i, k] = matrix[i, k] / matrix[k, k]
                matrix[i, k + 1 :] = matrix[i, k + 1 :] - matrix[i, k] * matrix[k, k + 1 :]
    return [out, pivots, orders]


# --- element by element -----------------------------------------------------------------------------------------------


def _method(name: str):
    return lambda p, x: _map(lambda value: getattr(value, name)(), x)


def _unary(f: Callable[[Any], Any]):
    return lambda p, x: _map(f, x)


def _binary(f: Callable[[Any, Any], Any]):
    return lambda p, a, b: _map(f, a, b)


def _number(x: float | int) -> Any:
    return _flint().arb(x)


def _cbrt(x: Any) -> Any:
    if x.is_zero():
        return x
    if x > 0:
        return x.root(3)
    if x < 0:
        return -(-x).root(3)
    raise Open("the sign of a cube root's argument")


def _integer_power(p, x):
    return _map(lambda value: value ** p["y"] if p["y"] >= 0 else 1 / value ** -p["y"], x)


def _power(a: Any, b: Any) -> Any:
    if isinstance(b, int | np.generic):
        return a ** int(b)
    return a**b


def _pow(p, a, b):
    return _map(_power, a, b)


def _polynomial(p, x, *coefficients):
    return functools.reduce(lambda total, a: a + x * total, reversed(coefficients))


def _remainder(a: Any, b: Any) -> Any:
    return a - b * _number(_integer(a / b))


def _log_gamma(x: Any) -> Any:
    return x.lgamma() if x > 0 else abs(x.gamma()).log()


def _bessel(x: Any, order: int) -> Any:
    return (-abs(x)).exp() * x.bessel_i(_number(order))


def _polygamma(n: Any, x: Any) -> Any:
    acb = _flint().acb
    return acb(x).polygamma(acb(n)).real if x > 0 or not x.contains_integer() else _flint().arb.nan()


def _select(p, which, *cases):
    if len(cases) == 2 and which.dtype == bool:
        return np.where(which, cases[1], cases[0])
    which = np.broadcast_to(which, cases[0].shape)
    return functools.reduce(lambda out, k: np.where(which == k, cases[k], out), range(1, len(cases)), cases[0])


def _gather(p, x, indices):
    flat, inside = in_numpy.gather_positions(p, x.shape, indices)
    missing = _flint().arb.nan() if p["fill_value"] is None else _number(float(p["fill_value"]))
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
            "real": lambda x: x.real, "imag": lambda x: x.imag, "conj": _conjugate,
        }.items()
    },
    **{
        name: _binary(f)
        for name, f in {
            "add": lambda a, b: a + b, "add_any": lambda a, b: a + b, "sub": lambda a, b: a - b,
            "mul": lambda a, b: a * b, "div": lambda a, b: a / b, "max": _maximum, "min": _minimum,
            "atan2": lambda a, b: _flint().arb.atan2(a, b), "rem": _remainder, "polygamma": _polygamma,
            "complex": lambda a, b: _flint().acb(a, b),
            "zeta": lambda s, q: _flint().acb(s).zeta(_flint().acb(q)).real,
            "igamma": lambda a, x: x.gamma_lower(a, regularized=1),
            "igammac": lambda a, x: x.gamma_upper(a, regularized=1),
        }.items()
    },
    "pow": _pow,
    "regularized_incomplete_beta": lambda p, a, b, x: _map(lambda a, b, x: x.beta_lower(a, b, regularized=1), a, b, x),
    "polynomial": _polynomial,
    "integer_pow": _integer_power,
    "round": _round,
    "clamp": lambda p, low, x, high: _map(lambda a, b, c: _minimum(_maximum(b, a), c), low, x, high),
    "select_n": _select,
    "is_finite": lambda p, x: _map(_finite, x).astype(bool),
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
    "conv_general_dilated": _convolution,
    "fft": _fft,
    "triangular_solve": _triangular_solve,
    "cholesky": _cholesky,
    "lu": _lu,
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
