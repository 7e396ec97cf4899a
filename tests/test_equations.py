"""The fifteen equations of the derivation sheet, element by element in plain Python, against the batched library.

Here a sample is a column and weights are receiver-first: `w[l][k][j]` leads from unit j of layer l-1 into unit k of
layer l, as the sheet writes them. The library stores (fan_in, fan_out), so its weight is the transpose.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbias as jb
from jaxbias.derivation import random_like
from jaxbias.layers import dense, tanh
from jaxbias.losses import mean_squared_error

SIZES = (3, 4, 2, 5)  # all different: a transposed matrix cannot pass
ROWS = 4
NETWORK = jb.chain(dense.layer(4), tanh, dense.layer(2), tanh, dense.layer(5), tanh)
LAYERS = range(1, len(SIZES))


@pytest.fixture
def task(key):
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (ROWS, SIZES[0]), jnp.float64)
    targets = jax.random.normal(keys[1], (ROWS, SIZES[-1]), jnp.float64)
    return random_like(keys[2], NETWORK.init(key, x)), x, targets


def receiver_first(params):
    """Weights and biases of the affine layers as lists: w[l][k][j], b[l][k], with l = 1, 2, 3."""
    affine = [None, params[0], params[2], params[4]]
    return (
        [layer and np.asarray(layer.weight).T.tolist() for layer in affine],
        [layer and np.asarray(layer.bias).tolist() for layer in affine],
    )


def one_sample(w, b, x, y):
    """Equations (2), (9), (8), (10), (14) for one sample under the cost C_s = (1/n_L) Σ_k (a_k − y_k)²."""
    a, z = [list(x)], [None]
    for l in LAYERS:  # (1), (2)
        z.append([sum(w[l][k][j] * a[l - 1][j] for j in range(SIZES[l - 1])) + b[l][k] for k in range(SIZES[l])])
        a.append([math.tanh(value) for value in z[l]])
    slope = [None] + [[1 - math.tanh(value) ** 2 for value in z[l]] for l in LAYERS]
    last = LAYERS[-1]
    delta = [None] * len(SIZES)
    delta[last] = [2 / SIZES[-1] * (a[last][k] - y[k]) * slope[last][k] for k in range(SIZES[-1])]  # (9)
    for l in reversed(LAYERS[:-1]):  # (7), (8)
        delta[l] = [
            sum(delta[l + 1][m] * w[l + 1][m][k] for m in range(SIZES[l + 1])) * slope[l][k] for k in range(SIZES[l])
        ]
    grad_w = [None]
    for l in LAYERS:  # (10)
        grad_w.append([[delta[l][k] * a[l - 1][j] for j in range(SIZES[l - 1])] for k in range(SIZES[l])])
    return a[last], delta, grad_w  # by (14) delta is also the bias gradient


def batch(params, x, targets):
    w, b = receiver_first(params)
    return [one_sample(w, b, row, target) for row, target in zip(np.asarray(x).tolist(), np.asarray(targets).tolist())]


def test_per_element_loops_equal_the_batched_form(task):
    params, x, targets = task
    samples = batch(*task)
    np.testing.assert_allclose(NETWORK.forward(params, x)[0], [out for out, _, _ in samples], rtol=1e-13)
    _, grads = jb.value_and_grad(NETWORK, mean_squared_error)(*task)
    deltas = jb.deltas(NETWORK, mean_squared_error)(*task)
    for l, index in zip(LAYERS, (0, 2, 4)):
        mean_w = np.mean([grad_w[l] for _, _, grad_w in samples], axis=0)
        mean_b = np.mean([delta[l] for _, delta, _ in samples], axis=0)
        np.testing.assert_allclose(grads[index].weight, mean_w.T, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(grads[index].bias, mean_b, rtol=1e-11, atol=1e-15)  # (14)
        # the batched delta carries the 1/n of the mean: the per-sample one is n times larger (section 3)
        per_sample = np.asarray(deltas[str(index)]) * ROWS
        np.testing.assert_allclose(per_sample, [delta[l] for _, delta, _ in samples], rtol=1e-11, atol=1e-15)


def test_the_three_forms_of_the_chain_rule_agree(task):
    """(4): dC/dw = dC/dz dz/dw = dC/da da/dz dz/dw, each factor by autodiff of its own little function."""
    params, x, targets = task
    w, b = receiver_first(params)
    row, target, k, j = np.asarray(x[0]), targets[0], 1, 2
    before = np.array(w[1]) @ row + np.array(b[1])

    def cost_of_activation(a):
        h = jnp.tanh(jnp.array(w[2]) @ a + jnp.array(b[2]))
        out = jnp.tanh(jnp.array(w[3]) @ h + jnp.array(b[3]))
        return jnp.mean((out - target) ** 2)

    dc_da = jax.grad(cost_of_activation)(jnp.tanh(before))[k]
    da_dz = jax.grad(jnp.tanh)(before[k])
    dc_dz = jax.grad(lambda z: cost_of_activation(jnp.tanh(z)))(before)[k]
    dz_dw = row[j]
    direct = one_sample(w, b, row.tolist(), target.tolist())[2][1][k][j]
    assert direct == pytest.approx(float(dc_dz * dz_dw), rel=1e-12)
    assert direct == pytest.approx(float(dc_da * da_dz * dz_dw), rel=1e-12)


def test_one_step_is_equations_11_and_15(task):
    params, x, targets = task
    _, grads = jb.value_and_grad(NETWORK, mean_squared_error)(*task)
    samples = batch(*task)
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    w, b = receiver_first(params)
    new_w, new_b = receiver_first(stepped)
    for l in LAYERS:
        want_w = np.array(w[l]) - 0.1 * np.mean([grad_w[l] for _, _, grad_w in samples], axis=0)
        want_b = np.array(b[l]) - 0.1 * np.mean([delta[l] for _, delta, _ in samples], axis=0)
        np.testing.assert_allclose(new_w[l], want_w, rtol=1e-12)
        np.testing.assert_allclose(new_b[l], want_b, rtol=1e-12)


def test_mean_and_sum_conventions_give_the_same_step(task):
    """Section 3: under the sum gradients are N times larger, and alpha / N gives the same parameters."""
    params, x, targets = task
    _, mean = jb.value_and_grad(NETWORK, mean_squared_error.loss(reduction="mean"))(*task)
    _, total = jb.value_and_grad(NETWORK, mean_squared_error.loss(reduction="sum"))(*task)
    by_mean = jax.tree.map(lambda p, g: p - 0.1 * g, params, mean)
    by_sum = jax.tree.map(lambda p, g: p - 0.1 / ROWS * g, params, total)
    for one, other in zip(jax.tree.leaves(by_mean), jax.tree.leaves(by_sum)):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_zero_input_silences_weights_and_not_biases(task):
    """A3.12: the weight gradient carries the incoming activation, the bias gradient does not."""
    params, x, targets = task
    _, grads = jb.value_and_grad(NETWORK, mean_squared_error)(params, jnp.zeros_like(x), targets)
    delta = jb.deltas(NETWORK, mean_squared_error)(params, jnp.zeros_like(x), targets)["0"]
    assert np.all(np.asarray(grads[0].weight) == 0)
    assert np.all(np.abs(grads[0].bias) > 1e-6)
    np.testing.assert_allclose(grads[0].bias, delta.sum(axis=0), rtol=1e-14)


def test_central_differences_for_every_weight_and_bias(task):
    """A3.11: h = 1e-5 in float64, within 1e-7 of the largest entry."""
    params, x, targets = task
    value_and_grad = jb.value_and_grad(NETWORK, mean_squared_error)
    _, grads = value_and_grad(*task)
    flat, unravel = ravel_pytree(params)
    hand, _ = ravel_pytree(grads)
    h = 1e-5

    def cost(theta):
        return value_and_grad(unravel(theta), x, targets)[0]

    numeric = [(cost(flat.at[i].add(h)) - cost(flat.at[i].add(-h))) / (2 * h) for i in range(flat.size)]
    assert np.all(np.abs(np.array(numeric) - hand) < 1e-7 * np.max(np.abs(hand)))
