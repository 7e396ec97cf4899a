import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax

import jaxbias as jb
from jaxbias.foreign.traced import split_params
from tests.models import MODELS, build


@pytest.mark.parametrize("name", MODELS)
def test_roles_are_right_on_every_library(name):
    model = build(name)
    example = jax.tree.map(lambda x: x[0], model.batch)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = jb.roles(model.loss, model.params, example)
    split = split_params(model.params)
    expected = [model.roles(path) for path in split.paths]
    assert dict(zip(split.paths, jax.tree.leaves(found))) == dict(zip(split.paths, expected))
    # the tree can be handed to optax together with the arrays of params
    assert jax.tree.structure(found) == jax.tree.structure(split.rebuild(split.leaves, None))


def test_role_comes_from_the_use_not_from_rank_or_name():
    params = {"kernel": jnp.ones((1, 3)), "bias": jnp.ones((3, 3)), "scale": jnp.ones(3), "weight": jnp.ones((4, 3))}

    def fn(p, x, i):
        return (x @ p["bias"] * p["scale"] + p["kernel"][0]) / 2 + p["weight"][i]

    found = jb.roles(fn, params, jnp.ones(3), jnp.array(1))
    assert found == {"kernel": "bias", "bias": "weight", "scale": "scale", "weight": "embedding"}


def test_vmapped_and_scanned_stacks():
    params = {"w": jnp.ones((4, 3, 3)), "b": jnp.ones((4, 3))}

    def one(w, b, x):
        return jnp.tanh(x @ w + b)

    def ensemble(p, x):
        return jax.vmap(one, in_axes=(0, 0, None))(p["w"], p["b"], x)

    def deep(p, x):
        return lax.scan(lambda x, p: (one(p["w"], p["b"], x), None), x, params if p is None else p)[0]

    for fn in (ensemble, deep):
        assert jb.roles(fn, params, jnp.ones(3)) == {"w": "weight", "b": "bias"}


def test_shapes_suffice():
    shapes = jax.ShapeDtypeStruct((3, 2), jnp.float64), jax.ShapeDtypeStruct((5, 3), jnp.float64)
    assert jb.roles(lambda w, x: x @ w, *shapes) == "weight"


def test_a_penalty_in_the_loss_does_not_make_a_weight_a_bias():
    found = jb.roles(lambda w, x: jnp.sum(x @ w) + 0.1 * jnp.sum(w**2), jnp.ones((3, 2)), jnp.ones(3))
    assert found == "weight"


def test_values_derived_from_params_keep_their_use():
    params = {"direction": jnp.ones((3, 2)), "gain": jnp.ones(2), "one_plus": jnp.ones(2)}

    def fn(p, x):
        w = p["direction"] / jnp.linalg.norm(p["direction"], axis=0, keepdims=True) * p["gain"][None, :]
        return x @ w * (1.0 + p["one_plus"])

    assert jb.roles(fn, params, jnp.ones(3)) == {"direction": "weight", "gain": "scale", "one_plus": "scale"}


def test_custom_rules_cond_and_while_are_walked():
    @jax.custom_vjp
    def affine(w, b, x):
        return x @ w + b

    affine.defvjp(lambda w, b, x: (affine(w, b, x), (w, x)), lambda res, d: (res[1][:, None] * d[None], d, res[0] @ d))
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "s": jnp.ones(2), "loop": jnp.ones(2)}

    def fn(p, x):
        z = affine(p["w"], p["b"], x)
        z = lax.cond(z[0] > 0, lambda z: z * p["s"], lambda z: z, z)
        return lax.while_loop(lambda z: z[0] < 9, lambda z: z + p["loop"], z)

    assert jb.roles(fn, params, jnp.ones(2)) == {"w": "weight", "b": "bias", "s": "scale", "loop": "bias"}


def test_a_leaf_that_never_meets_data():
    def fn(p, x):
        return x @ p["w"], jnp.exp(p["temperature"])

    params = {"w": jnp.ones((3, 2)), "temperature": jnp.ones(1)}
    with pytest.raises(ValueError, match=r"leaf temperature never meets data: it stops at operation exp at .*test_"):
        jb.roles(fn, params, jnp.ones(3))
    with pytest.raises(ValueError, match="leaf temperature never meets data: the output does not use it"):
        jb.roles(lambda p, x: fn(p, x)[0], params, jnp.ones(3))
    assert jb.roles(fn, params, jnp.ones(3), unused="other") == {"w": "weight", "temperature": "other"}


def test_integer_leaves_are_no_bias():
    params = {"w": jnp.ones((3, 2)), "table": jnp.arange(3)}
    assert jb.roles(lambda p, x: x[p["table"]] @ p["w"], params, jnp.ones(3)) == {"w": "weight", "table": "other"}


