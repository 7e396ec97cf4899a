"""Hypotheses about a whole gradient: a constant times the true one, transposed, shifted, exchanged with another."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbias.verify.constants import SAME_FACTOR, name_constant
from jaxbias.verify.findings import Evidence, Finding, scaled

BLURRED = 1e-4
"""How unsure, relatively, values may be for a constant to be read off: rounded constants do that, or saturation."""

COPIED = 5
"""Tier of another leaf's gradient in place of this one's: behind every edit of the backward."""


def whole_leaves(evidence: list[Evidence], off: Sequence[int]) -> list[Finding]:
    return [found for i in off for found in _whole_leaf(evidence, i, off)]


def _whole_leaf(evidence: list[Evidence], i: int, off: Sequence[int]) -> list[Finding]:
    """Findings for one leaf that is a simple function of the true gradients."""
    found: list[Finding] = []
    names = [path for path, _, _ in evidence[0].checker.problem.leaves]
    cases = [case for e in evidence for case in e.cases]
    name, shape = names[i], cases[0].expected[i].shape

    def consider(kind: str, text: str, fix: str, tier: float | int, f: Any) -> None:
        errors = [e.error(case, i, f(case)) for e in evidence for case in e.cases]
        if errors and max(errors) < np.inf:
            found.append(Finding(frozenset([i]), kind, text, fix, tier, max(errors)))

    if all(not np.any(case.actual[i]) for case in cases):
        text = f"the gradient of {name} is zero everywhere: nothing flows to it"
        return [Finding(frozenset([i]), "detached", text, "return its gradient", 0, 0.0)]
    if (constant := _constant(evidence, i)) is not None:
        accuracy, c = constant
        also = ("swapped-outputs",) if any(_is_other(evidence, i, j) for j in range(len(names)) if j != i) else ()
        return [scaled(frozenset([i]), c, "", None, 0, accuracy, name, also)]
    for j in range(len(names)):
        if j != i:
            # where the other one is right, nothing was exchanged: a factor or a term forgotten is the likelier mistake
            tier, fix = (0, "exchange them") if j in off else (COPIED, f"return the gradient of {name}")
            text = f"the rule returns the gradient of {names[j]} as that of {name}"
            consider("swapped-outputs", text, fix, tier, lambda case, j=j: case.expected[j])
            text = f"the rule returns the transpose of the gradient of {names[j]} as that of {name}"
            consider("swapped-outputs", text, fix, tier + 0.2, lambda case, j=j: case.expected[j].T)
    for axes in itertools.permutations(range(len(shape))):
        if axes != tuple(range(len(shape))):
            turned = lambda case, a=axes: case.expected[i].transpose(a)
            consider("transpose", f"the gradient of {name} is transposed (axes {axes})", "transpose it", 0, turned)
            text = f"the gradient of {name} is reshaped where it must be transposed"
            cast = lambda case, f=turned: f(case).reshape(case.expected[i].shape)
            consider("transpose", text, "transpose, not reshape", 0.5, cast)
    for axis in range(len(shape)):
        for shift in (1, -1, 2, -2):
            text = f"the gradient of {name} is shifted by {shift} along axis {axis}"
            moved = lambda case, a=axis, s=shift: _moved(case.expected[i], s, a)
            consider("wrong-index", text, "shift it back", 0.1, moved)
            rolled = lambda case, a=axis, s=shift: np.roll(case.expected[i], s, a)
            consider("wrong-index", text + ", cyclically", "shift it back", 0, rolled)
        text = f"the gradient of {name} is reversed along axis {axis}"
        consider("wrong-index", text, "reverse it", 0, lambda case, a=axis: np.flip(case.expected[i], a))
        if shape[axis] > 1:
            for word in ("mean", "sum"):
                text = f"the rule returns the {word} over axis {axis} of the gradient of {name}"
                spread = lambda case, a=axis, w=word: (
                    getattr(case.expected[i], w)(axis=a, keepdims=True) + 0 * case.expected[i]
                )
                consider("wrong-reduction-axis", text, f"drop that {word}", 0.5, spread)
    return found


def _is_other(evidence: list[Evidence], i: int, j: int) -> bool:
    """Is what the rule returns for leaf i the true gradient of leaf j?"""
    return all(e.error(case, i, case.expected[j]) < np.inf for e in evidence for case in e.cases)


def _moved(x, shift, axis):
    out = np.roll(x, shift, axis)
    edge = [slice(None)] * x.ndim
    edge[axis] = slice(0, shift) if shift > 0 else slice(shift, None)
    out[tuple(edge)] = 0
    return out


def _constant(evidence: list[Evidence], i: int) -> Any:
    factors, shapes, accuracy, unsure = [], [], 0.0, SAME_FACTOR
    for e in evidence:
        for case in e.cases:
            expected, actual = case.expected[i], case.actual[i]
            size = float(np.sum(expected * expected))
            if size == 0:
                continue
            c = float(np.sum(expected * actual)) / size
            error = e.error(case, i, c * expected)
            if error == np.inf:
                return None
            accuracy = max(accuracy, error)
            blur = float(np.max(case.tolerance[i], initial=0.0) / np.max(np.abs(expected)))
            if blur <= BLURRED:
                factors.append(c)
                shapes.append(e.shapes(case))
                unsure = max(unsure, blur)
    if not factors:
        return None
    named = name_constant(factors, shapes, unsure)
    return None if named is None else (accuracy, named)
