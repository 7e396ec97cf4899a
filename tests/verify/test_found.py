"""Mistakes found in published rules (docs/found.md), as small copies: each is found, named, and right when mended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import lu, solve_triangular

from jaxbias import verify


def report_of(forward, rule, *args):
    return verify.vjp(forward, jax.jit(rule), tuple(np.asarray(x, np.float32) for x in args))


def told(report, leaf):
    """The kind of mistake that the report names for a gradient."""
    return [d.kind for d in report.diagnoses if leaf in d.leaf.split(", ")]


# --- jax.numpy.linalg.det ---------------------------------------------------------------------------------------------


def cofactors(a):
    minor = lambda i, j: jnp.delete(jnp.delete(a, i, 0), j, 1)
    return jnp.array([[(-1) ** (i + j) * det(minor(i, j)) for j in range(len(a))] for i in range(len(a))])


def det(a):
    if len(a) == 1:
        return a[0, 0]
    return sum((-1) ** i * a[i, 0] * det(jnp.delete(jnp.delete(a, i, 0), 0, 1)) for i in range(len(a)))


def det_by_lu(args, ct):
    """Puts a number in the place of the last pivot alone, though another may be the one that is zero."""
    (a,) = args
    p, lower, upper = lu(a)
    sign = det(p)
    pivots = jnp.diagonal(upper)
    upper = upper.at[-1, -1].set(1 / (sign * jnp.prod(pivots[:-1])))
    x = solve_triangular(lower, p.T, lower=True, unit_diagonal=True)
    x = jnp.concatenate([x[:-1] * sign * jnp.prod(pivots), x[-1:]])
    x = solve_triangular(upper, x)
    return (ct * jnp.where(jnp.all(jnp.isfinite(x)), x, 0.0).T,)


def det_by_cofactors(args, ct):
    return (ct * cofactors(args[0]),)


FIRST_PIVOT_ZERO = np.array([[0.0, 1.0], [0.0, 2.0]])


def test_det_of_a_matrix_whose_first_pivot_is_zero():
    report = report_of(det, det_by_lu, FIRST_PIVOT_ZERO)
    assert report.verdict == "wrong"
    assert "proved different" in report.evidence
    assert told(report, "a") == ["only-some-elements"]
    assert report_of(det, det_by_cofactors, FIRST_PIVOT_ZERO).verdict == "right"


@pytest.mark.parametrize("at", [FIRST_PIVOT_ZERO, np.array([[0.3, -1.2], [0.7, 0.4]])])
def test_det_of_the_installed_jax(at):
    """At a regular matrix the checker's own probes find what is wrong at singular ones, in releases where it is."""
    with jax.numpy_dtype_promotion("standard"):
        by_rule = np.asarray(jax.grad(jnp.linalg.det)(FIRST_PIVOT_ZERO))
    rule = lambda args, ct: jax.vjp(jnp.linalg.det, *args)[1](ct)
    report = verify.vjp(det, rule, (at,), diagnose=False)
    assert report.ok == np.array_equal(by_rule, [[2.0, 0.0], [-1.0, 0.0]])
    assert report.ok or "proved different" in report.evidence


# --- tensorflow_probability: hpsd_quadratic_form_solve ----------------------------------------------------------------

B, Y = np.random.default_rng(3).standard_normal((2, 2, 2))


def inverse(m):
    m = m @ m.T + jnp.eye(2, dtype=m.dtype)
    return jnp.array([[m[1, 1], -m[0, 1]], [-m[1, 0], m[0, 0]]]) / (m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0])


def quadratic_form(m, y):
    return y.T @ inverse(m) @ y


def quadratic_form_rule(of_cotangent):
    def rule(args, ct):
        m, y = args
        solved = inverse(m) @ y
        inner = -solved @ ct @ solved.T
        return (inner + inner.T) @ m, solved @ of_cotangent(ct)

    return rule


