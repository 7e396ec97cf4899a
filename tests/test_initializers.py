"""Initializers: bounds, variances and distributions, the ones for biases, presets, and initialization from a batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxbias as jb
from jaxbias import initializers
from jaxbias.layers import conv, dense, relu

MATRIX, KERNEL = (200, 300), (3, 3, 20, 30)


def fans(shape):
    receptive = math.prod(shape[:-2])
    return receptive * shape[-2], receptive * shape[-1]


VARIANCE = {  # of fan_in and fan_out, from the papers
    "xavier": lambda i, o: 2 / (i + o),
    "glorot": lambda i, o: 2 / (i + o),
    "he": lambda i, o: 2 / i,
    "kaiming": lambda i, o: 2 / i,
    "lecun": lambda i, o: 1 / i,
}


@pytest.mark.parametrize("shape", [MATRIX, KERNEL], ids=["matrix", "kernel"])
@pytest.mark.parametrize("name", VARIANCE)
def test_uniform_by_fan(key, name, shape):
    values = np.asarray(initializers.by_name(f"{name}_uniform")(key, shape, jnp.float64)).ravel()
    bound = math.sqrt(3 * VARIANCE[name](*fans(shape)))
    assert np.abs(values).max() <= bound
    np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=0.02)  # 54000 draws: 4 standard errors are 0.015
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [MATRIX, KERNEL], ids=["matrix", "kernel"])
@pytest.mark.parametrize("name", VARIANCE)
def test_normal_by_fan_is_truncated_and_keeps_the_variance(key, name, shape):
    values = np.asarray(initializers.by_name(f"{name}_normal")(key, shape, jnp.float64)).ravel()
    variance = VARIANCE[name](*fans(shape))
    np.testing.assert_allclose(values.var(), variance, rtol=0.03)
    widened = math.sqrt(variance) / stats.truncnorm(-2, 2).std()
    assert stats.kstest(values, stats.truncnorm(-2, 2, scale=widened).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["xavier_uniform", "he_normal", "lecun_normal", "orthogonal", "zeros", "ones"])
def test_names_are_those_of_jax(key, name):
    theirs = getattr(jax.nn.initializers, name.replace("xavier", "glorot"))
    theirs = theirs if name in ("zeros", "ones") else theirs()
    ours = initializers.by_name(name)(key, (4, 3), jnp.float32)
    np.testing.assert_allclose(ours, theirs(key, (4, 3), jnp.float32), rtol=4e-7)  # theirs rounds the scale twice


def test_plain_distributions(key):
    values = np.asarray(initializers.normal(0.1, 2.0)(key, (20000,), jnp.float64))
    assert stats.kstest(values, stats.norm(2.0, 0.1).cdf).pvalue > 1e-3
    values = np.asarray(initializers.uniform(-1.0, 3.0)(key, (20000,), jnp.float64))
    assert stats.kstest(values, stats.uniform(-1, 4).cdf).pvalue > 1e-3
    assert initializers.constant(0.5)(key, (2,), jnp.float32).tolist() == [0.5, 0.5]
    assert initializers.positive(0.25)(key, (2,), jnp.float32).tolist() == [0.25, 0.25]


def test_orthogonal(key):
    weight = initializers.orthogonal(key, (5, 3), jnp.float64)
    np.testing.assert_allclose(weight.T @ weight, np.eye(3), atol=1e-14)


def test_gains_by_hand():
    assert initializers.gain("tanh") == 5 / 3 and initializers.gain("linear") == 1
    np.testing.assert_allclose(initializers.gain("relu"), 1.4142135623730951)
    np.testing.assert_allclose(initializers.gain("leaky_relu", slope=1.0), 1)
    with pytest.raises(ValueError, match=r"nonlinearity must be one of linear, .*leaky_relu, got 'step'"):
        initializers.gain("step")


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
def test_scaled_by_a_gain(key, distribution):
    init = initializers.scaled(initializers.gain("tanh"), "fan_avg", distribution)
    values = init(key, MATRIX, jnp.float64)
    np.testing.assert_allclose(values.var(), (5 / 3) ** 2 * 2 / (200 + 300), rtol=0.03)


@pytest.mark.parametrize(
    ("module", "x", "bound"),
    [
        (dense.layer, (7, 3), 0.5773502691896258),
        (lambda n, **k: conv.layer(n, 3, **k), (7, 5, 5, 3), 0.19245008972987526),
    ],
    ids=["Linear(3, 1)", "Conv2d(3, 16, 3)"],
)
def test_pytorch_preset_draws_the_bias_from_the_fan_in_of_its_weight(key, module, x, bound):
    """A1.6 and A1.10: weight and bias are U(−bound, bound)."""
    layer = module(2000, **initializers.preset("pytorch"))
    weight, bias = layer.init(key, jnp.zeros(x))
    for values in (np.asarray(weight).ravel(), np.asarray(bias)):
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("library", "std"), [("keras", math.sqrt(2 / 700)), ("flax", math.sqrt(1 / 300))])
def test_presets_with_zero_bias(key, library, std):
    weight, bias = dense.layer(400, **initializers.preset(library)).init(key, jnp.zeros((1, 300)))
    np.testing.assert_allclose(weight.std(), std, rtol=0.02)
    assert (bias == 0).all()


def test_the_flax_preset_is_what_flax_does(key):
    import flax.linen as nn

    theirs, ours = nn.Dense(4), initializers.preset("flax")
    weights = [init(key, (3, 4), jnp.float32) for init in (theirs.kernel_init, ours["weight_init"])]
    np.testing.assert_allclose(*weights, rtol=4e-7)  # theirs rounds the scale twice
    assert (theirs.bias_init(key, (4,), jnp.float32) == ours["bias_init"](key, (4,), jnp.float32)).all()


def test_time_steps_lie_log_uniform_between_their_ends(key):
    """(9.9.11): softplus(bτ) = τ0; bτ = log τ0 would be 0.0501 too low at τ0 = 0.1."""
    bias = initializers.time_step(0.1, 0.1)(key, (2,), jnp.float64)
    np.testing.assert_allclose(bias, np.log(np.exp(0.1) - 1), rtol=1e-14)
    tau = jax.nn.softplus(initializers.time_step()(key, (1000,), jnp.float64))
    assert np.all((tau >= 0.001) & (tau <= 0.1))
    in_decade = np.mean(np.asarray(tau) < 0.01)  # half of them, within four standard errors
    assert abs(in_decade - 0.5) < 4 * 0.5 / np.sqrt(1000)


def test_log_prior_by_hand(key):
    assert initializers.log_prior(0.2)(key, (2,), jnp.float64).tolist() == pytest.approx([-1.386294361119891] * 2)
    bias = initializers.log_prior([0.5, 0.25, 0.25])(key, (3,), jnp.float64)
    np.testing.assert_allclose(jax.nn.softmax(bias), [0.5, 0.25, 0.25], rtol=1e-15)


def test_names_and_functions_are_taken_by_the_layers(key):
    layer = dense.layer(4, weight_init="he_uniform", bias_init=initializers.constant(0.5))
    weight, bias = layer.init(key, jnp.zeros((2, 3)))
    assert bias.tolist() == [0.5] * 4 and jnp.abs(weight).max() <= math.sqrt(2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda k: initializers.xavier_uniform(k, (16,)),
            r"xavier_uniform: shape \(16,\) .*For a bias use",
        ),
        (lambda k: dense.layer(3, bias_init="he_normal").init(k, jnp.zeros((2, 3))), r"he_normal: shape \(3,\).*zeros"),
        (lambda k: initializers.orthogonal(k, (16,)), r"orthogonal: shape \(16,\)"),
        (lambda k: initializers.fan_in_uniform(k, (16,)), r"fan_in_uniform: shape \(16,\) .* FanInUniform\(fan_in="),
        (lambda k: initializers.by_name("he"), "no initializer is called 'he'. Names are zeros, .*he_normal"),
        (lambda k: initializers.preset("caffe"), "library must be one of pytorch, .*, stax, got 'caffe'"),
        (lambda k: initializers.positive(0.0), "positive: value must be above 0, got 0.0"),
        (lambda k: initializers.uniform(1.0, 1.0), "uniform: low must be below high, got low=1.0, high=1.0"),
        (lambda k: initializers.scaled(1.0, "fan"), "scaled: fan must be .*got 'fan'"),
        (lambda k: initializers.scaled(1.0, "fan_in", "beta"), "scaled: distribution must be .*got 'beta'"),
        (lambda k: initializers.time_step(0.1, 0.01), "time_step: wanted 0 < low <= high, got low=0.1, high=0.01"),
        (lambda k: initializers.log_prior(1.0), "log_prior: p must be .* strictly between 0 and 1, got 1.0"),
        (
            lambda k: initializers.log_prior([0.5, 0.3]),
            "class probabilities must sum to 1, got a sum of 0.8",
        ),
        (lambda k: initializers.log_prior([0.5, 0.5])(k, (3,)), r"p has shape \(2,\) but the bias has shape \(3,\)"),
        (
            lambda k: initializers.data_dependent(relu, (), jnp.zeros((1, 3))),
            r"data_dependent: x must be a batch of at least two rows .*got \(1, 3\)",
        ),
    ],
)
def test_bad_input(key, call, match):
    with pytest.raises(ValueError, match=match):
        call(key)


def pre_activations(network, params, x):
    """Outputs of the layers that have params."""
    found = []
    for layer, layer_params in zip(network.parts, params):
        x, _ = layer.forward(layer_params, x)
        if layer_params != ():
            found.append(x.reshape(-1, x.shape[-1]))
    return found


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_data_dependent_gives_mean_0_and_variance_1(key, dtype):
    network = jb.chain(conv.layer(4, 3, bias_init="ones"), relu, jb.layers.reshape.layer(), dense.layer(5))
    x = (3 + 2 * jax.random.normal(key, (64, 4, 4, 2))).astype(dtype)
    params = initializers.data_dependent(network, network.init(key, x), x)
    atol = 1e-12 if dtype == jnp.float64 else 0.03
    for z in pre_activations(network, params, x):
        np.testing.assert_allclose(z.astype(jnp.float64).mean(axis=0), 0, atol=atol)
        np.testing.assert_allclose(z.astype(jnp.float64).var(axis=0), 1, atol=2 * atol)


def test_data_dependent_shift_only(key):
    network, x = dense.layer(5), 3 + jax.random.normal(key, (64, 3))
    params = network.init(key, x)
    shifted = initializers.data_dependent(network, params, x, unit_variance=False)
    np.testing.assert_allclose(network.forward(shifted, x)[0].mean(axis=0), 0, atol=1e-13)
    assert (shifted.weight == params.weight).all()


def test_data_dependent_reaches_inside_residual_and_parallel(key):
    network = jb.chain(jb.residual(dense.layer(3)), jb.parallel(dense.layer(2), dense.layer(4, use_bias=False)))
    with pytest.raises(ValueError, match="cannot join outputs"):
        network.forward(network.init(key, jnp.ones((4, 3))), jnp.ones((4, 3)))
    network = jb.chain(jb.residual(dense.layer(3)), jb.parallel(dense.layer(2), dense.layer(2, use_bias=False)))
    x = 3 + jax.random.normal(key, (64, 3))
    params = network.init(key, x)
    inner, (with_bias, without_bias) = initializers.data_dependent(network, params, x)
    z, _ = dense.forward(inner, x)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-12)
    z, _ = dense.forward(with_bias, x + z)
    np.testing.assert_allclose([z.mean(axis=0), z.var(axis=0)], [[0, 0], [1, 1]], atol=1e-12)
    assert (without_bias.weight == params[1][1].weight).all()


def test_data_dependent_shifts_a_constant_unit_without_scaling_it(key):
    layer, x = dense.layer(2), jnp.ones((4, 3)) * 0.1
    params = layer.init(key, x)
    new = initializers.data_dependent(layer, params, x)
    assert (new.weight == params.weight).all()
    np.testing.assert_allclose(layer.forward(new, x)[0], 0, atol=1e-15)


def assert_standardized(z):
    np.testing.assert_allclose([z.mean(axis=0), z.var(axis=0)], [[0] * z.shape[1], [1] * z.shape[1]], atol=1e-12)


def test_data_dependent_of_a_pair(key):
    network = jb.chain(jb.layers.bilinear.layer(4, bias_init="ones"), jb.layers.tanh, dense.layer(2))
    x = jax.random.normal(key, (2, 64, 3), jnp.float64)
    pair = (x[0] + 1, x[1, :, :2])
    params = initializers.data_dependent(network, network.init(key, pair), pair)
    assert_standardized(network.parts[0].forward(params[0], pair)[0])
    assert_standardized(network.forward(params, pair)[0])


def test_data_dependent_after_an_embedding(key):
    network = jb.chain(jb.layers.embedding.layer(5, 3, dtype=jnp.float64), dense.layer(2))
    ids = jnp.arange(40) % 5
    before = network.init(key, ids)
    params = initializers.data_dependent(network, before, ids)
    assert (params[0].weight == before[0].weight).all()
    assert_standardized(network.forward(params, ids)[0])


def test_data_dependent_of_a_network_with_a_state(key):
    network = jb.chain(dense.layer(6), jb.layers.batch_norm.layer(), jb.layers.dropout.layer(0.3), dense.layer(2))
    x = 3 + jax.random.normal(key, (64, 3), jnp.float64)
    before, state = network.init(key, x), network.state.init(key, x)
    params = initializers.data_dependent(network, before, x, state)
    assert_standardized(dense.forward(params[0], x)[0])
    assert_standardized(network.forward(params, x, state)[0])  # under the mask of this state
    assert (params[1].weight == before[1].weight).all()


@pytest.mark.parametrize("name", ["orthogonal", "lecun_normal", "zeros"])
def test_embedding_and_rnn_take_names(key, name):
    init = initializers.NAMES[name]
    weight = jb.layers.embedding.init(key, 5, 3, weight_init=name).weight
    assert (weight == init(key, (5, 3), jnp.float32)).all()
    hidden = jb.layers.rnn.init(key, 3, 4, hidden_init=name).hidden.weight
    assert (hidden == init(jax.random.fold_in(key, 1), (4, 4), jnp.float32)).all()
