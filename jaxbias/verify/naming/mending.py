"""The line to write in the place of a wrong one: the rule is carried out with it, and must be right."""

import ast
import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols.names import targets
from jaxbias.verify.naming.alignment import Alignment, is_right
from jaxbias.verify.naming.code import written
from jaxbias.verify.naming.conditions import other_sizes
from jaxbias.verify.naming.difference import Relation
from jaxbias.verify.naming.directions import turned
from jaxbias.verify.naming.effects import Effects
from jaxbias.verify.naming.pieces import numbers_in
from jaxbias.verify.naming.rewrite import replaced_line, rewritten
from jaxbias.verify.naming.slips import Slip
from jaxbias.verify.naming.steps import Steps
from jaxbias.verify.naming.trying import Fit, fits

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

MOST_FITS, MOST_GUESSES, MOST_WAYS, MOST_UNLIKE = 10, 15, 20, 30
"""Texts for one piece of code, and for several together; those of another shape beside another change."""

OF_GUESSES, OF_TOGETHER, OF_LOOKING, OF_ABOVE, OF_STEPS = 0.15, 0.25, 0.2, 0.05, 0.3
"""Shares of the time for a check: for the guesses of one rule, for the changes of several lines that make one gradient
right, for the changes that are only looked at, and for those of the lines above one.
"""


def statement_with(segment: Segment, code: str) -> str:
    """The statement with this code in the place of a piece; of a lambda the code."""
    return code if segment.function == "<lambda>" else replaced_line(segment, code)


def _where_assigned(fit: Fit) -> Iterator[tuple[Segment, str]]:
    """Where the size or number is assigned that another one is put in the place of."""
    if isinstance(fit.variant.node, ast.Name):
        for piece in numbers_in(fit.segment):
            if targets(piece) == (fit.variant.node.id,):
                yield piece, fit.variant.by


