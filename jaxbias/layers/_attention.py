"""Softmax attention of T queries on S keys, tile by tile: the T × S matrix of scores is never held (sheet 9.1).

q (n, g, r, T, d), k (n, g, S, d), v (n, g, S, e): r query heads share each of the g key heads, and head h = g·r + r′
of the sheet is (g, r′) here, so that ⌊h g/H⌋ is an axis and the sum over a group (9.2.6) that of a product.

Forward     A = s q kᵀ                                                                          (9.1.1)
            Z = cap(A) + B            cap(a) = a, or c tanh(a/c)                                (9.1.2)
            ℓ[t] = log(Σ_j m e^Z[t,j] + e^s_h)                                                  (9.1.3)
            P = m ∘ e^(Z − ℓ)         P~ = M ∘ P / κ                                            (9.1.4)
            O = P~ v                                                                            (9.1.5)
Backward    δv = P~ᵀ δ                δP = M ∘ (δ vᵀ) / κ                                       (9.1.6), (9.1.7)
            D[t] = Σ_e δ[t,e] O[t,e]                                                            (9.1.8)
            δZ = P ∘ (δP − D)         δA = δZ ∘ (1 − (cap/c)²)                                  (9.1.9), (9.1.10)
            δq = s δA k               δk = s δAᵀ q                                              (9.1.11)
            ∂L/∂B = Σ δZ over the axes along which B is broadcast                               (9.1.12)
            ∂L/∂s_h = −Σ e^(s_h − ℓ) D                                                          (9.1.13)

Only O and ℓ are kept; each tile of A, Z, P is computed again, and the random key gives the same M again. A tile that
causality or the window hides is not visited at all. Everything in a tile is at least float32.

A row without a visible key has O = 0, and ℓ = +∞, with which every P of the row, and so every gradient, is 0.

Source: T. Dao et al., FlashAttention (2022), algorithms 1 and 4; M. Milakov, N. Gimelshein, Online normalizer
calculation for softmax (2018).
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxbias._numerics import widen

QUERIES, KEYS = -2, -1
"""Axes of a tile of scores (n, g, r, queries, keys)."""


class Plan(NamedTuple):
    """What is fixed when a program is traced."""

    scale: float
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    block: int = 256


class Operands(NamedTuple):
    """What the scores and the output are made of; `backward` returns the gradients in the same places."""

    q: Float[Array, "n g r T d"]
    k: Float[Array, "n g S d"]
    v: Float[Array, "n g S e"]
    bias: Float[Array, "_ _ _ _ _"] | None = None  # B: every axis is 1 or that of the scores (n, g, r, T, S)
    by_distance: Float[Array, "g r distances"] | None = None  # a B that depends on j − t only, at j − t + T − 1
    appended_key: Float[Array, "g d"] | None = None  # one more key, which every query sees
    appended_value: Float[Array, "g e"] | None = None
    sink: Float[Array, "g r"] | None = None
    visible: Bool[Array, "_ _ _ _ _"] | None = None  # m; the axes as in bias
    key: Array | None = None  # of the dropout mask M


class _Rows(NamedTuple):
    """The softmax of some queries over the keys seen so far."""

    top: Float[Array, "n g r t"]  # largest score; −∞ before the first
    total: Float[Array, "n g r t"]  # Σ e^(Z − top)
    out: Float[Array, "n g r t e"]  # Σ M e^(Z − top) v / κ


class _Tile(NamedTuple):
    """Z and M of a tile, with the operands that it was made of."""

    q: Float[Array, "n g r t d"]  # times s
    k: Float[Array, "n g s d"]
    v: Float[Array, "n g s e"]
    z: Float[Array, "n g r t s"]  # −∞ where hidden
    slope: Float[Array, "n g r t s"] | None  # cap′, or None for 1
    mask: Bool[Array, "n g r t s"] | None


@partial(jax.jit, static_argnames="plan")
def forward(operands: Operands, plan: Plan) -> tuple[Float[Array, "n g r T e"], Float[Array, "n g r T"]]:
    """(O, ℓ), in at least float32."""
    grid = _Grid(operands, plan)
    padded = grid.padded(operands)

    def visit(rows, tile):
        number, i, j = tile
        part = jax.tree.map(lambda x: _cut(x, i, grid.queries, 3), rows)
        part = _absorb(part, _tile(padded, grid, number, i, j), plan)
        return jax.tree.map(lambda x, new: _put(x, new, i, 3), rows, part)

    rows = _no_keys(padded)
    if operands.appended_key is not None:
        rows = _absorb(rows, _appended(padded, plan, grid.count), plan)
    rows = grid.over_tiles(visit, rows)
    rows = jax.tree.map(lambda x: x[:, :, :, : grid.rows], rows)
    seen = rows.total > 0
    total = jnp.where(seen, rows.total, 1)
    return rows.out / total[..., None], jnp.where(seen, rows.top + jnp.log(total), jnp.inf)


@partial(jax.jit, static_argnames="plan")
def backward(
    operands: Operands, out: Float[Array, "n g r T e"], ell: Float[Array, "n g r T"], delta: Array, plan: Plan
) -> Operands:
    """Gradients of all operands, in at least float32; None for m and the key of M."""
    grid = _Grid(operands, plan)
    padded = grid.padded(operands)
    delta = widen(delta)
    d = (delta * out).sum(-1)  # (9.1.8)
    more = ((0, 0),) * 3 + ((0, grid.more_queries),)
    hidden = jnp.pad(ell, more, constant_values=jnp.inf)
    delta_rows = (jnp.pad(delta, (*more, (0, 0))), hidden, jnp.pad(d, more))

    def visit(grads, tile):
        number, i, j = tile
        part = _tile(padded, grid, number, i, j)
        delta_here, ell_here, d_here = (_cut(x, i, grid.queries, 3) for x in delta_rows)
        delta_z, of_tile = _tile_backward(part, delta_here, ell_here, d_here, plan)
        grads = grads._replace(
            q=_add_at(grads.q, of_tile.q, (3, i)),
            k=_add_at(grads.k, of_tile.k, (2, j)),
            v=_add_at(grads.v, of_tile.v, (2, j)),
        )
        if grads.bias is not None:  # (9.1.12)
            grads = grads._replace(bias=_add_at(grads.bias, _sum_like(delta_z, grads.bias.shape), (3, i), (4, j)))
        if grads.by_distance is not None:
            sums = _diagonal_sums(delta_z.sum(0))
            grads = grads._replace(by_distance=_add_at(grads.by_distance, sums, (2, grid.first_distance(i, j))))
        return grads

    float_fields = padded._replace(appended_key=None, appended_value=None, sink=None, visible=None, key=None)
    grads = jax.tree.map(lambda x: jnp.zeros_like(widen(x)), float_fields)
    grads = grid.over_tiles(visit, grads)
    if operands.appended_key is not None:  # (9.2.10)
        _, of_tile = _tile_backward(_appended(padded, plan, grid.count), *delta_rows, plan)
        grads = grads._replace(
            q=grads.q + of_tile.q, appended_key=of_tile.k.sum((0, 2)), appended_value=of_tile.v.sum((0, 2))
        )
    grads = grid.unpadded(grads)
    if operands.sink is not None:  # (9.1.13)
        weight = jnp.exp(widen(operands.sink)[None, :, :, None] - ell)
        grads = grads._replace(sink=-(weight * d).sum((0, 3)))
    return grads._replace(q=plan.scale * grads.q)


# --- one tile ---------------------------------------------------------------------------------------------------------


def _no_keys(operands: Operands) -> _Rows:
    """The softmax over no key, or over the sink, whose value is 0."""
    q, v = operands.q, widen(operands.v)
    rows = q.shape[:-1]
    out = jnp.zeros((*rows, v.shape[-1]), v.dtype)
    if operands.sink is None:
        return _Rows(jnp.full(rows, -jnp.inf, v.dtype), jnp.zeros(rows, v.dtype), out)
    sink = jnp.broadcast_to(widen(operands.sink)[None, :, :, None], rows)
    top = lax.stop_gradient(sink)
    return _Rows(top, jnp.exp(sink - top), out)


def _tile(operands: Operands, grid: "_Grid", number: Array | int, i: Array | int, j: Array | int) -> _Tile:
    """The tile of the queries from i on and the keys from j on."""
    q, k, v = (
        widen(_cut(x, start, size, axis))
        for x, start, size, axis in (
            (operands.q, i, grid.queries, 3), (operands.k, j, grid.keys, 2), (operands.v, j, grid.keys, 2),
        )
    )  # fmt: skip
    z, slope = _capped(plan := grid.plan, q, k)
    both = lambda x: _cut(_cut(x, i, grid.queries, QUERIES), j, grid.keys, KEYS)
    if operands.bias is not None:
        z = z + jnp.broadcast_to(widen(both(operands.bias)), z.shape)
    if operands.by_distance is not None:
        some = _cut(operands.by_distance, grid.first_distance(i, j), grid.queries + grid.keys - 1, 2)
        z = z + jnp.broadcast_to(_diagonals(widen(some), grid.queries, grid.keys), z.shape)
    seen = grid.seen(i, j)
    if operands.visible is not None:
        shown = both(operands.visible)
        seen = shown if seen is None else jnp.logical_and(shown, seen)
    if seen is not None:
        z = jnp.where(seen, z, -jnp.inf)
    return _Tile(plan.scale * q, k, v, z, slope, _dropout_mask(operands.key, number, z.shape, plan))


def _appended(operands: Operands, plan: Plan, number: int) -> _Tile:
    """All queries and the one key that every one sees; no B, no mask."""
    assert operands.appended_key is not None and operands.appended_value is not None
    n = operands.q.shape[0]
    k, v = (
        jnp.broadcast_to(widen(x)[None, :, None, :], (n, x.shape[0], 1, x.shape[1]))
        for x in (operands.appended_key, operands.appended_value)
    )
    q = widen(operands.q)
    z, slope = _capped(plan, q, k)
    return _Tile(plan.scale * q, k, v, z, slope, _dropout_mask(operands.key, number, z.shape, plan))


def _capped(plan: Plan, q: Array, k: Array) -> tuple[Array, Array | None]:
    """cap(A) and its slope (9.1.1), (9.1.2), (9.1.10)."""
    a = jnp.einsum("ngrtd,ngsd->ngrts", plan.scale * q, k)
    if plan.softcap is None:
        return a, None
    bent = jnp.tanh(a / plan.softcap)
    return plan.softcap * bent, 1 - bent * bent


def _dropout_mask(key: Array | None, number: Array | int, shape: tuple[int, ...], plan: Plan) -> Array | None:
    if key is None or plan.dropout == 0:
        return None
    # float32, so that a mask does not depend on jax_enable_x64.
    return jax.random.bernoulli(jax.random.fold_in(key, number), np.float32(1 - plan.dropout), shape)


def _dropped(values: Array, mask: Array | None, plan: Plan) -> Array:
    if mask is None:
        return values
    return jnp.where(mask, values / (1 - plan.dropout) if plan.dropout < 1 else 0, 0)


def _absorb(rows: _Rows, tile: _Tile, plan: Plan) -> _Rows:
    """The softmax of these rows over some more keys."""
    # any constant will do for top, so no derivative goes through it
    top = jnp.maximum(rows.top, lax.stop_gradient(jnp.max(tile.z, axis=KEYS, initial=-jnp.inf)))
    level = jnp.where(top == -jnp.inf, 0, top)
    weights = jnp.exp(tile.z - level[..., None])
    shrink = jnp.exp(rows.top - level)
    new = jnp.einsum("ngrts,ngse->ngrte", _dropped(weights, tile.mask, plan), tile.v)
    return _Rows(top, rows.total * shrink + weights.sum(KEYS), rows.out * shrink[..., None] + new)


def _tile_backward(tile: _Tile, delta: Array, ell: Array, d: Array, plan: Plan) -> tuple[Array, Operands]:
    """δZ of a tile, and what it adds to δq (less its factor s), δk and δv."""
    p = jnp.exp(tile.z - ell[..., None])
    delta_v = jnp.einsum("ngrts,ngrte->ngse", _dropped(p, tile.mask, plan), delta)  # (9.1.6)
    delta_p = _dropped(jnp.einsum("ngrte,ngse->ngrts", delta, tile.v), tile.mask, plan)  # (9.1.7)
    delta_z = p * (delta_p - d[..., None])  # (9.1.9)
    delta_a = delta_z if tile.slope is None else delta_z * tile.slope  # (9.1.10)
    delta_q = jnp.einsum("ngrts,ngsd->ngrtd", delta_a, tile.k)  # (9.1.11)
    delta_k = jnp.einsum("ngrts,ngrtd->ngsd", delta_a, tile.q)
    return delta_z, Operands(delta_q, delta_k, delta_v)


# --- where the tiles lie ----------------------------------------------------------------------------------------------


class _Grid:
    """The tiles that have a score to compute: numbers, first queries and first keys.

    T and S are padded to whole tiles: with queries whose δ is 0, and keys that are hidden.
    """

    def __init__(self, operands: Operands, plan: Plan):
        self.plan = plan
        self.rows, self.columns = operands.q.shape[3], operands.k.shape[2]
        self.queries, down = _shared_out(self.rows, plan.block)
        self.keys, across = _shared_out(self.columns, plan.block)
        self.more_queries, self.more_keys = self.queries * down - self.rows, self.keys * across - self.columns
        corners = np.array(
            [(i, j) for i in range(0, self.queries * down, max(self.queries, 1)) for j in self._reached(i, across)],
            np.int32,
        ).reshape(-1, 2)
        self.count = len(corners)
        self._tiles = np.arange(self.count, dtype=np.int32), corners[:, 0], corners[:, 1]

    def over_tiles(self, visit: Callable[[Any, tuple], Any], start: Any) -> Any:
        """`visit(value, (number, i, j)) -> value` of each tile in turn."""
        if self.count < 2:
            return visit(start, (0, 0, 0)) if self.count else start
        return lax.scan(lambda value, tile: (visit(value, tile), None), start, self._tiles)[0]

    def _reached(self, i: int, across: int) -> list[int]:
        """First keys of the tiles in which a query from i on sees a key."""
        nearest = i + self.columns - self.rows - self.keys + 1  # of first key less position, where the last key counts
        furthest = i + self.queries - 1 + self.columns - self.rows
        window = self.plan.window
        starts = np.arange(across) * self.keys
        reached = np.full(across, True)
        if self.plan.causal:
            reached &= starts <= furthest
        if window is not None:
            reached &= starts > nearest - window
            reached &= starts < furthest + window
        return starts[reached].tolist()

    def seen(self, i: Array | int, j: Array | int) -> Array | None:
        """Which scores of a tile causality, the window and the end of the keys leave; None for all."""
        key = j + lax.broadcasted_iota(jnp.int32, (self.queries, self.keys), 1)
        query = i + lax.broadcasted_iota(jnp.int32, (self.queries, self.keys), 0)
        ahead = key - query - (self.columns - self.rows)  # j − i_t
        limits = []
        if self.plan.causal:
            limits.append(ahead <= 0)
        if self.plan.window is not None:
            limits += [ahead > -self.plan.window, ahead < self.plan.window]
        if self.more_keys:
            limits.append(key < self.columns)
        return reduce(jnp.logical_and, limits)[None, None, None] if limits else None

    def first_distance(self, i: Array | int, j: Array | int) -> Array | int:
        """Where the distances of a tile begin in those of the padded scores."""
        return j - i + self.rows + self.more_queries - self.queries

    def padded(self, operands: Operands) -> Operands:
        rows, keys = (0, self.more_queries), (0, self.more_keys)

        def scores(x):
            lengths = [(0, 0)] * 3 + [rows if x.shape[3] != 1 else (0, 0), keys if x.shape[4] != 1 else (0, 0)]
            return _padded(x, *lengths)

        return operands._replace(
            q=_padded(operands.q, (0, 0), (0, 0), (0, 0), rows, (0, 0)),
            k=_padded(operands.k, (0, 0), (0, 0), keys, (0, 0)),
            v=_padded(operands.v, (0, 0), (0, 0), keys, (0, 0)),
            bias=None if operands.bias is None else scores(operands.bias),
            visible=None if operands.visible is None else scores(operands.visible),
            by_distance=None if operands.by_distance is None
            else _padded(operands.by_distance, (0, 0), (0, 0), (self.more_queries, self.more_keys)),
        )  # fmt: skip

    def unpadded(self, grads: Operands) -> Operands:
        some = self.more_queries
        return grads._replace(
            q=grads.q[:, :, :, : self.rows],
            k=grads.k[:, :, : self.columns],
            v=grads.v[:, :, : self.columns],
            bias=None if grads.bias is None else grads.bias[..., : self.rows, : self.columns],
            by_distance=None if grads.by_distance is None
            else grads.by_distance[..., some : some + self.rows + self.columns - 1],
        )  # fmt: skip


def _shared_out(length: int, block: int) -> tuple[int, int]:
    """Size and number of pieces of equal size, none above `block`."""
    number = -(-length // block)
    return (-(-length // number), number) if number else (0, 0)


def _padded(x: Array, *lengths: tuple[int, int]) -> Array:
    return jnp.pad(x, lengths) if any(low or high for low, high in lengths) else x


def _cut(x: Array, start: Array | int, size: int, axis: int) -> Array:
    """A piece of an axis, or all of one that is broadcast."""
    return x if x.shape[axis] in (1, size) else lax.dynamic_slice_in_dim(x, start, size, axis)


def _put(x: Array, part: Array, start: Array | int, axis: int) -> Array:
    return part if part.shape == x.shape else lax.dynamic_update_slice_in_dim(x, part, start, axis)


def _add_at(total: Array, part: Array, *where: tuple[int, Array | int]) -> Array:
    """`part` added to a piece of `total` that begins at a start on each of these axes; 0 on one that is broadcast."""
    if total.shape == part.shape:
        return total + part
    starts: list[Array | int] = [jnp.int32(0)] * total.ndim
    for axis, start in where:
        if total.shape[axis] != part.shape[axis]:
            starts[axis] = start
    old = lax.dynamic_slice(total, starts, part.shape)
    return lax.dynamic_update_slice(total, old + part, starts)


def _sum_like(delta_z: Array, shape: tuple[int, ...]) -> Array:
    """Summed over the axes along which an array of this shape is broadcast (4.5)."""
    return delta_z.sum([axis for axis, length in enumerate(shape) if length == 1], keepdims=True)


def _diagonals(values: Float[Array, "g r distances"], queries: int, keys: int) -> Float[Array, "g r q s"]:
    """The tile with values[s − q + queries − 1] at [q, s]."""
    lead = values.shape[:-1]
    rows = jnp.broadcast_to(values[..., None, :], (*lead, queries, queries + keys - 1))
    longer = jnp.pad(rows.reshape(*lead, queries * (queries + keys - 1)), (*((0, 0),) * len(lead), (0, queries)))
    return longer.reshape(*lead, queries, queries + keys)[..., ::-1, :keys]  # each row begins one further on


def _diagonal_sums(tile: Float[Array, "g r q s"]) -> Float[Array, "g r distances"]:
    """Its transpose: the sum over each diagonal."""
    *lead, queries, keys = tile.shape
    wider = jnp.pad(tile[..., ::-1, :], (*((0, 0),) * (len(lead) + 1), (0, queries)))
    rows = wider.reshape(*lead, queries * (queries + keys))[..., : queries * (queries + keys - 1)]
    return rows.reshape(*lead, queries, queries + keys - 1).sum(-2)
