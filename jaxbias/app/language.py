"""A language model of characters: bits per character, what n-grams reach, and text drawn from it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxbias._numerics import widen
from jaxbias.data import Data
from jaxbias.params import Layer, Tree, inference, init_state, run_forward

EPOCHS, BATCH_SIZE = 4, 16
LARGEST_ORDER = 6
"""Of the n-grams that the best is chosen from."""


def default_network(classes: int) -> str:
    """Two pre-norm transformer blocks of width 64."""
    block = "transformer:4x16x128:causal=true:rotary=half"
    return f"embedding:64,{block},{block},layer_norm,dense:{classes}"


def bits(out: Float[Array, "n t k"], targets: Int[Array, "n t"]) -> Float[Array, ""]:
    """−log₂ of the probability of each next character, the mean of all."""
    log_p = jax.nn.log_softmax(widen(out), axis=-1)
    return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean(dtype=jnp.float32) / np.float32(np.log(2))


def check_causal(network: Layer, params: Tree, rows: np.ndarray, classes: int, spec: str) -> None:
    """Raise a ValueError where an output depends on a later character: such a model reads the answer.

    Args:
        rows: (1, context) characters.
    """
    quiet = inference(network)
    state = init_state(network, jax.random.key(0), rows)
    run = jax.jit(lambda x: run_forward(quiet, params, x, state)[0][0, :-1])
    changed = rows.copy()
    changed[0, -1] = (changed[0, -1] + 1) % classes
    before, after = np.asarray(run(rows)), np.asarray(run(changed))
    if np.abs(after - before).max(initial=0) > 1e-4 * np.abs(before).max(initial=0):
        raise ValueError(
            f"network: {spec!r} sees the characters that it is to predict: its outputs change with a later input. Give "
            f"attention causal=true, and run a recurrent layer in one direction."
        )


def n_gram_bits(
    train: Int[np.ndarray, " n"], test: Int[np.ndarray, " m"], classes: int, largest: int = LARGEST_ORDER
) -> list[float]:
    """Bits per character of n-grams counted in `train`, of orders 1 to `largest`, on `test`.

    With c(h, x) how often x follows h, the n − 1 characters before, c(h) their sum over x and d(h) how many different x
    there are, and h′ = h without its first character:

        p(x | h) = (c(h, x) + d(h) p(x | h′)) / (c(h) + d(h)),      p(x | h′) where h never occurs

    down to 1/classes. Source: I. Witten and T. Bell, The zero-frequency problem (1991), method C, interpolated.
    """
    p = np.full(len(test), 1 / classes)
    reached = []
    for length in range(largest):
        seen, asked = _histories(train, length, classes), _histories(test, length, classes)
        pairs, of_pair = np.unique(seen * classes + train[length:], return_counts=True)
        histories, first, different = np.unique(pairs // classes, return_index=True, return_counts=True)
        of_history = np.add.reduceat(of_pair, first)
        both = _looked_up(asked * classes + test[length:], pairs, of_pair)
        alone, kinds = _looked_up(asked, histories, of_history), _looked_up(asked, histories, different)
        shorter = p[length:]
        longer = np.where(alone > 0, (both + kinds * shorter) / np.maximum(alone + kinds, 1), shorter)
        p = np.concatenate([p[:length], longer])  # the first characters have no history of this length
        reached.append(float(-np.log2(p).mean()))
    return reached


def _histories(stream: np.ndarray, length: int, classes: int) -> np.ndarray:
    """The `length` characters before each from place `length` on, as one number."""
    numbers = np.zeros(len(stream) - length, np.int64)
    for back in range(length):
        numbers = numbers * classes + stream[back : len(stream) - length + back]
    return numbers


def _looked_up(keys: np.ndarray, table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of keys in a sorted table, 0 for those that are not there."""
    places = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[places] == keys, values[places], 0)


def measured(data: Data, reached: float) -> str:
    """Bits per held-out character beside those of the best n-gram, which may look past the beginning of a row."""
    orders = n_gram_bits(data.x_train.reshape(-1), data.x_test.reshape(-1), len(data.labels))
    best = int(np.argmin(orders))
    return f"{reached:.3f} bits per held-out character ({best + 1}-grams: {orders[best]:.3f})"


def sample(network: Layer, params: Tree, state: Any, data: Data, count: int, seed: int) -> tuple[str, str]:
    """The held-out characters that a sample continues, and `count` characters drawn from the network, one by one."""
    quiet = inference(network)
    start = jnp.asarray(data.x_test[0])

    @jax.jit
    def drawn(params: Tree, start: Array, key: Array) -> Array:
        def step(window: Array, key: Array) -> tuple[Array, Array]:
            logits = run_forward(quiet, params, window[None], state)[0][0, -1]
            character = jax.random.categorical(key, logits).astype(window.dtype)
            return jnp.append(window[1:], character), character

        return jax.lax.scan(step, start, jax.random.split(key, count))[1]

    text = lambda characters: "".join(data.labels[i] for i in characters.tolist())
    return text(data.x_test[0]), text(np.asarray(drawn(params, start, jax.random.key(seed))))
