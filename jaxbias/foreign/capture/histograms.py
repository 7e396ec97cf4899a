"""Sizes of the error signal δ itself at each weight."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxbias._doors import check_size
from jaxbias.foreign.capture._backward import backward
from jaxbias.foreign.capture._plan import tap_products
from jaxbias.foreign.capture._traced import PerExample, trace_loss


class DeltaHistogram(NamedTuple):
    """Counts of |δ| at the contacts of one leaf, over the batch.

    Attributes:
        edges: powers of two, (bins + 1,): bin i holds edges[i] ≤ |δ| < edges[i + 1]; the first and the last are open.
        counts: (bins,). zeros: how many entries are exactly 0.
    """

    edges: Array
    counts: Array
    zeros: Array


def delta_histograms(
    loss: Callable[..., Any],
    lowest: int = -30,
    highest: int = 6,
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
) -> Callable[..., dict[str, DeltaHistogram]]:
    """Function `(params, batch) -> {path: DeltaHistogram}`: sizes of the error signal δ at each weight.

    Shows dead units (zeros), vanishing signals, and what a narrower dtype would lose: the normal numbers of bfloat16
    and float32 reach down to 2⁻¹²⁶, those of float16 to 2⁻¹⁴.

    Args:
        loss, argnums, has_aux, batch_argnums, keep_batch_dim: as for `per_example_norms`; what else the loss
            returns is dropped.
        lowest, highest: exponents of the first and last edge.

    Raises:
        TypeError, ValueError: lowest is not below highest; and as for `per_example_norms`.
    """
    asked = PerExample("delta_histograms", loss, argnums, has_aux, batch_argnums, keep_batch_dim)
    check_size(lowest, "delta_histograms", "lowest", least=-149)
    check_size(highest, "delta_histograms", "highest", least=lowest + 1)

    def histograms(*args):
        problem = trace_loss(asked, args)
        methods = tap_products(problem.analysis, problem.leaves)
        readings = backward(problem, methods)
        edges = jnp.exp2(jnp.arange(lowest, highest + 1, dtype=jnp.float32))
        by_leaf = {}
        for path, method in zip(problem.paths, methods):
            if not method.taps:
                continue
            size = jnp.abs(jnp.concatenate([readings.slots[tap.number].reshape(-1) for tap in method.taps]))
            bins = jnp.clip(jnp.floor(jnp.log2(jnp.where(size > 0, size, 1))), lowest, highest - 1) - lowest
            counts = jnp.zeros(highest - lowest, jnp.int32).at[bins.astype(jnp.int32)].add((size > 0).astype(jnp.int32))
            by_leaf[path] = DeltaHistogram(edges, counts, jnp.sum(size == 0))
        return by_leaf

    return histograms
