"""A hypothesis that reproduces the rule, and what hypotheses are compared on."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker


ROUNDING = 1e-9
"""A hypothesis has to agree with the rule to this share of the leaf's largest entry, on top of the tolerance."""


@dataclass
class Finding:
    """A hypothesis that reproduces the rule on every probe for some leaves.

    Attributes:
        leaves: it explains these.
        tier: how far-fetched it is; the lowest wins.
        accuracy: largest difference from the rule, relative to the leaf's largest entry.
        also: other kinds that describe the same values.
        harmed: leaves that the rule has right and the hypothesis would change.
        position: of the edited equation in the backward.
        lacks_term: it says that a whole term is left out, as the terms engine may say in a shorter formula.
    """

    leaves: frozenset[int]
    kind: str
    text: str
    fix: str
    tier: float | int
    accuracy: float | int
    source: Any = None
    also: tuple[str, ...] = ()
    harmed: frozenset[int] = frozenset()
    position: int = 0
    lacks_term: bool = False


@dataclass
class Evidence:
    """Probes of one size to compare hypotheses on."""

    checker: "Checker"
    cases: list["Case"]
    off: list[int]
    matched: dict[int, float] = field(default_factory=dict)

    def error(self, case: "Case", i: int, hypothesis: Any) -> float:
        """Largest difference from the rule, relative to the leaf's largest entry; infinite where it is no match."""
        actual = case.actual[i]
        if np.shape(hypothesis) != np.shape(actual):
            return np.inf
        scale = np.max(np.abs(actual), initial=0.0) + np.max(np.abs(case.expected[i]), initial=0.0)
        with np.errstate(all="ignore"):
            off = np.abs(hypothesis - actual)
            if not np.all(off <= case.tolerance[i] + ROUNDING * scale):
                return np.inf
        return float(np.max(off, initial=0.0) / (scale or 1.0))

    def shapes(self, case: "Case") -> list[tuple[str, tuple[int, ...]]]:
        problem = self.checker.problem
        names = [*problem.seed_names, *problem.primal_names]
        arrays = [*case.probe.seeds, *case.probe.primals]
        return [(name, np.shape(x)) for name, x in zip(names, arrays)]


def sharp(case: "Case", i: int) -> bool:
    """Are the values exact enough to read a constant off? Where everything saturates they are not."""
    return bool(np.max(case.tolerance[i], initial=0.0) <= 1e-6 * np.max(np.abs(case.expected[i]), initial=0.0))


def scaled(leaves, constant, term, source, tier, accuracy, leaf="", also=()) -> Finding:
    """A finding about a constant factor, of a leaf or of one term of it."""
    named = f"the term {term}" if term.startswith("`") else f"a term ({term})"
    subject = f"{named} of the gradient of {leaf}" if term else f"the gradient of {leaf}"
    if constant.kind == "sign":
        text, fix = f"{subject} has the wrong sign", "flip the sign"
    elif constant.kind == "batch-mean-vs-sum":
        mean = constant.text.startswith("1/")
        text = f"{subject} is {constant.text} times the true one: " + (
            "a mean where the forward sums" if mean else "a sum where the forward takes the mean"
        )
        fix = "sum instead of taking the mean" if mean else f"divide by {constant.text}"
    elif constant.text == "2" and term:
        text, fix = f"{subject} is counted twice", "count it once"
        return Finding(leaves, "double-count", text, fix, tier, accuracy, source, ("scale-constant",))
    else:
        text = f"{subject} is {constant.text} times the true one"
        part = constant.text.startswith("1/")
        fix = f"multiply by {constant.text[2:]}" if part else f"divide by {constant.text}"
    if constant.text.startswith("-") and constant.kind != "sign":
        tier += 0.05  # a sign and a factor: two mistakes
    extra = ("double-count",) if constant.text == "2" else ()
    return Finding(leaves, constant.kind, text, fix, tier, accuracy, source, (*also, *extra))
