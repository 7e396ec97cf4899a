"""What `jb.derive` writes, against autodiff of the same forward: time of value and gradients, and bytes kept.

A forward is derived once, at small sizes; what was written runs at all of them. Residual bytes are the compiler's: the
outputs of a program that hands the residuals out, less the output of the forward itself.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jaxbias as jb
from benchmarks.case import Case, Setting, run_cases
from benchmarks.record import Record
from benchmarks.timing import compile_apart

SUITE = "derived"


class Forward(NamedTuple):
    """A function, and the shapes of its arguments from n rows, d features and h hidden units."""

    function: Callable[..., Any]
    shapes: Callable[[int, int, int], tuple[tuple[int, ...], ...]]


def dense_tanh(W, b, x):
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


def batch_norm(x, gamma, beta):
    mu = x.mean(axis=0)
    var = ((x - mu) ** 2).mean(axis=0)
    xhat = (x - mu) / jnp.sqrt(var + 1e-5)
    return gamma * xhat + beta


def weight_norm(v, g, x):
    norm = jnp.sqrt((v * v).sum(axis=0))
    w = g * v / norm
    return x @ w


def swiglu(Wg, Wu, Wd, x):
    gate = jax.nn.silu(x @ Wg)
    up = x @ Wu
    return (gate * up) @ Wd


def gelu_mlp(W1, b1, W2, b2, x):
    h = jax.nn.gelu(x @ W1 + b1)
    return h @ W2 + b2


def attention(q, k, v):
    s = jnp.einsum("bid,bjd->bij", q, k) / jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(s, axis=-1)
    return jnp.einsum("bij,bjd->bid", p, v)


def softmax_cross_entropy(logits, targets):
    logp = jax.nn.log_softmax(logits)
    return -(targets * logp).sum(axis=-1).mean()


def contrastive(a, b):
    logits = a @ b.T
    return (jax.nn.logsumexp(logits, axis=1) - (a * b).sum(axis=-1)).mean()


def gaussian_likelihood(mu, log_var, y):
    return 0.5 * (log_var + (y - mu) ** 2 / jnp.exp(log_var)).sum()


def rnn(xs, U, h0):
    def step(h, x):
        h = jnp.tanh(x + h @ U)
        return h, h

    _, hs = lax.scan(step, h0, xs)
    return hs


def diagonal_recurrence(x, a, h0):
    def step(h, x_t):
        h = jax.nn.sigmoid(a) * h + x_t
        return h, jnp.tanh(h)

    _, y = lax.scan(step, h0, x)
    return y


FORWARDS = (
    Forward(dense_tanh, lambda n, d, h: ((d, h), (h,), (n, d))),
    Forward(layer_norm, lambda n, d, h: ((d,), (d,), (n, d))),
    Forward(rms_norm, lambda n, d, h: ((n, d), (d,))),
    Forward(batch_norm, lambda n, d, h: ((n, d), (d,), (d,))),
    Forward(weight_norm, lambda n, d, h: ((d, h), (h,), (n, d))),
    Forward(swiglu, lambda n, d, h: ((d, h), (d, h), (h, d), (n, d))),
    Forward(gelu_mlp, lambda n, d, h: ((d, h), (h,), (h, d), (d,), (n, d))),
    Forward(attention, lambda n, d, h: ((4, n, d), (4, n, d), (4, n, h))),
    Forward(softmax_cross_entropy, lambda n, d, h: ((n, d), (n, d))),
    Forward(contrastive, lambda n, d, h: ((n, d), (n, d))),
    Forward(gaussian_likelihood, lambda n, d, h: ((n, d), (n, d), (n, d))),
    Forward(rnn, lambda n, d, h: ((h, n, d), (d, d), (n, d))),
    Forward(diagonal_recurrence, lambda n, d, h: ((n, d), (d,), (d,))),
)
SIZES = {"tiny": (4, 6, 5), "quick": (256, 256, 64), "full": (1024, 1024, 256)}
TINY = (swiglu, rnn)
"""What the tests run, under strict promotion of ranks, which the code that is written does not keep to."""


@functools.cache
def derived(forward: Forward) -> jb.Derived:
    """What is written for it; in float64, so that its numbers have all digits."""
    with jax.enable_x64(True):
        args = tuple(jax.ShapeDtypeStruct(shape, jnp.float64) for shape in forward.shapes(*SIZES["tiny"]))
        return jb.derive(forward.function, args)


def _arguments(forward: Forward, sizes: Any, dtype: Any) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(3), 8)
    shapes = forward.shapes(sizes["n"], sizes["d"], sizes["h"])
    return tuple(jax.random.normal(key, shape, dtype) / shape[-1] ** 0.5 for key, shape in zip(keys, shapes))


def _build(forward: Forward):
    def build(sizes, dtype):
        args = _arguments(forward, sizes, dtype)
        out = jax.eval_shape(forward.function, *args)
        delta = jax.random.normal(jax.random.key(4), out.shape, dtype)

        def differentiated(function):
            def run(delta, *args):
                value, pull_back = jax.vjp(function, *args)
                return value, pull_back(delta)

            return run

        contenders = {
            "derived": differentiated(derived(forward).function),
            "autodiff": differentiated(forward.function),
        }
        return contenders, (delta, *args)

    return build


def _kept(forward: Forward):
    """Bytes that the compiler has a program hand out for the backward pass."""

    def kept(sizes, dtype):
        args = _arguments(forward, sizes, dtype)
        out = jax.eval_shape(forward.function, *args)
        functions = {"derived": derived(forward).function, "autodiff": forward.function}
        made = {name: compile_apart(lambda *a, f=f: jax.vjp(f, *a), *args) for name, f in functions.items()}
        return {
            name: program.output_bytes - out.size * out.dtype.itemsize
            for name, program in made.items()
            if program.output_bytes is not None
        }

    return kept


def cases(setting: Setting) -> Iterator[Case]:
    for forward in FORWARDS:
        if setting.scale == "tiny" and forward.function not in TINY:
            continue
        sizes, small = (dict(zip("ndh", SIZES[scale])) for scale in (setting.scale, "tiny"))
        name = forward.function.__name__.replace("_", " ")
        yield Case(
            SUITE, name, sizes, _build(forward), small, "derived", "autodiff", residual_bytes=_kept(forward)
        )  # fmt: skip


def run(setting: Setting) -> Iterator[list[Record]]:
    yield from run_cases(cases(setting), setting)
