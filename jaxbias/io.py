"""Params on disk as safetensors, and in the layouts of PyTorch and Keras.

    layer            here                                PyTorch
    dense            weight (in, out)                    weight (out, in)
    conv             weight (*kernel, in/groups, out)    weight (out, in/groups, *kernel)
    conv_transpose   weight (*kernel, in/groups, out)    weight (in, out/groups, *kernel)
    bilinear         weight (in1, in2, out)              weight (out, in1, in2)
    linear_cross_entropy                                 as dense, its Linear
    bias_neuron      weight (in + 1, out)                weight (out, in) and bias (out,) of a Linear
    rnn              input.weight, hidden.weight,        weight_ih_l0, weight_hh_l0, both transposed, and
                     input.bias                          bias_ih_l0 + bias_hh_l0; written, the second is zero
    lstm             the same, gates i, f, g, o;         the same; weight_hr_l0 of a projection. With hidden_bias
                     hidden.bias, projection.weight      both biases are kept apart
    gru              the same, gates r, z, n             the same
    attention        query.weight (in, heads, size), in_proj_weight, or q_, k_, v_proj_weight; in_proj_bias; bias_k,
                     key, value; out.weight          bias_v (1, 1, heads · size); out_proj.weight, out_proj.bias
                     (heads, size, out)
    glu              gate.weight, up.weight, down.…      gate_proj, up_proj, down_proj, weights (out, in)
    lora             base, down, up, magnitude           base_layer, lora_A, lora_B, … of the package peft
    weight_norm      direction, gain                     parametrizations.weight.original1, …original0
    spectral_norm    weight                              parametrizations.weight.original
    others           as here                             as here (biases, the scale of a norm, embeddings)

Keras keeps attention, dense, einsum_dense, conv, embedding, prelu, layer_norm, group_norm and rms_norm as here,
bias_neuron as a Dense, and rnn, lstm and gru (its gates as z, r, n) as kernel, recurrent_kernel, bias. Running
statistics of norms are no params: they are neither written nor read.

Each layer's file holds its layouts (`jaxbias.layouts`). No other library is needed for them: they are NumPy arrays
under PyTorch's state-dict names or in Keras's order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _files
from jaxbias.layouts import Arrays, Layout
from jaxbias.leaves import get_weights, named_parameters, set_weights
from jaxbias.params import Layer, SomeTree, Tree, map_layers

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


# --- safetensors ------------------------------------------------------------------------------------------------------


def save(path: str | Path, params: Tree, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write params as safetensors under their dotted paths; the file is whole or it is not there.

    Args:
        metadata: texts by name, for readers of the file: `safetensors.safe_open(path, "numpy").metadata()`.

    Raises:
        ValueError: nothing can be written at that path.
    """
    import safetensors.numpy

    path = _files.check_writable(path, "io.save")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named_parameters(params).items()}
    _files.write(path, safetensors.numpy.save(arrays, metadata={**(metadata or {}), "format": "jaxbias"}))


def load(path: str | Path, like: SomeTree) -> SomeTree:
    """Read the params of a network from a safetensors file.

    Args:
        like: params of this network, or `jax.eval_shape(network.init, key, x)`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds other leaves, shapes or dtypes than `like`.
    """
    import safetensors

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"io.load: there is no file {path}.")
    try:
        entries = dict(safetensors.deserialize(path.read_bytes()))
    except safetensors.SafetensorError as error:
        raise ValueError(f"io.load: {path} is damaged or not a safetensors file ({error}).") from None
    arrays = {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries.items()
    }
    return _fill(like, arrays, f"io.load: {path}")


def _fill(like: Tree, arrays: Mapping[str, np.ndarray], where: str) -> Tree:
    """`like` with these arrays as its leaves; raises where names, shapes or dtypes differ."""
    named = named_parameters(like)
    if missing := [name for name in named if name not in arrays]:
        raise ValueError(
            f"{where} holds another network: it has no {', '.join(missing)}; it has {', '.join(sorted(arrays))}."
        )
    if unknown := [name for name in arrays if name not in named]:
        raise ValueError(f"{where} holds another network: params has no {', '.join(unknown)}.")
    for name, leaf in named.items():
        if arrays[name].shape != leaf.shape:
            raise ValueError(
                f"{where} holds another network: {name} has shape {arrays[name].shape} there and {leaf.shape} in "
                f"params."
            )
        if arrays[name].dtype != leaf.dtype:
            raise ValueError(
                f"{where}: {name} has dtype {arrays[name].dtype} there and {leaf.dtype} in params. Load into params of "
                f"that dtype, then convert."
            )
    leaves = [jnp.asarray(arrays[name]) for name in named]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


# --- PyTorch and Keras ------------------------------------------------------------------------------------------------

_LIBRARIES = {"pytorch": "PyTorch", "keras": "Keras"}


