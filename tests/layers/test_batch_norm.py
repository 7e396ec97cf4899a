"""Batch norm: numbers worked by hand, running statistics, a bias before it, robustness, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import normal
from jaxbias.layers import batch_norm, dense
from jaxbias.layers.batch_norm import Running
from tests.planted import assert_caught

TRAINING, NO_BIAS = batch_norm.DERIVATIONS[0].examples[:2]
INFERENCE = batch_norm.DERIVATIONS[0].examples[5]


def column(*values):
    return jnp.array(values, jnp.float64)[:, None]


def test_training_by_hand():
    """x = (1, 1, 3, 3): μ = 2, v = 1, x̂ = (−1, −1, 1, 1). With δ = (1, 0, 0, 0): ∂L/∂γ = −1, ∂L/∂β = 1."""
    params = Params(jnp.array([2.0]), jnp.array([0.5]))
    out, residuals = batch_norm.forward(
        params, column(1, 1, 3, 3), batch_norm.init_state(1, dtype=jnp.float64), eps=0.0
    )
    grads, delta_x = batch_norm.backward(residuals, column(1, 0, 0, 0))
    assert out.ravel().tolist() == [-1.5, -1.5, 2.5, 2.5]
    assert grads.weight.tolist() == [-1.0]
    assert grads.bias.tolist() == [1.0]
    assert delta_x.ravel().tolist() == [1.0, -1.0, 0.0, 0.0]  # 2 · (δ − (1 − x̂)/4)


def test_inference_by_hand():
    """Running mean 1 and variance 4: x̂ = (x − 1)/2, whatever the batch holds."""
    params, state = Params(jnp.array([3.0]), jnp.array([0.5])), Running(jnp.array([1.0]), jnp.array([4.0]))
    out, residuals = batch_norm.inference_forward(params, column(5, 1), state, eps=0.0)
    grads, delta_x = batch_norm.inference_backward(residuals, column(2, 1))
    assert out.ravel().tolist() == [6.5, 0.5]
    assert grads.weight.tolist() == [4.0]
    assert grads.bias.tolist() == [3.0]
    assert delta_x.ravel().tolist() == [3.0, 1.5]


def test_running_statistics_by_hand():
    """From (0, 1), momentum 0.25, a batch with mean 2 and unbiased variance 4/3: 0.5 and 0.75 + 1/3."""
    layer = batch_norm.layer(momentum=0.25)
    state = layer.state.init(None, column(0))
    _, residuals = layer.forward(Params(jnp.ones(1), jnp.zeros(1)), column(1, 1, 3, 3), state)
    state = layer.state.step(state, residuals)
    np.testing.assert_allclose(state.mean, [0.5], rtol=1e-15)
    np.testing.assert_allclose(state.variance, [0.75 + 1 / 3], rtol=1e-15)


def test_running_statistics_over_images_and_steps(key):
    """Two steps with the default momentum 0.1, against numpy over all axes but the last."""
    layer = batch_norm.layer()
    x = 3 + 2 * np.asarray(normal(key, (2, 5, 4, 3, 2), jnp.float64))  # two batches of five 4×3 images, two channels
    params, state = layer.init(key, x[0]), layer.state.init(key, x[0])
    mean, variance = np.zeros(2), np.ones(2)
    step = jax.jit(lambda state, batch: layer.state.step(state, layer.forward(params, batch, state)[1]))
    for batch in x:
        state = step(state, batch)
        mean = 0.9 * mean + 0.1 * np.mean(batch, (0, 1, 2))
        variance = 0.9 * variance + 0.1 * np.var(batch, (0, 1, 2), ddof=1)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-13)


def test_output_in_training_is_normalised(key):
    x = 100 + 5 * jax.random.normal(key, (6, 3, 4))
    layer = batch_norm.layer(eps=0.0)
    out, _ = layer.forward(layer.init(key, x), x, layer.state.init(key, x))
    np.testing.assert_allclose(out.mean((0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(out.var((0, 1)), 1, rtol=1e-12)  # the biased variance


def test_inference_treats_each_row_by_itself_and_leaves_the_state(key):
    network = jb.chain(dense.layer(3), batch_norm.layer())
    x = jax.random.normal(key, (5, 4))
    params, state = network.init(key, x), network.state.init(key, x)
    _, residuals = network.forward(params, x, state)
    state = network.state.step(state, residuals)
    resting = jb.inference(network)
    whole, residuals = resting.forward(params, x, state)
    first, _ = resting.forward(params, x[:1], state)
    np.testing.assert_allclose(first, whole[:1], rtol=1e-14)
    kept = resting.state.step(state, residuals)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), kept, state))
    assert jb.inference(resting) is resting


def test_a_bias_directly_before_is_redundant_in_training(key):
    """BN(z + b) = BN(z), and ∂L/∂b = 0 up to the rounding of the n deltas that cancel (5.3, E6)."""
    network = jb.chain(dense.layer(3), batch_norm.layer())
    keys = jax.random.split(key, 5)
    x, delta = jax.random.normal(keys[0], (8, 4)), jax.random.normal(keys[1], (8, 3))
    state = network.state.init(key, x)
    weight, shift = jax.random.normal(keys[2], (4, 3)), jax.random.normal(keys[3], (3,))
    after = Params(jax.random.normal(keys[4], (3,)), shift)
    out, residuals = network.forward((Params(weight, jnp.zeros(3)), after), x, state)
    shifted, shifted_residuals = network.forward((Params(weight, 10 * shift), after), x, state)
    np.testing.assert_allclose(shifted, out, rtol=0, atol=1e-13)
    (grads, norm_grads), _ = network.backward(shifted_residuals, delta)
    _, delta_z = batch_norm.backward(residuals[1], delta)
    cancelling = jnp.abs(delta_z).sum(0)
    assert (cancelling > 0.1).all()
    assert (jnp.abs(grads.bias) < 1e-14 * cancelling).all()
    np.testing.assert_allclose(norm_grads.bias, delta.sum(0), rtol=1e-13)  # β takes the bias's place


def test_bias_before_inference_is_not_redundant(key):
    network = jb.inference(jb.chain(dense.layer(3), batch_norm.layer()))
    x = jax.random.normal(key, (8, 4))
    params, state = network.init(key, x), network.state.init(key, x)
    _, residuals = network.forward(params, x, state)
    (grads, _), _ = network.backward(residuals, jnp.ones((8, 3)))
    assert (jnp.abs(grads.bias) > 1).all()


def test_one_row_gives_the_shift_and_no_gradient():
    layer = batch_norm.layer()
    params = Params(jnp.array([2.0, 3]), jnp.array([0.5, -1]))
    state = Running(jnp.array([1.0, 1]), jnp.array([7.0, 8]))
    out, residuals = layer.forward(params, jnp.array([[4.0, -6]]), state)
    grads, delta_x = layer.backward(residuals, jnp.array([[3.0, 5]]))
    state = layer.state.step(state, residuals)
    assert out.tolist() == [[0.5, -1]]
    assert delta_x.tolist() == [[0, 0]]
    assert grads.weight.tolist() == [0, 0]
    assert grads.bias.tolist() == [3, 5]
    np.testing.assert_allclose(state.mean, [1.3, 0.3], rtol=1e-15)
    assert state.variance.tolist() == [7, 8]  # no unbiased variance of one row


def test_an_empty_batch_changes_no_running_statistic():
    layer = batch_norm.layer()
    state = Running(jnp.array([1.0]), jnp.array([7.0]))
    out, residuals = layer.forward(Params(jnp.ones(1), jnp.ones(1)), jnp.zeros((0, 1)), state)
    grads, delta_x = layer.backward(residuals, jnp.zeros((0, 1)))
    assert out.shape == delta_x.shape == (0, 1)
    assert grads.weight.tolist() == grads.bias.tolist() == [0]
    assert layer.state.step(state, residuals) == state


def test_variance_survives_a_large_mean():
    """4096 + {0, ½, 1, …} is exact in float32; E[x²] − E[x]² would lose the variance to cancellation."""
    x = 4096 + jnp.arange(8, dtype=jnp.float32)[:, None] / 2
    params = Params(jnp.ones(1, jnp.float32), jnp.zeros(1, jnp.float32))
    out, _ = batch_norm.forward(params, x, batch_norm.init_state(1), eps=0.0)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(out, (exact - exact.mean()) / exact.std(), rtol=1e-6)


def test_tiny_variance_is_held_by_eps():
    x = 1e-9 * column(1, -1)
    params = Params(jnp.ones(1), jnp.zeros(1))
    out, residuals = batch_norm.forward(params, x, batch_norm.init_state(1, dtype=jnp.float64), eps=1e-5)
    np.testing.assert_allclose(out, x / np.sqrt(1e-5), rtol=1e-12)
    assert jnp.isfinite(batch_norm.backward(residuals, column(1, 2))[1]).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda d: d.__name__)
def test_half_precision_keeps_its_statistics_in_float32(key, dtype):
    x = (300 * jax.random.normal(key, (64, 3))).astype(dtype)  # x² is beyond float16
    layer = batch_norm.layer()
    params, state = layer.init(key, x), layer.state.init(key, x)
    out, residuals = layer.forward(params, x, state)
    state = layer.state.step(state, residuals)
    exact = np.asarray(x.astype(jnp.float64))
    expected = (exact - exact.mean(0)) / exact.std(0)
    assert out.dtype == params.weight.dtype == dtype
    assert state.mean.dtype == state.variance.dtype == jnp.float32
    np.testing.assert_allclose(out.astype(jnp.float64), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-5)
    np.testing.assert_allclose(state.variance, 0.9 + 0.1 * exact.var(0, ddof=1), rtol=1e-5)


def test_params_may_be_wider_than_the_input(key):
    x = jax.random.normal(key, (5, 3), jnp.bfloat16)
    params = Params(jnp.full(3, 2.0, jnp.float32), jnp.ones(3, jnp.float32))
    out, residuals = batch_norm.forward(params, x, batch_norm.init_state(3))
    grads, delta_x = batch_norm.backward(residuals, out)
    assert out.dtype == delta_x.dtype == jnp.bfloat16
    assert grads.weight.dtype == grads.bias.dtype == jnp.float32


def test_training_step_fits_a_scan(key):
    """The state keeps its tree, shapes and dtypes, so that a compiled loop can carry it."""
    network = jb.chain(dense.layer(3), batch_norm.layer(), jb.layers.relu)
    x = jax.random.normal(key, (4, 5, 2), jnp.float32)
    params, state = network.init(key, x[0]), network.state.init(key, x[0])

    def step(state, batch):
        _, residuals = network.forward(params, batch, state)
        return network.state.step(state, residuals), None

    last, _ = jax.jit(lambda: jax.lax.scan(step, state, x))()
    assert jax.tree.structure(last) == jax.tree.structure(state)
    assert (last[1].mean != 0).all()


def test_bad_input_is_named(as_users_run_it, key):
    layer = batch_norm.layer()
    params, state = Params(jnp.ones(3), jnp.zeros(3)), batch_norm.init_state(3)
    with pytest.raises(ValueError, match=r"batch_norm\.forward: the last axes .* got x \(5, 4\) and weight \(3,\)"):
        layer.forward(params, jnp.ones((5, 4)), state)
    with pytest.raises(TypeError, match=r"batch_norm\.forward: x must be a floating-point array, got int"):
        layer.forward(params, jnp.ones((5, 3), int), state)
    with pytest.raises(
        ValueError, match=r"batch_norm\.forward: bias has shape \(2,\), but .* wants a bias of shape \(3,\)"
    ):
        layer.forward(Params(jnp.ones(3), jnp.zeros(2)), jnp.ones((5, 3)), state)
    with pytest.raises(ValueError, match=r"inference_forward: the running mean \(2,\) .* of the weight, \(3,\)"):
        jb.inference(layer).forward(params, jnp.ones((5, 3)), batch_norm.init_state(2))
    with pytest.raises(ValueError, match=r"batch_norm\.init: x needs at least 1 axes, got shape \(\)"):
        layer.init(key, jnp.ones(()))
    with pytest.raises(ValueError, match=r"batch_norm: eps must be at least 0, got -1"):
        batch_norm.layer(eps=-1.0)
    with pytest.raises(ValueError, match=r"batch_norm\.forward: eps must be at least 0, got nan"):
        batch_norm.forward(params, jnp.ones((5, 3)), state, eps=float("nan"))
    with pytest.raises(ValueError, match=r"batch_norm: momentum is the share of the new batch, in \[0, 1\]; got 1\.5"):
        batch_norm.layer(momentum=1.5)


def changed(backward, **changes):
    """The right backward with one of its results changed by f(right, residuals, delta)."""

    def wrong(residuals, delta):
        grads, delta_x = backward(residuals, delta)
        results = {"weight": grads.weight, "bias": grads.bias, "x": delta_x}
        results |= {name: f(results[name], residuals, delta) for name, f in changes.items()}
        return Params(results["weight"], results["bias"]), results["x"]

    return wrong


@pytest.mark.parametrize(
    ("leaf", "fault"),
    [
        ("x", lambda right, r, d: d * r.weight[None] * r.rstd[None]),  # statistics taken for constants
        ("x", lambda right, r, d: right + (r.weight * r.rstd * d.mean(0))[None]),  # the way through the mean forgotten
        ("x", lambda right, r, d: right / r.weight[None]),  # the scale forgotten
        ("weight", lambda right, r, d: (d * r.x).sum(0)),  # x taken for x̂
        ("weight", lambda right, r, d: right / d.shape[0]),  # a mean in place of the sum
        ("bias", lambda right, r, d: d.mean(0)),
        ("bias", lambda right, r, d: r.weight * d.sum(0)),
    ],
)
def test_planted_fault_in_training_is_caught(key, leaf, fault):
    path = {"x": "1", "weight": "0.weight", "bias": "0.bias"}[leaf]
    assert_caught(TRAINING, key, changed(batch_norm.backward, **{leaf: fault}), leaves={path})


@pytest.mark.parametrize(
    ("example", "wrong", "leaves"),
    [
        (INFERENCE, batch_norm.backward, {"1"}),  # the training rule at inference
        (INFERENCE, changed(batch_norm.inference_backward, x=lambda right, r, d: d * r.weight[None]), {"1"}),
        (INFERENCE, changed(batch_norm.inference_backward, x=lambda right, r, d: right * r.rstd[None]), {"1"}),
        (TRAINING, batch_norm.inference_backward, {"1"}),  # the inference rule in training
        (NO_BIAS, changed(batch_norm.backward, weight=lambda right, r, d: -right), {"0.weight"}),
    ],
)
def test_planted_fault_in_other_forms_is_caught(key, example, wrong, leaves):
    assert_caught(example, key, wrong, leaves)
