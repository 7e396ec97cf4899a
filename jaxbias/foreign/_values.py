"""What a value of a program is made of, constants, noise, params or data, and how each leaf lies in it.

    CONSTANT < NOISE < PARAMS < DATA     a value is of the highest kind among what it is made of

Noise is what keys alone make. `Thread` is one leaf within a value; `Pick` is a leaf of which data chose rows.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from jaxbias._jaxpr import Equation
from jaxbias.foreign._axes import LeafAxes

CONSTANT, NOISE, PARAMS, DATA = range(4)

TOKEN = "token"
"""The claim of a leaf that weights were applied to, as they are to data: learned queries, latents, prompts."""


class Place(NamedTuple):
    """Operand `position` of an equation, and which axes of the leaf it runs along."""

    equation: Equation
    position: int
    axes: LeafAxes


@dataclass(frozen=True, eq=False)
class Use:
    """A use of a leaf.

    Attributes:
        level: how much it counts, see `uses`.
        known: False for an operation that is not known here, so that "other" only says that it was not recognised.
        logarithm: an exponential of the leaf was taken on the way.
        determinant: a logarithm of what was made of the leaf was taken on the way.
        chooses: no number leads from here to the output, only what is chosen by it.
    """

    leaf: int
    role: str
    level: int
    place: Place
    known: bool = True
    logarithm: bool = False
    determinant: bool = False
    chooses: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """How much it counts, the least the most: a choice less than what is computed, more than a penalty."""
        return (1, 1 + self.level) if self.chooses and self.level < 2 else (self.level, 0)


@dataclass(eq=False)
class Pick:
    """A leaf of which data chose rows (or that data chose to use): what it is, the operations that follow tell.

    Attributes:
        chosen_by: idents of the data that chose.
        otherwise: role if nothing follows that tells.
        follows: (role, where) of the contacts with data that follow.
    """

    leaf: int
    level: int
    place: Place
    chosen_by: frozenset[int]
    otherwise: str
    follows: list[tuple[str, Place]] = field(default_factory=list)


@dataclass(frozen=True)
class Thread:
    """One leaf within a value.

    Attributes:
        layout: nothing but layout operations lie between the leaf and this value.
        reduced: it went through a reduction on every way here.
        gathered: constants chose rows of it.
        logarithm: an exponential of it was taken on some way here.
        determinant: a logarithm of what was made of it was taken on some way here.
        claim: role that it took where it met constants, noise or other leaves; "" for none so far.
        firm: that role holds even where the value is then multiplied into data as a weight is.
        claimed_at: where it took it.
        partner: the leaf that it met in a product of which it is not known yet which one is the weight.
        pick: where data chose rows of it.
    """

    leaf: int
    axes: LeafAxes
    layout: bool = True
    reduced: bool = False
    gathered: bool = False
    logarithm: bool = False
    determinant: bool = False
    claim: str = ""
    firm: bool = True
    claimed_at: Place | None = None
    partner: int | None = None
    pick: Pick | None = None

    @property
    def level(self) -> int:
        """How much its use counts, 0 the most."""
        return 2 if self.reduced else 0 if self.layout and not self.claim else 1


@dataclass(frozen=True)
class Value:
    """What a value is made of.

    Attributes:
        threads: the leaves in it; of data, those of which data chose rows, until something else follows.
        looked_up: leaves that data chose rows of, anywhere on the way here.
        selects: of data that say which: "mask" (yes and no), "rows" (one-hot), "mixture" (a softmax); else "".
        idents: which data said it; kept where an index is wrapped, moved or compared.
        sums: ("exp" | "sum", number): exponentials and their sum, which together are a softmax.
    """

    kind: int = CONSTANT
    threads: tuple[Thread, ...] = ()
    looked_up: frozenset[int] = frozenset()
    selects: str = ""
    idents: frozenset[int] = frozenset()
    sums: tuple[str, int] | None = None

    @property
    def leaves(self) -> frozenset[int]:
        return frozenset(t.leaf for t in self.threads)

    @property
    def processed(self) -> bool:
        """Whether a weight was applied in it: it stands where activations do."""
        return any(t.claim in ("weight", "bias", "scale") and t.partner is None for t in self.threads)

    def alike(self, other: "Value") -> bool:
        """Whether nothing that matters to what follows differs."""
        return (self.kind, self.leaves, self.looked_up) == (other.kind, other.leaves, other.looked_up)


NUMBERS = itertools.count()


def fresh() -> frozenset[int]:
    """An ident that no other data have."""
    return frozenset((next(NUMBERS),))


def data_from(values: Iterable[Value], threads: Iterable[Thread] = ()) -> Value:
    """Data made of these values."""
    looked_up = frozenset().union(*(v.looked_up for v in values))
    return Value(DATA, tuple(threads), looked_up, idents=fresh())


def merge(threads: Iterable[Thread]) -> tuple[Thread, ...]:
    """One thread per leaf, from those of several operands of the same shape."""
    merged: dict[int, Thread] = {}
    for thread in threads:
        if (old := merged.get(thread.leaf)) is None:
            merged[thread.leaf] = thread
            continue
        first = old if old.claim and not (old.reduced and thread.claim) else thread
        axes = None
        if old.axes is not None and thread.axes is not None and len(old.axes) == len(thread.axes):
            axes = tuple(a | b for a, b in zip(old.axes, thread.axes))
        claim = first if first.claim else old
        merged[thread.leaf] = replace(
            claim,
            axes=axes,
            firm=claim.firm and (old.claim != thread.claim or (old.firm and thread.firm)),
            layout=old.layout and thread.layout,
            reduced=old.reduced and thread.reduced,
            gathered=old.gathered or thread.gathered,
            logarithm=old.logarithm or thread.logarithm,
            determinant=old.determinant or thread.determinant,
            pick=old.pick or thread.pick,
        )
    return tuple(merged.values())


def join(values: Sequence[Value]) -> Value:
    """What may be any of these values."""
    kind = max(v.kind for v in values)
    if kind == DATA:
        return data_from(values)
    return Value(kind, merge(t for v in values for t in v.threads))
