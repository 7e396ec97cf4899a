"""Dropout: expectation, the exact weighted-L2 identity, one mask both ways, keys, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import generator
from jaxbias.layers import dense, dropout
from tests.planted import assert_caught

EXAMPLE = dropout.DERIVATIONS[0].examples[0]


def test_kept_units_are_scaled_and_the_others_zero(key):
    x = generator(key).standard_normal((50, 40))
    out, residuals = jax.jit(lambda x: dropout.forward((), x, key, rate=0.2))(x)
    out, mask = np.asarray(out), np.asarray(residuals.mask)
    assert mask.dtype == bool
    np.testing.assert_allclose(out[mask], x[mask] / 0.8, rtol=1e-14)
    assert (out[~mask] == 0).all()
    assert abs(float(mask.mean()) - 0.8) < 5 * np.sqrt(0.2 * 0.8 / 2000)  # five standard errors


def test_expectation_is_the_input(key):
    """E[z] = x (A2.7): the mean over 10,000 masks lies within five standard errors, |x| √(p/q) / 100."""
    x, rate = jnp.array([1.0, -2.0, 0.5]), 0.3
    outs = jax.jit(jax.vmap(lambda k: dropout.forward((), x, k, rate=rate)[0]))(jax.random.split(key, 10_000))
    assert (np.abs(np.mean(outs, axis=0) - np.asarray(x)) < 5 * np.abs(x) * np.sqrt(0.3 / 0.7) / 100).all()


def test_effect_on_a_linear_model_is_a_weighted_penalty(key):
    """E|y − (M x/q)·w|² = |y − x·w|² + (p/q) Σ xᵢ² wᵢ² (A2.7, E21), within five standard errors of 20,000 masks."""
    x, w, y, p = jnp.array([1.0, -2, 0.5, 3]), np.array([0.3, -0.4, 2, 0.1]), 1.7, 0.3
    masks = jax.random.split(key, 20_000)
    errors = np.asarray(jax.jit(jax.vmap(lambda k: (y - dropout.forward((), x, k, rate=p)[0] @ w) ** 2))(masks))
    x = np.asarray(x)
    expected = (y - x @ w) ** 2 + p / (1 - p) * np.sum(x**2 * w**2)
    assert abs(errors.mean() - expected) < 5 * errors.std() / np.sqrt(20_000)
    assert abs(errors.mean() - (y - x @ w) ** 2) > 50 * errors.std() / np.sqrt(20_000)  # the penalty is seen


def test_a_dropped_unit_gives_its_bias_no_gradient_for_that_sample(key):
    network = jb.chain(dense.layer(20), dropout.layer(0.5))
    x_key, delta_key, state_key, init_key = jax.random.split(key, 4)
    x, delta = generator(x_key).standard_normal((1, 3)), generator(delta_key).standard_normal((1, 20))

    @jax.jit
    def run(x, delta):
        _, residuals = network.forward(network.init(init_key, x), x, network.state.init(state_key, x))
        (grads, _), _ = network.backward(residuals, delta)
        return residuals[1].mask[0], grads.weight, grads.bias

    mask, weight, bias = map(np.asarray, run(x, delta))
    assert 0 < mask.sum() < 20
    assert (bias[~mask] == 0).all()
    assert (weight[:, ~mask] == 0).all()
    np.testing.assert_allclose(bias[mask], delta[0, mask] / 0.5, rtol=1e-14)


def test_backward_uses_the_mask_of_the_forward(key):
    out, residuals = dropout.forward((), jnp.ones((5, 6)), key, rate=0.4)
    grads, delta_x = dropout.backward(residuals, jnp.ones((5, 6)))
    assert grads == ()
    assert (delta_x == out).all()


def test_inference_is_the_identity(key):
    x = jax.random.normal(key, (5, 4))
    network = jb.inference(jb.chain(dropout.layer(0.9), jb.layers.relu, dropout.layer(0.5)))
    out, residuals = network.forward(((), (), ()), x)
    assert (out == jnp.where(x > 0, x, 0)).all()
    assert (network.backward(residuals, x)[1] == out).all()


def test_rate_0_passes_everything_and_rate_1_nothing(key):
    x = jnp.array([1.0, jnp.inf, -3])
    for rate, expected in ((0.0, [1, np.inf, -3]), (1.0, [0, 0, 0])):
        out, residuals = dropout.forward((), x, key, rate=rate)
        assert out.tolist() == expected
        assert dropout.backward(residuals, x)[1].tolist() == expected


def test_step_gives_another_mask_and_one_key_the_same(key):
    layer, x = dropout.layer(), jnp.ones(200)
    first, residuals = layer.forward((), x, key)
    again, _ = layer.forward((), x, key)
    second, _ = layer.forward((), x, layer.state.step(key, residuals))
    assert (first == again).all()
    assert 50 < (first != second).sum() < 150  # two independent masks differ in about half of 200 units


def test_two_dropouts_of_a_chain_draw_different_masks(key):
    network = jb.chain(dropout.layer(), dropout.layer())
    x = jnp.ones(200)
    _, (first, second) = network.forward(((), ()), x, network.state.init(key, x))
    assert 50 < (first.mask != second.mask).sum() < 150


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_mask_does_not_depend_on_the_dtype(key, dtype):
    out, residuals = dropout.forward((), jnp.ones((5, 4), dtype), key, rate=0.3)
    _, wide = dropout.forward((), jnp.ones((5, 4), jnp.float64), key, rate=0.3)
    assert out.dtype == dtype
    assert (residuals.mask == wide.mask).all()


def test_older_uint32_keys_work(key):
    old = jax.random.key_data(key)
    layer = dropout.layer()
    _, residuals = layer.forward((), jnp.ones(4), old)
    assert layer.state.step(old, residuals).dtype == old.dtype


def test_a_training_loop_carries_the_key(key):
    network = jb.chain(dense.layer(3), dropout.layer())
    x = jax.random.normal(key, (4, 5, 2), jnp.float32)
    params, state = network.init(key, x[0]), network.state.init(key, x[0])

    def step(state, batch):
        out, residuals = network.forward(params, batch, state)
        return network.state.step(state, residuals), out

    last, _ = jax.jit(lambda: jax.lax.scan(step, state, x))()
    for _ in range(4):
        state = network.state.step(state, (None, None))
    assert (jax.random.key_data(last[1]) == jax.random.key_data(state[1])).all()


def test_bad_input_is_named(as_users_run_it, key):
    with pytest.raises(ValueError, match=r"dropout: rate is the probability .*, in \[0, 1\]; got 1\.5"):
        dropout.layer(1.5)
    with pytest.raises(ValueError, match=r"dropout\.forward: rate is the probability .* got -0\.1"):
        dropout.forward((), jnp.ones(3), key, rate=-0.1)
    with pytest.raises(TypeError, match=r"dropout\.forward: x must be a floating-point array, got int"):
        dropout.forward((), jnp.arange(3), key)
    with pytest.raises(ValueError, match=r"dropout: this layer keeps a state .* and got none"):
        jb.chain(dropout.layer()).forward(((),), jnp.ones(3))


@pytest.mark.parametrize(
    "fault",
    [
        lambda r, d: d / 0.5,  # no mask
        lambda r, d: jnp.where(r.mask, d, 0),  # no scale
        lambda r, d: jnp.where(r.mask, 0, d / 0.5),  # the mask inverted
        lambda r, d: jnp.where(r.mask, d * 0.5, 0),  # scaled by q, not by 1/q
        lambda r, d: jnp.where(jnp.roll(r.mask, 1, 0), d / 0.5, 0),  # another mask
    ],
)
def test_planted_fault_is_caught(key, fault):
    assert_caught(EXAMPLE, key, lambda residuals, delta: ((), fault(residuals, delta)), leaves={"1"})
