"""How other libraries start the weight and the bias of a layer, for the layers of which that is known here.

    library    weight of dense, conv                     bias                     others
    pytorch    U(±1/√fan_in)                             U(±1/√fan_in)            conv_transpose: fan_in is
                                                                                  out/groups · kernel; bilinear: in1;
                                                                                  rnn, lstm: 1/√units, two biases
    keras      Xavier uniform                            0                        conv_transpose; rnn
    flax       N(0, 1/fan_in), truncated, widened        0                        conv_transpose; rnn, lstm, gru
    haiku      N(0, 1/fan_in), truncated, not widened    0                        conv_transpose; rnn
    equinox    U(±1/√fan_in)                             U(±1/√fan_in)            conv_transpose; lstm: 1/√units
    stax       Xavier normal, truncated, widened         N(0, σ²), σ = 0.01,      conv_transpose
                                                         10⁻⁶ of convolutions

Source: the constructors of torch.nn 2.13, keras 3.15, flax 0.12, dm-haiku 0.0.17, equinox 0.13, jax 0.12's example
library; `tests/test_presets.py` compares draws with them.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array


class Affine(NamedTuple):
    """What the draws depend on: shape (*axes, in/groups, out) of the weight, and its groups."""

    shape: tuple[int, ...]
    groups: int

    @property
    def fan_in(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def fan_out(self) -> int:
        return math.prod(self.shape[:-2]) * self.shape[-1]


@partial(jax.jit, static_argnames=("draw", "shape", "dtype"))
def drawn(draw: Callable[..., Array], key: Array, shape: tuple[int, ...], dtype: DTypeLike, *args: Any) -> Array:
    """Independent entries, drawn as one column: `draw(key, (n, 1), dtype, *args)`.

    The numbers are those of a draw in any shape, and XLA compiles the column in 0.2 to 0.3 s on CPU, where a last axis
    that is no multiple of a vector register, the ten classes of the last layer, takes 0.6 to 1.8 s.
    """
    return draw(key, (math.prod(shape), 1), dtype, *args).reshape(shape)


def _cut(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jax.random.truncated_normal(key, -2, 2, shape, dtype)


def _uniform(bound: float) -> Callable[..., Array]:
    return lambda key, shape, dtype=jnp.float32: drawn(jax.random.uniform, key, tuple(shape), dtype, -bound, bound)


def _truncated(std: float) -> Callable[..., Array]:
    """Cut at two standard deviations and not widened: the standard deviation of what is drawn is 0.88 std."""
    return lambda key, shape, dtype=jnp.float32: std * drawn(_cut, key, tuple(shape), dtype)


def _widened(std: float) -> Callable[..., Array]:
    return _truncated(std / 0.87962566103423978)


def _normal(std: float) -> Callable[..., Array]:
    return lambda key, shape, dtype=jnp.float32: std * drawn(jax.random.normal, key, tuple(shape), dtype)


_ZEROS = jax.nn.initializers.zeros
_Rule = Callable[[Affine], Callable[..., Array]]
_Rules = dict[str, tuple[_Rule, _Rule]]

_FAN_IN: _Rule = lambda of: _uniform(1 / math.sqrt(max(1, of.fan_in)))
_FAN_OUT: _Rule = lambda of: _uniform(1 / math.sqrt(max(1, of.fan_out // of.groups)))
_FIRST: _Rule = lambda of: _uniform(1 / math.sqrt(max(1, of.shape[0])))
_XAVIER_UNIFORM: _Rule = lambda of: _uniform(math.sqrt(6 / max(1, of.fan_in + of.fan_out)))
_XAVIER_NORMAL: _Rule = lambda of: _widened(math.sqrt(2 / max(1, of.fan_in + of.fan_out)))
_LECUN: _Rule = lambda of: _widened(1 / math.sqrt(max(1, of.fan_in)))
_HAIKU: _Rule = lambda of: _truncated(1 / math.sqrt(max(1, of.fan_in)))
_ZERO: _Rule = lambda of: _ZEROS


def _alike(weight: _Rule, bias: _Rule) -> _Rules:
    return dict.fromkeys(("dense", "conv", "conv_transpose"), (weight, bias))


RULES: dict[str, _Rules] = {
    "pytorch": _alike(_FAN_IN, _FAN_IN) | {"conv_transpose": (_FAN_OUT, _FAN_OUT), "bilinear": (_FIRST, _FIRST)},
    "keras": _alike(_XAVIER_UNIFORM, _ZERO),
    "flax": _alike(_LECUN, _ZERO),
    "haiku": _alike(_HAIKU, _ZERO),
    "equinox": _alike(_FAN_IN, _FAN_IN),
    "stax": _alike(_XAVIER_NORMAL, lambda of: _normal(1e-6)) | {"dense": (_XAVIER_NORMAL, lambda of: _normal(1e-2))},
}
"""Library → layer → draws of its weight and its bias."""


class LibraryDefault(NamedTuple):
    """The draw of a library for the weight or the bias of a layer, which `affine` asks for it by the layer's name."""

    library: str
    part: int

    def of(self, layer: str, shape: tuple[int, ...], groups: int) -> Callable[..., Array]:
        """The draw for this layer.

        Raises:
            ValueError: what the library does for such a layer is not known here.
        """
        rules = RULES[self.library]
        if layer not in rules:
            recurrent = f', or preset("{self.library}", "{layer}")' if layer in RECURRENT.get(self.library, {}) else ""
            named = f"a layer {layer}" if layer else "this layer"
            raise ValueError(
                f"initializers.preset: what {self.library} does for {named} is not known here; its preset is for "
                f"{', '.join(rules)}{recurrent}."
            )
        return rules[layer][self.part](Affine(shape, groups))

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        if len(shape) != 2 and not (self.part == 1 and RULES[self.library]["dense"][1] is _ZERO):
            raise ValueError(
                f"initializers.preset: the draw of {self.library} for the shape {tuple(shape)} depends on the layer. "
                f"Give it to a layer as weight_init or bias_init."
            )
        return self.of("dense", tuple(shape), 1)(key, shape, dtype)


