"""Probes beyond the domain of a rule: what is excused there, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from tests.verify.test_verdict import check_grads_unnamed, normal, with_rule_scaled


def chebyshev(x):
    def step(pair, _):
        a, b = pair
        return (b, 2 * x * b - a), None

    return lax.scan(step, (jnp.ones_like(x), x), None, length=5)[0][1]


def in_closed_form(args, ct):
    angle = jnp.arccos(args[0])
    return (ct * 6 * jnp.sin(6 * angle) / jnp.sin(angle),)


def exponential(x):
    term = total = jnp.ones_like(x)
    for k in range(1, 15):
        term = term * x / k
        total = total + term
    return total


def fixed_point(w, x):
    return lax.scan(lambda z, _: (jnp.tanh(w @ z + x), None), jnp.zeros_like(x), None, length=40)[0]


def of_the_limit(args, ct):
    w, x = args
    z = fixed_point(w, x)
    slope = 1 - z * z
    v = jnp.linalg.solve((jnp.eye(len(x), dtype=x.dtype) - slope[:, None] * w).T, ct)
    return jnp.outer(slope * v, z), slope * v


def schulz(a):
    x = a.T / (jnp.max(jnp.sum(jnp.abs(a), 0)) * jnp.max(jnp.sum(jnp.abs(a), 1)))
    for _ in range(15):
        x = 2 * x - x @ a @ x
    return x


def of_the_inverse(args, ct):
    x = jnp.linalg.inv(args[0]).T
    return (-x @ ct @ x,)


X = jnp.asarray([-0.3, 0.6, 0.1, -0.8], jnp.float32)
W = jnp.asarray([[0.5, -0.6], [0.3, 0.7]], jnp.float32)
A = jnp.asarray([[2.1, -0.3], [0.4, 1.7]], jnp.float32)


@pytest.mark.parametrize(
    ("forward", "rule", "args", "beyond"),
    [
        (chebyshev, in_closed_form, (X,), "gives no number"),
        (exponential, lambda args, ct: (ct * jnp.exp(args[0]),), (X,), "differs by up to"),
        (fixed_point, of_the_limit, (W, X[1:3]), "differs by up to"),
    ],
    ids=["closed form", "series", "implicit"],
)
def test_what_a_rule_is_right_for_is_the_users(forward, rule, args, beyond):
    report = verify.vjp(forward, rule, args, diagnose=False)
    assert report.verdict == "right"
    assert any("right as given and near it" in note and beyond in note for note in report.notes)


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_a_factor_is_wrong_on_the_domain_too(factor):
    once = lambda args, ct: (factor * in_closed_form(args, ct)[0],)
    assert verify.vjp(chebyshev, once, (X,), diagnose=False).verdict == "wrong"
    twice = lambda args, ct: tuple(factor * g for g in of_the_limit(args, ct))
    assert verify.vjp(fixed_point, twice, (W, X[1:3]), diagnose=False).verdict == "wrong"


def clipped(x):
    return jnp.where(jnp.abs(x) < 1, 0.3 * x * x, 2 * x)


def in_one_branch(args, ct):
    return (0.6 * args[0] * ct,)


def with_rounded_constants(x):
    return jnp.where(x < 1, x * float(np.sqrt(2 / np.pi)), x)


def far_off(x):
    return jnp.where(x > 20, 2 * x, x)


def normalised(x):
    return x / jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-12)


def without_epsilon(args, ct):
    (x,) = args
    r = jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True))
    return ((ct - x * jnp.sum(x * ct, axis=1, keepdims=True) / r**2) / r,)


@pytest.mark.parametrize(
    ("forward", "rule", "args"),
    [
        (clipped, in_one_branch, (X,)),
        (with_rounded_constants, lambda args, ct: (ct * 0.7978846,), (X,)),
        (far_off, lambda args, ct: (ct,), (X,)),
        (normalised, without_epsilon, (X.reshape(2, 2),)),
        (jnp.linalg.det, lambda args, ct: (ct * jnp.linalg.det(args[0]) * jnp.linalg.inv(args[0]).T,), (A,)),
        (schulz, of_the_inverse, (A,)),
        (lambda x: x**4, lambda args, ct: (4 * ct * args[0] ** 5 / args[0] ** 2,), (X,)),
    ],
    ids=[
        "other branch",
        "other branch, rounded constant",
        "far branch",
        "lost ε",
        "singular matrix",
        "singular limit",
        "0/0",
    ],
)
def test_a_mistake_off_the_given_values_is_none_of_the_domain(forward, rule, args):
    assert verify.vjp(forward, rule, args, diagnose=False).verdict == "wrong"


def test_places_that_are_set_twice_are_no_points_to_judge_a_rule_at():
    """With repeated indices JAX leaves open which number stays; where they are added, each counts."""
    x, v = jax.random.normal(jax.random.key(1), 6, jnp.float32), jnp.array([0.3, -1.2], jnp.float32)
    args = x, jnp.array([4, 1]), v
    rule = lambda args, ct: (ct.at[args[1]].set(0), None, ct[args[1]])
    assert verify.vjp(lambda x, i, v: x.at[i].set(v), rule, args).verdict == "right"
    not_masked = lambda args, ct: (ct, None, ct[args[1]])
    assert verify.vjp(lambda x, i, v: x.at[i].set(v), not_masked, args, diagnose=False).verdict == "wrong"
    last_stays = lambda args, ct: (jnp.zeros_like(args[0]).at[args[1]].set(ct), None)
    assert verify.vjp(lambda x, i: x[i], last_stays, args[:2], diagnose=False).verdict == "wrong"


KEPT_PROMISES = {
    "read once": (
        lambda x, i: x.at[i].get(unique_indices=True),
        lambda args, ct: (jnp.zeros_like(args[0]).at[args[1]].set(ct), None),
        (normal(1, 6), jnp.array([4, 1, 2])),
    ),
    "rows multiplied once": (
        lambda x, i, v: x.at[i].multiply(v, unique_indices=True),
        lambda args, ct: (ct.at[args[1]].multiply(args[2]), None, ct[args[1]] * args[0][args[1]]),
        (normal(2, 4, 3).astype(jnp.float64), jnp.array([3, 0]), normal(3, 2, 3).astype(jnp.float64)),
    ),
    "between borders": (
        lambda low, x, high: lax.clamp(low, jnp.sin(x), high),
        lambda args, ct: between(*args, ct),
        (jnp.full((), -0.5, jnp.float32), normal(4, 3, 2), jnp.full((), 0.3, jnp.float32)),
    ),
    "between borders of each": (
        lambda low, x, high: lax.clamp(low, jnp.sin(x), high),
        lambda args, ct: between(*args, ct),
        (-jnp.abs(normal(5, 5)), normal(6, 5), jnp.abs(normal(7, 5))),
    ),
}


def between(low, x, high, ct):
    """As all who clip write it: what is below the lower border is not above the upper one."""
    below, above = jnp.where(jnp.sin(x) < low, ct, 0), jnp.where(jnp.sin(x) > high, ct, 0)
    inside = jnp.where((jnp.sin(x) >= low) & (jnp.sin(x) <= high), ct * jnp.cos(x), 0)
    below, above = (part if low.ndim else part.sum() for part in (below, above))
    return below, inside, above


@pytest.mark.parametrize("name", KEPT_PROMISES)
def test_what_a_call_promises_holds_at_every_probe(name):
    """Indices that are unique by what the call says never repeat, and no lower border is above the upper one."""
    forward, rule, args = KEPT_PROMISES[name]
    report = verify.vjp(forward, rule, args, diagnose=False)
    assert report.ok, report
    for k in [k for k, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating)]:
        wrong = lambda args, ct, k=k: tuple(g if j != k else 1.01 * g for j, g in enumerate(rule(args, ct)))
        assert verify.vjp(forward, wrong, args, diagnose=False).verdict == "wrong", k


def test_a_mistake_in_a_narrow_branch_is_found_between_borders_too():
    """The borders stay as they are where the values that are searched for cross them."""
    forward = lambda low, x, high: lax.clamp(low, jnp.where((x > 5.0) & (x < 5.5), x * x / 5, x), high)
    low, high = jnp.array([-2.0, -3.0, -2.5], jnp.float32), jnp.array([7.0, 9.0, 8.0], jnp.float32)

    def rule(args, ct, curved):
        (low, x, high), out = args, forward(*args)
        inside = jnp.where((out > low) & (out < high), ct * jnp.where((x > 5.0) & (x < 5.5), curved * x, 1.0), 0)
        return jnp.where(x < low, ct, 0), inside, jnp.where(out >= high, ct, 0)

    judged = lambda c: verify.vjp(forward, lambda *a: rule(*a, c), (low, normal(8, 3), high), diagnose=False).verdict
    assert judged(2 / 5).startswith("right")
    assert judged(3 / 7) == "wrong"


@pytest.mark.parametrize(("shape", "dtype"), [((4,), jnp.float32), ((3, 2), jnp.float64)])
def test_products_of_segments_that_are_said_to_be_unique(shape, dtype):
    segments = jnp.array([2, 0, 1, 3])[: shape[0]]
    f = lambda x: jax.ops.segment_prod(jnp.sin(x), segments, 4, unique_indices=True)
    of_segments = lambda x, n: jax.ops.segment_prod(jnp.sin(x), n, 4, unique_indices=True)
    x = normal(1, *shape).astype(dtype)
    check_grads_unnamed(of_segments, (x, segments))
    with pytest.raises(AssertionError):
        check_grads_unnamed(with_rule_scaled(f, 1.001), (x,))


def log_odds(x):
    return jnp.log(x) - jnp.log1p(-x)


def test_a_forward_of_a_bounded_domain_is_asked_at_more_than_the_given_values():
    """Values as they are drawn lie beyond 1; those on the way there do not."""
    x = np.array([0.97, 0.6, 0.95, 0.8, 0.99, 0.9, 0.7, 0.98, 0.93, 0.85, 0.96, 0.92], np.float32)
    right = verify.vjp(log_odds, lambda args, ct: (ct / (args[0] * (1 - args[0])),), (x,), diagnose=False)
    assert right.verdict == "right" and any("of the way" in name for name in right.probes), right.probes
    at_these = lambda args, ct: (ct / (x * (1 - args[0])),)
    assert verify.vjp(log_odds, at_these, (x,), diagnose=False).verdict == "wrong"


def test_elements_that_autodiff_gives_nowhere_are_counted():
    at_the_border = np.array([[0.0, 0.3], [0.0, 2.0]], np.float32)  # a triangular matrix keeps its zeros
    rule = lambda args, ct: (0.5 * ct / jnp.sqrt(args[0]),)
    report = verify.vjp(jnp.sqrt, rule, (at_the_border,), diagnose=False)
    assert report.verdict == "reference undefined" and any("in 2 of 4 elements" in note for note in report.notes), (
        report
    )


@pytest.mark.parametrize("scale", [1e-4, 1e-6])
def test_weights_near_zero_hide_no_curvature(scale):
    w, x = (jax.random.normal(jax.random.key(k), shape, jnp.float32) for k, shape in [(2, (3, 4)), (3, (4, 5))])
    w = w * jnp.float32(scale)
    linear = lambda args, ct: (ct @ args[1].T, args[0].T @ ct)
    assert verify.vjp(lambda w, x: jnp.tanh(w @ x), linear, (w, x), diagnose=False).verdict == "wrong"


def test_the_first_of_ordered_values_moves_too():
    knots = np.array([0.5, 1.0, 2.5, 3.0], np.float32)
    held = lambda args, ct: (jnp.stack([2 * ct[0] * 0.5, *(2 * ct * args[0])[1:]]),)
    assert verify.vjp(lambda x: x * x, held, (knots,), diagnose=False).verdict == "wrong"


# --- given values at the border of the forward's domain ---------------------------------------------------------------

AT_THE_BORDER = {
    "arctanh": (jnp.arctanh, [-1.0, -0.99, 0.1, 0.5, 0.9999], lambda x: 1 / ((1 - x) * (1 + x))),
    "log": (jnp.log, [0.0, 0.2, 3.0], lambda x: 1 / x),
    "arcsin": (jnp.arcsin, [0.3, 1.0], lambda x: 1 / jnp.sqrt((1 - x) * (1 + x))),
    "root": (jnp.sqrt, [0.0, 0.0, 2.0], lambda x: 0.5 / jnp.sqrt(x)),
}


@pytest.mark.parametrize("name", AT_THE_BORDER)
def test_entries_at_the_border_of_the_domain_are_compared_inside_of_it(name):
    """A rule is judged where there is a derivative; what it gives at the border itself is its own affair."""
    forward, values, slope = AT_THE_BORDER[name]
    x = jnp.asarray(values, jnp.float32)
    at_the_border = ~np.isfinite(slope(x))
    judged = lambda rule: verify.vjp(lambda x: forward(x), rule, (x,), diagnose=False)
    assert judged(lambda args, ct: (ct * slope(args[0]),)).ok
    assert judged(lambda args, ct: (jnp.where(jnp.isfinite(slope(args[0])), ct * slope(args[0]), 0),)).ok
    report = judged(lambda args, ct: (ct * slope(args[0]) * jnp.where(at_the_border, 1.01, 1).astype(ct.dtype),))
    wrong = report.leaves["x"].wrong
    assert report.verdict == "wrong" and wrong is not None
    assert np.any(wrong) and not np.any(wrong & ~at_the_border), report


# --- symmetric matrices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_right_at_symmetric_matrices_only(key, symmetric):
    """Such a rule is right on its domain; but one that forgot a transpose must not pass without a word."""
    a = jax.random.normal(key, (3, 3), jnp.float32) + 3 * jnp.eye(3, dtype=jnp.float32)
    a = (a + a.T) / 2 if symmetric else a
    x = jnp.arange(1.0, 4.0, dtype=jnp.float32)
    inverse = lambda args, ct: -jnp.linalg.inv(args[0]).T @ ct @ jnp.linalg.inv(args[0]).T
    rules = {
        "inverse": (jnp.linalg.inv, lambda args, ct: (inverse(args, ct.T).T,), (a,), "a"),
        "quadratic form": (
            lambda a, x: x @ a @ x,
            lambda args, ct: (ct * jnp.outer(args[1], args[1]), 2 * ct * args[0] @ args[1]),
            (a, x),
            "x",
        ),
    }
    for forward, rule, args, leaf in rules.values():
        report = verify.vjp(forward, rule, args, diagnose=False)
        assert report.verdict == ("right" if symmetric else "wrong")
        noted = [note for note in report.notes if note.startswith(f"{leaf}: right where a is symmetric, as given")]
        assert len(noted) == symmetric, report
    assert not verify.vjp(jnp.linalg.inv, lambda args, ct: (inverse(args, ct),), (a,)).notes


def test_labels_that_are_ignored_keep_their_places():
    """A label behind an ignored one is no input of a sequence model."""

    def of_labels(scores, labels):
        return jnp.where(labels >= 0, jnp.take_along_axis(scores, jnp.maximum(labels, 0)[:, None], 1)[:, 0], 0)

    def rule(args, ct):
        scores, labels = args
        length = jnp.sum(labels >= 0)  # right as long as they stand at the end
        return (jnp.where(jnp.arange(6) < length, ct, 0)[:, None] * jax.nn.one_hot(labels, 3, dtype=ct.dtype), None)

    given = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)), jnp.float32), jnp.array([2, 0, 1, 1, -1, -1])
    assert verify.vjp(of_labels, rule, given).verdict == "right"
