import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxbias as jb


def test_contacts_name_leaf_role_operation_and_line():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    weight, bias = jb.contacts(lambda p, x: jax.jit(jnp.matmul)(x, p["w"]) + p["b"][None], params, jnp.ones((4, 3)))
    assert (weight.leaves, weight.role, weight.operation, weight.shape) == (("w",), "weight", "dot_general", (3, 2))
    assert (bias.leaves, bias.role, bias.operation) == (("b",), "bias", "add")
    assert "test_contact.py" in bias.where and weight.layout_only and bias.layout_only


def test_layout_operations_are_followed_to_the_contact():
    def fn(w, x):
        w = jnp.flip(w.astype(jnp.float32), 0).reshape(2, 3, 1)[:, :, 0].T
        return x @ w

    (contact,) = jb.contacts(fn, jnp.ones(6), jnp.ones((4, 3), jnp.float32))
    assert contact.role == "weight" and contact.layout_only and contact.shape == (3, 2)


def test_every_use_of_a_tied_leaf_is_found():
    def fn(table, ids):
        return table[ids] @ table.T

    assert [c.role for c in jb.contacts(fn, jnp.ones((5, 3)), jnp.arange(4))] == ["embedding", "weight"]


def test_a_custom_rule_tells_its_role_from_inside():
    @jax.custom_jvp
    def scaled(s, x):
        return s * x

    scaled.defjvps(lambda t, out, s, x: t * x, lambda t, out, s, x: s * t)
    (contact,) = jb.contacts(scaled, jnp.ones(3), jnp.ones(3))
    assert contact.role == "scale" and contact.operation == "mul"


def test_a_learned_start_of_a_scan_is_no_weight_and_hides_no_weight():
    def fn(p, xs):
        return lax.scan(lambda h, x: (jnp.tanh(h @ p["u"] + x), None), p["start"], xs)[0]

    found = jb.contacts(fn, {"u": jnp.ones((3, 3)), "start": jnp.ones(3)}, jnp.ones((4, 3)))
    assert {(c.leaves[0], c.role, c.operation) for c in found} == {
        ("u", "weight", "dot_general"),
        ("start", "other", "scan"),
    }


def test_a_use_in_a_loop_counts_more_than_what_leaves_it():
    def fn(p, xs):
        def step(h, x):
            return h * x @ p, p**2

        h, squares = lax.scan(step, xs[0], xs)
        return h.sum() + squares.sum()

    found = jb.contacts(fn, jnp.ones((3, 3)), jnp.ones((4, 3)))
    assert {(c.operation, c.role) for c in found} == {("dot_general", "weight")}


def test_shard_map_bodies_are_walked():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()

    def fn(p, x):
        return jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(p["w"], x) + p["b"]

    found = jb.contacts(fn, {"w": jnp.ones((3, 2)), "b": jnp.ones((1, 2))}, jnp.ones((4, 3)))
    assert [(c.leaves, c.role) for c in found] == [(("w",), "weight"), (("b",), "bias")]


def test_leaf_that_never_meets_data_is_named():
    with pytest.raises(ValueError, match=r"contacts: the params leaf 1.b never meets data"):
        jb.contacts(lambda p, x: x @ p[0]["w"], [{"w": jnp.ones((2, 2))}, {"b": jnp.ones(2)}], jnp.ones(2))


def test_params_in_place_of_the_function(as_users_run_it):
    with pytest.raises(TypeError, match=r"fn must be a function of \(params, \*args\), got a dict"):
        jb.roles({"w": jnp.ones((2, 2))}, lambda p, x: x @ p["w"], jnp.ones(2))  # type: ignore[arg-type]
