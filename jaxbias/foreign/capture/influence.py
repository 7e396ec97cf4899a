"""Influence of one example on another: dot products of all pairs of per-example gradients, from (a, δ)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture import _factors
from jaxbias.foreign.capture._backward import backward, tap_factors
from jaxbias.foreign.capture._plan import Method, Tap, plan
from jaxbias.foreign.capture._traced import MEMORY_LIMIT, PerExample, trace_loss


def gradient_dots(
    loss: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
) -> Callable[..., Float[Array, "batch batch"]]:
    """Function `(params, batch) -> (batch, batch)`: dot products ⟨g_s, g_t⟩ of all pairs of per-example gradients.

    The influence of example s on t for one step of gradient descent is −(learning rate) ⟨g_s, g_t⟩.

    Args:
        loss, argnums, has_aux, batch_argnums, keep_batch_dim: as for `per_example_norms`; what else the loss
            returns is dropped.

    Raises:
        TypeError, ValueError: as for `per_example_norms`.

    Source: G. Pruthi, F. Liu, S. Kale, M. Sundararajan, Estimating training data influence by tracing gradient
    descent (2020), eq. 1.
    """
    asked = PerExample("gradient_dots", loss, argnums, has_aux, batch_argnums, keep_batch_dim)

    def dots(*args):
        problem = trace_loss(asked, args)
        methods = plan(problem.analysis, problem.leaves, problem.batch, MEMORY_LIMIT, form_at_leaf=True)
        methods = [m if all(map(_pairs, m.taps)) else Method("formed") for m in methods]
        readings = backward(problem, methods, keep=True)
        total = jnp.zeros(())
        for i, method in enumerate(methods):
            if i in readings.formed:
                rows = readings.formed[i].reshape(problem.batch, -1)
                total += jnp.einsum("sd,td->st", rows, rows, preferred_element_type=accumulation_dtype(rows.dtype))
            elif method.taps:
                operands, deltas = ([x[tap.number] for tap in method.taps] for x in (readings.operands, readings.slots))
                total += _pair_dots(method, operands, deltas)
        return total

    return dots


def _pairs(tap: Tap) -> bool:
    """Whether (a, δ) of this tap can be kept for all examples: not in a remat or a cond, no lookup in a scan."""
    return "call" not in tap.links and not (tap.links and tap.site.equation.name == "gather")


def _pair_dots(method: Method, operands: list[Any], deltas: list[Any]) -> Array:
    """⟨G_s, G_t⟩ of one leaf; one s at a time, against all t."""

    def dot(s, t):
        of_s, of_t = tap_factors(method, *s), tap_factors(method, *t)
        return sum(_factors.inner_product(f, h) for f in of_s for h in of_t)

    everything = (operands, deltas)
    return lax.map(lambda s: jax.vmap(lambda t: dot(s, t))(everything), everything)
