"""What autodiff cannot derive: layers whose backward is written with another memory than that of autodiff.

Beside each stands the plain form, as one writes it where autodiff is to differentiate it. Scratch and kept bytes are
asserted in the tests of the layers; here are the times.
"""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.sized import Sized
from jaxbias import layers


def softmax_attention(p, x):
    """Causal attention with all its scores."""
    q, k, v = (
        jnp.einsum("nte,ehd->nhtd", x, part.weight) + part.bias[None, :, None] for part in (p.query, p.key, p.value)
    )
    scores = jnp.einsum("nhtd,nhsd->nhts", q, k) / q.shape[-1] ** 0.5
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    o = jnp.einsum("nhts,nhsd->nhtd", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), v)
    return jnp.einsum("nhtd,hdf->ntf", o, p.out.weight) + p.out.bias[None, None]


def all_logits(p, h_and_labels):
    """A dense layer, and the mean cross-entropy of all its logits."""
    h, labels = h_and_labels
    log_p = jax.nn.log_softmax(h @ p.weight + p.bias[None, :])
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()


def scanned_lstm(p, x):
    """The cell step by step."""
    z_input = jnp.swapaxes(x, 0, 1) @ p.input.weight + p.input.bias[None, None]

    def step(state, z):
        h, c = state
        i, f, g, o = jnp.split(z + h @ p.hidden.weight, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[0], p.hidden.weight.shape[0]), x.dtype)
    return jnp.swapaxes(jax.lax.scan(step, (zero, zero), z_input)[1], 0, 1)


def one_scan(p, x):
    """The selective state-space model with all its states."""
    tau, b, c = (x @ part.weight + part.bias[None, None] for part in (p.time_step, p.input, p.output))
    tau = jax.nn.softplus(tau)
    a_bar = jnp.exp(tau[..., None] * -jnp.exp(p.decay)[None, None])
    two = lambda step, then: (step[0] * then[0], then[0] * step[1] + then[1])
    h = jax.lax.associative_scan(two, (a_bar, (tau * x)[..., None] * b[:, :, None]), axis=1)[1]
    return jnp.sum(h * c[:, :, None], axis=-1) + x * p.skip[None, None]


def swiglu(p, x):
    gate, up = (x @ part.weight + part.bias[None] for part in (p.gate, p.up))
    return (jax.nn.silu(gate) * up) @ p.down.weight + p.down.bias[None]


def _rows_and_labels(rows: int, classes: int):
    def draw(key: Any, dtype: Any) -> tuple[Any, Any]:
        return jax.random.normal(key, (rows, 128), dtype), jax.random.randint(key, (rows,), 0, classes)

    return draw


def _attention(steps: int, quick: int | None = None):
    layer = layers.attention.layer(4, 64, causal=True)
    smaller = (1, quick, 256) if quick else None
    return Sized(layer, (1, steps, 256), smaller, {"softmax of all scores": softmax_attention}, scale=0.06)


CLASSES = 32_768
LONG = {
    "attention": lambda: _attention(512),
    "attention, longer": lambda: _attention(1024, 512),
    "attention, long": lambda: _attention(4096, 512),
    "linear_cross_entropy": lambda: Sized(
        layers.linear_cross_entropy.layer(CLASSES), _rows_and_labels(2048, CLASSES), _rows_and_labels(256, CLASSES),
        {"all logits": all_logits}, scale=0.1,
    ),
    "lstm": lambda: Sized(
        layers.lstm.layer(128), (8, 512, 64), None, {"lax.scan": scanned_lstm},
        flops=3 * 2 * 8 * 512 * 4 * 128 * 192, scale=0.1,
    ),
    "ssm": lambda: Sized(
        layers.ssm.layer(16), (2, 4096, 32), (2, 512, 32), {"one associative scan": one_scan}, scale=0.3
    ),
    "glu": lambda: Sized(
        layers.glu.layer(1024, gate="silu"), (1024, 256), (256, 256), {"three products": swiglu}, scale=0.1
    ),
}  # fmt: skip
"""Sizes, by derivation."""
