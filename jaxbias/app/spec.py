"""Networks as text: `dense:128,relu,dense:10` is a chain of three layers.

    spec    = layer "," layer ...
    layer   = name [":" size] [":" option "=" value] ...  |  "residual(" spec ")"

`dense:128` has 128 units. `conv:16x3x3` has 16 filters with a 3×3 kernel, padding "SAME" unless said otherwise
(`conv:16x3x3:padding=VALID:stride=2`). `swiglu:128` has 128 gates and as many outputs as inputs, `swiglu:128x10` ten,
`geglu`, `reglu` and `glu` likewise. `maxout:64x3` has 64 units of 3 pieces. `lstm:64:output=last` gives its state
after the last step, `lstm:64:both_directions=true` that of each step from both ends; the digits are then sequences of
lines. `ssm:16` has 16 states for each feature. `max_pool:2` takes windows of 2 along every spatial axis. Options are
the keywords of the layer.

`residual(layer_norm,dense:64)` adds its input to what it makes of it. `transformer:4x16x128` is short for the
pre-norm block `residual(layer_norm,attention:4x16),residual(layer_norm,swiglu:128)`, with the options of the attention.
`embedding:64` has a row for each character of a text, `embedding:100x64` for 100 ids; `dense:K` has as many outputs as
a text has different characters.
"""

import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxbias import layers
from jaxbias.combinators import chain, residual
from jaxbias.data import Form
from jaxbias.params import Layer, init_state, map_layers, out_shape

ACTIVATIONS = tuple(sorted(name for name, value in vars(layers).items() if isinstance(value, Layer)))


def _sizes(text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) for part in text.split("x")):
        raise ValueError(f"{text!r} is no size: whole numbers of at least 1, with an x between them")
    return [int(part) for part in text.split("x")]


def _with_kernel(module: Any, **default: Any) -> Callable[..., Layer]:
    """A layer with so many filters of that kernel: 16x3x3."""

    def build(size: str, **options: Any) -> Layer:
        channels, *kernel = _sizes(size)
        if not kernel:
            raise ValueError(size)
        return module.layer(channels, kernel, **{**default, **options})

    return build


def _maxout(size: str, **options: Any) -> Layer:
    units, *pieces = _sizes(size)
    return layers.maxout.layer(units, **dict(zip(("pieces",), pieces, strict=True)), **options)


def _window(size: str) -> int | list[int]:
    sizes = _sizes(size)
    return sizes[0] if len(sizes) == 1 else sizes


def _glu(**gate: str) -> Callable[..., Layer]:
    """A gated unit with so many gates, or with another width of its output: 128x10."""
    return lambda size, **options: layers.glu.layer(*_sizes(size), **gate, **options)


def _over_time(cell: Any) -> Callable[..., Layer]:
    """A recurrent layer with so many units; with `both_directions=true` as many again, from the last step on."""

    def build(size: str, both_directions: bool = False, **options: Any) -> Layer:
        layer = cell.layer(*_sizes(size), **options)
        return layers.both_directions(layer) if both_directions else layer

    return build


def _transformer(size: str, use_bias: bool = True, **options: Any) -> Layer:
    """A pre-norm block: attention, then a gated unit, each after a layer norm and beside a skip connection."""
    heads, head_size, hidden = _sizes(size)
    norm = layers.layer_norm.layer(use_bias=use_bias)
    attention = layers.attention.layer(heads, head_size, use_bias=use_bias, **options)
    gated = layers.glu.layer(hidden, gate="silu", use_bias=use_bias)
    return chain(residual(chain(norm, attention)), residual(chain(norm, gated)))


def _embedding(size: str, vocabulary: int | None = None, **options: Any) -> Layer:
    sizes = _sizes(size)
    if len(sizes) == 1 and vocabulary is None:
        raise ValueError("the number of ids is known of text alone: embedding:100x64 has 100")
    ids, features = sizes if len(sizes) > 1 else (vocabulary or 0, *sizes)
    return layers.embedding.layer(ids, features, **options)


