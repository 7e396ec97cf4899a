"""GRU over a sequence: x (n, time, fan_in), output h (n, time, units), the same biases for all time steps.

params: GruParams(input=Params(W (fan_in, 3 units), b (3 units,)), hidden=Params(V (units, 3 units), c (3 units,))). The
columns are those of r, z, n, in that order: Wr, Wz, Wn and so on are a third of them each.

Forward     r = σ(x Wr + br + h₋ Vr + cr)     z = σ(x Wz + bz + h₋ Vz + cz),  h₋ = h[t−1]                   (9.3.11)
            n = tanh(x Wn + bn + r∘q),  q = h₋ Vn + cn        reset="after": PyTorch, Keras reset_after=True  (9.3.12)
            n = tanh(x Wn + bn + (r∘h₋) Vn + cn)              reset="before"                                (9.3.13)
            h[t] = z∘h₋ + (1 − z)∘n
Backward, with D[t] = ∂L/∂h[t] of the output, δh[t] = D[t] + what (9.3.17) hands to step t, last step first:
            δz = δh∘(h₋ − n)∘z(1 − z)         δn = δh∘(1 − z)∘(1 − n²)                                      (9.3.14)
    after   δr = δn∘q∘r(1 − r)    ε = δn∘r    ∂L/∂Vn = Σ_t h₋ᵀ ε         ∂L/∂cn = Σ_t ε     back = ε Vnᵀ      (9.3.15)
    before  u = δn Vnᵀ   δr = u∘h₋∘r(1 − r)   ∂L/∂Vn = Σ_t (r∘h₋)ᵀ δn    ∂L/∂cn = Σ_t δn    back = r∘u        (9.3.16)
            to t − 1: δh∘z + back + δr Vrᵀ + δz Vzᵀ           ∂L/∂h0 is what comes to the state before step 1 (9.3.17)
            ∂L/∂W = Σ_t x[t]ᵀ δ[t]      ∂L/∂b = Σ_t δ[t]      ∂L/∂x[t] = δ[t] Wᵀ,  δ = (δr, δz, δn)
            ∂L/∂V and ∂L/∂c of r and z: Σ_t h₋ᵀ δ, Σ_t δ                                                    (9.3.18)

The two biases of r and of z are one, as only their sum counts: ∂L/∂c = ∂L/∂b there, always. So is cn a duplicate of bn
with reset before, and with reset after it is not: r scales cn and not bn (9.14). Hence the default: c with reset after,
none with reset before.

Steps that do not count keep h (9.3.21); with `reverse` the cell runs from the last step to the first, within the
lengths. Kept for backward: x, h, r, z, n, and q with reset after. δ is carried back in at least float32.

Source: K. Cho et al., Learning phrase representations (2014), v1 with reset after, v3 before; derivation sheet 9.3.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias import initializers
from jaxbias._doors import check_size, describe
from jaxbias._numerics import matmul, rows, sum_over
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers._recurrent_layouts import GRU_IN_KERAS, in_pytorch
from jaxbias.layers._sequence import (
    LAST,
    OF_SEQUENCES,
    STEPS,
    Sequences,
    arriving,
    before,
    check_output,
    checked_state,
    chosen,
    delta_of_steps,
    gradient_of,
    hidden_params,
    init_over_time,
    input_and_hidden,
    opened,
    silenced,
)
from jaxbias.layouts import Layouts
from jaxbias.params import Layer, Params, Static

AFTER, BEFORE = "after", "before"


class GruParams(NamedTuple):
    """What the cell learns: `input` maps x[t], `hidden` maps h[t−1]; each has a bias."""

    input: Params
    hidden: Params


class Residuals(NamedTuple):
    x: Array
    h: Array  # (n, time, units): the output itself, where that is every step
    gates: Array  # (time, n, …): r, z, n, and q with reset after
    start: Array
    mask: Array | None
    params: GruParams
    form: Static


def init(
    key: Array,
    fan_in: int,
    units: int,
    *,
    reset: str = AFTER,
    use_bias: bool = True,
    hidden_bias: bool | None = None,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> GruParams:
    """W by default LeCun normal, V of r, z and n orthogonal each, b and c zero.

    Args:
        reset: "after" or "before" the product with V.
        use_bias: whether there are biases; without them they are None.
        hidden_bias: whether there is c; None: with reset after, where it is not redundant.
        weight_init, hidden_init, bias_init: of W, V and b; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`; for b also `initializers.chrono(longest, "rzn")`.
        dtype: of all.
    """
    _check_reset(reset, "gru.init")
    input_key, hidden_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    return GruParams(
        input=initializers.affine(
            input_key,
            (fan_in, 3 * units),
            (3 * units,),
            dtype,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            layer="gru",
        ),
        hidden=hidden_params(
            hidden_key,
            (units, 3 * units),
            dtype,
            blocks=3,
            use_bias=use_bias and _has_hidden_bias(hidden_bias, reset),
            hidden_init=hidden_init,
        ),
    )


def forward(
    params: GruParams, x: Any, *, reset: str = AFTER, reverse: bool = False, output: str = STEPS
) -> tuple[Array, Residuals]:
    """h[1] … h[T] of (9.3.11-13), or the last of them.

    Args:
        x: the sequences (n, time, fan_in); a pair (sequences, h0) to start from another state than zero; or
            `jb.layers.Sequences` with lengths.
        reset: "after" or "before" the product with V.
        reverse: from the last step to the first.
        output: "steps" for all h[t], "last" for h after the last step, (n, units).

    Raises:
        TypeError: the sequences or h0 are not floating point, or params is no `GruParams`.
        ValueError: the sequences are not (n, time, fan_in), another shape of h0 or of the lengths, leaves of params
            whose shapes do not fit together, or another `reset` or `output`.
    """
    weight, bias, recurrent, second = _leaves(params)
    _check_reset(reset, "gru.forward")
    check_output(output, "gru.forward")
    sequence, h0, mask, form = opened(x, "gru.forward", weight.shape[0], weight.shape)
    start_shape = sequence.shape[0], recurrent.shape[0]
    start = checked_state(h0, start_shape, sequence.dtype, "gru.forward", "h0", "(n, units)")
    from_input = _plus(matmul(jnp.swapaxes(sequence, 0, 1), weight), bias)  # of all steps at once, time first
    cell = {AFTER: _cell_after, BEFORE: _cell_before}[reset]

    def step(h_before, at_t):
        z_input, counts = at_t
        r, z, n, *q = cell(z_input, h_before, recurrent, second)
        h = chosen(counts, z * h_before + (1 - z) * n, h_before)
        return h, (h, jnp.concatenate([r, z, n, *q], axis=-1))

    last, (states, gates) = lax.scan(step, start, (from_input, mask), reverse=reverse)
    h = jnp.swapaxes(states, 0, 1)
    return h if output == STEPS else last, Residuals(sequence, h, gates, start, mask, params, form)


def backward(
    residuals: Residuals, delta: Array, *, reset: str = AFTER, reverse: bool = False, output: str = STEPS
) -> tuple[GruParams, Any]:
    """The gradients (9.3.15-18) of params, and ∂L/∂x in the form of x, with ∂L/∂h0 where h0 was given.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    x, h, gates, start, mask, params, form = residuals
    rows_n, time, _ = x.shape
    units = h.shape[-1]
    delta_h, last = delta_of_steps(delta, rows_n, time, units, output, "gru.backward")
    wide = last.dtype
    x, h = (jnp.swapaxes(array, 0, 1).astype(wide) for array in (x, h))
    gates, h_start = gates.astype(wide), start.astype(wide)
    weight, bias, recurrent, second = _leaves(jax.tree.map(lambda leaf: leaf.astype(wide), params))
    of_rz, of_n = recurrent[:, : 2 * units], recurrent[:, 2 * units :]
    h_before = before(h, h_start, reverse)

    def step(later, at_t):
        delta_h, gates, h_before, counts = at_t
        r, z, n, *q = _split(gates, units)
        delta_h = arriving(delta_h, later)
        delta_z = delta_h * (h_before - n) * z * (1 - z)  # (9.3.14)
        delta_n = delta_h * (1 - z) * (1 - n * n)
        if reset == AFTER:
            delta_r = delta_n * q[0] * r * (1 - r)  # (9.3.15)
            back = matmul(delta_n * r, of_n.T)
        else:
            u = matmul(delta_n, of_n.T)  # (9.3.16)
            delta_r = u * h_before * r * (1 - r)
            back = r * u
        delta_rz = jnp.concatenate([delta_r, delta_z], axis=-1)
        earlier = delta_h * z + back + matmul(delta_rz, of_rz.T)  # (9.3.17)
        return chosen(counts, earlier, delta_h), silenced(counts, jnp.concatenate([delta_rz, delta_n], axis=-1))

    delta_h0, delta = lax.scan(step, last, (delta_h, gates, h_before, mask), reverse=not reverse)
    r, _, n, *_ = _split(gates, units)
    delta_rz, delta_n = delta[..., : 2 * units], delta[..., 2 * units :]
    met, meeting = (h_before, delta_n * r) if reset == AFTER else (r * h_before, delta_n)  # (9.3.15), (9.3.16)
    of_hidden = [matmul(rows(h_before).T, rows(delta_rz)), matmul(rows(met).T, rows(meeting))]
    of_second = [sum_over(delta_rz, (0, 1)), sum_over(meeting, (0, 1))]
    grads = GruParams(  # (9.3.18)
        input=Params(matmul(rows(x).T, rows(delta)), None if bias is None else sum_over(delta, (0, 1))),
        hidden=Params(jnp.concatenate(of_hidden, axis=1), None if second is None else jnp.concatenate(of_second)),
    )
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, gradient_of(form, matmul(delta, weight.T), residuals.x, delta_h0, start)


# --- the named steps --------------------------------------------------------------------------------------------------


def _cell_after(z_input: Array, h_before: Array, recurrent: Array, second: Array | None) -> tuple[Array, ...]:
    """r, z, n and q.   (9.3.11), (9.3.12)"""
    units = h_before.shape[-1]
    from_r, from_z, from_n = _split(z_input, units)
    hidden_r, hidden_z, q = _split(_plus(matmul(h_before, recurrent), second), units)
    r, z = jax.nn.sigmoid(from_r + hidden_r), jax.nn.sigmoid(from_z + hidden_z)
    return r, z, jnp.tanh(from_n + r * q), q


def _cell_before(z_input: Array, h_before: Array, recurrent: Array, second: Array | None) -> tuple[Array, ...]:
    """r, z and n.   (9.3.11), (9.3.13)"""
    units = h_before.shape[-1]
    from_r, from_z, from_n = _split(_plus(z_input, second), units)
    hidden_r, hidden_z = _split(matmul(h_before, recurrent[:, : 2 * units]), units)
    r, z = jax.nn.sigmoid(from_r + hidden_r), jax.nn.sigmoid(from_z + hidden_z)
    return r, z, jnp.tanh(from_n + matmul(r * h_before, recurrent[:, 2 * units :]))


def _split(x: Array, units: int) -> list[Array]:
    return jnp.split(x, x.shape[-1] // units, axis=-1)


def _plus(z: Array, bias: Array | None) -> Array:
    return z if bias is None else z + jnp.broadcast_to(bias, z.shape)


# --- doors and layouts ------------------------------------------------------------------------------------------------


def _leaves(params: Any) -> tuple[Array, Array | None, Array, Array | None]:
    """W, b, V and c, which must fit together."""
    has_second = isinstance(params, GruParams) and getattr(params.hidden, "bias", None) is not None
    return input_and_hidden(params, "gru.forward", GruParams, 3, has_second, None)


def _check_reset(reset: Any, function: str) -> None:
    if not isinstance(reset, str) or reset not in (AFTER, BEFORE):
        raise ValueError(f'{function}: reset must be "after" or "before", got {describe(reset)}.')


def _has_hidden_bias(hidden_bias: bool | None, reset: str) -> bool:
    return reset == AFTER if hidden_bias is None else hidden_bias


def _layouts(reset: str, use_bias: bool, hidden_bias: bool) -> Layouts:
    """PyTorch has reset after, and needs cn there; Keras has either, with c only where the reset is after."""
    if use_bias and hidden_bias != (reset == AFTER):
        return Layouts()
    return Layouts(in_pytorch(hidden_bias) if reset == AFTER else None, GRU_IN_KERAS)


def layer(
    units: int,
    *,
    reset: str = AFTER,
    use_bias: bool = True,
    hidden_bias: bool | None = None,
    reverse: bool = False,
    output: str = STEPS,
    weight_init: Initializer = initializers.lecun_normal,
    hidden_init: Initializer = initializers.orthogonal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[GruParams]:
    """A GRU with `units` units; fan_in and dtype are those of the input.

        classifier = jb.chain(jb.layers.gru.layer(64, output="last"), jb.layers.dense.layer(10))

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: units is no positive whole number, or another `reset` or `output`.
    """
    check_size(units, "gru.layer", "units")
    _check_reset(reset, "gru.layer")
    check_output(output, "gru.layer")

    init_for = init_over_time(
        "gru",
        init,
        units,
        reset=reset,
        use_bias=use_bias,
        hidden_bias=hidden_bias,
        weight_init=weight_init,
        hidden_init=hidden_init,
        bias_init=bias_init,
    )

    keywords = {"reset": reset, "reverse": reverse, "output": output}
    layouts = _layouts(reset, use_bias, _has_hidden_bias(hidden_bias, reset))
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "gru", layouts=layouts)


def _with_state_and_lengths(key: Array, dtype: DTypeLike) -> Sequences:
    x_key, h_key = jax.random.split(key)
    x, h = normal(x_key, (3, 4, 2), dtype), normal(h_key, (3, 3), dtype)
    return Sequences(x, h, jax.device_put(np.array([4, 0, 2], np.int32)))


DERIVATIONS = (
    Derivation(
        "gru",
        (
            r"r, z = \sigma(x W_{r,z} + b_{r,z} + h_- V_{r,z} + c_{r,z}),\quad h = z h_- + (1-z) n",
            r"n = \tanh(x W_n + b_n + r (h_- V_n + c_n)) \quad\mathrm{or}\quad \tanh(x W_n + b_n + (r h_-) V_n + c_n)",
            r"\delta_z = \delta h (h_- - n) z(1-z),\quad \delta_n = \delta h (1-z)(1-n^2)",
            r"\delta_r = \delta_n (h_- V_n + c_n) r(1-r) \quad\mathrm{or}\quad (\delta_n V_n^\top) h_- r(1-r)",
            r"\partial L/\partial W = \sum_t x_t^\top \delta_t",
            r"\partial L/\partial V = \sum_t h_-^\top (\delta_r, \delta_z, r \delta_n)",
            r"\partial L/\partial b = \sum_t \delta_t^\top \mathbf{1}",
            r"\partial L/\partial c = \sum_t (\delta_r, \delta_z, r \delta_n)^\top \mathbf{1}",
            r"\partial L/\partial x_t = \delta_t W^\top",
            r"\partial L/\partial h_0 = \delta h_1 z_1 + \delta_1 V^\top",
        ),
        "Cho et al. (2014); equations 9.3.11-9.3.18, 9.3.21",
        (
            Example("reset after", layer(3), (2, 4, 2)),
            Example(
                "reset before, second bias, given state, lengths, reverse",
                layer(3, reset=BEFORE, hidden_bias=True, reverse=True),
                _with_state_and_lengths,
            ),
            Example("no steps, no bias, last", layer(2, use_bias=False, output=LAST), (2, 0, 3)),
        ),
        {
            "W": ("input.weight",), "V": ("hidden.weight",), "b": ("input.bias",), "c": ("hidden.bias",), **OF_SEQUENCES
        },
    ),
)  # fmt: skip
