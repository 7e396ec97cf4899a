"""Gated linear units: numbers worked by hand, symmetry (9.4.7), memory, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import random_like
from jaxbias.layers import glu
from jaxbias.layers.glu import GluParams
from tests.planted import assert_caught

SWIGLU = glu.DERIVATIONS[0].examples[0]
ONE = jnp.ones((1, 1))


def test_by_hand():
    """ReGLU with g = 2·3 + 1 = 7, u = 5·3 − 1 = 14, a = 98, z = 10·98 + 4."""
    params = GluParams(*(Params(jnp.array([[w]]), jnp.array([b])) for w, b in ((2.0, 1.0), (5.0, -1.0), (10.0, 4.0))))
    out, residuals = glu.forward(params, jnp.array([[3.0]]), gate="relu")
    grads, delta_x = glu.backward(residuals, jnp.array([[2.0]]), gate="relu")
    assert out.tolist() == [[984]]
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, grads)) == GluParams(
        Params(840, 280),  # δg = 2·10·14·1
        Params(420, 140),  # δu = 2·10·7
        Params(196, 2),
    )
    assert delta_x.tolist() == [[280 * 2 + 140 * 5]]  # (9.4.5)


def random_params(layer, x):
    """Drawn by NumPy, so that nothing is compiled for them."""
    return random_like(jax.random.key(3), jax.eval_shape(layer.init, jax.random.key(0), x))


def test_every_gate_has_its_function():
    x = jnp.linspace(-3, 3, 12, dtype=jnp.float64).reshape(4, 3)
    params = GluParams(Params(jnp.eye(3), None), Params(jnp.zeros((3, 3)), jnp.ones(3)), Params(jnp.eye(3), None))
    phis = {
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "gelu": lambda g: jax.nn.gelu(g, approximate=False),
        "gelu_tanh": jax.nn.gelu,
        "relu": jax.nn.relu,
        "identity": lambda g: g,
    }
    assert phis.keys() == glu.GATES.keys()
    phis[jb.layers.softplus] = jax.nn.softplus
    pairs = jax.jit(lambda x: [(glu.forward(params, x, gate=name)[0], phi(x)) for name, phi in phis.items()])(x)
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_both_halves_in_one_product_have_the_gate_second():
    x = jnp.linspace(-3, 3, 12, dtype=jnp.float64).reshape(4, 3)
    params = random_params(glu.layer(5, 2), x)

    @jax.jit
    def both(params, x):
        weight = jnp.concatenate([params.up.weight, params.gate.weight], axis=1)
        bias = jnp.concatenate([params.up.bias, params.gate.bias])
        a = jax.nn.glu(x @ weight + bias[None])
        return glu.forward(params, x)[0], a @ params.down.weight + params.down.bias[None]

    np.testing.assert_allclose(*both(params, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", ["relu", "identity"])
def test_gate_and_up_are_scaled_against_each_other(gate):
    """(9.4.7): for a φ that scales with its argument, each unit has ⟨Wg, ∂Wg⟩ + bg ∂bg = ⟨Wu, ∂Wu⟩ + bu ∂bu."""
    layer = glu.layer(4, gate=gate)
    x = jnp.linspace(-3, 3, 15, dtype=jnp.float64).reshape(5, 3)
    params = random_params(layer, x)
    grads, _ = jax.jit(lambda p, x: layer.backward(layer.forward(p, x)[1], x))(params, x)
    sides = [
        (np.asarray(p.weight) * g.weight).sum(0) + np.asarray(p.bias) * g.bias
        for p, g in ((params.gate, grads.gate), (params.up, grads.up))
    ]
    np.testing.assert_allclose(*sides, rtol=1e-12, atol=1e-12)
    assert np.abs(sides[0]).max() > 1


def test_no_bias_is_redundant():
    layer = glu.layer(2, gate="silu")
    x = np.linspace(-3, 3, 15).reshape(5, 3)
    forward = lambda p, x: layer.forward(p, jnp.asarray(x))[0]
    assert jb.surgery.redundant_biases(forward, random_params(layer, x), x) == ()


def test_narrow_deltas_are_summed_in_float32():
    """4096 rows of ones: in bfloat16 a running sum would stop at 256."""
    x = jnp.ones((4096, 1), jnp.bfloat16)
    params = GluParams(*[Params(x[:1], jnp.zeros(1, jnp.bfloat16))] * 3)
    _, residuals = glu.forward(params, x, gate="identity")
    grads, _ = glu.backward(residuals, x, gate="identity")
    assert all(leaf.tolist() == [4096] for leaf in (each.bias for each in grads))


def kept(run, *values):
    """Bytes that a compiled forward hands over to its backward: all outputs but the first."""
    compiled = jax.jit(run).lower(*values).compile()
    out = jax.eval_shape(run, *values)[0]
    return compiled.memory_analysis().output_size_in_bytes - out.size * out.dtype.itemsize


@pytest.mark.parametrize("gate", ["sigmoid", "silu", "gelu", "gelu_tanh", "relu", "identity"])
def test_less_is_kept_than_by_autodiff(gate):
    """By the compiler's figures, params and x counted on both sides: g and u, or x alone."""
    layer, x = glu.layer(256, gate=gate), jax.ShapeDtypeStruct((128, 8), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    autodiff = kept(lambda p, x: jax.vjp(lambda p, x: layer.forward(p, x)[0], p, x), params, x)
    assert kept(layer.forward, params, x) <= (0.72 if gate == "identity" else 0.6) * autodiff
    if gate == "identity":  # here autodiff keeps g, u and their product alone
        assert kept(glu.layer(256, gate=gate, recompute=True).forward, params, x) <= 0.3 * autodiff


def faulty(**changes):
    """The right backward with leaves replaced: `value(right, residuals, delta)` by "gate", "up", "down", "x"."""

    def wrong(residuals, delta):
        grads, delta_x = SWIGLU.layer.backward(residuals, delta)
        grads = grads._replace(**{n: f(getattr(grads, n), residuals, delta) for n, f in changes.items() if n != "x"})
        return grads, changes["x"](delta_x, residuals, delta) if "x" in changes else delta_x

    return wrong


def delta_u(r, delta):
    return (delta @ r.params.down.weight.T) * jax.nn.silu(r.products[0])


def without_u(right, r, delta):
    g = r.products[0]
    s = jax.nn.sigmoid(g)
    delta_g = (delta @ r.params.down.weight.T) * s * (1 + g * (1 - s))
    return Params(r.x.T @ delta_g, delta_g.sum(0))


FAULTS = {
    "factor u missing in the gate": (faulty(gate=without_u), {"0.gate.weight", "0.gate.bias"}),
    "x by one branch": (faulty(x=lambda right, r, d: delta_u(r, d) @ r.params.up.weight.T), {"1"}),
    "halves exchanged": (
        lambda r, d: (lambda g, x: (g._replace(gate=g.up, up=g.gate), x))(*SWIGLU.layer.backward(r, d)),
        {"0.gate.weight", "0.gate.bias", "0.up.weight", "0.up.bias"},
    ),
    "up without the gate": (
        faulty(up=lambda right, r, d: right._replace(bias=(d @ r.params.down.weight.T).sum(0))),
        {"0.up.bias"},
    ),
    "bias averaged": (faulty(down=lambda right, r, d: right._replace(bias=d.mean(0))), {"0.down.bias"}),
    "product not gated": (
        faulty(down=lambda right, r, d: right._replace(weight=r.products[1].T @ d)),
        {"0.down.weight"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(SWIGLU, key, *FAULTS[name])


def test_bad_input_is_named(as_users_run_it):
    layer = glu.layer(4)
    params = random_params(layer, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"glu\.forward: x has 5 features but the gate's weight has fan_in=3"):
        layer.forward(params, jnp.ones((2, 5)))
    with pytest.raises(TypeError, match=r"glu\.forward: params must be GluParams\(gate, up, down\)"):
        layer.forward(tuple(params), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"glu\.forward: weights must be .* got gate \(3, 4\), up \(3, 5\)"):
        layer.forward(params._replace(up=Params(jnp.ones((3, 5)), None)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"glu\.forward \(up\): bias has shape \(1,\)"):
        layer.forward(params._replace(up=Params(params.up.weight, jnp.ones(1))), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"glu\.layer: gate must be one of sigmoid, .*, got the str 'swish'"):
        glu.layer(4, gate="swish")
    with pytest.raises(ValueError, match=r"glu\.layer: use_bias must be True, False or names out of gate, up, down"):
        glu.layer(4, use_bias="out")
    with pytest.raises(ValueError, match=r"glu\.layer: hidden must be a whole number of at least 1"):
        glu.layer(0)
    with pytest.raises(ValueError, match=r"glu\.backward: delta has shape \(3,\)"):
        jax.eval_shape(lambda x: layer.backward(layer.forward(params, x)[1], x[0]), jnp.ones((2, 3)))
