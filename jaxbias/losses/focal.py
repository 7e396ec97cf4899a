"""Focal loss from logits: cross-entropy in which a row counts less the better it is predicted.

π is the probability that the output gives to the truth, α the weight of its class, γ ≥ 0; γ = 0 is cross-entropy.

Binary, floating-point targets y of 0 and 1 for K independent outputs per row, s = 2y − 1, π = σ(s z):

Forward     L = r Σ_n Σ_k −α_y (1 − π)^γ log π
Backward    δ = ∂L/∂z = r α_y s (1 − π)^γ (γ π log π − (1 − π))                                  (9), (9.11.3)

Softmax, integer labels in [0, K), one per row, p = softmax(z), π = p_y:

Forward     L = r Σ_n −α_y (1 − π)^γ log π
Backward    δ = r α_y ((1 − π)^γ − γ π (1 − π)^(γ−1) log π) (p − onehot(y))                      (9), (9.11.4)
            which is computed as r α_y (1 − π)^γ (1 − γ π log(π)/(1 − π)) (p − onehot(y))

r = 1/n for the mean over rows, 1 for the sum. 1 − π is never a difference: it is σ(−s z), or the sum of the other
classes' probabilities. Where it is 0, log(π)/(1 − π) is its limit −1; for γ < 1 the formula as it stands, and autodiff
of it, is ∞·0 there.

The bias that gives σ(b) = π₀ at the start, b = −log((1 − π₀)/π₀), keeps the many easy rows of a rare class from
drowning it in the first steps. In the softmax form one constant on all logits changes nothing: δ sums to 0 over a row.

Kinks: none.

Source: T. Lin et al., Focal Loss for Dense Object Detection (2017), equations 5 and 11; derivation sheet (9.11.3-4).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Integer, Shaped

from jaxbias._doors import check_number
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample, generator
from jaxbias.losses._loss import (
    Rows,
    check_out,
    check_reduction,
    check_same_shape,
    is_label,
    is_valid,
    only_counted,
    poison,
    read_labels,
    read_weight,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static


class BinaryResiduals(NamedTuple):
    out: Float[Array, "*batch k"]
    targets: Float[Array, "*batch k"]
    class_weight: Float[Array, "..."] | None
    gamma: Static
    rows: Rows


class SoftmaxResiduals(NamedTuple):
    out: Float[Array, "*batch k"]
    labels: Integer[Array, "*batch"]
    class_weight: Float[Array, " k"] | None
    gamma: Static
    rows: Rows


Residuals = BinaryResiduals | SoftmaxResiduals


def forward(
    out: Float[Array, "*batch k"],
    targets: Shaped[Array, "..."],
    *,
    gamma: float = 2.0,
    class_weight: Any = None,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """The binary form for floating-point targets, the softmax form for integer labels; in nats.

    Args:
        out: logits z (*batch, K).
        targets: 0 or 1 in the shape of out, floating point; or labels (*batch,), integers in [0, K).
        gamma: γ ≥ 0, how fast the weight of what is predicted well falls.
        class_weight: α. For targets of 0 and 1 (α₀, α₁), or (2, K), other ones for each output; the paper's α is
            (1 − α, α). For labels (K,); the mean is then divided by the sum of the labels' weights, as that of
            `cross_entropy`.
        row_weight: one number per row; the mean is then divided by their sum.
        reduction: "mean" or "sum" over rows, or "none": a loss per row.

    Raises:
        TypeError: out is not floating point; targets are neither integers nor floating point.
        ValueError: the shapes do not fit, binary targets other than 0 and 1, a label outside [0, K), a negative gamma,
            an unknown reduction, or weights of another shape. Values can be looked at only outside jit; inside, such a
            label makes L and its row of δ NaN.
    """
    _check_configuration(gamma, reduction, "focal.forward")
    check_out(out, "focal.forward")
    if hasattr(targets, "dtype") and jnp.issubdtype(targets.dtype, jnp.integer):
        return _softmax(out, targets, gamma, class_weight, row_weight, reduction)
    check_same_shape(out, targets, "focal.forward")
    _check_yes_or_no(targets)
    class_weight = read_weight(class_weight, ((2,), (2, out.shape[-1])), out, "focal.forward", "class_weight")
    _, log_pi, log_rest = _of_the_truth(out, targets)
    per_row = (-_weight_of_target(targets, class_weight) * jnp.exp(gamma * log_rest) * log_pi).sum(axis=-1)
    rows = weigh_rows(per_row, reduction, row_weight, "focal.forward")
    return reduce_rows(per_row, rows), BinaryResiduals(out, targets, class_weight, Static(gamma), rows)


def _softmax(out, targets, gamma, class_weight, row_weight, reduction):
    classes = out.shape[-1]
    class_weight = read_weight(class_weight, ((classes,),), out, "focal.forward", "class_weight")
    labels = read_labels(out, targets, "focal.forward")
    _, log_pi, rest = _of_the_label(out, labels)
    of_label = None if class_weight is None else class_weight[jnp.clip(labels, 0, classes - 1)]
    per_row = -_power(rest, gamma) * log_pi
    if of_label is not None:
        per_row = of_label * per_row
    rows = weigh_rows(per_row, reduction, row_weight, "focal.forward", class_weight=of_label)
    rows = poison(rows, per_row, is_valid(labels, classes))
    return reduce_rows(per_row, rows), SoftmaxResiduals(out, labels, class_weight, Static(gamma), rows)


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "*batch k"]:
    """δ = r α s (1 − π)^γ (γ π log π − (1 − π)), or r α ((1 − π)^γ − γ π (1 − π)^(γ−1) log π) (p − onehot(y)).

    Args:
        delta: the cotangent of the loss: of each row where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, targets, class_weight, gamma, rows = residuals
    r = row_cotangent(rows, delta, widen(out).dtype, "focal.backward")
    if isinstance(residuals, BinaryResiduals):
        sign, log_pi, log_rest = _of_the_truth(out, targets)
        slope = gamma.value * jnp.exp(log_pi) * log_pi - jnp.exp(log_rest)
        weight = r * sign * _weight_of_target(targets, class_weight)
        return only_counted(rows, weight * jnp.exp(gamma.value * log_rest) * slope).astype(out.dtype)
    p, log_pi, rest = _of_the_label(out, targets)
    per_rest = jnp.where(rest > 0, log_pi / jnp.where(rest > 0, rest, 1), -1)
    factor = _power(rest, gamma.value) * (1 - gamma.value * jnp.exp(log_pi) * per_rest)
    if class_weight is not None:
        factor = factor * class_weight[jnp.clip(targets, 0, out.shape[-1] - 1)]
    difference = jnp.where(is_label(targets, out.shape[-1]), -rest[..., None], p)
    return only_counted(rows, r * factor[..., None] * difference).astype(out.dtype)