class Mender:
    """Tries what may be written for one slip after the other, each in the rule in which those before it are mended."""

    def __init__(self, checker: "Checker", alignment: Alignment, rng: np.random.Generator):
        self.checker, self.alignment, self.rng = checker, alignment, rng
        self.made: list[tuple[Segment, str]] = []
        self.at_first = frozenset(alignment.right)
        self.right = set(self.at_first)
        self.guessed = self.looked = 0.0
        self._seen: set[tuple[int, int]] = set()
        self._effects: dict[tuple[tuple[Segment, str], ...], Effects] = {}
        self._fits: dict[tuple[int | bytes | Segment, ...], list[Fit]] = {}
        self.off = [i for i in range(len(alignment.leaves)) if i not in self.right]

    def __call__(
        self, segments: Sequence[Segment], relation: Relation, leaves: Iterable[int]
    ) -> tuple[Segment, str] | None:
        """The piece of code, and the statement with which these gradients are right and no right one is harmed."""
        # around a call of the user's, terms have other names
        for segment in segments[: 1 if relation.kind == "missing-term" else 2]:
            for code in written(segment.text, relation.codes):
                if self.checker.short_of_time(0.1):
                    return None
                if patch := self._patch(segment, code, leaves):
                    return segment, patch
        return None

    def instead(self, old: tuple[Segment, str], segment: Segment, code: str, leaves: Iterable[int]) -> str:
        """The statement with this code, if it does what a change that has been made does, whose place it takes."""
        changes = [(segment, code) if change == old else change for change in self.made]
        if not self._is_right([*self.right, *leaves], changes):
            return ""
        self.made = changes
        return statement_with(segment, code)

    @property
    def effects(self) -> Effects:
        """Of changes in the rule as it is now."""
        return self._effects_of(self.made)

    def _effects_of(self, made: Sequence[tuple[Segment, str]]) -> Effects:
        if (key := tuple(made)) not in self._effects:
            self._effects[key] = Effects(self.checker, self.alignment, made)
        return self._effects[key]

    def mends(self, leaves: Iterable[int]) -> bool:
        """Are these gradients right with what has been made?"""
        if not self._is_right([*self.right, *leaves], self.made):
            return False
        self.right |= set(leaves)
        return True

    def fit(
        self, slip: Slip, segments: Sequence[Segment], above: Sequence[Segment], kind: str = ""
    ) -> tuple[Segment, Relation, str] | None:
        """The likeliest small change of one of these pieces of code, or of one above, that gives what is wanted there
        and makes the rule right; of one `kind` alone, if that is given."""
        its = (fit for fit in self.fits(slip, segments, above) if not kind or fit.variant.kind == kind)
        for fit in itertools.islice(its, MOST_FITS):
            if self.checker.short_of_time(0.1):
                return None
            for segment, code in _where_assigned(fit):
                if patch := self._patch(segment, code, slip.leaves):
                    return segment, replace(fit.relation, text=f"must be {code}"), patch
            if patch := self._patch(fit.segment, fit.code, slip.leaves):
                return fit.segment, fit.relation, patch
        return None

    def look(self, slip: Slip, segments: Sequence[Segment], above: Sequence[Segment]) -> Fit | None:
        """The likeliest of them; None where there is none, and when no time is left to look at what may be meant."""
        if self.looked > OF_LOOKING * self.checker.seconds:
            return None
        began = time.process_time()
        fit = next(iter(self.fits(slip, segments, above)), None)
        self.looked += time.process_time() - began
        return fit

    def fits(self, slip: Slip, segments: Sequence[Segment], above: Sequence[Segment]) -> list[Fit]:
        """Small changes of the pieces of code that give what is wanted there, not yet tried in the rule."""
        key = slip.number, slip.wanted.tobytes(), len(self.made), *segments[:1]
        if key not in self._fits:
            its = fits(self.checker, self.alignment, slip, segments[:2], self.made)
            until = self._until(OF_ABOVE)
            its += [change.fit for change in self.effects.above(slip, segments[:1], above, until)]
            self._fits[key] = sorted(its, key=lambda fit: fit.variant.cost)
        return self._fits[key]

    def guess(self, slip: Slip, segments: Sequence[Segment]) -> tuple[Segment, Relation, str] | None:
        """The first small change of one of these pieces of code that does the same, and the statement with it."""
        if self.guessed > OF_GUESSES * self.checker.seconds or self.checker.short_of_time(0.3):
            return None
        began = time.process_time()
        deadline = began + OF_GUESSES * self.checker.seconds - self.guessed
        fits = itertools.chain(
            self.effects.alone(segments, [*slip.leaves, *self.right], deadline),
            (its.fit for its in self.effects.above(slip, segments, segments, deadline) if not its.alike),
            itertools.islice(self.effects.unlike(segments, deadline), MOST_FITS),
        )
        patches = (
            (fit, self._patch(fit.segment, fit.code, slip.leaves)) for fit in itertools.islice(fits, MOST_GUESSES)
        )
        fit, patch = next(((fit, patch) for fit, patch in patches if patch), (None, ""))
        self.guessed += time.process_time() - began
        return None if fit is None else (fit.segment, fit.relation, patch)

    def through(self, segments: Sequence[Segment], wrong: Sequence[int]) -> list[tuple[Fit, frozenset[int]]]:
        """Changes of lines, one after the other, with which these gradients are right, and what it takes each for."""
        statements = self.effects.lines(segments)
        if not wrong or not statements:
            return []
        until = self._until(OF_STEPS)
        steps = Steps(self.effects, self.alignment, statements, wrong, until)
        needed = [(fit, leaves) for fit in steps() if (leaves := steps.needing(fit))]
        if not needed:  # where one of two changes gives another shape, the rule itself has to be carried out
            unlike = itertools.islice(self.effects.unlike(steps.in_doubt(), until), MOST_UNLIKE)
            pairs = itertools.product(steps.first, unlike)
            within = itertools.takewhile(lambda _: time.process_time() < until, pairs)
            right = next((pair for pair in within if self._are_right_with(pair, wrong)), ())
            needed = [(fit, frozenset(wrong)) for fit in right]
        elif not self._are_right_with([fit for fit, _ in needed], wrong):
            needed = []
        if not needed:
            return []
        self._made(tuple(fit for fit, _ in needed), wrong)
        return needed

    def _are_right_with(self, fits: Iterable[Fit], leaves: Iterable[int]) -> bool:
        """Are these gradients right with changes beside those that have been made?"""
        changes = [*self.made, *((fit.segment, fit.code) for fit in fits)]
        return not self.checker.short_of_time(0.1) and self._is_right([*self.right, *leaves], changes)

    def at_once(self, segments: Sequence[Segment]) -> Fit | None:
        """The one change of these pieces of code that mends all that several were made for, in whose place it comes."""
        effects, leaves = self._effects_of([]), [*self.off, *self.at_first]
        for fit in itertools.islice(effects.alone(segments, leaves, self._until(OF_GUESSES)), MOST_FITS):
            if self._is_right(leaves, [(fit.segment, fit.code)]):
                self.made = [(fit.segment, fit.code)]
                return fit
        return None

    def together(
        self, slip: Slip, segments: Sequence[Segment], leaf: int, doubts: Mapping[Segment, float]
    ) -> tuple[Fit, ...]:
        """Changes of several of these pieces of code with which a gradient is right.

        Args:
            slip: in the gradient; what its statement must give may tell more than the gradient, which adds it up.
            doubts: how much less a change of each costs.
        """
        until = self._until(OF_TOGETHER)
        # of what is as right, that is meant after which lines give what can be named
        named = lambda fits: -sum(map(self.effects.named, fits))
        ways: Iterable[tuple[Fit, ...]] = self.effects.summed(segments, leaf, doubts, until)
        ways = iter(sorted(itertools.islice(ways, MOST_WAYS), key=named))
        if (seen := (slip.number, len(self.made))) not in self._seen:
            self._seen.add(seen)
            pairs = self.effects.at_statements(slip, segments, until)
            ways = itertools.chain(ways, itertools.islice(pairs, MOST_WAYS))
        part: tuple[Fit, ...] = ()
        for its in ways:
            if self.checker.short_of_time(0.1):
                break
            if self._are_right_with(its, slip.leaves):
                return self._made(its, slip.leaves)
            if not part and slip.leaves != {leaf} and self._are_right_with(its, [leaf]):
                part = its  # where the others need something else
        return self._made(part, [leaf]) if part else ()

    def _until(self, share: float) -> float:
        """The end of a share of the time, in `time.process_time`; before the end of all of it."""
        return min(time.process_time() + share * self.checker.seconds, self.checker.deadline - 0.3)

    def _made(self, fits: tuple[Fit, ...], leaves: Iterable[int]) -> tuple[Fit, ...]:
        self.made = [*self.made, *((fit.segment, fit.code) for fit in fits)]
        self.right |= set(leaves)
        return fits

    def _patch(self, segment: Segment, code: str, leaves: Iterable[int]) -> str:
        """The statement with this code in it, if it mends these gradients; empty if not."""
        right = [*self.right, *leaves]
        if not self._is_right(right, [*self.made, (segment, code)]):
            return ""
        self.made.append((segment, code))
        self.right = set(right)
        return statement_with(segment, code)

    def turned(self, segments: Iterable[Segment]) -> Iterator[tuple[Fit, frozenset[int]]]:
        """Loops around these pieces of code, in the other direction, with the gradients that are right so."""
        for fit in turned(segments):
            if mended := self._mended_by([*self.made, (fit.segment, fit.code)]):
                self._made((fit,), mended)
                yield fit, frozenset(mended)

    def _mended_by(self, changes: list[tuple[Segment, str]]) -> list[int]:
        """Gradients that are right with changes beside those that are right already; none if one of these is not."""
        left = [i for i in self.off if i not in self.right]
        with contextlib.suppress(Exception):  # code that makes no sense, or breaks the shapes, is no repair
            for case, outs in self._carried_out(changes):
                if not self._agree(outs, case, self.right):
                    return []
                left = [i for i in left if self._agree(outs, case, [i])]
                if not left or self.checker.short_of_time(0.1):
                    return []
            return left
        return []

    def _is_right(self, leaves: list[int], changes: list[tuple[Segment, str]]) -> bool:
        with contextlib.suppress(Exception):  # code that makes no sense, or breaks the shapes, is no repair
            return all(self._agree(outs, case, leaves) for case, outs in self._carried_out(changes))
        return False

    def _carried_out(self, changes: list[tuple[Segment, str]]) -> Iterator[tuple["Case", Sequence[Any]]]:
        """What the rule gives with changes, case after case.

        Raises:
            ValueError: it cannot be written so.
        """
        rule = rewritten(self.checker.problem.rule, changes)
        if rule is None:
            raise ValueError(changes)
        runner = self.checker.rule.of(rule)
        for case in self._cases():
            yield case, runner(case.probe.primals, case.probe.seeds)

    def _cases(self) -> Iterator["Case"]:
        """Of the given sizes, and, for what is right on those, of others."""
        yield from self.alignment.cases
        yield from self.others

    @cached_property
    def others(self) -> Sequence["Case"]:
        """Cases of other sizes, if there are any on which the same gradients are wrong."""
        return other_sizes(self.checker, self.alignment.cases, self.rng)

    def _agree(self, outs: Sequence[Any], case: "Case", leaves: Iterable[int]) -> bool:
        """Are these of what the rule gives right?"""
        zero = lambda i: np.zeros_like(case.expected[i])
        its = ((i, zero(i) if outs[i] is None else np.asarray(outs[i])) for i in leaves)
        return all(is_right(out, case.expected[i], case.tolerance[i]) for i, out in its)
