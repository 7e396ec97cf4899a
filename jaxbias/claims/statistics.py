"""Experiments over many seeds: what biases and initialisations change, with its spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.layers import dense, relu, tanh
from jaxbias.losses import binary_cross_entropy, mean_squared_error
from jaxbias.train import sweep

SEEDS = 100


@functools.cache
def offset_curves() -> dict[str, dict[bool, np.ndarray]]:
    """Title → use_bias → training loss (seeds, epochs) of 1-8-1 tanh nets on a sine with and without an offset."""
    x = np.linspace(-2, 2, 32, dtype=np.float32)[:, None]
    network = jb.chain(dense.layer(8, weight_init="xavier_normal"), tanh, dense.layer(1, weight_init="xavier_normal"))
    found = {}
    for title, offset in (("target sin 2x + 1: an offset", 1.0), ("target sin 2x: none, and odd", 0.0)):
        y = np.sin(2 * x) + np.float32(offset)
        result = sweep(
            network, mean_squared_error, (x, y), optax.adam(0.02), keys=jax.random.split(jax.random.key(0), SEEDS),
            epochs=200, batch_size=32,
        )  # fmt: skip
        losses = result.results["loss"]
        found[title] = {True: losses[0, 0], False: losses[0, 1]}
    return found


def two_classes(rng: np.random.Generator, n: int = 60):
    """Two normal classes on one side of the origin: x (2n, 2) and labels 0 and 1."""
    centres = np.array([[1.0, 1.2], [2.6, 2.4]])
    x = np.concatenate([centre + 0.45 * rng.standard_normal((n, 2)) for centre in centres])
    return x.astype(np.float32), np.repeat([0, 1], n)


def boundaries():
    """Data, labels, a grid, and the probability of class 1 over it: logistic and ReLU, without and with biases."""
    x, labels = two_classes(np.random.default_rng(3))
    axis = np.linspace(-1.5, 4.5, 121, dtype=np.float32)
    grid = np.meshgrid(axis, axis)
    points = jnp.asarray(np.stack([each.ravel() for each in grid], axis=1))
    targets = labels[:, None].astype(np.float32)
    probabilities = {}
    for name, layers in (("logistic", lambda on: (dense.layer(1, use_bias=on),)),
                         ("ReLU net", lambda on: (dense.layer(16, use_bias=on, weight_init="he_normal"), relu,
                                                  dense.layer(1, use_bias=on)))):  # fmt: skip
        for on in (False, True):
            network = jb.chain(*layers(on))
            params = network.init(jax.random.key(1), points[:1])
            fitted = jb.train.fit(
                network, binary_cross_entropy, params, (x, targets), optax.adam(0.05), epochs=300, batch_size=120,
                key=jax.random.key(2),
            )  # fmt: skip
            logits = network.forward(fitted.params, points)[0][:, 0]
            title = f"{name}, {'with' if on else 'no'} bias"
            probabilities[title] = np.asarray(jax.nn.sigmoid(logits)).reshape(grid[0].shape)
    return x, labels, grid, probabilities


def nearest(grid, values, x):
    """The grid's value nearest to each row of x."""
    axis = grid[0][0]
    column, row = (np.abs(axis[:, None] - x[:, i]).argmin(axis=0) for i in (0, 1))
    return values[row, column]
