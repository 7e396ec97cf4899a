"""State-space model over a sequence: x (n, time, features) → y of the same shape, S states for each feature.

Every state is multiplied and added to in each step, h[t] = a[t]∘h[t−1] + b[t], so all steps are done by a scan
(9.9.1), and its adjoint is one too (9.9.2). There are three kinds:

    selective   τ = softplus(x Wτ + bτ)   B = x W_B + b_B   C = x W_C + b_C   A = −e^(A_log)                 (9.9.5)
                h = e^(τ A)∘h₋ + τ B x    y = Σ_s C h + D x                                                  (9.9.6)
                with exact_hold, (e^(τ A) − 1)/A in the place of τ in τ B x                                  (9.9.10)
    real        h = a∘h₋ + B x            y = Σ_s C h + D x + b       a = e^(−e^ν)                           (9.9.3)
    complex     h = a∘h₋ + x              y = Σ_s Re(C h) + D x + b   a = e^(−e^ν + iθ)                      (9.9.4)

Backward of the selective kind, with δ = ∂L/∂y and the λ of (9.9.2) for D[t] = C δ:
            δC_s = Σ_e δ h     δB_s = Σ_e λ τ x     δτ_e = Σ_s λ (A e^(τ A) h₋ + B x)                        (9.9.7)
            ∂L/∂A_log = A Σ λ τ e^(τ A) h₋     ∂L/∂D = Σ δ x     ∂L/∂bτ = Σ δτ (1 − e^−τ)                    (9.9.8)
            ∂L/∂x = Σ_s λ τ B + D δ + what comes through the three products                                  (9.9.9)
Those of the other two stand in `_diagonal.py`, (9.9.3) and (9.9.4).

Kept for backward: x, τ, B, C, and the state before each chunk of steps. The states inside of a chunk are computed
again, so that memory has room for one chunk of states, not for all of them.

Steps that do not count, by lengths or a mask, keep the state, and their y is 0; with `reverse` the scan runs from the
last step to the first, within the lengths. The scan runs in at least float32.

No bias of the selective kind is redundant. bτ decides at which time scale a feature begins: it starts where
softplus(bτ) = τ0 with τ0 log-uniform in [0.001, 0.1] (9.9.11), `initializers.time_step`; as 0 it would be τ0 = 0.7.

>>> block = jb.chain(jb.layers.rms_norm.layer(), dense.layer(128), jb.layers.silu, ssm.layer(16), dense.layer(64))
>>> network = jb.residual(block)                        # x (n, time, 64)

Source: A. Gu and T. Dao, Mamba (2023) for selective; A. Gu et al., S4D (2022) and A. Orvieto et al., LRU (2023) for
diagonal; E. Martin, C. Cundy (2018) for the scan; derivation sheet 9.9.
"""

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias import initializers
from jaxbias._doors import check_delta, check_float, check_size, describe
from jaxbias._numerics import widen
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.initializers import Initializer
from jaxbias.layers import _diagonal, _selective
from jaxbias.layers._diagonal import DiagonalParams as DiagonalParams
from jaxbias.layers._scan import Recurrence, pull_back, run
from jaxbias.layers._selective import SelectiveParams as SelectiveParams
from jaxbias.layers._sequence import (
    LAST,
    OF_SEQUENCES,
    STATE,
    STEPS,
    Sequences,
    check_output,
    checked_state,
    gradient_of,
    init_over_time,
    opened,
)
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Static, weight_and_bias

KINDS = ("selective", "real", "complex")
CHUNK = 64
TIME_STEP = initializers.time_step()
OUTPUTS = STEPS, LAST, STATE


class Residuals(NamedTuple):
    x: Array
    steps: Any  # what each step brings beside x, time first
    states: Array  # before each chunk
    start: Array
    mask: Array | None
    params: Any
    form: Static


def init(
    key: Array,
    features: int,
    states: int = 16,
    *,
    kind: str = "selective",
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    time_step_init: Initializer = TIME_STEP,
    dtype: DTypeLike = jnp.float32,
) -> Any:
    """Rates of decay that reach from one step to hundreds, and outputs that begin near the size of x.

    Args:
        states: S, for each feature.
        kind: "selective", "real" or "complex".
        use_bias: whether there are biases; without them they are None.
        weight_init: of Wτ, W_B, W_C of the selective kind.
        bias_init: of all biases but bτ.
        time_step_init: of bτ; in the other kinds softplus of what it draws scales the rates. A function
            `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`, as the others are.
        dtype: of all.
    """
    _check_kind(kind, "ssm.init")
    biases: dict[str, Any] = {"use_bias": use_bias, "bias_init": bias_init, "time_step_init": time_step_init}
    if kind == "selective":
        return _selective.init(key, features, states, dtype, weight_init=weight_init, **biases)
    return _diagonal.init(key, features, states, dtype, is_complex=kind == "complex", **biases)


