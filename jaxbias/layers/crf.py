"""Conditional random field over a chain of labels: a layer and loss in one, whose loss is the output.

e (n, T, K) are emissions, logits of K labels at each of T steps; y (n, T) the labels; params start (K,), transitions
A (K, K) from a label (row) to the next (column), end (K,). With the score of a path and the sum over all of them:

    S(y) = start[y_1] + Σ_t e_t[y_t] + Σ_{t>1} A[y_{t−1}, y_t] + end[y_T]

Forward     L = r Σ_n log Σ_{y′} exp S(y′) − S(y)         r = 1/n for the mean over sequences, 1 for the sum
            α_1 = start + e_1,  α_t[j] = e_t[j] + log Σ_i exp(α_{t−1}[i] + A[i, j]),  log Z = log Σ_i exp(α_T + end)[i]
Backward, with β_T = end,  β_{t−1}[i] = log Σ_j exp(A[i, j] + e_t[j] + β_t[j]), from the last step to the first; the
            probability of a label μ_t = softmax(α_t + β_t), that of two after each other
            ξ_t = softmax over both of (α_{t−1}[i] + A[i, j] + e_t[j] + β_t[j]), and Y the one-hot rows of y:
            ∂L/∂e_t = r (μ_t − Y_t)                                                                    (9.11.22)
            ∂L/∂A = r Σ_{n,t>1} ξ_t − Y_{t−1} Y_tᵀ                                                     (9.11.22)
            ∂L/∂start = r Σ_n μ_1 − Y_1        ∂L/∂end = r Σ_n μ_T − Y_T                               (9.11.22)

α and β are kept relative to their largest entry of each step, which both softmaxes divide out again. Behind a
sequence's end, where the label is `ignore_label`, α and β stay and the error signal is 0.

A bias of the emissions is redundant: it is in start and in the columns of A, ∂L/∂b = ∂L/∂start + Σ_i ∂L/∂A[i, ·]. So is
one constant on each of start, A, end and e.

    network = linear_cross_entropy.network(jb.chain(lstm.layer(64), dense.layer(K)), crf.layer())
    loss, grads = jb.value_and_grad(network, jb.losses.of_network)(params, x, labels)
    labels = crf.decode(params[1], emissions)

Kinks: none.

Source: J. Lafferty et al., Conditional Random Fields (2001); derivation sheet (9.11.22).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_key, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example, generator, normal
from jaxbias.initializers import Initializer
from jaxbias.layouts import Layouts, renamed
from jaxbias.losses._loss import (
    Rows,
    check_reduction,
    is_label,
    is_valid,
    poison,
    read_labels,
    reduce_rows,
    row_cotangent,
    weigh_rows,
)
from jaxbias.params import Layer


class CrfParams(NamedTuple):
    """What a path scores beside its emissions."""

    start: Array
    transitions: Array
    end: Array


class Residuals(NamedTuple):
    params: CrfParams
    emissions: Float[Array, "n time k"]
    labels: Integer[Array, "n time"]
    counts: Bool[Array, "n time"]
    alpha: Float[Array, "time n k"]
    rows: Rows


def init(
    key: Array, labels: int, *, init_with: Initializer = initializers.zeros, dtype: DTypeLike = jnp.float32
) -> CrfParams:
    """start (K,), transitions (K, K) and end (K,), by default zero: every path then scores its emissions.

    Args:
        labels: K.
        init_with: of all three, a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of all three.
    """
    check_key(key, "crf.init")
    draw = initializers.by_name(init_with)
    shapes = (labels,), (labels, labels), (labels,)
    return CrfParams(*(draw(jax.random.fold_in(key, i), shape, dtype) for i, shape in enumerate(shapes)))


def forward(
    params: CrfParams,
    x: tuple[Float[Array, "n time k"], Integer[Array, "n time"]],
    *,
    ignore_label: int = -1,
    reduction: str = "mean",
) -> tuple[Float[Array, "..."], Residuals]:
    """L = r Σ log Z − S(y), in nats.

    Args:
        x: the pair (e, labels): emissions (n, T, K), and integers (n, T) in [0, K).
        ignore_label: stands behind the end of a shorter sequence. A sequence without any label counts nothing.
        reduction: "mean" or "sum" over sequences, or "none": a loss per sequence.

    Raises:
        TypeError: e is not floating point, labels no integers, or params is no `CrfParams` of floating-point arrays.
        ValueError: x is no pair, shapes that do not fit, no steps, a label outside [0, K), a label behind an ignored
            one, or an unknown reduction. Inside jit labels cannot be looked at: one outside [0, K), or behind an
            ignored one, makes L and the gradients NaN.
    """
    check_reduction(reduction, "crf.forward")
    emissions, labels = _pair(x, "crf.forward")
    _check_params(params, emissions, "crf.forward")
    labels = read_labels(emissions, labels, "crf.forward", ignore_label)
    counts = labels != ignore_label
    _check_ends(counts)
    start, transitions, end = (widen(leaf) for leaf in params)
    e = jnp.swapaxes(widen(emissions), 0, 1)

    def step(carry, at_t):
        alpha, shift = carry
        e_t, counts_t = at_t
        new = e_t + _log_sum(alpha[:, :, None] + transitions[None], axis=1)
        alpha, moved = _relative(jnp.where(counts_t[:, None], new, alpha))
        return (alpha, shift + moved), alpha

    first, shift = _relative(e[0] + start[None])
    (last, shift), later = lax.scan(step, (first, shift), (e[1:], counts.T[1:]))
    log_total = shift + _log_sum(last + end[None], axis=1)
    per_row = jnp.where(counts[:, 0], log_total - _score(start, transitions, end, e, labels, counts), 0)
    rows = weigh_rows(per_row, reduction, None, "crf.forward", counts=counts[:, 0])
    is_known = (is_valid(labels, e.shape[2]) | ~counts).all(axis=1)
    rows = poison(rows, per_row, is_known & ~_behind_the_end(counts).any(axis=1))
    alpha = jnp.concatenate([first[None], later])
    return reduce_rows(per_row, rows), Residuals(params, emissions, labels, counts, alpha, rows)


def backward(
    residuals: Residuals, delta: Float[Array, "..."]
) -> tuple[CrfParams, tuple[Float[Array, "n time k"], None]]:
    """(∂L/∂start, ∂L/∂A, ∂L/∂end), (∂L/∂e, None).

    Args:
        delta: the cotangent of the loss: of each sequence where there is no reduction.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the loss.
    """
    params, emissions, labels, counts, alpha, rows = residuals
    _, transitions, end = (widen(leaf) for leaf in params)
    e, counts = jnp.swapaxes(widen(emissions), 0, 1), counts.T
    steps, n, k = e.shape
    delta = check_delta(delta, rows.loss_shape.value, "crf.backward")
    r = jnp.broadcast_to(row_cotangent(rows, delta, e.dtype, "crf.backward"), (n, 1)).astype(e.dtype)

    def step(carry, at_t):
        beta, of_pairs = carry
        e_t, counts_t, alpha_before = at_t
        ahead = transitions[None] + (e_t + beta)[:, None, :]
        xi = jax.nn.softmax((alpha_before[:, :, None] + ahead).reshape(n, k * k)).reshape(n, k, k)
        of_pairs = of_pairs + jnp.where(counts_t[:, None, None], r[:, :, None] * xi, 0).sum(axis=0)
        before, _ = _relative(_log_sum(ahead, axis=2))
        return (jnp.where(counts_t[:, None], before, beta), of_pairs), beta

    beta = jnp.broadcast_to(end, (n, k)), jnp.zeros((k, k), e.dtype)
    (first, of_pairs), later = lax.scan(step, beta, (e[1:], counts[1:], alpha[:-1]), reverse=True)
    mu = jax.nn.softmax(alpha + jnp.concatenate([first[None], later]))
    is_true = is_label(labels.T, k)
    delta_e = jnp.where(counts[:, :, None], r[None] * (mu - is_true.astype(e.dtype)), 0)

    is_last = counts & ~jnp.concatenate([counts[1:], jnp.zeros((1, n), bool)])
    pairs = (is_true[:-1], is_true[1:] & counts[1:, :, None])
    before, after = (part.astype(e.dtype).reshape((steps - 1) * n, k) for part in pairs)
    weights = jnp.broadcast_to(r[None], (steps - 1, n, 1)).reshape((steps - 1) * n, 1)
    grads = CrfParams(
        start=delta_e[0].sum(axis=0),
        transitions=of_pairs - before.T @ (weights * after),
        end=jnp.where(is_last[:, :, None], delta_e, 0).sum(axis=(0, 1)),
    )
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, (jnp.swapaxes(delta_e, 0, 1).astype(emissions.dtype), None)


def decode(
    params: CrfParams, emissions: Float[Array, "n time k"], lengths: Integer[Array, " n"] | None = None
) -> Integer[Array, "n time"]:
    """The labels of the path that scores most, −1 behind a sequence's end; the first of paths that tie at a step.

    Args:
        params: of the layer.
        emissions: e.
        lengths: steps of each sequence; None where all are T long.

    Raises:
        TypeError: e is not floating point, or params is no `CrfParams` of floating-point arrays.
        ValueError: shapes that do not fit, or no steps.
    """
    _check_emissions(emissions, "crf.decode")
    _check_params(params, emissions, "crf.decode")
    n, steps, k = emissions.shape
    if lengths is not None and lengths.shape != (n,):
        raise ValueError(f"crf.decode: lengths must have the shape ({n},), got {lengths.shape}.")
    start, transitions, end = (widen(leaf) for leaf in params)
    e = jnp.swapaxes(widen(emissions), 0, 1)
    at = jnp.arange(steps)[:, None]
    counts = jnp.broadcast_to(True if lengths is None else at < lengths[None].astype(at.dtype), (steps, n))
    stay = jnp.broadcast_to(jnp.arange(k)[None], (n, k))

    def step(best, at_t):
        e_t, counts_t = at_t
        through = best[:, :, None] + transitions[None]
        came_from = jnp.where(counts_t[:, None], through.argmax(axis=1), stay)
        return jnp.where(counts_t[:, None], e_t + through.max(axis=1), best), came_from

    best, came_from = lax.scan(step, e[0] + start[None], (e[1:], counts[1:]))
    last = (best + end[None]).argmax(axis=1)

    def back(label, came_from):
        before = jnp.take_along_axis(came_from, label[:, None], axis=1)[:, 0]
        return before, label

    first, later = lax.scan(back, last, came_from, reverse=True)
    path = jnp.concatenate([first[None], later])
    return jnp.where(counts, path, -1).T


def _score(start, transitions, end, e, labels, counts):
    """S(y) of each sequence; steps behind its end add nothing."""
    y, counts = jnp.where(counts, labels, 0).T, counts.T
    y = jnp.clip(y, 0, e.shape[2] - 1)
    is_last = counts & ~jnp.concatenate([counts[1:], jnp.zeros((1, counts.shape[1]), bool)])
    at_steps = jnp.take_along_axis(e, y[:, :, None], axis=2)[:, :, 0] + jnp.where(is_last, end[y], 0)
    between = jnp.where(counts[1:], transitions[y[:-1], y[1:]], 0)
    return start[y[0]] + jnp.where(counts, at_steps, 0).sum(axis=0) + between.sum(axis=0)


def _log_sum(z: Array, axis: int) -> Array:
    return jax.nn.logsumexp(z, axis=axis)


def _relative(z: Float[Array, "n k"]) -> tuple[Array, Array]:
    """z less its largest entry, and that entry. It cancels in L, so no derivative runs through it."""
    largest = lax.stop_gradient(z.max(axis=1))
    return z - largest[:, None], largest


# --- doors ------------------------------------------------------------------------------------------------------------


def _pair(x: Any, function: str) -> Any:
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(f"{function}: x must be a pair (emissions, labels), got {describe(x)}.")
    _check_emissions(x[0], function)
    if not hasattr(x[1], "dtype") or not jnp.issubdtype(x[1].dtype, jnp.integer):
        raise TypeError(f"{function}: labels must be integers, one for each step, got {describe(x[1])}.")
    return x


def _check_emissions(emissions: Any, function: str) -> None:
    check_float(emissions, function, "emissions")
    if len(emissions.shape) != 3 or 0 in emissions.shape[1:]:
        raise ValueError(
            f"{function}: emissions must be (n, time, labels) with a step and a label or more, got shape "
            f"{emissions.shape}."
        )


def _check_params(params: Any, emissions: Any, function: str) -> None:
    if not isinstance(params, CrfParams):
        raise TypeError(
            f"{function}: params must be CrfParams(start, transitions, end), got {describe(params)}. Make it with "
            f"layer.init(key, x)."
        )
    k = emissions.shape[-1]
    for name, leaf, shape in zip(params._fields, params, ((k,), (k, k), (k,))):
        check_float(leaf, function, name)
        if leaf.shape != shape:
            raise ValueError(
                f"{function}: {name} must have the shape {shape} for emissions of {k} labels, got {leaf.shape}."
            )


def _behind_the_end(counts: Any) -> Any:
    """(n, T − 1): which labels stand behind an ignored one."""
    return counts[:, 1:] & ~counts[:, :-1]


def _check_ends(counts: Any) -> None:
    if isinstance(counts, Tracer):
        return
    if _behind_the_end(np.asarray(counts)).any():
        raise ValueError(
            "crf.forward: a label stands behind an ignored one; ignore_label marks what is behind a sequence's end."
        )


LAYOUTS = Layouts(
    pytorch=renamed({"start": "start_transitions", "transitions": "transitions", "end": "end_transitions"})
)


def layer(
    *, ignore_label: int = -1, reduction: str = "mean", init_with: Initializer = initializers.zeros
) -> Layer[CrfParams]:
    """The layer whose input is (emissions, labels) and whose output is the loss; `linear_cross_entropy.network` puts it
    behind others. The number of labels is that of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError: an ignore_label that is no whole number.
        ValueError: an unknown reduction.
    """
    check_reduction(reduction, "crf.layer")
    if isinstance(ignore_label, bool) or not isinstance(ignore_label, int):
        raise TypeError(f"crf.layer: ignore_label must be a whole number, got {describe(ignore_label)}.")

    def init_for(key, x):
        emissions, _ = _pair(x, "crf.init")
        return init(key, emissions.shape[-1], init_with=init_with, dtype=emissions.dtype)

    bound = partial(forward, ignore_label=ignore_label, reduction=reduction)
    return Layer(init_for, bound, backward, "crf", layouts=LAYOUTS)


def _drawn(n: int, steps: int, k: int, lengths: tuple[int, ...] = ()):
    def draw(key, dtype):
        keys = jax.random.split(key)
        labels = generator(keys[1]).integers(k, size=(n, steps), dtype=np.int32)
        for row, length in enumerate(lengths):
            labels[row, length:] = -1
        return normal(keys[0], (n, steps, k), dtype), jax.device_put(labels)

    return draw


DERIVATIONS = (
    Derivation(
        "crf",
        (
            (
                r"L = \frac{1}{n} \sum_n \log \sum_{y'} e^{S(y')} - S(y), \quad"
                r" S(y) = s_{y_1} + \sum_t e_{t y_t} + \sum_{t>1} A_{y_{t-1} y_t} + q_{y_T}"
            ),
            (
                r"\mu_t = \mathrm{softmax}(\alpha_t + \beta_t), \quad"
                r" \xi_{tij} \propto e^{\alpha_{t-1,i} + A_{ij} + e_{tj} + \beta_{tj}}"
            ),
            r"\partial L/\partial e = \frac{1}{n} (\mu - Y)",
            r"\partial L/\partial A = \frac{1}{n} \sum_{n,t>1} \xi_t - Y_{t-1} Y_t^\top",
            r"\partial L/\partial s = \frac{1}{n} \sum_n \mu_1 - Y_1",
            r"\partial L/\partial q = \frac{1}{n} \sum_n \mu_T - Y_T",
        ),
        "Lafferty et al. (2001); equation (9.11.22)",
        (
            Example("sequences of one length", layer(), _drawn(3, 4, 2)),
            Example("lengths, none", layer(reduction="none"), _drawn(4, 3, 3, (3, 1, 0, 2))),
            Example("one step, sum", layer(reduction="sum"), _drawn(2, 1, 3)),
            Example("no rows", layer(), _drawn(0, 3, 2)),
        ),
        {"e": ("x.0",), "A": ("transitions",), "s": ("start",), "q": ("end",)},
    ),
)
