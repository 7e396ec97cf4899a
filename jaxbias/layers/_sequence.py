"""What the layers over time share: sequences with a state and lengths, masked steps, and both directions.

A step that does not count, μ[t] = 0, keeps the state: h[t] = μ h~[t] + (1 − μ) h₋. Its error signal passes by the cell
unchanged, (1 − μ) δh, and the cell gets μ δh: padding has δx = 0 and adds nothing to any parameter        (9.3.21)
A cell that runs from the last step to the first starts in the padding, where it keeps its state until the first step
that counts: that is the sequence reversed within its length                                               (9.3.22)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxbias._doors import check_delta, check_float, describe
from jaxbias._numerics import accumulation_dtype
from jaxbias.initializers import Initializer, by_name
from jaxbias.params import Params, Static, weight_and_bias

P = TypeVar("P")


class Sequences(NamedTuple):
    """A batch of sequences with what a layer over time may be given beside them; its gradient has the same fields.

        Sequences(x, lengths=jnp.array([5, 3]))

    Attributes:
        x: (n, time, features).
        state: before the first step, as the layer says; None for zeros.
        lengths: (n,) whole numbers, how many steps of each row count, or (n, time) bools, True where a step does; None
            where all do. A step that does not count keeps the state. Their gradient is None.
    """

    x: Any
    state: Any = None
    lengths: Any = None


class Opened(NamedTuple):
    """A layer's input, checked: the sequences, the state that was given or None, what counts, and how it all came."""

    x: Array
    state: Any
    mask: Array | None  # (time, n) bools
    form: Static


def sequence_of(x: Any) -> Any:
    """The array of sequences in whatever form a layer over time takes its input."""
    return x[0] if isinstance(x, tuple | list) and x else x


def parts_of(x: Any, function: str) -> Sequences:
    """An array, a pair (sequences, state), or `Sequences`, as the last of these.

    Raises:
        ValueError: another tuple or list.
    """
    if isinstance(x, Sequences):
        return x
    if not isinstance(x, tuple | list):
        return Sequences(x)
    if len(x) != 2:
        raise ValueError(
            f"{function}: x must be an array, a pair (sequences, state) or jb.layers.Sequences, got {describe(x)}."
        )
    return Sequences(*x)


def in_form_of(x: Any, parts: Sequences) -> Any:
    """The parts in the form in which x came."""
    return _in_form(_form(x), parts)


def _form(x: Any) -> str:
    return "sequences" if isinstance(x, Sequences) else "pair" if isinstance(x, tuple | list) else "array"


def _in_form(form: str, parts: Sequences) -> Any:
    return {"sequences": parts, "pair": (parts.x, parts.state), "array": parts.x}[form]


def opened(x: Any, function: str, fan_in: int, weight_shape: tuple[int, ...]) -> Opened:
    """The parts of x: an array, a pair (sequences, state), or `Sequences`.

    Raises:
        TypeError: the sequences are not floating point, or lengths are neither whole numbers nor bools.
        ValueError: the sequences are not (n, time, fan_in), or lengths have another shape or are out of range.
    """
    sequence, state, lengths = parts_of(x, function)
    check_float(sequence, function)
    if sequence.ndim != 3 or sequence.shape[-1] != fan_in:
        raise ValueError(
            f"{function}: x must be (n, time, fan_in) with fan_in={fan_in} for an input weight of shape "
            f"{weight_shape}, got shape {sequence.shape}. A single sequence needs a batch axis: x[None]."
        )
    mask = None if lengths is None else jnp.swapaxes(mask_of(lengths, sequence.shape[:2], function), 0, 1)
    return Opened(sequence, state, mask, Static((_form(x), state is not None)))


def mask_of(lengths: Any, shape: tuple[int, int], function: str) -> Array:
    """(n, time) bools: whether a step counts.

    Raises:
        TypeError: neither whole numbers nor bools.
        ValueError: another shape, or a length outside 0 … time.
    """
    n, time = shape
    kind = getattr(lengths, "dtype", None)
    is_mask = kind == jnp.bool_
    if kind is None or not (is_mask or jnp.issubdtype(kind, jnp.integer)):
        raise TypeError(
            f"{function}: lengths must be an array of whole numbers (n,) or of bools (n, time), got "
            f"{describe(lengths)}."
        )
    if lengths.shape != ((n, time) if is_mask else (n,)):
        wanted = f"bools (n, time) = {(n, time)}" if is_mask else f"whole numbers (n,) = {(n,)}"
        raise ValueError(f"{function}: lengths must be {wanted} for this x, got shape {lengths.shape}.")
    if is_mask:
        return jnp.asarray(lengths)
    if not isinstance(lengths, Tracer):  # inside jit the values are not known
        values = np.asarray(lengths)
        if values.size and (values.min() < 0 or values.max() > time):
            raise ValueError(
                f"{function}: lengths must lie in 0 … {time}, the steps of x, got lengths from {values.min()} to "
                f"{values.max()}."
            )
    return jnp.arange(time, dtype=kind)[None, :] < jnp.asarray(lengths)[:, None]


def gradient_of(form: Static, delta_x: Array, x: Array, delta_start: Any, start: Any) -> Any:
    """∂L/∂x, time first, and of the state where one was given: in the form of x, and in the dtypes of these leaves."""
    in_dtype = lambda delta, leaf: delta.astype(leaf.dtype)
    kind, state_given = form.value
    delta_state = jax.tree.map(in_dtype, delta_start, start) if state_given else None
    return _in_form(kind, Sequences(in_dtype(jnp.swapaxes(delta_x, 0, 1), x), delta_state))


