"""A wrong value beside the right one, and what is said of the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.naming.alignment import Alignment, same
from jaxbias.verify.naming.at_hand import AtHand, at_hand
from jaxbias.verify.naming.constants import Shapes


@dataclass(frozen=True)
class Relation:
    """How a wrong value and the right one differ.

    Attributes:
        kind: of mistake, one of `report.KINDS`.
        text: a sentence without its subject: "lacks the factor scale".
        cost: how far-fetched it is.
        number: of the value at which the rule goes wrong, where that is further up; None if it is the wrong value.
        codes: what may be written there, the likeliest first; in each, {} is the expression as it is.
        about: name of the reference value that it speaks of, other than the wanted one.
        by_change: is it a change of a line, which says nothing if the rule is not right with it?
        otherwise: what is said then.
        mending: of an operation further up that is changed, its value and what that becomes.
        factor: what it must be is this times what it is then, as where a sign is wrong as well.
    """

    kind: str
    text: str
    cost: float | int
    number: int | None = None
    codes: tuple[str, ...] = ()
    about: str = ""
    by_change: bool = False
    otherwise: "Relation | None" = None
    mending: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    factor: float | int = 1.0


@dataclass(frozen=True)
class Difference:
    """A value of a rule, and what it must be.

    Attributes:
        number: of the value.
        given, wanted: what it is and what it must be, the probes along the first axis.
        sizes: shapes of arguments and cotangents, by name, from which constants take their names.
        deadline: in `time.process_time`.
    """

    alignment: Alignment
    number: int
    given: np.ndarray
    wanted: np.ndarray
    sizes: Shapes
    deadline: float | int

    @property
    def shapes(self) -> list[Shapes]:
        """Of each probe."""
        return [list(self.sizes)] * self.given.shape[0]

    @property
    def linear(self) -> bool:
        """In the cotangent."""
        return self.number in self.alignment.linear

    @property
    def equation(self) -> _jaxpr.Equation | None:
        """That computes the value; None where the rule returns an argument as it is."""
        at = self.alignment.position.get(self.number)
        return None if at is None else self.alignment.program.equations[at]

    def at_hand(self, shape: Sequence[int], linear: bool) -> list[AtHand]:
        return at_hand(self.alignment, self.number, tuple(shape), linear)


def constant_factor(given: np.ndarray, wanted: np.ndarray) -> float | None:
    """c, where the given value is c times the wanted one."""
    if given.shape != wanted.shape or wanted.size == 0:
        return None
    at = np.unravel_index(int(np.argmax(np.abs(wanted))), wanted.shape)
    with np.errstate(all="ignore"):
        factor = given[at] / wanted[at]
    if not np.isfinite(factor) or factor == 0 or np.imag(factor) or not same(given, factor * wanted):
        return None
    return float(np.real(factor))
