"""Params on disk as safetensors, and in the layouts of PyTorch and Keras.

    layer            here                                PyTorch
    dense            weight (in, out)                    weight (out, in)
    conv             weight (*spatial, in/groups, out)   weight (out, in/groups, *spatial)
    conv_transpose   weight (*spatial, in/groups, out)   weight (in, out/groups, *spatial)
    bilinear         weight (in1, in2, out)              weight (out, in1, in2)
    bias_neuron      weight (in + 1, out)                weight (out, in) and bias (out,) of a Linear
    rnn              input.weight, hidden.weight,        weight_ih_l0, weight_hh_l0, both transposed, and
                     input.bias                          bias_ih_l0 + bias_hh_l0; written, the second is zero
    others           as here                             as here (biases, the scale of a norm, embeddings)

Keras has dense and conv as here. Running statistics of norms are no params: they are neither written nor read.

No other library is needed for the layouts: they are NumPy arrays under PyTorch's state-dict names or in Keras's order.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _files
from jaxbias.leaves import get_weights, named_parameters, set_weights
from jaxbias.params import Layer, Tree, map_layers

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


def load(path: str | Path, like: Tree) -> Tree:
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

SAME_IN_PYTORCH = ("embedding", "batch_norm", "layer_norm", "group_norm", "rms_norm")
"""Layers with params that have one layout here and in PyTorch."""

Arrays = dict[str, np.ndarray]
"""The arrays of one layer by their names within it."""


def to_pytorch(network: Layer, params: Tree) -> Arrays:
    """State dict of the `torch.nn.Sequential` with the same layers: "0.weight" is (out, in) or (out, in, *spatial).

    For `module.load_state_dict` make its entries tensors: `{k: torch.from_numpy(v.copy()) for k, v in ....items()}`.
    bfloat16 has no NumPy type that PyTorch reads: convert to float32 first.

    Raises:
        ValueError: a layer whose PyTorch layout is not known here.
    """
    state_dict = {}
    for layer, prefix, arrays in _by_layer(network, named_parameters(params), "io.to_pytorch"):
        written = _LAYOUTS[layer.name].write(layer, {name: np.asarray(leaf) for name, leaf in arrays.items()})
        state_dict |= {prefix + name: np.ascontiguousarray(array) for name, array in written.items()}
    return state_dict


def from_pytorch(network: Layer, like: Tree, state_dict: Mapping[str, Any]) -> Tree:
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
    for layer, prefix, wanted in _by_layer(network, named_parameters(like), "io.from_pytorch"):
        layout = _LAYOUTS[layer.name]
        shapes = {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in wanted.items()}
        expected = layout.write(layer, shapes)
        names = [prefix + name for name in expected]
        if all(name in rest and rest[name].ndim == expected[name.removeprefix(prefix)].ndim for name in names):
            found = {name.removeprefix(prefix): rest.pop(name) for name in names}
            arrays |= {prefix + name: array for name, array in layout.read(layer, found).items()}
    return _fill(like, arrays | rest, "io.from_pytorch: the state dict")  # which names what does not fit


def _by_layer(network: Layer, named: Mapping[str, Any], function: str) -> list[tuple[Layer, str, dict[str, Any]]]:
    """Every layer with params, the prefix of its paths, and its leaves by their names within it."""
    found = []

    def visit(layer, path):
        prefix = "".join(f"{part}." for part in path)
        leaves = {name.removeprefix(prefix): leaf for name, leaf in named.items() if name.startswith(prefix)}
        if leaves and layer.name not in _LAYOUTS:
            raise ValueError(
                f"{function}: the PyTorch layout of a {layer.name} layer ({prefix}{next(iter(leaves))}) is not known; "
                f"take its arrays from jb.named_parameters(params) and arrange them yourself."
            )
        if leaves:
            found.append((layer, prefix, leaves))
        return layer

    map_layers(visit, network)
    return found


class _Layout(NamedTuple):
    """The arrays of a layer as PyTorch has them, and back."""

    write: Callable[[Layer, Arrays], Arrays]
    read: Callable[[Layer, Arrays], Arrays]


def _of_weight(write: Callable[[Layer, np.ndarray], np.ndarray], read: Callable[[Layer, np.ndarray], np.ndarray]):
    """A layout in which only the weight differs."""

    def each(convert):
        return lambda layer, arrays: {n: convert(layer, a) if n == "weight" else a for n, a in arrays.items()}

    return _Layout(each(write), each(read))


def _groups(layer: Layer) -> int:
    return layer.forward.keywords["groups"]  # type: ignore[attr-defined]  # a partial with the layer's keywords


def _write_transposed_kernel(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    *length, per_group, out = kernel.shape
    split = kernel.reshape(*length, per_group, _groups(layer), out // _groups(layer))
    return np.moveaxis(split, (-2, -3, -1), (0, 1, 2)).reshape(per_group * _groups(layer), -1, *length)


def _read_transposed_kernel(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    channels_in, out_per_group, *length = kernel.shape
    split = kernel.reshape(_groups(layer), -1, out_per_group, *length)
    return np.moveaxis(split, (0, 1, 2), (-2, -3, -1)).reshape(*length, channels_in // _groups(layer), -1)


def _write_rnn(layer: Layer, arrays: Arrays) -> Arrays:
    del layer
    written = {"weight_ih_l0": arrays["input.weight"].T, "weight_hh_l0": arrays["hidden.weight"].T}
    if "input.bias" in arrays:
        written |= {"bias_ih_l0": arrays["input.bias"], "bias_hh_l0": np.zeros_like(arrays["input.bias"])}
    return written


def _read_rnn(layer: Layer, arrays: Arrays) -> Arrays:
    del layer
    read = {"input.weight": arrays["weight_ih_l0"].T, "hidden.weight": arrays["weight_hh_l0"].T}
    if "bias_ih_l0" in arrays:
        read["input.bias"] = arrays["bias_ih_l0"] + arrays["bias_hh_l0"]
    return read


_AS_HERE = _Layout(lambda layer, arrays: arrays, lambda layer, arrays: arrays)
_LAYOUTS = {
    "dense": _of_weight(lambda layer, w: w.T, lambda layer, w: w.T),
    "conv": _of_weight(
        lambda layer, w: np.moveaxis(w, (-1, -2), (0, 1)), lambda layer, w: np.moveaxis(w, (1, 0), (-2, -1))
    ),
    "conv_transpose": _of_weight(_write_transposed_kernel, _read_transposed_kernel),
    "bilinear": _of_weight(lambda layer, w: np.moveaxis(w, -1, 0), lambda layer, w: np.moveaxis(w, 0, -1)),
    "bias_neuron": _Layout(
        lambda layer, arrays: {"weight": arrays["weight"][:-1].T, "bias": arrays["weight"][-1]},
        lambda layer, arrays: {"weight": np.concatenate([arrays["weight"].T, arrays["bias"][None]])},
    ),
    "rnn": _Layout(_write_rnn, _read_rnn),
} | dict.fromkeys(SAME_IN_PYTORCH, _AS_HERE)


def to_keras(params: Tree) -> list[np.ndarray]:
    """[kernel, bias, kernel, ...] as `model.set_weights` takes them for dense and conv layers (A0.10)."""
    return get_weights(params)


def from_keras(like: Tree, weights: Sequence[Any]) -> Tree:
    """Params from `model.get_weights()` of dense and conv layers: kernels are [in, out] and HWIO, as here.

    Raises:
        ValueError: another number of arrays, or an array of another shape.
    """
    return set_weights(like, weights)
