"""A traced function as a program: what of it is read, and how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from jaxbias import _jaxpr


def product(x, weight):
    """x W, in another order of sums on a TPU, and wrong by a factor on any other platform."""
    here = jax.default_backend()
    other = "tpu" if here != "tpu" else "cpu"
    branches = {here: jnp.matmul, other: lambda x, weight: jnp.einsum("...i,ij->...j", x, weight)}
    return lax.platform_dependent(x, weight, **branches, default=lambda x, weight: 2.0 * (x @ weight))


def loss(params, x):
    return jnp.sum(jnp.tanh(product(x, params["weight"]) + params["bias"]))


def names(program):
    return {equation.name for equation in program.equations}


@pytest.fixture
def case(key):
    keys = jax.random.split(key, 3)
    params = {"weight": jax.random.normal(keys[0], (3, 2)), "bias": jax.random.normal(keys[1], (2,))}
    return params, jax.random.normal(keys[2], (5, 3))


def test_only_the_branch_of_the_platform_that_runs_is_in_a_program(case):
    params, x = case
    gradient = lambda w: [jax.grad(lambda w: product(x, w).sum())(w)]
    program = _jaxpr.trace(gradient, params["weight"])
    assert names(program).isdisjoint({"cond", "platform_index"})
    np.testing.assert_allclose(_jaxpr.run(program, [params["weight"]])[0], gradient(params["weight"])[0], rtol=1e-12)


def test_no_branch_for_this_platform_is_an_error_of_jax_itself():
    with pytest.raises(NotImplementedError, match="platform"):
        _jaxpr.trace(lambda x: [lax.platform_dependent(x, oneapi=jnp.sin, tpu=jnp.cos)], np.ones(2))


def test_verify_judges_the_branch_that_runs_and_names_the_mistake_in_it(case):
    params, x = case
    right = lambda args, delta: (delta @ args[1].T, args[0].T @ delta)
    report = jb.verify.vjp(product, right, (x, params["weight"]))
    assert report.verdict == "right" and not report.notes, str(report)
    report = jb.verify.vjp(product, lambda args, delta: (delta @ args[1].T, -args[0].T @ delta), (x, params["weight"]))
    assert [d.kind for d in report.diagnoses] == ["sign"]


def test_roles_are_those_of_the_branch_that_runs(case):
    params, x = case
    with jax.numpy_rank_promotion("allow"):
        roles = jb.roles(loss, params, x)
    assert roles == {"weight": "weight", "bias": "bias"}


def test_per_example_norms_need_no_formed_gradient_of_a_platform_dependent_product(case):
    params, x = case
    norms = jax.jit(jb.per_example_norms(loss))(params, x)
    assert norms.methods["weight"] == "gram"
    rows = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    np.testing.assert_allclose(
        norms.leaves["weight"], jnp.linalg.norm(rows["weight"].reshape(5, -1), axis=1), rtol=1e-9
    )
    clipped = jb.clipped_grad(loss, l2_clip_norm=0.5, keep_batch_dim=False, how="book-keeping")(params, x)
    factors = jnp.minimum(1, 0.5 / norms.total)
    np.testing.assert_allclose(clipped["weight"], jnp.einsum("n,nij->ij", factors, rows["weight"]), rtol=1e-9)


def test_a_program_with_bodies_evaluates_under_jax_to_what_the_function_gives(key):
    def fn(p, x):
        def body(c, w):
            return jax.checkpoint(lambda c, w: jax.nn.relu(jax.jit(jnp.dot)(c, w)))(c, w), c.sum()

        c, sums = lax.scan(body, x, p)
        return lax.cond(sums[0] > 0, lambda c: c * 2.0, lambda c: c, c), sums

    p, x = jax.random.normal(key, (3, 4, 4)), jax.random.normal(key, (2, 4))
    program, _ = _jaxpr.trace_inlined(fn, p, x)
    for ours, theirs in zip(_jaxpr.run_in_jax(program, (p, x)), jax.tree.leaves(fn(p, x)), strict=True):
        assert jnp.array_equal(ours, theirs)
    assert names(program) >= {"scan", "cond"} and "jit" not in names(program)
    flat = _jaxpr.trace(lambda p, x: jax.tree.leaves(fn(p, x)), p, x)
    for ours, theirs in zip(_jaxpr.run(flat, (p, x)), jax.tree.leaves(fn(p, x)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert {e.iteration for e in flat.equations} == {0, 1, 2} and names(flat).isdisjoint({"scan", "remat", "jit"})
