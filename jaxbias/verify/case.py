"""Reference and rule on one probe, compared element by element."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.enclosures import SHARP, Enclosure, magnitudes
from jaxbias.verify.probes import Probe
from jaxbias.verify.problem import Arrays

SLACK_IN_FLOAT64 = 1000.0, 100.0
"""In float64: how many times the bound of an element, and of its leaf's largest element, an error may be. A rule that
is right in another form rounds otherwise than the reference does; a mistake is 10⁶ times larger still."""


def comparable(actual: Arrays, expected: Arrays) -> Arrays:
    """What a rule gave, in the shapes of what is expected: zeros for None, NaN for what has another shape."""
    given = [np.zeros(np.shape(e)) if a is None else np.asarray(a) for a, e in zip(actual, expected)]
    return [a if a.shape == e.shape else np.full(e.shape, np.nan) for a, e in zip(given, expected)]


def away_from_kinks(cases: Iterable["Case"]) -> list["Case"]:
    """Those at points where the forward has a slope; if it seems to have a kink on every usual probe, as the maximum of
    equal values has, those whose probe is not made for one."""
    ordinary = [case for case in cases if not case.probe.kink]
    smooth = [case for case in ordinary if not case.kink]
    return smooth if any(case.probe.name not in UNUSUAL for case in smooth) else ordinary


UNUSUAL = ("large values", "small values")
"""Probes on which half of what a rule computes has no digits."""


@dataclass
class Case:
    """Reference and rule on one probe; lists have one entry per leaf.

    Attributes:
        wrong, undefined: elements that differ; and those where autodiff gives no finite number.
        undecided: elements of which neither is known: the screen's bound says nothing, and no enclosure decides.
        smooth: elements where the forward is known to have a slope, so that no convention excuses another one.
        enclosure: what balls say; None where they were not asked.
        reason: why elements are undecided.
        measured: relative precision to which the rule could be seen; 0 where it was seen exactly.
        estimated: whether elements were decided by what rounding was seen to lose (`measured`).
        far: whether the forward's iteration is far from the limit that the rule is known to be of.
    """

    probe: Probe
    program: _jaxpr.Program
    expected: Arrays
    actual: Arrays
    tolerance: Arrays
    held: list[Any] | None = field(default=None, repr=False)
    wrong: list[np.ndarray] = field(default_factory=list)
    undefined: list[np.ndarray] = field(default_factory=list)
    undecided: list[np.ndarray] = field(default_factory=list)
    smooth: list[np.ndarray] = field(default_factory=list)
    enclosure: Enclosure | None = None
    reason: str = ""
    measured: float = 0.0
    estimated: bool = False
    far: bool = False
    convention: list[bool] = field(default_factory=list)
    kink: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        """Every value of the reference, by number; evaluated when first asked for."""
        if self.held is None:
            self.held = _jaxpr.evaluate(self.program, self.probe.inputs)
        return self.held

    def compare(self) -> "Case":
        self.wrong, self.undefined = [], []
        for a, e, t in zip(self.actual, self.expected, self.tolerance):
            with np.errstate(all="ignore"):
                wrong = np.asarray(~(np.abs(a - e) <= t))
            if not np.any(wrong) and np.all(np.isfinite(e)):
                self.wrong.append(wrong)
                self.undefined.append(wrong)
                continue
            same = (a == e) | (np.isnan(a) & np.isnan(e))
            self.undefined.append(np.asarray(~np.isfinite(e) & ~same))
            self.wrong.append(np.asarray(wrong & ~same & np.isfinite(e)))
        self.convention = [False] * len(self.wrong)
        self.undecided = [np.zeros(np.shape(e), bool) for e in self.expected]
        self.smooth = [np.zeros(np.shape(e), bool) for e in self.expected]
        return self

    @functools.cached_property
    def sizes(self) -> Arrays:
        """Element by element, the size of the terms that each gradient adds up."""
        return magnitudes(self.program, self.values, len(self.expected))

    def sharp(self, limit: float = SHARP) -> list[np.ndarray]:
        """Where the tolerance is small beside the gradient, or beside the terms that it adds up."""
        masks = []
        for i, (t, e) in enumerate(zip(self.tolerance, self.expected)):
            largest = np.max(np.abs(np.where(np.isfinite(e), e, 0.0)), initial=0.0)
            small = t <= limit * largest
            if not np.all(small):
                small = t <= limit * max(largest, np.max(self.sizes[i], initial=0.0))
            masks.append(np.broadcast_to(small, np.shape(e)))
        return masks

    def decide_by(self, enclosure: Enclosure) -> None:
        """Let proofs stand in the place of the screen, element by element; values and tolerance become exact."""
        self.enclosure = enclosure
        for i, leaf in enumerate(enclosure.leaves):
            numbers = np.isfinite(self.expected[i]) & np.isfinite(self.actual[i]) & np.isfinite(leaf.expected)
            decided = leaf.decided & numbers
            with np.errstate(all="ignore"):
                lost = 4 * np.abs(self.expected[i] - leaf.expected)
                apart = np.where(leaf.equal, np.abs(leaf.actual - leaf.expected), 0.0)
            exact = SLACK_IN_FLOAT64[0] * 2.0**-53 * self.sizes[i] + np.where(decided, lost, 0.0)
            tolerance = np.maximum(np.minimum(exact, self.tolerance[i] + lost), apart)
            self.expected[i] = np.where(decided, leaf.expected, self.expected[i])
            self.actual[i] = np.where(decided, leaf.actual, self.actual[i])
            self.tolerance[i] = np.where(decided, tolerance, self.tolerance[i])
            self.wrong[i] = np.where(decided, leaf.proved, self.wrong[i])
