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
        again: what it meets here was made of the leaf itself.
        ends: nothing but sums leads from here to the output.
    """

    leaf: int
    role: str
    level: int
    place: Place
    known: bool = True
    logarithm: bool = False
    determinant: bool = False
    chooses: bool = False
    again: bool = False
    ends: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """How much it counts, the least the most: a choice less than what is computed, more than a penalty."""
        return (1, 1 + self.level) if self.chooses and self.level < 2 else (self.level, 0)


@dataclass(eq=False)
class Pick:
    """A leaf of which data chose rows, or that data chose or multiplied: what it is, the operations that follow tell.

    Attributes:
        otherwise: its use if nothing follows that tells.
        chosen_by: idents of the data that chose; none of a leaf that they multiplied.
        rows: axes of the leaf along which they chose.
        dispatched: what follows is the output of a product with weights in groups, one group for each choice.
        among_rows: what it was multiplied with are rows that data chose too.
        follows: (role, where) of the contacts with data that follow.
    """

    otherwise: Use
    chosen_by: frozenset[int] = frozenset()
    rows: frozenset[int] = frozenset()
    dispatched: bool = False
    among_rows: bool = False
    follows: list[tuple[str, Place]] = field(default_factory=list)


@dataclass(frozen=True)
class Thread:
    """One leaf within a value.

    Attributes:
        layout: nothing but layout operations lie between the leaf and this value.
        reduced: it went through a reduction on every way here.
        linear: nothing but linear operations, with constants or other leaves, lie between the leaf and this value.
        gathered: constants chose rows of it.
        transformed: by a Fourier transform or one-hot constants; data that multiply it then make a weight of it.
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
    linear: bool = True
    gathered: bool = False
    transformed: bool = False
    logarithm: bool = False
    determinant: bool = False
    claim: str = ""
    firm: bool = True
    claimed_at: Place | None = None
    partner: int | None = None
    pick: Pick | None = None

    @property
    def rows(self) -> frozenset[int]:
        """Axes of the leaf along which data chose rows of it."""
        return frozenset() if self.pick is None else self.pick.rows

    @property
    def level(self) -> int:
        """How much its use counts, 0 the most."""
        return 2 if self.reduced else 0 if self.layout and not self.claim else 1


class Factor(NamedTuple):
    """Data, noise or constants that something was just multiplied with.

    Attributes:
        idents: which.
        complement: idents of g where these are 1 − g or "not g".
        mixture: it is part of a softmax.
    """

    idents: frozenset[int]
    complement: frozenset[int]
    mixture: bool


@dataclass(frozen=True)
class Product:
    """A leaf within data, just after data multiplied it or were subtracted.

    Attributes:
        thread: of the leaf, with its pick.
        at: the multiplication or difference.
        whole: the data were repeated along axes of the leaf, so that the product is the leaf still, of another size.
        shared: axes of the leaf that the data ran along too.
        alone: nothing else uses the product.
        mixed: it was added to the product of another leaf.
        differs_from: idents of x in the difference a − x.
        gated: data multiplied the difference.
    """

    thread: Thread
    at: Equation
    whole: bool = False
    shared: frozenset[int] = frozenset()
    alone: bool = True
    mixed: bool = False
    differs_from: frozenset[int] = frozenset()
    gated: bool = False

    @property
    def chosen(self) -> bool:
        """Whether data chose rows of the leaf before."""
        return self.thread.pick is not None and bool(self.thread.pick.chosen_by)

    def is_now(self, role: str, place: Place) -> None:
        """What follows the multiplication tells the role, and not the multiplication."""
        assert self.thread.pick is not None
        follows = self.thread.pick.follows
        follows[:] = [(said, where) for said, where in follows if where.equation is not self.at]
        if role != "other" or not self.chosen:  # rows that data chose are an embedding still
            follows.append((role, place))


@dataclass(frozen=True)
class Value:
    """What a value is made of.

    Attributes:
        threads: the leaves in it; of data, those of which data chose rows, until something else follows.
        looked_up: leaves that data chose rows of, anywhere on the way here.
        selects: of data that say which: "mask" (yes and no), "rows" (one-hot), "mixture" (a softmax); else "". Of
            constants only "rows".
        idents: which data said it, or which noise or constants; kept where an index is wrapped, moved or compared.
        sums: ("exp" | "sum", number): exponentials and their sum, which together are a softmax.
        made_of: leaves anywhere on the way here; of data.
        grouped: data that went through a product with weights in groups.
        repeated: axes along which data were just repeated.
        complement: of 1 − g and "not g", the idents of g.
        factors: what it was just multiplied with.
        products: leaves that data just multiplied, or were subtracted from.
    """

    kind: int = CONSTANT
    threads: tuple[Thread, ...] = ()
    looked_up: frozenset[int] = frozenset()
    selects: str = ""
    idents: frozenset[int] = frozenset()
    sums: tuple[str, int] | None = None
    made_of: frozenset[int] = frozenset()
    grouped: bool = False
    repeated: frozenset[int] = frozenset()
    complement: frozenset[int] = frozenset()
    factors: tuple[Factor, ...] = ()
    products: tuple[Product, ...] = ()

    @property
    def leaves(self) -> frozenset[int]:
        return frozenset(t.leaf for t in self.threads)

    @property
    def processed(self) -> bool:
        """Whether a weight was applied in it: it stands where activations do. So does what was normed and scaled."""
        claims = {t.claim for t in self.threads if t.partner is None}
        return not claims.isdisjoint(("weight", "bias")) or (
            "scale" in claims and any(not t.linear for t in self.threads if not t.claim)
        )

    def alike(self, other: "Value") -> bool:
        """Whether nothing that matters to what follows differs."""
        return (self.kind, self.leaves, self.looked_up) == (other.kind, other.leaves, other.looked_up)


NUMBERS = itertools.count()


def fresh() -> frozenset[int]:
    """An ident that no other data have."""
    return frozenset((next(NUMBERS),))


def data_from(values: Iterable[Value], threads: Iterable[Thread] = ()) -> Value:
    """Data made of these values."""
    values = list(values)
    looked_up = frozenset().union(*(v.looked_up for v in values))
    made_of = frozenset().union(*(v.made_of | v.leaves for v in values))
    return Value(DATA, tuple(threads), looked_up, idents=fresh(), made_of=made_of)


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
            linear=old.linear and thread.linear,
            gathered=old.gathered or thread.gathered,
            transformed=old.transformed or thread.transformed,
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
