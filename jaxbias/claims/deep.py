"""Training at depths 2 to 30: the sweep behind the claims on initialisation and on biases in deep networks."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbias as jb
from jaxbias.claims import experiments
from jaxbias.claims._tools import affine, predict
from jaxbias.layers import dense, relu
from jaxbias.losses import mean_squared_error
from jaxbias.params import Layer, Params
from jaxbias.train import Sweep, sweep

DEPTHS = (2, 5, 10, 20, 30)
WIDTH = 16
STARTS = {
    "zeros": lambda fan_in, fan_out: 0.0,
    "normal": lambda fan_in, fan_out: 1.0,
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
}
"""Name → standard deviation of the normal weights."""
TOGETHER = 100
"""Networks that train side by side: of so small ones a step costs hardly more than of one."""


def repeated(layer: Layer, times: int) -> Layer:
    """`times` copies of a layer whose output has the shape of its input, one after another.

    Their params are stacked and scanned over, which compiles in the same time at every depth.
    """

    def init(key, x):
        return jax.vmap(lambda k: layer.init(k, x))(jax.random.split(key, times))

    def forward(params, x):
        return jax.lax.scan(lambda a, p: layer.forward(p, a), x, params)

    def backward(residuals, delta):
        delta_x, grads = jax.lax.scan(lambda d, r: layer.backward(r, d)[::-1], delta, residuals, reverse=True)
        return grads, delta_x

    return Layer(init, forward, backward, name="repeated")


def network(depth: int) -> Layer:
    """1-16-…-16-1 with `depth` hidden ReLU layers."""
    hidden = jb.chain(dense.layer(WIDTH), relu)
    return jb.chain(hidden, repeated(hidden, depth - 1), dense.layer(1))


def start(depth: int, deviation: Callable[[int, int], float]) -> Callable[[Any, Any], Any]:
    """`(key, x) -> params` of `network(depth)` with zero biases.

    The weights of one key are the same draws for every start, scaled: a paired comparison, and one draw to compile.
    """

    def init(key, x):
        draws = jax.random.normal(key, (2 * WIDTH + (depth - 1) * WIDTH**2,), x.dtype)
        first, inner, last = draws[:WIDTH], draws[WIDTH:-WIDTH], draws[-WIDTH:]
        bias = jnp.zeros((depth, WIDTH), x.dtype)
        return (
            (Params(deviation(1, WIDTH) * first[None], bias[0]), ()),
            (Params(deviation(WIDTH, WIDTH) * inner.reshape(-1, WIDTH, WIDTH), bias[1:]), ()),
            Params(deviation(WIDTH, 1) * last[:, None], jnp.zeros(1, x.dtype)),
        )

    return init


def even(points: int) -> tuple[np.ndarray, np.ndarray]:
    """|x| + 1/2 at `points` points of [−1, 1], float32: an offset, and a part that a bias-free ReLU net can fit."""
    x = np.linspace(-1, 1, points, dtype=np.float32)[:, None]
    return x, np.abs(x) + np.float32(0.5)


TRAINING, TEST = even(16), even(61)
VARIANCE = float(np.var(TRAINING[1]))


def trained(key: Any, depth: int) -> Sweep:
    """Starts × bias on/off × 100 seeds, 100 full-batch steps of Adam; computed once for each key and depth."""
    return _trained(tuple(np.ravel(jax.random.key_data(key)).tolist()), depth)


@experiments.computed_once
def _trained(key_data: tuple[int, ...], depth: int) -> Sweep:
    key = jax.random.wrap_key_data(jnp.asarray(key_data, jnp.uint32))
    return _sweep(key, depth, optax.adam(3e-3), STARTS, (True, False))


def trained_by_sgd(key: Any, depth: int) -> Sweep:
    """Xavier and He × 100 seeds, with biases, 100 full-batch steps of SGD."""
    return _sweep(key, depth, optax.sgd(0.05), {name: STARTS[name] for name in ("xavier", "he")}, (True,))


def _sweep(key: Any, depth: int, optimizer: Any, starts: dict[str, Any], use_bias: tuple[bool, ...]) -> Sweep:
    return sweep(
        network(depth), mean_squared_error, TRAINING, optimizer, keys=experiments.keys(key),
        inits={name: start(depth, deviation) for name, deviation in starts.items()}, use_bias=use_bias, epochs=100,
        batch_size=16, validation=TEST, together=TOGETHER, chunk=2 * TOGETHER,
    )  # fmt: skip


def finals(swept: Sweep, start: str, use_bias: bool = True, name: str = "loss") -> np.ndarray:
    """(seeds,) final loss over Var y; one that overflowed counts as the largest float32."""
    place = swept.axes["init"].index(start), swept.axes["use_bias"].index(use_bias)
    return np.nan_to_num(swept.final(name)[place] / VARIANCE, nan=np.inf).clip(max=3e38)


def best_without_bias() -> tuple[float, float]:
    """u = d and the least loss over Var y of u relu(x) + d relu(−x), which every bias-free ReLU net of one input is."""
    x, y = np.abs(TRAINING[0]).astype(np.float64), TRAINING[1].astype(np.float64)
    slope = float(np.sum(x * y) / np.sum(x * x))
    return slope, float(np.mean((slope * x - y) ** 2) / VARIANCE)


def best_network(depth: int, slope: float, bias: float) -> float:
    """Loss over Var y of slope |x| + bias as a network of this depth: relu(x) and relu(−x), handed on to the output."""
    shapes = jax.eval_shape(network(depth).init, jax.random.key(0), jnp.zeros((1, 1)))
    params: Any = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    params[0][0].weight[0, :2] = 1, -1
    params[1][0].weight[:] = np.eye(WIDTH)
    params[2].weight[:2, 0] = slope
    last = affine(params[2].weight, np.full(1, bias))
    out = predict(network(depth), jax.tree.map(jnp.asarray, (*params[:2], last)), jnp.asarray(TRAINING[0], jnp.float64))
    return float(np.mean((np.asarray(out) - TRAINING[1]) ** 2) / VARIANCE)
