"""The line to write in the place of a wrong one: the rule is carried out with it, and must be right."""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.alignment import Alignment
from jaxbias.verify.naming.conditions import other_sizes
from jaxbias.verify.naming.difference import Relation
from jaxbias.verify.naming.guesses import Guess, guesses
from jaxbias.verify.naming.repairs import texts
from jaxbias.verify.naming.rewrite import replaced_line, rewritten

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker


SECONDS_OF_GUESSES = 2.0
"""Of process time, for one rule."""


class Mender:
    """Tries the repairs of one slip after the other, each in the rule in which those before it are mended."""

    def __init__(self, checker: "Checker", alignment: Alignment, rng: np.random.Generator):
        self.checker, self.alignment, self.rng = checker, alignment, rng
        self.made: list[tuple[Segment, str]] = []
        self.right = set(alignment.right)
        self.guessed = 0.0
        self.off = [i for i in range(len(alignment.leaves)) if i not in self.right]

    def __call__(
        self, segments: Sequence[Segment], relation: Relation, leaves: Iterable[int]
    ) -> tuple[Segment, str] | None:
        """The piece of code, and the statement with which these gradients are right and no right one is harmed."""
        right = [*self.right, *leaves]
        for segment in segments[:2]:
            for code in texts(segment.text, relation.repairs):
                if self.checker.short_of_time(0.1):
                    return None
                if self._is_right(right, [*self.made, (segment, code)]):
                    return segment, self._make(segment, code, right)
        return None

    def _make(self, segment: Segment, code: str, right: Iterable[int]) -> str:
        """The statement that is written, from now on."""
        self.made.append((segment, code))
        self.right = set(right)
        return code if segment.function == "<lambda>" else replaced_line(segment, code)

    def mends(self, leaves: Iterable[int]) -> bool:
        """Are these gradients right with what has been made?"""
        if not self._is_right([*self.right, *leaves], self.made):
            return False
        self.right |= set(leaves)
        return True

    def guess(self, segments: Iterable[Segment], leaves: Iterable[int]) -> tuple[Segment, Guess, str] | None:
        """The first small change of one of these pieces of code that does the same, and the statement with it."""
        right = [*self.right, *leaves]
        for segment in segments:
            for guess in guesses(segment):
                began = time.process_time()
                if self.guessed > SECONDS_OF_GUESSES or self.checker.short_of_time(0.3):
                    return None
                is_right = self._is_right(right, [*self.made, (segment, guess.code)])
                self.guessed += time.process_time() - began
                if is_right:
                    return segment, guess, self._make(segment, guess.code, right)
        return None

    def _is_right(self, leaves: list[int], changes: list[tuple[Segment, str]]) -> bool:
        try:
            rule = rewritten(self.checker.problem.rule, changes)
            if rule is None:
                return False
            runner = self.checker.rule.of(rule)
            return all(self._agrees(runner, case, leaves) for case in self._cases())
        except Exception:  # code that makes no sense, or breaks the shapes, is no repair
            return False

    def _cases(self) -> Iterator["Case"]:
        """Of the given sizes, and, for what is right on those, of others."""
        yield from self.alignment.cases
        yield from self.others

    @cached_property
    def others(self) -> Sequence["Case"]:
        """Cases of other sizes, if there are any on which the same gradients are wrong."""
        return other_sizes(self.checker, list(self.alignment.cases), self.off, self.rng)

    def _agrees(self, runner, case: "Case", leaves: list[int]) -> bool:
        outs = runner(case.probe.primals, case.probe.seeds)
        for i in leaves:
            expected = case.expected[i]
            out = np.zeros_like(expected) if outs[i] is None else np.asarray(outs[i])
            if out.shape != expected.shape:
                return False
            size = np.max(np.abs(np.where(np.isfinite(expected), expected, 0)), initial=0.0)
            with np.errstate(all="ignore"):
                close = np.abs(out - expected) <= np.maximum(case.tolerance[i], 1e-10 * size)
            if not np.all(close | ~np.isfinite(expected)):
                return False
        return True
