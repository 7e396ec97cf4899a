"""JAX primitives carried out in NumPy, one at a time: what `evaluation` evaluates a program with.

A float operation keeps the precision of its operands (float64 stays float64 even where the traced function rounds), so
an evaluation in float64 gives what the traced formula means, apart from 1e-16. Compiling nothing, one equation costs
microseconds, so thousands of variations of a backward pass can be tried in a second.

`VALUE[name](params, *inputs)` gives the output. A primitive without an entry is left to JAX, which compiles it: on
purpose where it stands in `LEFT_TO_JAX`, with the reason; of any other the report has a note (`queries.without_value`).

To add a primitive: its row in `VALUE` here; its row in `BOUND`, and its name in `EXACT` if it rounds nothing, in
`rounding`; a line that uses it in the cases of `tests/_jaxpr/test_in_numpy.py`, which compare value, gradient and bound
with JAX. `tests/_jaxpr/test_primitives.py` is red as long as one of the three is missing.
"""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Value = Callable[..., Any]


class _Special:
    """scipy.special, imported when first used: it costs `import jaxbias` a fifth of a second."""

    def __getattr__(self, name: str) -> Value:
        return lambda *args: getattr(importlib.import_module("scipy.special"), name)(*args)


special = _Special()


def as_array(value: Any, copy: bool = False) -> Any:
    """A NumPy array, its floats as float64; a JAX array where the dtype is JAX's own (random keys)."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    value = np.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value.astype(np.float64, copy=copy)
    return value.astype(np.complex128, copy=copy) if value.dtype.kind == "c" else value


def cast(x: Any, dtype: Any, widen: bool = False) -> Any:
    """The array in this dtype; `widen`: in float64 (complex128) where that is a float."""
    if isinstance(x, jax.Array) or jnp.issubdtype(dtype, jax.dtypes.extended):
        return x
    if jnp.issubdtype(dtype, jnp.floating):
        return x.astype(np.float64 if widen else dtype)
    return x.astype(np.complex128 if widen and jnp.issubdtype(dtype, jnp.complexfloating) else dtype)


def _is_float(x) -> bool:
    return np.issubdtype(x.dtype, np.inexact)


# --- shapes and indices -----------------------------------------------------------------------------------------------


def _broadcast_in_dim(p, x, *_):
    kept = [1] * len(p["shape"])
    for axis, size in zip(p["broadcast_dimensions"], x.shape):
        kept[axis] = size
    return np.broadcast_to(x.reshape(kept), p["shape"])


def pad(p, x, value):
    config = p["padding_config"]
    lows, highs, inner = zip(*config) if config else ((), (), ())
    full = [
        max(0, n) + max(0, n - 1) * i + max(lo, 0) + max(hi, 0) for n, lo, hi, i in zip(x.shape, lows, highs, inner)
    ]
    out = np.full(full, value, x.dtype if not _is_float(x) else np.result_type(x.dtype, value.dtype))
    out[
        tuple(slice(max(lo, 0), max(lo, 0) + n + max(0, n - 1) * i, i + 1) for n, lo, i in zip(x.shape, lows, inner))
    ] = x
    return out[tuple(slice(max(-lo, 0), size - max(-hi, 0)) for lo, hi, size in zip(lows, highs, full))]


def _reshape(p, x):
    return (x if p["dimensions"] is None else x.transpose(p["dimensions"])).reshape(p["new_sizes"])


def _slice(p, x):
    strides = p["strides"] or (1,) * x.ndim
    return x[tuple(slice(*bounds) for bounds in zip(p["start_indices"], p["limit_indices"], strides))]


def _starts(x_shape, sizes, indices):
    return tuple(int(np.clip(i, 0, n - s)) for i, n, s in zip(indices, x_shape, sizes))


def _dynamic_slice(p, x, *indices):
    sizes = p["slice_sizes"]
    return x[tuple(slice(i, i + s) for i, s in zip(_starts(x.shape, sizes, indices), sizes))]


def _dynamic_update_slice(p, x, update, *indices):
    out = np.array(x, np.result_type(x, update)) if _is_float(x) else np.array(x)
    out[tuple(slice(i, i + s) for i, s in zip(_starts(x.shape, update.shape, indices), update.shape))] = update
    return out


def _iota(p):
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    return np.broadcast_to(np.arange(p["shape"][p["dimension"]]).astype(p["dtype"]).reshape(shape), p["shape"])


def _split(p, x):
    return np.split(x, np.cumsum(p["sizes"])[:-1], axis=p["axis"])


def _unstack(p, x):
    return list(np.moveaxis(x, p["axis"], 0))


def _window_positions(indices, starts_map, batching, index_batching, operand_shape, sizes, mode):
    """Start of every window along every operand axis, shape (*batch, rank), and which windows lie inside."""
    batch = indices.shape[:-1]
    starts = np.zeros((*batch, len(operand_shape)), np.int64)
    for k, axis in enumerate(starts_map):
        starts[..., axis] = indices[..., k]
    for axis, index_axis in zip(batching, index_batching):
        shape = [1] * len(batch)
        shape[index_axis] = -1
        starts[..., axis] = np.arange(operand_shape[axis]).reshape(shape)
    limit = np.array(operand_shape) - np.array(sizes)
    inside = np.all((starts >= 0) & (starts <= limit), axis=-1)
    return np.clip(starts, 0, limit), (inside if "FILL_OR_DROP" in str(mode) else np.ones(batch, bool))


def gather_positions(p, operand_shape, indices):
    """Flat position in the operand of every output element, and whether it exists."""
    d = p["dimension_numbers"]
    sizes = tuple(int(n) for n in p["slice_sizes"])
    starts, inside = _window_positions(
        indices,
        d.start_index_map,
        d.operand_batching_dims,
        d.start_indices_batching_dims,
        operand_shape,
        sizes,
        p["mode"],
    )
    dropped = {int(a) for a in (*d.collapsed_slice_dims, *d.operand_batching_dims)}
    window_axes = [a for a in range(len(operand_shape)) if a not in dropped]
    return _positions(starts, inside, [int(a) for a in d.offset_dims], window_axes, sizes, operand_shape)


def scatter_positions(p, operand_shape, indices, update_shape):
    """Flat position in the operand that every element of the update goes to, and whether it exists."""
    d = p["dimension_numbers"]
    dropped = {int(a) for a in (*d.inserted_window_dims, *d.operand_batching_dims)}
    window_axes = [a for a in range(len(operand_shape)) if a not in dropped]
    sizes = [1] * len(operand_shape)
    for update_axis, axis in zip(d.update_window_dims, window_axes):
        sizes[axis] = update_shape[update_axis]
    starts, inside = _window_positions(
        indices,
        d.scatter_dims_to_operand_dims,
        d.operand_batching_dims,
        d.scatter_indices_batching_dims,
        operand_shape,
        sizes,
        p["mode"],
    )
    return _positions(starts, inside, [int(a) for a in d.update_window_dims], window_axes, sizes, operand_shape)


def _positions(starts, inside, window_dims, window_axes, sizes, operand_shape):
    strides = np.array([math.prod(operand_shape[axis + 1 :]) for axis in range(len(operand_shape))], np.int64)
    rank = inside.ndim + len(window_dims)
    batch_dims = [axis for axis in range(rank) if axis not in window_dims]

    def spread(x, dims):
        shape = [1] * rank
        for axis, size in zip(dims, x.shape):
            shape[axis] = size
        return x.reshape(shape)

    flat = spread(starts @ strides if len(strides) else np.zeros(inside.shape, np.int64), batch_dims)
    for dim, axis in zip(window_dims, window_axes):
        flat = flat + spread(np.arange(sizes[axis]) * strides[axis], [dim])
    return flat, np.broadcast_to(spread(inside, batch_dims), flat.shape)


def _gather(p, x, indices):
    flat, inside = gather_positions(p, x.shape, indices)
    out = x.ravel()[flat] if x.size else np.zeros(flat.shape, x.dtype)
    if inside.all():
        return out
    fill = p["fill_value"]
    if fill is None:
        fill = np.nan if _is_float(x) else (False if x.dtype == bool else np.iinfo(x.dtype).max)
        fill = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.signedinteger) else fill
    return np.where(inside, out, np.asarray(fill, x.dtype))


def _scatter(combine):
    def run(p, x, indices, update):
        flat, inside = scatter_positions(p, x.shape, indices, update.shape)
        out = np.array(x, np.result_type(x, update)).ravel() if _is_float(x) else np.array(x).ravel()
        where, values = flat[inside], np.broadcast_to(update, flat.shape)[inside]
        if combine is None:
            out[where] = values  # repeated positions: the last writer wins
        else:
            combine.at(out, where, values)
        return out.reshape(x.shape)

    return run


scatter_overwrite = _scatter(None)
scatter_accumulate = _scatter(np.add)


# --- sums, products, orders -------------------------------------------------------------------------------------------


def dot_general(p, a, b):
    (contract_a, contract_b), (batch_a, batch_b) = p["dimension_numbers"]
    free_a = [i for i in range(a.ndim) if i not in (*contract_a, *batch_a)]
    free_b = [i for i in range(b.ndim) if i not in (*contract_b, *batch_b)]
    batch = [a.shape[i] for i in batch_a]
    k = math.prod(a.shape[i] for i in contract_a)
    left = a.transpose((*batch_a, *free_a, *contract_a)).reshape(*batch, math.prod(a.shape[i] for i in free_a), k)
    right = b.transpose((*batch_b, *contract_b, *free_b)).reshape(*batch, k, math.prod(b.shape[i] for i in free_b))
    # a tuple: a NumPy scalar, which is what two vectors may have become, has no reshape() without arguments
    return (left @ right).reshape((*batch, *(a.shape[i] for i in free_a), *(b.shape[i] for i in free_b)))


def _cumulative(ufunc):
    def run(p, x):
        if p["reverse"]:
            return np.flip(ufunc.accumulate(np.flip(x, p["axis"]), axis=p["axis"], dtype=x.dtype), p["axis"])
        return ufunc.accumulate(x, axis=p["axis"], dtype=x.dtype)

    return run


def _reduce(name):
    start = {"max": {"initial": -np.inf}, "min": {"initial": np.inf}}.get(name, {})

    def run(p, x, *_):
        extra = start if x.size == 0 and _is_float(x) else {}
        return np.asarray(getattr(x, name)(axis=tuple(p["axes"]), **extra), x.dtype)  # NumPy makes int8 an int64

    return run


def _arg(name):
    return lambda p, x: getattr(np, name)(x, axis=p["axes"][0]).astype(p["index_dtype"])


def _sort(p, *xs):
    axis = p["dimension"]
    if p["num_keys"] == 1:
        order = np.argsort(xs[0], axis=axis, kind="stable")
    else:
        order = np.lexsort(tuple(reversed(xs[: p["num_keys"]])), axis=axis)
    return [np.take_along_axis(x, order, axis) for x in xs]


def _top_k(p, x):
    axis = p.get("axis", x.ndim - 1) % x.ndim
    backwards = x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable")  # −x has no sign if unsigned
    order = np.take(backwards, np.arange(-1, -1 - p["k"], -1), axis=axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int32)]


def windows(p, x, value):
    """Every window of an array padded with `value`, its axes behind those of the positions."""
    config = [(lo, hi, d - 1) for (lo, hi), d in zip(p["padding"], p["base_dilation"])]
    padded = pad({"padding_config": config}, x, np.asarray(value, x.dtype))
    spans = [(n - 1) * d + 1 for n, d in zip(p["window_dimensions"], p["window_dilation"])]
    missing = [max(span - n, 0) for n, span in zip(padded.shape, spans)]  # no window where an axis is shorter than one
    view = np.lib.stride_tricks.sliding_window_view(np.pad(padded, [(0, n) for n in missing]), spans)
    view = view[tuple(slice(0) if n else slice(None) for n in missing)]
    step = tuple(slice(None, None, s) for s in p["window_strides"])
    return view[step + tuple(slice(None, None, d) for d in p["window_dilation"])]


def _reduce_window(name, start):
    def run(p, x):
        return getattr(windows(p, x, start), name)(axis=tuple(range(x.ndim, 2 * x.ndim)))

    return run


def select_n(p, which, *cases):
    if len(cases) == 2:
        return np.where(which.astype(bool), cases[1], cases[0])
    return np.choose(np.broadcast_to(which, cases[0].shape), cases)


def _integer_pow(p, x):
    if _is_float(x) and 3 <= p["y"] <= 8:  # NumPy's power takes ten times as long as products
        return functools.reduce(np.multiply, [x] * p["y"])
    return x ** p["y"] if p["y"] >= 0 or not _is_float(x) else 1 / x ** (-p["y"])


def half_to_even(p):
    """Does a `round` take a half to the even neighbour, and not away from zero?"""
    return str(p["rounding_method"]).endswith(("1", "EVEN"))


def _round(p, x):
    if half_to_even(p):
        return np.round(x)
    return np.trunc(x + np.copysign(0.5, x))


def _logistic(x):
    return 1 / (1 + np.exp(-x)) if np.iscomplexobj(x) else special.expit(x)


def _div(p, a, b):
    if _is_float(a):
        return a / b
    return np.trunc(a / np.where(b == 0, 1, b)).astype(a.dtype)


def _convert(p, x, *_):
    new = np.dtype(p["new_dtype"])
    if np.issubdtype(new, np.floating) or new.name in ("bfloat16",) or new.name.startswith("float"):
        if _is_float(x):
            return x.real if np.iscomplexobj(x) else x
        return x.astype(np.float64)
    if np.issubdtype(new, np.complexfloating):
        return x.astype(np.complex128)
    return x.astype(new)


def solve_parts(p, a, b):
    a = np.tril(a) if p["lower"] else np.triu(a)
    if p["unit_diagonal"]:
        diagonal = np.arange(a.shape[-1])
        a = np.array(a)
        a[..., diagonal, diagonal] = 1
    if p["transpose_a"]:
        a = np.swapaxes(a.conj() if p["conjugate_a"] else a, -1, -2)
    return a, b


def _triangular_solve(p, a, b):
    a, b = solve_parts(p, a, b)
    if np.any(np.diagonal(a, axis1=-2, axis2=-1) == 0):
        return np.full(b.shape, np.nan)  # not solvable; NumPy would raise
    if p["left_side"]:
        return np.linalg.solve(a, b)
    return np.swapaxes(np.linalg.solve(np.swapaxes(a, -1, -2), np.swapaxes(b, -1, -2)), -1, -2)


def _shift_right_logical(p, a, b):
    unsigned = np.dtype(a.dtype.name.replace("int", "uint") if a.dtype.kind == "i" else a.dtype)
    return (a.view(unsigned) >> b.astype(unsigned)).view(a.dtype)


def _unary(f):
    return lambda p, x: f(x)


def _binary(f):
    return lambda p, a, b: f(a, b)


def _total(compare):
    return lambda p, a, b: compare(a, b) | np.isnan(b)


VALUE: dict[str, Value] = {
    **{
        name: _unary(f)
        for name, f in {
            "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "exp2": np.exp2, "log": np.log,
            "log2": np.log2, "log1p": np.log1p, "expm1": np.expm1, "sqrt": np.sqrt, "cbrt": np.cbrt,
            "rsqrt": lambda x: 1 / np.sqrt(x), "square": np.square, "sin": np.sin, "cos": np.cos, "tan": np.tan,
            "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
            "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "logistic": _logistic, "erf": special.erf,
            "erfc": special.erfc, "erf_inv": special.erfinv, "lgamma": special.gammaln, "digamma": special.digamma,
            "floor": np.floor, "ceil": np.ceil, "is_finite": np.isfinite, "not": np.invert, "real": np.real,
            "imag": np.imag, "conj": np.conj, "stop_gradient": lambda x: x, "copy": lambda x: x,
            "one_minus_square": lambda x: (1 - x) * (1 + x), "exp_neg_sq": lambda x: np.exp(-x * x),
            "reduce_precision": lambda x: x, "population_count": np.bitwise_count,
        }.items()
    },
    **{
        name: _binary(f)
        for name, f in {
            "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum,
            "min": np.minimum, "pow": np.power, "atan2": np.arctan2, "rem": np.fmod, "eq": np.equal,
            "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
            "lt_to": np.less, "le_to": np.less_equal, "eq_to": np.equal, "and": np.bitwise_and, "or": np.bitwise_or,
            "xor": np.bitwise_xor, "shift_left": np.left_shift, "shift_right_arithmetic": np.right_shift,
            "complex": lambda a, b: a + 1j * b, "nextafter": np.nextafter,
            "polygamma": lambda n, x: special.polygamma(n.astype(int), x),
        }.items()
    },
    "shift_right_logical": _shift_right_logical,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": lambda p, x: np.squeeze(x, tuple(p["dimensions"])),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "tile": lambda p, x: np.tile(x, p["reps"]),
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "stack": lambda p, *xs: np.stack(xs, p["axis"]),
    "unstack": _unstack,
    "split": _split,
    "pad": pad,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "iota": _iota,
    "gather": _gather,
    "scatter": scatter_overwrite,
    "scatter-add": _scatter(np.add),
    "scatter-sub": _scatter(np.subtract),
    "scatter-mul": _scatter(np.multiply),
    "scatter-max": _scatter(np.maximum),
    "scatter-min": _scatter(np.minimum),
    "optimization_barrier": lambda p, *xs: list(xs),
    "select_n": select_n,
    "clamp": lambda p, low, x, high: np.minimum(np.maximum(x, low), high),
    "round": _round,
    "integer_pow": _integer_pow,
    "div": _div,
    "convert_element_type": _convert,
    "dot_general": dot_general,
    "reduce_sum": _reduce("sum"),
    "reduce_prod": _reduce("prod"),
    "reduce_max": _reduce("max"),
    "reduce_min": _reduce("min"),
    "reduce_and": _reduce("all"),
    "reduce_or": _reduce("any"),
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    "cumsum": _cumulative(np.add),
    "cumprod": _cumulative(np.multiply),
    "cummax": _cumulative(np.maximum),
    "cummin": _cumulative(np.minimum),
    "cumlogsumexp": _cumulative(np.logaddexp),
    "sort": _sort,
    "top_k": _top_k,
    "reduce_window_sum": _reduce_window("sum", 0),
    "reduce_window_max": _reduce_window("max", -np.inf),
    "reduce_window_min": _reduce_window("min", np.inf),
    "triangular_solve": _triangular_solve,
    # parts of an unrolled loop
    "loop_index": lambda p, x: x[p["step"]],
    "loop_stack": lambda p, *xs: np.stack(xs) if xs else np.zeros((0, *p["shape"])),
}  # fmt: skip

FUNCTIONS = {"exp_neg_sq"}
"""Functions of JAX's own that stand for one equation, though they are calls."""

