"""Article 3: backpropagation and the bias update, equation by equation."""

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims._claim import CONDITIONAL, HOLDS, claim
from jaxbias.claims._conditions import above, at_most, below, exactly, near
from jaxbias.claims._tools import affine, descend, difference, generator, once, predict, randomized, relative_difference
from jaxbias.layers import dense, sigmoid, tanh
from jaxbias.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from jaxbias.params import run_forward

NETWORK = jb.chain(dense.layer(4), tanh, dense.layer(3), sigmoid, dense.layer(2))
"""3-4-3-2; no two neighbouring layers have one size, so that a transposed matrix cannot pass unseen."""


def problem(key, n: int = 5):
    """Random params without a zero bias, n rows and their targets."""
    rng = generator(key)
    x = rng.standard_normal((n, 3))
    return randomized(rng, NETWORK, x), jnp.asarray(x), jnp.asarray(rng.standard_normal((n, 2)))


def receiver_first(params):
    """The dense layers' params, W in the sheet's layout [receiver, sender] (A3.5)."""
    return [(np.asarray(layer.weight).T, np.asarray(layer.bias)) for layer in params[::2]]


SIGMAS = (np.tanh, lambda z: 1 / (1 + np.exp(-z)), lambda z: z)
SLOPES = (lambda a: 1 - a * a, lambda a: a * (1 - a), np.ones_like)
"""σ′ as a function of a = σ(z)."""


def forward_by_element(params, x):
    """z and a of every layer for one sample, unit by unit as in equation (2)."""
    a, z = [np.asarray(x)], []
    for (weight, bias), sigma in zip(receiver_first(params), SIGMAS):
        sums = []
        for k in range(weight.shape[0]):
            total = bias[k]
            for j in range(weight.shape[1]):
                total = total + weight[k, j] * a[-1][j]
            sums.append(total)
        z.append(np.array(sums))
        a.append(sigma(z[-1]))
    return z, a


def deltas_by_element(params, a, target):
    """δ of every layer for one sample, unit by unit: (9) for the last layer, (8) below."""
    layers = receiver_first(params)
    delta = [2 / len(target) * (a[-1] - np.asarray(target)) * SLOPES[-1](a[-1])]
    for l in range(len(layers) - 2, -1, -1):
        above_weight, _ = layers[l + 1]
        slope = SLOPES[l](a[l + 1])
        delta.insert(
            0,
            np.array(
                [
                    sum(delta[0][m] * above_weight[m, k] for m in range(above_weight.shape[0])) * slope[k]
                    for k in range(above_weight.shape[1])
                ]
            ),
        )
    return delta


def gradients_by_element(params, x, targets):
    """Mean over the samples of (10) and (14), in the library's layout."""
    total: Any = None
    for sample, target in zip(x, targets):
        _, a = forward_by_element(params, sample)
        delta = deltas_by_element(params, a, target)
        grads = [affine(np.outer(a[l], delta[l]) / len(x), delta[l] / len(x)) for l in range(len(delta))]
        total = grads if total is None else jax.tree.map(np.add, total, grads)
    return total


def by_library(how, params, x, targets):
    """Gradients of the three dense layers."""
    return jb.value_and_grad(NETWORK, mean_squared_error, how)(params, x, targets)[1][::2]


@claim(
    "A3.2",
    "A neuron adds its weighted inputs and its bias, then applies f: the loop over inputs is the matrix product.",
    HOLDS,
    {"loop − library": at_most(1e-14)},
    equation="(1)",
)
def neuron(key):
    params, x, _ = problem(key)
    out = once(lambda params, x: predict(NETWORK, params, x))(params, x)
    return {"loop − library": difference([forward_by_element(params, row)[1][-1] for row in x], list(out))}


@claim(
    "A3.3",
    "Two phases: the forward pass ends with the error and keeps what the backward pass needs to compute gradients.",
    CONDITIONAL,
    {"backward from the kept residuals − autodiff": at_most(1e-12), "loss − by hand": near(0, 1e-14)},
    article="The backward pass 'tunes the weights': it computes gradients, the optimiser tunes (E22).",
    equation="(6)-(10)",
)
def two_phases(key):
    params, x, targets = problem(key)

    @once
    def phases(params, x, targets):
        out, residuals = run_forward(NETWORK, params, x)
        loss, loss_residuals = mean_squared_error.forward(out, targets)
        grads, _ = NETWORK.backward(residuals, mean_squared_error.backward(loss_residuals))
        expected = jax.grad(lambda p: jnp.mean((predict(NETWORK, p, x) - targets) ** 2))(params)
        return loss, out, grads, expected

    loss, out, grads, expected = phases(params, x, targets)
    return {
        "backward from the kept residuals − autodiff": difference(grads, expected),
        "loss − by hand": loss - np.mean((np.asarray(out) - targets) ** 2),
    }