ROLES = {"w": "weight", "b": "bias", "s": "scale", "table": "embedding+weight"}


def test_mask_and_no_decay():
    assert jb.mask(ROLES, "weight") == {"w": True, "b": False, "s": False, "table": True}
    assert jb.mask(ROLES, "bias", "scale") == {"w": False, "b": True, "s": True, "table": False}
    assert jb.no_decay(ROLES) == {"w": True, "b": False, "s": False, "table": True}


def test_no_decay_also_of_tokens():
    roles = ROLES | {"cls": "other"}
    assert jb.no_decay(roles)["cls"] and not jb.no_decay(roles, also=("other",))["cls"]
    assert jb.no_decay(roles, also="embedding") == {"w": True, "b": False, "s": False, "table": False, "cls": True}
    with pytest.raises(ValueError, match="no_decay: 'tokens' is no role; the roles are weight, bias"):
        jb.no_decay(roles, also=("tokens",))


def test_labels():
    assert jb.labels(ROLES) == ROLES
    assert jb.labels(ROLES, "adam", muon="weight") == {"w": "muon", "b": "adam", "s": "adam", "table": "adam"}
    with pytest.raises(ValueError, match="a leaf with role 'bias' fits no group"):
        jb.labels(ROLES, muon="weight")


def test_wrong_names_and_trees():
    with pytest.raises(ValueError, match="mask: 'biases' is no role; the roles are weight, bias"):
        jb.mask(ROLES, "biases")
    with pytest.raises(TypeError, match=r"no_decay: roles must be a tree of role names .* got a leaf of type float"):
        jb.no_decay({"w": 1.0})


def _train(tx, params, steps=3):
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
            params = optax.apply_updates(params, updates)
    return params


def test_decay_mask_of_flax_attention_spares_its_rank_two_biases():
    model = build("linen attention")
    example = jax.tree.map(lambda x: x[0], model.batch)
    found = jb.roles(model.loss, model.params, example)
    after = _train(optax.adamw(0.1, weight_decay=0.5, mask=jb.no_decay(found)), model.params)
    moved = jax.tree.map(lambda p, q: bool(jnp.any(p != q)), model.params, after)
    assert moved == jb.no_decay(found)
    by_rank = jax.tree.map(lambda x: x.ndim != 1, model.params)
    assert by_rank != jb.no_decay(found)  # the usual mask decays the query, key and value biases


def test_an_equinox_mask_works_in_optax_although_the_module_is_callable():
    model = build("Equinox conv")
    example = jax.tree.map(lambda x: x[0], model.batch)
    with jax.numpy_rank_promotion("allow"):
        found = jb.roles(model.loss, model.params, example)
    params = split_params(model.params).rebuild(split_params(model.params).leaves, None)
    after = _train(optax.adamw(0.1, weight_decay=0.5, mask=jb.no_decay(found)), params)
    assert bool(jnp.all(after.conv.bias == params.conv.bias)) and bool(jnp.all(after.head.bias == params.head.bias))
    assert bool(jnp.all(after.conv.weight != params.conv.weight))


def test_bias_only_and_lr_by_role_step():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    found = {"w": "weight", "b": "bias"}
    tx = optax.partition({"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, jb.bias_only(found))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert updates["w"].tolist() == [[0, 0], [0, 0]] and updates["b"].tolist() == pytest.approx([-0.1, -0.1])
    tx = optax.chain(optax.sgd(1.0), jb.lr_by_role(found, bias=3.0))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert updates["w"].tolist() == [[-1, -1], [-1, -1]] and updates["b"].tolist() == [-3, -3]


def test_summary_of_any_model():
    params = {"b": jnp.ones(2), "deep": {"w": jnp.ones((3, 2))}}
    table = jb.summary(lambda p, x: x @ p["deep"]["w"] + p["b"], params, jnp.ones(3))
    assert table.rows == (("b", "bias", (2,), 2), ("deep.w", "weight", (3, 2), 6))
    assert table.counts == {"bias": 2, "weight": 6} and table.bias_share == 0.25
    assert str(table).splitlines() == [
        "leaf    role    shape   entries",
        "b       bias    (2,)          2",
        "deep.w  weight  (3, 2)        6",
        "total                         8",
        "biases: 25.00% of all entries",
    ]


def test_summary_of_a_module_that_is_callable_is_that_of_its_arrays():
    model = build("Equinox conv")
    split = split_params(model.params)
    assert callable(model.params) and jb.summary(split.rebuild(split.leaves, None)).total.parameters == sum(
        x.size for x in split.leaves
    )
