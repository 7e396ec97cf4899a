"""Mistakes in a branch that the given values never reach, of forward or rule: far out, near zero, behind an integer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")

X = jnp.asarray(np.random.default_rng(1).standard_normal(6), jnp.float32)


def entry_by_entry(slope):
    return lambda args, ct: (ct * slope(args[0]),)


def growth(x):
    return jnp.expm1(x) / x


def slope_of_growth(x, below, near_zero):
    exact = (jnp.exp(x) * x - jnp.expm1(x)) / jnp.where(x == 0, 1, x) ** 2
    return jnp.where(jnp.abs(x) < below, near_zero, exact)


def choice(x, i):
    return lax.switch(i, [jnp.sin, jnp.cos, lambda x: jnp.exp(-x * x)], x)  # the last has no slope far out


def of_choice(factor):
    slopes = [jnp.cos, lambda x: -jnp.sin(x), lambda x: factor * x * jnp.exp(-x * x)]
    return lambda args, ct: (ct * lax.switch(args[1], slopes, args[0]), None)


def of_log_or_square(factor):
    return entry_by_entry(lambda x: jnp.where(x > 10, factor * x, 1 / (1 + x)))


def log_or_square(x):
    return jnp.where(x > 10, x * x, jnp.log1p(x))


def sech_squared(x):
    return 1 / jnp.cosh(jnp.clip(x, -40, 40)) ** 2


FAR = {
    "a branch of the rule": (jnp.tanh, entry_by_entry(lambda x: jnp.where(jnp.abs(x) > 100, 1, sech_squared(x))), X),
    "a branch below": (
        jax.nn.softplus,
        entry_by_entry(lambda x: jnp.where(x < -40, 1e-3, jax.nn.sigmoid(x))),
        X,
    ),
    "saturated to the wrong side": (
        jax.nn.softplus,
        entry_by_entry(lambda x: jnp.where(x > 60, 0, jax.nn.sigmoid(x))),
        X,
    ),
    "a series": (growth, entry_by_entry(lambda x: slope_of_growth(x, 1e-4, 1 / 3)), X),
    "of positive values": (log_or_square, of_log_or_square(1.0), 0.1 + X * X),
}


@pytest.mark.parametrize("name", FAR)
def test_a_wrong_branch_that_no_given_value_takes(name):
    forward, rule, x = FAR[name]
    assert verify.vjp(forward, rule, (x,), diagnose=False).verdict == "wrong"


RIGHT = {
    "exponentials cut off": (jnp.tanh, entry_by_entry(sech_squared), X),
    "a series": (growth, entry_by_entry(lambda x: slope_of_growth(x, 1e-7, 1 / 2)), X),
    "of positive values": (log_or_square, of_log_or_square(2.0), 0.1 + X * X),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_branch_that_no_given_value_takes(name):
    forward, rule, x = RIGHT[name]
    report = verify.vjp(forward, rule, (x,))
    assert report.verdict == "right", report


def test_a_branch_that_an_integer_chooses():
    given = X, jnp.int32(0)
    assert verify.vjp(choice, of_choice(-2.0), given).verdict == "right"
    assert verify.vjp(choice, of_choice(-1.0), given, diagnose=False).verdict == "wrong"


def test_zeros_that_hide_a_gradient():
    """A product with two zeros has no slope in any entry, as long as both stay."""
    x = jnp.array([1.0, 0, 0, 3, -1], jnp.float32)
    others = jnp.array([[j for j in range(5) if j != i] for i in range(5)])
    assert verify.vjp(jnp.prod, lambda args, ct: (ct * jnp.prod(args[0][others], 1),), (x,)).verdict == "right"
    report = verify.vjp(jnp.prod, lambda args, ct: (0 * args[0],), (x,), diagnose=False)
    assert report.verdict == "wrong", report


REGIONS = {
    "a band": lambda x: (x > 0.5) & (x < 0.6),
    "a band of moduli": lambda x: (jnp.abs(x) > 1.2) & (jnp.abs(x) < 1.3),
    "outside of a band": lambda x: ~((x < 1.1) | (x > 1.2)),
    "the other sign": lambda x: x < 0,
    "rounded": lambda x: jnp.floor(2 * x) == 1,
    "rounded, in a list": lambda x: jnp.searchsorted(jnp.array([-1.0, -0.9]), x) == 1,
}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("given", [jnp.float32(0.3), jnp.array([0.3, 0.9], jnp.float32)], ids=["scalar", "two"])
def test_wrong_in_a_region_that_few_values_meet(given, region):
    rule = entry_by_entry(lambda x: jnp.cos(x) * jnp.where(REGIONS[region](x), 1.02, 1))
    assert verify.vjp(jnp.sin, rule, (given,), diagnose=False).verdict == "wrong"


OF_COMPLEX = {
    "to the left": lambda z: z.real < 0,
    "far from zero": lambda z: jnp.abs(z) > 5,
    "near zero": lambda z: jnp.abs(z) < 0.02,
    "in a ring": lambda z: (jnp.abs(z) > 0.9) & (jnp.abs(z) < 0.92),
    "as a whole": lambda z: jnp.sum(jnp.abs(z)) > 40,
}


@pytest.mark.parametrize("region", OF_COMPLEX)
@pytest.mark.parametrize("given", [0.7 + 0.8j, [0.7 + 0.8j, 1.1 + 0.3j]], ids=["scalar", "two"])
def test_wrong_in_a_region_of_complex_numbers(given, region):
    z = jnp.asarray(given, jnp.complex64)
    rule = lambda args, ct: (jnp.where(OF_COMPLEX[region](args[0]), 1.02, 1) * 2 * args[0] * ct,)
    assert verify.vjp(lambda z: z * z, rule, (z,), diagnose=False).verdict == "wrong"
    assert verify.vjp(lambda z: z * z, lambda args, ct: (2 * args[0] * ct,), (z,)).verdict == "right"