@claim(
    "A3.4",
    "Gradient descent steps along the negative gradient: for a small α the loss falls by α‖∇C‖² to first order.",
    HOLDS,
    {
        "(fall of the loss) / (α ‖∇C‖²), α = 1e-6": near(1, 1e-4),
        "fall along 1000 random directions / fall along −∇C, equal lengths": below(0.9),
        "fall after 10 steps of SGD, RMSprop, Adam, α = 1e-3": above(0),
    },
    equation="(11), (15)",
)
def descent_direction(key):
    params, x, targets = problem(key)
    gradient = jb.value_and_grad(NETWORK, mean_squared_error)
    directions = generator(jax.random.fold_in(key, 1)).standard_normal((1000, 39))
    optimizers = optax.sgd(1e-3), optax.rmsprop(1e-3), optax.adam(1e-3)

    @once
    def run(params, directions):
        loss, grads = gradient(params, x, targets)
        flat, unflatten = jax.flatten_util.ravel_pytree(grads)
        ways = jnp.concatenate([-flat[None] / jnp.linalg.norm(flat), directions])
        length = 1e-6 * jnp.linalg.norm(flat)
        moved = jax.vmap(lambda way: jax.tree.map(jnp.add, params, unflatten(length * way)))(ways)
        falls = loss - jax.vmap(lambda p: gradient(p, x, targets)[0])(moved)
        trained = [descend(lambda p: gradient(p, x, targets), params, o, 11)[1] for o in optimizers]
        return flat, falls, jnp.stack([losses[0] - losses[10] for losses in trained])

    flat, falls, trained = run(params, directions / np.linalg.norm(directions, axis=1, keepdims=True))
    return {
        "(fall of the loss) / (α ‖∇C‖²), α = 1e-6": falls[0] / (1e-6 * flat @ flat),
        "fall along 1000 random directions / fall along −∇C, equal lengths": falls[1:] / falls[0],
        "fall after 10 steps of SGD, RMSprop, Adam, α = 1e-3": trained,
    }


@claim(
    "A3.5",
    "w_kj leads into unit k from unit j, so Wˡ has shape (n_l, n_{l−1}); the library stores its transpose.",
    HOLDS,
    {"shapes of W¹, W², W³": exactly([[4, 3], [3, 4], [2, 3]]), "∂z¹_k/∂a⁰_j − w_kj": exactly(0.0)},
    equation="(2)",
)
def indices(key):
    params, x, _ = problem(key)
    jacobian = once(jax.jacobian(lambda x: dense.forward(params[0], x)[0]))(x[0])
    return {
        "shapes of W¹, W², W³": [weight.shape for weight, _ in receiver_first(params)],
        "∂z¹_k/∂a⁰_j − w_kj": difference(jacobian, receiver_first(params)[0][0]),
    }


@claim(
    "A3.6",
    "∂C/∂w = ∂C/∂z ∂z/∂w = ∂C/∂a ∂a/∂z ∂z/∂w: the three forms of the chain rule agree.",
    HOLDS,
    {"(3) − first form": at_most(1e-14), "(3) − second form": at_most(1e-14)},
    equation="(3), (4)",
)
def chain_rule(key):
    params, x, targets = problem(key, n=1)
    x, target = x[0], targets[0]

    def cost(last_weight=None, last_z=None, last_a=None, weight=params[2].weight):
        """The cost as a function of W², z² or a², the others following from it."""
        a1 = jnp.tanh(x @ params[0].weight + params[0].bias)
        z2 = a1 @ weight + params[2].bias if last_z is None else last_z
        a2 = jax.nn.sigmoid(z2) if last_a is None else last_a
        return jnp.mean((a2 @ params[4].weight + params[4].bias - target) ** 2)

    @once
    def forms(weight):
        a1 = jnp.tanh(x @ params[0].weight + params[0].bias)
        z2 = a1 @ weight + params[2].bias
        a2 = jax.nn.sigmoid(z2)
        by_weight = jax.grad(lambda w: cost(weight=w))(weight)
        by_z = jax.grad(lambda z: cost(last_z=z))(z2)
        by_a = jax.grad(lambda a: cost(last_a=a))(a2)
        slope = jax.vmap(jax.grad(jax.nn.sigmoid))(z2)
        return by_weight, jnp.outer(a1, by_z), jnp.outer(a1, by_a * slope)

    direct, first, second = forms(params[2].weight)
    return {"(3) − first form": difference(direct, first), "(3) − second form": difference(direct, second)}


