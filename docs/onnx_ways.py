"""How operators of ONNX are written with the layers and losses of this library, for onnx_nodes.py.

A way takes one node and gives its outputs: channels go to the last axis and back, gates into this library's order, an
attribute becomes a keyword. What no layer does raises `NotHere` with the reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxbias as jb
from jaxbias import Params, layers, losses

Outputs = tuple[Any, ...]
"""The outputs of a node in its order; further ones of the layer may follow."""


class NotHere(Exception):
    """No layer computes what the test asks for."""


class Node(NamedTuple):
    """One node, its attributes, and its inputs by position, None where one is left out."""

    attributes: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, i: int) -> Any:
        return self.inputs[i] if i < len(self.inputs) else None


WAYS: dict[str, Callable[[Node], Outputs]] = {}


def way(*operators: str):
    def add(function):
        for operator in operators:
            WAYS[operator] = function
        return function

    return add


def run(layer: Any, params: Any, x: Any) -> Any:
    return layer.forward(params, x)[0]


def channels_last(x: Any) -> Any:
    return jnp.moveaxis(x, 1, -1)


def channels_first(x: Any) -> Any:
    return jnp.moveaxis(x, -1, 1)


# --- activations ------------------------------------------------------------------------------------------------------

PLAIN = {
    "Relu": layers.relu, "Softplus": layers.softplus, "Sigmoid": layers.sigmoid, "Tanh": layers.tanh,
    "Mish": layers.mish, "HardSwish": layers.hard_swish,
}  # fmt: skip
WAYS |= {name: (lambda node, layer=layer: (run(layer, (), node.inputs[0]),)) for name, layer in PLAIN.items()}


@way("LeakyRelu")
def leaky_relu(node):
    return (run(layers.activations.make_leaky_relu(node.get("alpha", 0.01)), (), node.inputs[0]),)


@way("Elu")
def elu(node):
    return (run(layers.activations.make_elu(node.get("alpha", 1.0)), (), node.inputs[0]),)


@way("Celu")
def celu(node):
    return (run(layers.activations.make_celu(node.get("alpha", 1.0)), (), node.inputs[0]),)


def only(node, wanted: dict[str, float]) -> None:
    """Raise unless the attributes have the values that the layer has."""
    for name, value in wanted.items():
        if abs(node.get(name, value) - value) > 1e-6:
            raise NotHere(f"{name} is fixed at {value:.4g} here")


@way("Selu")
def selu(node):
    only(node, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875})
    return (run(layers.selu, (), node.inputs[0]),)


@way("HardSigmoid")
def hard_sigmoid(node):
    if abs(node.get("alpha", 0.2) - 1 / 6) > 1e-6 or node.get("beta", 0.5) != 0.5:
        raise NotHere("the slope is 1/6 here, as in MobileNetV3 and PyTorch")
    return (run(layers.hard_sigmoid, (), node.inputs[0]),)


@way("Swish")
def swish(node):
    only(node, {"alpha": 1.0})
    return (run(layers.silu, (), node.inputs[0]),)


@way("Gelu")
def gelu(node):
    return (
        run(layers.activations.make_gelu(approximate=node.get("approximate", "none") == "tanh"), (), node.inputs[0]),
    )


@way("Softmax")
def softmax(node):
    return (run(layers.activations.make_softmax(node.get("axis", -1)), (), node.inputs[0]),)


@way("LogSoftmax")
def log_softmax(node):
    return (run(layers.activations.make_log_softmax(node.get("axis", -1)), (), node.inputs[0]),)


@way("PRelu")
def prelu(node):
    x, slope = node.inputs
    rows = x[None]  # a layer has rows, a slope may be one for every entry
    return (run(layers.prelu.layer(axes=slope.ndim), Params(slope, None), rows)[0],)


# --- affine maps ------------------------------------------------------------------------------------------------------


@way("Gemm")
def gemm(node):
    a, b, c = node.inputs[0], node.inputs[1], node.input(2)
    only(node, {"alpha": 1.0, "beta": 1.0})
    if c is not None and c.ndim == 2 and c.shape[0] != 1:
        raise NotHere("a bias of its own for every row")
    weight = b.T if node.get("transB", 0) else b
    bias = None if c is None else jnp.broadcast_to(c.reshape(-1), weight.shape[1:])
    return (run(layers.dense.layer(weight.shape[1]), Params(weight, bias), a.T if node.get("transA", 0) else a),)


@way("Einsum")
def einsum(node):
    if len(node.inputs) != 2:
        raise NotHere("one operand: no weight")
    equation = node.get("equation").replace(" ", "")
    if "->" not in equation or equation.endswith("->"):
        raise NotHere("a scalar output")
    x, weight = node.inputs
    of_x, of_weight, z = equation.replace("->", ",").split(",")
    new = {letter: size for letter, size in zip(of_weight, weight.shape) if letter in z and letter not in of_x}
    layer = layers.einsum_dense.layer(equation, new, bias_axes="")
    return (run(layer, Params(weight, None), x),)


def pads(node, axes: int, lengths, windows, strides) -> tuple[tuple[int, int], ...]:
    """(low, high) of every axis, from `pads` or `auto_pad`."""
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        given = node.get("pads", [0] * 2 * axes)
        return tuple(zip(given[:axes], given[axes:]))
    found = []
    for length, window, stride in zip(lengths, windows, strides):
        total = max((-(-length // stride) - 1) * stride + window - length, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return tuple(found)


def spread(windows, dilations) -> list[int]:
    return [(window - 1) * dilation + 1 for window, dilation in zip(windows, dilations)]


@way("Conv")
def conv(node):
    x, kernel, bias = node.inputs[0], node.inputs[1], node.input(2)
    axes = x.ndim - 2
    stride, dilation = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    padding = pads(node, axes, x.shape[2:], spread(kernel.shape[2:], dilation), stride)
    groups = node.get("group", 1)
    layer = layers.conv.layer(
        kernel.shape[0], kernel.shape[2:], stride=stride, padding=padding, kernel_dilation=dilation, groups=groups
    )
    weight = jnp.moveaxis(kernel, (0, 1), (-1, -2))
    return (channels_first(run(layer, Params(weight, bias), channels_last(x))),)


@way("ConvTranspose")
def conv_transpose(node):
    x, kernel = node.inputs[:2]
    axes, groups = x.ndim - 2, node.get("group", 1)
    if "output_shape" in node.attributes or node.get("auto_pad", "NOTSET") != "NOTSET":
        raise NotHere("padding from the shape of the output")
    dilation, more = node.get("dilations", [1] * axes), node.get("output_padding", [0] * axes)
    layer = layers.conv_transpose.layer(
        kernel.shape[1] * groups, kernel.shape[2:], stride=node.get("strides", [1] * axes),
        padding=pads(node, axes, (), (), ()), output_padding=more, kernel_dilation=dilation, groups=groups,
        use_bias=False,
    )  # fmt: skip
    # ONNX (in, out / groups, *spatial), as PyTorch
    network, rows = jb.chain(layer), channels_last(x)
    like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(rows.shape, x.dtype))
    params = jb.io.from_pytorch(network, like, {"0.weight": np.asarray(kernel)})
    return (channels_first(run(network, params, rows)),)


@way("Gather")
def gather(node):
    table, ids = node.inputs
    if node.get("axis", 0) or table.ndim != 2 or (ids < 0).any():
        raise NotHere("no table of rows at its first axis, or ids counted from the end")
    return (run(layers.embedding.layer(*table.shape), Params(table, None), ids),)


# --- pooling and resampling -------------------------------------------------------------------------------------------


def pooling(node, module, **more):
    x = node.inputs[0]
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise NotHere("integers have no gradient")
    axes, window = x.ndim - 2, node.get("kernel_shape")
    stride, dilation = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    padding = pads(node, axes, x.shape[2:], spread(window, dilation), stride)
    layer = module.layer(
        window, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(node.get("ceil_mode", 0)), **more
    )
    return (channels_first(run(layer, (), channels_last(x))),)


@way("MaxPool")
def max_pool(node):
    if len(node.outputs) > 1:
        raise NotHere("the places of the maxima are kept, not given out")
    return pooling(node, layers.max_pool)


@way("AveragePool")
def avg_pool(node):
    return pooling(node, layers.avg_pool, count_include_pad=bool(node.get("count_include_pad", 0)))


@way("GlobalAveragePool")
def global_avg_pool(node):
    x = node.inputs[0]
    means = run(layers.global_avg_pool.layer(), (), channels_last(x))
    return (jnp.expand_dims(means, range(2, x.ndim)),)


@way("GlobalMaxPool")
def global_max_pool(node):
    x = node.inputs[0]
    return (channels_first(run(layers.max_pool.layer(x.shape[2:]), (), channels_last(x))),)


@way("DepthToSpace")
def pixel_shuffle(node):
    order = {"DCR": "depth_to_space", "CRD": "pytorch"}[node.get("mode", "DCR")]
    layer = layers.pixel_shuffle.layer(node.get("blocksize"), order=order)
    return (channels_first(run(layer, (), channels_last(node.inputs[0]))),)


# --- norms ------------------------------------------------------------------------------------------------------------


@way("BatchNormalization")
def batch_norm(node):
    x, scale, shift, mean, variance = node.inputs
    training, momentum = node.get("training_mode", 0), node.get("momentum", 0.9)
    layer = layers.batch_norm.layer(eps=node.get("epsilon", 1e-5), momentum=1 - momentum)
    running = layers.batch_norm.Running(mean, variance)
    if not training:
        return (channels_first(jb.inference(layer).forward(Params(scale, shift), channels_last(x), running)[0]),)
    z, residuals = layer.forward(Params(scale, shift), channels_last(x), running)
    assert layer.state is not None
    after = layer.state.step(running, residuals)
    # What ONNX averages is biased, what is averaged here is not: the one is m/(m − 1) of the other.
    entries = x.size // x.shape[1]
    new = (after.variance - momentum * variance) * (entries - 1) / entries
    return channels_first(z), after.mean, momentum * variance + new


def over_last_axes(node, module, bias, **more):
    x, axis = node.inputs[0], node.get("axis", -1)
    axes = x.ndim - axis if axis >= 0 else -axis
    layer = module.layer(axes=axes, eps=node.get("epsilon", 1e-5), **more)
    return layer.forward(Params(node.inputs[1], bias), x[None])


@way("LayerNormalization")
def layer_norm(node):
    z, residuals = over_last_axes(node, layers.layer_norm, node.input(2))
    return z[0], residuals.mean[0], residuals.rstd[0]


@way("RMSNormalization")
def rms_norm(node):
    return (over_last_axes(node, layers.rms_norm, None)[0][0],)


@way("GroupNormalization", "InstanceNormalization")
def group_norm(node):
    x, scale, shift = node.inputs
    layer = layers.group_norm.layer(node.get("num_groups"), eps=node.get("epsilon", 1e-5))
    return (channels_first(run(layer, Params(scale, shift), channels_last(x))),)


# --- over time --------------------------------------------------------------------------------------------------------


def gates(matrix, order: tuple[int, ...]):
    """(gates · units, …) in ONNX's order to (…, gates · units) in this library's."""
    blocks = jnp.split(matrix, len(order))
    return jnp.concatenate([blocks[i] for i in order]).T


def recurrent(node, make, of_direction, outputs):
    """The three cells: `make(**keywords)` is the layer, `of_direction(i)` its params, `outputs` its last ones."""
    x, batch_first = node.inputs[0], node.get("layout", 0)
    x = x if batch_first else jnp.swapaxes(x, 0, 1)
    direction = node.get("direction", "forward")
    both = direction == "bidirectional"
    params = tuple(of_direction(i) for i in range(2 if both else 1))
    lengths, starts = node.input(4), [node.input(i) for i in (5, 6)[: len(outputs)]]
    per_direction = lambda i: tuple(start[:, i] if batch_first else start[i] for start in starts)
    whole = lambda state: state[0] if len(state) == 1 else state
    state = None if starts[0] is None else tuple(whole(per_direction(i)) for i in range(len(params)))
    given = layers.Sequences(x, None if state is None else state if both else state[0], lengths)

    def of(output):
        layer = make(output=output, reverse=direction == "reverse")
        out = run(layers.both_directions(layer), params, given) if both else run(layer, params[0], given)
        return jnp.stack(jnp.split(out, len(params), axis=-1), axis=1 if batch_first and out.ndim == 2 else 0)

    steps = of("steps")  # (directions, n, time, units)
    found = [jnp.moveaxis(steps, 0, 2) if batch_first else jnp.transpose(steps, (2, 0, 1, 3))]
    for output, cut in outputs:
        found.append(cut(of(output)))
    return tuple(found)


def biases(node, i, units, order):
    """b and c of direction i; zeros where there is no input B."""
    both = node.input(3)
    width = len(order) * units
    first, second = (jnp.zeros(width),) * 2 if both is None else jnp.split(both[i], 2)
    return gates(first, order), gates(second, order)


LAST = ("last", lambda h: h)


@way("RNN")
def rnn(node):
    units = node.get("hidden_size")

    def of_direction(i):
        b, c = biases(node, i, units, (0,))
        return layers.rnn.RnnParams(Params(node.inputs[1][i].T, b + c), Params(node.inputs[2][i].T, None))

    return recurrent(node, lambda **how: layers.rnn.layer(units, **how), of_direction, (LAST,))


@way("LSTM")
def lstm(node):
    units, order = node.get("hidden_size"), (0, 2, 3, 1)  # ONNX i, o, f, c

    def of_direction(i):
        b, c = biases(node, i, units, order)
        peepholes = node.input(7)
        return layers.lstm.LstmParams(
            Params(gates(node.inputs[1][i], order), b), Params(gates(node.inputs[2][i], order), c),
            None if peepholes is None else Params(peepholes[i].reshape(3, units)[np.array([0, 2, 1])], None),
        )  # fmt: skip

    cell = ("state", lambda both: both[..., units:])
    return recurrent(node, lambda **how: layers.lstm.layer(units, **how), of_direction, (LAST, cell))


@way("GRU")
def gru(node):
    units, order = node.get("hidden_size"), (1, 0, 2)  # ONNX z, r, h
    reset = "after" if node.get("linear_before_reset", 0) else "before"

    def of_direction(i):
        b, c = biases(node, i, units, order)
        return layers.gru.GruParams(
            Params(gates(node.inputs[1][i], order), b), Params(gates(node.inputs[2][i], order), c)
        )

    return recurrent(node, lambda **how: layers.gru.layer(units, reset=reset, **how), of_direction, (LAST,))


# --- losses -----------------------------------------------------------------------------------------------------------


@way("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def cross_entropy(node):
    out, labels, weight = channels_last(node.inputs[0]), node.inputs[1], node.input(2)
    from_log = node.outputs[0] == "loss"  # the names that the two operators give their output
    loss, _ = losses.cross_entropy.forward(
        out, labels, class_weight=weight, ignore_label=node.get("ignore_index"), reduction=node.get("reduction"),
        log_probabilities=from_log,
    )  # fmt: skip
    return loss, channels_first(run(layers.log_softmax, (), out))


# --- attention --------------------------------------------------------------------------------------------------------


@way("Attention")
def attention(node):
    """The core of the layer, between four projections that change nothing."""
    q, k, v = node.inputs[:3]
    if len([name for name in node.outputs if name]) > 1 or any(node.input(i) is not None for i in (4, 5, 6)):
        raise NotHere("a cache of keys, or scores as an output")
    if node.get("right_window_size", -1) != -1 or node.get("left_window_size", -1) != -1:
        raise NotHere("a window aligned at the first key")
    flat = q.ndim == 3
    heads, groups = (node.get("q_num_heads"), node.get("kv_num_heads")) if flat else (q.shape[1], k.shape[1])
    merged = lambda x: x if flat else jnp.swapaxes(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)
    q, k, v = merged(q), merged(k), merged(v)
    (n, t, wide), s = q.shape, k.shape[1]
    d, e = wide // heads, v.shape[-1] // groups
    mask = node.input(3)
    seen = jnp.ones((1, 1, t, s), bool)
    if node.get("is_causal", 0):  # ONNX aligns the first query with the first key
        seen = seen & jnp.tril(seen)
    bias = None
    if mask is not None and mask.dtype == bool:
        seen = seen & mask
    elif mask is not None:
        bias, seen = jnp.where(jnp.isfinite(mask), mask, 0), seen & jnp.isfinite(mask)
    same = lambda parts, size: jnp.eye(parts * size, dtype=q.dtype).reshape(parts * size, parts, size)
    both = jnp.concatenate([k, v], axis=-1)  # one memory for keys and values: each projection reads its half
    none = lambda rows, parts, size: jnp.zeros((rows, parts, size), q.dtype)
    params = layers.attention.AttentionParams(
        Params(same(heads, d), None),
        Params(jnp.concatenate([same(groups, d), none(v.shape[-1], groups, d)]), None),
        Params(jnp.concatenate([none(k.shape[-1], groups, e), same(groups, e)]), None),
        Params(jnp.eye(heads * e, dtype=q.dtype).reshape(heads, e, heads * e), None),
    )
    layer = layers.attention.layer(
        heads, d, key_heads=groups, value_size=e, scale=node.get("scale"), softcap=node.get("softcap") or None
    )
    o = run(layer, params, layers.attention.Inputs(q, both, seen, bias))
    return (o if flat else jnp.swapaxes(o.reshape(n, t, heads, e), 1, 2),)
