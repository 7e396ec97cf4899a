"""One backward pass over the batch that reads every tap, and the per-example squared norms made of what it read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._meshes import repeated, varying, varying_axes
from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture import _factors
from jaxbias.foreign.capture._factors import Factors
from jaxbias.foreign.capture._plan import Method, Tap, leaf_axes
from jaxbias.foreign.capture._run import Tapped, shift_value, tap_lengths, zero_slots
from jaxbias.foreign.capture._traced import TracedLoss


class Readings(NamedTuple):
    """What one backward pass reads; every array has the batch axis first.

    Attributes:
        value: loss of each example. aux: what else the loss returned, as leaves.
        operands: number of the tap -> the other operands of its contact, where they are kept.
        slots: number of the tap -> δ, or the squared norm.
        formed: leaf -> its per-example gradient.
    """

    value: Array
    aux: list[Any]
    operands: dict[int, Any]
    slots: dict[int, Any]
    formed: dict[int, Any]


def _tapped_loss(problem: TracedLoss, methods: list[Method], keep: bool):
    """`(leaves, slots, shifts, data of one example) -> (loss, (aux, operands))`, and zeros for slots and shifts."""
    program = problem.analysis.program
    tapped = Tapped(program, methods, keep)
    shifted = {
        i: shift_value(program, program.inputs[i]) for i, m in enumerate(methods) if m.name == "formed" and not m.taps
    }

    def loss(leaves, slots, shifts, data):
        outputs, operands = tapped(leaves, data, slots, {shifted[i]: x for i, x in shifts.items()})
        return outputs[0], (outputs[1:], operands)

    shifts = {
        i: varying(jnp.zeros(program.shapes[v], program.dtypes[v]), varying_axes(problem.leaves[i]))
        for i, v in shifted.items()
    }
    return loss, zero_slots(methods, keep), shifts


def backward(problem: TracedLoss, methods: list[Method], keep: bool = False) -> Readings:
    """Loss and readings of all examples in one forward and one backward pass, with weights that are not batched."""
    loss, slots, shifts = _tapped_loss(problem, methods, keep)
    gradient = jax.value_and_grad(loss, argnums=(1, 2), has_aux=True)

    def example(data):
        (value, (aux, operands)), grads = gradient(problem.leaves, slots, shifts, data)
        return value, aux, operands, *grads

    return Readings(*problem.vmap(example)(problem.data))


def backward_twice(problem: TracedLoss, methods: list[Method]) -> tuple[Readings, Callable[[Array], list[Array]]]:
    """Readings, and `weights (batch,) -> Σ_s weights_s ∂L_s/∂θ`: a second backward pass of the same forward pass."""
    loss, slots, shifts = _tapped_loss(problem, methods, keep=False)
    batched = next(x for x, axis in zip(problem.data, problem.in_axes) if axis == 0)
    slots, shifts = jax.tree.map(lambda x: repeated(x, batched), (slots, shifts))

    def losses(leaves, slots, shifts):
        mapped = jax.vmap(loss, in_axes=(None, 0, 0, problem.in_axes), spmd_axis_name=problem.spmd_axis_name)
        return mapped(leaves, slots, shifts, problem.data)

    values, pull, (aux, operands) = jax.vjp(losses, problem.leaves, slots, shifts, has_aux=True)
    _, *grads = pull(jnp.ones_like(values))
    return Readings(values, aux, operands, *grads), lambda weights: pull(weights.astype(values.dtype))[0]


def squared_norms(problem: TracedLoss, methods: list[Method], readings: Readings, keep: bool = False) -> list[Array]:
    """Squared norm (batch,) of the per-example gradient of every leaf, in at least float32."""
    norms = []
    for i, (leaf, method) in enumerate(zip(problem.leaves, methods)):
        dtype = accumulation_dtype(leaf.dtype)
        if method.name == "unused":
            norms.append(jnp.zeros(problem.batch, dtype))
        elif i in readings.formed:
            gradient = readings.formed[i]
            dtype = accumulation_dtype(gradient.dtype)
            norms.append(jnp.sum(jnp.square(gradient.astype(dtype)), axis=tuple(range(1, gradient.ndim))))
        elif method.name == "shared" or keep:
            operands, deltas = ([x[tap.number] for tap in method.taps] for x in (readings.operands, readings.slots))
            norms.append(jax.vmap(lambda a, d, method=method: _kept_norm(method, a, d))(operands, deltas))
        else:
            norms.append(readings.slots[method.taps[0].number])
    return norms


def _kept_norm(method: Method, operands: list[Any], deltas: list[Any]) -> Array:
    """‖Σₖ Gₖ‖² of one example over the taps k of a leaf, cross products ⟨Gₖ, Gₗ⟩ included."""
    all_factors = tap_factors(method, operands, deltas)
    if len(all_factors) == 1:
        return _factors.gram_norm(all_factors[0], method.block)
    norm = sum(_factors.gram_norm(f, method.block) for f in all_factors)
    for i, f in enumerate(all_factors):
        for h in all_factors[i + 1 :]:
            norm += 2 * _factors.inner_product(f, h, method.block)
    return norm  # type: ignore[return-value]


def tap_factors(method: Method, operands: list[Any], deltas: list[Any]) -> list[Factors]:
    """Factors of one example at every tap of a leaf, all with the same axes of the leaf on the left."""
    return [_factors_of(tap, a, d, len(method.taps) > 1) for tap, a, d in zip(method.taps, operands, deltas)]


def _factors_of(tap: Tap, operands: list[Any], delta: Array, several: bool) -> Factors:
    site = tap.site
    f = lambda operands, delta: _factors.factors(site.equation, site.position, operands, delta)
    for _ in tap_lengths(tap):
        f = jax.vmap(f)
    factors = f(operands, delta)
    links = [link for link in tap.links if link != "call"]
    factors = _fold(factors, links) if links else factors
    if several and tap.sizes and 0 not in leaf_axes(tap)[0]:
        return _factors.swap(factors, tap.sizes.left)
    return factors


def _fold(factors: Factors, links: list[str]) -> Factors:
    """Scan axes in front of (groups, rows, entries): those that slice the leaf become groups, the others rows."""
    n = len(links)
    sliced = [i for i, link in enumerate(links) if link == "sliced"]
    whole = [i for i, link in enumerate(links) if link == "whole"]

    def fold(x):
        x = jnp.transpose(x, (*sliced, n, *whole, n + 1, n + 2))
        groups = x.shape[: len(sliced) + 1]
        return x.reshape(_size(groups), -1, x.shape[-1])

    left = factors.left.reshape(-1) if factors.left.ndim == n + 1 else fold(factors.left)
    return Factors(left, fold(factors.right))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
