"""A rule gone through line by line, as one reads it: the first line whose value is nothing that the forward knows,
though a small change of it would be, is changed, and those below are judged with that.

So any number of mistakes in one chain are told apart, where between two of them stands a gradient by something that the
forward computes. Whether that is meant is told by how much of what comes below is known then.
"""

import ast
import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxbias._jaxpr.queries import depends_on
from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols.names import targets
from jaxbias.symbols.reference_values import ReferenceValue, gradient_by
from jaxbias.verify.naming.alignment import Alignment
from jaxbias.verify.naming.code import bracketed, names_in, value_of
from jaxbias.verify.naming.effects import Effects
from jaxbias.verify.naming.scopes import Visit
from jaxbias.verify.naming.trying import OF_LINE, Fit, Line, by_row, carried_out, compiled, evaluated, is_close
from jaxbias.verify.naming.variants import COST, Variant

MOST_STEPS, MOST_TRIED, MOST_WAYS = 5, 24, 3
"""Lines that are changed, changes of one line with which the rule is carried out, and with which it is gone on."""

MOST_TURNS = 2
"""Times that the program comes to a line at which changes of it are looked for."""

MOST_ENTRIES = 50_000
"""Of a value that may be known."""

OF_RIGHT = 5
"""How many values that are known a right gradient is worth."""

LEAST_GAIN = 2
"""How many more values are known after a change of a line that itself gives nothing known."""

LIKELY = 1.7
"""What such a change costs, and no more."""

OF_ZERO = 0.1
"""What it costs more to change a sum of which a term is nothing yet, and not the other term."""

GRADIENT = re.compile(r"(?:d|g|grad|delta|dL|dL_d|d_L_d|ct|adj|cot|bar)_?(\w+)|(\w+?)_?(?:bar|grad|ct|adj|cot|g)")
"""What a rule calls the gradient by a value."""


class Known:
    """Values of the forward, and gradients by them, on the first probe: which of them is an array?"""

    def __init__(self, values: Iterable[ReferenceValue]):
        self._values: dict[tuple[bool, int, int], list[ReferenceValue]] = {}
        for value in sorted(values, key=lambda v: v.rank):
            if (size := _size(x := value.array[0])) is not None:
                self._values.setdefault((value.linear, x.size, size), []).append(value)

    def __call__(self, x: Any, linear: bool) -> ReferenceValue | None:
        """The least far-fetched one that it is, as it is or transposed, and whatever unit axes it has."""
        x = np.squeeze(np.asarray(x))
        if (size := _size(x)) is None:
            return None
        near = (self._values.get((linear, x.size, size + k), ()) for k in (0, -1, 1))
        turned = (x, x.T) if x.ndim == 2 else (x,)
        its = (value for values in near for value in values)
        return next((v for v in its if any(is_close(y, np.squeeze(v.array[0])) for y in turned)), None)


def _size(x: np.ndarray) -> int | None:
    """Of what may be equal it differs by one at most; None of zeros, and of what is no array of numbers."""
    if x.dtype.kind not in "fc" or not 0 < x.size <= MOST_ENTRIES:
        return None
    total = float(np.sum(np.abs(x)))
    return round(math.log(total) * 1e5) if 0 < total < np.inf else None


class Place(NamedTuple):
    """A statement's expression, one time that the program comes there, and the number of its value."""

    statement: Segment
    turn: int
    number: int


