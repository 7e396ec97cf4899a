"""minGRU over a sequence: x (n, time, fan_in), output h (n, time, units), the same biases for all time steps.

params: MinGruParams(update=Params(Wz (fan_in, units), bz (units,)), candidate=Params(Wk (fan_in, units), bk (units,))).
Gate and candidate see the input alone, not the state, so the state is a linear scan and all steps are done at once.

Forward     z = σ(x Wz + bz)      k = x Wk + bk
            h[t] = (1 − z)∘h[t−1] + z∘k,  the scan (9.9.1) with a = 1 − z, b = z∘k
Backward, with D[t] = ∂L/∂h[t] of the output, λ[T+1] = 0, h₋ = h[t−1]:
            λ[t] = D[t] + (1 − z[t+1])∘λ[t+1]                                                               (9.9.2)
            δk = λ∘z              δz = λ∘(k − h₋)∘z(1 − z)            ∂L/∂h0 = (1 − z[1])∘λ[1]              (9.3.19)
            ∂L/∂W = Σ_t x[t]ᵀ δ[t]      ∂L/∂b = Σ_t δ[t]      ∂L/∂x[t] = δz Wzᵀ + δk Wkᵀ

Steps that do not count keep h (9.3.21); with `reverse` the cell runs from the last step to the first, within the
lengths. Kept for backward: x, z, k, h. The scan runs in at least float32.

Neither bias is redundant: bz sets how long the state is kept, z = σ(bz) at x = 0, and bk where it tends to.

>>> layer = mingru.layer(64)
>>> params = layer.init(jax.random.key(0), x)           # x (n, time, features)
>>> h, residuals = layer.forward(params, x)

Source: L. Feng et al., Were RNNs all we needed? (2024); derivation sheet 9.3, 9.9.
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


class MinGruParams(NamedTuple):
    """What the cell learns: `update` makes the gate z of x[t], `candidate` the new content k."""

    update: Params
    candidate: Params


class Residuals(NamedTuple):
    x: Array
    z: Array  # z, k and h: (time, n, units)
    k: Array
    h: Array
    start: Array
    mask: Array | None
    params: MinGruParams
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
) -> MinGruParams:
    """Wz and Wk by default LeCun normal, bz and bk zero.

    Args:
        use_bias: whether there are biases; without them they are None.
        weight_init, bias_init: of both; a function `(key, shape, dtype) -> array`, or its name in
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

    return MinGruParams(product(0), product(1))


def forward(params: MinGruParams, x: Any, *, reverse: bool = False, output: str = STEPS) -> tuple[Array, Residuals]:
    """h[1] … h[T], or the last of them.

    Args:
        x: the sequences (n, time, fan_in); a pair (sequences, h0) to start from another state than zero; or
            `jb.layers.Sequences` with lengths.
        reverse: from the last step to the first.
        output: "steps" for all h[t], "last" for h after the last step, (n, units).

    Raises:
        TypeError: the sequences or h0 are not floating point, or params is no `MinGruParams`.
        ValueError: the sequences are not (n, time, fan_in), another shape of h0 or of the lengths, leaves of params
            whose shapes do not fit together, or another `output`.
    """
    _check_params(params)
    check_output(output, "mingru.forward")
    shape = params.update.weight.shape
    sequence, h0, mask, form = opened(x, "mingru.forward", shape[0], shape)
    dtype = sequence.dtype
    start = checked_state(h0, (sequence.shape[0], shape[1]), dtype, "mingru.forward", "h0", "(n, units)")
    by_time = jnp.swapaxes(sequence, 0, 1)
    z, k = jax.nn.sigmoid(affine(by_time, params.update)), affine(by_time, params.candidate)
    h_start = widen(start)
    h = scan(*counted(mask, 1 - z, z * k), h_start, reverse=reverse)
    out = jnp.swapaxes(h, 0, 1) if output == STEPS else last_state(h, h_start, reverse)
    z, k, h = (kept.astype(dtype) for kept in (z, k, h))
    return out.astype(dtype), Residuals(sequence, z, k, h, start, mask, params, form)


