"""Gumbel softmax: how often each class is drawn, straight-through by hand and by autodiff, keys, planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbias as jb
from jaxbias.derivation import Example, normal
from jaxbias.layers import dense, gumbel_softmax
from tests.planted import assert_caught

SOFT = gumbel_softmax.DERIVATIONS[0].examples[0]
HARD = Example("hard, temperature 2", gumbel_softmax.layer(2.0), (5, 3))


def test_a_class_is_drawn_as_often_as_softmax_says(key):
    """20,000 draws: each count within five standard errors."""
    z, draws = jnp.array([0.0, 1, -1, 2]), 20_000
    drawn = jax.jit(jax.vmap(lambda k: gumbel_softmax.forward((), z, k, temperature=0.3)[0]))(
        jax.random.split(key, draws)
    )
    p = np.exp(z) / np.exp(z).sum()
    assert set(np.unique(drawn)) == {0, 1} and (drawn.sum(-1) == 1).all()
    assert (np.abs(np.asarray(drawn).mean(0) - p) < 5 * np.sqrt(p * (1 - p) / draws)).all()


def test_without_noise_by_hand():
    """z = (log 3, 0), τ = 1: y = (¾, ¼); δ = (1, 0): y (δ − ¾) = ±3/16, half of it at τ = 2 for z doubled."""
    z = jnp.array([[np.log(3), 0]])
    for scale in (1, 2):
        for hard, expected in ((False, [0.75, 0.25]), (True, [1, 0])):
            layer = jb.inference(gumbel_softmax.layer(float(scale), hard=hard))
            out, residuals = layer.forward((), scale * z)
            np.testing.assert_allclose(out, [expected], rtol=1e-14)
            _, delta_x = layer.backward(residuals, jnp.array([[1.0, 0]]))
            np.testing.assert_allclose(delta_x, np.array([[3, -3]]) / 16 / scale, rtol=1e-14)


def test_one_hot_rows_are_exact_and_the_slope_is_that_of_the_soft_ones(key):
    z, delta = normal(key, (6, 4), jnp.float64), normal(jax.random.fold_in(key, 1), (6, 4), jnp.float64)
    results = []
    for hard in (True, False):
        out, residuals = gumbel_softmax.forward((), z, key, temperature=0.7, hard=hard)
        results.append(gumbel_softmax.backward(residuals, delta)[1])
        assert np.array_equal(out.argmax(-1), residuals.y.argmax(-1))
    assert np.array_equal(*results)
    one_hot, pull_back = jax.vjp(lambda z: gumbel_softmax.forward((), z, key, temperature=0.7)[0], z)
    assert set(np.unique(one_hot)) == {0, 1}
    np.testing.assert_allclose(pull_back(delta)[0], results[0], rtol=1e-12, atol=1e-15)


def test_one_constant_of_a_bias_before_it_is_redundant(key):
    network, x = jb.chain(dense.layer(4), HARD.layer), normal(key, (5, 3), jnp.float64)
    out, residuals = network.forward(network.init(key, x), x, network.state.init(key, x))
    (grads, _), _ = network.backward(residuals, jnp.asarray(np.random.default_rng(0).normal(size=out.shape)))
    assert np.abs(grads.bias).max() > 0.01 and abs(grads.bias.sum()) < 1e-15


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_a_draw_does_not_depend_on_the_dtype_and_another_key_is_another_draw(key, dtype):
    out, residuals = HARD.layer.forward((), jnp.zeros((40, 5), dtype), key)
    wide, _ = HARD.layer.forward((), jnp.zeros((40, 5), jnp.float64), key)
    assert out.dtype == dtype and np.array_equal(out, wide)
    second, _ = HARD.layer.forward((), jnp.zeros((40, 5), dtype), HARD.layer.state.step(key, residuals))
    assert 20 < (out.argmax(-1) != second.argmax(-1)).sum() < 40  # of 40 rows four fifths differ


def soft_fault(change):
    def wrong(r, d):
        return (), change(r.y, d, (r.y * d).sum(-1, keepdims=True))

    return wrong


FAULTS = {
    "without 1/τ": (SOFT, soft_fault(lambda y, d, m: y * (d - m))),
    "times τ": (SOFT, soft_fault(lambda y, d, m: y * (d - m) * 0.5)),
    "mean not taken out": (SOFT, soft_fault(lambda y, d, m: y * d / 0.5)),
    "plain mean": (SOFT, soft_fault(lambda y, d, m: y * (d - d.mean(-1, keepdims=True)) / 0.5)),
    "hard: δ handed on": (HARD, lambda r, d: ((), d)),
    "hard: at the hard sample": (
        HARD,
        lambda r, d: gumbel_softmax.backward(r._replace(y=jax.nn.one_hot(r.y.argmax(-1), 3, dtype=d.dtype)), d),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    example, wrong = FAULTS[name]
    assert_caught(example, key, wrong, {"1"})


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input_is_named(key):
    z = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"gumbel_softmax\.forward: the state is missing, a random key"):
        gumbel_softmax.forward((), z)
    with pytest.raises(TypeError, match=r"gumbel_softmax\.forward: key must be a JAX key"):
        gumbel_softmax.forward((), z, z)
    with pytest.raises(ValueError, match=r"gumbel_softmax\.layer: temperature must be above 0, got 0"):
        gumbel_softmax.layer(0)
    with pytest.raises(TypeError, match=r"gumbel_softmax\.layer: hard must be True or False, got the int 1"):
        gumbel_softmax.layer(hard=1)
    with pytest.raises(TypeError, match=r"gumbel_softmax: axis must be the number of one axis"):
        gumbel_softmax.layer(axis=None)
    with pytest.raises(ValueError, match=r"gumbel_softmax\.forward: axis=2 does not exist in x of shape \(2, 3\)"):
        gumbel_softmax.forward((), z, key, axis=2)
    with pytest.raises(TypeError, match=r"gumbel_softmax\.forward: x must be a floating-point array, got int"):
        gumbel_softmax.forward((), jnp.ones((2, 3), int), key)
    with pytest.raises(ValueError, match=r"gumbel_softmax: this layer keeps a state"):
        jb.chain(gumbel_softmax.layer()).forward(((),), z)
