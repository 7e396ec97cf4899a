"""The table of a network: what each layer holds, with the biases in a column of their own (A0.9); or of any model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import jax

from jaxbias._doors import describe
from jaxbias.foreign.roles import RolesSummary, roles_summary
from jaxbias.leaves import FREEZE, TRAIN, is_bias, named_parameters, read_labels
from jaxbias.params import Layer, Tree, as_layer, init_state, map_layers, run_forward


@dataclass(frozen=True)
class Row:
    """One layer: its path in params, its type, the shape of its output with None for the batch, and what it holds.

    Attributes:
        weights, biases: number of entries; what is no bias counts as weight.
        bytes: of weights and biases.
    """

    name: str
    type: str
    out_shape: str
    weights: int
    biases: int
    bytes: int


@dataclass(frozen=True)
class Total:
    """Sums over leaves: number of entries of weights and of biases, and their bytes."""

    weights: int
    biases: int
    bytes: int

    @property
    def parameters(self) -> int:
        """Weights and biases together."""
        return self.weights + self.biases


@dataclass(frozen=True)
class Summary:
    """`str(summary)` is the table; `rows`, `total`, `trainable` and `frozen` are its numbers."""

    rows: tuple[Row, ...]
    total: Total
    trainable: Total
    frozen: Total

    def __str__(self) -> str:
        header = ("name", "type", "output shape", "parameters", "weights", "biases", "bytes")
        cells = [
            (r.name, r.type, r.out_shape, *(f"{n:,}" for n in (r.weights + r.biases, r.weights, r.biases, r.bytes)))
            for r in self.rows
        ]
        totals = {"total": self.total, "trainable": self.trainable, "frozen": self.frozen}
        sums = [
            (name, "", "", *(f"{n:,}" for n in (t.parameters, t.weights, t.biases, t.bytes)))
            for name, t in totals.items()
        ]
        widths = [max(len(row[i]) for row in (header, *cells, *sums)) for i in range(len(header))]

        def line(row):
            return "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([line(header), rule, *map(line, cells), rule, *map(line, sums)])


@overload
def summary(fn: Callable, params: Tree, /, *args: Any, **options: Any) -> RolesSummary: ...
@overload
def summary(params: Tree, network: Layer | None = None, x: Any = None, trainable: Tree = None) -> Summary: ...
def summary(*args: Any, **options: Any) -> Summary | RolesSummary:
    """Table of what a model holds, as `str` prints it; nothing is computed.

    `summary(params, network=None, x=None, trainable=None)`: what each layer of a network of this library holds.
    `summary(fn, params, *args, **options)`: role, shape and size of every leaf of anyone's model `fn(params, *args,
    **options)`, roles read from their use as `jb.roles` does, and the share of the biases. A leaf that never meets data
    is listed as "other".

    Args:
        params: any tree of arrays or of `jax.ShapeDtypeStruct`.
        network: the layers that params belongs to; without it there is one row per tree of leaves and no type.
        x: an example input or its `jax.ShapeDtypeStruct`; with it the table shows output shapes.
        trainable: labels from `jb.freeze` or `jb.bias_only`, in a tree like params or like the top of it; by default
            everything is trained.
        fn: a function that can be traced. An object that holds arrays itself, as an Equinox module, counts as params.
        args: data for fn, arrays or `jax.ShapeDtypeStruct`.
        options: keyword arguments of fn, such as `train=False`.

    Raises:
        TypeError: no params, params that hold what is no array, or a network that is no `Layer`.
        ValueError: trainable has another tree than params, or x came without a network.
    """
    is_function = bool(args) and callable(args[0]) and jax.tree_util.all_leaves(args[:1])
    if len(args) < (2 if is_function else 1) and "params" not in options:
        came = describe(args[0]) if args else "nothing"
        raise TypeError(
            f"summary: params are missing, got {came}. Write summary(params, network, x), or summary(fn, params, "
            f"*args) for anyone's function."
        )
    return roles_summary(*args, **options) if is_function else _of_layers(*args, **options)


def _of_layers(params: Tree, network: Layer | None = None, x: Any = None, trainable: Tree = None) -> Summary:
    if x is not None and network is None:
        raise ValueError("summary: x came without a network; output shapes need summary(params, network, x).")
    if isinstance(params, Layer):
        raise TypeError(
            f"summary: {describe(params)} came where params belong; the order is summary(params, network, x), with "
            f"params = network.init(key, x)."
        )
    if network is not None:
        as_layer(network, "summary")
    named = named_parameters(params)
    for name, leaf in named.items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"summary: params must hold arrays, got {describe(leaf)}{f' at {name}' if name else ''}. "
                f"The order is summary(params, network, x), or summary(fn, params, *args) for anyone's function."
            )
    if network is None:
        groups = dict.fromkeys(name.rpartition(".")[0] for name in named)
        layers = dict.fromkeys(groups, "")
    else:
        layers = _layer_types(network)
    shapes = {} if network is None or x is None else _out_shapes(network, params, x)
    rows = []
    for name, type_name in layers.items():
        held = _total({k: v for k, v in named.items() if _is_within(k, name, exactly=network is None)})
        rows.append(Row(name, type_name, shapes.get(name, ""), held.weights, held.biases, held.bytes))
    labels = named_parameters(read_labels(trainable, params, "summary"))
    return Summary(
        tuple(rows),
        _total(named),
        _total({name: leaf for name, leaf in named.items() if labels[name] == TRAIN}),
        _total({name: leaf for name, leaf in named.items() if labels[name] == FREEZE}),
    )


def _total(named: dict[str, Any]) -> Total:
    return Total(
        sum(leaf.size for name, leaf in named.items() if not is_bias(name)),
        sum(leaf.size for name, leaf in named.items() if is_bias(name)),
        sum(leaf.size * leaf.dtype.itemsize for leaf in named.values()),
    )


def _is_within(leaf: str, layer: str, *, exactly: bool) -> bool:
    return leaf.rpartition(".")[0] == layer if exactly else not layer or leaf.startswith(f"{layer}.")


def _layer_types(network: Layer) -> dict[str, str]:
    """Path → type of every leaf layer, in the order of the forward pass."""
    types = {}

    def visit(layer, path):
        types[".".join(path)] = layer.name
        return layer

    map_layers(visit, network)
    return types


def _out_shapes(network: Layer, params: Tree, x: Any) -> dict[str, str]:
    """Path → shape of the output of every leaf layer."""
    out_shapes = {}

    def tap(layer, path):
        def forward(*args):
            out, residuals = layer.forward(*args)
            shapes = [str((None, *leaf.shape[1:])) for leaf in jax.tree.leaves(out)]
            out_shapes[".".join(path)] = ", ".join(shapes)
            return out, residuals

        return layer._replace(forward=forward)

    tapped = map_layers(tap, network)
    jax.eval_shape(lambda p, x: run_forward(tapped, p, x, init_state(network, jax.random.key(0), x))[0], params, x)
    return out_shapes
