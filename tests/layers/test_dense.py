import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias.layers import dense
from jaxbias.params import Params
from tests.planted import assert_caught

EXAMPLE = dense.DERIVATIONS[0].examples[0]


def test_forward_by_hand():
    params = Params(jnp.array([[1.0, 2, 0], [0, 1, -1]]), jnp.array([10.0, 20, 30]))
    z, _ = dense.forward(params, jnp.array([[1.0, 2], [3, 4]]))
    assert z.tolist() == [[11.0, 24, 28], [13.0, 30, 26]]


def test_bias_gradient_is_the_sum_of_the_deltas_by_hand():
    """Equation (14): each row's δ, summed."""
    _, residuals = dense.forward(Params(jnp.eye(2), jnp.zeros(2)), jnp.ones((3, 2)))
    grads, _ = dense.backward(residuals, jnp.array([[1.0, 2], [3, 4], [5, 6]]))
    assert grads.bias.tolist() == [9.0, 12.0]


def test_weight_gradient_is_activation_times_delta_by_hand():
    """Equation (10): ∂L/∂W[i,j] = x[i] δ[j]; equation (8): ∂L/∂x[i] = Σ_j δ[j] W[i,j]."""
    _, residuals = dense.forward(Params(jnp.array([[1.0, 2], [3, 4], [5, 6]]), None), jnp.array([[1.0, 2, 3]]))
    grads, delta_x = dense.backward(residuals, jnp.array([[10.0, -1]]))
    assert grads.weight.tolist() == [[10.0, -1], [20, -2], [30, -3]]
    assert grads.bias is None
    assert delta_x.tolist() == [[8.0, 26, 44]]


def test_leading_axes_are_rows(key):
    layer = dense.layer(2)
    x = jax.random.normal(key, (2, 5, 3), jnp.float64)
    params = layer.init(key, x)
    z, residuals = layer.forward(params, x)
    flat, flat_residuals = layer.forward(params, x.reshape(10, 3))
    np.testing.assert_allclose(z.reshape(10, 2), flat, rtol=1e-14)
    grads, delta_x = layer.backward(residuals, z)
    flat_grads, flat_delta_x = layer.backward(flat_residuals, flat)
    np.testing.assert_allclose(grads.weight, flat_grads.weight, rtol=1e-13)
    np.testing.assert_allclose(grads.bias, flat_grads.bias, rtol=1e-13)
    np.testing.assert_allclose(delta_x.reshape(10, 3), flat_delta_x, rtol=1e-13)


def test_narrow_deltas_are_summed_in_float32():
    """4096 deltas of 1: a running sum in bfloat16 would stop growing at 256, where 1 is half an ulp."""
    ones = jnp.ones((4096, 1), jnp.bfloat16)
    _, residuals = dense.forward(Params(ones[:1], ones[0]), ones)
    grads, _ = dense.backward(residuals, ones)
    assert grads.bias.tolist() == [4096.0]
    assert grads.weight.tolist() == [[4096.0]]


def test_without_a_bias_there_is_no_leaf(key):
    params = dense.layer(4, use_bias=False).init(key, jnp.ones((2, 3)))
    assert params.bias is None
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(3, 4)]


def changed(**leaves):
    """The right backward with one leaf replaced by `value(residuals, delta, right)`."""

    def wrong(residuals, delta):
        grads, delta_x = dense.backward(residuals, delta)
        right = {"weight": grads.weight, "bias": grads.bias, "delta_x": delta_x}
        right |= {name: value(residuals, delta, right[name]) for name, value in leaves.items()}
        return Params(right["weight"], right["bias"]), right["delta_x"]

    return wrong


WRONG = {
    "bias averaged over rows": (changed(bias=lambda r, delta, right: delta.mean(axis=0)), {"0.bias"}),
    "bias of the first row only": (changed(bias=lambda r, delta, right: delta[0]), {"0.bias"}),
    "bias gradient all ones": (changed(bias=lambda r, delta, right: jnp.ones_like(right)), {"0.bias"}),
    "weight averaged over rows": (changed(weight=lambda r, delta, right: right / len(delta)), {"0.weight"}),
    "weight transposed in memory": (changed(weight=lambda r, delta, right: right.T.reshape(3, 4)), {"0.weight"}),
    "weight without the activation": (
        changed(weight=lambda r, delta, right: jnp.broadcast_to(delta.sum(axis=0), right.shape)),
        {"0.weight"},
    ),
    "delta_x with a factor of the layer below": (changed(delta_x=lambda r, delta, right: right * r.x), {"1"}),
    "sign": (changed(bias=lambda r, d, right: -right, delta_x=lambda r, d, right: -right), {"0.bias", "1"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_backwards_are_caught(key, name):
    assert_caught(EXAMPLE, key, *WRONG[name])


@pytest.mark.usefixtures("as_users_run_it")
def test_errors_name_what_came_and_what_was_wanted(key):
    layer = dense.layer(4)
    params = layer.init(key, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dense\.forward: x has 5 features but weight has fan_in=3.*\(2, 5\)"):
        layer.forward(params, jnp.ones((2, 5)))
    with pytest.raises(TypeError, match=r"dense\.forward: x must be a floating-point array, got int32\. .*astype"):
        layer.forward(params, jnp.ones((2, 3), jnp.int32))
    with pytest.raises(TypeError, match=r"dense\.init: x must be a floating-point array, got int32"):
        layer.init(key, jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"x is a scalar but weight has fan_in=3"):
        layer.forward(params, jnp.ones(()))
