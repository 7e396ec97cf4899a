import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.layers import embedding
from jaxbias.params import Params
from tests.planted import assert_caught


def test_deltas_of_a_repeated_id_are_added_up():
    table = Params(jnp.arange(8.0).reshape(4, 2), None)
    z, residuals = embedding.forward(table, jnp.array([2, 0, 2]))
    assert z.tolist() == [[4.0, 5], [0, 1], [4, 5]]
    grads, delta_x = embedding.backward(residuals, jnp.array([[1.0, 2], [10, 20], [100, 200]]))
    assert grads.weight.tolist() == [[10.0, 20], [0, 0], [101, 202], [0, 0]]
    assert grads.bias is None and delta_x is None


def test_it_is_a_dense_layer_on_one_hot_rows(key):
    ids = jnp.array([3, 1, 3, 0])
    table = jax.random.normal(key, (5, 3), jnp.float64)
    one_hot = np.eye(5)[np.asarray(ids)]
    z, residuals = embedding.forward(Params(table, None), ids)
    delta = jax.random.normal(jax.random.key(1), z.shape, z.dtype)
    np.testing.assert_allclose(z, one_hot @ np.asarray(table), rtol=1e-14)
    np.testing.assert_allclose(
        embedding.backward(residuals, delta)[0].weight, one_hot.T @ np.asarray(delta), rtol=1e-14
    )


def test_the_padding_row_starts_at_zero_and_gets_no_gradient(key):
    layer = embedding.layer(5, 3, padding_id=1)
    ids = jnp.array([1, 2, 1])
    params = layer.init(key, ids)
    z, residuals = layer.forward(params, ids)
    grads, _ = layer.backward(residuals, jnp.ones_like(z))
    assert not z[0].any() and z[1].all()
    assert grads.weight.tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3, [0.0] * 3, [0.0] * 3]


def test_narrow_deltas_are_summed_in_float32():
    """4096 deltas of 1 for one id: a running sum in bfloat16 would stop growing at 256."""
    z, residuals = embedding.forward(Params(jnp.ones((2, 1), jnp.bfloat16), None), jnp.ones(4096, jnp.int32))
    assert embedding.backward(residuals, z)[0].weight.ravel().tolist() == [0.0, 4096.0]


@pytest.mark.parametrize("ids", [[0, 5], [-1, 2]])
def test_ids_outside_the_table_are_named_or_nan(ids):
    table, ids = Params(jnp.ones((5, 3)), None), jnp.array(ids)
    with pytest.raises(ValueError, match=r"ids must lie in 0 … 4 for a weight of shape \(5, 3\), got ids from"):
        embedding.forward(table, ids)
    z, residuals = jax.jit(embedding.forward)(table, ids)
    outside = (ids < 0) | (ids >= 5)
    assert np.array_equal(np.isnan(z).all(axis=1), outside)
    assert embedding.backward(residuals, jnp.ones_like(z))[0].weight.sum() == 3.0  # only the id inside


def test_padding_ids_outside_the_table_are_named():
    with pytest.raises(ValueError, match=r"embedding.layer: padding_id must lie in 0 … 4, got 5"):
        embedding.layer(5, 3, padding_id=5)
    with pytest.raises(ValueError, match=r"padding_id must be a whole number of at least 0, got the int -1"):
        embedding.forward(Params(jnp.ones((5, 3)), None), jnp.array([1]), padding_id=-1)


@pytest.mark.usefixtures("as_users_run_it")
def test_float_ids_are_refused():
    with pytest.raises(TypeError, match=r"embedding.forward: x must be an array of integer ids, got float"):
        embedding.forward(Params(jnp.ones((5, 3)), None), jnp.ones(2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r, d: jnp.zeros((6, 3)).at[r.ids].set(d),
        lambda r, d: jnp.zeros((6, 3)).at[r.ids].add(d) / len(d),
        lambda r, d: jnp.zeros((6, 3)).at[jnp.roll(r.ids, 1)].add(d),
    ],
    ids=["repeated ids overwrite", "mean over rows", "rows exchanged"],
)
def test_planted_faults_are_caught(key, wrong):
    example = embedding.DERIVATIONS[0].examples[0]
    assert_caught(example, key, lambda r, d: (Params(wrong(r, d), None), None), {"0.weight"})
