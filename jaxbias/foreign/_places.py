"""Places for biases: a None beside a weight that the model adds to the product once an array stands there."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias._trees import path_name
from jaxbias.foreign._graph import Graph
from jaxbias.foreign.traced import split_params


def with_places(fn: Callable, params: Any, args: tuple[Any, ...], weights: Sequence[str]) -> Any:
    """The params with a bias of zeros for each of these weights whose model has a place for one.

    Tried, not looked up: an array is put where None stands beside the weight, and stays if the traced model then adds
    it, and nothing else, to what the weight made.

    Args:
        weights: paths of weights without a bias.
    """
    is_none = lambda leaf: leaf is None
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_none)
    names = [path_name(path) for path, _ in with_paths]
    empty = {name: i for i, (name, (_, leaf)) in enumerate(zip(names, with_paths)) if leaf is None}
    leaves = [leaf for _, leaf in with_paths]
    if not any(_beside(empty, weight) for weight in weights):
        return params
    graph = _graph(fn, params, args)
    candidates = {
        weight: [(name, zeros) for name in _beside(empty, weight) for zeros in _zeros(graph, weight)]
        for weight in weights
    }

    def put(places: dict[str, tuple[str, Any]]) -> tuple[Any, set[str]]:
        """Params with arrays at these places, and the weights whose model adds them."""
        arrays = {empty[name]: zeros for name, zeros in places.values()}
        tried = treedef.unflatten([arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        try:
            graph = _graph(fn, tried, args)
        except (TypeError, ValueError):  # the model takes no array there, or none of this shape
            return tried, set()
        leaf_of = {path: i for i, path in enumerate(split_params(tried).paths)}
        added = {weight for weight, (name, _) in places.items() if bias_of(graph, leaf_of[weight]) == leaf_of[name]}
        return tried, added

    tried = {weight: options[0] for weight, options in candidates.items() if options}
    at_once, added = put(tried)
    if added == set(tried):
        return at_once
    places = {}
    for weight, options in candidates.items():  # one after another
        places |= next(({weight: option} for option in options if put({weight: option})[1]), {})
    return put(places)[0] if places else params


def _graph(fn: Callable, params: Any, args: tuple[Any, ...]) -> Graph:
    return Graph(lambda params, _, *args: fn(params, *args), params, (), args)


def _beside(empty: dict[str, int], weight: str) -> list[str]:
    parent = weight.rpartition(".")[0]
    return [name for name in empty if name.rpartition(".")[0] == parent]


def _zeros(graph: Graph, weight: str) -> Iterator[Any]:
    """A bias of each shape in use: (out,), and with axes of size 1 for the window, as Equinox has it."""
    for equation in graph.program.equations:
        contact = graph.contact(equation)
        if contact is not None and graph.paths[contact.leaf] == weight:
            shape = equation.shapes.inputs[contact.position]
            size = int(np.prod([shape[i] for i, _ in contact.along]))
            dtype = graph.leaves[contact.leaf].dtype
            yield jnp.zeros(size, dtype)
            if equation.name == "conv_general_dilated":
                yield jnp.zeros((size, *(1,) * (len(shape) - 2)), dtype)


def bias_of(graph: Graph, weight: int) -> int | None:
    """The leaf that is added to the product of a weight, with nothing but layout in between; None without one."""
    for equation in graph.program.equations:
        contact = graph.contact(equation)
        if contact is None or contact.leaf != weight:
            continue
        value = equation.outputs[0]
        while (use := graph.only_use(value)) is not None and (step := graph.step(use.equation)) is not None:
            if step.equation.name in ("add", "add_any"):
                return None if step.other is None else graph.leaf_of(step.other, repeated=True)
            if not step.moves:
                break
            value = step.equation.outputs[0]
    return None