@claim(
    "A3.7",
    "Per-element loops of equation (5) give autodiff's gradients.",
    HOLDS,
    {"loops − autodiff, relative": at_most(1e-13), "loops − library, relative": at_most(1e-13)},
    equation="(5)",
)
def per_element(key):
    params, x, targets = problem(key)
    loops = gradients_by_element(params, x, targets)
    return {
        "loops − autodiff, relative": relative_difference(list(by_library("autodiff", params, x, targets)), loops),
        "loops − library, relative": relative_difference(list(by_library("delta", params, x, targets)), loops),
    }


@claim(
    "A3.8",
    "The error signal δ = ∂C/∂z obeys a recurrence from the last layer to the first.",
    HOLDS,
    {"recurrence − ∂C/∂z by autodiff": at_most(1e-14), "recurrence − jb.deltas": at_most(1e-14)},
    equation="(6)-(8)",
)
def recurrence(key):
    params, x, targets = problem(key)
    loops = [
        np.array(layer_deltas) / len(x)
        for layer_deltas in zip(
            *(deltas_by_element(params, forward_by_element(params, s)[1], t) for s, t in zip(x, targets))
        )
    ]

    @once
    def autodiff(params, x, targets):
        def cost(added):
            a = jnp.tanh(x @ params[0].weight + params[0].bias + added[0])
            a = jax.nn.sigmoid(a @ params[2].weight + params[2].bias + added[1])
            return jnp.mean((a @ params[4].weight + params[4].bias + added[2] - targets) ** 2)

        return jax.grad(cost)([jnp.zeros((5, n)) for n in (4, 3, 2)])

    of_library = jb.deltas(NETWORK, mean_squared_error)(params, x, targets)
    return {
        "recurrence − ∂C/∂z by autodiff": difference(loops, autodiff(params, x, targets)),
        "recurrence − jb.deltas": difference(loops, [of_library[path] for path in ("0", "2", "4")]),
    }


@claim(
    "A3.9",
    "At the last layer δ = ∂C/∂a σ′(z) for an elementwise σ; softmax couples the units and needs the whole Jacobian.",
    CONDITIONAL,
    {
        "squared error, sigmoid output": at_most(1e-15),
        "binary cross-entropy, sigmoid output: δ − (p − t)/N": at_most(1e-15),
        "cross-entropy, softmax output: δ − (p − t)/N": at_most(1e-15),
        "cross-entropy, softmax, elementwise formula − truth": above(0.01),
        "library's δ of all three − autodiff": at_most(1e-15),
    },
    article="Written for an elementwise activation only.",
    equation="(9), 4.2",
)
def last_layer(key):
    rng = generator(key)
    z, t = rng.standard_normal((5, 3)), rng.uniform(0.1, 0.9, (5, 3))
    classes = np.eye(3)[rng.integers(0, 3, 5)]

    @once
    def autodiff(z):
        def binary(z):
            p = jax.nn.sigmoid(z)
            return -jnp.sum(t * jnp.log(p) + (1 - t) * jnp.log(1 - p)) / 5

        return (
            jax.grad(lambda z: jnp.mean((jax.nn.sigmoid(z) - t) ** 2))(z),
            jax.grad(binary)(z),
            jax.grad(lambda z: -jnp.sum(classes * jax.nn.log_softmax(z)) / 5)(z),
        )

    squared, binary, categorical = autodiff(z)
    a, kept = sigmoid.forward((), jnp.asarray(z))
    _, squared_kept = mean_squared_error.forward(a, jnp.asarray(t))
    _, binary_kept = binary_cross_entropy.forward(jnp.asarray(z), jnp.asarray(t))
    _, classes_kept = cross_entropy.forward(jnp.asarray(z), jnp.asarray(classes))
    library = (
        sigmoid.backward(kept, mean_squared_error.backward(squared_kept))[1],
        binary_cross_entropy.backward(binary_kept),
        cross_entropy.backward(classes_kept),
    )
    p = 1 / (1 + np.exp(-z))
    soft = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return {
        "squared error, sigmoid output": difference(squared, 2 / 15 * (p - t) * p * (1 - p)),
        "binary cross-entropy, sigmoid output: δ − (p − t)/N": difference(binary, (p - t) / 5),
        "cross-entropy, softmax output: δ − (p − t)/N": difference(categorical, (soft - classes) / 5),
        "library's δ of all three − autodiff": difference(library, (squared, binary, categorical)),
        "cross-entropy, softmax, elementwise formula − truth": difference(
            categorical, -classes / soft / 5 * soft * (1 - soft)
        ),
    }


