"""Planted faults: a check that never fails checks nothing, so each layer's tests hand it wrong backward passes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxbias import verify
from jaxbias.derivation import Example, LossExample, problem

EXACT, WRONG = 1e-12, 1e-3


def assert_caught(
    example: Example | LossExample, key: jax.Array, wrong_backward: Callable[[Any, Any], Any], leaves: set[str]
) -> None:
    """Assert that comparing `wrong_backward` with autodiff convicts exactly `leaves`, and acquits the others.

    Args:
        wrong_backward: `(residuals, delta) -> (grads, delta_x)`, usually the right one with one thing changed.
        leaves: paths into (grads, delta_x): "0.weight", "0.bias", "0.query.bias", and "1" for delta_x.
    """
    forward, backward, params, x, delta = problem(example, key, jnp.float64)
    right = verify.leaf_errors(forward, jax.jit(backward), params, x, delta)
    assert all(error < EXACT for error in right.values()), f"the library's own backward is off: {right}"
    _assert_convicted(verify.leaf_errors(forward, jax.jit(wrong_backward), params, x, delta), leaves)


def assert_loss_caught(example: LossExample, key: jax.Array, wrong_backward: Callable[[Any], Any]) -> None:
    """The same for a loss: `wrong_backward` is `residuals -> delta`."""
    assert_caught(example, key, lambda residuals, delta: ((), delta * wrong_backward(residuals)), {"1"})


def _assert_convicted(errors: dict[str, float], leaves: set[str]) -> None:
    off = {path for path, error in errors.items() if not error < EXACT}  # a NaN is off too
    assert off == leaves, f"convicted {off or 'nothing'} instead of {leaves}: {errors}"
    assert all(not errors[path] < WRONG for path in leaves), f"too mild a fault to prove anything: {errors}"
