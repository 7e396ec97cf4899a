"""Low-rank adapters: numbers worked by hand, symmetries, what is trained, merging, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias import Params
from jaxbias.derivation import random_like
from jaxbias.layers import dense, lora, tanh
from jaxbias.layers.lora import LoraParams
from tests.planted import assert_caught

PLAIN, DORA, _ = lora.DERIVATIONS[0].examples
NETWORK = jb.chain(jb.residual(dense.layer(3)), tanh, dense.layer(2))
X = np.linspace(-2, 2, 15).reshape(5, 3)
KEY = jax.random.key(4)


def drawn(network, x=X):
    return random_like(KEY, jax.eval_shape(network.init, KEY, x))


def test_by_hand():
    """W = (1, 2), A = 3, C = (4, 5), s = 1: x = 2 has x A = 6 and z = (2 + 24, 4 + 30) + b."""
    params = LoraParams(
        Params(jnp.array([[1.0, 2]]), jnp.array([100.0, 200])), jnp.array([[3.0]]), jnp.array([[4.0, 5]]), None
    )
    out, residuals = lora.forward(params, jnp.array([[2.0]]))
    grads, delta_x = lora.backward(residuals, jnp.array([[1.0, 10]]))
    assert out.tolist() == [[126, 234]]
    assert grads.base.weight.tolist() == [[2, 20]] and grads.base.bias.tolist() == [1, 10]
    assert grads.down.tolist() == [[2 * 54]] and grads.up.tolist() == [[6, 60]] and grads.magnitude is None
    assert delta_x.tolist() == [[21 + 54 * 3]]


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 3 / 4), (True, 3 / 2)])
def test_the_scale_is_alpha_over_the_rank_or_its_root(stabilised, scale):
    ones = LoraParams(Params(jnp.zeros((1, 1)), None), jnp.ones((1, 4)), jnp.ones((4, 1)), None)
    out, _ = lora.forward(ones, jnp.ones((1, 1)), alpha=3.0, rank_stabilised=stabilised)
    assert out.tolist() == [[4 * scale]]


@pytest.mark.parametrize("example", [PLAIN, DORA], ids=["lora", "dora"])
def test_symmetries(example):
    """(9.6.7): Aᵀ ∂L/∂A = ∂L/∂C Cᵀ; with DoRA the scale of each column of V is without effect, ⟨V, δV⟩ = 0."""
    layer = example.layer
    params = drawn(layer)
    out, residuals = layer.forward(params, jnp.asarray(X))
    grads, _ = layer.backward(residuals, jnp.sin(5 * out))
    down, up, weight = np.asarray(params.down), np.asarray(params.up), np.asarray(params.base.weight)
    np.testing.assert_allclose(down.T @ np.asarray(grads.down), np.asarray(grads.up) @ up.T, rtol=1e-9, atol=1e-11)
    if example is DORA:
        v = weight + 3 / 2**0.5 * down @ up
        assert np.abs((v * np.asarray(grads.base.weight)).sum(0)).max() < 1e-12
        assert np.abs(grads.base.weight).max() > 1e-2


@pytest.mark.parametrize("dora", [False, True])
def test_adapt_changes_nothing_until_it_is_trained_and_merge_gives_it_back(dora):
    params = drawn(NETWORK)
    x = jnp.asarray(X)
    before, _ = NETWORK.forward(params, x)
    network, adapted = lora.adapt(NETWORK, params, KEY, rank=2, alpha=4.0, dora=dora)
    np.testing.assert_allclose(network.forward(adapted, x)[0], before, rtol=1e-12)
    trained = random_like(KEY, adapted)
    plain, merged = lora.merge(network, trained)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    np.testing.assert_allclose(plain.forward(merged, x)[0], network.forward(trained, x)[0], rtol=1e-11, atol=1e-12)


def test_which_leaves_are_trained():
    _, params = lora.adapt(
        jb.chain(NETWORK, jb.layers.layer_norm.layer()), (drawn(NETWORK), Params(jnp.ones(2), jnp.ones(2))), KEY, rank=2
    )
    for biases, of_adapted, of_others in (("none", False, False), ("lora_only", True, False), ("all", True, True)):
        (first, _, second), norm = lora.trainable(params, biases)
        assert first == second == LoraParams(Params(False, of_adapted), True, True, None)
        assert norm == Params(False, of_others)


def test_fit_moves_the_adapter_alone():
    params = drawn(NETWORK)
    network, params = lora.adapt(NETWORK, params, KEY, rank=1, alpha=2.0)
    fit = jb.train.fit(
        network, jb.losses.mean_squared_error, params, (X, X[:, :2]), optax.sgd(0.1), epochs=2, batch_size=5, key=KEY,
        trainable=lora.trainable(params, "lora_only"),
    )  # fmt: skip
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), params, fit.params)
    assert moved == (
        LoraParams(Params(False, True), True, True, None),
        (),
        LoraParams(Params(False, True), True, True, None),
    )


def test_no_bias_but_those_of_the_layer_are_there_to_be_redundant():
    layer = lora.layer(2, rank=1)
    forward = lambda p, x: layer.forward(p, jnp.asarray(x))[0]
    assert jb.surgery.redundant_biases(forward, drawn(layer), X) == ()


def faulty(example, **changes):
    def wrong(residuals, delta):
        grads, delta_x = example.layer.backward(residuals, delta)
        grads = grads._replace(**{n: f(getattr(grads, n), residuals, delta) for n, f in changes.items() if n != "x"})
        return grads, changes["x"](delta_x, residuals, delta) if "x" in changes else delta_x

    return wrong


def flat(a):
    return a.reshape(-1, a.shape[-1])


def wrong_axis(grad, r, d):
    """DoRA's magnitudes with the lengths of rows."""
    v = r.params.base.weight + 3 / 2**0.5 * r.params.down @ r.params.up
    return (flat(r.x).T @ flat(d) * v / jnp.linalg.norm(v, axis=1, keepdims=True)).sum(0)


