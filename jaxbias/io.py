"""Params on disk as safetensors, and in the layouts of PyTorch and Keras.

    layer            here                                PyTorch
    dense            weight (in, out)                    weight (out, in)
    conv             weight (*kernel, in/groups, out)    weight (out, in/groups, *kernel)
    conv_transpose   weight (*kernel, in/groups, out)    weight (in, out/groups, *kernel)
    batch_norm       state (mean, variance)              running_mean, running_var
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
    crf              start, transitions, end             start_transitions, transitions, end_transitions of the package
                                                         pytorch-crf
    weight_norm      direction, gain                     parametrizations.weight.original1, …original0
    spectral_norm    weight                              parametrizations.weight.original
    weight_standardization  weight, gain                 weight as the layer inside has it; gain as here
    others           as here                             as here (biases, the scale of a norm, embeddings)

Keras keeps attention, dense, einsum_dense, conv, embedding, prelu, layer_norm, group_norm and rms_norm as here,
conv_transpose with its last two axes exchanged, batch_norm as gamma, beta, moving_mean, moving_variance, bias_neuron as
a Dense, and rnn, lstm and gru (its gates as z, r, n) as kernel, recurrent_kernel, bias. A depthwise convolution is read
from both forms that Keras has, Conv2D(groups=in) and DepthwiseConv2D. Running statistics are no params but a state,
which goes in and comes out where `state=` is given.

A square matrix looks the same in every layout, so arrays are never read by their shapes alone: `load` refuses a file
that another program wrote until it is told whose layout it has, and `from_keras` wants the network.

Each layer's file holds its layouts (`jaxbias.layouts`). No other library is needed for them: they are NumPy arrays
under PyTorch's state-dict names or in Keras's order.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _files
from jaxbias._doors import describe
from jaxbias.foreign.traced import split_params
from jaxbias.layouts import Arrays, Layout
from jaxbias.leaves import get_weights, named_parameters, set_weights
from jaxbias.params import Layer, SomeTree, Tree, as_layer, map_layers

SomeState = TypeVar("SomeState")
"""The tree of a network's state; it comes out with the type that it went in with."""

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


# --- safetensors ------------------------------------------------------------------------------------------------------


def save(path: str | Path, params: Tree, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write params as safetensors under their dotted paths; the file is whole or it is not there.

    Args:
        params: any tree of arrays. What is no array in it, the functions of an Equinox module, is not written.
        metadata: texts by name, for readers of the file: `safetensors.safe_open(path, "numpy").metadata()`.

    Raises:
        TypeError: a leaf of a dtype that `load` does not read, such as complex64 or a key.
        ValueError: nothing can be written at that path, no array in params, or two under one path.
    """
    import safetensors.numpy

    path = _files.check_writable(path, "io.save")
    split = split_params(params)
    arrays: dict[str, np.ndarray] = {}
    read_back = {np.dtype(dtype) for dtype in _DTYPES.values()}
    for name, leaf in zip(split.paths, split.leaves):
        if name in arrays:
            raise ValueError(f"io.save: two leaves of params are called {name}, with a dot in a key. Rename one.")
        if getattr(leaf, "dtype", None) not in read_back:
            raise TypeError(f"io.save: {name} is {describe(leaf)}, which a safetensors file does not hold for `load`.")
        arrays[name] = np.ascontiguousarray(leaf)
    if not arrays:
        raise ValueError(f"io.save: there is no array in params, which is {describe(params)}.")
    _files.write(path, safetensors.numpy.save(arrays, metadata={**(metadata or {}), "format": "jaxbias"}))


def load(
    path: str | Path,
    like: SomeTree,
    *,
    network: Layer | None = None,
    source: str | None = None,
) -> SomeTree:
    """Read the params of a network from a safetensors file.

    A file that `save` wrote says so. Any other holds matrices in a layout that only its writer knows: where a matrix is
    square nothing in the file tells it from its transpose.

    Args:
        like: params of this network, or `jax.eval_shape(network.init, key, x)`.
        network: the layers that params belong to; with them a file of PyTorch is read through their layouts.
        source: whose layout the arrays have: "jaxbias", as they are here, under the same names, or "pytorch". By
            default what the file says: "jaxbias" in one that `save` wrote, and, if a network is given, "pytorch" in one
            that PyTorch wrote with `metadata={"format": "pt"}`, as its model hubs do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds other leaves, shapes or dtypes than `like`; another program wrote it,
            and neither network nor source says how it is to be read; another source.

    Example: `io.load("model.safetensors", like, network=network, source="pytorch")`.
    """
    import safetensors

    if network is not None:
        as_layer(network, "io.load")
    if source not in (None, "jaxbias", "pytorch"):
        raise ValueError(f'io.load: source must be "jaxbias" or "pytorch", got {source!r}.')
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"io.load: there is no file {path}.")
    try:
        data = path.read_bytes()
        entries = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"io.load: {path} is damaged or not a safetensors file ({error}).") from None
    for name, entry in entries.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"io.load: {path}: {name} has the dtype {entry['dtype']}. Known: {', '.join(_DTYPES)}.")
    arrays = {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries.items()
    }
    written_by = {"jaxbias": "jaxbias", "pt": "pytorch"}.get(_format(data), "")
    reads = source or (written_by if written_by == "jaxbias" or network is not None else "")
    if not reads:
        raise ValueError(
            f"io.load: {path} was written by {'PyTorch' if written_by else 'another program'}, and a file alone does "
            f"not say what its matrices are: a square one looks the same transposed. "
            f'Pass source="jaxbias" if its arrays are as here, or network=network and source="pytorch".'
        )
    if reads == "jaxbias":
        return _fill(like, arrays, f"io.load: {path}")
    if network is None:
        raise ValueError('io.load: source="pytorch" needs the layers, whose layouts it reads: pass network=network.')
    return from_pytorch(network, like, arrays)


def _format(data: bytes) -> str:
    """The "format" in the metadata of a safetensors file: a length of eight bytes, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {}).get("format", "")