def forward(
    params: Any,
    x: Any,
    *,
    exact_hold: bool = False,
    reverse: bool = False,
    output: str = STEPS,
    chunk: int = CHUNK,
) -> tuple[Array, Residuals]:
    """y[1] … y[T], or what there is after the last step.

    Args:
        params: `SelectiveParams` or `DiagonalParams`.
        x: the sequences (n, time, features); a pair (sequences, h0) to start from another state than zero, h0
            (n, features, S), of a complex state (n, 2, features, S); or `jb.layers.Sequences` with lengths.
        exact_hold: of the selective kind, whether the input is held over a step as the state decays in it
            (zero-order hold); otherwise a step adds τ B x.
        reverse: from the last step to the first.
        output: "steps" for all y[t], "last" for y of the last step that counts, (n, features), 0 where none does;
            "state" for h after it, in the form of h0.
        chunk: largest number of steps whose states exist at the same time: memory and time, no result.

    Raises:
        TypeError: the sequences or h0 are not floating point, or params are others.
        ValueError: the sequences are not (n, time, features), another shape of h0 or of the lengths, leaves of params
            whose shapes do not fit together, another `output` or `chunk`, or exact_hold of another kind.
    """
    function = "ssm.forward"
    kind, state_shape = _check_params(params)
    check_output(output, function, OUTPUTS)
    check_size(chunk, function, "chunk")
    features = state_shape[-2]
    sequence, h0, mask, form = opened(x, function, features, params.decay.shape)
    axes = "(n, features, states)" if len(state_shape) == 2 else "(n, 2, features, states)"
    start = checked_state(h0, (sequence.shape[0], *state_shape), sequence.dtype, function, "h0", axes)
    wide = jax.tree.map(widen, params)
    steps = kind.steps_of(wide, widen(jnp.swapaxes(sequence, 0, 1)))
    y, last, states = run(
        _recurrence(wide, exact_hold), steps, mask, _as_number(widen(start), params), chunk=chunk, reverse=reverse
    )
    if output == STEPS:
        out = jnp.swapaxes(y, 0, 1)
    elif output == LAST:
        out = jnp.sum(jnp.where(_last_step(mask, y.shape, reverse), y, 0), axis=0)
    else:
        out = _as_parts(last)
    residuals = Residuals(sequence, steps._replace(x=None), states, start, mask, params, form)
    return out.astype(sequence.dtype), residuals


def backward(
    residuals: Residuals,
    delta: Array,
    *,
    exact_hold: bool = False,
    reverse: bool = False,
    output: str = STEPS,
    chunk: int = CHUNK,
) -> tuple[Any, Any]:
    """The gradients of params, and ∂L/∂x in the form of x, with ∂L/∂h0 where h0 was given.

    The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than the output.
    """
    x, steps, states, start, mask, params, form = residuals
    n, time, features = x.shape
    shape = {STEPS: x.shape, LAST: (n, features), STATE: start.shape}[output]
    delta = widen(check_delta(delta, shape, "ssm.backward"))
    kind, _ = _check_params(params)
    wide = jax.tree.map(widen, params)
    steps = steps._replace(x=widen(jnp.swapaxes(x, 0, 1)))
    delta_y, later = jnp.zeros((time, n, features), delta.dtype), jnp.zeros(start.shape, delta.dtype)
    if output == STEPS:
        delta_y = jnp.swapaxes(delta, 0, 1)
    elif output == LAST:
        delta_y = jnp.where(_last_step(mask, delta_y.shape, reverse), delta[None], delta_y)
    else:
        later = delta
    of_steps, of_shared, delta_h0 = pull_back(
        _recurrence(wide, exact_hold),
        steps,
        mask,
        states,
        delta_y,
        jnp.conj(_as_number(later, params)),
        chunk=chunk,
        reverse=reverse,
    )
    grads, delta_x = kind.grads_of(wide, steps, of_steps, of_shared)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
    return grads, gradient_of(form, delta_x, x, _as_parts(jnp.conj(delta_h0)), start)


