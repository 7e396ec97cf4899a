"""Right values that a value of the rule could be computed from, and how they are written."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxbias.symbols.reference_values import ReferenceValue
from jaxbias.verify.naming.alignment import Alignment, layouts, same
from jaxbias.verify.naming.code import bracketed, is_code


@dataclass(frozen=True)
class AtHand:
    """A right value: of the reference, or one that the rule has computed.

    Attributes:
        own: as it was before it was laid out.
        reference: value that it is; None of what the rule has computed.
    """

    name: str
    array: np.ndarray
    cost: float | int
    own: np.ndarray | None = None
    reference: ReferenceValue | None = None

    @cached_property
    def code(self) -> str:
        """As Python; empty where it has no expression, as ∂L/∂p has none."""
        return (
            _laid_out(self.name, self.array if self.own is None else self.own, self.array) if is_code(self.name) else ""
        )

    @property
    def derivative(self) -> bool:
        return self.reference is not None and self.reference.derivative

    @property
    def kind_of_factor(self) -> str:
        """Of mistake, where a value is not multiplied by this one."""
        held = set(np.unique(self.array).tolist())
        if held <= {-1.0, 0.0, 1.0} and -1.0 in held:
            return "sign"
        if self.derivative:
            return "missing-activation-derivative"
        return "missing-mask" if held <= {0.0, 1.0} else "missing-factor"

    @property
    def as_factor(self) -> tuple[str, ...]:
        """What multiplies an expression, {}, by it."""
        return (f"{{}} * {bracketed(self.code)}",) if self.code else ()

    @property
    def as_divisor(self) -> tuple[str, ...]:
        return (f"{{}} / {bracketed(self.code, products=True)}",) if self.code else ()

    @property
    def bracketed(self) -> str:
        """As a factor of a product."""
        plain = self.name.startswith(("∂", "(")) or re.fullmatch(r"[\w.]+(\([^ ]*\))?", self.name)
        return self.name if plain else f"({self.name})"


def at_hand(alignment: Alignment, number: int, shape: tuple[int, ...], linear: bool) -> list[AtHand]:
    """Right values of this shape, up to layout, that a value of the rule could be computed from; likely ones first."""
    values: list[AtHand] = []

    def add(name: str, array: np.ndarray, cost: float, reference: ReferenceValue | None = None) -> None:
        array = array.astype(float) if array.dtype.kind == "b" else array
        if array.dtype.kind not in "fiuc":
            return
        for layout, laid in layouts(array, shape):
            turned = name if layout != "transposed" else f"{name}.T" if name.isidentifier() else f"({name}).T"
            own = laid if layout == "transposed" else array
            values.append(AtHand(turned, np.asarray(laid), cost + 0.2 * bool(layout), own, reference))

    for value in [*alignment.matcher.values, *alignment.matcher.masked]:
        if value.linear == linear and value.rank < 3:
            add(alignment.own_name(value), value.array, value.rank, value)
    for other, name in alignment.names.items():
        inside = other in alignment.position and other != number and other not in alignment.matches
        if inside and name.variable and (other in alignment.linear) == linear and alignment.known(other):
            add(name.text, alignment.column(other), 1.2)
    return sorted(values, key=lambda value: value.cost)


def _laid_out(code: str, x: np.ndarray, laid: np.ndarray) -> str:
    """Code of an array that stands where `laid` is needed: unit axes put in where broadcasting does not by itself."""
    own, shape = x.shape[1:], laid.shape[1:]
    if own == shape or (_fits(own, shape[len(shape) - len(own) :]) and same(_spread(_in_front(x, shape), laid), laid)):
        return code
    for axes in itertools.combinations(range(len(shape)), len(own)):
        full = [own[axes.index(a)] if a in axes else 1 for a in range(len(shape))]
        if _fits(full, shape) and same(_spread(x.reshape(len(x), *full), laid), laid):
            index = ", ".join(":" if a in axes else "None" for a in range(len(shape)))
            return f"{bracketed(code, products=True)}[{index}]"
    return ""


def _fits(own: Sequence[int], shape: Sequence[int]) -> bool:
    return len(own) == len(shape) and all(n in (1, m) for n, m in zip(own, shape))


def _in_front(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return x.reshape(len(x), *(1,) * (len(shape) - x.ndim + 1), *x.shape[1:])


def _spread(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, like.shape)
