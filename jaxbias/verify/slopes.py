"""Autodiff held against the slopes that the forward itself has, from differences in ball arithmetic.

The rule of a library can be wrong too, and where it is, autodiff of the forward is no reference: a rule that gives the
slope is right there, and one that gives the same as autodiff is not.
"""

import numpy as np

from jaxbias.verify.checker import Case, Checker
from jaxbias.verify.differences import MOST_COLUMNS, derivatives
from jaxbias.verify.probes import drawn_without_structure

MOST_TIES = 16
"""Entries at a tie of which the slope is asked; where there is no kink a rule is wrong in most, or at other probes."""


def where_autodiff_is_wrong(checker: Checker, cases: list[Case], i: int) -> list[Case]:
    """Cases in which a gradient differs from autodiff of the forward and is the slope that the forward has.

    Only where autodiff gives the slope at an ordinary point, and the rule too: a forward that stops gradients, or has a
    rule of its own on purpose, means something else by its gradient.
    """
    suspects = [case for case in cases if np.any(case.wrong[i])]
    # At a kink any slope is a convention; only an elimination ties its pivots where there is a derivative.
    suspects = [case for case in suspects if not case.convention[i] or checker.eliminates(case.probe)]
    if not suspects or checker.short_of_time(0.3):
        return []
    suspects = [case for case in suspects if not _misses_at_once(checker, case, i)]
    if not suspects:
        return []
    ordinary = [case for case in _ordinary(checker, cases, i) if not np.any(case.wrong[i])]
    if not ordinary:
        return []
    everywhere = np.ones(np.shape(ordinary[0].expected[i]), bool)
    if not _is_slope(checker, ordinary[0], i, ordinary[0].expected[i], everywhere):
        return []
    return [case for case in suspects if _is_slope(checker, case, i, case.actual[i], case.wrong[i])]


def shares_the_fault_of_autodiff(checker: Checker, cases: list[Case], i: int) -> list[Case]:
    """Cases at a singular matrix in which a gradient is that of autodiff, and not the slope that the forward has.

    What is expected there becomes the slope. Only of functions that take matrices apart, whose derivatives divide by
    pivots, and only where autodiff gives the slope at an ordinary matrix.
    """
    shared = []
    for case in cases:
        singular = (case.probe.kink or case.probe.of_user) and checker.eliminates(case.probe)
        if not singular or np.any(case.wrong[i]) or checker.short_of_time(0.3):
            continue
        slope = _slope(checker, case, i, np.ones(np.shape(case.expected[i]), bool))
        missed = np.isfinite(slope) & ~_agrees(case, i, slope)
        if np.any(missed):
            shared.append((case, missed, slope))
    if not shared or not any(_gives_slopes(checker, other, i) for other in _ordinary(checker, cases, i)):
        return []
    for case, missed, slope in shared:
        case.expected[i] = np.where(missed, slope, case.expected[i])
        case.wrong[i], case.convention[i], case.smooth[i] = missed, False, missed
    return [case for case, _, _ in shared]


def _ordinary(checker: Checker, cases: list[Case], i: int) -> list[Case]:
    """A case at an ordinary point, or none; at matrices drawn anew where all given ones are singular."""
    at_hand = [case for case in cases if not (case.probe.kink or np.any(case.wrong[i])) and np.any(case.expected[i])]
    if at_hand or not checker.eliminates(cases[0].probe):
        return at_hand[:1]
    drawn = checker.case(drawn_without_structure(cases[0].probe))
    return [drawn] if drawn is not None and np.any(drawn.expected[i]) else []


def has_a_slope(checker: Checker, cases: list[Case], case: Case, i: int) -> bool:
    """Is the forward smooth in an entry where the rule gives neither its slope nor what autodiff does?

    x == max(x) ties by construction, and so do the pivots of a singular matrix: such ties excuse nothing. Only where
    autodiff gives slopes, here or at another point: behind a stopped gradient a flat forward is no smooth one.
    """
    if checker.short_of_time(0.3):
        return False
    asked = np.zeros(case.wrong[i].size, bool)
    asked[np.flatnonzero(case.wrong[i])[:MOST_TIES]] = True
    slope = _slope(checker, case, i, asked.reshape(case.wrong[i].shape))
    missed = np.isfinite(slope) & case.wrong[i] & ~_agrees(case, i, slope, case.actual[i])
    if not np.any(missed):
        return False
    gives_slopes = lambda others: any(_gives_slopes(checker, other, i) for other in others)
    return gives_slopes((case, *cases[:3])) or gives_slopes(_ordinary(checker, cases, i))


def _gives_slopes(checker: Checker, case: Case, i: int) -> bool:
    """Is autodiff the forward's slope wherever that is known, and not only where there is none?"""
    slope = _slope(checker, case, i, np.ones(np.shape(case.expected[i]), bool))
    known, agrees = np.isfinite(slope), _agrees(case, i, slope)
    return bool(np.all(agrees[known]) and np.any(case.expected[i][known]))


def _agrees(case: Case, i: int, slope: np.ndarray, gradient: np.ndarray | None = None) -> np.ndarray:
    """Where a gradient, by default that of autodiff, is the slope."""
    gradient = case.expected[i] if gradient is None else gradient
    with np.errstate(all="ignore"):
        return np.abs(gradient - slope) <= case.tolerance[i] + 1e-9 * np.abs(slope)


def _slope(checker: Checker, case: Case, i: int, where: np.ndarray) -> np.ndarray:
    """Of the forward along each entry of gradient i in the mask; NaN where it has none, or none could be had."""
    masks = [np.asarray(where if k == i else np.zeros(np.shape(e), bool)) for k, e in enumerate(case.expected)]
    slopes = derivatives(checker, case.probe, masks)
    return np.full(np.shape(where), np.nan) if slopes is None else slopes[i]


def _misses_at_once(checker: Checker, case: Case, i: int) -> bool:
    """Is the rule's gradient no slope in the first entry that is wrong? Then there is no need to ask for the others."""
    first = np.zeros(case.wrong[i].size, bool)
    first[np.flatnonzero(case.wrong[i])[:1]] = True
    slope = _slope(checker, case, i, first.reshape(case.wrong[i].shape))
    return bool(np.any(np.isfinite(slope) & ~_agrees(case, i, slope, case.actual[i])))


def _is_slope(checker: Checker, case: Case, i: int, gradient: np.ndarray, where: np.ndarray) -> bool:
    slope = _slope(checker, case, i, where)
    close = _agrees(case, i, slope, gradient)
    known = np.isfinite(slope) if np.count_nonzero(where) > MOST_COLUMNS else np.ones_like(where)
    return bool(np.any(known & where) and np.all(close[where & known]))
