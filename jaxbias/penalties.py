"""Penalties on weights, with their gradients by hand; biases are exempt unless asked for.

    penalty     value           gradient
    l2(λ)       λ Σ w²          2 λ w
    l1(λ)       λ Σ |w|         λ sign(w), 0 at w = 0

A penalised bias keeps a linear neuron from balancing: its mean residual becomes λ b (E20). Under Adam a penalty in the
loss is not decoupled weight decay; that is `optax.adamw` with a mask.

Source: derivation sheet, section 7; claims A2.6, E20.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._doors import check_number, describe
from jaxbias._numerics import accumulation_dtype, widen
from jaxbias._trees import path_name
from jaxbias.params import Tree

SomeFunction = TypeVar("SomeFunction", bound=Callable[..., Any])


class Penalty(NamedTuple):
    """A penalty: `value(params)` is a scalar in at least float32, `gradient(params)` a tree like params."""

    value: Callable[[Tree], Array]
    gradient: Callable[[Tree], Tree]
    name: str = "penalty"


def l2(strength: float, *, biases: bool = False, roles: Tree = None) -> Penalty:
    """λ Σ w² with gradient 2 λ w; halve λ for the convention λ/2 Σ w².

    Args:
        strength: λ ≥ 0.
        biases: penalise biases too.
        roles: from `jb.roles`: penalises the leaves with the role "weight" (and "bias"). Without it, the leaves whose
            field is named `weight` (and `bias`), which counts the scale of a norm among the weights.

    Raises:
        TypeError: λ is no number.
        ValueError: a negative λ.
    """
    return _penalty("l2", strength, jnp.square, lambda w: 2 * w, biases, roles)


def l1(strength: float, *, biases: bool = False, roles: Tree = None) -> Penalty:
    """λ Σ |w| with gradient λ sign(w); arguments as for `l2`. The kink at w = 0 has gradient 0."""
    return _penalty("l1", strength, jnp.abs, jnp.sign, biases, roles)


def _penalty(
    name: str,
    strength: float,
    cost: Callable[[Array], Array],
    slope: Callable[[Array], Array],
    biases: bool,
    roles: Tree,
) -> Penalty:
    check_number(strength, f"penalties.{name}", "strength")
    if not strength >= 0:
        raise ValueError(f"penalties.{name}: strength must be 0 or more, got {strength}.")
    counted = {"weight", "bias"} if biases else {"weight"}

    def counts(params):
        if roles is None:
            return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path[-1:]) in counted, params)
        return jax.tree.map(lambda role, _: bool(set(role.split("+")) & counted), roles, params)

    def value(params):
        pairs = zip(jax.tree.leaves(counts(params)), jax.tree.leaves(params))
        costs = [jnp.sum(cost(widen(leaf))) for on, leaf in pairs if on]
        widest = accumulation_dtype(max((c.dtype for c in costs), key=lambda d: d.itemsize, default=jnp.float32))
        return strength * sum((c.astype(widest) for c in costs), start=jnp.zeros((), widest))

    def gradient(params):
        return jax.tree.map(
            lambda on, leaf: strength * slope(leaf) if on else jnp.zeros_like(leaf), counts(params), params
        )

    return Penalty(value, gradient, name)


def add(value_and_grad: SomeFunction, *penalties: Penalty) -> SomeFunction:
    """`(params, ...) -> (loss, grads)` with the penalties and their gradients added.

    Args:
        value_and_grad: from `jb.value_and_grad` or `jax.value_and_grad`, without aux.

    Raises:
        TypeError: what is no `Penalty`.
    """

    for penalty in penalties:
        if not isinstance(penalty, Penalty):
            raise TypeError(f"penalties.add: a penalty is what l2(1e-4) or l1(1e-4) returns, got {describe(penalty)}.")

    def penalised(params, *args, **kwargs):
        loss, grads = value_and_grad(params, *args, **kwargs)
        for penalty in penalties:
            loss = loss + penalty.value(params).astype(loss.dtype)
            grads = jax.tree.map(jnp.add, grads, penalty.gradient(params))
        return loss, grads

    return cast(SomeFunction, penalised)