def _fill(like: Tree, arrays: Mapping[str, np.ndarray], where: str) -> Tree:
    """`like` with these arrays as its leaves; raises where names, shapes or dtypes differ."""
    split = split_params(like)
    named = dict(zip(split.paths, split.leaves))
    if missing := [name for name in named if name not in arrays]:
        raise ValueError(
            f"{where} holds another network: it has no {', '.join(missing)}; it has {', '.join(sorted(arrays))}."
        )
    if unknown := [name for name in arrays if name not in named]:
        raise ValueError(f"{where} holds another network: params has no {', '.join(unknown)}.")
    for name, leaf in named.items():
        if arrays[name].shape != np.shape(leaf):
            raise ValueError(
                f"{where} holds another network: {name} has shape {arrays[name].shape} there and {leaf.shape} in "
                f"params."
            )
        if arrays[name].dtype != leaf.dtype:
            raise ValueError(
                f"{where}: {name} has dtype {arrays[name].dtype} there and {leaf.dtype} in params. Load into params of "
                f"that dtype, then convert."
            )
    return split.rebuild([jnp.asarray(arrays[name]) for name in named])


# --- PyTorch and Keras ------------------------------------------------------------------------------------------------

_LIBRARIES = {"pytorch": "PyTorch", "keras": "Keras"}


def to_pytorch(network: Layer, params: Tree, state: Tree = None) -> Arrays:
    """State dict of the `torch.nn.Sequential` with the same layers: "0.weight" is (out, in) or (out, in, *spatial).

    For `module.load_state_dict` make its entries tensors: `{k: torch.from_numpy(v.copy()) for k, v in ....items()}`.
    bfloat16 has no NumPy type that PyTorch reads: convert to float32 first.

    Args:
        state: of this network; with it the running statistics are written too, and a count of batches, which is 0.

    Raises:
        ValueError: a layer whose PyTorch layout is not known here.
    """
    state_dict = {}
    for layout, prefix, leaves in _by_layer(network, params, state, "io.to_pytorch", "pytorch"):
        written = layout.write({name: np.asarray(leaf) for name, leaf in leaves.items()})
        state_dict |= {prefix + name: np.ascontiguousarray(array) for name, array in written.items()}
        if leaves.keys() & {*layout.statistics}:
            state_dict[f"{prefix}num_batches_tracked"] = np.zeros((), np.int64)
    return state_dict


