"""minLSTM over a sequence: x (n, time, fan_in), output h (n, time, units), the same biases for all time steps.

params: MinLstmParams(forget, input, candidate), each Params(W (fan_in, units), b (units,)). Gates and candidate see the
input alone, not the state, so the state is a linear scan and all steps are done at once.

Forward     f = σ(x Wf + bf)      i = σ(x Wi + bi)      k = x Wk + bk
            F = f/(f + i)         J = i/(f + i) = 1 − F
            h[t] = F∘h[t−1] + J∘k,  the scan (9.9.1) with a = F, b = J∘k
Backward, with D[t] = ∂L/∂h[t] of the output, λ[T+1] = 0, h₋ = h[t−1]:
            λ[t] = D[t] + F[t+1]∘λ[t+1]                                                                     (9.9.2)
            w = λ∘(h₋ − k)∘F∘J    δf = w∘(1 − f)    δi = −w∘(1 − i)    δk = λ∘J    ∂L/∂h0 = F[1]∘λ[1]       (9.3.20)
            ∂L/∂W = Σ_t x[t]ᵀ δ[t]      ∂L/∂b = Σ_t δ[t]      ∂L/∂x[t] = δf Wfᵀ + δi Wiᵀ + δk Wkᵀ

F is computed as σ(log f − log i), which is right where both gates are 0 in floating point. Steps that do not count keep
h (9.3.21); with `reverse` the cell runs from the last step to the first, within the lengths. Kept for backward: x, both
gates before σ, k, h. The scan runs in at least float32.

No bias is redundant: the two gates share no direction, as 1 − f and 1 − i differ. bf above bi remembers for longer.

>>> layer = minlstm.layer(64)
>>> params = layer.init(jax.random.key(0), x)           # x (n, time, features)
>>> h, residuals = layer.forward(params, x)

Source: L. Feng et al., Were RNNs all we needed? (2024), section 3.2; derivation sheet 9.3, 9.9.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias import initializers
from jaxbias._doors import check_size, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers._affine import affine, affine_backward
from jaxbias.layers._scan import adjoint, counted, last_state, scan
from jaxbias.layers._sequence import (
    LAST,
    OF_SEQUENCES,
    STEPS,
    Sequences,
    before,
    check_output,
    checked_state,
    delta_of_steps,
    gradient_of,
    init_over_time,
    opened,
)
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias


class MinLstmParams(NamedTuple):
    """What the cell learns: `forget` and `input` make the gates f and i of x[t], `candidate` the new content k."""

    forget: Params
    input: Params
    candidate: Params


class Residuals(NamedTuple):
    x: Array
    gates: tuple[Array, Array]  # of f and i, before σ; these, k and h are (time, n, units)
    k: Array
    h: Array
    start: Array
    mask: Array | None
    params: MinLstmParams
    form: Static


def init(
    key: Array,
    fan_in: int,
    units: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> MinLstmParams:
    """The three weights by default LeCun normal, their biases zero.

    Args:
        use_bias: whether there are biases; without them they are None.
        weight_init, bias_init: of all three; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`.
        dtype: of all.
    """

    def product(number):
        return initializers.affine(
            jax.random.fold_in(key, number),
            (fan_in, units),
            (units,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
        )

    return MinLstmParams(product(0), product(1), product(2))


def forward(params: MinLstmParams, x: Any, *, reverse: bool = False, output: str = STEPS) -> tuple[Array, Residuals]:
    """h[1] … h[T], or the last of them.

    Args:
        x: the sequences (n, time, fan_in); a pair (sequences, h0) to start from another state than zero; or
            `jb.layers.Sequences` with lengths.
        reverse: from the last step to the first.
        output: "steps" for all h[t], "last" for h after the last step, (n, units).

    Raises:
        TypeError: the sequences or h0 are not floating point, or params is no `MinLstmParams`.
        ValueError: the sequences are not (n, time, fan_in), another shape of h0 or of the lengths, leaves of params
            whose shapes do not fit together, or another `output`.
    """
    fan_in, units = _check_params(params)
    check_output(output, "minlstm.forward")
    sequence, h0, mask, form = opened(x, "minlstm.forward", fan_in, (fan_in, units))
    dtype = sequence.dtype
    start = checked_state(h0, (sequence.shape[0], units), dtype, "minlstm.forward", "h0", "(n, units)")
    by_time = jnp.swapaxes(sequence, 0, 1)
    z_f, z_i, k = (affine(by_time, part) for part in params)
    keep = _share_kept(z_f, z_i)
    h_start = widen(start)
    h = scan(*counted(mask, keep, (1 - keep) * k), h_start, reverse=reverse)
    out = jnp.swapaxes(h, 0, 1) if output == STEPS else last_state(h, h_start, reverse)
    z_f, z_i, k, h = (kept.astype(dtype) for kept in (z_f, z_i, k, h))
    return out.astype(dtype), Residuals(sequence, (z_f, z_i), k, h, start, mask, params, form)


def backward(
    residuals: Residuals, delta: Array, *, reverse: bool = False, output: str = STEPS
) -> tuple[MinLstmParams, Any]:
    """The gradients of params, and ∂L/∂x in the form of x, with ∂L/∂h0 where h0 was given.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    x, gates, k, h, start, mask, params, form = residuals
    time, n, units = h.shape
    delta_h, later = delta_of_steps(delta, n, time, units, output, "minlstm.backward")
    wide = later.dtype
    z_f, z_i, k, h = (kept.astype(wide) for kept in (*gates, k, h))
    if delta_h is None:
        delta_h = jnp.zeros_like(h)
    keep = _share_kept(z_f, z_i)
    a, counts = counted(mask, keep, jnp.ones_like(keep))
    lam, delta_h0 = adjoint(a, delta_h, later, reverse=reverse)  # (9.9.2)
    lam = lam * counts  # (9.3.21)
    w = lam * (before(h, start.astype(wide), reverse) - k) * keep * (1 - keep)  # (9.3.20)
    deltas = w * jax.nn.sigmoid(-z_f), -w * jax.nn.sigmoid(-z_i), lam * (1 - keep)
    by_time = jnp.swapaxes(x, 0, 1)
    (grads_f, from_f), (grads_i, from_i), (grads_k, from_k) = (
        affine_backward(by_time, part, delta) for part, delta in zip(params, deltas)
    )
    grads = MinLstmParams(grads_f, grads_i, grads_k)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, gradient_of(form, from_f + from_i + from_k, x, delta_h0, start)


def _share_kept(z_f: Array, z_i: Array) -> Array:
    """F = f/(f + i)."""
    return jax.nn.sigmoid(jax.nn.log_sigmoid(z_f) - jax.nn.log_sigmoid(z_i))


def _check_params(params: Any) -> tuple[int, int]:
    """fan_in and units, which all three weights must have."""
    function = "minlstm.forward"
    if not isinstance(params, MinLstmParams):
        raise TypeError(
            f"{function}: params must be MinLstmParams(forget, input, candidate), each a jb.Params, got "
            f"{describe(params)}. Make it with layer.init(key, x)."
        )
    shapes = [
        weight_and_bias(part, f"{function} ({name})", ("fan_in", "units"))[0].shape
        for part, name in zip(params, params._fields)
    ]
    if len(set(shapes)) > 1:
        raise ValueError(f"{function}: the three weights must have the same shape, got {', '.join(map(str, shapes))}.")
    fan_in, units = shapes[0]
    return fan_in, units


LAYOUTS = Layouts(pytorch=AS_HERE)  # PyTorch has no such module


def layer(
    units: int,
    *,
    use_bias: bool = True,
    reverse: bool = False,
    output: str = STEPS,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[MinLstmParams]:
    """A minLSTM with `units` units; fan_in and dtype are those of the input.

        classifier = jb.chain(jb.layers.minlstm.layer(64, output="last"), jb.layers.dense.layer(10))

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units is no positive whole number, or another `output`.
    """
    check_size(units, "minlstm.layer", "units")
    check_output(output, "minlstm.layer")

    init_for = init_over_time(
        "minlstm",
        init,
        units,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
    )

    keywords = {"reverse": reverse, "output": output}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "minlstm", layouts=LAYOUTS)


def _with_state_and_lengths(key: Array, dtype: DTypeLike) -> Sequences:
    x_key, h_key = jax.random.split(key)
    x, h = normal(x_key, (3, 3, 2), dtype), normal(h_key, (3, 3), dtype)
    return Sequences(x, h, jax.device_put(np.array([3, 0, 2], np.int32)))


DERIVATIONS = (
    Derivation(
        "minlstm",
        (
            r"h_t = F_t h_{t-1} + J_t k_t,\quad F = f/(f+i),\ J = i/(f+i),\quad k = x W_k + b_k",
            r"f = \sigma(x W_f + b_f),\quad i = \sigma(x W_i + b_i)",
            r"\lambda_t = D_t + F_{t+1} \lambda_{t+1},\quad w = \lambda (h_- - k) F J",
            r"\delta_f = w (1 - f),\quad \delta_i = -w (1 - i),\quad \delta_k = \lambda J",
            r"\partial L/\partial W_f = \sum_t x_t^\top \delta_f",
            r"\partial L/\partial b_f = \sum_t \delta_f^\top \mathbf{1}",
            r"\partial L/\partial W_i = \sum_t x_t^\top \delta_i",
            r"\partial L/\partial b_i = \sum_t \delta_i^\top \mathbf{1}",
            r"\partial L/\partial W_k = \sum_t x_t^\top \delta_k",
            r"\partial L/\partial b_k = \sum_t \delta_k^\top \mathbf{1}",
            r"\partial L/\partial x_t = \delta_f W_f^\top + \delta_i W_i^\top + \delta_k W_k^\top",
            r"\partial L/\partial h_0 = F_1 \lambda_1",
        ),
        "Feng et al. (2024); equations 9.3.20, 9.9.1, 9.9.2",
        (
            Example("plain", layer(4), (2, 3, 3)),
            Example(
                "given state, lengths, reverse, no bias",
                layer(3, reverse=True, use_bias=False),
                _with_state_and_lengths,
            ),
            Example("last, no steps", layer(2, output=LAST), (3, 0, 2)),
        ),
        {
            "W_f": ("forget.weight",),
            "b_f": ("forget.bias",),
            "W_i": ("input.weight",),
            "b_i": ("input.bias",),
            "W_k": ("candidate.weight",),
            "b_k": ("candidate.bias",),
            **OF_SEQUENCES,
        },
    ),
)
