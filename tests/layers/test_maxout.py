"""Maxout: numbers worked by hand, ties, NaN, what is kept, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import normal, random_like
from jaxbias.layers import dense, maxout
from jaxbias.params import Params
from tests.planted import assert_caught

EXAMPLE = maxout.DERIVATIONS[0].examples[0]


def test_by_hand():
    """Pieces x and −x make |x|; the second with bias 3 makes max(x, 3 − x)."""
    params = Params(jnp.array([[[1.0, 1], [-1, -1]]]), jnp.array([[0.0, 0], [0, 3]]))
    out, residuals = maxout.forward(params, jnp.array([[2.0], [-5]]))
    assert out.tolist() == [[2, 2], [5, 8]]
    grads, delta_x = maxout.backward(residuals, jnp.array([[10.0, 100], [1, 7]]))
    assert residuals.largest.tolist() == [[0, 0], [1, 1]] and residuals.largest.dtype == jnp.uint8
    assert grads.bias.tolist() == [[10, 100], [1, 7]]
    assert grads.weight.tolist() == [[[20, 200], [-5, -35]]]
    assert delta_x.tolist() == [[110], [-8]]


def test_one_piece_is_a_dense_layer(key):
    x = normal(key, (5, 3), jnp.float64)
    layer = maxout.layer(4, pieces=1)
    params = random_like(key, layer.init(key, x))
    out, _ = layer.forward(params, x)
    flat = Params(params.weight[:, 0], params.bias[0])
    np.testing.assert_allclose(out, dense.forward(flat, x)[0], rtol=1e-14)


def test_where_pieces_tie_the_first_one_counts_and_nan_comes_out():
    params = Params(jnp.array([[[0.0], [1], [1], [jnp.nan]]]), None)
    layer_of_three = Params(params.weight[:, :3], None)
    x = jnp.array([[2.0]])
    out, residuals = maxout.forward(layer_of_three, x)
    grads, _ = maxout.backward(residuals, jnp.ones((1, 1)))
    by_autodiff = jax.grad(lambda p: maxout.forward(p, x)[0].sum())(layer_of_three)
    assert out == 2 and grads.weight.ravel().tolist() == by_autodiff.weight.ravel().tolist() == [0, 2, 0]
    assert np.isnan(maxout.forward(params, x)[0]).all()


def test_no_bias_is_redundant(key):
    x = np.asarray(normal(key, (5, 3), jnp.float64))
    params = random_like(key, jax.eval_shape(EXAMPLE.layer.init, key, x))
    assert jb.surgery.redundant_biases(lambda p, x: EXAMPLE.layer.forward(p, jnp.asarray(x))[0], params, x) == ()


def faulty(error_signal):
    """Backward with another δz, (5, 2, 4)."""

    def wrong(residuals, delta):
        delta_z = error_signal(residuals, delta)
        weight = jnp.einsum("ni,npj->ipj", residuals.x, delta_z)
        return Params(weight, delta_z.sum(0)), jnp.einsum("npj,ipj->ni", delta_z, residuals.weight)

    return wrong


def pieces(residuals):
    return jax.nn.one_hot(residuals.largest, 2, dtype=residuals.x.dtype, axis=1)


ALL = {"0.weight", "0.bias", "1"}
FAULTS = {
    "δ to every piece": (faulty(lambda r, d: jnp.stack([d, d], axis=1)), ALL),
    "δ shared by the pieces": (faulty(lambda r, d: jnp.stack([d, d], axis=1) / 2), ALL),
    "the smallest piece": (faulty(lambda r, d: (1 - pieces(r)) * d[:, None]), ALL),
    "a bias for all pieces": (
        lambda r, d: (
            (right := maxout.backward(r, d))[0]._replace(bias=jnp.stack([d.sum(0), d.sum(0)])),
            right[1],
        ),
        {"0.bias"},
    ),
    "bias averaged": (
        lambda r, d: ((right := maxout.backward(r, d))[0]._replace(bias=right[0].bias / len(d)), right[1]),
        {"0.bias"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(EXAMPLE, key, *FAULTS[name])


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    params = maxout.init(key, 3, 4, dtype=jnp.float64)
    with pytest.raises(ValueError, match=r"maxout\.forward: x has 5 features but weight has fan_in=3, .* \(3, 2, 4\)"):
        maxout.forward(params, jnp.ones((2, 5)))
    with pytest.raises(ValueError, match=r"maxout\.forward: bias has shape \(4,\), .* wants a bias of shape \(2, 4\)"):
        maxout.forward(params._replace(bias=jnp.ones(4)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"maxout\.forward: weight must have the axes \(fan_in, pieces, units\)"):
        maxout.forward(Params(jnp.ones((3, 4)), None), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"maxout\.layer: pieces must be at most 256, got 300"):
        maxout.layer(4, pieces=300)
    with pytest.raises(TypeError, match=r"maxout\.layer: units must be a whole number"):
        maxout.layer(2.5)
    with pytest.raises(TypeError, match=r"maxout\.init: x must be a floating-point array, got int"):
        maxout.layer(4).init(key, jnp.ones((2, 3), int))
    with pytest.raises(ValueError, match=r"maxout\.backward: delta has shape \(2, 3\)"):
        maxout.backward(maxout.forward(params, jnp.ones((2, 3)))[1], jnp.ones((2, 3)))
