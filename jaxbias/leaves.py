"""Params by name: list them, take them out, put them back, and freeze some of them.

What is trained is a tree of labels, "train" or "freeze" at each leaf, the form that `optax.partition` takes: `freeze`
and `jb.bias_only` write it, and `read_labels` is its one reader, for `with_frozen`, `jb.train.fit` and `jb.summary`.

A leaf is a bias if its last name is `bias`, as in every `Params` of this library; for models whose leaves have other
names, `jb.roles` reads the role of a leaf from its use.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxbias._doors import describe
from jaxbias._trees import path_name
from jaxbias.params import SomeTree, Tree

TRAIN, FREEZE = "train", "freeze"
"""Labels of the leaves."""


def named_parameters(params: Tree) -> dict[str, Any]:
    """Dotted path → leaf, for example "0.weight", in the order of the forward pass."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def is_bias(name: str) -> bool:
    """Whether a dotted path ends in `bias`."""
    return name.rpartition(".")[2] == "bias"


def get_weights(params: Tree) -> list[np.ndarray]:
    """[weight of the first layer, its bias, weight of the second, ...] as NumPy arrays, Keras's order (A0.10)."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def set_weights(params: SomeTree, weights: Sequence[Any]) -> SomeTree:
    """A tree like `params` with these arrays, in the order and of the shapes of `get_weights`; its inverse.

    Raises:
        TypeError: no list of arrays.
        ValueError: another number of arrays, or an array of another shape.
    """
    if not isinstance(weights, Iterable):
        raise TypeError(f"set_weights: weights must be a list of arrays, got {describe(weights)}.")
    named, weights = named_parameters(params), list(weights)
    if len(weights) != len(named):
        raise ValueError(
            f"set_weights: {len(weights)} arrays came but params has {len(named)} leaves: {', '.join(named)}."
        )
    for (name, leaf), new in zip(named.items(), weights):
        if np.shape(new) != leaf.shape:
            raise ValueError(f"set_weights: {name} has shape {leaf.shape} but the array for it {np.shape(new)}.")
    leaves = [jnp.asarray(new, leaf.dtype) for leaf, new in zip(named.values(), weights)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def freeze(params: Tree, leaves: str | Iterable[str] | Callable[[str, Array], bool]) -> Tree:
    """A tree like `params` that labels each leaf "train" or "freeze", for `with_frozen` and `optax.partition`.

    Args:
        leaves: "biases"; "weights", which leaves the biases alone to be trained; dotted paths of leaves or of the trees
            that hold them, such as ["0", "2.bias"]; or a predicate `(path, leaf) -> bool`.

    Raises:
        TypeError: what is none of these.
        ValueError: another word, or a path that params does not have.
    """
    names = list(named_parameters(params))
    if callable(leaves):
        chosen = leaves
    elif isinstance(leaves, str):
        if leaves not in ("biases", "weights"):
            raise ValueError(
                f'freeze: leaves must be "biases", "weights", a list of paths or a predicate, got {leaves!r}. '
                f"A single path is written [{leaves!r}]."
            )
        chosen = lambda name, leaf: is_bias(name) == (leaves == "biases")
    else:
        if not isinstance(leaves, Iterable):
            raise TypeError(f"freeze: leaves must be a word, a list of paths or a predicate, got {describe(leaves)}.")
        paths = list(leaves)
        for path in paths:
            if not any(_holds(path, name) for name in names):
                raise ValueError(f"freeze: params has no {path!r}. Its leaves are {', '.join(names)}.")
        chosen = lambda name, leaf: any(_holds(path, name) for path in paths)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: FREEZE if chosen(path_name(path), leaf) else TRAIN, params
    )


def _holds(path: str, name: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def read_labels(trainable: Tree, params: Tree, owner: str) -> Tree:
    """A tree like `params` with the label of each leaf.

    Args:
        trainable: labels in a tree like params or like the top of it; None trains everything. A mask for optax, such
            as `jb.mask` gives, says the same with True for "train".
        owner: the function that was called, for its errors.

    Raises:
        TypeError: an entry that is neither a label nor a bool.
        ValueError: another tree.
    """
    labels = jax.tree.map(lambda entry: _label(entry, owner), TRAIN if trainable is None else trainable)
    try:
        return jax.tree.broadcast(labels, params)
    except ValueError:
        raise ValueError(
            f"{owner}: trainable must be a tree like params, or like the top of it. It has entries at "
            f"{', '.join(named_parameters(trainable))}; params has the leaves {', '.join(named_parameters(params))}. "
            f"Make it with jb.freeze(params, ...)."
        ) from None


def _label(entry: Any, owner: str) -> str:
    if isinstance(entry, bool | np.bool_):
        return TRAIN if entry else FREEZE
    if isinstance(entry, str) and entry in (TRAIN, FREEZE):
        return entry
    raise TypeError(f'{owner}: trainable must hold "{TRAIN}" and "{FREEZE}", or True and False, got {entry!r}.')


def with_frozen(optimizer: optax.GradientTransformation, labels: Tree) -> optax.GradientTransformation:
    """The optimizer on the leaves labelled "train"; those labelled "freeze" stay bit-identical and have no state.

    Args:
        labels: from `freeze` or `jb.bias_only`.
    """
    # The update of a frozen leaf is −0.0, not 0.0: −0.0 + 0.0 is 0.0, another bit pattern, but p + −0.0 is p for all p.
    stay = optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates))
    # Labels may be callable, as a params tree may be, or a function that gives them: optax calls both.
    given = labels if callable(labels) and jax.tree_util.all_leaves([labels]) else lambda _: labels
    return optax.partition(
        {TRAIN: optimizer, FREEZE: stay},
        lambda params: read_labels(given(params), params, "with_frozen"),
        mask_compatible_extra_args=True,  # a line search compares the gradient that it is told with that of its leaves
    )