class Steps:
    """Through one rule.

    Args:
        effects: of changes in the rule as it is.
        statements: expressions that may be changed, of which `effects` knows.
        wrong: gradients that are to become right.
        deadline: in `time.process_time`.

    Attributes:
        first: the changes that were gone on with where none had been made.
    """

    def __init__(
        self,
        effects: Effects,
        alignment: Alignment,
        statements: Sequence[Segment],
        wrong: Sequence[int],
        deadline: float,
    ):
        self.effects, self.wrong, self.deadline = effects, [*wrong], deadline
        self.alignment, self.site = alignment, effects.site
        program, probe = effects.site.program, alignment.cases[0].probe
        assert program is not None
        self.program, self.linear = program, depends_on(program, program.inputs[len(probe.primals) :])
        self.named = [*alignment.matcher.named.values()]
        parts = (part for its in alignment.matcher.parts.values() for part in its)
        self.known = Known([*self.named, *parts])
        places = (
            Place(statement, turn, place.value)
            for statement in statements
            for turn, place in enumerate(self.site.places[self.site.pieces.index(statement)])
        )
        self.places = sorted(places, key=lambda place: place.number)
        self.turns = Counter(place.statement for place in self.places)
        self.changes: dict[Segment, Fit] = {}
        self.first: list[Fit] = []
        self.values = self.site.values
        self._seen: dict[int, tuple[Any, ReferenceValue | None]] = {}

    def __call__(self) -> tuple[Fit, ...]:
        """Changes with which all gradients are right on the first probe; none if they are not told."""
        return tuple(self.changes.values()) if self._go_on(self.site.values) else ()

    def in_doubt(self) -> list[Segment]:
        """Lines that may be wrong, what gives nothing known before what does."""
        return [*dict.fromkeys(place.statement for places in self._in_doubt() for place in places)]

    def needing(self, fit: Fit) -> frozenset[int]:
        """Gradients that are wrong without this one of the changes."""
        others = {statement: its for statement, its in self.changes.items() if its is not fit}
        with contextlib.suppress(Exception):  # the others may make no sense without it
            values = self._changed(0, others) if others else self.site.values[0]
            return frozenset(self.wrong).difference(self._right(values))
        return frozenset(self.wrong)

    def _go_on(self, values: list[list[Any]]) -> bool:
        """Change a line, and then others, until all gradients are right; where that does not come about, another way.

        Args:
            values: that the program holds on every probe with the changes made so far.
        """
        self.values = values
        if len(self._right(values[0])) == len(self.wrong):
            return True
        for fit in self._ways() if len(self.changes) < MOST_STEPS else ():
            if time.process_time() > self.deadline:
                break
            self.changes[fit.segment] = fit
            with contextlib.suppress(Exception):  # what a change may raise on another probe is anything
                if self._go_on([self._changed(k, self.changes) for k in range(len(values))]):
                    return True
            del self.changes[fit.segment]
            self.values = values
        return False

    def _ways(self) -> Iterator[Fit]:
        fits = self._next()
        if not self.changes:
            self.first = fits
        yield from fits
        yield from self._by_what_follows()

    def _next(self) -> list[Fit]:
        """Of the first line with changes after which more is known than before, those after which most is."""
        now = self._score(self.values[0])
        for places in self._in_doubt():
            looked = Counter(dict.fromkeys(self.changes, MOST_TURNS))
            for place in places:
                if looked[place.statement] == MOST_TURNS:
                    continue
                looked[place.statement] += 1
                gained: list[tuple[int, Fit]] = []
                for fit in self._likeliest(place):
                    if time.process_time() > self.deadline:
                        break
                    with contextlib.suppress(Exception):  # what a change may raise is anything
                        gained.append((self._score(self._changed(0, self.changes | {place.statement: fit})), fit))
                # of those after which as much is known, the likeliest comes first, as before
                best = [fit for score, fit in sorted(gained, key=lambda its: -its[0]) if score > now]
                if best or time.process_time() > self.deadline:
                    return best[:MOST_WAYS]
        return []

    def _by_what_follows(self) -> list[Fit]:
        """Of the first line that gives nothing known, the likely changes after which most of what follows is."""
        now = self._score(self.values[0], both=True) + LEAST_GAIN
        unknown = (place for places in self._in_doubt() for place in places if place.turn == 0)
        for place in unknown:
            if place.statement in self.changes or self._known_at(place.number) is not None or self._hands_on(place):
                continue
            gained: list[tuple[int, Fit]] = []
            for change in self.effects.changes(place.statement, self.deadline):
                if time.process_time() > self.deadline:
                    return []
                if change.alike and change.fit.variant.cost <= LIKELY:
                    with contextlib.suppress(Exception):  # what a change may raise is anything
                        values = self._changed(0, self.changes | {place.statement: change.fit})
                        gained.append((self._score(values, both=True), change.fit))
            if best := [fit for score, fit in sorted(gained, key=lambda its: -its[0]) if score >= now]:
                return best[:MOST_WAYS]
        return []

    # --- what is known -------------------------------------------------------------------------------------------

    def _changed(self, k: int, changes: Mapping[Segment, Fit]) -> list[Any]:
        """All values of the program on a probe with changes."""
        pieces = self.site.pieces
        return self.site.changed(k, {pieces.index(its): carried_out(fit) for its, fit in changes.items()})

    def _right(self, values: Sequence[Any]) -> list[int]:
        """Of the wrong gradients, those that are right where the program holds these values on the first probe."""
        gradients = self.site.gradients(0, values)
        return [i for i in self.wrong if self.effects.are_right(gradients, 0, [i])]

    def _score(self, values: Sequence[Any], both: bool = False) -> int:
        """How much of what the program computes is known: of gradients, or of `both` these and what is none."""
        free = len(self._all_known(values, False)) if both else 0
        return len(self._all_known(values)) + free + OF_RIGHT * len(self._right(values))

    def _all_known(self, values: Sequence[Any], linear: bool = True, until: int | None = None) -> set[int]:
        """Identities of the gradients that the program computes, or of the values of the forward, until it comes to a
        value."""
        identities = set()
        for number in (*self.program.inputs, *(equation.outputs[0] for equation in self.program.equations)):
            if number == until:
                break
            if (number in self.linear) is linear and (its := self._known_at(number, values)) is not None:
                identities.add(id(its))
        return identities

    def _known_at(self, number: int, values: Sequence[Any] | None = None) -> ReferenceValue | None:
        """What a value of the program is known to be."""
        now = (self.values[0] if values is None else values)[number]
        if number not in self._seen or self._seen[number][0] is not now:
            self._seen[number] = now, self.known(now, number in self.linear)
        return self._seen[number][1]

    # --- where to look -------------------------------------------------------------------------------------------

    def _in_doubt(self) -> Iterator[list[Place]]:
        """Where the rule may be wrong: what is nothing known, or not what its name says, or is handed on, or a value
        of the forward that has been computed before, but for what a loop adds up; then that; then gradients that are
        known, as another one would be."""
        doubtful: list[Place] = []
        others: list[Place] = []
        right = self._made_into_known()
        computed: dict[int, Segment] = {}
        for place in self.places:
            x, linear = self.values[0][place.number], self._is_linear(place)
            if not (linear or np.ndim(x)) or not (np.any(x) or self._hands_on(place)):
                continue  # a loop may begin with zeros; of a number alone nothing tells that it is known
            its = self.known(x, linear)
            again = its is not None and computed.setdefault(id(its), place.statement) != place.statement
            if place.number in right:
                continue
            if self._hands_on(place) or its is None or self._meant(place) or (again and not linear):
                doubtful.append(place)
            elif linear:
                others.append(place)
        yield [place for place in doubtful if not self._adds_up(place)]
        yield [place for place in doubtful if self._adds_up(place)]
        yield others

    def _made_into_known(self) -> set[int]:
        """Values free of the cotangent of which values of the forward are made."""
        right: set[int] = set()
        for equation in reversed(self.program.equations):
            free = [n for n in equation.outputs if n not in self.linear]
            if free and (not right.isdisjoint(free) or any(self._known_at(n) is not None for n in free)):
                right.update(equation.inputs)
        return right

    def _hands_on(self, place: Place) -> bool:
        """Is it a variable alone, as what a pass of a loop hands to the next?"""
        return place.statement.text.isidentifier() and self.turns[place.statement] > 1 and self._is_linear(place)

    def _is_linear(self, place: Place) -> bool:
        """Is it a gradient, or zeros in the place of one?"""
        return place.number in self.linear or not np.any(self.values[0][place.number])

    def _adds_up(self, place: Place) -> bool:
        """Does it add to its variable in every pass of a loop, and is that no gradient by a value of one pass?"""
        own = names_in(place.statement.text).intersection(targets(place.statement))
        return bool(own) and self.turns[place.statement] > 1 and not any(v.place for v in self._called(place))

    def _called(self, place: Place) -> list[ReferenceValue]:
        """What its variable's name says that it is."""
        matches = filter(None, map(GRADIENT.fullmatch, targets(place.statement)))
        by = {gradient_by(name) for match in matches for name in match.groups() if name}
        return [value for value in self.named if value.linear and value.name in by]

    def _meant(self, place: Place) -> list[ReferenceValue]:
        """That, if it is not that."""
        its, now = self._called(place), self.values[0][place.number]
        if any(is_close(now, value.array[0]) for value in its):
            return []
        backwards = self.turns[place.statement] - 1 - place.turn
        of_this_pass = lambda v: not v.place or backwards + place.turn == 0 or v.iteration in (backwards, place.turn)
        its = [v for v in its if of_this_pass(v) and v.array.shape[1:] == np.shape(now) and np.any(v.array[0])]
        return sorted(its, key=lambda v: v.iteration != backwards)

    # --- what to try ---------------------------------------------------------------------------------------------

    def _likeliest(self, place: Place) -> list[Fit]:
        """Changes of a line that give what is known; first those that give what its name says."""
        linear = self._is_linear(place)
        computed = set() if self._hands_on(place) else self._all_known(self.values[0], linear, place.number)
        its = [*self._small(place, computed)]
        meant: list[Fit] = []
        for value in self._meant(place):
            if id(value) not in computed:
                meant += [fit for fit, other in its if other is value] or self._fitting(place, value)
        more = OF_ZERO * self._adds_zero(place)
        cost = lambda fit: fit.variant.cost + more * fit.of_the_whole
        others = [fit for fit, _ in its if fit not in meant] + [*self._added(place)]
        return [*sorted(meant, key=cost), *sorted(others, key=cost)][:MOST_TRIED]

    def _added(self, place: Place) -> Iterator[Fit]:
        """What a pass of a loop gives a variable, added to what that holds: from the second pass on that is another."""
        text, names = place.statement.text, self._visit(place).names[0]
        tree, (variable, *more) = value_of(text)[1], targets(place.statement) or ("",)
        if tree is None or more or place.turn or self.turns[place.statement] == 1 or variable in names_in(text):
            return
        if variable in names and np.shape(names[variable]) == np.shape(self.values[0][place.number]):
            by, words = f"{variable} + {bracketed(text, sums=False)}", f"overwrites {variable}, and must add to it"
            yield Fit(place.statement, by, Variant(COST["term"], "overwritten-not-accumulated", words, tree, by))

    def _adds_zero(self, place: Place) -> bool:
        """Is it a sum of which a term is nothing yet, as what a loop hands on is at first?"""
        tree, names = value_of(place.statement.text)[1], self._visit(place).names[0]
        if not isinstance(tree, ast.BinOp) or not isinstance(tree.op, ast.Add | ast.Sub):
            return False
        values = (evaluated(ast.unparse(side), names) for side in (tree.left, tree.right))
        return any(value is not None and not np.any(value) for value in values)

    def _visit(self, place: Place, probes: int = 1) -> Visit:
        return self.site.visit(self.site.pieces.index(place.statement), place.turn, self.values[:probes])

    def _small(self, place: Place, computed: Set[int]) -> Iterator[tuple[Fit, ReferenceValue]]:
        """Those of its form and of single values, with what they give, if that is not `computed` before."""
        visit, now, linear = self._visit(place), self.values[0][place.number], self._is_linear(place)
        before = self.known(now, linear)
        for change in self.effects.changes(place.statement, self.deadline):
            code = compiled(change.fit.code)
            rows = [evaluated(code, names) for names in visit.names]
            if any(row is None for row in rows):
                continue
            value = np.stack(rows) if visit.examples else np.asarray(rows[0])
            its = self.known(value, linear) if value.shape == np.shape(now) else None
            if its is not None and its is not before and id(its) not in computed:
                fit = change.fit.likelier(-0.05 * its.rank)
                yield self._of_a_pass(fit) if self._hands_on(place) else fit, its

    def _of_a_pass(self, fit: Fit) -> Fit:
        """Of what a pass of a loop hands to the next, another variable is meant: this one is of before."""
        if not fit.code.isidentifier():
            return fit
        words = f"is handed on where {fit.code} is needed"
        return replace(fit, variant=fit.variant._replace(kind="stale-value", words=words))

    def _fitting(self, place: Place, value: ReferenceValue) -> Iterator[Fit]:
        """All that give this one."""
        tree, visit = value_of(place.statement.text)[1], self._visit(place, len(self.values))
        line = Line(self.alignment, place.statement, tree, "", visit, by_row(value.array, visit)) if tree else None
        if line is not None and line.rows:
            until = min(self.deadline, time.process_time() + OF_LINE * self.effects.checker.seconds)
            yield from map(line.fit, line.fitting(until))
