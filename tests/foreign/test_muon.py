import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import jaxbias as jb

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")

X = jax.ShapeDtypeStruct((5, 6), jnp.float32)
Dims = optax.contrib.MuonDimensionNumbers


def test_heads_of_an_attention_and_stacked_layers():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = lambda dense, x, _: (jnp.tanh(dense(x)), None)
            x, _ = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(
                nn.Dense(6, name="stack"), x, None
            )
            return nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x, x)

    model = Model()
    params = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
    dims = jb.muon_dimension_numbers(lambda p, x: model.apply({"params": p}, x), params, X)
    into = {"kernel": Dims((0,), (1, 2)), "bias": None}
    assert dims["attention"] == {
        "query": into,
        "key": into,
        "value": into,
        "out": {"kernel": Dims((0, 1), (2,)), "bias": None},
    }
    assert dims["stack"] == {"kernel": Dims((1,), (2,)), "bias": None}


def polar(g):
    left, _, right = np.linalg.svd(np.asarray(g), full_matrices=False)
    return left @ right


def test_the_update_of_every_matrix_is_orthogonal():
    """Stacked (layers, out, in) weights, a table and a bias, through optax: expected from the singular vectors."""
    rng = np.random.default_rng(0)
    params = {
        "layers": jnp.asarray(rng.normal(size=(2, 6, 6)), jnp.float32),
        "heads": jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32),
        "table": jnp.zeros((7, 6)),
        "b": jnp.zeros(4),
    }

    def fn(p, ids):
        x = lax.scan(lambda x, w: (jnp.tanh(x @ w.T), None), p["table"][ids], p["layers"])[0]
        return jnp.einsum("thd,hde->te", x.reshape(-1, 2, 3), p["heads"]) + p["b"]

    dims = jb.muon_dimension_numbers(fn, params, jax.ShapeDtypeStruct((5,), jnp.int32))
    assert dims == {"layers": Dims((2,), (1,)), "heads": Dims((0, 1), (2,)), "table": None, "b": None}
    tx = optax.contrib.muon(1.0, ns_steps=30, ns_coeffs=(1.5, -0.5, 0.0), muon_weight_dimension_numbers=dims)
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    for update, g in zip(updates["layers"], grads["layers"]):
        np.testing.assert_allclose(-update, polar(g), atol=2e-3)
    np.testing.assert_allclose(-updates["heads"].reshape(6, 4), polar(grads["heads"].reshape(6, 4)), atol=2e-3)


def test_trees_that_optax_cannot_take_come_as_functions():
    mlp = eqx.nn.MLP(6, 3, 4, 1, key=jax.random.key(0))
    dims = jb.muon_dimension_numbers(lambda m, x: jax.vmap(m)(x), mlp, X)
    arrays = eqx.filter(mlp, eqx.is_array)
    tx = optax.contrib.muon(0.1, muon_weight_dimension_numbers=dims)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, arrays), tx.init(arrays), arrays)
    assert dims(arrays).layers[0].weight == Dims((1,), (0,)) and updates.layers[0].weight.shape == (4, 6)

    model = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
    dims = jb.muon_dimension_numbers(lambda m, x: m(x), model, X)
    optimizer = nnx.Optimizer(model, optax.contrib.muon(0.1, muon_weight_dimension_numbers=dims), wrt=nnx.Param)
    before = model.kernel[...]
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    assert bool(jnp.any(model.kernel[...] != before))


def test_weights_that_are_tied_or_mixed_up_are_left_to_adam():
    def fn(p, ids):
        x = p["table"][ids] @ p["mixed"].reshape(2, 3, 2, 4).transpose(0, 2, 1, 3).reshape(4, 12)
        return x @ p["u"] @ p["table"].T

    params = {"table": jnp.zeros((7, 4)), "mixed": jnp.zeros((6, 8)), "u": jnp.zeros((12, 4))}
    dims = jb.muon_dimension_numbers(fn, params, jnp.arange(3))
    assert dims == {"table": None, "mixed": None, "u": Dims((0,), (1,))}
    with pytest.raises(ValueError, match="muon_dimension_numbers: the params leaf u never meets data"):
        jb.muon_dimension_numbers(lambda p, x: x @ p["mixed"], {"mixed": params["mixed"], "u": params["u"]}, X)
