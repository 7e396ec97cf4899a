"""The NumPy interpreter against JAX's own evaluation, on jaxprs that cover its primitives, and its error bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxbias import _jaxpr
from jaxbias._jaxpr.in_numpy import LEFT_TO_JAX, VALUE
from jaxbias._jaxpr.queries import coarsest_constant
from jaxbias._jaxpr.rounding import error_bounds

RNG = np.random.default_rng(3)
X, Y, SQUARE = (RNG.standard_normal(shape) for shape in ((4, 5), (4, 5), (4, 4)))
POSITIVE, INSIDE = np.abs(X) + 0.3, np.tanh(X) * 0.9
INTEGERS, MORE = RNG.integers(-9, 9, (4, 5)), RNG.integers(1, 7, (4, 5))
IDS = np.array([[3, 0], [1, 1], [0, 2]])
KERNEL = RNG.standard_normal((3, 5, 2))


def elementwise(x, y, p, u):
    one = [jnp.exp, jnp.exp2, jnp.expm1, jnp.sin, jnp.cos, jnp.tan, jnp.arctan, jnp.sinh, jnp.cosh, jnp.tanh]
    one += [
        jnp.arcsinh,
        jnp.abs,
        jnp.sign,
        jnp.floor,
        jnp.ceil,
        jnp.round,
        lax.round,
        jnp.isfinite,
        jax.nn.sigmoid,
        lax.erf,
        lax.erfc,
    ]
    one += [jnp.cbrt, jnp.square, jnp.negative, lambda x: x**3, lambda x: x**-2, jax.nn.gelu]
    of_positive = [
        jnp.log,
        jnp.log1p,
        jnp.log2,
        jnp.sqrt,
        lax.rsqrt,
        lax.lgamma,
        lax.digamma,
        lambda p: jnp.arccosh(1 + p),
    ]
    of_inside = [jnp.arcsin, jnp.arccos, jnp.arctanh, lax.erf_inv]
    two = [jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.maximum, jnp.minimum, jnp.arctan2, lax.rem]
    two += [jnp.equal, jnp.not_equal, jnp.less, jnp.less_equal, jnp.greater, jnp.greater_equal]
    return [
        *(f(x) for f in one), *(f(p) for f in of_positive), *(f(u) for f in of_inside), *(f(x, y) for f in two),
        p**x, jnp.clip(x, -0.5, 0.5), jnp.where(x > y, x, y), lax.select_n(jnp.int32(x > 0) + (x > 1), x, y, p),
    ]  # fmt: skip


def integers(a, b):
    return [
        a & b, a | b, a ^ b, ~a, a << b, a >> b, lax.shift_right_logical(a, b), a // b, a % b,
        lax.div(a, b), lax.rem(a, b), lax.population_count(b), a.argmax(axis=1), a.argmin(axis=0), (a > b).all(axis=0),
        (a > b).any(axis=1), a.astype(float) / 2, (a > 0).astype(int),
    ]  # fmt: skip


def shapes(x, y):
    return [
        x.T, x.reshape(2, 10), jnp.flip(x, 1), jnp.pad(x, ((1, 0), (0, 2))), x[1:4:2, ::2], jnp.concatenate([x, y], 1),
        lax.pad(x, 7.0, ((1, -1, 2), (-2, 3, 0))), jnp.tile(x, (2, 1)), x[:, None], jnp.broadcast_to(x[0], (3, 5)),
        lax.dynamic_slice(x, (2, 3), (2, 3)), lax.dynamic_update_slice(x, y[:2, :2], (3, 1)), jnp.eye(4),
        *jnp.split(x, 5, axis=1), jnp.stack([x, y]), lax.iota(int, 3), jnp.squeeze(x[:1], 0), lax.top_k(x, 2)[0],
    ]  # fmt: skip


def sums(x, y, kernel):
    image = x[None, :, :]
    return [
        x.sum(axis=0), x.prod(axis=1), x.max(axis=1), x.min(axis=0), x @ y.T, jnp.einsum("ij,kj->ki", x, y),
        jnp.einsum("bi,bi->b", x, y), jnp.cumsum(x, 1), lax.cumsum(x, 1, reverse=True), jnp.cumprod(x, 0),
        lax.cummax(x, 1), lax.cummin(x, 0), lax.cumlogsumexp(x, 1), jnp.sort(x, 1), jnp.argsort(x, 0),
        *lax.sort((x, y), num_keys=1), lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 2), "SAME"),
        lax.reduce_window(x, 0.0, lax.add, (2, 3), (2, 1), "VALID"), jax.nn.logsumexp(x, axis=1),
        lax.conv_general_dilated(image, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
    ]  # fmt: skip


def indices(x, ids, y):
    out = jnp.zeros_like(x)
    return [
        x[ids], x[:, ids[:, 0]], jnp.take(x, ids + 7, axis=0, mode="fill"), jnp.take(x, ids, axis=0, mode="clip"),
        out.at[ids[:, 0]].add(y[:3]), out.at[ids[:, 0]].set(2.0), out.at[ids[:, 0]].max(y[:3]),
        out.at[ids[:, 0], ids[:, 1]].multiply(3.0), out.at[ids[:, 0]].subtract(y[:3]),
        jnp.take_along_axis(x, ids[:, :1].T, axis=1),
        out.at[ids[:, 1], 2:4].min(y[:3, :2]), jax.ops.segment_sum(y[:3], ids[:, 1], 4),
    ]  # fmt: skip


def loop(x):
    return [lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, x[0])]


def control(x, square):
    def step(carry, row):
        return jnp.tanh(carry + row), carry.sum()

    last, all_sums = lax.scan(step, jnp.ones(5), x)
    return [
        last, all_sums, lax.fori_loop(0, 3, lambda i, v: v * 0.5 + i, x), lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
        lax.map(lambda row: row * row.sum(), x),
        solve_triangular(jnp.tril(square) + 3 * jnp.eye(4), x, lower=True),
        solve_triangular(jnp.triu(square) + 3 * jnp.eye(4), x, trans=1), jnp.linalg.inv(square + 4 * jnp.eye(4)),
    ]  # fmt: skip


CASES = {
    "elementwise": (elementwise, (X, Y, POSITIVE, INSIDE)),
    "integers": (integers, (INTEGERS, MORE)),
    "shapes": (shapes, (X, Y)),
    "sums": (sums, (X, Y, KERNEL)),
    "indices": (indices, (X, IDS, Y)),
    "control flow and solves": (control, (X, SQUARE)),
    "a loop without a gradient": (loop, (X,)),
}
WITH_GRADIENT = [name for name in CASES if name not in ("integers", "a loop without a gradient")]


NOT_IN_CASES = {
    "complex", "real", "imag", "conj", "eq_to", "le_to", "lt_to", "nextafter", "copy", "reduce_precision",
    "reduce_window_min", "optimization_barrier", "clamp", "exp_neg_sq", "stack", "unstack", "one_minus_square", "log2",
}  # fmt: skip
"""Primitives that the cases reach in one release or in none; `test_the_others` evaluates them."""


@pytest.fixture(autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_jax(name):
    function, args = CASES[name]
    program = _jaxpr.trace(function, *args)
    got, expected = _jaxpr.run(program, args), jax.jit(function)(*args)
    assert len(got) == len(expected)
    for k, (g, e) in enumerate(zip(got, expected)):
        assert np.shape(g) == e.shape, (name, k)
        assert np.allclose(g, e, rtol=1e-12, atol=1e-12, equal_nan=True), (name, k)


def gradient_of(function, args):
    """Gradient of a weighted sum of the float outputs, and the float arguments."""
    floats = [k for k, x in enumerate(args) if x.dtype.kind == "f"]

    def total(*some):
        full = list(args)
        for k, x in zip(floats, some):
            full[k] = x
        outs = [o for o in function(*full) if jnp.issubdtype(o.dtype, jnp.floating)]
        return sum((jnp.cos(jnp.arange(o.size).reshape(o.shape)) * o).sum() for o in outs)

    gradient = jax.grad(total, tuple(range(len(floats))))
    return lambda *some: list(gradient(*some)), [args[k] for k in floats]


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_gradients_are_those_of_jax(name):
    gradient, chosen = gradient_of(*CASES[name])
    program = _jaxpr.trace(gradient, *chosen)
    for g, e in zip(_jaxpr.run(program, chosen), jax.jit(gradient)(*chosen)):
        assert np.allclose(g, e, rtol=1e-9, atol=1e-10, equal_nan=True)


def every_name(program):
    for equation in program.equations:
        yield equation.name
        for body in (*equation.bodies, equation.test):
            yield from every_name(body) if body else ()


def test_every_value_is_compared_with_that_of_jax():
    reached = set()
    for name, (function, args) in CASES.items():
        reached.update(every_name(_jaxpr.trace(function, *args)))
        if name in WITH_GRADIENT:
            gradient, chosen = gradient_of(function, args)
            reached.update(every_name(_jaxpr.trace(gradient, *chosen)))
    assert reached - LEFT_TO_JAX.keys() - {"scan", "while", "cond"} <= VALUE.keys()
    assert VALUE.keys() - reached - NOT_IN_CASES == set(), "add a line to the cases above"


@pytest.mark.parametrize("rounded", [False, True])
def test_the_others(rounded):
    x = np.array([0.5, -1.25, 3.0])

    def function(x):
        z = lax.complex(x, 2 * x)
        shown = lax.optimization_barrier((x, lax.clamp(-1.0, x, 1.0)))
        smallest = lax.reduce_window(x, np.inf, lax.min, (2,), (1,), "VALID")
        return [
            lax.real(z), lax.imag(lax.conj(z)), lax.nextafter(x, 2 * x), jnp.array(x, copy=True), *shown, smallest,
            lax.reduce_precision(x, 11, 52), jnp.stack([x, x]), jnp.sort(x), jnp.isnan(x),
        ]  # fmt: skip

    program = _jaxpr.trace(function, x)
    for ours, theirs in zip(_jaxpr.run(program, [x], rounded), jax.jit(function)(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)


@pytest.mark.parametrize("name", ["elementwise", "sums"])
def test_bounds_hold_for_float32(name):
    """A float64 evaluation whose results are rounded to float32 stays within a few times the first-order bound."""
    function, args = CASES[name]
    narrow = [x.astype(np.float32) for x in args]
    program = _jaxpr.trace(function, *narrow)
    values = _jaxpr.evaluate(program, narrow)
    rounded = _jaxpr.evaluate(program, narrow, rounded=True)
    bounds = error_bounds(program, values, float(np.finfo(np.float32).eps))
    for number in program.outputs:
        if np.issubdtype(np.asarray(values[number]).dtype, np.floating):
            off = np.abs(rounded[number] - values[number])
            assert np.all(bounds[number] >= 0) and np.all(off <= 4 * bounds[number])


def test_the_imaginary_part_has_the_error_of_the_number():
    program = _jaxpr.trace(lambda x, y: [lax.imag(lax.complex(x, y) * lax.complex(y, x))], 1.1, 2.3)
    bounds = error_bounds(program, _jaxpr.evaluate(program, [1.1, 2.3]), 2.0**-24)
    assert bounds[program.outputs[0]] > 1e-8


def test_an_infinity_is_exact():
    program = _jaxpr.trace(lambda x: [jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf))], X)
    bounds = error_bounds(program, _jaxpr.evaluate(program, [X]), 2.0**-53)
    assert np.all(bounds[program.outputs[0]] < 1e-14)


def test_a_masked_score_does_not_make_a_maximum_uncertain():
    masked = lambda x: jnp.where(x > 0, x, -1e30)
    x = np.abs(X) * np.where(np.arange(5) < 2, 1, -1)
    function = lambda x: [jax.nn.softmax(masked(x)), jnp.clip(masked(x), -1, 1), lax.top_k(masked(x), 1)[0]]
    program = _jaxpr.trace(function, x)
    bounds = error_bounds(program, _jaxpr.evaluate(program, [x]), 2.0**-53)
    assert all(np.all(bounds[number] < 1e-14) for number in program.outputs)


def test_two_vectors_give_a_scalar_and_a_singular_system_no_number():
    program = _jaxpr.trace(lambda x, a: [x @ a @ x, jnp.linalg.inv(a)], X[0, :4], SQUARE)
    scalar, inverse = _jaxpr.run(program, [X[0, :4], SQUARE])
    np.testing.assert_allclose(scalar, X[0, :4] @ SQUARE @ X[0, :4], rtol=1e-12)
    np.testing.assert_allclose(inverse, np.linalg.inv(SQUARE), rtol=1e-9)
    assert not np.any(np.isfinite(_jaxpr.run(program, [X[0, :4], np.zeros((4, 4))])[1]))


def test_a_scalar_that_was_float32_is_known_by_its_digits():
    coarse = lambda c: coarsest_constant(_jaxpr.trace(lambda x: [x * c], X))
    assert coarse(np.float32(0.1)) > 1e-8
    assert all(coarse(c) < 1e-15 for c in (0.1, 0.5, 1e-5, -1e9, 1 / 3, float("inf")))
