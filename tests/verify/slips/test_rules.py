"""The rules themselves: each right one is right, and each wrong one wrong by more than a hundredth."""

import os

import jax
import numpy as np
import pytest

from tests.verify.slips.score import slips_of


def differs(slip, rule):
    """How far the gradients of a rule are from those of autodiff, relative to the size of these, at the worst."""
    args = slip.draw(jax.random.key(3))
    out, pull = jax.vjp(slip.forward, *args)
    keys = iter(jax.random.split(jax.random.key(4), 20))
    ct = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, x.dtype), out)
    pairs = zip(map(np.asarray, rule(args, ct)), map(np.asarray, pull(ct)), strict=True)
    return max(float(np.linalg.norm(g - e) / max(np.linalg.norm(e), 1e-6)) for g, e in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["single", "several"])
@pytest.mark.parametrize("of", ["second", "third"])
@pytest.mark.usefixtures("by_the_rules_of_jax")
def test_each_rule_is_what_it_is_said_to_be(which, of):
    """Every fourth; with JAXBIAS_WHOLE_SWEEPS=1 all."""
    rules = list(slips_of(which, of))[:: 1 if "JAXBIAS_WHOLE_SWEEPS" in os.environ else 4]
    right = {rule.right: rule for rule in rules}
    assert {name.__name__: d for name, rule in right.items() if not (d := differs(rule, name)) < 1e-4} == {}
    assert {rule.name: d for rule in rules if not (d := differs(rule, rule.rule)) > 1e-2} == {}
