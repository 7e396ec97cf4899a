import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import random_like
from jaxbias.layers import dense, dropout, embedding, identity
from jaxbias.params import Params, run_forward
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


# --- scale, and the tied head -----------------------------------------------------------------------------------------

TIED = next(example for example in embedding.DERIVATIONS[0].examples if example.label == "tied")


def test_the_scale_stands_in_value_and_gradient():
    z, residuals = embedding.forward(Params(jnp.arange(4.0).reshape(2, 2), None), jnp.array([1, 1]), scale=3.0)
    grads, _ = embedding.backward(residuals, jnp.array([[1.0, 2], [10, 20]]), scale=3.0)
    assert z.tolist() == [[6, 9], [6, 9]]
    assert grads.weight.tolist() == [[0, 0], [33, 66]]


def test_tied_by_hand():
    """z = 2 E[1] Eᵀ + b with E = [[1, 2], [3, 5]]: h = (6, 10), z = (26, 68) + b. δ = (1, 10)."""
    network = embedding.tied(identity, 2, 2, scale=2.0)
    params = Params(jnp.array([[1.0, 2], [3, 5]]), jnp.array([100.0, 200])), ()
    out, residuals = network.forward(params, jnp.array([1]))
    ((weight, bias), body), delta_x = network.backward(residuals, jnp.array([[1.0, 10]]))
    assert out.tolist() == [[126, 268]]
    assert bias.tolist() == [1, 10] and body == () and delta_x is None
    # δᵀ h = [[6, 10], [60, 100]], and at the looked-up row 2 δ E = 2 (31, 52)
    assert weight.tolist() == [[6, 10], [122, 204]]


def test_the_tied_padding_row_has_no_gradient_from_the_head_either():
    layer = embedding.tied(identity, 5, 3, padding_id=1, dtype=jnp.float64)
    ids = jnp.array([1, 2, 0])
    params = layer.init(jax.random.key(0), ids)
    (grads, _), _ = layer.backward(layer.forward(params, ids)[1], jnp.ones((3, 5), jnp.float64))
    assert not params[0].weight[1].any() and not grads.weight[1].any()
    assert (grads.weight[jnp.array([0, 2, 3, 4])] != 0).all()  # rows 3 and 4 by the head alone


def test_a_bias_just_before_the_head_duplicates_its_bias():
    """Table 9.14: ∂L/∂c = Wᵀ ∂L/∂b, and `redundant_biases` finds the directions (c, −W c)."""
    network = embedding.tied(dense.layer(2), 4, 2)
    ids = np.array([[0, 3, 1], [2, 2, 1]], np.int32)
    params = random_like(jax.random.key(1), jax.eval_shape(network.init, jax.random.key(0), ids))
    out, residuals = network.forward(params, jnp.asarray(ids))
    (table, body), _ = network.backward(residuals, jnp.sin(jnp.arange(24.0, dtype=out.dtype)).reshape(out.shape))
    np.testing.assert_allclose(body.bias, np.asarray(params[0].weight).T @ np.asarray(table.bias), rtol=1e-5)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    found = jb.surgery.redundant_biases(lambda p, ids: network.forward(p, jnp.asarray(ids))[0], wide, ids)
    assert [(each.paths, len(each.directions)) for each in found] == [(("1.bias", "0.bias"), 2)]


def test_the_tied_network_has_parts_that_the_tools_see():
    network = embedding.tied(jb.chain(dense.layer(3), dropout.layer(0.5)), 5, 3)
    ids = jnp.array([[0, 4], [1, 1]])
    params = random_like(jax.random.key(1), jax.eval_shape(network.init, jax.random.key(0), ids))
    state = network.state.init(jax.random.key(1), ids)
    out, residuals = jax.eval_shape(lambda p, s: run_forward(network, p, ids, s), params, state)
    assert out.shape == (2, 2, 5) and len(residuals.body) == len(state) == 2
    assert network.state.step(state, residuals)[1] != state[1]
    quiet, _ = jax.jit(jb.inference(network).forward)(params, ids, state)
    (table, of_head), ((weight, bias), _) = jax.tree.map(np.asarray, params)
    np.testing.assert_allclose(
        quiet, (table[np.asarray(ids)] @ weight + bias) @ table.T + of_head, rtol=2e-6, atol=1e-6
    )
    written = jb.io.to_pytorch(network, params)
    assert {name: array.shape for name, array in written.items()} == {
        "0.weight": (5, 3), "0.bias": (5,), "1.0.weight": (3, 3), "1.0.bias": (3,),
    }  # fmt: skip
    assert set(jb.deltas(network, jb.losses.cross_entropy)(params, ids, ids, state)) == {"0", "1.0", "1.1"}
    assert "embedding" in str(jb.summary(params, network, ids))


def tied_fault(change):
    def wrong(residuals, delta):
        (table, body), delta_x = TIED.layer.backward(residuals, delta)
        return (change(table, residuals, delta), body), delta_x

    return wrong


def head_part(r, d):
    return jnp.einsum("...v,...j->vj", d, r.h)


TIED_FAULTS = {
    "the lookup's part missing": (lambda g, r, d: g._replace(weight=head_part(r, d)), {"0.0.weight"}),
    "the head's part missing": (lambda g, r, d: g._replace(weight=g.weight - head_part(r, d)), {"0.0.weight"}),
    "scale missing": (
        lambda g, r, d: g._replace(weight=head_part(r, d) + (g.weight - head_part(r, d)) / 3**0.5),
        {"0.0.weight"},
    ),
    "bias averaged": (lambda g, r, d: g._replace(bias=g.bias / 8), {"0.0.bias"}),
}


@pytest.mark.parametrize("name", TIED_FAULTS)
def test_planted_faults_in_the_tied_table_are_caught(key, name):
    change, leaves = TIED_FAULTS[name]
    assert_caught(TIED, key, tied_fault(change), leaves)


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_of_the_tied_network_is_named():
    ids = np.array([1, 2], np.int32)
    with pytest.raises(
        ValueError, match=r"embedding\.tied: the body must end in as many features .*, 3, .* got \(2, 4\)"
    ):
        jax.eval_shape(
            lambda: embedding.tied(dense.layer(4), 5, 3).forward(
                (Params(jnp.ones((5, 3)), None), Params(jnp.ones((3, 4)), None)), ids
            )
        )
    with pytest.raises(ValueError, match=r"embedding\.tied: params must be the pair \(table, body\)"):
        embedding.tied(identity, 5, 3).forward(Params(jnp.ones((5, 3)), None), ids)
    with pytest.raises(TypeError, match=r"embedding\.tied: the module jaxbias\.layers\.dense is no layer"):
        embedding.tied(dense, 5, 3)
    with pytest.raises(TypeError, match=r"embedding\.layer: scale must be a number, got the str 'sqrt'"):
        embedding.layer(5, 3, scale="sqrt")
    with pytest.raises(TypeError, match=r"embedding\.forward: x must be an array of integer ids, got float"):
        embedding.tied(identity, 5, 3).init(jax.random.key(0), jnp.ones(2))
