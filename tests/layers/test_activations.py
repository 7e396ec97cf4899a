"""Activations: numbers worked by hand, kinks, extreme values, half precision, planted faults."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import layers, selfcheck
from jaxbias.layers import activations
from jaxbias.layers.activations import make_celu, make_elu, make_gelu, make_leaky_relu, make_log_softmax, make_softmax
from tests.planted import assert_caught

FLOATS = [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16]
gelu_tanh = make_gelu(approximate=True)
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772  # of SELU


def slope(layer, z):
    """σ′(z) by the hand-derived backward: δ = 1."""
    _, residuals = layer.forward((), z)
    grads, delta_x = layer.backward(residuals, jnp.ones_like(z))
    assert grads == ()
    return delta_x


LN2, LN3 = math.log(2), math.log(3)
U = math.sqrt(2 / math.pi) * 1.044715  # u at z = 1
BY_HAND = [
    # layer, z, a, σ′
    (layers.identity, -2.5, -2.5, 1),
    (layers.relu, 2.5, 2.5, 1),
    (layers.relu, -2.5, 0, 0),
    (layers.leaky_relu, -2, -0.02, 0.01),
    (layers.leaky_relu, 2, 2, 1),
    (make_leaky_relu(0.25), -2, -0.5, 0.25),
    (make_leaky_relu(-0.5), -2, 1, -0.5),
    (make_leaky_relu(-0.5), 2, 2, 1),
    (layers.elu, -LN2, -0.5, 0.5),
    (layers.elu, 3, 3, 1),
    (make_elu(3.0), -LN3, -2, 1),
    (make_elu(0.0), -1, 0, 0),
    (layers.softplus, LN3, math.log(4), 0.75),
    (layers.sigmoid, LN3, 0.75, 0.1875),
    (layers.sigmoid, -LN3, 0.25, 0.1875),
    (layers.tanh, LN3, 0.8, 0.36),
    (layers.silu, LN3, 0.75 * LN3, 0.75 + 0.1875 * LN3),
    (layers.silu, -LN3, -0.25 * LN3, 0.25 - 0.1875 * LN3),
    (layers.gelu, 1, 0.8413447460685429, 0.8413447460685429 + 0.24197072451914337),
    (layers.gelu, -1, -0.15865525393145707, 0.15865525393145707 - 0.24197072451914337),
    (
        gelu_tanh,
        1,
        (1 + math.tanh(U)) / 2,
        (1 + math.tanh(U)) / 2 + math.sqrt(2 / math.pi) * (1 + 3 * 0.044715) / 2 / math.cosh(U) ** 2,
    ),
    (layers.selu, 2, 2 * LAMBDA, LAMBDA),
    (layers.selu, -LN2, -0.5 * LAMBDA * ALPHA, 0.5 * LAMBDA * ALPHA),
    (make_celu(2.0), -2 * LN2, -1, 0.5),
    (make_celu(2.0), 3, 3, 1),
    (layers.mish, 0, 0, 0.6),  # tanh(log 2) = (4 − 1)/(4 + 1)
    (layers.mish, LN3, LN3 * 15 / 17, 15 / 17 + LN3 * 0.75 * (1 - (15 / 17) ** 2)),
    (layers.log_sigmoid, LN3, math.log(0.75), 0.25),
    (layers.log_sigmoid, -LN3, math.log(0.25), 0.75),
    (layers.hard_sigmoid, 1.5, 0.75, 1 / 6),
    (layers.hard_sigmoid, -3.5, 0, 0),
    (layers.hard_sigmoid, 3.5, 1, 0),
    (layers.hard_swish, 1.5, 1.125, 1),
    (layers.hard_swish, -1, -1 / 3, 1 / 6),
    (layers.hard_swish, -3.5, 0, 0),
    (layers.hard_swish, 3.5, 3.5, 1),
    (layers.hard_tanh, 0.25, 0.25, 1),
    (layers.hard_tanh, -2, -1, 0),
]


@pytest.mark.parametrize(("layer", "z", "a", "derivative"), BY_HAND, ids=lambda v: getattr(v, "name", None))
def test_value_and_derivative_by_hand(layer, z, a, derivative):
    z = jnp.array([z], jnp.float64)
    np.testing.assert_allclose(layer.forward((), z)[0], [a], rtol=1e-14)
    np.testing.assert_allclose(slope(layer, z), [derivative], rtol=1e-13)


def test_softmax_by_hand():
    out, residuals = layers.softmax.forward((), jnp.array([[0, LN3]]))
    _, delta_x = layers.softmax.backward(residuals, jnp.array([[1.0, 0]]))
    np.testing.assert_allclose(out, [[0.25, 0.75]], rtol=1e-15)
    np.testing.assert_allclose(delta_x, [[0.1875, -0.1875]], rtol=1e-14)


def test_log_softmax_by_hand():
    out, residuals = layers.log_softmax.forward((), jnp.array([[0, LN3]]))
    _, delta_x = layers.log_softmax.backward(residuals, jnp.array([[1.0, 0]]))
    np.testing.assert_allclose(out, [[math.log(0.25), math.log(0.75)]], rtol=1e-15)
    np.testing.assert_allclose(delta_x, [[0.75, -0.75]], rtol=1e-14)


@pytest.mark.parametrize(
    ("layer", "value"),
    [(layers.relu, 0), (layers.leaky_relu, 0.01), (make_leaky_relu(-0.5), -0.5), (layers.elu, 1), (make_elu(0.3), 0.3)],
)
def test_value_at_the_kink_is_the_documented_one_and_that_of_autodiff(layer, value):
    z = jnp.array([0.0, -0.0])
    autodiff = jax.grad(lambda z: layer.forward((), z)[0].sum())(z)
    assert slope(layer, z).tolist() == [value, value]
    assert autodiff.tolist() == [value, value]


def test_relu_is_one_function_in_every_dtype():
    """In half precision it is written otherwise."""
    for dtype in FLOATS:
        z = jnp.array([-jnp.inf, -2.5, -0.0, 0.0, 2.5, jnp.inf, jnp.nan], dtype)
        a, pull_back = jax.vjp(lambda z: layers.relu.forward((), z)[0], z)
        assert a.dtype == dtype and np.array_equal(a, np.array([0, 0, 0, 0, 2.5, np.inf, np.nan]), equal_nan=True)
        (by_autodiff,) = pull_back(jnp.ones_like(z))
        assert by_autodiff[:-1].tolist() == slope(layers.relu, z)[:-1].tolist() == [0, 0, 0, 0, 1, 1]


def test_gelu_tanh_keeps_its_lower_tail_in_half_precision():
    """Which 1 + tanh, the form of jax.nn, loses."""
    z = jnp.array(-3.0, jnp.bfloat16)
    exact = -1.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (-3 + 0.044715 * -27)))
    relative = lambda a: abs(float(a) / exact - 1)
    assert relative(gelu_tanh.forward((), z)[0]) < 0.01
    assert relative(jax.nn.gelu(z, approximate=True)) == pytest.approx(0.61, abs=0.005)


@pytest.mark.parametrize(
    ("layer", "kink", "below", "above"),
    [(layers.hard_sigmoid, 3, 0, 0), (layers.hard_swish, 3, 0, 1), (layers.hard_tanh, 1, 0, 0)],
    ids=lambda v: getattr(v, "name", None),
)
def test_a_hard_activation_takes_the_outer_value_at_its_kinks(layer, kink, below, above):
    z = jnp.array([-kink, kink], jnp.float64)
    autodiff = jax.grad(lambda z: layer.forward((), z)[0].sum())(z)
    assert slope(layer, z).tolist() == [below, above]
    assert autodiff.tolist() == [below, above]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("layer", "at_minus", "at_plus"),
    [
        (layers.identity, 1, 1),
        (layers.relu, 0, 1),
        (layers.leaky_relu, 0.01, 1),
        (make_elu(0.7), 0, 1),
        (layers.softplus, 0, 1),
        (layers.sigmoid, 0, 0),
        (layers.tanh, 0, 0),
        (layers.silu, 0, 1),
        (layers.gelu, 0, 1),
        (gelu_tanh, 0, 1),
        (layers.selu, 0, LAMBDA),
        (make_celu(0.7), 0, 1),
        (layers.mish, 0, 1),
        (layers.log_sigmoid, 1, 0),
        (layers.hard_sigmoid, 0, 0),
        (layers.hard_swish, 0, 1),
        (layers.hard_tanh, 0, 0),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_derivative_reaches_its_limits_without_overflow(layer, at_minus, at_plus, dtype):
    largest = float(jnp.finfo(dtype).max) / (2 if layer.name == "selu" else 1)  # selu's own slope is above 1
    z = jnp.array([1000, 60000, largest], dtype)
    # a + α of the rounded a = -α is a last place of α off
    atol = 2 * float(jnp.finfo(dtype).eps) if layer.name in ("elu", "selu", "celu") else 0
    for sign, limit in ((-1, at_minus), (1, at_plus)):
        assert jnp.isfinite(layer.forward((), sign * z)[0]).all()
        expected = np.full(3, limit, dtype).astype(np.float64)
        np.testing.assert_allclose(slope(layer, sign * z).astype(jnp.float64), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("layer", [layers.silu, layers.gelu, gelu_tanh, layers.mish], ids=lambda layer: layer.name)
def test_half_precision_derivative_is_rounded_once(layer, dtype):
    """Where z is kept: computed in float32, so off by one rounding, and by 1e-6 of the largest value near a root."""
    z = jnp.linspace(-8, 8, 257).astype(dtype)
    exact = jax.vmap(jax.grad(lambda z: layer.forward((), z)[0]))(z.astype(jnp.float64))
    np.testing.assert_allclose(
        slope(layer, z).astype(jnp.float64), exact, rtol=float(jnp.finfo(dtype).eps) / 2 * 1.01, atol=1e-6
    )


def test_lower_tails_keep_their_relative_accuracy():
    z = jnp.array([-30.0])
    np.testing.assert_allclose(slope(layers.softplus, z), [math.exp(-30)], rtol=1e-12)
    np.testing.assert_allclose(layers.gelu.forward((), z)[0], [-15 * math.erfc(30 / math.sqrt(2))], rtol=1e-12)


@pytest.mark.parametrize("name", sorted(d.name for d in activations.DERIVATIONS))
def test_nan_comes_out_as_nan(name):
    out, _ = getattr(layers, name).forward((), jnp.array([jnp.nan, 1.0]))
    assert jnp.isnan(out[0])


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "softplus", "sigmoid", "tanh", "softmax", "log_softmax"])
def test_only_the_output_is_kept(name):
    out, residuals = getattr(layers, name).forward((), jnp.array([[0.5, -1.0]]))
    assert residuals is out


def test_identity_keeps_nothing():
    assert jax.tree.leaves(layers.identity.forward((), jnp.ones(3))[1]) == []


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_coupled_activations_sum_along_their_axis(key, axis):
    z, delta = jax.random.normal(key, (2, 4, 3, 2))
    softmax, log_softmax = make_softmax(axis), make_log_softmax(axis)
    out, residuals = softmax.forward((), z)
    log_out, log_residuals = log_softmax.forward((), z)
    np.testing.assert_allclose(out.sum(axis), 1, rtol=1e-14)
    np.testing.assert_allclose(jnp.exp(log_out), out, rtol=1e-13)
    for layer, kept in ((softmax, residuals), (log_softmax, log_residuals)):
        assert (jnp.abs(layer.backward(kept, delta)[1].sum(axis)) < 1e-14).all()
        np.testing.assert_allclose(layer.forward((), z + 7)[0], layer.forward((), z)[0], rtol=1e-12)


def test_coupled_activations_at_extreme_logits():
    z = jnp.array([[0.0, 1e4, -jnp.inf]])
    out, residuals = layers.softmax.forward((), z)
    log_out, log_residuals = layers.log_softmax.forward((), z)
    assert out.tolist() == [[0, 1, 0]]
    assert log_out.tolist() == [[-1e4, 0, -math.inf]]
    delta = jnp.array([[3.0, 2, 5]])
    assert layers.softmax.backward(residuals, delta)[1].tolist() == [[0, 0, 0]]
    assert layers.log_softmax.backward(log_residuals, delta)[1].tolist() == [[3, -8, 5]]


def test_softmax_sums_half_precision_in_float32():
    classes = 2**17  # more ones than float16 can count
    out, residuals = layers.softmax.forward((), jnp.zeros(classes, jnp.float16))
    np.testing.assert_allclose(out.astype(jnp.float64), 2.0**-17, rtol=2**-7)  # a subnormal: few bits
    log_out, log_residuals = layers.log_softmax.forward((), jnp.zeros(classes, jnp.float16))
    np.testing.assert_allclose(log_out[0].astype(jnp.float64), -17 * LN2, rtol=2**-10)
    ones = jnp.ones(classes, jnp.float16)
    for layer, kept in ((layers.softmax, residuals), (layers.log_softmax, log_residuals)):
        assert (jnp.abs(layer.backward(kept, ones)[1].astype(jnp.float32)) < 0.02).all()  # exactly: 0


def test_bad_input_is_named(as_users_run_it):
    with pytest.raises(TypeError, match=r"relu\.forward: x must be a floating-point array, got int"):
        layers.relu.forward((), jnp.arange(3))
    with pytest.raises(TypeError, match=r"identity\.forward: x must be a floating-point array, got list"):
        layers.identity.forward((), [1.0])
    with pytest.raises(TypeError, match=r"softmax\.init: x must be a floating-point array, got int"):
        layers.softmax.init(jax.random.key(0), jnp.arange(3))
    with pytest.raises(ValueError, match=r"softmax\.forward: axis=2 does not exist in x of shape \(3, 4\)"):
        make_softmax(axis=2).forward((), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"log_softmax\.forward: axis=-1 does not exist in x of shape \(\)"):
        layers.log_softmax.forward((), jnp.ones(()))
    with pytest.raises(ValueError, match=r"make_elu: alpha must be at least 0, got -1"):
        make_elu(-1.0)
    with pytest.raises(ValueError, match=r"make_celu: alpha must be above 0, got 0"):
        make_celu(0)
    with pytest.raises(TypeError, match=r"make_celu: alpha must be a number, got the str '1'"):
        make_celu("1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"keep must be \"output\" or \"input\", got 'z'"):
        activations.elementwise("cube", lambda z: z**3, lambda z: 3 * z * z, keep="z")


# Each takes what is kept and δ. The first three of every row are different mistakes.
PLANTED = {
    "identity": [lambda r, d: 2 * d, lambda r, d: -d, lambda r, d: d.mean(0, keepdims=True) + 0 * d],
    "relu": [lambda a, d: d, lambda a, d: jnp.where(a > 0, 0, d), lambda a, d: d * a],
    "leaky_relu": [
        lambda a, d: jnp.where(a > 0, d, 0),
        lambda a, d: d * jnp.where(a > 0, 0.01, 1),
        lambda a, d: d * jnp.where(a > 0, 1, -0.01),
    ],
    "elu": [
        lambda a, d: d * jnp.where(a > 0, 1, a),
        lambda a, d: d * jnp.where(a > 0, 1, a - 1),
        lambda a, d: d * jnp.where(a > 0, 1, jnp.exp(a)),  # a taken for z
    ],
    "softplus": [
        lambda a, d: d * jax.nn.sigmoid(a),  # a taken for z
        lambda a, d: d * jnp.exp(-a),
        lambda a, d: d * jnp.expm1(-a),
    ],
    "sigmoid": [lambda a, d: d * a, lambda a, d: d * (1 - a), lambda a, d: d * a * (1 - a**2)],
    "tanh": [lambda a, d: d * (1 - a), lambda a, d: d * (1 + a * a), lambda a, d: d * (1 - jnp.tanh(a) ** 2)],
    "silu": [
        lambda z, d: d * jax.nn.sigmoid(z),
        lambda z, d: d * jax.nn.sigmoid(z) * (1 + z),
        lambda z, d: d * jax.nn.sigmoid(z) * (1 - z * (1 - jax.nn.sigmoid(z))),
    ],
    "gelu": [
        lambda z, d: d * jax.scipy.stats.norm.cdf(z),
        lambda z, d: d * (jax.scipy.stats.norm.cdf(z) + jax.scipy.stats.norm.pdf(z)),
        lambda z, d: d * (jax.scipy.stats.norm.cdf(z) - z * jax.scipy.stats.norm.pdf(z)),
    ],
    "gelu_tanh": [
        lambda z, d: d * jax.nn.sigmoid(1.702 * z),
        lambda z, d: d * (jax.nn.sigmoid(1.702 * z) + z * jax.scipy.stats.norm.pdf(z)),
        lambda z, d: d * jnp.tanh(z),
    ],
    "selu": [
        lambda a, d: d * jnp.where(a > 0, 1, a + ALPHA),  # without the scale
        lambda a, d: d * jnp.where(a > 0, LAMBDA, a + ALPHA),
        lambda a, d: d * LAMBDA,
    ],
    "celu": [
        lambda a, d: d * jnp.where(a > 0, 1, a + 0.7),  # that of elu
        lambda a, d: d * jnp.where(a > 0, 1, 1 + a),
        lambda a, d: d * jnp.where(a > 0, 1, a / 0.7),
    ],
    "mish": [
        lambda z, d: d * jnp.tanh(jax.nn.softplus(z)),
        lambda z, d: d * (jnp.tanh(jax.nn.softplus(z)) + z * (1 - jnp.tanh(jax.nn.softplus(z)) ** 2)),
        lambda z, d: d * (jnp.tanh(jax.nn.softplus(z)) + z * jax.nn.sigmoid(z) * jnp.tanh(jax.nn.softplus(z))),
    ],
    "log_sigmoid": [
        lambda a, d: d * jnp.exp(a),  # sigmoid(z) for sigmoid(−z)
        lambda a, d: d * (1 - a),
        lambda a, d: d * jax.nn.sigmoid(-a),  # a taken for z
    ],
    "hard_sigmoid": [
        lambda z, d: d / 6,
        lambda z, d: jnp.where(jnp.abs(z) < 3, d, 0),
        lambda z, d: jnp.where(z > -3, d / 6, 0),
    ],
    "hard_swish": [
        lambda z, d: d * jnp.clip((z + 3) / 6, 0, 1),  # the gate alone
        lambda z, d: d * jnp.clip((2 * z + 3) / 6, 0, 1),  # clipped: it goes below 0 and above 1
        lambda z, d: d * jnp.where(jnp.abs(z) < 3, (2 * z + 3) / 6, 0),
    ],
    "hard_tanh": [lambda a, d: d, lambda a, d: d * (1 - a * a), lambda a, d: jnp.where(a > -1, d, 0)],
    "softmax": [
        lambda a, d: a * (1 - a) * d,  # the diagonal only
        lambda a, d: a * (d - d.sum(-1, keepdims=True)),
        lambda a, d: a * (d - (a * d).sum(0, keepdims=True)),  # the wrong axis
    ],
    "log_softmax": [
        lambda a, d: d - a * d.sum(-1, keepdims=True),
        lambda a, d: d - jnp.exp(a) * d,
        lambda a, d: d - jnp.exp(a) * d.sum(0, keepdims=True),
    ],
    "sparsemax": [
        lambda a, d: jnp.where(a > 0, d - d.mean(-1, keepdims=True), 0),  # mean over all classes
        lambda a, d: jnp.where(a > 0, d, 0),
        lambda a, d: d - jnp.where(a > 0, d, 0).sum(-1, keepdims=True) / (a > 0).astype(d.dtype).sum(-1, keepdims=True),
        lambda a, d: a * (d - (a * d).sum(-1, keepdims=True)),  # the rule of softmax
    ],
    "entmax15": [
        lambda a, d: a * (d - (a * d).sum(-1, keepdims=True) / a.sum(-1, keepdims=True)),  # a for √a
        lambda a, d: jnp.sqrt(a) * (d - (jnp.sqrt(a) * d).sum(-1, keepdims=True)),
        lambda a, d: 2 * layers.entmax15.backward(a, d)[1],  # the exponent of the square
    ],
}


def test_every_activation_has_planted_faults():
    assert PLANTED.keys() == {d.name for d in activations.DERIVATIONS}
    assert all(len(faults) >= 3 for faults in PLANTED.values())


@pytest.mark.parametrize(
    ("name", "wrong"), [pytest.param(n, w, id=f"{n}-{i}") for n, ws in PLANTED.items() for i, w in enumerate(ws)]
)
def test_planted_fault_is_caught(key, name, wrong):
    example = selfcheck.layer_derivations()[name].examples[0]
    assert_caught(example, key, lambda residuals, delta: ((), wrong(residuals, delta)), leaves={"1"})