def no_projection(grad, r, d):
    v = r.params.base.weight + 3 / 2**0.5 * r.params.down @ r.params.up
    ratio = r.params.magnitude / jnp.linalg.norm(v, axis=0)
    return grad._replace(weight=ratio[None] * (flat(r.x).T @ flat(d)))


FAULTS = {
    "scale missing in one factor": (PLAIN, faulty(PLAIN, up=lambda g, r, d: g / 1.5), {"0.up"}),
    "scale missing in x": (
        PLAIN,
        faulty(PLAIN, x=lambda x, r, d: d @ r.params.base.weight.T + d @ r.params.up.T @ r.params.down.T),
        {"1"},
    ),
    "x by the frozen way alone": (PLAIN, faulty(PLAIN, x=lambda x, r, d: d @ r.params.base.weight.T), {"1"}),
    "bias scaled as the adapter": (
        PLAIN,
        faulty(PLAIN, base=lambda g, r, d: g._replace(bias=1.5 * g.bias)),
        {"0.base.bias"},
    ),
    "factors exchanged": (PLAIN, faulty(PLAIN, down=lambda g, r, d: 1.5 * r.x.T @ r.between), {"0.down"}),
    "norm over the wrong axis": (DORA, faulty(DORA, magnitude=wrong_axis), {"0.magnitude"}),
    "norm taken for a constant": (DORA, faulty(DORA, base=no_projection), {"0.base.weight"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    example, wrong, leaves = FAULTS[name]
    assert_caught(example, key, wrong, leaves)


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named():
    layer = lora.layer(4, rank=2)
    params = drawn(layer)
    with pytest.raises(ValueError, match=r"lora\.forward: x has 5 features but weight has fan_in=3"):
        layer.forward(params, jnp.ones((2, 5)))
    with pytest.raises(TypeError, match=r"lora\.forward: params must be LoraParams\(base, down, up, magnitude\)"):
        layer.forward(params.base, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"down, up and magnitude must have shapes \(\(3, 2\), \(2, 4\), \(4,\)\)"):
        layer.forward(params._replace(up=jnp.ones((3, 4))), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"lora\.layer: rank must be a whole number of at least 1, got the int 0"):
        lora.layer(4, rank=0)
    with pytest.raises(
        ValueError, match=r"lora\.trainable: biases must be one of none, lora_only, all, got the str 'some'"
    ):
        lora.trainable(params, "some")
    with pytest.raises(ValueError, match=r"lora\.trainable: there is no adapter in params"):
        lora.trainable(params.base)
    with pytest.raises(ValueError, match=r"lora\.adapt: the network has no dense layer"):
        lora.adapt(jb.chain(tanh), ((),), KEY, rank=2)
    with pytest.raises(ValueError, match=r"lora\.merge: the network has no adapter"):
        lora.merge(NETWORK, drawn(NETWORK))
