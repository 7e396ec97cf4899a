"""Every layer and loss, every example configuration: the hand-derived backward against what does not know it."""

import jax
import jax.numpy as jnp
import pytest

from jaxbias import check, verify
from jaxbias.derivation import problem

LAYERS = [
    pytest.param(example, id=f"{name}-{example.label}".replace(" ", "_"))
    for name, derivation in check.layer_derivations().items()
    for example in derivation.examples
]


@pytest.mark.parametrize("example", LAYERS)
def test_backward_matches_autodiff_in_float64(key, example):
    forward, backward, params, x, delta = problem(example, key, jnp.float64)
    errors = verify.leaf_errors(forward, jax.jit(backward), params, x, delta)
    assert all(error < 1e-12 for error in errors.values()), errors
