"""Binary cross-entropy from logits z: K independent yes/no outputs per row, summed; then mean (or sum) over the n rows.

With p = σ(z) and targets y in [0, 1]:

Forward     L = r Σ_n Σ_k −y log p − (1 − y) log(1 − p)
              = r Σ_n Σ_k max(z, 0) − z y + log(1 + exp(−|z|))      r = 1/n for the mean over rows, 1 for the sum
Backward    δ = ∂L/∂z = r (p − y)                                   (9), 4.2

Only exp(−|z|) ≤ 1 is ever taken, so no logit overflows. Kinks: none; those of max(z, 0) and |z| cancel.

Source: C. Bishop, PRML (2006), eqs. 4.90-4.91; derivation sheet 4.2.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, uniform
from jaxbias.losses._loss import check_reduction, check_same_shape, reduce_rows, row_factor
from jaxbias.params import ConfiguredLoss, Static


class Residuals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    r: Static


def forward(
    out: Float[Array, "*batch k"], targets: Float[Array, "*batch k"], *, reduction: str = "mean"
) -> tuple[Float[Array, ""], Residuals]:
    """L = r Σ −y log σ(z) − (1 − y) log(1 − σ(z)), in nats.

    Args:
        out: finite logits z; every axis but the last counts rows.
        targets: y in [0, 1], in the shape of out.
        reduction: "mean" or "sum" over rows.

    Raises:
        TypeError: out or targets is not floating point.
        ValueError: their shapes differ, out is a scalar, targets outside [0, 1] (inside jit they cannot be looked
            at), or an unknown reduction.
    """
    check_reduction(reduction, "binary_cross_entropy.forward")
    check_same_shape(out, targets, "binary_cross_entropy.forward")
    _check_probabilities(targets)
    z = widen(out)
    positive = z >= 0  # one choice for both kinks, so that they cancel in autodiff of this forward too
    rest = jnp.log1p(jnp.exp(jnp.where(positive, -z, z))) - z * widen(targets)
    cost = jnp.where(positive, z + rest, rest)
    per_row = cost.sum(axis=-1)
    return reduce_rows(per_row, reduction), Residuals(out, targets, Static(row_factor(per_row, reduction)))


def backward(residuals: Residuals) -> Float[Array, "*batch k"]:
    """δ = r (σ(z) − y)."""
    out, targets, r = residuals
    z = widen(out)
    positive = z >= 0
    exponential = jnp.exp(jnp.where(positive, -z, z))
    p = jnp.where(positive, 1, exponential) / (1 + exponential)
    return (r.value * (p - widen(targets))).astype(out.dtype)


def loss(*, reduction: str = "mean") -> ConfiguredLoss:
    """The loss with its reduction bound; keywords as for `forward`."""
    check_reduction(reduction, "binary_cross_entropy.loss")
    return ConfiguredLoss(partial(forward, reduction=reduction), backward, "binary_cross_entropy")


def _check_probabilities(targets: Array) -> None:
    if isinstance(targets, Tracer):
        return
    known = np.asarray(targets)
    outside = known[~((known >= 0) & (known <= 1))]
    if outside.size:
        raise ValueError(
            f"binary_cross_entropy.forward: targets must lie in [0, 1], got {outside[0]}. "
            f"Targets of -1 and 1 become (1 + targets) / 2."
        )


def _targets(key, dtype):
    return uniform(key, (5, 3), dtype)


DERIVATIONS = (
    Derivation(
        "binary_cross_entropy",
        (
            r"L = -\frac{1}{n} \sum_{n,k} y_{nk} \log \sigma(z_{nk}) + (1 - y_{nk}) \log(1 - \sigma(z_{nk}))",
            r"\partial L/\partial z = \frac{1}{n} (\sigma(z) - y)",
        ),
        "Bishop (2006), eqs. 4.90-4.91; derivation sheet 4.2",
        (
            LossExample("mean", loss(), (5, 3), _targets),
            LossExample("sum", loss(reduction="sum"), (5, 3), _targets),
        ),
    ),
)