def loss(
    *, gamma: float = 2.0, class_weight: Any = None, row_weight: Any = None, reduction: str = "mean"
) -> ConfiguredLoss:
    """The loss with γ, its weights and reduction bound; keywords as for `forward`."""
    _check_configuration(gamma, reduction, "focal.loss")
    bound = partial(forward, gamma=gamma, class_weight=class_weight, row_weight=row_weight, reduction=reduction)
    return ConfiguredLoss(bound, backward, "focal")


def _of_the_truth(out: Array, targets: Array) -> tuple[Array, Array, Array]:
    """s, log π and log(1 − π) of the binary form."""
    z = widen(out)
    sign = jnp.where(targets > 0.5, 1, -1).astype(z.dtype)
    return sign, jax.nn.log_sigmoid(sign * z), jax.nn.log_sigmoid(-sign * z)


def _of_the_label(out: Array, labels: Array) -> tuple[Array, Array, Array]:
    """p, log π and 1 − π of the softmax form; where π is nearly 1 its logarithm is that of 1 − (1 − π)."""
    of_label = is_label(labels, out.shape[-1])
    log_p = jax.nn.log_softmax(widen(out))
    p = jnp.exp(log_p)
    rest = jnp.where(of_label, 0, p).sum(axis=-1)
    log_pi = jnp.where(of_label, log_p, 0).sum(axis=-1)
    near = rest < 0.5
    return p, jnp.where(near, jnp.log1p(-jnp.where(near, rest, 0)), log_pi), rest


def _power(base: Array, gamma: float) -> Array:
    """base^γ, with 0⁰ = 1."""
    return jnp.ones_like(base) if gamma == 0 else base**gamma


def _weight_of_target(targets: Array, class_weight: Array | None) -> Any:
    """α₀ or α₁, by the target; 1 without weights."""
    if class_weight is None:
        return 1.0
    no, yes = (jnp.broadcast_to(weight, targets.shape) for weight in class_weight)
    return jnp.where(targets > 0.5, yes, no)


def _check_configuration(gamma: float, reduction: str, function: str) -> None:
    check_number(gamma, function, "gamma")
    if not gamma >= 0:
        raise ValueError(f"{function}: gamma must not be negative, got {gamma}.")
    check_reduction(reduction, function)


def _check_yes_or_no(targets: Array) -> None:
    if isinstance(targets, Tracer):
        return
    known = np.asarray(targets)
    wrong = known[(known != 0) & (known != 1)]
    if wrong.size:
        raise ValueError(
            f"focal.forward: binary targets must be 0 or 1, got {wrong[0]}. Targets of -1 and 1 become "
            f"(1 + targets) / 2; class labels must be integers."
        )


def _yes_or_no(key, dtype):
    return jax.device_put(generator(key).integers(2, size=(5, 3)).astype(dtype))


def _labels(key, dtype):
    return jax.device_put(generator(key).integers(4, size=(2, 5), dtype=np.int32))


DERIVATIONS = (
    Derivation(
        "focal",
        (
            r"L = -\frac{1}{n} \sum_{n,k} (1 - \pi_{nk})^\gamma \log \pi_{nk},\quad \pi = \sigma(s z)",
            r"\partial L/\partial z = \frac{1}{n}\, s\, (1 - \pi)^\gamma (\gamma \pi \log \pi - (1 - \pi))",
            r"L = -\frac{1}{n} \sum_n (1 - \pi_n)^\gamma \log \pi_n,\quad \pi_n = \mathrm{softmax}(z_n)_{y_n}",
            r"\partial L/\partial z = \frac{1}{n} (1 - \pi)^\gamma (1 - \gamma \pi \log(\pi)/(1 - \pi)) (p - e_y)",
        ),
        "Lin et al. (2017), equations 5 and 11; equations 9.11.3-9.11.4",
        (
            LossExample("binary", loss(), (5, 3), _yes_or_no),
            LossExample(
                "binary, γ = ½, class weights, row weights, none",
                loss(gamma=0.5, class_weight=(0.25, 0.75), row_weight=[0.5, 2, 0, 1, 1.5], reduction="none"),
                (5, 3),
                _yes_or_no,
            ),
            LossExample("softmax", loss(), (2, 5, 4), _labels),
            LossExample(
                "softmax, γ = ½, class weights", loss(gamma=0.5, class_weight=(0.5, 2, 1, 3)), (2, 5, 4), _labels
            ),
        ),
    ),
)