def _recurrence(params: Any, exact_hold: bool) -> Recurrence:
    """The scan of either kind of params."""
    if isinstance(params, SelectiveParams):
        return _selective.recurrence(params, exact_hold)
    if exact_hold:
        raise ValueError("ssm.forward: exact_hold is of the selective kind, whose steps have a length.")
    return _diagonal.recurrence(params)


def _last_step(mask: Array | None, shape: tuple[int, ...], reverse: bool) -> Array:
    """(time, n, 1) bools: whether it is the last step that counts; none in a row where no step does."""
    counts = jnp.ones(shape[:2], bool) if mask is None else mask
    number = jnp.broadcast_to(jnp.arange(shape[0])[:, None], counts.shape)
    number = -number if reverse else number
    last = jnp.max(jnp.where(counts, number, -shape[0]), axis=0, initial=-shape[0])
    return (counts & (number == last[None]))[..., None]


def _as_number(parts: Array, params: Any) -> Array:
    """A state as it is computed with: of the two parts one complex number."""
    return lax.complex(parts[:, 0], parts[:, 1]) if _is_complex(params) else parts


def _as_parts(h: Array) -> Array:
    """A state as it comes and goes."""
    return jnp.stack([h.real, h.imag], axis=1) if jnp.iscomplexobj(h) else h


def _is_complex(params: Any) -> bool:
    return isinstance(params, DiagonalParams) and params.angle is not None


# --- doors ------------------------------------------------------------------------------------------------------------


def _check_kind(kind: Any, function: str) -> None:
    if not isinstance(kind, str) or kind not in KINDS:
        names = ", ".join(f'"{name}"' for name in KINDS)
        raise ValueError(f"{function}: kind must be one of {names}, got {describe(kind)}.")


def _check_params(params: Any) -> tuple[ModuleType, tuple[int, ...]]:
    """The module of this kind, and the shape of a row's state, if all leaves fit together."""
    function = "ssm.forward"
    if not isinstance(params, DiagonalParams | SelectiveParams):
        raise TypeError(
            f"{function}: params must be SelectiveParams or DiagonalParams, got {describe(params)}. Make it with "
            f"layer.init(key, x)."
        )
    check_float(params.decay, function, "decay")
    if params.decay.ndim != 2:
        raise ValueError(f"{function}: decay must be (features, states), got shape {params.decay.shape}.")
    features, states = params.decay.shape
    if isinstance(params, SelectiveParams):
        for name, width in (("time_step", features), ("input", states), ("output", states)):
            weight, _ = weight_and_bias(getattr(params, name), f"{function} ({name})", ("features", "width"))
            _check_shape(weight, (features, width), f"the {name} weight", params)
        _check_shape(params.skip, (features,), "skip", params)
        return _selective, (features, states)
    parts = (2,) if _is_complex(params) else ()
    others = {"angle": params.angle} if _is_complex(params) else {"input": params.input}
    for name, leaf in others.items():
        _check_shape(leaf, (features, states), name, params)
    _check_shape(params.skip, (features,), "skip", params)
    _check_shape(params.output.weight, (*parts, features, states), "the output weight", params)
    if params.output.bias is not None:
        _check_shape(params.output.bias, (features,), "the output bias", params)
    return _diagonal, (*parts, features, states)


def _check_shape(leaf: Any, wanted: tuple[int, ...], name: str, params: Any) -> None:
    check_float(leaf, "ssm.forward", name)
    if leaf.shape != wanted:
        raise ValueError(
            f"ssm.forward: {name} must have shape {wanted} beside a decay of shape {params.decay.shape}, got "
            f"{leaf.shape}."
        )


LAYOUTS = Layouts(pytorch=AS_HERE)  # PyTorch has no such module


def layer(
    states: int = 16,
    *,
    kind: str = "selective",
    exact_hold: bool = False,
    use_bias: bool = True,
    reverse: bool = False,
    output: str = STEPS,
    chunk: int = CHUNK,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    time_step_init: Initializer = TIME_STEP,
) -> Layer[Any]:
    """A state-space model with `states` states for each feature; features and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: states or chunk is no positive whole number, another `kind` or `output`, or exact_hold of
            another kind than the selective.
    """
    check_size(states, "ssm.layer", "states")
    check_size(chunk, "ssm.layer", "chunk")
    _check_kind(kind, "ssm.layer")
    if exact_hold and kind != "selective":
        raise ValueError(f'ssm.layer: exact_hold is of kind="selective", whose steps have a length, got {kind!r}.')
    check_output(output, "ssm.layer", OUTPUTS)

    init_for = init_over_time(
        "ssm",
        init,
        states,
        kind=kind,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
        time_step_init=time_step_init,
    )

    keywords = {"exact_hold": exact_hold, "reverse": reverse, "output": output, "chunk": chunk}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "ssm", layouts=LAYOUTS)


