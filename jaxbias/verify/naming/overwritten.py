"""Variables that are assigned anew though what they held was never used: there it should have been added to.

The program is tried with the sums, one variable after the other. Where that mends a gradient, or what was overwritten
is a part of one, it is that program whose other values are judged.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.alignment import Alignment, same
from jaxbias.verify.naming.difference import Relation
from jaxbias.verify.naming.slips import Slip

Chain = tuple[tuple[int | None, int], ...]
"""Of a variable, pairs of what it held (None: nothing) and what it is assigned then, in the order of the program."""


class Summed(NamedTuple):
    """A program in which these values are added to what their variables held.

    Attributes:
        leaves: numbers of the gradients in it.
        sums: number of the last sum of each variable.
    """

    program: _jaxpr.Program
    leaves: list[int | None]
    sums: list[int]


def overwritten(
    alignment: Alignment, align: Callable[[_jaxpr.Program, list[int | None]], Alignment]
) -> tuple[Alignment, list[tuple[Slip, Relation]]]:
    """The rule with the sums that mend it, aligned, and what is said of each."""
    held = [chain for chain in _chains(alignment) if any(old in alignment.linear for old, _ in chain)]
    chosen: list[Chain] = []
    mended: list[frozenset[int]] = []
    right = set(alignment.right)
    while left := [chain for chain in held if chain not in chosen]:
        gains = [_right(alignment, [*chosen, chain]) for chain in left]
        pairs = [(chain, gain) for chain, gain in zip(left, gains) if gain > right]
        # with another mistake below or above it no gradient is right yet
        pairs = pairs or [pair for pair in zip(left, gains) if pair[1] == right and _is_part(alignment, pair[0])]
        if not pairs:
            break
        chain, gain = pairs[0]
        chosen.append(chain)
        mended.append(frozenset(gain - right))
        right = gain
    if not chosen:
        return alignment, []
    summed = _summed(alignment.program, alignment.leaves, chosen)
    after = align(summed.program, summed.leaves)
    slips = []
    for number, (_, new), its in zip(summed.sums, (chain[-1] for chain in chosen), mended):
        wrong = {i for i in after.above if number in after.above[i] and i not in alignment.right}
        match, variable = after.matches.get(number), after.names[number].text
        name = match.value.said if match is not None and match.exact else ""
        words = f"overwrites {variable}, and must add to it"
        relation = Relation("overwritten-not-accumulated", words, 0.5, codes=(f"{variable} + {{}}",))
        given, wanted = after.column(new), after.column(number)
        later = frozenset() if its else frozenset(wrong)
        slips.append((Slip(number, wanted, given, name, its or later, {}, later=later), relation))
    return after, slips


def _chains(alignment: Alignment) -> Iterator[Chain]:
    """Of every variable that has a value which nothing uses."""
    program = alignment.program
    used = {n for equation in program.equations for n in equation.inputs}.union(
        n for n in alignment.leaves if n is not None
    )
    groups = {n: group for group in alignment.passes for n in group}
    variables: dict[tuple[str, str, tuple[Segment, ...]], set[int]] = {}
    for number, name in alignment.names.items():
        if name.variable and number in alignment.position:
            segments = program.equations[alignment.position[number]].segments
            callers = segments[segments.index(name.segment) + 1 :] if name.segment in segments else ()
            key = name.text, name.segment.function, callers
            variables.setdefault(key, set()).update(groups.get(number, (number,)))
    for numbers in variables.values():
        its = sorted(numbers, key=alignment.position.__getitem__)
        before = [
            old if old not in used and _alike(program, old, new) else None for old, new in itertools.pairwise(its)
        ]
        new = {n for old, n in zip(before, its[1:]) if old is not None}
        new |= {n for number in new for n in groups.get(number, ())}  # every pass of a loop does the same
        if new:
            yield tuple((old, n) for old, n in zip([None, *before], its) if n in new)


def _alike(program: _jaxpr.Program, old: int, new: int) -> bool:
    return program.shapes[old] == program.shapes[new] and program.dtypes[old] == program.dtypes[new]


def _right(alignment: Alignment, chains: Sequence[Chain]) -> set[int]:
    """Gradients that are right with these sums."""
    summed = _summed(alignment.program, alignment.leaves, chains)
    values = [_jaxpr.evaluate(summed.program, case.probe.inputs) for case in alignment.cases]
    column = lambda number: np.stack([np.asarray(its[number]) for its in values])
    return {i for i, n in enumerate(summed.leaves) if n is not None and alignment.is_right(i, column(n))}


def _is_part(alignment: Alignment, chain: Chain) -> bool:
    """Is what is overwritten a part of the gradient by a value that is used as often as this variable is assigned?

    Up to a factor, and once: in a loop a mistake makes the other passes wrong.
    """
    olds = [alignment.column(old) for old, _ in chain if old is not None and old in alignment.linear]

    def is_one(x: np.ndarray, part: np.ndarray) -> bool:
        if part.shape != x.shape or not np.any(part):
            return False
        at = np.unravel_index(int(np.argmax(np.abs(part))), part.shape)
        return same(x, x[at] / part[at] * part)

    uses = [[part.array for part in its] for its in alignment.matcher.parts.values() if len(its) > len(olds)]
    return any(is_one(x, part) for x in olds if np.any(x) for parts in uses for part in parts)


def _summed(program: _jaxpr.Program, leaves: Sequence[int | None], chains: Sequence[Chain]) -> Summed:
    longer = dataclasses.replace(
        program, constants=dict(program.constants), shapes=list(program.shapes), dtypes=list(program.dtypes)
    )
    longer.equations = []
    olds = {new: old for chain in chains for old, new in chain}
    now: dict[int, int] = {}
    for equation in program.equations:
        segments, source = equation.segments, equation.source
        equation = dataclasses.replace(equation, program=longer, inputs=tuple(now.get(n, n) for n in equation.inputs))
        equation.segments, equation.source = segments, source
        longer.equations.append(equation)
        for new in equation.outputs:
            if new in olds:
                shape, dtype, old = longer.shapes[new], longer.dtypes[new], olds[new]
                term = longer.constant(shape, dtype, np.zeros(shape)) if old is None else now.get(old, old)
                now[new] = longer.value(shape, dtype)
                total = _jaxpr.Equation("add", (term, new), (now[new],), {}, longer)
                total.segments, total.source = segments, source
                longer.equations.append(total)
    at = lambda n: None if n is None else now.get(n, n)
    return Summed(longer, [at(n) for n in leaves], [now[chain[-1][1]] for chain in chains])
