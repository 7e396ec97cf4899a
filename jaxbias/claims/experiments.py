"""Training over many seeds: the data and the compiled programs behind the statistical claims and their figures."""

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims._tools import scan
from jaxbias.layers import dense, relu, tanh
from jaxbias.losses import binary_cross_entropy, mean_squared_error
from jaxbias.train import Sweep, sweep

SEEDS = 100


def computed_once(f):
    """`functools.cache` for functions that several threads ask at once."""
    cached, lock = functools.cache(f), threading.Lock()

    @functools.wraps(f)
    def locked(*args):
        with lock:
            return cached(*args)

    return locked


def keys(key: Any) -> Any:
    """One key for each seed."""
    return jax.random.split(key, SEEDS)


def sine(offset: float | int) -> tuple[np.ndarray, np.ndarray]:
    """sin 2x + offset at 32 points of [−2, 2], float32."""
    x = np.linspace(-2, 2, 32, dtype=np.float32)[:, None]
    return x, np.sin(2 * x) + np.float32(offset)


def tanh_net() -> Any:
    """1-8-1 with tanh, Xavier weights."""
    return jb.chain(dense.layer(8, weight_init="xavier_normal"), tanh, dense.layer(1, weight_init="xavier_normal"))


def with_and_without(key: Any, offset: float | int, optimizer: Any = None, epochs: int = 200) -> Sweep:
    """Seeds × bias on/off of the tanh net on the sine; full-batch Adam by default."""
    optimizer = optimizer or optax.adam(0.02)
    return sweep(tanh_net(), mean_squared_error, sine(offset), optimizer, keys=keys(key), epochs=epochs, batch_size=32)


@computed_once
def offset_curves() -> dict[str, dict[bool, np.ndarray]]:
    """Title → use_bias → training loss (seeds, epochs): target with and without an offset."""
    curves = {}
    for title, offset in (("target sin 2x + 1: an offset", 1), ("target sin 2x: none, and odd", 0)):
        losses = with_and_without(jax.random.key(0), offset).results["loss"]
        curves[title] = {True: losses[0, 0], False: losses[0, 1]}
    return curves


def two_classes(rng: np.random.Generator, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Two normal classes on one side of the origin: x (2n, 2) and labels 0 and 1."""
    centres = np.array([[1.0, 1.2], [2.6, 2.4]])
    x = np.concatenate([centre + 0.45 * rng.standard_normal((n, 2)) for centre in centres])
    return x.astype(np.float32), np.repeat([0, 1], n)


@computed_once
def boundaries() -> tuple[Any, Any, Any, Any]:
    """Data, labels, a grid, and the probability of class 1 over it: logistic and ReLU, without and with biases."""
    x, labels = two_classes(np.random.default_rng(3))
    axis = np.linspace(-1.5, 4.5, 121, dtype=np.float32)
    grid = np.meshgrid(axis, axis)
    points = jnp.asarray(np.stack([coordinate.ravel() for coordinate in grid], axis=1))
    targets = labels[:, None].astype(np.float32)
    networks = {
        "logistic": lambda on: (dense.layer(1, use_bias=on),),
        "ReLU net": lambda on: (
            dense.layer(16, use_bias=on, weight_init="he_normal"), relu, dense.layer(1, use_bias=on)
        ),
    }  # fmt: skip
    probabilities = {}
    for name, layers in networks.items():
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


def nearest(grid: Any, values: Any, x: Any) -> Any:
    """The grid's value nearest to each row of x."""
    axis = grid[0][0]
    column, row = (np.abs(axis[:, None] - x[:, i]).argmin(axis=0) for i in (0, 1))
    return values[row, column]


PENALTIES = {"none": (0, 0, 0), "L2": (0.02, 0, 0), "L1": (0, 0.02, 0), "dropout": (0, 0, 0.4)}
"""Name → (λ of L2, λ of L1, dropout rate)."""


def regularized(key: Any) -> tuple[np.ndarray, np.ndarray]:
    """Training and test MSE, (penalties, seeds): 5-32-1 ReLU nets on 24 noisy rows each, 400 steps of Adam."""
    optimizer = optax.adam(0.01)

    def member(key, settings):
        l2, l1, rate = settings
        data_key, init_key, mask_key = jax.random.split(key, 3)
        x = jax.random.normal(data_key, (24 + 200, 5), jnp.float32)
        noise = jax.random.normal(jax.random.fold_in(data_key, 1), (224, 1), jnp.float32)
        y = x[:, :1] - jnp.abs(x[:, 1:2]) + 1 + 0.7 * noise
        network = jb.chain(dense.layer(32, weight_init="he_normal"), relu, dense.layer(1, weight_init="he_normal"))
        params: Any = network.init(init_key, x[:1])

        def out(p, x, mask):
            hidden = jax.nn.relu(x @ p[0].weight + p[0].bias) * mask
            return hidden @ p[2].weight + p[2].bias

        def cost(p, mask):
            weights = p[0].weight, p[2].weight
            penalty = sum(l2 * jnp.sum(w * w) + l1 * jnp.sum(jnp.abs(w)) for w in weights)
            return jnp.mean((out(p, x[:24], mask) - y[:24]) ** 2) + penalty

        def step(carry, i):
            p, state = carry
            keep = jax.random.uniform(jax.random.fold_in(mask_key, i), (24, 32), jnp.float32) >= rate
            grads = jax.grad(cost)(p, keep.astype(jnp.float32) / (1 - rate))
            updates, state = optimizer.update(grads, state, p)
            return (optax.apply_updates(p, updates), state), None

        carry: Any = (params, optimizer.init(params))
        (params, _), _ = scan(step, carry, jnp.arange(400))
        errors = (out(params, x, jnp.float32(1)) - y) ** 2
        return errors[:24].mean(), errors[24:].mean()

    settings = jnp.asarray(list(PENALTIES.values()), jnp.float32)
    run = jax.jit(jax.vmap(jax.vmap(member, (0, None)), (None, 0)))
    train, test = run(keys(key), settings)
    return np.asarray(train), np.asarray(test)


def digits_with_and_without(key: Any) -> tuple[np.ndarray, np.ndarray]:
    """Test accuracy and log-loss, (bias on and off, splits): logistic regression on the 8×8 digits, 1200 / 597 rows."""
    from sklearn.datasets import load_digits

    held: Any = load_digits()
    x, labels = jnp.asarray(held.data / 16, jnp.float32), jnp.asarray(held.target, jnp.int32)
    optimizer = optax.adam(0.02)

    def member(key_data):
        split_key, order_key = jax.random.split(jax.random.wrap_key_data(key_data))
        order = jax.random.permutation(split_key, len(x))
        rows, test = order[:1200], order[1200:]

        def run(on):
            def cost(p, batch):
                logits = x[batch] @ p[0] + on * p[1]
                return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[batch, None], axis=1))

            def step(carry, batch):
                p, state = carry
                updates, state = optimizer.update(jax.grad(cost)(p, batch), state)
                return (optax.apply_updates(p, updates), state), None

            def epoch(carry, i):
                shuffled = jax.random.permutation(jax.random.fold_in(order_key, i), rows)
                return jax.lax.scan(step, carry, shuffled.reshape(12, 100))[0], None

            start: Any = (jnp.zeros((64, 10), jnp.float32), jnp.zeros(10, jnp.float32))
            (p, _), _ = scan(epoch, (start, optimizer.init(start)), jnp.arange(25))
            right = jnp.argmax(x[test] @ p[0] + on * p[1], axis=1) == labels[test]
            return right.mean(dtype=jnp.float32), cost(p, test)

        return jax.lax.map(run, jnp.array([1, 0], jnp.float32))

    accuracy, log_loss = jax.jit(lambda key_data: jax.lax.map(member, key_data))(jax.random.key_data(keys(key)))
    return np.asarray(accuracy).T, np.asarray(log_loss).T