DRAWS = frozenset(("random_bits", "random_gamma", "rng_bit_generator", "rng_uniform"))
"""Primitives that draw random numbers: others in another dtype."""

LEFT_TO_JAX: dict[str, str] = {
    **dict.fromkeys(
        (
            "conv_general_dilated", "ragged_dot_general", "cholesky", "cholesky_update", "lu", "svd", "eig", "eigh",
            "lu_pivots_to_permutation", "qr", "geqrf", "geqp3", "householder_product", "ormqr", "schur", "hessenberg",
            "tridiagonal", "tridiagonal_solve", "symmetric_product", "fft", "select_and_scatter",
            "select_and_scatter_add", "select_and_gather_add",
        ),
        "a whole algorithm: JAX's is the one that the function runs",
    ),
    **dict.fromkeys(
        (
            "bessel_i0e", "bessel_i1e", "igamma", "igammac", "igamma_grad_a", "random_gamma_grad", "zeta",
            "regularized_incomplete_beta", "polynomial",
        ),
        "a special function that JAX computes in float64 as well",
    ),
    **dict.fromkeys(
        (
            "random_clone", "random_fold_in", "random_seed", "random_split", "random_unwrap", "random_wrap",
            "threefry2x32", *DRAWS,
        ),
        "random bits: only JAX has the same",
    ),
    **dict.fromkeys(("bitcast_convert_type", "clz", "empty", "empty2"), "works on the bits of one dtype"),
    **dict.fromkeys(
        (
            "device_put", "sharding_constraint", "layout_constraint", "mesh_cast", "reshard", "pbroadcast", "pvary",
            "pcast", "name",
        ),
        "says where or under which name a value is kept",
    ),
    **dict.fromkeys(
        ("pallas_call", "shard_map", "pure_callback", "io_callback", "debug_callback", "debug_print", "ffi_call"),
        "a program of the user's that only JAX can run",
    ),
}  # fmt: skip
"""Primitives without a value here on purpose → why."""
