"""Loops that end at the given values, and not at a drawn one, or once a line of the rule is another."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def doubled(x):
    """Every entry times a power of 2 that makes it at least 1, and the power; for ever where one is 0."""
    small = lambda s: jnp.abs(s[0]) < 1
    twice = lambda s: (jnp.where(small(s), 2 * s[0], s[0]), s[1] + small(s))
    return lax.while_loop(lambda s: jnp.any(small(s)), twice, (x, jnp.zeros(x.shape, int)))


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "right"), (1.01, "wrong")])
def test_a_rule_that_does_not_end_at_zero(factor, verdict):
    def rule(args, ct):
        y, k = doubled(args[0])
        return (3 * factor * ct * (y * 0.5**k) ** 2,)

    report = verify.vjp(lambda x: x**3, rule, (jax.random.normal(jax.random.key(0), (3,)),), diagnose=False)
    assert report.verdict == verdict, report
    assert any("exact zeros" in note and "did not end" in note for note in report.notes)


def halved(x):
    return lax.while_loop(lambda y: jnp.sum(y * y) > 0.2, lambda y: 0.5 * y, x)


def test_an_edit_with_which_a_loop_does_not_end():
    """Its steps are not kept: to halve by 1, or to ask for a norm below 0, is a small change of the line."""
    rule = lambda args, ct: (2 * ct * lax.while_loop(lambda y: jnp.sum(y * y) > 0.2, lambda y: 0.5 * y, args[0]),)
    report = verify.vjp(lambda x: halved(x) ** 2, rule, (jax.random.normal(jax.random.key(0), (5,)),), seconds=10)
    assert report.verdict == "wrong", report