BIAS_STARTS = ("zeros", "constant 0.5", "normal(1)", "positive 0.1", "log prior")


def bias_starts(key: Any, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First training loss, training loss after 20 steps, and final test loss, (bias starts, seeds).

    2-16-1 ReLU nets with He weights on two overlapping classes, `share` of the rows in class 1; 200 steps of Adam.
    The start is that of the hidden biases; "log prior" is zero there and log(p/(1 − p)) at the output. Every seed has
    data of its own; `sweep`, whose members share their data, does not do that.
    """
    network = jb.chain(dense.layer(16, weight_init="he_normal"), relu, dense.layer(1, weight_init="he_normal"))
    gradient = jb.value_and_grad(network, binary_cross_entropy)
    optimizer = optax.adam(0.01)
    n, held_out = 200, 400

    def member(key, kind):
        data_key, init_key, bias_key = jax.random.split(key, 3)
        labels = (jnp.arange(n + held_out) % 100 < 100 * share).astype(jnp.float32)[:, None]
        x = jax.random.normal(data_key, (n + held_out, 2), jnp.float32) + 1.5 * labels
        params: Any = network.init(init_key, x[:1])
        normal = jax.random.normal(bias_key, (16,), jnp.float32)
        zero = jnp.zeros(16, jnp.float32)
        hidden = jnp.stack([zero, zero + 0.5, normal, zero + 0.1, zero])[kind]
        prior = jnp.where(kind == 4, jnp.log(share / (1 - share)), 0.0).astype(jnp.float32)
        params = (params[0]._replace(bias=hidden), (), params[2]._replace(bias=prior[None]))

        def step(carry, _):
            p, state = carry
            value, grads = gradient(p, x[:n], labels[:n])
            updates, state = optimizer.update(grads, state, p)
            return (optax.apply_updates(p, updates), state), value

        carry: Any = (params, optimizer.init(params))
        (params, _), losses = scan(step, carry, length=200)
        test, _ = binary_cross_entropy.forward(network.forward(params, x[n:])[0], labels[n:])
        return losses[0], losses[20], test

    run = jax.jit(jax.vmap(jax.vmap(member, (0, None)), (None, 0)))
    first, early, test = run(keys(key), jnp.arange(len(BIAS_STARTS)))
    return np.asarray(first), np.asarray(early), np.asarray(test)