class CellDefault(NamedTuple):
    """The draw of a library for the weight or the bias of a recurrent cell, and of no other layer."""

    library: str
    cell: str
    draw: Callable[..., Array]

    def of(self, layer: str, shape: tuple[int, ...], groups: int) -> Callable[..., Array]:
        """The draw for this layer.

        Raises:
            ValueError: it is another layer, or such a cell with options that the library does not have.
        """
        if layer != self.cell:
            other = f"a layer {layer}" if layer else "this layer or option"
            raise ValueError(
                f'initializers.preset: preset("{self.library}", "{self.cell}") is for {self.cell} as {self.library} '
                f"has it, not for {other}."
            )
        return self.draw

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return self.draw(key, shape, dtype)


def _per_unit(blocks: int, draws: int = 1) -> Callable[..., Array]:
    """U(±1/√units) of an array whose last axis is `blocks` times the units, or the sum of such draws."""

    def draw(key, shape, dtype=jnp.float32):
        bound = 1 / math.sqrt(max(1, shape[-1] // blocks))
        keys = jax.random.split(key, draws)
        return jnp.stack([_uniform(bound)(k, shape, dtype) for k in keys]).sum(axis=0)

    return draw


def _lazily(rule: _Rule) -> Callable[..., Array]:
    return lambda key, shape, dtype=jnp.float32: rule(Affine(tuple(shape), 1))(key, shape, dtype)


def _cell(weight: Any, hidden: Any, bias: Any) -> dict[str, Any]:
    return {"weight_init": weight, "hidden_init": hidden, "bias_init": bias}


_FLAX_CELL = _cell(_lazily(_LECUN), "orthogonal", _ZEROS)
RECURRENT: dict[str, dict[str, dict[str, Any]]] = {
    # PyTorch adds two biases where there is one here
    "pytorch": {"rnn": _cell(_per_unit(1), _per_unit(1), _per_unit(1, 2)),
                "lstm": _cell(_per_unit(4), _per_unit(1), _per_unit(4, 2))},
    "keras": {"rnn": _cell(_lazily(_XAVIER_UNIFORM), "orthogonal", _ZEROS)},
    "flax": {"rnn": _FLAX_CELL, "lstm": _FLAX_CELL, "gru": _FLAX_CELL},
    "haiku": {"rnn": _cell(_lazily(_HAIKU), _lazily(_HAIKU), _ZEROS)},
    "equinox": {"lstm": _cell(_per_unit(4), _per_unit(1), _per_unit(4))},
}  # fmt: skip
"""Library → cell → keywords of its `layer`."""


def preset(library: str, layer: str | None = None) -> dict[str, Any]:
    """The defaults of another library, as keywords of a layer: `dense.layer(10, **preset("pytorch"))`.

    Without a layer they are for dense, conv and conv_transpose (and PyTorch's for bilinear); any other layer refuses
    them. A recurrent cell is named, for its hidden weight is drawn too: `lstm.layer(64, **preset("pytorch", "lstm"))`.

    Args:
        library: "pytorch", "keras", "flax", "haiku", "equinox" or "stax" (`jax.example_libraries`).
        layer: a layer's name.

    Raises:
        ValueError: another library, or a layer for which its defaults are not known here.
    """
    if library not in RULES:
        raise ValueError(f"initializers.preset: library must be one of {', '.join(RULES)}, got {library!r}.")
    if layer is not None and layer in RECURRENT.get(library, {}):
        draws = RECURRENT[library][layer]
        return draws | {name: CellDefault(library, layer, draws[name]) for name in ("weight_init", "bias_init")}
    defaults = {"weight_init": LibraryDefault(library, 0), "bias_init": LibraryDefault(library, 1)}
    if layer is not None and layer not in RULES[library]:
        known = (*RULES[library], *RECURRENT.get(library, {}))
        raise ValueError(
            f"initializers.preset: what {library} does for a layer {layer} is not known here; its presets are for "
            f"{', '.join(known)}."
        )
    return defaults
