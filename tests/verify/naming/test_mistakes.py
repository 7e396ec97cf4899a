"""Mistakes that people make in backward passes, none of them planted by the self-test: each must get its name."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it")
"""Checking the types of every call on a ball takes longer than the check."""


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


def rnn(x, u, w):
    h, hs = jnp.zeros((x.shape[1], w.shape[0]), x.dtype), []
    for row in x:
        h = jnp.tanh(row @ u + h @ w)
        hs.append(h)
    return jnp.stack(hs)


def rnn_slip(change):
    """`change(delta, h, w)` gives the gradient of the pre-activation, and from it that of the state before."""

    def rule(args, ct):
        x, u, w = args
        hs = [jnp.zeros((x.shape[1], w.shape[0]), x.dtype), *rnn(x, u, w)]
        carried, grad_u, grad_w, grad_x = jnp.zeros_like(hs[0]), jnp.zeros_like(u), jnp.zeros_like(w), []
        for t in reversed(range(x.shape[0])):
            delta, carried = change(ct[t] + carried, hs[t + 1], w)
            grad_u, grad_w = grad_u + x[t].T @ delta, grad_w + hs[t].T @ delta
            grad_x.append(delta @ u.T)
        return jnp.stack(grad_x[::-1]), grad_u, grad_w

    return rule


def tanh_step(d, h, w):
    d = d * (1 - h * h)
    return d, d @ w.T


def stacked_blocks(x, w):
    for block in w:
        x = x + jnp.sin(x @ block)
    return x


def stacked_blocks_no_skip(args, ct):
    x, w = args
    xs, grads = [x], []
    for block in w:
        xs.append(xs[-1] + jnp.sin(xs[-1] @ block))
    for before, block in zip(xs[-2::-1], w[::-1]):
        delta = ct * jnp.cos(before @ block)
        grads.append(before.T @ delta)
        ct = delta @ block.T
    return ct, jnp.stack(grads[::-1])


def shrink(a, b, level):
    x = jnp.zeros_like(a[0])
    for _ in range(3):
        r = x - 0.2 * (a @ x - b) @ a
        x = jnp.sign(r) * jnp.maximum(jnp.abs(r) - level, 0)
    return x


def shrink_no_mask(args, ct):
    a, b, level = args
    xs, rs = [jnp.zeros_like(a[0])], []
    for _ in range(3):
        rs.append(xs[-1] - 0.2 * (a @ xs[-1] - b) @ a)
        xs.append(jnp.sign(rs[-1]) * jnp.maximum(jnp.abs(rs[-1]) - level, 0))
    grad_a, grad_b, grad_level = jnp.zeros_like(a), jnp.zeros_like(b), jnp.zeros_like(level)
    for x, r in zip(xs[-2::-1], rs[::-1]):
        grad_level = grad_level - (ct * jnp.sign(r)).sum()
        back = a @ ct
        grad_a = grad_a - 0.2 * (jnp.outer(a @ x - b, ct) + jnp.outer(back, x))
        grad_b, ct = grad_b + 0.2 * back, ct - 0.2 * back @ a
    return grad_a, grad_b, grad_level


def masked_attention(q, k, v):
    scores = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), q @ k.T, -1e30)
    return jax.nn.softmax(scores, axis=-1) @ v


def masked_attention_no_sum(args, ct):
    q, k, v = args
    p = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((4, 4), bool)), q @ k.T, -1e30), axis=-1)
    d = p * (ct @ v.T)
    return d @ k, d.T @ q, p.T @ ct


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
RNN = normal((3, 2, 3), (3, 4), (4, 4))


def ridge(w, x, y):
    return 0.5 * ((x @ w - y) ** 2).mean() + 0.1 * (w @ w)


def ridge_half_of_the_decay(args, ct):
    w, x, y = args
    error = ct * (x @ w - y) / 6  # the number of rows, written as a number
    return x.T @ error + 0.1 * ct * w, jnp.outer(error, w), -error


def batch_norm_relu(x):
    centred = x - x.mean((0, 1), keepdims=True)
    return jax.nn.relu(centred * lax.rsqrt((centred**2).mean((0, 1), keepdims=True) + 1e-5))


def batch_norm_relu_other_axes(args, ct):
    (x,) = args
    centred = x - x.mean((0, 1), keepdims=True)
    rstd = lax.rsqrt((centred**2).mean((0, 1), keepdims=True) + 1e-5)
    x_hat = centred * rstd
    delta = jnp.where(x_hat > 0, ct, 0)
    means = [term.mean(0, keepdims=True) for term in (delta, delta * x_hat)]
    return (rstd * (delta - means[0] - x_hat * means[1]),)


def weighted_bag(table, weights, ids):
    kept = weights * (ids != 0).astype(weights.dtype)
    return (table[ids] * kept[..., None]).sum(axis=1)


def weighted_bag_with_padding(args, ct):
    table, weights, ids = args
    kept = (ids != 0).astype(weights.dtype)
    grad_table = jnp.zeros_like(table).at[ids].add(weights[..., None] * ct[:, None])
    return grad_table, kept * (table[ids] * ct[:, None]).sum(axis=-1), None


def leaky(x, slope):
    return jnp.where(x > 0, x, slope * x)


def leaky_other_side(args, ct):
    x, slope = args
    return ct * jnp.where(x > 0, 1, slope), jnp.where(x > 0, ct * x, 0).sum()


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
    "loop, no slope in any step": (
        rnn, rnn_slip(lambda d, h, w: (d, d @ w.T)), RNN, "missing-activation-derivative"
    ),
    "loop, nothing through time": (
        rnn, rnn_slip(lambda d, h, w: (tanh_step(d, h, w)[0], jnp.zeros_like(d))), RNN, "missing-term"
    ),
    "loop, weight not transposed": (
        rnn, rnn_slip(lambda d, h, w: (tanh_step(d, h, w)[0], tanh_step(d, h, w)[0] @ w)), RNN, "transpose"
    ),
    "loop of blocks, no skip path": (
        stacked_blocks, stacked_blocks_no_skip, normal((4, 3), (3, 3, 3)), "missing-term"
    ),
    "loop, no mask in any step": (
        shrink, shrink_no_mask, (*normal((5, 4), (5,)), jnp.array(0.05)), "missing-activation-derivative"
    ),
    "attention masked by -1e30": (
        masked_attention, masked_attention_no_sum, normal((4, 3), (4, 3), (4, 2)), "missing-term"
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
    "half of the weight decay, rows as a number": (
        ridge, ridge_half_of_the_decay, normal((3,), (6, 3), (6,)), "scale-constant"
    ),
    "batch norm, means over one axis of two": (
        batch_norm_relu, batch_norm_relu_other_axes, normal((4, 3, 5)), "wrong-reduction-axis"
    ),
    "padding counts": (
        weighted_bag, weighted_bag_with_padding,
        (*normal((7, 4), (3, 3)), jnp.array([[0, 3, 3], [5, 1, 0], [2, 0, 2]])), "missing-mask",
    ),
    "slope of the other side": (leaky, leaky_other_side, (normal((5, 4))[0], jnp.array(0.3)), "missing-mask"),
    "cumulative sum not reversed": (
        lambda x: jnp.cumsum(x, axis=0), lambda args, ct: (jnp.cumsum(ct, axis=0),), normal((5, 3)), "wrong-index"
    ),
}  # fmt: skip


KEYS = range(6)

PLAIN = KEYS[:2]
"""Keys at which every mistake is drawn in a plain run, one in each dtype; the others are for the long one."""

DRAWS = [(key, dtype) for key in KEYS for dtype in ("float32", "float64")]


def drawn(args, key, dtype):
    """The arguments with other values: of arrays of floats, that is; numbers, masks and indices are kept."""
    keys = jax.random.split(jax.random.key(key), len(args))
    for its, x in zip(keys, args):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            yield x
        else:
            yield jax.random.normal(its, x.shape, dtype) if x.ndim else x.astype(dtype)


UNNAMED = {
    ("loop, no mask in any step", 2, "float64"): "nothing is masked but at small values: its line is found alone"
}
"""Draws that do not show enough of a mistake for its name."""


def marks(name, draw):
    yield from () if draw in ((PLAIN[0], "float32"), (PLAIN[1], "float64")) else (pytest.mark.slow,)
    if (name, *draw) in UNNAMED:
        yield pytest.mark.xfail(strict=True, reason=UNNAMED[name, *draw])


def cases():
    return [pytest.param(name, *draw, marks=list(marks(name, draw))) for name in MISTAKES for draw in DRAWS]


@pytest.mark.parametrize(("name", "key", "dtype"), cases())
def test_it_gets_its_name(name, key, dtype):
    forward, rule, args, kind = MISTAKES[name]
    with jax.enable_x64(dtype == "float64"):
        given = tuple(drawn(args, key, dtype))
        report = verify.vjp(forward, rule, given, seconds=100)  # so that no loaded machine cuts the search short
    assert {d.kind for d in report.diagnoses} == {kind}, str(report)
