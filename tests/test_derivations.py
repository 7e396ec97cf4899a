"""Every layer and loss in every example configuration: the hand-derived backward against what does not know it.

One program per example computes everything on the same numbers, drawn in bfloat16 so that every dtype holds them
exactly: the hand-derived gradients in three dtypes and under vmap, autodiff of the plain forward in float64, and
central differences of every single element.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.dtypes import float0
from jax.interpreters import ad

from jaxbias import selfcheck, verify
from jaxbias.derivation import cast, instance

DERIVATIONS = selfcheck.layer_derivations() | selfcheck.loss_derivations()
every_example = pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, id=f"{derivation.name}: {example.label}")
        for derivation in DERIVATIONS.values()
        for example in derivation.examples
    ],
)
every_derivation = pytest.mark.parametrize("name", DERIVATIONS)

NARROW = {"float32": 32 * 2.0**-23, "bfloat16": 32 * 2.0**-7}
"""32 units in the last place of a leaf's largest entry: the longest derivations round some thirty times in a row."""
STEP = 1e-5


class Gradients(NamedTuple):
    hand: Any
    autodiff: Any
    differences: Any
    narrow: dict[str, Any]
    vmapped: Any


def backward(case, params, x, delta):
    return case.backward(case.forward(params, x)[1], delta)


def by_differences(case, params, x, delta):
    """(s(θ + h) − s(θ − h)) / 2h of s = Σ δ · forward(θ), one element at a time; None for an integer leaf."""
    leaves, treedef = jax.tree.flatten((params, x))

    def scalar(i, leaf):
        out, _ = case.forward(*treedef.unflatten([leaf if j == i else other for j, other in enumerate(leaves)]))
        return jnp.vdot(out, delta)

    def slopes(i, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return None
        basis = STEP * jnp.eye(leaf.size, dtype=leaf.dtype).reshape(leaf.size, *leaf.shape)
        slope = jax.lax.map(lambda e: (scalar(i, leaf + e) - scalar(i, leaf - e)) / (2 * STEP), basis)
        return slope.reshape(leaf.shape)

    return [slopes(i, leaf) for i, leaf in enumerate(leaves)]


def gradients(key, example) -> Gradients:
    case = instance(example, key, jnp.bfloat16, held_in=jnp.float64)
    narrow = {dtype: instance(example, key, jnp.bfloat16, held_in=jnp.dtype(dtype)) for dtype in NARROW}

    @jax.jit
    def program(values, narrow_values):
        params, x, delta = values
        _, pull_back, _ = jax.vjp(case.forward, params, x, has_aux=True)
        deltas = jnp.stack([2 * delta, -delta])
        return Gradients(
            hand=backward(case, *values),
            autodiff=pull_back(delta),
            differences=by_differences(case, *values),
            narrow={dtype: backward(narrow[dtype], *narrow_values[dtype]) for dtype in narrow},
            vmapped=jax.vmap(lambda delta: backward(case, params, x, delta))(deltas),
        )

    return program(
        (case.params, case.x, case.delta), {dtype: (each.params, each.x, each.delta) for dtype, each in narrow.items()}
    )


def assert_within(tolerance, actual, expected):
    errors = verify.relative_errors(actual=actual, expected=expected)
    assert all(error < tolerance for error in errors.values()), errors


@every_example
def test_backward_equals_autodiff_differences_vmap_and_itself_in_narrow_floats(key, example):
    found = gradients(key, example)
    assert_within(1e-12, found.hand, found.autodiff)

    leaves = [leaf for leaf in jax.tree.leaves(found.autodiff) if leaf.dtype != float0]
    moved = [leaf for leaf in found.differences if leaf is not None]
    largest = np.max([np.max(np.abs(leaf), initial=0.0) for leaf in leaves], initial=1.0)
    for hand, slopes in zip(jax.tree.leaves(found.hand), moved, strict=True):
        np.testing.assert_allclose(hand, slopes, rtol=0, atol=1e-7 * largest)

    for i, factor in enumerate((2, -1)):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], found.vmapped)
        assert_within(1e-13, one, jax.tree.map(lambda leaf, factor=factor: factor * leaf, found.hand))

    for dtype, tolerance in NARROW.items():
        assert {leaf.dtype.name for leaf in jax.tree.leaves(found.narrow[dtype])} <= {dtype}
        assert_within(tolerance, cast(found.narrow[dtype], jnp.float64), found.autodiff)


@every_derivation
def test_jit_equals_eager(key, name):
    case = instance(DERIVATIONS[name].examples[0], key, jnp.float64)
    values = case.params, case.x, case.delta
    assert_within(1e-13, jax.jit(lambda *values: backward(case, *values))(*values), backward(case, *values))


AUTODIFF = {
    jax: ["grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacfwd", "jacrev", "hessian"],
    ad: ["jvp", "vjp", "linearize", "linearize_jaxpr", "backward_pass", "backward_pass3", "jvp_jaxpr"],
}


@pytest.fixture
def no_autodiff(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a backward pass called autodiff")

    for module, names in AUTODIFF.items():
        for name in names:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)


@every_example
def test_backward_lowers_for_every_platform_and_calls_no_autodiff(key, example, no_autodiff):
    case = instance(example, key, jnp.float32)
    traced = jax.jit(lambda *values: backward(case, *values)).trace(case.params, case.x, case.delta)
    for platform in ("cpu", "cuda", "tpu"):
        assert "func.func public @main" in traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_autodiff_guard_catches_autodiff(no_autodiff):
    with pytest.raises(AssertionError, match="called autodiff"):
        jax.vjp(jnp.sin, 1.0)


def test_integer_inputs_have_no_gradient():
    """An integer input has a float0 cotangent in autodiff and None in a backward: both carry no number."""
    expected = np.zeros((2,), float0)
    assert verify.relative_errors(actual={"x": None}, expected={"x": expected}) == {}
