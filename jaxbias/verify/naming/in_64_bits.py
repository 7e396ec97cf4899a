"""A check with what its functions close over in 64 bits: `0.9 * mask`, of a mask in float32, is no other value then.

In float64 an array in float32 is multiplied by a number in float32 before it meets an argument, so that two orders of
the same factors differ in the eighth digit; and operations that take no two dtypes refuse it.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jaxbias._jaxpr.queries import draws
from jaxbias.verify.case import comparable
from jaxbias.verify.naming.rewrite import widened
from jaxbias.verify.problem import exact_context

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker


def in_64_bits(checker: "Checker", cases: Sequence["Case"]) -> tuple["Checker", list["Case"]]:
    """The same check and cases, or others in 64 bits, where the functions close over narrower floats, run so and draw
    no random numbers."""
    problem, cases = checker.problem, list(cases)
    if draws(cases[0].program):
        return checker, cases
    with exact_context():
        reference, rule = widened(problem.reference), widened(problem.rule)
        forward = None if problem.forward is None else widened(problem.forward)
    if (reference, rule, forward) == (problem.reference, problem.rule, problem.forward):
        return checker, cases
    wide = copy.copy(checker)
    wide.problem = replace(problem, reference=reference, rule=rule, forward=forward)
    wide.exact, wide.runners = True, {}
    wide.reference, wide.rule = wide.traced_in(None)
    try:
        return wide, [_on(wide, case) for case in cases]
    except Exception:  # anything that the user's functions do
        return checker, cases


def _on(checker: "Checker", case: "Case") -> "Case":
    probe, count = case.probe, len(case.expected)
    outs = checker.reference(probe.primals, probe.seeds)[:count]
    actual = checker.rule(probe.primals, probe.seeds)
    program = checker.reference.program(probe.primals, probe.seeds)
    assert program is not None
    expected = [np.asarray(e) for e in outs]
    return replace(case, program=program, expected=expected, actual=comparable(actual, expected), held=None)