def backward(
    residuals: Residuals, delta: Array, *, reverse: bool = False, output: str = STEPS
) -> tuple[MinGruParams, Any]:
    """The gradients of params, and ∂L/∂x in the form of x, with ∂L/∂h0 where h0 was given.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    x, z, k, h, start, mask, params, form = residuals
    time, n, units = h.shape
    delta_h, later = delta_of_steps(delta, n, time, units, output, "mingru.backward")
    wide = later.dtype
    z, k, h = (kept.astype(wide) for kept in (z, k, h))
    if delta_h is None:
        delta_h = jnp.zeros_like(h)
    a, counts = counted(mask, 1 - z, jnp.ones_like(z))
    lam, delta_h0 = adjoint(a, delta_h, later, reverse=reverse)  # (9.9.2)
    lam = lam * counts  # (9.3.21)
    h_before = before(h, start.astype(wide), reverse)
    delta_k = lam * z  # (9.3.19)
    delta_z = lam * (k - h_before) * z * (1 - z)
    by_time = jnp.swapaxes(x, 0, 1)
    grads_z, from_z = affine_backward(by_time, params.update, delta_z)
    grads_k, from_k = affine_backward(by_time, params.candidate, delta_k)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), MinGruParams(grads_z, grads_k), params)
    return grads, gradient_of(form, from_z + from_k, x, delta_h0, start)


def _check_params(params: Any) -> None:
    if not isinstance(params, MinGruParams):
        raise TypeError(
            f"mingru.forward: params must be MinGruParams(update, candidate), each a jb.Params, got "
            f"{describe(params)}. Make it with layer.init(key, x)."
        )
    update, candidate = (
        weight_and_bias(part, f"mingru.forward ({name})", ("fan_in", "units"))[0].shape
        for part, name in zip(params, params._fields)
    )
    if update != candidate:
        raise ValueError(
            f"mingru.forward: the update and the candidate weight must have the same shape, got {update} and "
            f"{candidate}."
        )


LAYOUTS = Layouts(pytorch=AS_HERE)  # PyTorch has no such module


def layer(
    units: int,
    *,
    use_bias: bool = True,
    reverse: bool = False,
    output: str = STEPS,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[MinGruParams]:
    """A minGRU with `units` units; fan_in and dtype are those of the input.

        classifier = jb.chain(jb.layers.mingru.layer(64, output="last"), jb.layers.dense.layer(10))

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units is no positive whole number, or another `output`.
    """
    check_size(units, "mingru.layer", "units")
    check_output(output, "mingru.layer")

    init_for = init_over_time(
        "mingru",
        init,
        units,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
    )

    keywords = {"reverse": reverse, "output": output}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "mingru", layouts=LAYOUTS)


def _with_state_and_lengths(key: Array, dtype: DTypeLike) -> Sequences:
    x_key, h_key = jax.random.split(key)
    x, h = normal(x_key, (3, 3, 2), dtype), normal(h_key, (3, 3), dtype)
    return Sequences(x, h, jax.device_put(np.array([3, 0, 2], np.int32)))


DERIVATIONS = (
    Derivation(
        "mingru",
        (
            r"h_t = (1 - z_t) h_{t-1} + z_t k_t,\quad z = \sigma(x W_z + b_z),\quad k = x W_k + b_k",
            r"\lambda_t = D_t + (1 - z_{t+1}) \lambda_{t+1}",
            r"\delta_k = \lambda z,\quad \delta_z = \lambda (k - h_-) z(1-z)",
            r"\partial L/\partial W_z = \sum_t x_t^\top \delta_z",
            r"\partial L/\partial b_z = \sum_t \delta_z^\top \mathbf{1}",
            r"\partial L/\partial W_k = \sum_t x_t^\top \delta_k",
            r"\partial L/\partial b_k = \sum_t \delta_k^\top \mathbf{1}",
            r"\partial L/\partial x_t = \delta_z W_z^\top + \delta_k W_k^\top",
            r"\partial L/\partial h_0 = (1 - z_1) \lambda_1",
        ),
        "Feng et al. (2024); equations 9.3.19, 9.9.1, 9.9.2",
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
            "W_z": ("update.weight",),
            "b_z": ("update.bias",),
            "W_k": ("candidate.weight",),
            "b_k": ("candidate.bias",),
            **OF_SEQUENCES,
        },
    ),
)
