"""The arrays of a layer as other libraries keep them, and back; each layer's file says which it knows.

A layout turns the leaves of one layer, by their names within it ("weight", "bias"), into the other library's arrays by
that library's names, in its order. `jaxbias.io` reads them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
"""The arrays of one layer by their names within it."""


class Layout(NamedTuple):
    """How one library keeps the arrays of a layer.

    Attributes:
        write: arrays here → arrays there. It is given what has shapes and no values, too.
        read: its inverse.
        statistics: names of the leaves of the layer's state that the other library keeps among its arrays.
        same_entries: whether an array of another shape, (wanted, came), holds the same entries in the same order.
    """

    write: Callable[[Arrays], Arrays]
    read: Callable[[Arrays], Arrays]
    statistics: tuple[str, ...] = ()
    same_entries: Callable[[tuple[int, ...], tuple[int, ...]], bool] = lambda wanted, came: wanted == came


class Layouts(NamedTuple):
    """A layer's layouts in other libraries; None where it is not known, or the library has no such layer."""

    pytorch: Layout | None = None
    keras: Layout | None = None


AS_HERE = Layout(lambda arrays: arrays, lambda arrays: arrays)
"""The same arrays under the same names."""


def of_weight(write: Callable[[np.ndarray], np.ndarray], read: Callable[[np.ndarray], np.ndarray]) -> Layout:
    """A layout in which only the weight differs."""

    def converted(convert: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
        return lambda arrays: {name: convert(a) if name == "weight" else a for name, a in arrays.items()}

    return Layout(converted(write), converted(read))


def renamed(names: dict[str, str], statistics: tuple[str, ...] = ()) -> Layout:
    """The same arrays in the order and under the names that they have there; `names` are here → there."""
    back = {there: here for here, there in names.items()}
    return Layout(
        lambda arrays: {there: arrays[here] for here, there in names.items() if here in arrays},
        lambda arrays: {back[there]: array for there, array in arrays.items()},
        statistics,
    )
