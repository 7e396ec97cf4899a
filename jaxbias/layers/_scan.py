"""Linear scans: a state that every step multiplies and adds to, all steps at once or in chunks; time is the first axis.

Scan        h[t] = a[t]∘h[t−1] + b[t]                                                                       (9.9.1)
Adjoint     λ[t] = D[t] + a[t+1]∘λ[t+1]         δa = λ∘h[t−1]    δb = λ     ∂L/∂h[0] = a[1]∘λ[1]            (9.9.2)

Two steps are one step: (a, b) and then (a′, b′) are (a a′, a′ b + b′). This product is associative, so log₂ T rounds
give all states; the adjoint is the same scan the other way, over a moved on by one. Nothing is ever divided by a
running product of a, which underflows: 400 steps of a = 0.05 would be 0/0 in float32.

In chunks no more than the states of one chunk exist at any time. Forward keeps the state before each chunk; backward
takes the chunks from the last to the first and computes the states of each again.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxbias.layers._sequence import before
from jaxbias.params import Tree


@partial(jax.jit, static_argnames="reverse")  # outside of jit one program, not one for each of its many steps
def scan(a: Array, b: Array, start: Array, *, reverse: bool = False) -> Array:
    """h of every step, time first, by an associative scan.   (9.9.1)

    Args:
        a: (time, …), of the rank of b; its other axes may have length 1.
        b: (time, …).
        start: h before the first step, (…).
        reverse: from the last step to the first.
    """
    if not len(b):
        return b
    first = _first(reverse)
    b = b.at[first].add(a[first] * start)
    return lax.associative_scan(_two_steps, (a, b), reverse=reverse)[1]


def _two_steps(step: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (a_then, b_then) = step, then
    return a * a_then, a_then * b + b_then


def adjoint(a: Array, delta_h: Array, later: Array, *, reverse: bool = False) -> tuple[Array, Array]:
    """λ of every step, and ∂L/∂h[0].   (9.9.2)

    Args:
        a: as for `scan`.
        delta_h: D of every step, (time, …).
        later: what comes to the state after the last step from beyond it, (…).
        reverse: as for `scan`: this runs against it.
    """
    if not len(delta_h):
        return delta_h, later
    a_after = before(a, jnp.ones_like(a[0]), not reverse)  # a[t+1], and 1 behind the last step
    lam = scan(a_after, delta_h, later, reverse=not reverse)
    first = _first(reverse)
    return lam, a[first] * lam[first]


def counted(counts: Array | None, a: Array, b: Array) -> tuple[Array, Array]:
    """a and b with which a step that does not count keeps the state: 1 and 0.   (9.3.21)

    Args:
        counts: (time, n) bools, or None where all steps count.
    """
    if counts is None:
        return a, b
    a = jnp.broadcast_to(a, b.shape)
    return _chosen(counts, a, jnp.ones_like(a)), _chosen(counts, b, jnp.zeros_like(b))


def last_state(h: Array, start: Array, reverse: bool) -> Array:
    """h after the last step; where there is none, the state before the first."""
    return h[0 if reverse else -1] if len(h) else start


def _chosen(counts: Array, new: Array, old: Array) -> Array:
    return jnp.where(jnp.expand_dims(counts, range(2, new.ndim)), new, old)


def _first(reverse: bool) -> int:
    return -1 if reverse else 0


# --- in chunks --------------------------------------------------------------------------------------------------------


class Recurrence(NamedTuple):
    """What a layer has to say of its scan. `steps` is a tree of arrays (time, n, …), of some of the steps.

    Attributes:
        terms: steps → a and b of (9.9.1).
        read: (steps, h) → y of these steps.
        reached: (steps, δ = ∂L/∂y) → D of (9.9.2).
        deltas: (steps, a, h₋, h, δ, λ) → the gradients of `steps`, and those of what all steps share, summed over them.
    """

    terms: Callable[[Tree], tuple[Array, Array]]
    read: Callable[[Tree, Array], Array]
    reached: Callable[[Tree, Array], Array]
    deltas: Callable[..., tuple[Tree, Tree]]


def run(
    recurrence: Recurrence, steps: Tree, counts: Array | None, start: Array, *, chunk: int, reverse: bool
) -> tuple[Array, Array, Array]:
    """y of all steps, the state after the last one, and that before each chunk, which is kept for `pull_back`.

    Args:
        steps: a tree of arrays (time, n, …).
        counts: (time, n) bools, whether a step counts; None where all do. y of one that does not is 0.
        start: the state before the first step.
        chunk: largest number of steps whose states exist at the same time.
        reverse: from the last step to the first.
    """

    def piece(state, at):
        steps, counts = at
        h = scan(*counted(counts, *recurrence.terms(steps)), state, reverse=reverse)
        y = recurrence.read(steps, h)
        return last_state(h, state, reverse), (y if counts is None else _chosen(counts, y, jnp.zeros_like(y)), state)

    last, (y, states) = lax.scan(piece, start, _cut(steps, counts, chunk), reverse=reverse)
    return _joined(y, _time(steps)), last, states


def pull_back(
    recurrence: Recurrence,
    steps: Tree,
    counts: Array | None,
    states: Array,
    delta: Array,
    later: Array,
    *,
    chunk: int,
    reverse: bool,
) -> tuple[Tree, Tree, Array]:
    """The gradients of `steps`, those of what they share, and ∂L/∂h[0].

    Args:
        states: before each chunk, from `run`; the others are those of `run`.
        delta: ∂L/∂y, (time, n, …).
        later: ∂L/∂(state after the last step) from elsewhere.
        chunk, reverse: those of `run`.
    """

    def piece(later, at):
        (steps, delta), counts, state = at
        if counts is not None:
            delta = _chosen(counts, delta, jnp.zeros_like(delta))
        a, b = counted(counts, *recurrence.terms(steps))
        h = scan(a, b, state, reverse=reverse)
        lam, earlier = adjoint(a, recurrence.reached(steps, delta), later, reverse=reverse)
        if counts is not None:
            lam = _chosen(counts, lam, jnp.zeros_like(lam))
        return earlier, recurrence.deltas(steps, a, before(h, state, reverse), h, delta, lam)

    cut = *_cut((steps, delta), counts, chunk), states
    delta_start, (of_steps, of_shared) = lax.scan(piece, later, cut, reverse=not reverse)
    joined = jax.tree.map(lambda delta: _joined(delta, _time(steps)), of_steps)
    return joined, jax.tree.map(lambda grad: jnp.sum(grad, axis=0), of_shared), delta_start


def _cut(steps: Tree, counts: Array | None, chunk: int) -> tuple[Tree, Array | None]:
    """(time, …) made (chunks, steps of a chunk, …), the last chunk filled up with steps that do not count."""
    time = _time(steps)
    number = -(-time // chunk)
    length = -(-time // number) if number else 1
    missing = number * length - time
    if missing and counts is None:
        counts = jnp.ones((time, jax.tree.leaves(steps)[0].shape[1]), bool)

    def pieces(x):
        filled = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x
        return filled.reshape(number, length, *x.shape[1:])

    return jax.tree.map(pieces, steps), None if counts is None else pieces(counts)


def _joined(x: Array, time: int) -> Array:
    return x.reshape(math.prod(x.shape[:2]), *x.shape[2:])[:time]


def _time(steps: Tree) -> int:
    return len(jax.tree.leaves(steps)[0])
