"""What rounding was seen to lose, for where no bound on it can be had, or none that says anything.

A program is evaluated twice, with each equation rounded to a narrower dtype and without. Of a rule that keeps to that
dtype (a kernel, a callback) this is what it may be off by. Of one whose rounding in float64 is the question it is an
estimate, times the ratio of the precisions: a first-order bound adds up the worst of every equation, and grows with
each layer of a deep network; what is really lost does not.
"""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr import balls
from jaxbias._jaxpr.evaluation import rounded_to
from jaxbias._trees import is_float
from jaxbias.verify.case import Case
from jaxbias.verify.enclosures import SHARP
from jaxbias.verify.problem import Arrays

if TYPE_CHECKING:
    from jaxbias.verify.checker import Checker

COARSE = 1e-3
"""Of the size of the terms: the most that a tolerance may be which is measured, rather than derived."""

ESTIMATED = 100.0
"""Times what rounding was seen to lose, that a right rule may be off by."""


def measured(case: Case, coarse: float) -> Arrays:
    """How far from the reference a right rule may be that rounds to this precision."""
    lost = _lost(case, case.program, case.values, coarse)
    return [
        np.broadcast_to(8 * most + 16 * coarse * size, np.shape(e))
        for size, e, most in zip(case.sizes, case.expected, lost)
    ]


def decide_by_estimate(checker: "Checker", case: Case, rule: _jaxpr.Program) -> None:
    """Decide what is open where the rounding of reference and rule in float64 is estimated to be small.

    Not without enclosures, which settle most of what is open then.
    """
    if not balls.available():
        return
    coarse, probe = float(jnp.finfo(jnp.float32).eps), case.probe
    lost = _lost(case, rule, _jaxpr.evaluate(rule, probe.inputs), coarse)
    ratio = ESTIMATED * float(jnp.finfo(jnp.float64).eps) / coarse
    by_rule = checker.rule.placed(probe.primals, probe.seeds, lost)
    for i, (by_reference, own, size) in enumerate(zip(measured(case, coarse), by_rule, case.sizes)):
        estimate, largest = ratio * (by_reference + (own or 0.0)), np.max(size, initial=0.0)
        with np.errstate(all="ignore"):
            apart = np.abs(case.actual[i] - case.expected[i])
            seen = case.undecided[i] & (estimate <= SHARP * largest)
        wrong, right = seen & (apart > COARSE * largest), seen & (apart <= estimate)
        case.wrong[i] = case.wrong[i] | wrong
        case.undecided[i] = case.undecided[i] & ~(wrong | right)
        case.estimated |= bool(np.any(wrong | right))


def _lost(case: Case, program: _jaxpr.Program, values: list[Any], coarse: float) -> list[float]:
    """The most that an entry of each output of a program moves when each equation rounds to this precision."""
    dtype = next(d for d in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64) if float(jnp.finfo(d).eps) <= coarse)
    inputs = [rounded_to(x, dtype) if is_float(x) else x for x in case.probe.inputs]
    rounded = _jaxpr.evaluate(program, inputs, rounded=dtype)
    most = []
    for number in program.outputs:
        with np.errstate(all="ignore"):
            lost = np.abs(np.asarray(rounded[number]) - np.asarray(values[number]))
        most.append(float(np.max(np.where(np.isfinite(lost), lost, np.inf), initial=0.0)))
    return most
