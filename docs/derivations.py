"""Write docs/derivations.md, ten functions as `jb.derive` derives them: `python -m docs.derivations`."""

import inspect
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax

import jaxbias as jb

PAGE = Path(__file__).with_name("derivations.md")
HEAD = """\
# Ten derivations, as they are printed

<!-- This page is written by `python -m docs.derivations`: change the functions there, then run it. -->

Each function stands as its author wrote it; below it what `print(jb.derive(function, args))` prints. The left column is
the forward, from the top down. The right column is the backward pass, read from below: beside each value its error
signal, `d_z` for ∂L/∂z, and beside each argument its gradient. `.code` holds the same as a module that runs without
this library, `.latex` as mathematics, and `.function` as a `jax.custom_vjp`. What is printed has passed `jb.verify`.
The backward of a loop is a loop from the last pass to the first; what a pass has to know of its forward, the forward
stacks.
"""


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def whole(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def dense(W, b, x):
    z = x @ W + b
    a = jnp.tanh(z)
    return a


def layer_norm(gamma, beta, x):
    mu = x.mean(axis=-1, keepdims=True)
    xc = x - mu
    var = (xc * xc).mean(axis=-1, keepdims=True)
    r = lax.rsqrt(var + 1e-5)
    xhat = xc * r
    return gamma * xhat + beta


def rms_norm(x, scale):
    ms = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * lax.rsqrt(ms + 1e-6) * scale


def cross_entropy(logits, labels):
    logp = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logp, labels[:, None], axis=1).mean()


def attention(q, k, v):
    s = jnp.einsum("bhid,bhjd->bhij", q, k) / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(s, axis=-1)
    return jnp.einsum("bhij,bhjd->bhid", p, v)


def swiglu(Wg, Wu, Wd, x):
    gate = jax.nn.silu(x @ Wg)
    up = x @ Wu
    return (gate * up) @ Wd


def rnn(xs, W, U, b, h0):
    def step(h, x):
        h = jnp.tanh(x @ W + h @ U + b)
        return h, h

    _, hs = lax.scan(step, h0, xs)
    return hs


def lstm_cell(x, h, c, W, U, b):
    z = x @ W + h @ U + b
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h_new = jax.nn.sigmoid(o) * jnp.tanh(c_new)
    return h_new, c_new


def embedding(table, ids, positions):
    h = jnp.tanh(table[ids] + positions)
    return h @ table.T


def gaussian_likelihood(mu, log_var, y):
    return 0.5 * (log_var + (y - mu) ** 2 / jnp.exp(log_var)).sum()


EXAMPLES = (
    (dense, (floats(6, 5), floats(5), floats(4, 6))),
    (layer_norm, (floats(6), floats(6), floats(4, 6))),
    (rms_norm, (floats(4, 6), floats(6))),
    (cross_entropy, (floats(4, 5), whole(4))),
    (attention, (floats(2, 3, 4, 8), floats(2, 3, 5, 8), floats(2, 3, 5, 7))),
    (swiglu, (floats(6, 8), floats(6, 8), floats(8, 6), floats(4, 6))),
    (rnn, (floats(6, 4, 3), floats(3, 5), floats(5, 5), floats(5), floats(4, 5))),
    (lstm_cell, (floats(3, 4), floats(3, 5), floats(3, 5), floats(4, 20), floats(5, 20), floats(20))),
    (embedding, (floats(5, 3), whole(4), floats(4, 3))),
    (gaussian_likelihood, (floats(5), floats(5), floats(5))),
)


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for function, args in EXAMPLES:
        source = textwrap.dedent(inspect.getsource(function)).rstrip()
        shown = str(jb.derive(function, args))
        title = function.__name__.replace("_", " ").capitalize()
        parts.append(f"\n## {title}\n\n```python\n{source}\n```\n\n```text\n{shown}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
