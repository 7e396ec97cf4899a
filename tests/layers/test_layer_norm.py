"""Layer norm: numbers worked by hand, what a bias before it does, robustness, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import generator
from jaxbias.layers import dense, layer_norm
from tests.planted import assert_caught

EXAMPLE = layer_norm.DERIVATIONS[0].examples[0]


def test_by_hand():
    """x = (1, 1, 3, 3): μ = 2, v = 1, x̂ = (−1, −1, 1, 1). δ̂ = (2, 0, 0, 0) has mean ½, and δ̂ x̂ has mean −½."""
    params = Params(jnp.array([2.0, 1, 1, 1]), jnp.array([0.0, 0.5, 0, -1]))
    out, residuals = layer_norm.forward(params, jnp.array([[1.0, 1, 3, 3]]), eps=0.0)
    grads, delta_x = layer_norm.backward(residuals, jnp.array([[1.0, 0, 0, 0]]))
    assert out.tolist() == [[-2, -0.5, 1, 0]]
    assert grads.weight.tolist() == [-1, 0, 0, 0]
    assert grads.bias.tolist() == [1, 0, 0, 0]
    assert delta_x.tolist() == [[1, -1, 0, 0]]


def test_over_the_last_axes_of_the_weight(key):
    x = 3 + jax.random.normal(key, (5, 4, 3))
    layer = layer_norm.layer(axes=2, eps=0.0)
    params = layer.init(key, x)
    out, _ = layer.forward(params, x)
    assert params.weight.shape == params.bias.shape == (4, 3)
    np.testing.assert_allclose(out.mean((1, 2)), 0, atol=1e-13)
    np.testing.assert_allclose(out.var((1, 2)), 1, rtol=1e-12)  # the biased variance


def test_a_bias_before_is_removed_only_along_ones(key):
    """LN(z + c 1) = LN(z) but LN(z + b) ≠ LN(z); ∂L/∂b sums to 0 without being 0 (5.3, E7)."""
    network = jb.chain(dense.layer(4), layer_norm.layer())
    keys = jax.random.split(key, 4)
    x, delta = jax.random.normal(keys[0], (6, 3)), jax.random.normal(keys[1], (6, 4))
    (first, after) = network.init(keys[2], x)
    bias = jax.random.normal(keys[3], (4,))
    out, _ = network.forward((first, after), x)
    common, _ = network.forward((first._replace(bias=jnp.full(4, 7.0)), after), x)
    shifted, residuals = network.forward((first._replace(bias=bias), after), x)
    np.testing.assert_allclose(common, out, rtol=0, atol=1e-13)
    assert jnp.abs(shifted - out).max() > 0.1
    (grads, _), _ = network.backward(residuals, delta)
    assert (jnp.abs(grads.bias) > 1e-2).all()
    assert jnp.abs(grads.bias.sum()) < 1e-14 * jnp.abs(grads.bias).sum()


def test_constant_sample_gives_the_shift():
    params = Params(jnp.array([2.0, 3]), jnp.array([0.5, -1]))
    out, residuals = layer_norm.forward(params, jnp.full((1, 2), 1e6))
    assert out.tolist() == [[0.5, -1]]
    assert jnp.isfinite(layer_norm.backward(residuals, jnp.array([[1.0, 2]]))[1]).all()


def test_variance_survives_a_large_mean():
    """4096 + {0, ½, 1, …} is exact in float32; E[x²] − E[x]² would lose the variance to cancellation."""
    x = 4096 + jnp.arange(8, dtype=jnp.float32)[None] / 2
    out, _ = layer_norm.forward(Params(jnp.ones(8, jnp.float32), None), x, eps=0.0)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(out, (exact - exact.mean()) / exact.std(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda d: d.__name__)
def test_half_precision_keeps_its_statistics_in_float32(key, dtype):
    x = (300 * generator(key).standard_normal((3, 64))).astype(dtype)  # x² is beyond float16
    layer = layer_norm.layer()
    out, residuals = jax.jit(lambda x: layer.forward(layer.init(key, x), x))(x)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    assert out.dtype == dtype
    assert residuals.mean.dtype == residuals.rstd.dtype == jnp.float32
    np.testing.assert_allclose(np.float64(out), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-5)


def test_input_is_kept_and_no_copy_of_it():
    x = jnp.ones((2, 3))
    _, residuals = layer_norm.forward(Params(jnp.ones(3), None), x)
    assert residuals.x is x
    assert residuals.mean.shape == residuals.rstd.shape == (2, 1)


def test_bad_input_is_named(as_users_run_it, key):
    params = Params(jnp.ones((4, 3)), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"layer_norm\.forward: .* got x \(5, 3, 4\) and weight \(4, 3\)"):
        layer_norm.forward(params, jnp.ones((5, 3, 4)))
    with pytest.raises(ValueError, match=r"layer_norm\.forward: .* got x \(3,\) and weight \(4, 3\)"):
        layer_norm.forward(params, jnp.ones(3))
    with pytest.raises(TypeError, match=r"layer_norm\.forward: x must be a floating-point array, got int"):
        layer_norm.forward(params, jnp.ones((4, 3), int))
    with pytest.raises(ValueError, match=r"layer_norm: axes, .* must be a whole number of at least 1, got the int 0"):
        layer_norm.layer(axes=0)
    with pytest.raises(ValueError, match=r"layer_norm: eps must be at least 0, got -1"):
        layer_norm.layer(eps=-1.0)
    with pytest.raises(ValueError, match=r"layer_norm\.init: x needs at least 2 axes, got shape \(3,\)"):
        layer_norm.layer(axes=2).init(key, jnp.ones(3))


def x_hat(r):
    return (r.x - r.mean) * r.rstd


@pytest.mark.parametrize(
    ("leaf", "fault"),
    [
        ("x", lambda right, r, d: r.rstd * d * r.weight[None]),  # statistics taken for constants
        ("x", lambda right, r, d: right + r.rstd * (d * r.weight[None]).mean(1, keepdims=True)),  # no way through μ
        ("x", lambda right, r, d: r.rstd * (d - d.mean(1, keepdims=True))),  # the scale and v forgotten
        ("x", lambda right, r, d: right * r.rstd),
        ("weight", lambda right, r, d: (d * r.x).sum(0)),  # x taken for x̂
        ("weight", lambda right, r, d: (d * x_hat(r)).mean(0)),
        ("bias", lambda right, r, d: r.weight * d.sum(0)),
    ],
)
def test_planted_fault_is_caught(key, leaf, fault):
    def wrong(residuals, delta):
        grads, delta_x = layer_norm.backward(residuals, delta)
        if leaf == "x":
            return grads, fault(delta_x, residuals, delta)
        return grads._replace(**{leaf: fault(getattr(grads, leaf), residuals, delta)}), delta_x

    assert_caught(EXAMPLE, key, wrong, leaves={"1" if leaf == "x" else f"0.{leaf}"})
