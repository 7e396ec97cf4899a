"""Triplet loss: numbers by hand, the redundant bias, kinks, planted faults, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbias as jb
from jaxbias.derivation import normal, random_like
from jaxbias.layers import dense
from jaxbias.losses import triplet
from tests.planted import assert_caught

LENGTHS, SQUARED = triplet.DERIVATIONS[0].examples
ROWS = tuple(jnp.array(rows) for rows in ([[0.0, 0], [0, 0]], [[3.0, 4], [1, 0]], [[0.0, 2], [0, 9]]))


@pytest.mark.parametrize("squared", [False, True])
def test_by_hand(squared):
    """Lengths 5 and 2, then 1 and 9: with the margin 1 the second row is satisfied."""
    value, residuals = triplet.forward(ROWS, margin=1.0, squared=squared)
    a, p, n = triplet.backward(residuals)
    assert value == (25 - 4 + 1 if squared else 5 - 2 + 1) / 2
    of_p, of_n = ([6, 8], [0, -4]) if squared else ([0.6, 0.8], [0, -1])
    np.testing.assert_allclose(p, np.array([of_p, [0, 0]]) / 2, rtol=1e-15)
    np.testing.assert_allclose(n, np.array([of_n, [0, 0]]) / 2, rtol=1e-15)
    np.testing.assert_allclose(a, -p - n, rtol=1e-15)


def test_it_is_that_of_optax(key):
    rows = tuple(normal(key, (3, 6, 4), jnp.float64))
    with jax.numpy_dtype_promotion("standard"):
        of_optax = jax.value_and_grad(lambda rows: optax.losses.triplet_margin_loss(*rows, margin=0.7, eps=0.0).mean())
        expected, gradients = of_optax(rows)
    value, residuals = triplet.forward(rows, margin=0.7)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    for delta, gradient in zip(triplet.backward(residuals), gradients, strict=True):
        np.testing.assert_allclose(delta, gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """300² is no number of float16."""
    rows = tuple(jnp.full((1, 4), size, dtype) for size in (300.0, 0, 299))
    value, residuals = triplet.forward(rows)
    assert value.dtype == jnp.float32 and 590 < value < 610
    assert {delta.dtype for delta in triplet.backward(residuals)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("squared", [False, True])
def test_one_bias_on_all_embeddings_is_redundant(key, squared):
    """Σ of all δ = 0: the gradient of the bias of a layer that makes all three is 0, that of its weight is not."""
    layer, x = dense.layer(4), normal(key, (3, 5, 2), jnp.float64)
    params = random_like(key, jax.eval_shape(layer.init, key, x))

    def loss_of(params, x):
        return triplet.forward(tuple(layer.forward(params, jnp.asarray(x))[0]), margin=3.0, squared=squared)[0]

    out, inside = layer.forward(params, x)
    _, residuals = triplet.forward(tuple(out), margin=3.0, squared=squared)
    grads, _ = layer.backward(inside, jnp.stack(triplet.backward(residuals)))
    assert np.abs(grads.bias).max() < 1e-14 and np.abs(grads.weight).max() > 0.1
    (found,) = jb.surgery.redundant_biases(loss_of, params, x)
    assert found.paths == ("bias",) and found.rank == 0


def test_kinks():
    """At the margin, and at a difference of length 0, δ is 0, for autodiff too."""
    same = jnp.ones((1, 2))
    at_the_margin = jnp.zeros((1, 2)), jnp.array([[3.0, 4]]), jnp.array([[0.0, 6]])
    for rows in ((same, same, same), at_the_margin):
        _, residuals = triplet.forward(rows)
        by_autodiff = jax.grad(lambda rows: triplet.forward(rows)[0])(rows)
        for delta, expected in zip(triplet.backward(residuals), by_autodiff, strict=True):
            assert np.array_equal(delta, np.zeros((1, 2))) and np.array_equal(expected, delta)


def parts(r):
    a, p, n = r.out
    u, v = a - p, a - n
    lengths = jnp.linalg.norm(u, axis=-1, keepdims=True), jnp.linalg.norm(v, axis=-1, keepdims=True)
    return u / lengths[0], v / lengths[1], lengths[0] - lengths[1] + 0.5 > 0


def changed(a=None, p=None, n=None):
    def wrong(r, delta):
        del delta
        u, v, active = parts(r)
        right = triplet.backward(r)
        new = (f and jnp.where(active, f(u, v), 0) / 6 for f in (a, p, n))
        return (), tuple(new if new is not None else old for new, old in zip(new, right))

    return wrong


FAULTS = {
    "the anchor's pull alone": (changed(a=lambda u, v: u), {"1.0"}),
    "positive and negative exchanged": (changed(p=lambda u, v: v, n=lambda u, v: -u), {"1.1", "1.2"}),
    "a sign": (changed(p=lambda u, v: u), {"1.1"}),
    "every row counts": (
        lambda r, d: ((), tuple(part / 6 for part in (parts(r)[0] - parts(r)[1], -parts(r)[0], parts(r)[1]))),
        {"1.0", "1.1", "1.2"},
    ),
    "the squared form": (
        lambda r, d: ((), triplet.backward(r._replace(squared=type(r.squared)(True)))),
        {"1.0", "1.1", "1.2"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught(key, name):
    assert_caught(LENGTHS, key, *FAULTS[name])


def test_the_factor_of_the_squared_form_is_caught(key):
    def wrong(r, delta):
        a, p, n = triplet.backward(r, delta)
        return (), (a / 2, p, n)

    assert_caught(SQUARED, key, wrong, {"1.0"})


def test_bad_input(as_users_run_it):
    with pytest.raises(
        TypeError, match=r"^triplet\.forward: out must be a triple of embeddings \(a, p, n\), got a tuple"
    ):
        triplet.forward(ROWS[:2])
    with pytest.raises(ValueError, match=r"^triplet\.forward: a, p and n must be rows of one shape \(\*batch, d\)"):
        triplet.forward((*ROWS[:2], ROWS[2][:1]))
    with pytest.raises(TypeError, match=r"^triplet\.forward: n must be a floating-point array, got int"):
        triplet.forward((*ROWS[:2], jnp.ones((2, 2), int)))
    with pytest.raises(TypeError, match=r"^triplet\.forward: a triplet has no targets, got an int"):
        triplet.forward(ROWS, jnp.array([0, 1]))
    with pytest.raises(ValueError, match=r"^triplet\.loss: margin must be at least 0, got -1"):
        triplet.loss(margin=-1)
    with pytest.raises(TypeError, match=r"^triplet\.loss: squared must be True or False"):
        triplet.loss(squared=None)
