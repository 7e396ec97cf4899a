"""Where a rule goes wrong: the earliest of its values that mends gradients when the right one is put in its place."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxbias.symbols.reference_values import ReferenceValue, gradient_by
from jaxbias.verify.alignment import Alignment, Match, layouts, same
from jaxbias.verify.wanted import wanted_operand

MOST_SLIPS = 6


@dataclass(frozen=True)
class Slip:
    """A value of the rule that is wrong, though what it is computed from is right.

    Attributes:
        number: of the value.
        wanted: what it must be, the probes along the first axis.
        given: what it is, likewise.
        name: what it must be, in a name; empty if it has none.
        leaves: gradients that become right with it, later slips mended.
        mending: the value of the rule to replace for that, and what by; where the wrong value cannot hold what is
            wanted, as a sum over the wrong axis cannot, that is what is computed from it.
    """

    number: int
    wanted: np.ndarray
    given: np.ndarray
    name: str
    leaves: frozenset[int]
    mending: tuple[int, np.ndarray]


def find_slips(alignment: Alignment, paths: list[str], deadline: float | int) -> Iterator[Slip]:
    """The slips, each judged given that those before it are mended.

    When one is asked for the next, the one before has been mended in the alignment.

    Args:
        paths: names of the gradients.
        deadline: in `time.process_time`.
    """
    for _ in range(MOST_SLIPS):
        wrong = [i for i in alignment.above if i not in alignment.right]
        slip = _next(alignment, wrong, paths, deadline) if wrong else None
        if slip is None or time.process_time() > deadline:
            return
        yield slip
        alignment.commit(dict([slip.mending]))
        alignment.mended.add(slip.number)


@dataclass(frozen=True)
class _Hit:
    number: int
    value: ReferenceValue
    array: np.ndarray
    leaves: frozenset[int]


def _next(alignment: Alignment, wrong: list[int], paths: list[str], deadline: float | int) -> Slip | None:
    hits = list(_mending(alignment, wrong, deadline))
    ends = {alignment.leaves[i]: i for i in wrong}
    upstream = [hit for hit in hits if hit.number not in ends or len(hit.leaves) > 1]
    if upstream:
        hit = min(upstream, key=lambda hit: (alignment.position[hit.number], -len(hit.leaves), hit.value.rank))
        return _located(alignment, hit)
    # a mistake in the formula of one gradient alone: the one with the least that may be wrong above it
    suspects = lambda i: sum(not alignment.known(n) for n in alignment.above[i])
    own = [i for i in wrong if alignment.gradient(i).shape == alignment.expected[i].shape]
    own = [i for i in own if alignment.leaves[i] in alignment.position]
    if not own:
        return None
    i = min(own, key=suspects)
    number = alignment.leaves[i]
    assert number is not None
    value = ReferenceValue(gradient_by(paths[i]), alignment.expected[i], True, 0)
    return _located(alignment, _Hit(number, value, alignment.expected[i], frozenset([i])))


def _mending(alignment: Alignment, wrong: list[int], deadline: float | int) -> Iterator[_Hit]:
    """Reference values that mend a gradient in the place of a value of the rule, and harm none."""
    above = set().union(*(alignment.above[i] for i in wrong))
    for number in sorted((n for n in above if n in alignment.position), key=alignment.position.__getitem__):
        known = alignment.known(number)
        if known and (number in alignment.feeds_right or number in alignment.mended or number not in alignment.linear):
            continue
        given = alignment.column(number)
        if given.dtype.kind not in "fc":
            continue
        mine = [i for i in wrong if number in alignment.above[i]]
        others = [i for i in alignment.right if number in alignment.above.get(i, ())]
        for value in alignment.matcher.values:
            if value.linear != (number in alignment.linear):
                continue
            for layout, array in layouts(value.array, given.shape[1:]):
                if time.process_time() > deadline:
                    return
                if (layout == "broadcast" and value.linear) or same(given, array):
                    continue
                after = alignment.after({number: array}, [*mine, *others])
                mended = frozenset(i for i in mine if alignment.is_right(i, after[i]))
                # a right value in the wrong role: all that depends on it has to agree
                if len(mended) > known and all(alignment.is_right(i, after[i]) for i in others):
                    yield _Hit(number, value, np.asarray(array), mended)


def _located(alignment: Alignment, hit: _Hit) -> Slip:
    """The hit, or the operand further up at which it goes wrong, what that must be being worked out."""
    number, wanted = hit.number, hit.array
    value: ReferenceValue | None = hit.value
    mending = number, wanted
    while number in alignment.position and mending[0] == number:
        equation = alignment.program.equations[alignment.position[number]]
        doubtful = [k for k, n in enumerate(equation.inputs) if not alignment.known(n)]
        if len(doubtful) != 1 or len(equation.outputs) > 1:
            break
        (k,) = doubtful
        operands = [alignment.column(n) for n in equation.inputs]
        array = wanted_operand(equation, k, wanted, operands)
        if (
            array is None
            or array.size == 0
            or same(array, np.broadcast_to(_full(operands[k], array.ndim), array.shape))
        ):
            break
        number, wanted, value = equation.inputs[k], array, None
        if array.shape == operands[k].shape:
            after = alignment.after({number: array}, [*hit.leaves])
            if not all(alignment.is_right(i, after[i]) for i in hit.leaves):
                number, wanted, value = mending[0], mending[1], None
                break
            mending = number, array
            match: Match | None = alignment.matcher(wanted, number in alignment.linear)
            value = match.value if match is not None and match.exact else None
    given = alignment.column(number)
    name = value.name if value is not None else ""
    return Slip(
        number, wanted, np.asarray(np.broadcast_to(_full(given, wanted.ndim), wanted.shape)), name, hit.leaves, mending
    )


def _full(x: np.ndarray, rank: int) -> np.ndarray:
    """With unit axes before its own."""
    return x.reshape(x.shape[0], *(1,) * (rank - x.ndim), *x.shape[1:])
