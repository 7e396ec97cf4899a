"""Mixture of experts: loops over rows, its own losses, capacity, selection bias, redundancy, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import random_like
from jaxbias.layers import dense, dropout, glu, moe
from jaxbias.layers.moe import MoeParams
from tests.planted import assert_caught

RENORMALISED, PLAIN, SIGMOID, _ = moe.DERIVATIONS[0].examples
X = np.random.default_rng(1).standard_normal((6, 3))
KEY = jax.random.key(4)


def drawn(layer, x=X):
    return random_like(KEY, jax.eval_shape(layer.init, KEY, x))


def by_loops(params, x, top, scores, renormalise, capacity, e):
    """y row by row in NumPy."""
    (router, bias), (weights, biases) = jax.tree.map(np.asarray, params)
    z = x @ router + bias
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True) if scores == "softmax" else 1 / (1 + np.exp(-z))
    y, taken = np.zeros((len(x), weights.shape[2])), np.zeros(len(bias), int)
    for t in range(len(x)):
        chosen = np.argsort(-(p[t] + e), kind="stable")[:top]
        total = p[t, chosen].sum() if renormalise else 1
        for i in chosen:
            if taken[i] < capacity:
                y[t] += p[t, i] / total * (x[t] @ weights[i] + biases[i])
            taken[i] += 1
    return y


@pytest.mark.parametrize(
    ("scores", "renormalise", "capacity"), [("softmax", True, 2), ("softmax", False, 99), ("sigmoid", True, 3)]
)
def test_forward_is_what_loops_over_rows_give(scores, renormalise, capacity):
    layer = moe.layer(
        dense.layer(2), experts=4, top=2, scores=scores, renormalise=renormalise, capacity=capacity, selection_rate=0.5
    )
    params, e = drawn(layer), np.array([0.5, 0, 0, -0.5])
    out, _ = jax.jit(layer.forward)(params, X, e)
    np.testing.assert_allclose(out, by_loops(params, X, 2, scores, renormalise, capacity, e), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_the_routers_own_losses_enter_the_gradient_as_autodiff_has_them(scores):
    """Backward is the derivative of ⟨y, δ⟩ + balance + z-loss (9.5.10), (9.5.11), F held constant."""
    rates = {"balance": 0.3, "z_loss": 0.2}
    layer = moe.layer(dense.layer(2), experts=4, top=2, scores=scores, **rates)
    delta = np.random.default_rng(2).standard_normal((6, 2))

    def total(params, x):
        out, residuals = layer.forward(params, x)
        own = moe.own_losses(residuals, **rates)
        return (out * delta).sum() + own["balance"] + own["z_loss"]

    @jax.jit
    def both(params, x):
        return layer.backward(layer.forward(params, x)[1], jnp.asarray(delta)), jax.grad(total, (0, 1))(params, x)

    for hand, autodiff in zip(*map(jax.tree.leaves, both(drawn(layer), X)), strict=True):
        np.testing.assert_allclose(hand, autodiff, rtol=1e-11, atol=1e-13)


def test_the_selection_bias_moves_towards_the_mean_load_and_not_by_the_gradient():
    """(9.5.9): all rows on expert 0 and 1 of three; e enters no weight."""
    layer = moe.layer(dense.layer(2), experts=3, top=2, selection_rate=0.25)
    params = drawn(layer)
    router = Params(jnp.zeros((3, 3)), jnp.array([1.0, 0.5, 0]))
    params = MoeParams(router, params.experts)
    state = layer.state.init(KEY, jnp.asarray(X))
    forward = jax.jit(layer.forward)
    out, residuals = forward(params, X, state)
    state = layer.state.step(state, residuals)
    assert state.tolist() == [-0.25, -0.25, 0.25]
    np.testing.assert_allclose(forward(params, X, 1e-9 * state)[0], out, rtol=1e-12)
    quiet = jb.inference(layer)
    assert quiet.state.step(state, residuals) is state and jb.inference(quiet) is quiet


def test_a_full_expert_drops_what_comes_later():
    """Both rows choose expert 0 and 1, each of which takes one: the second row gets 0 and hands back nothing."""
    layer = moe.layer(dense.layer(1), experts=2, top=2, capacity=1)
    out, (grads, delta_x) = jax.device_get(run(layer, drawn(layer, X[:2]), X[:2]))
    assert out[0] != 0 and out[1] == 0 and (delta_x[0] != 0).all() and not delta_x[1].any()
    np.testing.assert_allclose(grads.experts.bias.sum(), 1, rtol=1e-12)  # Σ w of the row that was taken


def run(layer, params, x):
    """Output and gradients for δ = 1, in one program."""

    @jax.jit
    def both(params, x):
        out, residuals = layer.forward(params, x)
        return out, layer.backward(residuals, jnp.ones_like(out))

    return both(params, x)


def test_no_rows_give_zeros_and_no_nan():
    layer = moe.layer(dense.layer(2), experts=3, top=2, balance=0.1, z_loss=0.1)
    out, (grads, delta_x) = run(layer, drawn(layer), X[:0])
    assert out.shape == (0, 2) and delta_x.shape == (0, 3)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_a_constant_on_the_routers_bias_is_redundant_with_softmax_alone():
    """Table 9.14: Σ_i ∂L/∂br = 0; with sigmoid scores it is not, nor with the z-loss, where it is 2 β mean ℓ."""
    for scores, number in (("softmax", 1), ("sigmoid", 0)):
        layer = moe.layer(dense.layer(1, use_bias=False), experts=3, top=3, scores=scores)
        found = jb.surgery.redundant_biases(
            lambda p, x, layer=layer: layer.forward(p, jnp.asarray(x))[0], drawn(layer), X
        )
        assert [(each.paths, len(each.directions)) for each in found] == [(("router.bias",), 1)] * number
    layer = moe.layer(dense.layer(2), experts=3, top=2, z_loss=0.5)
    params = drawn(layer)
    _, (grads, _) = jax.device_get(run(layer, params, X))
    ell = np.log(np.exp(X @ np.asarray(params.router.weight) + np.asarray(params.router.bias)).sum(1))
    np.testing.assert_allclose(grads.router.bias.sum(), ell.mean(), rtol=1e-10)


def test_experts_may_be_any_layer_of_rows():
    layer = jb.residual(moe.layer(glu.layer(4, gate="silu"), experts=3, top=2))
    params = jax.eval_shape(layer.init, KEY, X)
    assert params.experts.gate.weight.shape == (3, 3, 4) and params.router.weight.shape == (3, 3)
    assert jax.eval_shape(lambda p, x: layer.forward(p, x)[0], params, X).shape == X.shape


def faulty(example, change):
    """`change(δw, w, p, δz as it should be, chosen) -> δz`, from which the router's gradients follow."""

    def wrong(residuals, delta):
        grads, delta_x = example.layer.backward(residuals, delta)
        z, chosen = residuals.z, residuals.chosen
        delta = delta.reshape(len(z), -1)
        stacked = residuals.outputs.reshape(-1, delta.shape[1])
        f = jnp.concatenate([stacked, jnp.zeros((1, delta.shape[1]))])[residuals.slots]
        delta_w = jnp.zeros_like(z).at[jnp.arange(len(z))[:, None], chosen].set((f * delta[:, None]).sum(-1))
        on = jnp.zeros_like(z).at[jnp.arange(len(z))[:, None], chosen].set(1)
        p = jax.nn.softmax(z, -1) if example is not SIGMOID else jax.nn.sigmoid(z)
        w = p * on / (1 if example is PLAIN else (p * on).sum(1, keepdims=True))
        delta_z = change(delta_w, w, p, on)
        x = residuals.x.reshape(len(z), -1)
        bias = None if grads.router.bias is None else delta_z.sum(0)
        return grads._replace(router=Params(x.T @ delta_z, bias)), delta_x

    return wrong


