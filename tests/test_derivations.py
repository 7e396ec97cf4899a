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
from jax.flatten_util import ravel_pytree
from jax.interpreters import ad

from jaxbias import selfcheck, verify
from jaxbias.derivation import cast, instance, instances

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


def by_differences(forward, params, x, delta):
    """(s(θ + h) − s(θ − h)) / 2h of s = Σ δ · forward(θ), one element at a time: a list of the float leaves.

    All float leaves are one vector, so that the program holds the forward once.
    """
    leaves, treedef = jax.tree.flatten((params, x))
    where = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    vector, unravel = ravel_pytree([leaves[i] for i in where])

    def scalar(vector):
        moved = dict(zip(where, unravel(vector)))
        out, _ = forward(*treedef.unflatten([moved.get(i, leaf) for i, leaf in enumerate(leaves)]))
        return jnp.vdot(out, delta)

    size = vector.size
    steps = np.concatenate([STEP * np.eye(size), -STEP * np.eye(size)])
    ahead, behind = jnp.split(jax.lax.map(lambda step: scalar(vector + step), steps), 2)
    return unravel((ahead - behind) / (2 * STEP))


def gradients(key, example) -> Gradients:
    case, *others = instances(example, key, jnp.bfloat16, held_in=["float64", *NARROW])
    narrow = dict(zip(NARROW, others))

    @jax.jit
    def program(values, narrow_values):
        params, x, delta = values
        _, pull_back, residuals = jax.vjp(case.forward, params, x, has_aux=True)
        deltas = jnp.stack([2 * delta, -delta])
        return Gradients(
            hand=case.backward(residuals, delta),
            autodiff=pull_back(delta),
            differences=by_differences(case.forward, *values),
            narrow={dtype: backward(narrow[dtype], *narrow_values[dtype]) for dtype in narrow},
            vmapped=jax.vmap(lambda delta: case.backward(residuals, delta))(deltas),
        )

    found = program(
        (case.params, case.x, case.delta), {dtype: (each.params, each.x, each.delta) for dtype, each in narrow.items()}
    )
    return jax.device_get(found)  # compared in NumPy, which compiles nothing


def assert_within(tolerance, actual, expected):
    errors = verify.relative_errors(actual=actual, expected=expected)
    assert all(error < tolerance for error in errors.values()), errors


@every_example
def test_backward_equals_autodiff_differences_vmap_and_itself_in_narrow_floats(key, example):
    found = gradients(key, example)
    assert_within(1e-12, found.hand, found.autodiff)

    leaves = [leaf for leaf in jax.tree.leaves(found.autodiff) if leaf.dtype != float0]
    largest = np.max([np.max(np.abs(leaf), initial=0.0) for leaf in leaves], initial=1.0)
    for hand, slopes in zip(jax.tree.leaves(found.hand), found.differences, strict=True):
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
    lowered = traced.lower(lowering_platforms=("cpu", "cuda", "tpu"))  # one module, with a branch where they differ
    assert "func.func public @main" in lowered.as_text()


def test_the_autodiff_guard_catches_autodiff(no_autodiff):
    with pytest.raises(AssertionError, match="called autodiff"):
        jax.vjp(jnp.sin, 1.0)


def test_integer_inputs_have_no_gradient():
    """An integer input has a float0 cotangent in autodiff and None in a backward: both carry no number."""
    expected = np.zeros((2,), float0)
    assert verify.relative_errors(actual={"x": None}, expected={"x": expected}) == {}