def to_pytorch(network: Layer, params: Tree) -> Arrays:
    """State dict of the `torch.nn.Sequential` with the same layers: "0.weight" is (out, in) or (out, in, *spatial).

    For `module.load_state_dict` make its entries tensors: `{k: torch.from_numpy(v.copy()) for k, v in ....items()}`.
    bfloat16 has no NumPy type that PyTorch reads: convert to float32 first.

    Raises:
        ValueError: a layer whose PyTorch layout is not known here.
    """
    state_dict = {}
    for layout, prefix, leaves in _by_layer(network, named_parameters(params), "io.to_pytorch", "pytorch"):
        written = layout.write({name: np.asarray(leaf) for name, leaf in leaves.items()})
        state_dict |= {prefix + name: np.ascontiguousarray(array) for name, array in written.items()}
    return state_dict


def from_pytorch(network: Layer, like: SomeTree, state_dict: Mapping[str, Any]) -> SomeTree:
    """Params from a PyTorch state dict; the inverse of `to_pytorch`.

    Running statistics of norms (`running_mean`, `running_var`, `num_batches_tracked`) are no params and are left out.

    Args:
        like: params of this network, or `jax.eval_shape(network.init, key, x)`.
        state_dict: dotted path → array, or tensor on the CPU. Where a module has other names, rename its entries first.

    Raises:
        ValueError: names, shapes or dtypes that differ, or a layer whose PyTorch layout is not known here.
    """
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    rest = {name: np.asarray(value) for name, value in state_dict.items() if name.rpartition(".")[2] not in statistics}
    arrays = {}
    for layout, prefix, leaves in _by_layer(network, named_parameters(like), "io.from_pytorch", "pytorch"):
        expected = layout.write(_shapes(leaves))
        names = [prefix + name for name in expected]
        if all(name in rest and rest[name].ndim == expected[name.removeprefix(prefix)].ndim for name in names):
            read = layout.read({name.removeprefix(prefix): rest.pop(name) for name in names})
            arrays |= {prefix + name: array for name, array in read.items()}
    return _fill(like, arrays | rest, "io.from_pytorch: the state dict")  # which names what does not fit


def to_keras(params: Tree, network: Layer | None = None) -> list[np.ndarray]:
    """[kernel, bias, kernel, ...] as `model.set_weights` takes them (A0.10).

    Args:
        network: the layers that params belongs to. Without it the arrays are written as they are, which is Keras's
            layout for dense and conv layers, embeddings and the norms without running statistics.

    Raises:
        ValueError: a layer of the network whose Keras layout is not known here.
    """
    if network is None:
        return get_weights(params)
    by_layer = _by_layer(network, named_parameters(params), "io.to_keras", "keras")
    written = [
        layout.write({name: np.asarray(leaf) for name, leaf in leaves.items()}) for layout, _, leaves in by_layer
    ]
    return [np.ascontiguousarray(array) for arrays in written for array in arrays.values()]


def from_keras(like: SomeTree, weights: Sequence[Any], network: Layer | None = None) -> SomeTree:
    """Params from `model.get_weights()`; the inverse of `to_keras`.

    Args:
        like: params of this network, or `jax.eval_shape(network.init, key, x)`.
        network: the layers that params belongs to; without it the arrays are read as they are, see `to_keras`.

    Raises:
        ValueError: another number of arrays, an array of another shape, or a layer of the network whose Keras layout
            is not known here.
    """
    if network is None:
        return set_weights(like, weights)
    by_layer = _by_layer(network, named_parameters(like), "io.from_keras", "keras")
    expected = [(layout, prefix, layout.write(_shapes(leaves))) for layout, prefix, leaves in by_layer]
    wanted = [array.shape for _, _, arrays in expected for array in arrays.values()]
    came = [np.shape(array) for array in weights]
    if came != wanted:
        raise ValueError(f"io.from_keras: the network has arrays of shapes {wanted} in Keras, got {came}.")
    left, named = iter(weights), {}
    for layout, prefix, arrays in expected:
        read = layout.read({name: np.asarray(next(left), array.dtype) for name, array in arrays.items()})
        named |= {prefix + name: array for name, array in read.items()}
    return _fill(like, named, "io.from_keras: the list")


def _by_layer(
    network: Layer, named: Mapping[str, Any], function: str, library: str
) -> list[tuple[Layout, str, dict[str, Any]]]:
    """Of every layer with params: its layout, the prefix of its paths, and its leaves by their names within it."""
    layers = []

    def visit(layer, path):
        prefix = "".join(f"{part}." for part in path)
        leaves = {name.removeprefix(prefix): leaf for name, leaf in named.items() if name.startswith(prefix)}
        layout = getattr(layer.layouts, library)
        if leaves and layout is None:
            raise ValueError(
                f"{function}: the {_LIBRARIES[library]} layout of a {layer.name} layer ({prefix}{next(iter(leaves))}) "
                f"is not known; take its arrays from jb.named_parameters(params) and arrange them yourself."
            )
        if leaves:
            layers.append((layout, prefix, leaves))
        return layer

    map_layers(visit, network)
    return layers


def _shapes(leaves: Mapping[str, Any]) -> Arrays:
    """Arrays that have the shapes and dtypes of these leaves, and no memory of their own."""
    return {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in leaves.items()}
