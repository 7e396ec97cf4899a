"""Look-ups, message passing, routing."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.verify.slips.changes import wrong_rules

TOKENS = np.array([[1, 4, 0], [2, 2, 5], [3, 1, 1]])

KEEP = jnp.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]], jnp.float32)

SRC = np.array([0, 1, 1, 2, 3, 4, 0])

DST = np.array([1, 0, 2, 3, 1, 2, 4])

N = 5

DEG = jnp.asarray(np.bincount(DST, minlength=N), jnp.float32)


def bag(table, w):
    e = table[TOKENS] * KEEP[..., None]
    return (e.sum(1) / KEEP.sum(1)[:, None]) @ w


def right_bag_vjp(args, gout):
    table, w = args
    cnt = KEEP.sum(1)[:, None]
    mean = (table[TOKENS] * KEEP[..., None]).sum(1) / cnt
    gw = mean.T @ gout
    gmean = gout @ w.T / cnt
    gtok = gmean[:, None, :] * KEEP[..., None]
    gtable = jnp.zeros_like(table).at[TOKENS].add(gtok)
    return gtable, gw


def gcn(h, w):
    m = (h @ w)[SRC]
    return jax.nn.relu(jax.ops.segment_sum(m, DST, N) / DEG[:, None])


def right_gcn_vjp(args, gout):
    h, w = args
    hw = h @ w
    agg = jax.ops.segment_sum(hw[SRC], DST, N) / DEG[:, None]
    gagg = jnp.where(agg > 0, gout, 0.0) / DEG[:, None]
    gmsg = gagg[DST]
    ghw = jax.ops.segment_sum(gmsg, SRC, N)
    return ghw @ w.T, h.T @ ghw


def edge_weights(h, u):
    """Per edge score, softmax over the incoming edges of each node."""
    s = jnp.sum(h[SRC] * u * h[DST], axis=1)
    e = jnp.exp(s)
    return e / jax.ops.segment_sum(e, DST, N)[DST]


def right_edge_weights_vjp(args, gout):
    h, u = args
    a = edge_weights(h, u)
    inner = jax.ops.segment_sum(a * gout, DST, N)
    gs = a * (gout - inner[DST])
    hs, hd = h[SRC], h[DST]
    gu = jnp.sum(gs[:, None] * hs * hd, axis=0)
    gh = jnp.zeros_like(h).at[SRC].add(gs[:, None] * u * hd)
    gh = gh.at[DST].add(gs[:, None] * u * hs)
    return gh, gu


def moe(x, wg, we):
    gate = jax.nn.softmax(x @ wg)
    ex = jnp.tanh(jnp.einsum("nd,edo->neo", x, we))
    return jnp.einsum("ne,neo->no", gate, ex)


def right_moe_vjp(args, gout):
    x, wg, we = args

    def one(xi, gi):
        gate = jax.nn.softmax(xi @ wg)
        ex = jnp.tanh(jnp.einsum("d,edo->eo", xi, we))
        ggate = ex @ gi
        gpre = jnp.outer(gate, gi) * (1 - ex**2)
        glog = gate * (ggate - gate @ ggate)
        gx = wg @ glog + jnp.einsum("eo,edo->d", gpre, we)
        return gx, jnp.outer(xi, glog), jnp.einsum("d,eo->edo", xi, gpre)

    gx, gwg, gwe = jax.vmap(one)(x, gout)
    return gx, gwg.sum(0), gwe.sum(0)


def shapes(*ss):
    return lambda key: tuple(jax.random.normal(k, s) for k, s in zip(jax.random.split(key, len(ss)), ss))


SINGLE = [
    *wrong_rules(
        bag,
        right_bag_vjp,
        shapes((6, 4), (4, 3)),
        """
bag_vjp
- gtok = gmean[:, None, :] * KEEP[..., None]
+ gtok = gmean[:, None, :] * jnp.ones_like(KEEP)[..., None]
mask: padding tokens get gradient, mask left out
    """,
    ),
    *wrong_rules(
        gcn,
        right_gcn_vjp,
        shapes((N, 3), (3, 4)),
        """
gcn_vjp
- ghw = jax.ops.segment_sum(gmsg, SRC, N)
+ ghw = jax.ops.segment_sum(gmsg, DST, N)
operand: messages came from the source nodes, gradient collected at the targets
    """,
    ),
    *wrong_rules(
        edge_weights,
        right_edge_weights_vjp,
        shapes((N, 3), (3,)),
        """
edge_weights_vjp
- gh = jnp.zeros_like(h).at[SRC].add(gs[:, None] * u * hd)
-     gh = gh.at[DST].add(gs[:, None] * u * hs)
+ gh = jnp.zeros_like(h).at[SRC].add(gs[:, None] * u * hd)
term: each edge reads the node at its target too, that share is missing
@ return gh, gu
    """,
    ),
    *wrong_rules(
        moe,
        right_moe_vjp,
        shapes((4, 3), (3, 2), (2, 3, 3)),
        """
moe_vjp
- gx = wg @ glog + jnp.einsum("eo,edo->d", gpre, we)
+ gx = jnp.einsum("eo,edo->d", gpre, we)
detached: the router's share of the input gradient is left out

moe_vjp_2
- return gx, gwg.sum(0), gwe.sum(0)
+ return gx, gwg.sum(0), gwe.mean(0)
reduction: weight gradient of the experts averaged over the examples instead of summed
    """,
    ),
]
