"""Group norm: numbers worked by hand, its special cases, a bias before it, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import generator, normal
from jaxbias.layers import batch_norm, dense, group_norm, layer_norm
from tests.planted import assert_caught

EXAMPLE = group_norm.DERIVATIONS[0].examples[0]


def test_by_hand():
    """One sample, one position, groups (1, 3) and (2, 10): x̂ = (−1, 1, −1, 1), since a pair of values always is."""
    params = Params(jnp.array([2.0, 1, 1, 3]), jnp.array([0.0, 0, 5, 0]))
    out, residuals = group_norm.forward(params, jnp.array([[1.0, 3, 2, 10]]), groups=2, eps=0.0)
    grads, _ = group_norm.backward(residuals, jnp.array([[1.0, 2, 3, 4]]))
    assert out.tolist() == [[-2, 1, 4, 3]]
    assert grads.weight.tolist() == [-1, 2, -3, 4]
    assert grads.bias.tolist() == [1, 2, 3, 4]


def test_input_gradient_by_hand():
    """One group over two positions and two channels: x = (1, 1 | 3, 3), as in layer norm, with γ = (2, 1) per channel.

    x̂ = (−1, −1, 1, 1), δ = (1, 0, 0, 0): δ̂ = (2, 0, 0, 0) has mean ½, and δ̂ x̂ has mean −½.
    """
    x, delta = jnp.array([[[1.0, 1], [3, 3]]]), jnp.array([[[1.0, 0], [0, 0]]])
    _, residuals = group_norm.forward(Params(jnp.array([2.0, 1]), None), x, groups=1, eps=0.0)
    grads, delta_x = group_norm.backward(residuals, delta)
    assert delta_x.tolist() == [[[1, -1], [0, 0]]]
    assert grads.weight.tolist() == [-1, 0]


def test_each_group_of_neighbouring_channels_is_normalised_by_itself(key):
    x = 5 + 3 * jax.random.normal(key, (2, 4, 3, 6))
    layer = group_norm.layer(3, eps=0.0)
    out, _ = layer.forward(layer.init(key, x), x)
    for n in range(2):
        for first in (0, 2, 4):
            part = np.asarray(x[n, :, :, first : first + 2])
            expected = (part - part.mean()) / part.std()
            np.testing.assert_allclose(out[n, :, :, first : first + 2], expected, rtol=1e-12)


def test_as_many_groups_as_channels_is_instance_norm(key):
    """Batch norm of each sample by itself."""
    x = normal(key, (2, 4, 3, 5), jnp.float64)
    params = Params(*normal(key, (2, 5), jnp.float64))

    @jax.jit
    def forwards(params, x):
        ones = [batch_norm.forward(params, x[n], batch_norm.init_state(5))[0] for n in range(2)]
        return *(group_norm.forward(params, x, groups=groups)[0] for groups in (None, 5)), ones

    out, same, ones = forwards(params, x)
    assert np.array_equal(out, same)
    np.testing.assert_allclose(out, ones, rtol=1e-12)


def test_one_group_without_positions_is_layer_norm(key):
    x, delta = normal(key, (2, 3, 5), jnp.float64)
    params = Params(*normal(key, (2, 5), jnp.float64))

    @jax.jit
    def both(params, x, delta):
        out, residuals = group_norm.forward(params, x, groups=1)
        expected, expected_residuals = layer_norm.forward(params, x)
        gradients = group_norm.backward(residuals, delta), layer_norm.backward(expected_residuals, delta)
        return (out, expected), gradients

    (out, expected), (actual, wanted) = both(params, x, delta)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("groups", "redundant"), [(None, True), (2, False)])
def test_a_bias_directly_before(key, groups, redundant):
    """Redundant before instance norm; with larger groups only its mean over each group is (5.3)."""
    network = jb.chain(dense.layer(4), group_norm.layer(groups))
    x_key, delta_key, init_key = jax.random.split(key, 3)
    x, delta = normal(x_key, (3, 5, 2), jnp.float64), normal(delta_key, (3, 5, 4), jnp.float64)

    @jax.jit
    def gradients(x, delta):
        first, after = network.init(init_key, x)
        first = first._replace(bias=jnp.array([1.0, -2, 3, 5]))
        _, residuals = network.forward((first, after), x)
        (grads, _), _ = network.backward(residuals, delta)
        return grads.bias, group_norm.backward(residuals[1], delta)[1]

    bias, below = map(np.asarray, gradients(x, delta))
    size = np.abs(below).sum()
    assert (np.abs(bias.reshape(2, 2).sum(1)) < 1e-14 * size).all()
    assert ((np.abs(bias) < 1e-14 * size) == redundant).all()


def test_variance_survives_a_large_mean():
    x = 4096 + jnp.arange(8, dtype=jnp.float32).reshape(1, 4, 2) / 2  # exact in float32
    out, _ = group_norm.forward(Params(jnp.ones(2, jnp.float32), None), x, groups=1, eps=0.0)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(out, (exact - exact.mean()) / exact.std(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda d: d.__name__)
def test_half_precision_keeps_its_statistics_in_float32(key, dtype):
    x = (300 * generator(key).standard_normal((2, 16, 4))).astype(dtype)  # x² is beyond float16
    layer = group_norm.layer(1)
    out, residuals = jax.jit(lambda x: layer.forward(layer.init(key, x), x))(x)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((1, 2), keepdims=True)) / exact.std((1, 2), keepdims=True)
    assert out.dtype == dtype
    assert residuals.rstd.dtype == jnp.float32
    np.testing.assert_allclose(np.float64(out), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-5)


def test_one_value_in_a_group_gives_the_shift():
    out, residuals = group_norm.forward(Params(jnp.ones(2), jnp.array([0.5, -1])), jnp.ones((3, 2)), groups=None)
    assert out.tolist() == [[0.5, -1]] * 3
    assert (group_norm.backward(residuals, jnp.ones((3, 2)))[1] == 0).all()


def test_bad_input_is_named(as_users_run_it, key):
    params = Params(jnp.ones(6), jnp.zeros(6))
    with pytest.raises(ValueError, match=r"group_norm\.forward: groups=4 must divide the 6 channels of x, .*\(5, 6\)"):
        group_norm.forward(params, jnp.ones((5, 6)), groups=4)
    with pytest.raises(
        ValueError, match=r"group_norm\.layer: groups must be a whole number of at least 1, got the int 0"
    ):
        group_norm.layer(0)
    with pytest.raises(ValueError, match=r"must have the axes \(n, \*positions, channels\), got shape \(6,\)"):
        group_norm.forward(params, jnp.ones(6), groups=2)
    with pytest.raises(ValueError, match=r"group_norm\.init: x of shape \(5, 0\) has no channels"):
        group_norm.layer(None).init(key, jnp.ones((5, 0)))
    with pytest.raises(ValueError, match=r"group_norm\.forward: .* got x \(5, 4\) and weight \(6,\)"):
        group_norm.forward(params, jnp.ones((5, 4)), groups=2)
    with pytest.raises(TypeError, match=r"group_norm\.forward: x must be a floating-point array, got int"):
        group_norm.forward(params, jnp.ones((5, 6), int), groups=2)
    with pytest.raises(ValueError, match=r"group_norm: eps must be at least 0, got -1"):
        group_norm.layer(2, eps=-1.0)


def as_layer_norm(right, r, d):
    """The means taken over all channels, and not over those of the group."""
    x = (r.x - r.x.mean((1, 2, 3), keepdims=True)) / r.x.std((1, 2, 3), keepdims=True)
    scaled = d * r.weight[None, None, None]
    mean = lambda v: v.mean((1, 2, 3), keepdims=True)
    return (scaled - mean(scaled) - x * mean(scaled * x)) / r.x.std((1, 2, 3), keepdims=True)


@pytest.mark.parametrize(
    ("leaf", "fault"),
    [
        ("x", as_layer_norm),
        ("x", lambda right, r, d: right * r.weight[None, None, None]),  # the scale twice
        ("x", lambda right, r, d: jnp.roll(right, 1, axis=-1)),  # another group's channels
        ("weight", lambda right, r, d: (d * r.x).sum((0, 1, 2))),  # x taken for x̂
        ("weight", lambda right, r, d: right / (d.shape[1] * d.shape[2])),  # positions averaged
        ("bias", lambda right, r, d: d.sum(0).mean((0, 1))),
    ],
)
def test_planted_fault_is_caught(key, leaf, fault):
    def wrong(residuals, delta):
        grads, delta_x = group_norm.backward(residuals, delta)
        if leaf == "x":
            return grads, fault(delta_x, residuals, delta)
        return grads._replace(**{leaf: fault(getattr(grads, leaf), residuals, delta)}), delta_x

    assert_caught(EXAMPLE, key, wrong, leaves={"1" if leaf == "x" else f"0.{leaf}"})