@pytest.mark.slow
def test_quadratic_form_with_the_cotangent_taken_twice_in_place_of_it_and_its_transpose():
    report = report_of(quadratic_form, quadratic_form_rule(lambda ct: 2 * ct), B, Y)
    assert report.verdict == "wrong"
    assert report.leaves["m"].ok
    assert told(report, "y"), report
    assert report_of(quadratic_form, quadratic_form_rule(lambda ct: ct + ct.T), B, Y).ok


# --- numpyro: DoublyTruncatedPowerLaw.log_prob ------------------------------------------------------------------------


def log_power_law(x, alpha, low, high):
    n = 1 + alpha
    return jnp.log(x**alpha * n / (high**n - low**n))


def power_law_rule(density_for_its_logarithm):
    def rule(args, ct):
        x, alpha, low, high = args
        n = 1 + alpha
        a, b = low**n, high**n
        to_low, to_high = n * low**alpha / (b - a), -n * high**alpha / (b - a)
        if density_for_its_logarithm:
            density = n * x**alpha / (b - a)
            to_low, to_high = density * to_low, -density * to_high
        to_alpha = jnp.log(x) + 1 / n + (a * jnp.log(low) - b * jnp.log(high)) / (b - a)
        return ct * alpha / x, ct * to_alpha, ct * to_low, ct * to_high

    return rule


def test_power_law_with_the_density_differentiated_in_place_of_its_logarithm():
    at = 1.8, 0.7, 0.6, 3.1
    report = report_of(log_power_law, power_law_rule(True), *at)
    assert [path for path, leaf in report.leaves.items() if not leaf.ok] == ["low", "high"]
    assert told(report, "low") and told(report, "high")
    assert report_of(log_power_law, power_law_rule(False), *at).ok


# --- ott: softmin -----------------------------------------------------------------------------------------------------


def softmin(x, gamma):
    return -gamma * jax.scipy.special.logsumexp(x / -gamma)


def softmin_rule(whole):
    def rule(args, ct):
        x, gamma = args
        p = jax.nn.softmax(x / -gamma)
        return ct * p, ct * (softmin(x, gamma) - p @ x) / gamma if whole else None

    return rule


def test_softmin_whose_gamma_is_detached():
    report = report_of(softmin, softmin_rule(whole=False), [0.3, -1.2, 0.8, 0.1], 0.7)
    assert report.leaves["x"].ok
    assert told(report, "gamma") == ["detached"]
    assert report_of(softmin, softmin_rule(whole=True), [0.3, -1.2, 0.8, 0.1], 0.7).ok


# --- ott: fixpoint_iter_backprop --------------------------------------------------------------------------------------


def two_steps(x, a):
    for _ in range(2):
        x = jnp.sin(a * x)
    return x


def two_steps_rule(first):
    """Pulls the cotangent back through the stored states, from position `first` downwards."""

    def rule(args, ct):
        x, a = args
        states = [x]
        for _ in range(2):
            states.append(jnp.sin(a * states[-1]))
        to_a = 0.0
        for k in range(2):
            state = states[first - k]
            slope = jnp.cos(a * state) * ct
            ct, to_a = slope * a, to_a + slope * state
        return ct, to_a

    return rule


@pytest.mark.slow
def test_loop_whose_states_are_read_from_the_first_on():
    report = report_of(two_steps, two_steps_rule(first=0), 0.6, 1.2)
    assert report.verdict == "wrong"
    assert told(report, "x") and told(report, "a")
    assert report_of(two_steps, two_steps_rule(first=1), 0.6, 1.2).verdict == "right"


# --- jax.scipy.special.spence -----------------------------------------------------------------------------------------


def two_branches(guarded):
    """`where` chooses the branch, but the derivative of the other one is 0 · NaN."""

    def function(x):
        inside = jnp.where(x < 0.5, x, 0.5) if guarded else x
        return jnp.where(x < 0.5, jnp.log(x) * jnp.log(1 - inside), x * x)

    return function


def test_spence_whose_other_branch_is_nan():
    at = (np.array([0.2, 1.6]),)
    with pytest.raises(AssertionError, match="not finite"):
        verify.check_grads(two_branches(guarded=False), at, order=1, modes="rev")
    verify.check_grads(two_branches(guarded=True), at, order=1, modes="rev")