def _given(x: tuple[int, int, int], state: tuple[int, ...], lengths: tuple[int, ...]):
    def draw(key: Array, dtype: DTypeLike) -> Sequences:
        x_key, h_key = jax.random.split(key)
        h0 = normal(h_key, (x[0], *state), dtype)
        return Sequences(normal(x_key, x, dtype), h0, jax.device_put(np.array(lengths, np.int32)))

    return draw


DERIVATIONS = (
    Derivation(
        "ssm",
        (
            r"h_t = e^{\tau A} h_{t-1} + \tau B x_t,\quad y_t = \sum_s C h_t + D x_t,\quad A = -e^{A_{\log}}",
            r"\tau = \mathrm{softplus}(x W_\tau + b_\tau),\quad B = x W_B + b_B,\quad C = x W_C + b_C",
            r"\lambda_t = C \delta_t + e^{\tau_{t+1} A} \lambda_{t+1},\quad w = \lambda e^{\tau A} h_{t-1}",
            r"\delta_C = \sum_e \delta h,\quad \delta_B = \sum_e \lambda \tau x",
            r"\delta_\tau = (1 - e^{-\tau}) \sum_s (A w + \lambda B x)",
            r"\partial L/\partial W_{\tau} = \sum x^\top \delta_\tau",
            r"\partial L/\partial b_{\tau} = \sum \delta_\tau",
            r"\partial L/\partial W_B = \sum x^\top \delta_B",
            r"\partial L/\partial b_B = \sum \delta_B",
            r"\partial L/\partial W_C = \sum x^\top \delta_C",
            r"\partial L/\partial b_C = \sum \delta_C",
            r"\partial L/\partial A_{\log} = A \sum \tau w \quad (\nu \mathrm{\ alike:\ } -e^\nu \mathrm{Re} \sum w)",
            r"\partial L/\partial \theta = -\mathrm{Im} \sum w \mathrm{\ (complex)}",
            r"\partial L/\partial B = \sum \lambda x \mathrm{\ (real)}",
            r"\partial L/\partial C = \sum h \delta,\quad \partial L/\partial b = \sum \delta \mathrm{\ (diagonal)}",
            r"\partial L/\partial D = \sum x \delta",
            r"\partial L/\partial x_t = \sum_s \lambda \tau B + D \delta + \sum_i \delta_i W_i^\top,\ i = \tau, B, C",
            r"\partial L/\partial h_0 = e^{\tau_1 A} \lambda_1",
        ),
        "Gu and Dao (2023), Gu et al. (2022), Orvieto et al. (2023); equations 9.9.1-9.9.10",
        (
            Example("selective", layer(2), (2, 3, 2)),
            Example(
                "selective, no bias, given state, lengths, reverse, last, in chunks",
                layer(2, use_bias=False, reverse=True, output=LAST, chunk=2),
                _given((3, 3, 2), (2, 2), (3, 0, 2)),
            ),
            Example("selective, exact hold", layer(2, exact_hold=True), (2, 3, 2)),
            Example("real", layer(2, kind="real"), (2, 2, 2)),
            Example(
                "complex, given state, lengths, in chunks",
                layer(2, kind="complex", chunk=2),
                _given((3, 3, 2), (2, 2, 2), (3, 0, 2)),
            ),
            Example(
                "complex, no bias, state after the last step",
                layer(1, kind="complex", use_bias=False, output=STATE),
                (2, 2, 2),
            ),
            Example("no steps", layer(2), (3, 0, 2)),
        ),
        {
            r"W_{\tau}": ("time_step.weight",),
            r"b_{\tau}": ("time_step.bias",),
            "W_B": ("input.weight",),
            "b_B": ("input.bias",),
            "W_C": ("output.weight",),
            "b_C": ("output.bias",),
            r"A_{\log}": ("decay",),
            r"\theta": ("angle",),
            "B": ("input",),
            "C": ("output.weight",),
            "b": ("output.bias",),
            "D": ("skip",),
            **OF_SEQUENCES,
        },
    ),
)