@overload
def from_pytorch(network: Layer, like: SomeTree, state_dict: Mapping[str, Any]) -> SomeTree: ...
@overload
def from_pytorch(
    network: Layer, like: SomeTree, state_dict: Mapping[str, Any], state: SomeState
) -> tuple[SomeTree, SomeState]: ...
def from_pytorch(network: Layer, like: Any, state_dict: Mapping[str, Any], state: Any = None) -> Any:
    """Params from a PyTorch state dict; the inverse of `to_pytorch`.

    Running statistics of norms (`running_mean`, `running_var`, `num_batches_tracked`) are no params; without `state`
    they are left out.

    Args:
        like: params of this network, or `jax.eval_shape(network.init, key, x)`.
        state_dict: dotted path → array, or tensor on the CPU. Where a module has other names, rename its entries first.
        state: of this network, `network.state.init(key, x)`: then (params, state with these statistics) is returned.

    Raises:
        TypeError: state_dict is no mapping.
        ValueError: names, shapes or dtypes that differ, or a layer whose PyTorch layout is not known here.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"io.from_pytorch: state_dict must be a mapping of names to arrays, as `module.state_dict()` returns it, "
            f"got {describe(state_dict)}."
        )
    left_out = {"num_batches_tracked"} | (set() if state is not None else {"running_mean", "running_var"})
    rest = {name: np.asarray(value) for name, value in state_dict.items() if name.rpartition(".")[2] not in left_out}
    arrays, of_state = {}, {}
    for layout, prefix, leaves in _by_layer(network, like, state, "io.from_pytorch", "pytorch"):
        tracked = f"{prefix}running_mean" in rest  # a norm may have none: track_running_stats=False
        leaves = leaves if tracked else {name: x for name, x in leaves.items() if name not in layout.statistics}
        expected = layout.write(_shapes(leaves))
        names = [prefix + name for name in expected]
        if all(name in rest and rest[name].ndim == expected[name.removeprefix(prefix)].ndim for name in names):
            read = layout.read({name.removeprefix(prefix): rest.pop(name) for name in names})
            for name, array in read.items():
                (of_state if name in layout.statistics else arrays)[prefix + name] = array
    return _filled(like, arrays | rest, state, of_state, "io.from_pytorch: the state dict")  # names what does not fit


def to_keras(params: Tree, network: Layer | None = None, state: Tree = None) -> list[np.ndarray]:
    """[kernel, bias, kernel, ...] as `model.set_weights` takes them (A0.10).

    Args:
        network: the layers that params belongs to. Without it the arrays are written as they are, which is Keras's
            layout for dense and conv layers, embeddings and the norms without running statistics. The kernel of a
            depthwise convolution is that of Conv2D(groups=in); DepthwiseConv2D takes it as `.reshape(*kernel, in, -1)`.
        state: of this network, for the running statistics of batch norm, which Keras counts among its weights.

    Raises:
        ValueError: a layer of the network whose Keras layout is not known here, a batch norm without its state.
    """
    if network is None:
        return get_weights(params)
    by_layer = _by_layer(network, params, state, "io.to_keras", "keras")
    written = [
        layout.write({name: np.asarray(leaf) for name, leaf in leaves.items()}) for layout, _, leaves in by_layer
    ]
    return [np.ascontiguousarray(array) for arrays in written for array in arrays.values()]


@overload
def from_keras(like: SomeTree, weights: Sequence[Any], network: Layer | None = None) -> SomeTree: ...
@overload
def from_keras(
    like: SomeTree, weights: Sequence[Any], network: Layer, state: SomeState
) -> tuple[SomeTree, SomeState]: ...
def from_keras(like: Any, weights: Sequence[Any], network: Layer | None = None, state: Any = None) -> Any:
    """Params from `model.get_weights()`; the inverse of `to_keras`.

    Args:
        like: params of this network, or `jax.eval_shape(network.init, key, x)`.
        network: the layers that params belongs to. Without it the arrays are read as they are, see `to_keras`: only
            where no other layer of Keras has arrays of these shapes.
        state: of this network, `network.state.init(key, x)`: then (params, state with Keras's statistics) is returned.

    Raises:
        ValueError: another number of arrays, an array of another shape, a layer of the network whose Keras layout is
            not known here, a batch norm without its state, or arrays that mean something else in another layer of Keras
            and no network.
    """
    if network is None:
        _check_plain(like)
        return set_weights(like, weights)
    by_layer = _by_layer(network, like, state, "io.from_keras", "keras")
    expected = [(layout, prefix, layout.write(_shapes(leaves))) for layout, prefix, leaves in by_layer]
    wanted = [(layout, array.shape) for layout, _, arrays in expected for array in arrays.values()]
    came = [np.shape(array) for array in weights]
    if len(came) != len(wanted) or not all(layout.same_entries(w, c) for (layout, w), c in zip(wanted, came)):
        shapes = [shape for _, shape in wanted]
        raise ValueError(f"io.from_keras: the network has arrays of shapes {shapes} in Keras, got {came}.")
    left, named, of_state = iter(weights), {}, {}
    for layout, prefix, arrays in expected:
        read = layout.read(
            {name: np.asarray(next(left), array.dtype).reshape(array.shape) for name, array in arrays.items()}
        )
        for name, array in read.items():
            (of_state if name in layout.statistics else named)[prefix + name] = array
    return _filled(like, named, state, of_state, "io.from_keras: the list")


def _check_plain(like: Tree) -> None:
    """Raise a ValueError where shapes do not say what an array is: a transposed kernel, gates in another order."""
    for name, leaf in named_parameters(like).items():
        square = len(leaf.shape) > 2 and leaf.shape[-1] == leaf.shape[-2]
        if square or {"input", "hidden"} & {*name.split(".")}:
            raise ValueError(
                f"io.from_keras: some layers of Keras (Conv2DTranspose, GRU) keep an array of the shape "
                f"{tuple(leaf.shape)} ({name}) in another order. Pass the layers: from_keras(like, weights, network)."
            )


def _by_layer(
    network: Layer, params: Tree, state: Tree, function: str, library: str
) -> list[tuple[Layout, str, dict[str, Any]]]:
    """Of every layer with params: its layout, the prefix of its paths, and its leaves by their names within it.

    Where there is a state, the leaves of it that the other library keeps among its arrays stand among them.
    """
    as_layer(network, function)
    layers = []
    named, of_state = named_parameters(params), named_parameters(state)

    def within(leaves, prefix):
        return {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}

    def visit(layer, path):
        prefix = "".join(f"{part}." for part in path)
        leaves = within(named, prefix)
        layout = getattr(layer.layouts, library)
        if leaves and layout is None:
            raise ValueError(
                f"{function}: the {_LIBRARIES[library]} layout of a {layer.name} layer ({prefix}{next(iter(leaves))}) "
                f"is not known; take its arrays from jb.named_parameters(params) and arrange them yourself."
            )
        if leaves and layout.statistics and library == "keras" and state is None:
            raise ValueError(
                f"{function}: Keras counts the statistics of a {layer.name} layer ({prefix}{next(iter(leaves))}) "
                f"among its weights: pass state=network.state.init(key, x), or that of training."
            )
        if leaves:
            statistics = {name: leaf for name, leaf in within(of_state, prefix).items() if name in layout.statistics}
            layers.append((layout, prefix, leaves | statistics))
        return layer

    map_layers(visit, network)
    return layers


def _filled(like: Tree, arrays: Arrays, state: Tree, statistics: Arrays, where: str) -> Any:
    """Params, and the state with these statistics where there is one."""
    params = _fill(like, arrays, where)
    if state is None:
        return params
    named = named_parameters(state)
    leaves = [jnp.asarray(statistics[name], leaf.dtype) if name in statistics else leaf for name, leaf in named.items()]
    return params, jax.tree.unflatten(jax.tree.structure(state), leaves)


def _shapes(leaves: Mapping[str, Any]) -> Arrays:
    """Arrays that have the shapes and dtypes of these leaves, and no memory of their own."""
    return {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in leaves.items()}
