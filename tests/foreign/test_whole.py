"""Biases of whole models: dropped, added, folded and centred; the judge is the model itself."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.foreign import whole
from jaxbias.layers import dense, relu
from jaxbias.params import run_forward


def drawn(tree, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)) if hasattr(x, "shape") else x, tree)


def leaf(params, path):
    return jb.named_parameters(params)[path]


class Block(nn.Module):
    """Norms first: a block of attention and MLP, tokens looked up, a norm before the logits."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(7, 4)(ids) + self.param("positions", nn.initializers.normal(), (5, 4))
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x))


@pytest.fixture(scope="module")
def transformer():
    ids = jnp.array([[1, 4, 2, 0, 6], [5, 3, 3, 1, 2]])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = drawn(jax.eval_shape(Block().init, jax.random.key(0), ids)["params"])
    return lambda p, ids: Block().apply({"params": p}, ids), params, ids


def test_value_biases(transformer, by_the_rules_of_jax):
    fn, params, ids = transformer
    folded, change = jb.surgery.fold_value_biases(fn, params, ids)
    assert change < 1e-12
    of = lambda part, tree: leaf(tree, f"MultiHeadDotProductAttention_0.{part}")
    assert not of("value.bias", folded).any()
    moved = jnp.einsum("he,hed->d", of("value.bias", params), of("out.kernel", params))
    np.testing.assert_allclose(of("out.bias", folded), of("out.bias", params) + moved, rtol=1e-12)
    assert bool(jnp.all(of("query.bias", folded) == of("query.bias", params)))


def test_center(transformer, by_the_rules_of_jax):
    fn, params, ids = transformer
    centred, change = jb.surgery.center(fn, params, ids)
    assert change < 1e-12
    old, new = jb.named_parameters(params), jb.named_parameters(centred)
    changed = {path for path in old if not bool(jnp.all(old[path] == new[path]))}
    writers = {
        f"{layer}.{part}" for layer in ("MultiHeadDotProductAttention_0.out", "Dense_0") for part in ("kernel", "bias")
    }
    # the key bias is redundant wholly (9.2.10), so its common part is; nothing takes that of the logits here
    keys = {"MultiHeadDotProductAttention_0.key.bias"}
    assert changed - keys == writers | {"Embed_0.embedding", "positions"}
    np.testing.assert_allclose(new["positions"].mean(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(new["Dense_0.kernel"].mean(axis=1), 0, atol=1e-15)


@pytest.mark.parametrize("kind", ["linear attention", "no output bias", "plain"])
def test_value_biases_in_plain_jax(kind, by_the_rules_of_jax):
    """Weights that do not sum to 1 are told from those that do."""
    x = jax.random.normal(jax.random.key(1), (5, 4))
    shapes = {name: {"w": np.zeros((4, 4)), "b": np.zeros(4)} for name in "qkvo"}
    params = drawn(shapes)

    def fn(p, x):
        q, k, v = (x @ p[n]["w"].T + p[n]["b"] for n in "qkv")
        s = q @ k.T
        out = (s if kind == "linear attention" else jax.nn.softmax(s)) @ v @ p["o"]["w"].T
        return out if kind == "no output bias" else out + p["o"]["b"]

    folded, change = jb.surgery.fold_value_biases(fn, params, x)
    assert change < 1e-12 and bool(jnp.all(folded["v"]["b"] == 0)) == (kind == "plain")
    if kind == "plain":
        np.testing.assert_allclose(folded["o"]["b"], params["o"]["b"] + params["o"]["w"] @ params["v"]["b"], rtol=1e-12)


def test_a_wrong_move_is_not_taken(transformer, monkeypatch, by_the_rules_of_jax):
    fn, params, ids = transformer
    right = whole._moved
    monkeypatch.setattr(whole, "_moved", lambda *args: 0.9 * right(*args))
    folded, change = jb.surgery.fold_value_biases(fn, params, ids)
    assert change == 0 and bool(leaf(folded, "MultiHeadDotProductAttention_0.value.bias").any())


def test_drop_biases(by_the_rules_of_jax):
    mlp = eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))
    mlp = eqx.tree_at(lambda m: m.layers[1].bias, mlp, jnp.full(4, 1e-5))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    fn = lambda m, x: jax.vmap(m)(x)
    dropped, change = jb.surgery.drop_biases(fn, mlp, x)
    assert not any(layer.bias.any() for layer in dropped.layers) and change > 1e-2
    assert bool(jnp.all(dropped.layers[0].weight == mlp.layers[0].weight))
    few, change = jb.surgery.drop_biases(fn, mlp, x, at_most=1e-2)
    assert [bool(layer.bias.any()) for layer in few.layers] == [True, False, True] and 0 < change <= 1e-2
    none, change = jb.surgery.drop_biases(fn, mlp, x, at_most=0.0)
    assert change == 0 and bool(none.layers[1].bias.any())
    with pytest.raises(ValueError, match=r"drop_biases: at_most must be 0 or more, got -1"):
        jb.surgery.drop_biases(fn, mlp, x, at_most=-1.0)


def test_add_biases(by_the_rules_of_jax):
    network = jb.chain(dense.layer(4, use_bias=False), relu, dense.layer(3))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    params = drawn(jax.eval_shape(network.init, jax.random.key(0), x))
    fn = lambda p, x: run_forward(network, p, x, None)[0]
    added, change = jb.surgery.add_biases(fn, params, x)
    assert change == 0 and added[0].bias.shape == (4,) and not added[0].bias.any()
    assert jb.roles(fn, added, x)[0].bias == "bias"
    with pytest.raises(ValueError, match="none of the 0 weights without a bias has a place for one"):
        jb.surgery.add_biases(fn, added, x)
    with pytest.raises(ValueError, match="none of the 1 weights without a bias has a place for one"):
        jb.surgery.add_biases(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 2)), "b": None}, x)