def checked_state(state: Any, shape: tuple[int, ...], dtype: Any, function: str, name: str, axes: str) -> Array:
    """A given state, which must have this shape; zeros where none was given.

    Raises:
        TypeError: the state is not floating point.
        ValueError: another shape.
    """
    if state is None:
        return jnp.zeros(shape, dtype)
    check_float(state, function, name)
    if tuple(state.shape) != shape:
        raise ValueError(f"{function}: {name} must be {axes} = {shape}, got shape {tuple(state.shape)}.")
    return jnp.asarray(state)


def chosen(mask: Array | None, new: Any, old: Any) -> Any:
    """`new` where a step counts, `old` where it does not; mask (n,), the leaves (n, …).   (9.3.21)"""
    if mask is None:
        return new
    return jax.tree.map(lambda a, b: jnp.where(jnp.expand_dims(mask, range(1, a.ndim)), a, b), new, old)


def silenced(mask: Array | None, deltas: Any) -> Any:
    """`deltas` where a step counts, 0 where it does not."""
    return deltas if mask is None else chosen(mask, deltas, jax.tree.map(jnp.zeros_like, deltas))


def before(states: Array, start: Array, reverse: bool) -> Array:
    """h₋ of every step: the states (time, n, units) moved on by one, the given one before the first."""
    if reverse:
        return jnp.concatenate([states, start[None]])[1:]
    return jnp.concatenate([start[None], states])[:-1]


# --- what leaves the layer --------------------------------------------------------------------------------------------

STEPS, LAST, STATE = "steps", "last", "state"
OF_SEQUENCES = {"x_t": ("x", "x.0", "x.x"), "h_0": ("x.1*", "x.state*")}
"""`Derivation.symbols` of the layers over time."""


def check_output(output: Any, function: str, known: Sequence[str] = (STEPS, LAST)) -> None:
    """Raise a ValueError for another `output`."""
    if not isinstance(output, str) or output not in known:
        names = ", ".join(f'"{name}"' for name in known)
        raise ValueError(f"{function}: output must be one of {names}, got {describe(output)}.")


def delta_of_steps(delta: Any, n: int, time: int, units: int, output: str, function: str) -> tuple[Any, Array]:
    """(D[t] of every step, time first, or None; what comes to h from beyond the last step), in at least float32."""
    delta = check_delta(delta, (n, time, units) if output == STEPS else (n, units), function)
    delta = delta.astype(accumulation_dtype(delta.dtype))
    if output == STEPS:
        return jnp.swapaxes(delta, 0, 1), jnp.zeros((n, units), delta.dtype)
    return None, delta


def arriving(delta_h: Array | None, later: Array) -> Array:
    """δh[t] = D[t] + what comes from the next step."""
    return later if delta_h is None else delta_h + later


# --- params that all cells have ---------------------------------------------------------------------------------------


def init_over_time(name: str, init: Callable[..., P], *sizes: Any, **settings: Any) -> Callable[[Array, Any], P]:
    """`(key, x) -> params` of the layer with this name: fan_in and dtype are those of the sequences.

    Args:
        init: `(key, fan_in, *sizes, dtype=, **settings) -> params`.
    """

    def init_for(key: Array, x: Any) -> P:
        sequence = sequence_of(x)
        check_float(sequence, f"{name}.init")
        return init(key, sequence.shape[-1], *sizes, dtype=sequence.dtype, **settings)

    return init_for


def hidden_params(
    key: Array, shape: tuple[int, int], dtype: Any, *, blocks: int, use_bias: bool, hidden_init: Initializer
) -> Params:
    """V (units in, blocks · units) and its bias.

    Args:
        blocks: how many gates stand side by side in V; each is drawn on its own.
        use_bias: whether there is a bias, which starts at 0.
        hidden_init: draws a block, in at least float32: `orthogonal` needs it.
    """
    draw, (fan_in, width) = by_name(hidden_init), shape
    keys = [key] if blocks == 1 else [jax.random.fold_in(key, block) for block in range(blocks)]
    wide = accumulation_dtype(dtype)
    weight = jnp.concatenate([draw(key, (fan_in, width // blocks), wide) for key in keys], axis=1)
    return Params(weight.astype(dtype), jnp.zeros(width, dtype) if use_bias else None)


def input_and_hidden(params: Any, function: str, kind: type, blocks: int, has_hidden_bias: bool, fan_out: int | None):
    """(W, b, V, c) of a cell with `blocks` gates, which must fit together; fan_out is that of V's rows, None for units.

    Raises:
        TypeError: params is no `kind`, or a leaf is no floating-point array.
        ValueError: shapes that do not fit together.
    """
    if not isinstance(params, kind):
        fields = ", ".join(getattr(kind, "_fields", ()))
        raise TypeError(
            f"{function}: params must be {kind.__name__}({fields}), each a jb.Params, got {describe(params)}. Make it "
            f"with layer.init(key, x)."
        )
    width = "units" if blocks == 1 else f"{blocks} units"
    weight, bias = weight_and_bias(params.input, f"{function} (input)", ("fan_in", width))
    recurrent, second = weight_and_bias(
        params.hidden, f"{function} (hidden)", ("units", width), bias_axes=1 if has_hidden_bias else 0
    )
    units = weight.shape[1] // blocks
    wanted = (units if fan_out is None else fan_out, weight.shape[1])
    if weight.shape[1] % blocks or recurrent.shape != wanted:
        shape = "(units, units)" if blocks == 1 else f"(units, {width})"
        raise ValueError(
            f"{function}: the hidden weight must be {shape} = {wanted} for an input weight of shape {weight.shape}, "
            f"got shape {recurrent.shape}."
        )
    return weight, bias, recurrent, second