_BUILDERS: dict[str, tuple[str, bool, Callable[..., Layer]]] = {
    # name: (an example of the size, or "" where none is taken; whether there is a bias to switch off; how to build it)
    "dense": ("128", True, lambda size, **options: layers.dense.layer(*_sizes(size), **options)),
    "conv": ("16x3x3", True, _with_kernel(layers.conv, padding="SAME")),
    "maxout": ("128x2", True, _maxout),
    "implicit": ("128", True, lambda size, **options: layers.implicit.layer(*_sizes(size), **options)),
    "locally_connected": ("16x3x3", True, _with_kernel(layers.locally_connected)),
    "glu": ("128", True, _glu()),
    "swiglu": ("128", True, _glu(gate="silu")),
    "geglu": ("128", True, _glu(gate="gelu")),
    "reglu": ("128", True, _glu(gate="relu")),
    "batch_norm": ("", True, lambda **options: layers.batch_norm.layer(**options)),
    "layer_norm": ("", True, lambda **options: layers.layer_norm.layer(**options)),
    "rms_norm": ("", False, lambda **options: layers.rms_norm.layer(**options)),
    "group_norm": ("4", True, lambda size, **options: layers.group_norm.layer(*_sizes(size), **options)),
    "max_pool": ("2", False, lambda size, **options: layers.max_pool.layer(_window(size), **options)),
    "avg_pool": ("2", False, lambda size, **options: layers.avg_pool.layer(_window(size), **options)),
    "global_avg_pool": ("", False, lambda: layers.global_avg_pool.layer()),
    "prelu": ("", False, lambda **options: layers.prelu.layer(**options)),
    "upsample": ("2", False, lambda size, **options: layers.upsample.layer(_window(size), **options)),
    "pixel_shuffle": ("2", False, lambda size, **options: layers.pixel_shuffle.layer(_window(size), **options)),
    "unfold": ("3", False, lambda size, **options: layers.unfold.layer(_window(size), **options)),
    "dropout": ("0.5", False, lambda size, **options: layers.dropout.layer(float(size), **options)),
    "gumbel_softmax": ("0.5", False, lambda size, **options: layers.gumbel_softmax.layer(float(size), **options)),
    "flatten": ("", False, lambda: layers.reshape.layer()),
    "positions": ("64", False, lambda size, **options: layers.positions.layer(*_sizes(size), **options)),
    "rnn": ("64", True, _over_time(layers.rnn)),
    "lstm": ("64", True, _over_time(layers.lstm)),
    "gru": ("64", True, _over_time(layers.gru)),
    "mingru": ("64", True, _over_time(layers.mingru)),
    "minlstm": ("64", True, _over_time(layers.minlstm)),
    "ssm": ("16", True, _over_time(layers.ssm)),
    "linear_attention": (
        "4x16",
        True,
        lambda size, **options: layers.linear_attention.layer(*_sizes(size), **options),
    ),
    "attention": ("4x16", True, lambda size, **options: layers.attention.layer(*_sizes(size), **options)),
    "transformer": ("4x16x128", True, _transformer),
    "embedding": ("100x64", False, _embedding),
}
NOT_WRITTEN = {
    "bias_neuron": "it is dense with the bias as a row of its weight",
    "bilinear": "it takes two inputs",
    "conv_transpose": "no data set here has images as targets",
    "crf": "it is the loss too, and takes the labels",
    "einsum_dense": "an equation has a comma, as a list of layers has",
    "fold": "it takes the windows of images of one size",
    "linear_cross_entropy": "it is the loss too, and takes the labels",
    "lora": "it goes around the dense layers of a trained network, by lora.adapt",
    "moe": "its experts are layers of their own",
    "spectral_norm": "it goes around another layer",
    "weight_norm": "it goes around another layer",
    "weight_standardization": "it goes around another layer",
}
"""Layers that no spec names, and why; `jb.chain` builds them."""

OVER_TIME = {"rnn", "lstm", "gru", "mingru", "minlstm", "ssm", "linear_attention", "attention", "positions"}

NAMES = (*_BUILDERS, *ACTIVATIONS)
"""Every layer that a spec may name."""


def parse(spec: str, *, use_bias: bool = True, vocabulary: int | None = None) -> Layer:
    """The network that `spec` describes.

    Args:
        use_bias: False builds every layer without its bias.
        vocabulary: rows of an embedding that does not say how many it has, and the size that is written K.

    Raises:
        ValueError: an empty spec, an unknown layer, a missing or impossible size, an unknown option, parentheses that
            do not pair.
    """
    return _parse(spec, spec, use_bias, vocabulary)


