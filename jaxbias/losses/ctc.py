"""Connectionist temporal classification: a sequence of T outputs under S ≤ T labels whose places in time nobody knows.

Of each step the output gives the probabilities of K classes, one of which is a blank. A path is one class per step; it
spells what is left when repeats are merged and then blanks dropped. L is −log of the probability of all paths that
spell the labels. They are walked together, on the labels with a blank around each, l′ (2S + 1): from s a path stays, or
goes to s + 1, or to s + 2 where that is another label than l′_s and no blank.

With log p[t] = log softmax(z[t]), ⊕ for log(exp + exp), and − for places that cannot be reached or left so:

Forward     α[0] = 0 at s = 0, before the first step
            α[t](s) = (α[t−1](s) ⊕ α[t−1](s−1) ⊕ α[t−1](s−2)) + log p[t, l′_s]
            L = Σ_n −r_n log Pr,    log Pr = α[T](2S) ⊕ α[T](2S − 1)              r = 1/n for the mean, 1 for the sum
Backward    β[T] = 0 at the two ends,  e[t](s) = β[t](s) + log p[t, l′_s]
            β[t−1](s) = e[t](s) ⊕ e[t](s+1) ⊕ e[t](s+2)
            γ[t](s) = exp(α[t](s) + β[t](s) − log Pr) = softmax(α[t] + β[t])(s)
            δ = ∂L/∂z[t,k] = r (p[t,k] − Σ_{s: l′_s = k} γ[t](s))                                        (9), (9.11.20)
            ∂L/∂log p[t,k] = −r Σ_{s: l′_s = k} γ[t](s)      of log-probabilities that came as such          (9.11.21)

γ[t] is the probability of being at s at step t given the labels; it sums to 1 over s, so δ of logits sums to 0 over the
classes. Behind a `log_softmax`, (9.11.20) and (9.11.21) give the network the same gradient: the backward of that layer
subtracts p times the sum, which is −1. Taken for free log-probabilities, (9.11.20) is wrong.

Each option touches one of these steps:
    lengths             steps behind a row's own length keep α and β, and have δ = 0
    log_probabilities   log p = z, and (9.11.21)
    skip_infeasible     a row whose labels no path spells, because T < S + the number of repeats or because of logits of
                        −inf, counts nothing; otherwise its loss is ∞ and its δ NaN

Kept are the logits and α, not β. All of it in logarithms in at least float32, with −1e30 for log 0. Both α[t] and β[t]
are held relative to their largest entry, whose sum over t is added to log Pr at the end; γ[t] does not notice, being
normalised. Otherwise both would grow to −log Pr, and γ lose as many digits as that number has before its point.

    value, residuals = jb.losses.ctc.forward(logits, jnp.array([[3, 3, 1], [2, -1, -1]]))        # logits (2, T, K)
    value, residuals = jb.losses.ctc.forward(logits, (labels, jnp.array([9, 5])))    # of 9 and 5 steps

Kinks: none.

Source: A. Graves, S. Fernández, F. Gomez and J. Schmidhuber, Connectionist Temporal Classification (2006), equations
6-16; derivation sheet (9.11.20-21).
"""

from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Integer

