"""Sums in a rule, and the constants that they are multiplied by."""

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.naming.alignment import LAYOUT, Alignment


def total_above(alignment: Alignment, number: int) -> tuple[_jaxpr.Equation, float] | None:
    """The sum that a value is, laid out and times a constant, and the constant."""
    program, factor = alignment.program, 1.0
    while number in alignment.position and number not in alignment.constant:
        e = program.equations[alignment.position[number]]
        if e.name == "reduce_sum":
            return e, factor
        fixed = [i for i in e.inputs if i in alignment.constant and _uniform(alignment, i)]
        if e.name in ("mul", "div") and len(fixed) == 1 and (e.name == "mul" or e.inputs[1] == fixed[0]):
            held = float(alignment.column(fixed[0]).flat[0])
            factor = factor * held if e.name == "mul" else factor / held
            number = next(i for i in e.inputs if i != fixed[0])
        elif e.name in LAYOUT and len(e.inputs) == 1:
            number = e.inputs[0]
        else:
            return None
    return None


def divided_below(alignment: Alignment, number: int) -> float:
    """The constant by which a sum is multiplied next, as in a mean; 1 if there is none."""
    for e in alignment.program.equations[alignment.position[number] + 1 :]:
        if number not in e.inputs:
            continue
        if e.name in LAYOUT:
            number = e.outputs[0]
            continue
        fixed = [i for i in e.inputs if i in alignment.constant and _uniform(alignment, i)]
        if e.name in ("mul", "div") and fixed and (e.name == "mul" or e.inputs[1] == fixed[0]):
            held = float(alignment.column(fixed[0]).flat[0])
            return held if e.name == "mul" else 1 / held
        break
    return 1.0


def _uniform(alignment: Alignment, number: int) -> bool:
    """Is it one number?"""
    held = np.asarray(alignment.values[0][number])
    return held.dtype.kind in "fiu" and held.size > 0 and np.ptp(held) == 0