def _parse(text: str, spec: str, use_bias: bool, vocabulary: int | None) -> Layer:
    return chain(*(_parse_layer(part.strip(), spec, use_bias, vocabulary) for part in _parts(text, spec)))


def _parts(text: str, spec: str) -> list[str]:
    """Cut at the commas outside of parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise ValueError(
            f"spec: the parentheses in {spec!r} do not pair: a skip connection is residual(dense:64,relu)."
        )
    return parts


def _parse_layer(text: str, spec: str, use_bias: bool, vocabulary: int | None) -> Layer:
    if text.startswith("residual(") and text.endswith(")"):
        return residual(_parse(text.removeprefix("residual(").removesuffix(")"), spec, use_bias, vocabulary))
    name, *rest = text.split(":")
    if name in NOT_WRITTEN:
        raise ValueError(f"spec: {name} in {spec!r} cannot be written as text: {NOT_WRITTEN[name]}. Use jb.chain.")
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        got = f"unknown layer {name!r}" if name else "an empty layer"
        raise ValueError(f"spec: {got} in {spec!r}.{hint} Known: {', '.join(NAMES)}, residual(…).")
    if name in ACTIVATIONS:
        if rest:
            raise ValueError(f"spec: {name} takes no size, got {text!r}.")
        return getattr(layers, name)
    example, has_bias, build = _BUILDERS[name]
    sizes = [_with_classes(part, vocabulary) for part in rest if "=" not in part]
    if len(sizes) != bool(example):
        wanted = f"one size, for example {name}:{example}" if example else "no size"
        raise ValueError(f"spec: {name} takes {wanted}, got {text!r}.")
    options = dict(part.split("=", 1) for part in rest if "=" in part)
    given: dict[str, Any] = {} if use_bias or not has_bias else {"use_bias": False}
    if name == "embedding" and vocabulary is not None:
        given["vocabulary"] = vocabulary
    try:
        return build(*sizes, **{key: _value(value) for key, value in options.items()} | given)
    except (ValueError, TypeError) as error:
        shape = f"{name}:{example}" if example else name
        raise ValueError(f"spec: cannot build {text!r} ({error}). It is written like {shape}.") from None


def _with_classes(size: str, classes: int | None) -> str:
    """The size with a number in the place of K."""
    if classes is None and "K" in size.split("x"):
        raise ValueError(f"spec: K in {size!r} is the number of different characters, which is known of text alone.")
    return size if classes is None else "x".join(str(classes) if part == "K" else part for part in size.split("x"))


def call(text: str) -> tuple[str, dict[str, Any]]:
    """A name with options, in the grammar of a layer without size: `adamw:weight_decay=0.01`.

    Raises:
        ValueError: a part after the name that is no `option=value`.
    """
    name, *rest = text.split(":")
    if wrong := [part for part in rest if "=" not in part]:
        raise ValueError(f"spec: {wrong[0]!r} in {text!r} must be option=value, as in adamw:weight_decay=0.01.")
    return name, {key: _value(value) for key, value in (part.split("=", 1) for part in rest)}


def _value(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def form_of_rows(network: Layer) -> Form:
    """What a network takes of a row of pixels, as its shapes tell: flat rows where they fit it.

    Of the others a window slides over images, while attention, which may have any number of leading axes, is over time.
    """
    if _takes(network, (1, 64)):
        return "flat"
    names: list[str] = []

    def note(layer: Layer, path: tuple[str, ...]) -> Layer:
        names.append(layer.name)
        return layer

    map_layers(note, network)
    if not OVER_TIME.isdisjoint(names) and _takes(network, (1, 8, 8)):
        return "sequence"
    return "image" if _takes(network, (1, 8, 8, 1)) else "flat"


def _takes(network: Layer, shape: tuple[int, ...]) -> bool:
    key, x = jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        out_shape(network, jax.eval_shape(network.init, key, x), x, init_state(network, key, x))
    except (TypeError, ValueError):  # what a layer says of a shape that it cannot take
        return False
    return True
