"""Params on disk as safetensors, and in the layouts of PyTorch and Keras.

    layer       here and Keras                      PyTorch
    dense       weight (in, out)                    weight (out, in)
    conv        weight (*spatial, in/groups, out)   weight (out, in/groups, *spatial)
    others      as here                             as here (biases, the scale of a norm, embeddings)

No other library is needed for the layouts: they are NumPy arrays under PyTorch's state-dict names or in Keras's order.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def save(path: str | Path, params: Tree) -> None:
    """Write params as safetensors under their dotted paths; the file is whole or it is not there.

    Raises:
        ValueError: nothing can be written at that path.
    """
    import safetensors.numpy

    path = _files.check_writable(path, "io.save")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named_parameters(params).items()}
    _files.write(path, safetensors.numpy.save(arrays, metadata={"format": "jaxbias"}))


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


def to_pytorch(network: Layer, params: Tree) -> dict[str, np.ndarray]:
    """State dict of the `torch.nn.Sequential` with the same layers: "0.weight" is (out, in) or (out, in, *spatial).

    For `module.load_state_dict` make its entries tensors: `{k: torch.from_numpy(v.copy()) for k, v in ....items()}`.
    bfloat16 has no NumPy type that PyTorch reads: convert to float32 first.

    Raises:
        ValueError: a layer whose PyTorch layout is not known here.
    """
    layouts = _pytorch_layouts(network, named_parameters(params), "io.to_pytorch")
    return {name: layouts[name](np.asarray(leaf), False) for name, leaf in named_parameters(params).items()}


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
    entries = {
        name: np.asarray(value) for name, value in state_dict.items() if name.rpartition(".")[2] not in statistics
    }
    layouts = _pytorch_layouts(network, named_parameters(like), "io.from_pytorch")
    arrays = {name: layouts[name](value, True) if name in layouts else value for name, value in entries.items()}
    return _fill(like, arrays, "io.from_pytorch: the state dict")


def _as_is(array: np.ndarray, to_here: bool) -> np.ndarray:
    del to_here
    return array


def _out_first(array: np.ndarray, to_here: bool) -> np.ndarray:
    """(*spatial, in, out) ↔ (out, in, *spatial); for a matrix the transpose."""
    if array.ndim < 2:
        return array
    if to_here:
        return np.moveaxis(array, (1, 0), (-2, -1))
    return np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)))


def _pytorch_layouts(network: Layer, named: Mapping[str, Any], function: str) -> dict[str, Callable]:
    """Dotted path of every leaf → how its array is laid out there."""
    layouts = {}

    def visit(layer, path):
        prefix = ".".join(path)
        for name in named:
            if not prefix or name.startswith(f"{prefix}."):
                if layer.name not in ("dense", "conv", *SAME_IN_PYTORCH):
                    raise ValueError(
                        f"{function}: the PyTorch layout of a {layer.name} layer ({name}) is not known; take its "
                        f"arrays from jb.named_parameters(params) and arrange them yourself."
                    )
                layouts[name] = _out_first if layer.name in ("dense", "conv") else _as_is
        return layer

    map_layers(visit, network)
    return layouts


def to_keras(params: Tree) -> list[np.ndarray]:
    """[kernel, bias, kernel, ...] as `model.set_weights` takes them for dense and conv layers (A0.10)."""
    return get_weights(params)


def from_keras(like: Tree, weights: Sequence[Any]) -> Tree:
    """Params from `model.get_weights()` of dense and conv layers: kernels are [in, out] and HWIO, as here.

    Raises:
        ValueError: another number of arrays, or an array of another shape.
    """
    return set_weights(like, weights)
