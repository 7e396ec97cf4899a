"""What a wrong gradient is beside the true one, where no line of the rule says it, as of rules that cannot be traced.

The relations are those of a line's value (`relations`): the rule is taken for a program without operations, to which
its gradients are given.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols.reference_values import ReferenceValue
from jaxbias.verify.naming.alignment import SAME, Alignment
from jaxbias.verify.naming.constants import Shapes, name_constant
from jaxbias.verify.naming.difference import Relation
from jaxbias.verify.naming.relations import relation
from jaxbias.verify.problem import exact_context

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker


def of_whole_gradients(
    checker: "Checker",
    cases: Sequence["Case"],
    values: Sequence[ReferenceValue],
    wrong: Sequence[int],
    shapes: Shapes,
    deadline: float | int,
) -> Iterator[tuple[int, Relation]]:
    """Wrong gradients, each with how it differs from the true one, as far as that can be told.

    Args:
        cases: probes of one size.
        values: what a gradient can be made of.
        wrong: positions of the gradients.
        shapes: of arguments and cotangents, by name.
        deadline: in `time.process_time`.
    """
    problem, count = checker.problem, len(checker.problem.leaves)
    names = [*problem.primal_names, *problem.seed_names, *(f"the gradient of {path}" for path, _, _ in problem.leaves)]
    given = lambda case: dataclasses.replace(case.probe, seeds=[*case.probe.seeds, *case.actual])
    cases = [dataclasses.replace(case, probe=given(case)) for case in cases]
    with exact_context():
        program = _jaxpr.trace(lambda _, seeds: seeds[-count:], cases[0].probe.primals, cases[0].probe.seeds)
    alignment = Alignment(program, list(program.outputs), cases, values, names, len(problem.primals))
    for i in wrong:
        number, gradient = alignment.leaves[i], alignment.gradient(i)
        assert number is not None
        differs = relation(alignment, number, gradient, alignment.expected[i], shapes, deadline)
        differs = differs or _rounded_multiple(alignment, i, shapes)
        if differs is None:
            whose = [j for j in range(count) if j != i and alignment.is_right(j, gradient)]
            differs = Relation("swapped-outputs", f"is that of {problem.leaves[whose[0]][0]}", 2.0) if whose else None
        if differs is not None:
            yield i, dataclasses.replace(differs, codes=())


BLURRED = 1e-4
"""How unsure, relatively, values may be for a constant to be read off them."""


def _rounded_multiple(alignment: Alignment, i: int, shapes: Shapes) -> Relation | None:
    """A constant times the true gradient, as far as a rule that rounds to float32 shows it."""
    given, wanted, tolerance = alignment.gradient(i), alignment.expected[i], alignment.tolerance[i]
    if given.shape != wanted.shape or np.iscomplexobj(given):
        return None
    finite = np.isfinite(given + wanted).reshape(len(given), -1).all(axis=1)
    given, wanted, tolerance = given[finite], wanted[finite], tolerance[finite]
    size = float(np.max(np.abs(wanted), initial=0.0))
    blur = float(np.max(tolerance, initial=0.0)) / (size or 1.0)
    if not size or not SAME < blur <= BLURRED:
        return None
    factor = float(np.sum(wanted * given) / np.sum(wanted * wanted))
    if not np.all(np.abs(given - factor * wanted) <= tolerance):
        return None
    constant = name_constant([factor] * len(given), [list(shapes)] * len(given), blur)
    return None if constant is None else Relation(constant.kind, f"is {constant.text} times what it must be", 1.7)
