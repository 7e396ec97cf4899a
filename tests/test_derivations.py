"""Every layer and loss in every example configuration: the hand-derived backward against what does not know it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.dtypes import float0
from jax.interpreters import ad

from jaxbias import check, verify
from jaxbias.derivation import cast, problem

EXAMPLES = [
    pytest.param(example, id=f"{name}: {example.label}")
    for derivations in (check.layer_derivations(), check.loss_derivations())
    for name, derivation in derivations.items()
    for example in derivation.examples
]
every_example = pytest.mark.parametrize("example", EXAMPLES)

CONSTANT = {jnp.float32: 32 * 2.0**-23, jnp.bfloat16: 32 * 2.0**-7}
"""32 units in the last place of a leaf's largest entry: the longest derivations round some thirty times in a row."""


def gradients(problem):
    """(forward, backward) as one jitted function of (params, x, delta)."""

    @jax.jit
    def run(params, x, delta):
        _, residuals = problem.forward(params, x)
        return problem.backward(residuals, delta)

    return run(problem.params, problem.x, problem.delta)


@every_example
def test_backward_matches_autodiff_in_float64(key, example):
    forward, backward, params, x, delta = problem(example, key, jnp.float64)
    errors = verify.leaf_errors(forward, backward, params, x, delta)
    assert all(error < 1e-12 for error in errors.values()), errors


@every_example
def test_backward_matches_central_differences(key, example):
    """Every element of every leaf, by itself: (s(θ + h) − s(θ − h)) / 2h of s = Σ δ · forward(θ), h = 1e-5."""
    case = problem(example, key, jnp.float64)
    leaves, treedef = jax.tree.flatten((case.params, case.x))
    hand = dict(zip(range(len(leaves)), treedef.flatten_up_to(gradients(case))))
    moved = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]

    @jax.jit
    def differences():
        def slope(i, direction):
            def value(step):
                shifted = [leaf + step * direction if j == i else leaf for j, leaf in enumerate(leaves)]
                out, _ = case.forward(*treedef.unflatten(shifted))
                return jnp.vdot(out, case.delta)

            return (value(1e-5) - value(-1e-5)) / 2e-5

        basis = {i: jnp.eye(leaves[i].size).reshape(leaves[i].size, *leaves[i].shape) for i in moved}
        return {i: jax.lax.map(lambda e, i=i: slope(i, e), basis[i]).reshape(leaves[i].shape) for i in moved}

    by_differences = differences()
    largest = np.max([np.max(np.abs(d)) for d in by_differences.values()], initial=1.0)
    for i in moved:
        np.testing.assert_allclose(hand[i], by_differences[i], rtol=0, atol=1e-7 * largest)


@pytest.mark.parametrize("dtype", CONSTANT, ids=lambda dtype: dtype.__name__)
@every_example
def test_backward_in_narrow_floats_matches_float64_autodiff(key, example, dtype):
    case = problem(example, key, dtype)
    exact = problem(example, key, dtype, held_in=jnp.float64)
    hand = gradients(case)
    for actual, leaf in zip(jax.tree.leaves(hand), jax.tree.leaves((case.params, case.x))):
        assert actual.dtype == leaf.dtype
    _, pull_back, _ = jax.vjp(exact.forward, exact.params, exact.x, has_aux=True)
    errors = verify.relative_errors(actual=cast(hand, jnp.float64), expected=pull_back(exact.delta))
    assert all(error < CONSTANT[dtype] for error in errors.values()), errors


@every_example
def test_jit_equals_eager_and_vmap_equals_loop(key, example):
    case = problem(example, key, jnp.float64)
    deltas = jnp.stack([case.delta, 2 * case.delta, -case.delta])

    def run(delta):
        _, residuals = case.forward(case.params, case.x)
        return case.backward(residuals, delta)

    batched = jax.jit(jax.vmap(run))(deltas)
    for i, delta in enumerate(deltas):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], batched)
        errors = verify.relative_errors(actual=one, expected=run(delta))  # eager
        assert all(error < 1e-13 for error in errors.values()), errors


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@every_example
def test_forward_and_backward_lower(key, example, platform):
    case = problem(example, key, jnp.float32)
    run = jax.jit(lambda params, x, delta: case.backward(case.forward(params, x)[1], delta))
    lowered = run.trace(case.params, case.x, case.delta).lower(lowering_platforms=(platform,))
    assert "func.func public @main" in lowered.as_text()


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
def test_no_backward_calls_autodiff(key, example, no_autodiff):
    case = problem(example, key, jnp.float64)
    _, residuals = case.forward(case.params, case.x)
    jax.make_jaxpr(case.backward)(residuals, case.delta)


def test_the_autodiff_guard_catches_autodiff(no_autodiff):
    with pytest.raises(AssertionError, match="called autodiff"):
        jax.vjp(jnp.sin, 1.0)


def test_integer_inputs_have_no_gradient(key):
    """An integer input has a float0 cotangent in autodiff and None in a backward: both carry no number."""
    expected = np.zeros((2,), float0)
    assert verify.relative_errors(actual={"x": None}, expected={"x": expected}) == {}
