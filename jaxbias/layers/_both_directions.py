"""A layer over time in both directions: the same layer twice, with params of its own for the sequence turned round.

Forward     h = [f(x), turned(f′(turned x))], side by side along the last axis
Backward    δ of the second is turned in the same way, and ∂L/∂x is the sum of both                          (9.3.22)

Lengths are made a mask and turned round with the sequence: the second layer keeps its state through the padding, which
comes first then, so the sequence is reversed within its length. Turned as a whole, with the padding taken for steps,
it is not (PyTorch #1811).

Source: M. Schuster, K. Paliwal (1997); derivation sheet 9.3.22.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxbias._doors import check_delta, describe
from jaxbias.layers._sequence import Sequences, in_form_of, mask_of, parts_of
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Static, as_layer


def both_directions(layer: Layer) -> Layer[tuple[Any, Any]]:
    """The layer from the first step to the last, and another like it from the last to the first, side by side.

        jb.chain(jb.layers.both_directions(jb.layers.lstm.layer(64, output="last")), jb.layers.dense.layer(10))

    params is a pair; so is a given state, one for each direction.

    Args:
        layer: `rnn`, `lstm`, `gru`, `mingru`, `minlstm` or `ssm`, or any stateless layer that takes (n, time, features)
            and gives (n, time, features) or (n, features).

    Raises:
        TypeError: the argument is no `Layer`.
        ValueError: the layer keeps a state that is not learned, as dropout does.
    """
    as_layer(layer, "both_directions")
    if layer.state is not None:
        raise ValueError(
            f"both_directions: the layer inside must keep no state, got {layer.name}. Put it before this one or behind."
        )

    def init(key, x):
        ahead, _ = _both(x)
        return tuple(layer.init(jax.random.fold_in(key, i), ahead) for i in range(2))

    def forward(params, x):
        if type(params) is not tuple or len(params) != 2:
            raise ValueError(
                f"both_directions.forward: params must be a pair, one for each direction, got {describe(params)}. Make "
                f"it with layer.init(key, x)."
            )
        (out, residuals), (back, residuals_back) = map(layer.forward, params, _both(x))
        joined = jnp.concatenate([out, _turned(back)], axis=-1)
        return joined, (residuals, residuals_back, Static((joined.shape, out.shape[-1])))

    def backward(residuals, delta):
        residuals, residuals_back, shapes = residuals
        shape, width = shapes.value
        delta = check_delta(delta, shape, f"{layer.name}.backward")
        grads, delta_x = layer.backward(residuals, delta[..., :width])
        grads_back, delta_back = layer.backward(residuals_back, _turned(delta[..., width:]))
        ahead, back = (parts_of(delta, "both_directions.backward") for delta in (delta_x, delta_back))
        state = None if ahead.state is None else (ahead.state, back.state)
        return (grads, grads_back), in_form_of(delta_x, Sequences(ahead.x + _turned(back.x), state))

    return Layer(init, forward, backward, layer.name, layouts=_layouts(layer.layouts))


def _turned(x: Any) -> Any:
    """Time, the second of three axes, the other way round; what has no time stays as it is."""
    if isinstance(x, jax.ShapeDtypeStruct) or x.ndim != 3:
        return x
    return jnp.flip(x, axis=1)


def _both(x: Any) -> tuple[Any, Any]:
    """x as the layer of each direction takes it: with its own state, the second turned round."""
    function = "both_directions.forward"
    sequence, state, lengths = parts_of(x, function)
    if state is not None and not (isinstance(state, tuple | list) and len(state) == 2):
        raise ValueError(f"{function}: the state must be a pair, one for each direction, got {describe(state)}.")
    states = (None, None) if state is None else state
    turned = sequence if not hasattr(sequence, "ndim") else _turned(sequence)  # the layer refuses what is no array
    mask = None if lengths is None else mask_of(lengths, sequence.shape[:2], function)[:, ::-1]
    return in_form_of(x, Sequences(sequence, states[0], lengths)), in_form_of(x, Sequences(turned, states[1], mask))


REVERSE = "_reverse"
"""Behind the names of the second direction's arrays, as PyTorch has it; Keras has the second's after the first's."""


def _layouts(layout: Layouts) -> Layouts:
    return Layouts(
        pytorch=None if layout.pytorch is None else _twice(layout.pytorch),
        keras=None if layout.keras is None else _twice(layout.keras),
    )


def _twice(layout: Layout) -> Layout:
    def write(arrays: Arrays) -> Arrays:
        ahead, back = ({n[2:]: a for n, a in arrays.items() if n.startswith(f"{i}.")} for i in range(2))
        return layout.write(ahead) | {name + REVERSE: array for name, array in layout.write(back).items()}

    def read(arrays: Arrays) -> Arrays:
        ahead = {name: array for name, array in arrays.items() if not name.endswith(REVERSE)}
        back = {name.removesuffix(REVERSE): array for name, array in arrays.items() if name.endswith(REVERSE)}
        parts = enumerate((layout.read(ahead), layout.read(back)))
        return {f"{i}.{name}": array for i, part in parts for name, array in part.items()}

    return Layout(write, read)