from jaxbias._doors import check_float, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, LossExample
from jaxbias.losses._loss import (
    Rows,
    check_reduction,
    only_counted,
    poison,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import ConfiguredLoss, Static

LOG_ZERO = -1e30
"""A logarithm of 0 that can be added up: α − α is 0, where that of −∞ is NaN."""


class Lattice(NamedTuple):
    """Where a path may be: the labels with blanks between, and how many labels and steps there are."""

    symbols: Integer[Array, "n places"]
    skips: Bool[Array, "n places"]  # whether a path may come from s − 2
    size: Integer[Array, " n"]  # how many labels
    counted_steps: Bool[Array, "time n 1"]


class Residuals(NamedTuple):
    out: Float[Array, "n time k"]
    lattice: Lattice
    alpha: Float[Array, "time n places"]
    possible: Bool[Array, " n"]
    rows: Rows
    log_probabilities: Static


def forward(
    out: Float[Array, "n time k"],
    targets: Any,
    *,
    blank: int = 0,
    log_probabilities: bool = False,
    skip_infeasible: bool = False,
    row_weight: Any = None,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = Σ_n −r_n log Pr(labels_n), in nats.

    Args:
        out: logits z (n, T, K), a row for each sequence.
        targets: labels (n, S), integers in [0, K) but `blank`; what is missing to S is negative, −1 say, behind the
            labels. Or a pair (labels, lengths), with how many of the T steps of each sequence count, (n,).
        blank: the class that spells nothing.
        log_probabilities: out holds log p already, as behind `log_softmax`.
        skip_infeasible: rows whose labels cannot be spelled count nothing, neither in L nor in the n of the mean, and
            have δ = 0.
        row_weight: one number per sequence; the mean is then divided by their sum.
        reduction: "mean" or "sum" over sequences, or "none": a loss for each. PyTorch's mean divides each by S first.

    Raises:
        TypeError: out is not floating point, or labels or lengths are no integers.
        ValueError: the shapes do not fit, a label outside [0, K), one that is the blank or stands behind padding, a
            length outside [0, T], labels that cannot be spelled in as many steps unless `skip_infeasible`, a blank
            outside [0, K), an unknown reduction, or a row_weight of another shape. Targets can be looked at only
            outside jit; inside, wrong ones make L and their row of δ NaN, or L infinite where they cannot be spelled.
    """
    _check_configuration(blank, log_probabilities, skip_infeasible, reduction, "ctc.forward")
    labels, lengths = _read_targets(out, targets, blank, skip_infeasible)
    lattice, valid = _lattice(labels, lengths, out.shape, blank)
    alpha, log_probability = _alpha(out, lattice, log_probabilities)
    possible = log_probability > LOG_ZERO / 2
    per_row = jnp.where(possible, -log_probability, jnp.inf)
    counts = possible if skip_infeasible else None
    rows = poison(weigh_rows(per_row, reduction, row_weight, "ctc.forward", counts=counts), per_row, valid)
    return reduce_rows(per_row, rows), Residuals(out, lattice, alpha, possible, rows, Static(log_probabilities))


def backward(residuals: Residuals, delta: Any = 1.0) -> Float[Array, "n time k"]:
    """δ = r (p − Σ_{s: l′_s = k} γ), or −r Σ γ from log-probabilities; 0 for steps that do not count.

    Args:
        delta: the cotangent of the loss: of each sequence where there is no reduction.

    Raises:
        ValueError: a delta of another shape.
    """
    out, lattice, alpha, possible, rows, log_probabilities = residuals
    slope = _slope(out, lattice, alpha, log_probabilities.value)
    r = row_cotangent(rows, delta, slope.dtype, "ctc.backward")
    r = jnp.broadcast_to(jnp.asarray(r, slope.dtype), (len(out), 1))
    # r of a sequence that cannot be spelled is NaN, and its δ with it
    r = only_counted(rows, jnp.where(possible[:, None], r, jnp.nan))
    counted = jnp.moveaxis(lattice.counted_steps, 0, 1) & (r[..., None] != 0)
    return jnp.where(counted, r[..., None] * slope, 0).astype(out.dtype)


def loss(
    *,
    blank: int = 0,
    log_probabilities: bool = False,
    skip_infeasible: bool = False,
    row_weight: Any = None,
    reduction: str = "mean",
) -> ConfiguredLoss:
    """The loss with its options, weights and reduction bound; keywords as for `forward`."""
    _check_configuration(blank, log_probabilities, skip_infeasible, reduction, "ctc.loss")
    bound = {
        "blank": blank,
        "log_probabilities": log_probabilities,
        "skip_infeasible": skip_infeasible,
        "row_weight": row_weight,
        "reduction": reduction,
    }
    return ConfiguredLoss(partial(forward, **bound), backward, "ctc")


# --- the walk over the lattice ----------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("shape", "blank"))
def _lattice(labels: Array, lengths: Array, shape: tuple[int, ...], blank: int) -> tuple[Lattice, Bool[Array, " n"]]:
    """The lattice, and which rows make sense: of the others nobody saw the values."""
    n, time, classes = shape
    present = labels >= 0
    count = present.sum(axis=1)
    in_place = present == (lax.broadcasted_iota(count.dtype, labels.shape, 1) < count[:, None])
    valid = (in_place & (labels < classes) & (labels != blank)).all(axis=1) & (lengths >= 0) & (lengths <= time)
    labels = jnp.where(present, jnp.clip(labels, 0, classes - 1), blank)
    blanks = jnp.full_like(labels, blank)
    first = jnp.full((n, 1), blank, labels.dtype)
    symbols = jnp.concatenate([first, jnp.stack([labels, blanks], axis=-1).reshape(n, 2 * labels.shape[1])], axis=1)
    skips = (symbols != blank) & (symbols != _moved(symbols, 2, blank))
    counted_steps = lax.broadcasted_iota(lengths.dtype, (time, n, 1), 0) < lengths[None, :, None]
    return Lattice(symbols, skips, count, counted_steps), valid


@partial(jax.jit, static_argnames="log_probabilities")
def _alpha(
    out: Float[Array, "n time k"], lattice: Lattice, log_probabilities: bool
) -> tuple[Float[Array, "time n places"], Float[Array, " n"]]:
    """α of every step, and log Pr."""
    return _forward_pass(_emissions(_log_p(out, log_probabilities), lattice), lattice)


@partial(jax.jit, static_argnames="log_probabilities")
def _slope(
    out: Float[Array, "n time k"], lattice: Lattice, alpha: Float[Array, "time n places"], log_probabilities: bool
) -> Float[Array, "n time k"]:
    """p − Σ_{s: l′_s = k} γ, or −Σ γ."""
    log_p = _log_p(out, log_probabilities)
    gamma = _occupancy(_emissions(log_p, lattice), alpha, lattice)
    slope = -_of_classes(gamma, lattice.symbols, out.shape[-1])
    return slope if log_probabilities else jnp.exp(log_p) + slope


def _log_p(out: Float[Array, "n time k"], log_probabilities: bool) -> Float[Array, "n time k"]:
    return widen(out) if log_probabilities else jax.nn.log_softmax(widen(out))


def _emissions(log_p: Float[Array, "n time k"], lattice: Lattice) -> Float[Array, "time n places"]:
    """log p[t, l′_s]."""
    picked = jax.vmap(lambda log_p, symbols: log_p[:, symbols])(log_p, lattice.symbols)
    return jnp.maximum(jnp.moveaxis(picked, 1, 0), LOG_ZERO)


def _forward_pass(emissions: Array, lattice: Lattice) -> tuple[Float[Array, "time n places"], Float[Array, " n"]]:
    """α of every step, and log Pr."""

    def step(alpha, inputs):
        emission, counted = inputs
        from_two = jnp.where(lattice.skips, _moved(alpha, 2), LOG_ZERO)
        arriving = _log_sum(alpha, _moved(alpha, 1), from_two) + emission
        largest = jnp.where(counted, _largest(arriving), 0)
        alpha = jnp.where(counted, arriving - largest, alpha)
        return alpha, (alpha, largest)

    places = lattice.symbols.shape
    start = jnp.where(lax.broadcasted_iota(np.int32, places, 1) == 0, 0, LOG_ZERO).astype(emissions.dtype)
    last, (alpha, largest) = lax.scan(step, start, (emissions, lattice.counted_steps))
    ends = jnp.where(_is_end(lattice), last, LOG_ZERO)
    return alpha, jax.nn.logsumexp(ends, axis=1) + largest.sum(axis=(0, 2))


def _occupancy(emissions: Array, alpha: Array, lattice: Lattice) -> Float[Array, "time n places"]:
    """γ of every step."""

    def step(beta, inputs):
        emission, counted = inputs
        leaving = beta + emission
        to_two = _moved(jnp.where(lattice.skips, leaving, LOG_ZERO), -2)
        before = _log_sum(leaving, _moved(leaving, -1), to_two)
        return jnp.where(counted, before - _largest(before), beta), beta

    end = jnp.where(_is_end(lattice), 0, LOG_ZERO).astype(emissions.dtype)
    _, beta = lax.scan(step, end, (emissions, lattice.counted_steps), reverse=True)
    return jax.nn.softmax(alpha + beta)


def _log_sum(*logarithms: Float[Array, "n places"]) -> Float[Array, "n places"]:
    """The logarithm of the sum, entry by entry."""
    largest = lax.stop_gradient(reduce(jnp.maximum, logarithms))
    return largest + jnp.log(sum(jnp.exp(part - largest) for part in logarithms))


def _largest(logarithms: Float[Array, "n places"]) -> Float[Array, "n 1"]:
    """What is taken out of them, held constant: it is added again, or divides out."""
    return lax.stop_gradient(logarithms.max(axis=1, keepdims=True))


def _of_classes(gamma: Float[Array, "time n places"], symbols: Array, classes: int) -> Float[Array, "n time k"]:
    """Σ_{s: l′_s = k} γ[t](s)."""
    zeros = jnp.zeros((classes, len(gamma)), gamma.dtype)  # whole rows are added, which on CPU is five times as fast
    return jax.vmap(lambda gamma, symbols: zeros.at[symbols].add(gamma.T).T, (1, 0))(gamma, symbols)


def _is_end(lattice: Lattice) -> Bool[Array, "n places"]:
    """Whether a path may end at s: behind the last label, or at it where there is any."""
    place = lax.broadcasted_iota(lattice.size.dtype, lattice.symbols.shape, 1)
    last = 2 * lattice.size[:, None]
    return (place == last) | (place == last - 1)


def _moved(values: Array, places: int, filled: Any = LOG_ZERO) -> Array:
    """The values moved to the right, or to the left where `places` is negative."""
    length = values.shape[1]
    padded = jnp.pad(values, ((0, 0), (max(places, 0), max(-places, 0))), constant_values=filled)
    return padded[:, :length] if places > 0 else padded[:, -places:]


# --- doors ------------------------------------------------------------------------------------------------------------


def _check_configuration(
    blank: int, log_probabilities: bool, skip_infeasible: bool, reduction: str, function: str
) -> None:
    if isinstance(blank, bool) or not isinstance(blank, int) or blank < 0:
        raise ValueError(f"{function}: blank must be the index of a class, a whole number, got {blank!r}.")
    for name, value in (("log_probabilities", log_probabilities), ("skip_infeasible", skip_infeasible)):
        if not isinstance(value, bool):
            raise ValueError(f"{function}: {name} must be True or False, got {value!r}.")
    check_reduction(reduction, function)


def _read_targets(out: Any, targets: Any, blank: int, skip_infeasible: bool) -> tuple[Array, Array]:
    """Labels and lengths, which are T where none came, in integers that can count classes and steps."""
    check_float(out, "ctc.forward", "out")
    if out.ndim != 3 or out.shape[-1] == 0:
        raise ValueError(f"ctc.forward: out must have the axes (sequences, time, classes), got shape {out.shape}.")
    if blank >= out.shape[-1]:
        raise ValueError(f"ctc.forward: blank={blank} is no class of out {out.shape}.")
    if isinstance(targets, tuple | list) and len(targets) != 2:
        raise TypeError(f"ctc.forward: targets must be labels or a pair (labels, lengths), got {describe(targets)}.")
    labels, lengths = targets if isinstance(targets, tuple | list) else (targets, None)
    n, time, _ = out.shape
    _check_integers(labels, "labels", 2, n, f"(n, S) for out {out.shape}, padded with -1")
    if lengths is None:
        lengths = np.full(n, time, np.int32)
    else:
        _check_integers(lengths, "lengths", 1, n, f"({n},) for out {out.shape}")
    if not isinstance(labels, Tracer) and not isinstance(lengths, Tracer):
        _check_known(np.asarray(labels, np.int64), np.asarray(lengths, np.int64), out, blank, skip_infeasible)
    return _not_narrow(labels), _not_narrow(lengths)


def _not_narrow(integers: Any) -> Array:
    integers = jnp.asarray(integers)
    return integers.astype(jnp.int32) if integers.dtype.itemsize < 4 else integers


def _check_integers(array: Any, name: str, axes: int, n: int, wanted: str) -> None:
    if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"ctc.forward: {name} must be an array of integers, got {describe(array)}.")
    if array.ndim != axes or array.shape[0] != n:
        raise ValueError(f"ctc.forward: {name} must have the shape {wanted}, got {array.shape}.")


def _check_known(labels: np.ndarray, lengths: np.ndarray, out: Any, blank: int, skip_infeasible: bool) -> None:
    _, time, classes = out.shape
    present = labels >= 0
    if (wrong := labels[present & ((labels >= classes) | (labels == blank))]).size:
        raise ValueError(
            f"ctc.forward: labels must lie in [0, {classes}) for out {out.shape} and not be the blank, {blank}, got "
            f"{wrong[0]}."
        )
    if (present[:, 1:] & ~present[:, :-1]).any():
        raise ValueError("ctc.forward: a label stands behind padding; negative entries must come last in their row.")
    if (wrong := lengths[(lengths < 0) | (lengths > time)]).size:
        raise ValueError(f"ctc.forward: lengths must lie in [0, {time}] for out {out.shape}, got {wrong[0]}.")
    needed = present.sum(axis=1) + (present[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(axis=1)
    if not skip_infeasible and (rows := np.flatnonzero(needed > lengths)).size:
        raise ValueError(
            f"ctc.forward: the labels of sequence {rows[0]} need {needed[rows[0]]} steps, one for each and one for a "
            f"blank between equal ones, but it has {lengths[rows[0]]}. skip_infeasible=True leaves such sequences out."
        )


LABELS = np.array([[1, 1, 2], [3, -1, -1], [2, 1, -1]], np.int32)


def _labels(key, dtype):
    return jax.device_put(LABELS)


def _with_lengths(key, dtype):
    """The third has labels for more steps than it has."""
    return jax.device_put(LABELS), jax.device_put(np.array([5, 3, 1], np.int32))


DERIVATIONS = (
    Derivation(
        "ctc",
        (
            r"L = -\frac{1}{n} \sum_n \log \sum_{\pi} \prod_t p_{t \pi_t},\quad p_t = \mathrm{softmax}(z_t)",
            r"\gamma_t(s) = e^{\alpha_t(s) + \beta_t(s)} / \sum_{\pi} \prod_t p_{t \pi_t}",
            r"\partial L/\partial z_{tk} = \frac{1}{n} \big(p_{tk} - \textstyle\sum_{s: l_s = k} \gamma_t(s)\big)",
            r"\partial L/\partial z_{tk} = -\frac{1}{n} \textstyle\sum_{s: l_s = k} \gamma_t(s),\quad z = \log p",
        ),
        "Graves et al. (2006), eq. 16; equations 9.11.20-9.11.21",
        (
            LossExample("labels of different lengths", loss(), (3, 5, 4), _labels),
            LossExample(
                "log-probabilities, lengths, one infeasible, row weights, none",
                loss(log_probabilities=True, skip_infeasible=True, row_weight=[0.5, 2, 1], reduction="none"),
                (3, 5, 4),
                _with_lengths,
            ),
        ),
    ),
)
