"""RMS norm: numbers worked by hand, robustness, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.layers import dense, rms_norm
from tests.planted import assert_caught

WITHOUT_BIAS, WITH_BIAS = rms_norm.DERIVATIONS[0].examples[:2]


def test_by_hand():
    """x = (1, 7): mean square 25, r = 1/5, x̂ = (0.2, 1.4). δ̂ = (2, 0), δ̂ x̂ has mean 0.2."""
    params = Params(jnp.array([2.0, 1]), jnp.array([0.5, -1]))
    out, residuals = rms_norm.forward(params, jnp.array([[1.0, 7]]), eps=0.0)
    grads, delta_x = rms_norm.backward(residuals, jnp.array([[1.0, 0]]))
    np.testing.assert_allclose(out, [[0.9, 0.4]], rtol=1e-14)
    np.testing.assert_allclose(grads.weight, [0.2, 0], rtol=1e-14)
    assert grads.bias.tolist() == [1, 0]
    np.testing.assert_allclose(delta_x, [[0.392, -0.056]], rtol=1e-13)


def test_several_axes_are_one_long_one(key):
    """What (3, 4) units give is what 12 give: one root mean square for all of them."""
    x, delta = np.random.default_rng(2).standard_normal((2, 5, 3, 4))
    weight = np.random.default_rng(3).standard_normal((3, 4))

    @jax.jit
    def run(weight, x, delta):
        params = Params(weight, weight - 1)
        out, residuals = rms_norm.forward(params, x)
        flat_out, flat_residuals = rms_norm.forward(jax.tree.map(jnp.ravel, params), x.reshape(5, 12))
        return (out, rms_norm.backward(residuals, delta)), (
            flat_out,
            rms_norm.backward(flat_residuals, delta.reshape(5, 12)),
        )

    for several, flat in zip(*map(jax.tree.leaves, run(weight, x, delta)), strict=True):
        np.testing.assert_allclose(several.ravel(), flat.ravel(), rtol=1e-12, atol=1e-14)


def test_no_bias_by_default(key):
    params = rms_norm.layer().init(key, jnp.ones((2, 3)))
    assert params.weight.tolist() == [1, 1, 1]
    assert params.bias is None


def test_a_bias_before_is_not_redundant_in_any_component(key):
    network = jb.chain(dense.layer(4), rms_norm.layer())
    x_key, delta_key, init_key = jax.random.split(key, 3)
    x, delta = jax.random.normal(x_key, (6, 3)), jax.random.normal(delta_key, (6, 4))
    first, after = network.init(init_key, x)
    out, _ = network.forward((first, after), x)
    common, residuals = network.forward((first._replace(bias=jnp.full(4, 7.0)), after), x)
    (grads, _), _ = network.backward(residuals, delta)
    assert jnp.abs(common - out).max() > 0.1
    assert jnp.abs(grads.bias.sum()) > 1e-3


def test_scale_of_the_input_does_not_matter_without_eps(key):
    x = jax.random.normal(key, (3, 4))
    params = Params(jnp.ones(4), None)
    np.testing.assert_allclose(
        rms_norm.forward(params, 1e6 * x, eps=0.0)[0], rms_norm.forward(params, x, eps=0.0)[0], rtol=1e-13
    )


def test_sample_of_zeros_gives_the_shift():
    out, residuals = rms_norm.forward(Params(jnp.ones(2), jnp.array([0.5, -1])), jnp.zeros((1, 2)))
    assert out.tolist() == [[0.5, -1]]
    np.testing.assert_allclose(rms_norm.backward(residuals, jnp.ones((1, 2)))[1], [[1e3, 1e3]])  # δ/√eps


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda d: d.__name__)
def test_half_precision_keeps_its_statistic_in_float32(key, dtype):
    x = (300 * jax.random.normal(key, (3, 64))).astype(dtype)  # x² is beyond float16
    layer = rms_norm.layer()
    out, residuals = layer.forward(layer.init(key, x), x)
    exact = np.asarray(x.astype(jnp.float64))
    expected = exact / np.sqrt(np.mean(exact**2, 1, keepdims=True))
    assert out.dtype == dtype
    assert residuals.rstd.dtype == jnp.float32
    np.testing.assert_allclose(out.astype(jnp.float64), expected, rtol=float(jnp.finfo(dtype).eps))


def test_bad_input_is_named(as_users_run_it, key):
    params = Params(jnp.ones(3), None)
    with pytest.raises(ValueError, match=r"rms_norm\.forward: .* got x \(5, 4\) and weight \(3,\)"):
        rms_norm.forward(params, jnp.ones((5, 4)))
    with pytest.raises(TypeError, match=r"rms_norm\.forward: x must be a floating-point array, got int"):
        rms_norm.forward(params, jnp.ones((5, 3), int))
    with pytest.raises(ValueError, match=r"rms_norm\.init: x needs at least 1 axes, got shape \(\)"):
        rms_norm.layer().init(key, jnp.ones(()))
    with pytest.raises(ValueError, match=r"rms_norm\.init: x needs at least 2 axes, got shape \(3,\)"):
        rms_norm.layer(axes=2).init(key, jnp.ones(3))
    with pytest.raises(ValueError, match=r"rms_norm: eps must be at least 0, got -1"):
        rms_norm.layer(eps=-1.0)


@pytest.mark.parametrize(
    ("leaf", "fault"),
    [
        ("x", lambda right, r, d: r.rstd * d * r.weight[None]),  # the statistic taken for a constant
        ("x", lambda right, r, d: right - r.rstd * (d * r.weight[None]).mean(1, keepdims=True)),  # layer norm's rule
        ("x", lambda right, r, d: right * r.rstd),
        ("weight", lambda right, r, d: (d * r.x).sum(0)),  # x taken for x̂
        ("weight", lambda right, r, d: right / d.shape[0]),
        ("bias", lambda right, r, d: r.weight * d.sum(0)),
    ],
)
def test_planted_fault_is_caught(key, leaf, fault):
    def wrong(residuals, delta):
        grads, delta_x = rms_norm.backward(residuals, delta)
        if leaf == "x":
            return grads, fault(delta_x, residuals, delta)
        return grads._replace(**{leaf: fault(getattr(grads, leaf), residuals, delta)}), delta_x

    example = WITH_BIAS if leaf == "bias" else WITHOUT_BIAS
    assert_caught(example, key, wrong, leaves={"1" if leaf == "x" else f"0.{leaf}"})


def test_a_mean_over_the_last_axis_alone_is_caught(key):
    def wrong(residuals, delta):
        x, r, weight, _ = residuals
        grads, _ = rms_norm.backward(residuals, delta)
        scaled = delta * weight[None]
        return grads, r * (scaled - x * r * r * (scaled * x).mean(-1, keepdims=True))

    example = next(each for each in rms_norm.DERIVATIONS[0].examples if each.label == "over two axes, with bias")
    assert_caught(example, key, wrong, leaves={"1"})
