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
    """

    write: Callable[[Arrays], Arrays]
    read: Callable[[Arrays], Arrays]


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
