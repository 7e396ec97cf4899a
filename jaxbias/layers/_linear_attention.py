"""The core of linear attention in chunks of steps: q, k (n, H, T, d), v (n, H, T, e) → o (n, H, T, e).

Forward     S[t] = Diag(a[t]) S[t−1] + k[t] v[t]ᵀ      o[t] = q[t]ᵀ S[t],   a = 1 without decay
Backward    R[t] = q[t] δ[t]ᵀ + Diag(a[t+1]) R[t+1]    δq = S δ    δk = R v    δv = Rᵀ k                    (9.9.14)
            δ(log a)[t] = Σ_{t′ ≥ t} (q∘δq − k∘δk) + Σ_e S[T]∘R[T+1]                                        (9.9.15)

R[T+1] = ∂L/∂S[T] is what comes to the last state from beyond it, and 0 where that is no output.

Neither S[t] nor R[t] is made for every step. With c[t] the sum of log a from the beginning of a chunk to t, and S
before that chunk, a chunk of L steps is

            w[t,s] = e^(c[t] − c[s]) for s ≤ t, else 0       P[t,s] = Σ_d q[t] k[s] w[t,s]
            o[t] = Σ_s P[t,s] v[s] + (q[t]∘e^c[t])ᵀ S        S behind it: e^c[L]∘S + Σ_s (k[s]∘e^(c[L] − c[s])) v[s]ᵀ

No exponent is above 0, and nothing is divided by a product of decays. Only S before each chunk is kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbias.params import Tree


class Operands(NamedTuple):
    q: Float[Array, "n H T d"]
    k: Float[Array, "n H T d"]
    v: Float[Array, "n H T e"]
    log_a: Array | None  # (n, H, T, d), at most 0; None without decay


def forward(operands: Operands, start: Array, chunk: int) -> tuple[Array, Array, Array]:
    """o, S behind the last step, and S before each chunk; `start` is S before the first step."""

    def piece(state, part):
        q, k, v, log_a = part
        decay = _Decay(log_a, q.shape[-2])
        o = jnp.matmul(decay.scores(q, k), v) + jnp.matmul(decay.since_start(q), state)
        return decay.whole(state) + jnp.matmul(_turned(decay.until_end(k)), v), (o, state)

    last, (o, states) = lax.scan(piece, start, _cut(operands, chunk))
    return _joined(o, operands.q.shape[2]), last, states


def backward(
    operands: Operands, states: Array, last: Array, delta: Array, later: Array, chunk: int
) -> tuple[Operands, Array]:
    """δq, δk, δv and δ(log a), and ∂L/∂S before the first step.

    Args:
        states, last: from `forward`.
        later: ∂L/∂S behind the last step.
    """
    q, k, _, log_a = operands

    def piece(behind, at):
        (q, k, v, log_a), delta, state = at
        decay = _Decay(log_a, q.shape[-2])
        delta_scores = jnp.matmul(delta, _turned(v))
        delta_q = decay.to_queries(delta_scores, k) + decay.since_start(jnp.matmul(delta, _turned(state)))
        delta_k = decay.to_keys(delta_scores, q) + decay.until_end(jnp.matmul(v, _turned(behind)))
        delta_v = jnp.matmul(_turned(decay.scores(q, k)), delta) + jnp.matmul(decay.until_end(k), behind)
        before = decay.whole(behind) + jnp.matmul(_turned(decay.since_start(q)), delta)
        return before, (delta_q, delta_k, delta_v)

    cut = *_cut((operands, delta), chunk), states
    delta_start, deltas = lax.scan(piece, later, cut, reverse=True)
    delta_q, delta_k, delta_v = (_joined(part, q.shape[2]) for part in deltas)
    if log_a is None:
        return Operands(delta_q, delta_k, delta_v, None), delta_start
    beyond = jnp.sum(last * later, axis=-1)[:, :, None]
    delta_log_a = sum_of_later(q * delta_q - k * delta_k) + beyond  # (9.9.15)
    return Operands(delta_q, delta_k, delta_v, delta_log_a), delta_start


class _Decay:
    """The decay within a chunk: w, e^c[t] and e^(c[L] − c[s]) times whatever they meet; only the mask without one."""

    def __init__(self, log_a: Array | None, length: int):
        self.seen = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if log_a is None:
            self.w = None
            return
        c = jnp.cumsum(log_a, axis=-2)
        apart = c[..., :, None, :] - c[..., None, :, :]
        self.w = jnp.exp(jnp.where(self.seen[..., None], apart, -jnp.inf))
        self.from_start, self.to_end = jnp.exp(c), jnp.exp(c[..., -1:, :] - c)

    def scores(self, q: Array, k: Array) -> Array:
        """P, (n, H, L, L)."""
        if self.w is None:
            return jnp.where(self.seen, jnp.matmul(q, _turned(k)), 0)
        return jnp.sum(q[..., :, None, :] * k[..., None, :, :] * self.w, axis=-1)

    def to_queries(self, delta_scores: Array, k: Array) -> Array:
        """Σ_s δP[t,s] k[s] w[t,s]."""
        if self.w is None:
            return jnp.matmul(jnp.where(self.seen, delta_scores, 0), k)
        return jnp.sum(delta_scores[..., None] * self.w * k[..., None, :, :], axis=-2)

    def to_keys(self, delta_scores: Array, q: Array) -> Array:
        """Σ_t δP[t,s] q[t] w[t,s]."""
        if self.w is None:
            return jnp.matmul(_turned(jnp.where(self.seen, delta_scores, 0)), q)
        return jnp.sum(delta_scores[..., None] * self.w * q[..., :, None, :], axis=-3)

    def since_start(self, x: Array) -> Array:
        return x if self.w is None else x * self.from_start

    def until_end(self, x: Array) -> Array:
        return x if self.w is None else x * self.to_end

    def whole(self, state: Array) -> Array:
        """A state (n, H, d, e) carried over the whole chunk."""
        return state if self.w is None else state * self.from_start[..., -1, :, None]


def sum_of_later(x: Array) -> Array:
    """Σ_{t′ ≥ t} over the time axis."""
    return jnp.flip(jnp.cumsum(jnp.flip(x, axis=-2), axis=-2), axis=-2)


def _turned(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _cut(arrays: Tree, chunk: int) -> Tree:
    """Each (n, H, T, …) as (chunks, n, H, L, …); the last chunk filled up with zeros, which change nothing."""
    time = jax.tree.leaves(arrays)[0].shape[2]
    number = -(-time // chunk)
    length = -(-time // number) if number else 1

    def pieces(x):
        n, heads, _, size = x.shape
        filled = jnp.pad(x, ((0, 0), (0, 0), (0, number * length - time), (0, 0)))
        return jnp.moveaxis(filled.reshape(n, heads, number, length, size), 2, 0)

    return jax.tree.map(pieces, arrays)


def _joined(pieces: Array, time: int) -> Array:
    number, n, heads, length, size = pieces.shape
    return jnp.moveaxis(pieces, 0, 2).reshape(n, heads, number * length, size)[:, :, :time]
