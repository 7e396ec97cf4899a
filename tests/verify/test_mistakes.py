"""Mistakes that people make in backward passes, none of them planted by the self-test: each must get its name."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbias import verify


def normal(*shapes):
    return [jax.random.normal(k, s) for k, s in zip(jax.random.split(jax.random.key(7), len(shapes)), shapes)]


def weight_decay(x, w, y):
    return 0.5 * ((x @ w - y) ** 2).sum() + 0.05 * (w**2).sum()


def weight_decay_twice(args, ct):
    x, w, y = args
    delta = ct * (x @ w - y)
    return delta @ w.T, x.T @ delta + 0.1 * ct * w + 0.1 * ct * w, -delta


def tied(x, e, b):
    return jnp.tanh(x @ e + b[None, :]) @ e.T


def tied_one_use(args, ct):
    x, e, b = args
    h = jnp.tanh(x @ e + b[None, :])
    delta = (ct @ e) * (1 - h * h)
    return delta @ e.T, ct.T @ h, delta.sum(axis=0)


def layer_norm(x, gamma):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * gamma[None, :]


def norm_slip(change):
    def rule(args, ct):
        x, gamma = args
        mean = x.mean(axis=-1, keepdims=True)
        rstd = lax.rsqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
        x_hat = (x - mean) * rstd
        return change(ct * gamma[None, :], x_hat, rstd), (ct * x_hat).sum(axis=0)

    return rule


def row_mean(x):
    return x.mean(axis=-1, keepdims=True)


def column_mean(x):
    return x.mean(axis=0, keepdims=True)


def attention(q, k, v, mask):
    scores = jnp.einsum("hqd,hkd->hqk", q, k) * 0.7
    weights = jax.nn.softmax(jnp.where(mask[None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("hqk,hkd->hqd", weights, v)


def attention_slip(masked, change):
    def rule(args, ct):
        q, k, v, mask = args
        scores = jnp.einsum("hqd,hkd->hqk", q, k) * 0.7
        weights = jax.nn.softmax(jnp.where(mask[None], scores, -jnp.inf) if masked else scores, axis=-1)
        delta_weights = jnp.einsum("hqd,hkd->hqk", ct, v)
        delta = change(weights, delta_weights)
        delta_q, delta_k = jnp.einsum("hqk,hkd->hqd", delta, k), jnp.einsum("hqk,hqd->hkd", delta, q)
        return 0.7 * delta_q, 0.7 * delta_k, jnp.einsum("hqk,hqd->hkd", weights, ct), None

    return rule


def softmax_backward(p, d):
    return p * (d - (d * p).sum(axis=-1, keepdims=True))


def gated(x, w, t):
    gate = jax.nn.sigmoid(x @ t)
    return gate * jnp.tanh(x @ w) + (1 - gate) * x


def gated_slip(change):
    def rule(args, ct):
        x, w, t = args
        gate, h = jax.nn.sigmoid(x @ t), jnp.tanh(x @ w)
        delta_h, delta_gate, carried = change(ct, x, gate, h)
        return delta_h @ w.T + delta_gate @ t.T + carried, x.T @ delta_h, x.T @ delta_gate

    return rule


def average(xs, a):
    def step(h, x):
        h = a * h + (1 - a) * x
        return h, h

    return lax.scan(step, jnp.zeros(xs.shape[1], xs.dtype), xs)[1]


def average_slip(change):
    def rule(args, ct):
        xs, a = args
        hs = [jnp.zeros(xs.shape[1], xs.dtype)]
        for x in xs:
            hs.append(a * hs[-1] + (1 - a) * x)
        later, grads, grad_a = jnp.zeros_like(hs[0]), [], jnp.zeros_like(a)
        for t in reversed(range(xs.shape[0])):
            later, grad, part = change(ct[t] + later, a, hs[t], xs[t])
            grads.append(grad)
            grad_a = grad_a + part
        return jnp.stack(grads[::-1]), grad_a

    return rule


def unit(x):
    return x / jnp.sqrt((x * x).sum(axis=1, keepdims=True))


def bag(table, ids):
    return table[ids].mean(axis=1)


def exact_gelu(x):
    return 0.5 * x * (1 + lax.erf(x / 2**0.5))


def hinge(x, w):
    return jnp.maximum(1 - x @ w, 0).mean()


NORM, GATE = normal((5, 6), (6,)), normal((5, 3), (3, 3), (3, 3))
MASKED = (*normal((2, 4, 3), (2, 4, 3), (2, 4, 3)), jnp.tril(jnp.ones((4, 4), bool)))
SERIES = (normal((5, 3))[0], jnp.array(0.7))
BAG = (normal((7, 3))[0], jnp.array([[0, 3, 3], [5, 1, 0], [2, 2, 2]]))

MISTAKES = {
    "weight decay counted twice": (weight_decay, weight_decay_twice, normal((6, 3), (3, 4), (6, 4)), "double-count"),
    "tied weight, one use": (tied, tied_one_use, normal((5, 4), (4, 3), (3,)), "missing-term"),
    "norm without its mean terms": (layer_norm, norm_slip(lambda d, h, s: s * d), NORM, "missing-term"),
    "norm without 1/sigma": (
        layer_norm, norm_slip(lambda d, h, s: d - row_mean(d) - h * row_mean(d * h)), NORM, "missing-factor"
    ),
    "norm with means over the batch": (
        layer_norm, norm_slip(lambda d, h, s: s * (d - column_mean(d) - h * column_mean(d * h))), NORM,
        "wrong-reduction-axis",
    ),
    "attention without its mask": (attention, attention_slip(False, softmax_backward), MASKED, "missing-mask"),
    "attention, second softmax term": (attention, attention_slip(True, lambda p, d: p * d), MASKED, "missing-term"),
    "attention, softmax over the other axis": (
        attention, attention_slip(True, lambda p, d: p * (d - (d * p).sum(axis=-2, keepdims=True))), MASKED,
        "wrong-reduction-axis",
    ),
    "carry not gated": (
        gated, gated_slip(lambda c, x, g, h: (c * g * (1 - h * h), c * (h - x) * g * (1 - g), c)), GATE,
        "missing-factor",
    ),
    "slope of the gate": (
        gated, gated_slip(lambda c, x, g, h: (c * g * (1 - h * h), c * (h - x), c * (1 - g))), GATE,
        "missing-activation-derivative",
    ),
    "gate sees one branch": (
        gated, gated_slip(lambda c, x, g, h: (c * g * (1 - h * h), c * h * g * (1 - g), c * (1 - g))), GATE,
        "missing-term",
    ),
    "recurrence not decayed": (
        average, average_slip(lambda g, a, h, x: (g, (1 - a) * g, (g * (h - x)).sum())), SERIES, "missing-factor"
    ),
    "recurrence, a for 1 - a": (
        average, average_slip(lambda g, a, h, x: (a * g, a * g, (g * (h - x)).sum())), SERIES, "wrong-operand"
    ),
    "normalised vector, no projection": (
        unit, lambda args, ct: (ct / jnp.sqrt((args[0] ** 2).sum(axis=1, keepdims=True)),), normal((4, 3)),
        "missing-term",
    ),
    "ids overwrite": (
        bag,
        lambda args, ct: (jnp.zeros_like(args[0]).at[args[1]].set(jnp.repeat(ct[:, None], 3, axis=1) / 3), None),
        BAG, "index-collision",
    ),
    "gelu without x phi(x)": (
        exact_gelu, lambda args, ct: (0.5 * ct * (1 + lax.erf(args[0] / 2**0.5)),), normal((4, 5)), "missing-term"
    ),
    "hinge without its mask": (
        hinge,
        lambda args, ct: (-ct * jnp.outer(jnp.ones(6), args[1]) / 6, -ct * args[0].mean(axis=0)),
        normal((6, 3), (3,)), "missing-activation-derivative",
    ),
    "cumulative sum not reversed": (
        lambda x: jnp.cumsum(x, axis=0), lambda args, ct: (jnp.cumsum(ct, axis=0),), normal((5, 3)), "wrong-index"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_it_gets_its_name(name):
    forward, rule, args, kind = MISTAKES[name]
    report = verify.vjp(forward, rule, tuple(args))
    assert {d.kind for d in report.diagnoses} == {kind}, str(report)
