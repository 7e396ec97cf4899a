"""What small changes of lines do to gradients: each is carried out in the rule's program, from its line onwards.

That tells which change makes gradients right where it is not known what its line must give, and which changes of
several lines do so together.
"""

import contextlib
import itertools
import time
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols.names import targets
from jaxbias.verify.naming.alignment import Alignment
from jaxbias.verify.naming.repairs import put
from jaxbias.verify.naming.scopes import Names, Site
from jaxbias.verify.naming.slips import Slip
from jaxbias.verify.naming.together import together
from jaxbias.verify.naming.trying import Fit, Line, Wanted, compiled, evaluated, is_close, statement_of, wanted_of

if TYPE_CHECKING:
    from jaxbias.verify.checker import Checker

MOST_ENTRIES = 20_000
"""Of a value that is changed."""


class Effect(NamedTuple):
    """What a change does on the first probe.

    Attributes:
        value: of the expression.
        gradients: empty where the value has another shape than it had, with which the program cannot go on.
    """

    fit: Fit
    value: np.ndarray
    gradients: list[Any]


class Effects:
    """Of the changes of a rule's lines, as the rule is with what has been made."""

    def __init__(self, checker: "Checker", alignment: Alignment, made: Sequence[tuple[Segment, str]]):
        self.checker, self.alignment, self.made = checker, alignment, list(made)
        self._lines: dict[Segment, Line | None] = {}
        self._sites: dict[Segment, Site] = {}
        self._effects: dict[Segment, list[Effect]] = {}

    def lines(self, segments: Sequence[Segment]) -> list[Segment]:
        """The statements' expressions that these pieces of code stand in, as far as they can be changed."""
        statements = [*dict.fromkeys(filter(None, map(statement_of, segments)))]
        new = [s for s in statements if s not in self._lines]
        self._lines.update(dict.fromkeys(new))
        self._look_at(new)
        return [s for s in statements if self._lines[s] is not None]

    def _look_at(self, statements: Sequence[Segment]) -> None:
        """All of them in one trace of the rule; without those that are in the way of that."""
        site = self._site(statements)
        if site is None:
            statements = [s for s in statements if len(statements) > 1 and self._site([s]) is not None]
            site = self._site(statements)
        for k, statement in enumerate(statements if site is not None else ()):
            assert site is not None
            sizes = [np.size(held[place.value]) for place in site.places[k] for held in site.values]
            if sizes and max(sizes) <= MOST_ENTRIES:
                self._lines[statement] = Line.of(self.alignment, statement, site.visits(k)[-1])
                self._sites[statement] = site

    def _site(self, statements: Sequence[Segment]) -> Site | None:
        try:
            return Site(self.checker, statements, self.made, self.alignment.cases) if statements else None
        except Exception:  # anything that the user's function does
            return None

    def of(self, statement: Segment, deadline: float) -> list[Effect]:
        """Of the changes of one line, the likeliest first."""
        if statement not in self._effects:
            line, its = self._lines[statement], []
            for variant, value in line.changes(deadline) if line is not None else ():
                fit = Fit(statement, put(line.text, variant.node, variant.by), variant)
                if value.shape != line.rows[0][1].shape:
                    its.append(Effect(fit, value, []))
                    continue
                with contextlib.suppress(Exception):  # what a change may raise is anything
                    its.append(Effect(fit, value, self._gradients(fit, 0)))
            self._effects[statement] = its
        return self._effects[statement]

    def _now(self, statement: Segment) -> list[Any]:
        """The gradients without any change."""
        site = self._sites[statement]
        return site.gradients(0, site.values[0])

    def _gradients(self, fit: Fit, k: int) -> list[Any]:
        return self._sites[fit.segment].gradients(k, self._held(fit, k))

    def _held(self, fit: Fit, k: int, until: int | None = None) -> list[Any]:
        """All values of the program on a probe, with a change."""
        site, code = self._sites[fit.segment], compiled(fit.code)
        return site.changed(k, site.pieces.index(fit.segment), lambda names: eval(code, names), until)

    def alone(self, segments: Sequence[Segment], leaves: Iterable[int], deadline: float) -> Iterator[Fit]:
        """Changes of one line with which these gradients are right, line after line."""
        leaves = [*leaves]
        for statement in self.lines(segments):
            for its in self.of(statement, min(deadline, time.process_time() + SECONDS)):
                if (
                    its.gradients
                    and self._are_right(its.gradients, 0, leaves)
                    and all(
                        self._are_right(self._gradients(its.fit, k), k, leaves)
                        for k in range(1, len(self.alignment.cases))
                    )
                ):
                    yield its.fit

    def _are_right(self, gradients: Sequence[Any], k: int, leaves: Sequence[int]) -> bool:
        """Are these gradients right on a probe?"""
        probe, expected = slice(k, k + 1), self.alignment.expected
        outs = [np.zeros_like(expected[i][k]) if gradients[i] is None else np.asarray(gradients[i]) for i in leaves]
        return all(self.alignment.is_right(i, out[None], probe) for i, out in zip(leaves, outs))

    def summed(
        self, segments: Sequence[Segment], leaf: int, doubts: Mapping[Segment, float], deadline: float
    ) -> Iterator[tuple[Fit, ...]]:
        """Changes of several lines whose effects on a gradient come to what it lacks.

        Args:
            doubts: how much less a change of each line costs.
        """
        tried: list[Effect] = []
        statements = self.lines(segments)
        for left, statement in zip(range(len(statements), 0, -1), statements):
            begun = time.process_time()
            tried += [its for its in self.of(statement, begun + (deadline - begun) / left) if its.gradients]
        if tried:
            less = {its: doubts.get(segment, 0.0) for segment in segments if (its := statement_of(segment))}
            fits = [its.fit.likelier(less.get(its.fit.segment, 0.0)) for its in tried]
            gradients, now = [its.gradients[leaf] for its in tried], self._now(statements[0])[leaf]
            yield from together(fits, gradients, now, self.alignment.expected[leaf][0])

    def at_statements(self, slip: Slip, segments: Sequence[Segment], deadline: float) -> Iterator[tuple[Fit, ...]]:
        """A change of one of these pieces of code, and one of a statement that it goes into if that takes one as well,
        with which the statement gives what it must, where that is known; the likeliest first.

        With what stands at the statement when the piece is changed, each change of the statement is carried out there.
        """
        statements = self.lines(segments)
        known = {its: wanted for its in statements if (wanted := wanted_of(self.alignment, slip, its)) is not None}
        below = [*itertools.islice(known.items(), MOST_STATEMENTS)]
        there: dict[tuple[Fit, Segment], Names | None] = {}
        for least, most in itertools.pairwise(COSTS):
            for above in statements:
                yield from self._at_statements(above, below, there, least, most, deadline)

    def _at_statements(
        self,
        above: Segment,
        below: Sequence[tuple[Segment, Wanted]],
        there: dict[tuple[Fit, Segment], Names | None],
        least: float,
        most: float,
        deadline: float,
    ) -> Iterator[tuple[Fit, ...]]:
        """Of one piece, those that cost more than `least` and not more than `most`.

        Args:
            there: with each change, what stands at each statement; filled in as far as it is asked for.
        """
        site = self._sites[above]
        reached = [
            (statement, wanted, self._codes(statement, deadline))
            for statement, wanted in below
            if self._sites[statement] is site and site.comes_first(above, statement)
        ]
        for its in self.of(above, deadline):
            for statement, wanted, codes in reached:
                within = [(also, code) for also, cost, code in codes if least < its.fit.variant.cost + cost <= most]
                if within and (its.fit, statement) not in there:
                    there[its.fit, statement] = self._names(its, statement, wanted.turn)
                for also, code in within if there.get((its.fit, statement)) is not None else ():
                    if time.process_time() > deadline:
                        return
                    if _is_quickly(evaluated(code, there[its.fit, statement]), wanted.value):
                        yield (its.fit, *also)

    def _names(self, its: Effect, statement: Segment, turn: int) -> Names | None:
        """What stands at a statement with a change."""
        site, name = self._sites[statement], targets(its.fit.segment)
        at = site.pieces.index(statement)
        if its.gradients:
            return site.names(at, self._held(its.fit, 0, site.number(at, turn)), turn)
        now = site.names(at, site.values[0], turn) if len(name) == 1 else None
        return None if now is None else now | {name[0]: its.value}

    def _codes(self, statement: Segment, deadline: float) -> list[tuple[tuple[Fit, ...], float, types.CodeType]]:
        """The statement as it is and with its changes, what each costs, and its code."""
        changes = [((its.fit,), its.fit.variant.cost) for its in self.of(statement, deadline)]
        its = [((), 0.0), *changes]
        return [(fits, cost, compiled(fits[0].code if fits else statement.text)) for fits, cost in its]


def _is_quickly(value: Any, wanted: np.ndarray) -> bool:
    """Is it what is wanted? Most are told by one entry."""
    if value is None or np.shape(value) != wanted.shape or not wanted.size:
        return False
    largest = int(np.argmax(np.abs(wanted)))
    return is_close(np.ravel(value)[largest], wanted.flat[largest]) and is_close(value, wanted)


SECONDS = 0.8
"""Of process time, for the changes of one line."""

MOST_STATEMENTS = 3
"""Of which it is known what they must give."""

COSTS = (0.0, 2.2, 2.8, 3.4)
"""Borders of what two changes cost: those that cost less are tried before, whichever lines they are in."""
