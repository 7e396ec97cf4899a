"""The language model of the workload "text", written with other libraries: the same params, the same arithmetic.

Token table and positions, pre-norm blocks of causal attention and of dense, GELU (tanh form), dense, each beside a skip
connection, then a norm and the logits. `params` is [(weight, bias), …] in the order of `workloads.network("text")`:
table, positions, for each block norm, query, key, value, out, norm, up, down, and the last norm and logits. All sizes
are those of the params.
"""

# The peers' own annotations are narrower than what they accept.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportCallIssue=false, reportIndexIssue=false

from typing import Any

PER_BLOCK, EPS = 8, 1e-5


def blocks(params: list[Any]) -> list[list[Any]]:
    """The params of each block."""
    inner = params[2:-2]
    return [inner[i : i + PER_BLOCK] for i in range(0, len(inner), PER_BLOCK)]


def plain_forward(params, x):
    """In plain JAX: tokens (n, t) → logits (n, t, k)."""
    import jax
    import jax.numpy as jnp

    def norm(x, pair):
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + EPS) * pair[0] + pair[1]

    def attention(x, query, key, value, out):
        q, k, v = (jnp.einsum("nte,ehd->nhtd", x, w) + b[:, None] for w, b in (query, key, value))
        scores = jnp.einsum("nhtd,nhsd->nhts", q, k) / q.shape[-1] ** 0.5
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        return jnp.einsum("nhts,nhsd,hdf->ntf", weights, v, out[0]) + out[1]

    (table, _), (positions, _) = params[:2]
    h = table[x] + positions[: x.shape[1]]
    for norm1, query, key, value, out, norm2, up, down in blocks(params):
        h = h + attention(norm(h, norm1), query, key, value, out)
        h = h + jax.nn.gelu(norm(h, norm2) @ up[0] + up[1]) @ down[0] + down[1]
    return norm(h, params[-2]) @ params[-1][0] + params[-1][1]


def nnx_network(params):
    """A module of Flax nnx."""
    import jax.numpy as jnp
    from flax import nnx

    rngs = nnx.Rngs(0)

    def filled(module, pair, weight="kernel"):
        getattr(module, weight)[...] = pair[0]
        if pair[1] is not None:
            module.bias[...] = pair[1]
        return module

    def norm(pair):
        return filled(nnx.LayerNorm(len(pair[0]), epsilon=EPS, rngs=rngs), pair, "scale")

    def linear(pair):
        return filled(nnx.Linear(*pair[0].shape, rngs=rngs), pair)

    class Block(nnx.Module):
        def __init__(self, norm1, query, key, value, out, norm2, up, down):
            features, heads, size = query[0].shape
            self.norm1, self.norm2, self.up, self.down = norm(norm1), norm(norm2), linear(up), linear(down)
            self.attention = nnx.MultiHeadAttention(
                heads, features, qkv_features=heads * size, decode=False, deterministic=True, rngs=rngs
            )
            for name, pair in (("query", query), ("key", key), ("value", value), ("out", out)):
                filled(getattr(self.attention, name), pair)

        def __call__(self, x, mask):
            x = x + self.attention(self.norm1(x), mask=mask)
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    class Network(nnx.Module):
        def __init__(self):
            (table, _), (positions, _) = params[:2]
            self.table = filled(nnx.Embed(*table.shape, rngs=rngs), params[0], "embedding")
            self.positions = nnx.Param(positions)
            self.blocks = nnx.List([Block(*part) for part in blocks(params)])
            self.norm, self.logits = norm(params[-2]), linear(params[-1])

        def __call__(self, x):
            mask = nnx.make_causal_mask(x)
            h = self.table(x) + jnp.asarray(self.positions[...])[: x.shape[1]]
            for block in self.blocks:
                h = block(h, mask)
            return self.logits(self.norm(h))

    return Network()


def equinox_network(params):
    """A module of Equinox, for one sequence."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    key = jax.random.key(0)

    def linear(pair):
        layer = eqx.nn.Linear(*pair[0].shape, key=key)
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (pair[0].T, pair[1]))

    def norm(pair):
        layer = eqx.nn.LayerNorm(pair[0].shape, eps=EPS)
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, pair)

    def attention(query, key_, value, out):
        features, heads, _ = query[0].shape
        layer = eqx.nn.MultiheadAttention(
            heads, features, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=key
        )
        flat = [linear((w.reshape(features, -1), b.reshape(-1))) for w, b in (query, key_, value)]
        flat.append(linear((out[0].reshape(-1, features), out[1])))
        parts = lambda layer: (layer.query_proj, layer.key_proj, layer.value_proj, layer.output_proj)
        return eqx.tree_at(parts, layer, tuple(flat))

    class Block(eqx.Module):
        norm1: Any
        attention: Any
        norm2: Any
        up: Any
        down: Any

        def __call__(self, x):
            h = jax.vmap(self.norm1)(x)
            x = x + self.attention(h, h, h, mask=jnp.tril(jnp.ones((len(x), len(x)), bool)))
            return x + jax.vmap(lambda row: self.down(jax.nn.gelu(self.up(self.norm2(row)))))(x)

    class Network(eqx.Module):
        table: Any
        positions: Any
        blocks: list
        norm: Any
        logits: Any

        def __call__(self, x):
            h = jax.vmap(self.table)(x) + self.positions[: len(x)]
            for block in self.blocks:
                h = block(h)
            return jax.vmap(lambda row: self.logits(self.norm(row)))(h)

    parts = [
        Block(norm(norm1), attention(*qkvo), norm(norm2), linear(up), linear(down))
        for norm1, *qkvo, norm2, up, down in blocks(params)
    ]
    table = eqx.nn.Embedding(weight=params[0][0])
    return Network(table, params[1][0], parts, norm(params[-2]), linear(params[-1]))