def mean(w, delta_w):
    return (w * delta_w).sum(1, keepdims=True)


BOTH = {"0.router.weight", "0.router.bias"}
FAULTS = {
    "renormalising sum taken for a constant": (RENORMALISED, lambda dw, w, p, on: w * (dw - mean(p, dw)), BOTH),
    "softmax over all for the chosen": (RENORMALISED, lambda dw, w, p, on: p * (dw - mean(p, dw)), BOTH),
    "weights without their mean": (RENORMALISED, lambda dw, w, p, on: w * dw, BOTH),
    "cut to the chosen": (PLAIN, lambda dw, w, p, on: on * p * (dw - mean(p, dw)), {"0.router.weight"}),
    "sigmoid as softmax": (SIGMOID, lambda dw, w, p, on: w * (dw - mean(w, dw)), BOTH),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_in_the_router_is_caught(key, name):
    example, change, leaves = FAULTS[name]
    assert_caught(example, key, faulty(example, change), leaves)


def test_planted_faults_in_experts_and_input_are_caught(key):
    def unweighted(residuals, delta):
        grads, delta_x = RENORMALISED.layer.backward(residuals, delta)
        return grads._replace(
            experts=grads.experts._replace(bias=jnp.broadcast_to(delta.sum(0)[None], (3, 2)))
        ), delta_x

    def experts_alone(residuals, delta):
        grads, delta_x = RENORMALISED.layer.backward(residuals, delta)
        return grads, delta_x.at[0].add(1.0)

    assert_caught(RENORMALISED, key, unweighted, {"0.experts.bias"})
    assert_caught(RENORMALISED, key, experts_alone, {"1"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    expert = dense.layer(2)
    with pytest.raises(ValueError, match=r"moe\.layer: with top=1 a renormalised weight .* renormalise=False"):
        moe.layer(expert, experts=3, top=1)
    with pytest.raises(ValueError, match=r"moe\.layer: top must be at most the number of experts, 3, got 4"):
        moe.layer(expert, experts=3, top=4)
    with pytest.raises(ValueError, match=r"moe\.layer: scores must be one of softmax, sigmoid, got the str 'relu'"):
        moe.layer(expert, experts=3, top=2, scores="relu")
    with pytest.raises(ValueError, match=r"moe\.layer: the expert must be a layer without a state, got dropout"):
        moe.layer(dropout.layer(), experts=3, top=2)
    with pytest.raises(TypeError, match=r"moe\.layer: the module jaxbias\.layers\.dense is no layer"):
        moe.layer(dense, experts=3, top=2)
    with pytest.raises(ValueError, match=r"moe\.layer: balance must be at least 0, got -1"):
        moe.layer(expert, experts=3, top=2, balance=-1)
    layer = moe.layer(expert, experts=3, top=2)
    params = drawn(layer)
    with pytest.raises(ValueError, match=r"moe\.forward: x has 5 features but the router has fan_in=3"):
        layer.forward(params, jnp.ones((2, 5)))
    with pytest.raises(TypeError, match=r"moe\.forward: params must be MoeParams\(router, experts\)"):
        layer.forward(tuple(params), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"must have 3 experts, got a router of shape \(3, 2\)"):
        layer.forward(params._replace(router=Params(jnp.ones((3, 2)), None)), jnp.ones((2, 3)))
