"""Ties and kinks: what a convention may be, what it excuses and what it does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from tests.verify.test_verdict import check_grads_unnamed, normal, scaled, with_rule_scaled

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


@pytest.mark.parametrize("at_the_border", [0.0, 0.5, 1.0])
def test_a_tie_that_persists_when_x_moves(at_the_border):
    through = lambda x: jnp.clip(x + lax.stop_gradient(jnp.round(x) - x), -2.0, 2.0)

    def rule(args, ct):
        rounded = jnp.abs(jnp.round(args[0]))
        return (ct * jnp.where(rounded < 2, 1.0, jnp.where(rounded == 2, at_the_border, 0.0)),)

    assert verify.vjp(through, rule, (2 * normal(1, 5, 3),)).verdict in ("right", "right up to convention")
    no_mask = verify.vjp(through, lambda args, ct: (ct,), (2 * normal(1, 5, 3),), diagnose=False)
    assert no_mask.verdict == "wrong"


def test_a_steep_derivative_is_no_kink():
    a = jnp.array([[1.0, 1.0], [1.0, 1.0001]])
    assert verify.vjp(jnp.linalg.inv, scaled(jnp.linalg.inv, 1.001), (a,), diagnose=False).verdict == "wrong"


def test_one_element_beside_a_jump_is_not_excused():
    factors = jnp.array([1.0, 1.0, 1.001, 1.0])
    rule = lambda args, ct: (jnp.where(args[0] > 0, ct, 0) * factors,)
    x = jnp.array([0.0, -0.5, 0.7, 1.3])
    assert verify.vjp(jax.nn.relu, rule, (x,), diagnose=False).verdict == "wrong"


def one_query(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


TIED = {
    "the largest set to it": (lambda x: jnp.zeros(3).at[jnp.array([0, 2, 2, 1])].max(x), (normal(3, 4),)),
    "softmax by its maximum": (lambda x: jnp.log(jnp.exp(x - x.max()).sum()) + x.max(), (normal(3, 4),)),
    "the maximum of nothing": (lambda x: jax.ops.segment_max(x, jnp.array([0, 1, 1, 0]), 3), (normal(3, 4),)),
    "attention": (one_query, tuple(normal(k, 1, 3, 1, 2) for k in range(3))),
}
LONG = ("the largest set to it", "attention")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in TIED])
def test_a_tie_by_construction_excuses_nothing(name):
    """x == max(x) ties wherever x is, and the forward has a slope there."""
    forward, args = TIED[name]
    assert verify.vjp(forward, scaled(forward, 1.0), args).verdict == "right"
    assert verify.vjp(forward, scaled(forward, 1.001), args, diagnose=False).verdict == "wrong"

    def one_element(args, ct):
        first, *others = jax.vjp(forward, *args)[1](ct)
        largest = jnp.argmax(jnp.abs(first))
        return first.ravel().at[largest].multiply(1.001).reshape(first.shape), *others

    assert verify.vjp(forward, one_element, args, diagnose=False).verdict == "wrong"


def around_zero(x):
    return jnp.abs(x) + 0.5 * x * x


def beside_itself(x):
    return x + jnp.maximum(x, lax.stop_gradient(x))


def of_tied_products(x, w):
    return jax.nn.relu(x @ w)


AT_ZERO = np.array([0.0, 1.5, -2.0, 0.0, 0.7], np.float32)
WHOLE = np.round(2 * np.asarray(normal(5, 6, 3))), np.round(2 * np.asarray(normal(6, 3, 4)))


def slope_of_abs(c):
    return lambda args, ct: (ct * (args[0] + jnp.where(args[0] == 0, c, jnp.sign(args[0]))),)


def slope_of_relu(c):
    def rule(args, ct):
        x, w = args
        z = x @ w
        delta = ct * jnp.where(z == 0, c, jnp.where(z > 0, 1.0, 0.0))
        return delta @ w.T, x.T @ delta

    return rule


@pytest.mark.parametrize(
    ("forward", "rule", "args", "inside", "outside"),
    [
        (around_zero, slope_of_abs, (AT_ZERO,), (1.0, 0.5, -1.0), (1.1, -1.02)),
        (beside_itself, lambda c: lambda args, ct: (c * ct,), (AT_ZERO,), (1.0, 1.3, 2.0), (2.02, 0.99)),
        (of_tied_products, slope_of_relu, WHOLE, (0.0, 0.5, 1.0), (1.1, -0.1)),
    ],
    ids=["absolute value", "maximum with a constant", "relu of a product"],
)
def test_a_convention_lies_between_the_one_sided_slopes(forward, rule, args, inside, outside):
    for c in inside:
        assert verify.vjp(forward, rule(c), args, diagnose=False).ok, c
    for c in outside:
        assert verify.vjp(forward, rule(c), args, diagnose=False).verdict == "wrong", c


def test_a_gradient_that_is_neither_the_slope_nor_what_autodiff_gives_is_no_convention():
    """The pivots of a singular matrix tie, autodiff gives zero, and the determinant has a slope all the same."""
    singular = np.array([[1, 0, 2, 1], [2, 0, 1, 3], [1, 0, 5, 4], [3, 0, 1, 7]], np.float32)

    def rule(args, ct, factor=1.0):
        (a,) = args
        rows = np.arange(4)
        minor = lambda i, j: jnp.vdot(a[rows != i][0, rows != j], jnp.cross(*a[rows != i][1:, rows != j]))
        cofactors = jnp.array([[(-1) ** (i + j) * minor(i, j) for j in range(4)] for i in range(4)])
        return (ct * cofactors.at[0, 1].multiply(factor),)

    assert verify.vjp(jnp.linalg.det, rule, (singular,), diagnose=False).ok
    one_element = lambda args, ct: rule(args, ct, 1.01)
    assert verify.vjp(jnp.linalg.det, one_element, (singular,), diagnose=False).verdict == "wrong"


def of_full_rank(args, ct, null_space=1.0):
    (a,) = args
    gram = jnp.linalg.inv(a @ a.T)
    p = a.T @ gram
    outside = jnp.eye(a.shape[1], dtype=a.dtype) - p @ a
    return (-(p.T @ ct @ p.T) + null_space * gram @ ct.T @ outside,)


def test_where_the_forward_jumps_nothing_is_asked_of_a_rule():
    """A pseudoinverse jumps where a rank is lost, and has no derivative there; a norm is continuous at zero."""
    args = (normal(7, 2, 3),)
    report = verify.vjp(jnp.linalg.pinv, of_full_rank, args, diagnose=False)
    assert report.verdict == "right", report
    assert any("gives no number" in note for note in report.notes)
    halved = lambda args, ct: of_full_rank(args, ct, 0.5)
    assert verify.vjp(jnp.linalg.pinv, halved, args, diagnose=False).verdict == "wrong"


FACTORS = {
    "both factors": (lambda a: jnp.linalg.qr(a), (2, 2), jnp.float32),
    "R alone": (lambda a: jnp.linalg.qr(a, mode="r"), (4, 4), jnp.float64),
    "Q of many": (lambda a: jnp.linalg.qr(jnp.sin(a))[0], (2, 2, 2), jnp.float32),
}


@pytest.mark.parametrize("name", FACTORS)
def test_factors_that_are_not_determined_ask_nothing_of_a_rule(name):
    """Of a matrix of lower rank the last column of Q has any sign, and the derivative divides by R."""
    f, shape, dtype = FACTORS[name]
    args = (normal(1, *shape).astype(dtype),)
    check_grads_unnamed(f, args)
    for mode in ("fwd", "rev"):
        with pytest.raises(AssertionError):
            check_grads_unnamed(with_rule_scaled(f, 1.001), args, (mode,))


def test_a_point_that_is_forgotten_beside_determined_factors_is_found():
    smooth = jax.custom_jvp(lambda x: jnp.where(x == 0, 1.0, jnp.sin(x) / x))
    smooth.defjvp(lambda x, t: (smooth(*x), t[0] * (jnp.cos(x[0]) - jnp.sin(x[0]) / x[0]) / x[0]))
    f = lambda a: smooth(a) @ jnp.linalg.qr(a + 9 * jnp.eye(3, dtype=a.dtype))[1]
    with pytest.raises(AssertionError, match="nan, not"):
        check_grads_unnamed(f, (normal(1, 3, 3),))


TIED_IN_THREE = {
    "sorted": lambda x: jnp.sort(x, axis=-1),
    "the second largest": lambda x: lax.top_k(x, 2)[0],
    "median": lambda x: jnp.median(x, axis=-1),
}


@pytest.mark.parametrize("name", TIED_IN_THREE)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_middle_of_three_equal_values_has_no_slope(name, dtype):
    """Along one direction, or two and their sum, it may seem to have one, which is by chance that of another value."""
    f = TIED_IN_THREE[name]
    x = jnp.broadcast_to(jnp.asarray([0.5, -1.0, 2.0, 0.25, -0.75], dtype)[:, None], (5, 3))
    check_grads_unnamed(f, (jnp.concatenate([x, -2 * x, 1 + x]),))
    with pytest.raises(AssertionError):
        check_grads_unnamed(with_rule_scaled(f, 1.001), (x,), ("fwd",))


@pytest.mark.parametrize("small", [2e-4, 1e-6])
def test_a_tie_behind_a_small_cotangent_is_one_too(small):
    """What jumps there is less than a step moves what is smooth beside a large entry."""
    x = jnp.asarray([[0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]], jnp.float32)
    ct = jnp.asarray([1.0, small], jnp.float32)

    def first(args, ct, factor=1.0):
        place = jax.nn.one_hot(args[0].argmax(axis=1), 4, dtype=ct.dtype)
        return (ct[:, None] * place * jnp.asarray([[1.0], [factor]], ct.dtype),)

    judged = lambda rule: verify.vjp(lambda x: x.max(axis=1), rule, (x,), cotangent=ct, diagnose=False).verdict
    assert judged(first) == "right up to convention"
    assert judged(functools.partial(first, factor=1.01)) == "wrong"


@pytest.mark.parametrize("scale", [1e-20, 1e15])
@pytest.mark.parametrize(("at_zero", "verdict"), [(0.0, "right"), (1.0, "right"), (2.0, "wrong")])
def test_a_kink_of_tiny_or_huge_slopes(scale, at_zero, verdict):
    x, scale = jnp.array([0.3, -1.2, 0.0, 0.7], jnp.float32), jnp.float32(scale)
    rule = lambda args, ct: (ct * scale * jnp.where(args[0] == 0, at_zero, args[0] > 0),)
    report = verify.vjp(lambda x: scale * jnp.maximum(x, 0), rule, (x,), diagnose=False)
    assert report.verdict.startswith(verdict), report


@pytest.mark.parametrize(("slope", "verdict"), [(jnp.sign, "right"), (jnp.ones_like, "wrong")])
def test_a_kink_behind_tiny_weights(slope, verdict):
    x, w = normal(1, 3, 4), 1e-18 * normal(2, 4, 2)
    rule = lambda args, ct: (slope(args[0]) * (ct @ args[1].T), jnp.abs(args[0]).T @ ct)
    report = verify.vjp(lambda x, w: jnp.abs(x) @ w, rule, (x, w), diagnose=False)
    assert report.verdict.startswith(verdict), report


def test_a_slope_that_no_enclosure_has_is_not_zero():
    """At a matrix of lower rank the singular vectors of 0 are anything."""
    a = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32)
    rule = lambda factor: lambda args, ct: (factor * jax.vjp(jnp.linalg.pinv, *args)[1](ct)[0],)
    assert verify.vjp(jnp.linalg.pinv, rule(1.0), (a,), diagnose=False).verdict == "right"
    assert verify.vjp(jnp.linalg.pinv, rule(1.001), (a,), diagnose=False).verdict == "wrong"
