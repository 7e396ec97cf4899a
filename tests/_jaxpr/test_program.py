"""A traced function as a program: what of it is read, and how."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import backward_slice


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


def test_a_primitive_that_jax_defines_by_others_is_read_as_those():
    def cube_root(a):
        solve = lambda f, start: lax.fori_loop(0, 9, lambda _, y: y - f(y) / (3 * y * y), start)
        return lax.custom_root(lambda y: y**3 - a, jnp.ones_like(a), solve, lambda g, y: y / g(jnp.ones_like(y)))

    def function(a, x):
        found = jnp.searchsorted(a, x)
        return [found, *jax.jvp(cube_root, (a,), (a,)), jax.grad(lambda a: cube_root(a).sum())(a)]

    args = np.array([0.5, 1.5, 4.0]), np.array([0.7, 9.0])
    program = _jaxpr.trace(function, *args)
    assert "call_hi_primitive" not in names(program)
    for ours, theirs in zip(_jaxpr.run(program, args), function(*args), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


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


def test_only_this_room_touches_jaxprs():
    """No file outside of `_jaxpr/` reads a jaxpr's variables; what is asked of an equation it offers itself."""
    package = pathlib.Path(jb.__file__).parent
    internals = {"eqn", "eqns", "aval", "invars", "outvars", "jaxpr", "constvars"}
    touched = [
        f"{file.relative_to(package)}:{node.lineno} .{node.attr}"
        for file in package.rglob("*.py")
        if file.parent.name != "_jaxpr"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in internals
    ]
    assert not touched


def test_a_contraction_tells_what_becomes_of_each_axis():
    function = lambda a, b: jnp.einsum("bij,bkj->bik", a, b)
    program, shapes = _jaxpr.trace_inlined(function, np.ones((5, 2, 3)), np.ones((5, 4, 3)))
    (dot,) = [e for e in program.equations if e.name == "dot_general"]
    a, b = dot.dot_axes()
    assert (a.batch, a.contracted, a.free) == (b.batch, b.contracted, b.free) == ((0,), (2,), (1,))
    assert dot.shapes.outputs[0][0] == 5 and dot.dtypes.inputs == (np.float64, np.float64) and shapes.shape == (5, 2, 4)


def test_a_backward_slice_is_the_part_that_a_value_is_computed_by():
    program = _jaxpr.trace(lambda x, y: [jnp.sin(x) * 2.0, jnp.cos(y) + x], np.ones(2), np.ones(2))
    part = backward_slice(program, program.outputs[:1])
    assert names(part) == {"sin", "mul"} and part.inputs == program.inputs[:1]
    np.testing.assert_allclose(_jaxpr.run(part, [np.ones(2)])[0], 2 * np.sin(1.0), rtol=1e-15)
    both = backward_slice(program, program.outputs)
    assert both.equations == program.equations and both.inputs == program.inputs


def test_copies_of_an_equation_keep_group_and_line_through_calls_and_loops():
    inner = jax.jit(lambda h, row: jnp.tanh(h + row))
    function = lambda x: [lax.scan(lambda h, row: (inner(h, row), None), x[0] * 3.0, x)[0]]
    program = _jaxpr.trace(function, np.ones((4, 2)))
    copies = [e for e in program.equations if e.name == "tanh"]
    assert [e.iteration for e in copies] == [0, 1, 2, 3] and len({e.group for e in copies}) == 1
    assert all(e.source is not None and "jnp.tanh(h + row)" in e.source.text for e in copies)
