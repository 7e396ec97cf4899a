"""Judged by what rounding was seen to lose, and by enclosures that nearly could not be had."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxbias import verify
from jaxbias.verify import checker
from tests.verify.test_verdict import normal, scaled

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def deep(x, *weights):
    for w in weights:
        x = jnp.sin(x @ w)
    return x


def last_one_scaled(factor):
    def rule(args, ct):
        *others, last = jax.vjp(deep, *args)[1](ct)
        return *others, last * factor

    return rule


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_a_deep_network_is_decided_though_its_bound_says_nothing(monkeypatch, dtype):
    monkeypatch.setattr(checker, "PER_SECOND", 1)  # as if it were too large for enclosures
    args = normal(3, 3, 12).astype(dtype), *(normal(1, 10, 12, 12) / 3.5).astype(dtype)
    report = verify.vjp(deep, last_one_scaled(1.0), args, diagnose=False)
    assert report.verdict == "right" and "what rounding was seen to lose" in report.evidence, report
    for factor in (1.01, -1.0):
        assert verify.vjp(deep, last_one_scaled(factor), args, diagnose=False).verdict == "wrong", factor


HALF = np.asarray(0.6 * normal(4, 4, 4)).astype(ml_dtypes.bfloat16)


def thrice(x):
    for _ in range(3):
        x = jnp.tanh(x @ jnp.asarray(HALF).astype(x.dtype))
    return x


@pytest.mark.parametrize("factor", [1.0, 1.003, 0.98])
def test_an_array_in_half_precision_that_both_close_over_is_one_array(factor):
    """As the reals that round to it, it would explain a few percent."""
    report = verify.vjp(thrice, scaled(thrice, factor), (normal(5, 3, 4),), diagnose=False)
    assert report.verdict == ("right" if factor == 1.0 else "wrong"), report


def log_determinant(a):
    return jnp.log(jnp.linalg.eigvalsh((a + a.T) / 2)).sum()


def sum_of_singular_values(a):
    return jnp.linalg.svd(a, compute_uv=False).sum()


def by_inverse(args, ct):
    return (ct * jnp.linalg.inv((args[0] + args[0].T) / 2),)


def by_polar_factor(args, ct):
    u, _, vt = jnp.linalg.svd(args[0])
    return (ct * u @ vt,)


@pytest.mark.parametrize(
    ("forward", "rule"), [(log_determinant, by_inverse), (sum_of_singular_values, by_polar_factor)]
)
def test_equal_eigenvalues(forward, rule):
    args = (2 * np.eye(3, dtype=np.float32),)
    assert verify.vjp(forward, rule, args, diagnose=False).verdict == "right"
    wrong = lambda args, ct: (1.01 * rule(args, ct)[0],)
    assert verify.vjp(forward, wrong, args, diagnose=False).verdict == "wrong"
