"""Planted faults: a check that never fails checks nothing, so each layer's tests hand it wrong backward passes."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import verify
from jaxbias.derivation import Example, LossExample, instance

EXACT, WRONG = 1e-12, 1e-3

_judged: dict[Any, tuple[Any, Any, Any]] = {}
"""(example, key) → residuals, delta and the gradients of autodiff, once the library's own backward was acquitted."""


def assert_caught(
    example: Example | LossExample, key: jax.Array, wrong_backward: Callable[[Any, Any], Any], leaves: set[str]
) -> None:
    """Assert that comparing `wrong_backward` with autodiff convicts exactly `leaves`, and acquits the others.

    Args:
        wrong_backward: `(residuals, delta) -> (grads, delta_x)`, usually the right one with one thing changed.
        leaves: paths into (grads, delta_x): "0.weight", "0.bias", "0.query.bias", and "1" for delta_x.
    """
    residuals, delta, expected = right_answer(example, key)
    wrong = jax.jit(wrong_backward)(residuals, delta)
    _assert_convicted(verify.relative_errors(actual=wrong, expected=expected), leaves)


def assert_loss_caught(example: LossExample, key: jax.Array, wrong_backward: Callable[[Any], Any]) -> None:
    """The same for a loss: `wrong_backward` is `residuals -> delta`."""
    assert_caught(example, key, lambda residuals, delta: ((), delta * wrong_backward(residuals)), {"1"})


def right_answer(example: Example | LossExample, key: jax.Array) -> tuple[Any, Any, Any]:
    """Residuals, delta and the gradients of autodiff; one program and one comparison per example, not per fault."""
    # the example is part of the entry, not only its id, so that the id stays its own
    name = id(example), tuple(np.asarray(jax.random.key_data(key)).tolist())
    if name not in _judged:
        case = instance(example, key, jnp.float64)

        @jax.jit
        def program(params, x, delta):
            _, pull_back, residuals = jax.vjp(case.forward, params, x, has_aux=True)
            return residuals, case.backward(residuals, delta), pull_back(delta)

        residuals, right, expected = program(case.params, case.x, case.delta)
        errors = verify.relative_errors(actual=right, expected=expected)
        assert all(error < EXACT for error in errors.values()), f"the library's own backward is off: {errors}"
        _judged[name] = example, (residuals, case.delta), expected
    _, (residuals, delta), expected = _judged[name]
    return residuals, delta, expected


def _assert_convicted(errors: dict[str, float], leaves: set[str]) -> None:
    off = {path for path, error in errors.items() if not error < EXACT}  # a NaN is off too
    assert off == leaves, f"convicted {off or 'nothing'} instead of {leaves}: {errors}"
    assert all(not errors[path] < WRONG for path in leaves), f"too mild a fault to prove anything: {errors}"


def rewritten(function: Callable[..., Any], *changes: tuple[str, str]) -> Callable[..., Any]:
    """The function with pieces of its source replaced: a fault inside a scan, where no argument reaches."""
    module, source = inspect.getmodule(function), inspect.getsource(function)
    assert module is not None
    for old, new in changes:
        assert source.count(old) == 1, f"{source.count(old)} times in {function.__name__}: {old}"
        source = source.replace(old, new)
    names = dict(vars(module))
    exec(source, names)
    return names[function.__name__]
