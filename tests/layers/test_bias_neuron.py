import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.layers import bias_neuron, dense
from jaxbias.params import Params
from tests.planted import assert_caught


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16])
def test_conversion_round_trips_bit_for_bit(key, dtype):
    """A0.2; NaN, −0 and infinity included."""
    weight = jax.random.normal(key, (3, 4), dtype).at[0, 0].set(jnp.nan)
    params = Params(weight, jnp.array([-0.0, jnp.inf, 1 / 3, -2.5], dtype))
    augmented = bias_neuron.from_dense(params)
    assert augmented.weight.shape == (4, 4) and augmented.bias is None
    for actual, expected in ((bias_neuron.to_dense(augmented), params),):
        assert [leaf.tobytes() for leaf in map(np.asarray, actual)] == [
            leaf.tobytes() for leaf in map(np.asarray, expected)
        ]
    again = bias_neuron.from_dense(bias_neuron.to_dense(augmented))
    assert np.asarray(again.weight).tobytes() == np.asarray(augmented.weight).tobytes()


def test_it_equals_the_dense_layer_in_output_and_gradients(key):
    """Sheet 4.4, and its recipe 8.8."""
    keys = jax.random.split(key, 4)
    params = Params(jax.random.normal(keys[0], (3, 4), jnp.float64), jax.random.normal(keys[1], (4,), jnp.float64))
    x, delta = jax.random.normal(keys[2], (5, 3), jnp.float64), jax.random.normal(keys[3], (5, 4), jnp.float64)
    z, residuals = dense.forward(params, x)
    grads, delta_x = dense.backward(residuals, delta)
    augmented_z, residuals = bias_neuron.forward(bias_neuron.from_dense(params), x)
    augmented_grads, augmented_delta_x = bias_neuron.backward(residuals, delta)
    for actual, expected in zip(
        (augmented_z, augmented_delta_x, *bias_neuron.to_dense(augmented_grads)), (z, delta_x, *grads), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)


def test_by_hand():
    z, residuals = bias_neuron.forward(Params(jnp.array([[2.0], [10.0]]), None), jnp.array([[3.0], [4.0]]))
    assert z.tolist() == [[16.0], [18.0]]
    grads, delta_x = bias_neuron.backward(residuals, jnp.array([[1.0], [100.0]]))
    assert grads.weight.tolist() == [[403.0], [101.0]]  # the constant unit's row is the sum of the deltas, (14)
    assert delta_x.tolist() == [[2.0], [200.0]]


def test_init_is_that_of_the_dense_layer(key):
    params = bias_neuron.layer(4).init(key, jnp.ones((2, 3)))
    assert np.array_equal(params.weight[:-1], dense.layer(4).init(key, jnp.ones((2, 3))).weight)
    assert not params.weight[-1].any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"bias_neuron.from_dense: params has no bias, so there is no bias neuron"):
        bias_neuron.from_dense(Params(jnp.ones((3, 4)), None))
    with pytest.raises(
        ValueError, match=r"bias_neuron.to_dense: params must be .* got weight \(3, 4\) and bias \(4,\)"
    ):
        bias_neuron.to_dense(Params(jnp.ones((3, 4)), jnp.ones(4)))
    with pytest.raises(ValueError, match=r"bias_neuron.forward: x has 4 features but weight has fan_in=3"):
        bias_neuron.forward(Params(jnp.ones((4, 2)), None), jnp.ones((5, 4)))


@pytest.mark.parametrize(
    ("change", "leaves"),
    [
        (lambda g, dx, r, d: (g._replace(weight=g.weight.at[-1].set(d.mean(0))), dx), {"0.weight"}),
        (lambda g, dx, r, d: (g._replace(weight=jnp.roll(g.weight, 1, axis=0)), dx), {"0.weight"}),
        (lambda g, dx, r, d: (g, (d @ r.weight.T)[:, 1:]), {"1"}),
    ],
    ids=["bias row: mean", "constant unit first", "first instead of last column dropped"],
)
def test_planted_faults_are_caught(key, change, leaves):
    example = bias_neuron.DERIVATIONS[0].examples[0]
    assert_caught(example, key, lambda r, d: change(*bias_neuron.backward(r, d), r, d), leaves)
