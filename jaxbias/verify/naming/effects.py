"""What small changes of lines do to gradients: each is carried out in the rule's program, from its line onwards.

That tells which change makes gradients right where it is not known what its line must give, and which changes of
several lines do so together.
"""

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxbias._jaxpr.sources import Segment, inside
from jaxbias.symbols.names import targets
from jaxbias.verify.naming.alignment import Alignment
from jaxbias.verify.naming.code import names_in
from jaxbias.verify.naming.scopes import Names, Site
from jaxbias.verify.naming.slips import Slip
from jaxbias.verify.naming.together import together
from jaxbias.verify.naming.trying import (
    OF_LINE,
    Fit,
    Line,
    Wanted,
    carried_out,
    compiled,
    evaluated,
    is_close,
    statement_of,
    wanted_of,
)

if TYPE_CHECKING:
    from jaxbias.verify.checker import Checker

MOST_ENTRIES = 20_000
"""Of a value that is changed."""


class Change(NamedTuple):
    """A change of a line, and what the line's expression gives with it on the first probe.

    Attributes:
        alike: has it the shape that it had, so that the program can go on with it?
    """

    fit: Fit
    value: np.ndarray
    alike: bool


class Effects:
    """Of the changes of a rule's lines, as the rule is with what has been made."""

    def __init__(self, checker: "Checker", alignment: Alignment, made: Sequence[tuple[Segment, str]]):
        self.checker, self.alignment, self.made = checker, alignment, list(made)
        self._lines: dict[Segment, Line | None] = {}
        self._site: Site | None = None
        self._changes: dict[Segment, list[Change]] = {}
        self._gradients: dict[Fit, list[Any]] = {}
        self._names: dict[tuple[Fit, Segment, int, int], Names | None] = {}

    def lines(self, segments: Sequence[Segment]) -> list[Segment]:
        """The statements' expressions that these pieces of code stand in, as far as they can be changed."""
        statements = [*dict.fromkeys(filter(None, map(statement_of, segments)))]
        if not self._lines.keys() >= set(statements):
            its = [*dict.fromkeys([*self._usable, *statements])]
            self._look_at([s for s in its if not any(inside(other, s) for other in its if other != s)])
            self._lines = dict.fromkeys(statements) | self._lines
        pieces = self._site.pieces if self._site is not None else ()
        return [s for s in statements if self._lines[s] is not None and s in pieces]

    @property
    def _usable(self) -> list[Segment]:
        return [statement for statement, line in self._lines.items() if line is not None]

    def _look_at(self, statements: Sequence[Segment]) -> None:
        """All of them in one trace of the rule; without those that are in the way of that."""
        site = self._site_of(statements)
        if site is None:
            statements = [s for s in statements if s in self._usable or self._site_of([s]) is not None]
            site = self._site_of(statements)
        if site is None:
            return
        self._site = site
        for k, statement in enumerate(statements):
            sizes = [np.size(held[place.value]) for place in site.places[k] for held in site.values]
            if sizes and max(sizes) <= MOST_ENTRIES and statement not in self._lines:
                self._lines[statement] = Line.of(self.alignment, statement, site.visits(k))

    def _site_of(self, statements: Sequence[Segment]) -> Site | None:
        try:
            return Site(self.checker, statements, self.made, self.alignment.cases) if statements else None
        except Exception:  # anything that the user's function does
            return None

    def changes(self, statement: Segment, deadline: float) -> list[Change]:
        """Of one line, the likeliest first; none when there is no time to look."""
        if statement not in self._changes:
            if time.process_time() > deadline:
                return []
            its: list[Change] = []
            if (line := self._lines[statement]) is not None:
                until = time.process_time() + OF_LINE * self.checker.seconds
                for variant, value in line.changes(min(deadline, until)):
                    its.append(Change(line.fit(variant), value, value.shape == line.rows[0][1].shape))
            self._changes[statement] = its
        return self._changes[statement]

    def gradients(self, change: Change) -> list[Any]:
        """Of the rule on the first probe, with the change; empty where the program does not go on with it."""
        if change.fit not in self._gradients:
            self._gradients[change.fit] = []
            if change.alike:
                with contextlib.suppress(Exception):  # what a change may raise is anything
                    self._gradients[change.fit] = self.site.gradients(0, self._held(change.fit, 0, None, change.value))
        return self._gradients[change.fit]

    def _are_right_with(self, fit: Fit, k: int, leaves: Sequence[int]) -> bool:
        """Are these gradients right on a probe, with a change?"""
        with contextlib.suppress(Exception):  # what a change may raise on another probe is anything
            return self.are_right(self.site.gradients(k, self._held(fit, k)), k, leaves)
        return False

    def _held(self, fit: Fit, k: int, until: int | None = None, value: Any = None) -> list[Any]:
        """All values of the program on a probe, with a change, until it comes to a value.

        Args:
            value: of the change, on that probe, if the program comes there once.
        """
        return self.site.changed(k, {self.site.pieces.index(fit.segment): carried_out(fit)}, until, value)

    def _names_at(self, change: Change, statement: Segment, turn: int, k: int = 0) -> Names | None:
        """What stands at a statement on a probe, with a change above it."""
        key = change.fit, statement, turn, k
        if key not in self._names:
            self._names[key] = None
            with contextlib.suppress(Exception):  # what a change may raise is anything
                self._names[key] = self._names_on(change, statement, turn, k)
        return self._names[key]

    def _names_on(self, change: Change, statement: Segment, turn: int, k: int) -> Names | None:
        site, name = self.site, targets(change.fit.segment)
        at = site.pieces.index(statement)
        taken = names_in(statement.text)
        if change.alike:
            held = self._held(change.fit, k, site.number(at, turn), change.value if k == 0 else None)
            return site.names(at, held, turn, taken)
        now = site.names(at, site.values[k], turn, taken) if len(name) == 1 else None
        return None if now is None else now | {name[0]: change.value if k == 0 else self._value_on(change.fit, k)}

    def _value_on(self, fit: Fit, k: int) -> Any:
        """What a line gives on a probe with a change."""
        line = self._lines[fit.segment]
        rows = line.rows if line is not None and len(line.rows) == len(self.alignment.cases) else []
        return line.result(fit.code, rows[k][0]) if line is not None and rows else None

    def alone(self, segments: Sequence[Segment], leaves: Iterable[int], deadline: float) -> Iterator[Fit]:
        """Changes of one line with which these gradients are right, line after line."""
        leaves, others = [*leaves], range(1, len(self.alignment.cases))
        for statement in self.lines(segments):
            for its in self.changes(statement, deadline):
                if time.process_time() > deadline:
                    return
                gradients = self.gradients(its)
                right = bool(gradients) and self.are_right(gradients, 0, leaves)
                if right and all(self._are_right_with(its.fit, k, leaves) for k in others):
                    yield its.fit

    def are_right(self, gradients: Sequence[Any], k: int, leaves: Sequence[int]) -> bool:
        """Are these gradients right on a probe?"""
        probe, expected = slice(k, k + 1), self.alignment.expected
        outs = [np.zeros_like(expected[i][k]) if gradients[i] is None else np.asarray(gradients[i]) for i in leaves]
        return all(self.alignment.is_right(i, out[None], probe) for i, out in zip(leaves, outs))

    def above(
        self, slip: Slip, statements: Sequence[Segment], segments: Sequence[Segment], deadline: float
    ) -> Iterator[Change]:
        """Changes of one of these pieces of code with which a statement that it goes into gives what it must.

        Args:
            statements: the first of which it is known what they must give.
        """
        self.lines([*statements, *segments])  # in one trace
        lines, pieces = self.lines(statements), self.lines(segments)
        for (least, most), (statement, wanted), piece in itertools.product(
            itertools.pairwise(COSTS_OF_ONE), self._known(slip, lines), pieces
        ):
            code = compiled(statement.text)
            for its in self.changes(piece, deadline) if self.site.comes_first(piece, statement) else ():
                if not least < its.fit.variant.cost <= most:
                    continue
                names = self._names_at(its, statement, wanted.turn)
                if time.process_time() > deadline:
                    return
                if names is not None and _is_quickly(evaluated(code, names), wanted.values[0]):
                    others = range(1, len(self.alignment.cases))
                    there = [self._names_at(its, statement, wanted.turn, k) for k in others]
                    values = [evaluated(code, names) if names is not None else None for names in there]
                    if all(is_close(x, wanted.values[k]) for k, x in zip(others, values)):
                        yield its

    def named(self, fit: Fit) -> bool:
        """Is what the line gives with a change a value of the forward, or the gradient by one?"""
        values = [self._value_on(fit, k) for k in range(len(self.alignment.cases))]
        if any(value is None for value in values) or not np.ndim(values[0]):
            return False
        matches = [self.alignment.matcher(np.stack(values), linear) for linear in (True, False)]
        return any(match is not None and match.itself for match in matches)

    def unlike(self, segments: Sequence[Segment], deadline: float) -> list[Fit]:
        """Likely changes of these pieces of code after which they have another shape: with those the rule itself has to
        be carried out."""
        changes = itertools.chain.from_iterable(self.changes(piece, deadline) for piece in self.lines(segments))
        fits = [its.fit for its in changes if not its.alike and its.fit.variant.cost <= LIKELY]
        return sorted(fits, key=lambda fit: fit.variant.cost)

    def _known(self, slip: Slip, statements: Iterable[Segment]) -> list[tuple[Segment, Wanted]]:
        """The first statements of which it is known what they must give."""
        known = ((its, wanted_of(self.alignment, slip, its)) for its in statements)
        return [*itertools.islice(((its, wanted) for its, wanted in known if wanted is not None), MOST_STATEMENTS)]

    @property
    def site(self) -> Site:
        """Of all lines that have been looked at."""
        assert self._site is not None
        return self._site

    def summed(
        self, segments: Sequence[Segment], leaf: int, doubts: Mapping[Segment, float], deadline: float
    ) -> Iterator[tuple[Fit, ...]]:
        """Changes of several lines whose effects on a gradient come to what it lacks.

        Args:
            doubts: how much less a change of each line costs.
        """
        tried: list[Change] = []
        statements = self.lines(segments)
        for left, statement in zip(range(len(statements), 0, -1), statements):
            begun = time.process_time()
            its = self.changes(statement, begun + (deadline - begun) / left)
            tried += itertools.takewhile(lambda _: time.process_time() < deadline, filter(self.gradients, its))
        if tried:
            less = {its: doubts.get(segment, 0.0) for segment in segments if (its := statement_of(segment))}
            fits = [its.fit.likelier(less.get(its.fit.segment, 0.0)) for its in tried]
            now = self.site.gradients(0, self.site.values[0])[leaf]
            gradients = [self.gradients(its)[leaf] for its in tried]
            yield from together(fits, gradients, now, self.alignment.expected[leaf][0])

    def at_statements(self, slip: Slip, segments: Sequence[Segment], deadline: float) -> Iterator[tuple[Fit, Fit]]:
        """A change of one of these pieces of code and one of a statement that it goes into, with which that gives what
        it must, where that is known; the likeliest first.

        With what stands at the statement when the piece is changed, each change of the statement is carried out there.
        """
        statements = self.lines(segments)
        below = self._known(slip, statements)
        codes = {
            statement: [(its.fit, its.fit.variant.cost, compiled(its.fit.code)) for its in changes]
            for statement, _ in below
            if (changes := self.changes(statement, deadline))
        }
        for (least, most), piece in itertools.product(itertools.pairwise(COSTS), statements):
            reached = [(its, wanted) for its, wanted in below if its in codes and self.site.comes_first(piece, its)]
            for change, (statement, wanted) in itertools.product(self.changes(piece, deadline), reached):
                cost = change.fit.variant.cost
                within = [(fit, code) for fit, also, code in codes[statement] if least < cost + also <= most]
                names = self._names_at(change, statement, wanted.turn) if within else None
                for fit, code in within if names is not None else ():
                    if time.process_time() > deadline:
                        return
                    if names is not None and _is_quickly(evaluated(code, names), wanted.values[0]):
                        yield change.fit, fit


def _is_quickly(value: Any, wanted: np.ndarray) -> bool:
    """Is it what is wanted? Most are told by one entry."""
    if value is None or np.shape(value) != wanted.shape or not wanted.size:
        return False
    largest = int(np.argmax(np.abs(wanted)))
    return is_close(np.ravel(value)[largest], wanted.flat[largest]) and is_close(value, wanted)


LIKELY = 1.0
"""What it costs to take a sum over another axis, and no more."""

MOST_STATEMENTS = 3
"""Of which it is known what they must give."""

COSTS_OF_ONE, COSTS = (0.0, 1.1, 1.5, 2.5), (0.0, 2.2, 2.8, 3.4)
"""Borders of what a change costs, and two: those that cost less are tried before, whichever lines they are in."""
