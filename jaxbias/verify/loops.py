"""Loops that Python unrolled: which equations of a trace are copies of one another, one for each pass of the loop.

A slip in the body of such a loop is made in every pass, so its equations are edited together, as those of a scan are.
"""

import dataclasses
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from jaxbias import _jaxpr
from jaxbias._jaxpr.queries import depends_on
from jaxbias.verify.problem import Runner

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

MOST_EQUATIONS = 1500

Places = dict[int, tuple[Any, int]]
"""Position of an equation → the group of its copies, and the pass of the loop that it belongs to."""


def numbered(checker: "Checker", cases: list["Case"]) -> list["Case"]:
    """The same cases with a reference that knows which equation of the forward each of its own comes from.

    Its equations may stand in another order than those of the reference. Empty where nothing repeats, and for a
    forward that its own equations do not carry out again.
    """
    if checker.problem.numbered is None or len(cases[0].program.equations) > MOST_EQUATIONS:
        return []
    runner, cases_numbered = Runner(checker.problem.numbered, checker.reference.dtypes, checker.reference.native), []
    for case in cases:
        try:
            program = runner.program(case.probe.primals, case.probe.seeds)
        except Exception:
            return []
        if program is None or not (cases_numbered or of_reference(program)):
            return []
        values = _jaxpr.evaluate(program, case.probe.inputs)
        cases_numbered.append(dataclasses.replace(case, program=program, held=values))
    return cases_numbered


def of_reference(program: _jaxpr.Program) -> Places:
    """Copies in autodiff's program: forward equations that repeat, and what of the backward comes from them."""
    return _copies(program, [eqn.origin for eqn in program.equations])


def of_rule(program: _jaxpr.Program) -> Places:
    """Copies in the program of a rule."""
    count = len(program.equations)
    return _copies(program, list(range(count))) if count <= MOST_EQUATIONS else {}


def _copies(program: _jaxpr.Program, origins: list[int | None]) -> Places:
    """Groups of the equations that come from repeated origins.

    Args:
        origins: of every equation, the number of the traced operation that it comes from, in the order of the trace.
    """
    first: dict[int, _jaxpr.Equation] = {}
    for eqn, origin in zip(program.equations, origins):
        if origin is not None:
            first.setdefault(origin, eqn)
    order = sorted(first)
    # an equation without a line, as in a rule that JAX calls, repeats nothing
    passes = _passes([(first[k].name, first[k].source or k) for k in order])
    place = {order[at]: place_in_loop for at, place_in_loop in passes.items()}
    linear = depends_on(program, program.inputs)
    scans = Counter(eqn.group for eqn in program.equations)
    seen: dict[Any, int] = defaultdict(int)
    last: dict[Any, Any] = defaultdict(tuple)
    places: Places = {}
    for position, (eqn, origin) in enumerate(zip(program.equations, origins)):
        if origin not in place or scans[eqn.group] > 1:
            continue
        run, offset, iteration = place[origin]
        kind = eqn.name, any(i in linear for i in eqn.inputs)
        if eqn.name == "add_any":  # not made in every pass, so known by what it adds to the rest
            kind = (*kind, last[origin])
        last[origin] = (*kind, seen[origin, kind]) if eqn.name != "add_any" else last[origin]
        places[position] = ("copies", run, offset, *kind, seen[origin, kind]), iteration
        seen[origin, kind] += 1
    return places


def _passes(tokens: list[Any]) -> dict[int, tuple[int, int, int]]:
    """Index → (number of the repetition, place in its period, pass), for every token of a block that repeats at once.

    Of the blocks that begin at a token, the one whose repetitions reach furthest counts.
    """
    places: dict[int, tuple[int, int, int]] = {}
    start = 0
    while start < len(tokens):
        best = 0, 0
        for period in range(1, (len(tokens) - start) // 2 + 1):
            if tokens[start] != tokens[start + period]:
                continue
            end = start + period
            while end < len(tokens) and tokens[end] == tokens[end - period]:
                end += 1
            count = (end - start) // period
            if count > 1 and count * period > best[0]:
                best = count * period, period
        length, period = best
        for k in range(length):
            places[start + k] = start, k % period, k // period
        start += max(length, 1)
    return places