@claim(
    "A3.10",
    "The weight gradient is the error signal times the incoming activation, and the update subtracts α times it.",
    HOLDS,
    {"∂C/∂w − δ a, per sample": at_most(1e-15), "w after a step − (w − α δ a)": at_most(1e-15)},
    equation="(10), (11)",
)
def weight_gradient(key):
    params, x, targets = problem(key, n=1)
    _, a = forward_by_element(params, x[0])
    delta = deltas_by_element(params, a, targets[0])
    grads = by_library("delta", params, x, targets)
    updates, _ = optax.sgd(0.3).update(grads, optax.sgd(0.3).init(grads))
    stepped: Any = optax.apply_updates(params[::2], updates)
    return {
        "∂C/∂w − δ a, per sample": difference([g.weight for g in grads], [np.outer(a[l], delta[l]) for l in range(3)]),
        "w after a step − (w − α δ a)": difference(
            [p.weight for p in stepped], [params[2 * l].weight - 0.3 * np.outer(a[l], delta[l]) for l in range(3)]
        ),
    }


@claim(
    "A3.11",
    "The bias gradient is the error signal itself, because ∂z/∂b = 1; the update subtracts α δ.",
    HOLDS,
    {
        "∂C/∂b − δ of the library, per sample": exactly(0.0),
        "∂C/∂b − δ by loops": at_most(1e-15),
        "b after a step − (b − α δ)": at_most(1e-15),
        "central differences − gradient, over the largest entry": at_most(1e-7),
    },
    equation="(12)-(15)",
)
def bias_gradient(key):
    params, x, targets = problem(key, n=1)
    grads = by_library("delta", params, x, targets)
    of_library = jb.deltas(NETWORK, mean_squared_error)(params, x, targets)
    loops = deltas_by_element(params, forward_by_element(params, x[0])[1], targets[0])
    updates, _ = optax.sgd(0.3).update(grads, optax.sgd(0.3).init(grads))
    stepped: Any = optax.apply_updates(params[::2], updates)

    batch, rows, wanted = problem(jax.random.fold_in(key, 1))
    leaves, treedef = jax.tree.flatten(batch)
    sizes = [leaf.size for leaf in leaves]
    flat = np.concatenate([leaf.ravel() for leaf in leaves])

    @once
    def costs(points):
        def cost(point):
            parts = jnp.split(point, np.cumsum(sizes)[:-1])
            p = treedef.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)])
            return jnp.mean((predict(NETWORK, p, rows) - wanted) ** 2)

        return jax.vmap(cost)(points)

    h = 1e-5 * np.eye(flat.size)
    central = np.asarray(costs(flat + h) - costs(flat - h)) / 2e-5
    exact = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(by_library("delta", batch, rows, wanted))])
    return {
        "∂C/∂b − δ of the library, per sample": difference(
            [g.bias for g in grads], [of_library[path][0] for path in ("0", "2", "4")]
        ),
        "∂C/∂b − δ by loops": difference([g.bias for g in grads], loops),
        "b after a step − (b − α δ)": difference(
            [p.bias for p in stepped], [params[2 * l].bias - 0.3 * loops[l] for l in range(3)]
        ),
        "central differences − gradient, over the largest entry": np.abs(central - exact) / np.max(np.abs(exact)),
    }


@claim(
    "A3.12",
    "The weight gradient carries the input activation, the bias gradient does not: at x = 0, dW = 0 and db = δ ≠ 0.",
    HOLDS,
    {"dW¹ at x = 0": exactly(0.0), "smallest |db¹| at x = 0": above(1e-4), "db¹ − Σδ": at_most(1e-16)},
    equation="(10), (14)",
)
def zero_input(key):
    params, x, targets = problem(key)
    first = by_library("delta", params, 0 * x, targets)[0]
    delta = np.asarray(jb.deltas(NETWORK, mean_squared_error)(params, 0 * x, targets)["0"])
    return {
        "dW¹ at x = 0": first.weight,
        "smallest |db¹| at x = 0": np.min(np.abs(first.bias)),
        "db¹ − Σδ": np.max(np.abs(first.bias - delta.sum(0))),
    }
