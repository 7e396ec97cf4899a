"""Where a rule goes wrong: the earliest of its values that mends gradients when the right one is put in its place."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols.reference_values import NAMED, UNNAMED, ReferenceValue, gradient_by
from jaxbias.verify.naming.alignment import LAYOUT, OF_LEAF, SAME, Alignment, addends, layouts, same
from jaxbias.verify.naming.difference import Relation, constant_factor
from jaxbias.verify.naming.wanted import wanted_operand

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
        mending: the values of the rule to replace for that, and what by: in a loop those of all its passes; where the
            wrong value cannot hold what is wanted, as a sum over the wrong axis cannot, what is computed from it.
        sums: how many sums the value is a term of, below which a gradient is mended as well.
        roles: how many values that are right for something else it is above.
        later: of the gradients, those that are right only when a later slip is mended as well.
    """

    number: int
    wanted: np.ndarray
    given: np.ndarray
    name: str
    leaves: frozenset[int]
    mending: dict[int, np.ndarray]
    sums: int = 0
    roles: int = 0
    later: frozenset[int] = frozenset()


Way = tuple[Slip, ...]
"""One slip, or several that are wrong together: each goes into the value that a hit replaces."""


def find_slips(
    alignment: Alignment, paths: list[str], words: Callable[[Slip], Relation | None], deadline: float | int
) -> Iterator[tuple[Slip, Relation | None]]:
    """The slips, each judged given that those before it are mended, and what is said of each.

    When one is asked for the next, the one before has been mended in the alignment.

    Args:
        paths: names of the gradients.
        words: how a slip's value differs from what it must be. Of several that it could be, each of which mends
            gradients, it is the one that can be told in the simplest words.
        deadline: in `time.process_time`.
    """
    began = time.process_time()
    for _ in range(MOST_SLIPS):
        wrong = [i for i in alignment.above if i not in alignment.right]
        best: list[_Said] = []
        said_of: dict[tuple[int, bytes], Relation | None] = {}
        for ways in filter(None, _next(alignment, wrong, paths, deadline) if wrong else ()):
            for slip in itertools.chain(*ways):
                if (key := (slip.number, slip.wanted.tobytes())) not in said_of:
                    said_of[key] = words(slip)
            told = ([(slip, said_of[slip.number, slip.wanted.tobytes()]) for slip in way] for way in ways)
            said = min(told, key=_cost)
            its, those = _leaves_of(said), _leaves_of(best)
            alike = its >= those or its.isdisjoint(those)
            told = alike and _cost(said) < min(UNTOLD, _cost(best) - ELSEWHERE)
            if not best or told or (_cost(best) >= UNTOLD and its > those):
                best = said
            spent = (time.process_time() - began) / max(deadline - began, 1e-9)
            if spent > 1 or _cost(best) < (CLEAR * len(best) if spent < ELSEWHERE else UNTOLD):
                break
        if not best:
            return
        for slip, relation in best:
            if all(same(alignment.column(n), array) for n, array in slip.mending.items()):
                continue  # what was mended before it is what was wrong with it
            others = [i for i in alignment.above if i not in alignment.right]
            cause = relation.mending if relation is not None else {}
            right = alignment.right_after(cause, others) if cause else frozenset()
            in_part = relation is not None and relation.factor != 1
            if slip.leaves <= right or in_part:  # mended at its cause, which may have made others wrong as well
                yield replace(slip, leaves=right | slip.leaves), relation
                alignment.commit(cause)
            else:
                yield slip, relation
                alignment.commit(slip.mending)
            if not (in_part and cause):
                alignment.mended.add(slip.number)


_Said = tuple[Slip, Relation | None]


UNTOLD = 1e6
"""What it costs to have no words for a slip."""

CLEAR, ELSEWHERE = 2.0, 0.3
"""A slip that costs as little to say is not looked for at other places; how much less it must cost there, and the share
of the time after which none is.
"""


def _leaves_of(way: list[_Said]) -> frozenset[int]:
    return frozenset().union(*(slip.leaves for slip, _ in way))


def _cost(way: list[_Said]) -> float | int:
    """What it costs to say it; one mistake is likelier than two."""
    told = lambda relation: relation is not None and relation.kind != "unexplained"
    return sum(
        relation.cost + OF_SUM * slip.sums * (relation.kind == "missing-term") + ELSEWHERE * slip.roles
        if relation is not None and told(relation)
        else UNTOLD + slip.roles
        for slip, relation in way
    )


OF_SUM = 0.05
"""What it costs more to say that a value lacks a term than that the sum which it goes into does."""


@dataclass(frozen=True)
class _Hit:
    """Gradients that are right where `mending` replaces values; `value` stands in the place of value `number` then."""

    number: int
    value: ReferenceValue
    mending: dict[int, np.ndarray]
    leaves: frozenset[int]

    @property
    def array(self) -> np.ndarray:
        return self.mending[self.number]


MOST_CHOICES = 3
"""Reference values that a value could be meant to be, with words sought for each."""


def _next(alignment: Alignment, wrong: list[int], paths: list[str], deadline: float | int) -> Iterator[list[Way]]:
    """The first slip; more than one way to see it where it could be meant to be another value as well.

    Where gradients are wrong apart from each other, the ways of each: the first that can be told in words comes first.
    """
    gradients = [n for i in wrong if (n := alignment.leaves[i]) is not None]
    ends = {*gradients, *map(alignment.source, gradients)}
    hits = [*_mending_in_loops(alignment, wrong, deadline), *_mending(alignment, wrong, deadline)]
    all_mended = any(hit.leaves.issuperset(wrong) for hit in hits)
    if all_mended:  # but a variable that the forward gives another value to by this name is nearer to what was meant
        by_name = [*_mending(alignment, wrong, deadline, misnamed=True, by_name=True)]
        yield [_as_hit(alignment, hit) for hit in by_name]
        hits += by_name
    else:  # several formulas may take a variable that is another
        misnamed = [*_mending(alignment, wrong, deadline, misnamed=True)]
        covers = lambda hit, other: (
            other.leaves < hit.leaves or (other.leaves == hit.leaves and _is_of_that_name(alignment, hit))
        )
        apart = lambda hit, other: covers(hit, other) or other.leaves.isdisjoint(hit.leaves)
        hits += [hit for hit in misnamed if all(apart(hit, other) for other in hits)]
    # in a loop nothing is first: what mends less than another value does is downstream of it
    hits = [hit for hit in hits if len(hit.mending) == 1 or not any(hit.leaves < other.leaves for other in hits)]
    upstream = [hit for hit in hits if hit.number not in ends or len(hit.leaves) > 1]
    # a mistake in the formula of one gradient alone: the one with the least that may be wrong above it
    suspects = lambda i: sum(not alignment.known(n) for n in alignment.above[i])
    own = [i for i in wrong if alignment.gradient(i).shape == alignment.expected[i].shape]
    own = sorted((i for i in own if alignment.leaves[i] in alignment.position), key=suspects)
    if not upstream:
        for i in own:
            yield _of_gradient(alignment, i, paths[i])
            if not alignment.families:
                hits = _in_another_role(alignment, wrong, i, deadline)
                yield [way for hit in hits for way in _located(alignment, hit)]
        return
    order = lambda hit: (alignment.place(hit.number), -len(hit.leaves), hit.value.rank)
    aliases = [hit for hit in upstream if _is_another_name(alignment, hit.number)]
    leaves_of = {n: hit.leaves for hit in aliases for n in _operands(alignment, hit)}
    first = lambda hit: not hit.leaves <= leaves_of.get(hit.number, frozenset())  # there the alias is likelier
    upstream = [hit for hit in upstream if first(hit)]
    best = min(upstream, key=order)
    alike = [hit for hit in upstream if order(hit)[:2] == order(best)[:2]]
    chosen = sorted(alike, key=order)[:MOST_CHOICES]
    ways = [way for hit in chosen for way in [*_located(alignment, hit)][::-1]]
    if (
        alignment.known(best.number) and not _is_another_name(alignment, best.number) and len(best.leaves) == 1
    ):  # it is right for something: so may the formula be wrong
        yield [way for i in own if i in best.leaves for way in _of_gradient(alignment, i, paths[i])] + ways
    else:
        yield ways
    told = {slip.number for way in ways for slip in way}
    yield [_as_hit(alignment, hit) for hit in chosen if hit.number not in told]
    for i in [] if alignment.families else own:  # too much is computed in the passes of a loop
        yield _of_gradient(alignment, i, paths[i])
        yield [way for hit in _in_another_role(alignment, wrong, i, deadline) for way in _located(alignment, hit)]
    for hit in [] if alignment.families else sorted(upstream, key=order):
        if all(hit is not its for its in chosen):
            yield [*_located(alignment, hit)][::-1]


def _operands(alignment: Alignment, hit: _Hit) -> tuple[int, ...]:
    return alignment.program.equations[alignment.position[hit.number]].inputs


def _is_of_that_name(alignment: Alignment, hit: _Hit) -> bool:
    """Does the rule call a value what the forward calls the one that it must be?"""
    name = alignment.names.get(hit.number)
    return name is not None and name.variable and name.text == hit.value.name


def _in_another_role(alignment: Alignment, wrong: list[int], i: int, deadline: float | int) -> Iterator[_Hit]:
    """Values that are right for something, though not for this gradient, and that the rule has nothing better for."""
    for hit in _mending(alignment, wrong, deadline, among=alignment.above[i]):
        if i in hit.leaves and hit.number != alignment.leaves[i] and hit.value.name not in alignment.own:
            yield hit


def _of_gradient(alignment: Alignment, i: int, path: str) -> list[Way]:
    """Ways to see what is wrong in the formula of a gradient."""
    number = alignment.leaves[i]
    assert number is not None
    value = ReferenceValue(gradient_by(path), alignment.expected[i], True, 0)
    return [*_located(alignment, _Hit(number, value, {number: alignment.expected[i]}, frozenset([i])))][::-1]


def _leaves(alignment: Alignment, wrong: list[int], number: int) -> tuple[list[int], list[int]]:
    """Wrong and right gradients that a value goes into."""
    return [i for i in wrong if number in alignment.above[i]], [
        i for i in alignment.right if number in alignment.above.get(i, ())
    ]


def _may_be_misplaced(alignment: Alignment, number: int) -> bool:
    """Whether a value that is right for something else, or a constant with a name, may be the mistake: no gradient that
    is right needs it."""
    computed = number in alignment.constant and number in alignment.position
    return (
        (number in alignment.linear or computed)
        and not alignment.feeds_right(number)
        and number not in alignment.mended
    )


def _mending(
    alignment: Alignment,
    wrong: list[int],
    deadline: float | int,
    *,
    misnamed: bool = False,
    by_name: bool = False,
    among: Set[int] = frozenset(),
) -> Iterator[_Hit]:
    """Reference values that mend a gradient in the place of a value of the rule, and harm none.

    Args:
        misnamed: only of variables that hold another value of the forward, as `o = sigmoid(f)` does.
        by_name: of these, only what the forward calls by the variable's name.
        among: only of these, which may be right for something else, and mend no more than one gradient.
    """
    above = set(among) or set().union(*(alignment.above[i] for i in wrong))
    if alignment.families:
        above -= {number for group in alignment.passes if _families(alignment, group) for number in group}
    last = {place: len(family) - 1 for place, family in alignment.families.items()}
    equations = alignment.program.equations
    values = [v for v in alignment.matcher.values if not v.place or v.iteration in (0, last[v.place])]
    for number in sorted((n for n in above if n in alignment.position), key=alignment.position.__getitem__):
        zero = number in alignment.zeros - alignment.mended
        known = alignment.known(number) and not zero and not _is_another_name(alignment, number)
        variable = number in alignment.names and alignment.names[number].variable and number not in alignment.constant
        candidates = values
        if misnamed:
            users = [e for e in equations if number in e.inputs]
            alone = by_name or len(users) < 2 or not variable  # then it is the formula that takes it
            if alone:  # unless the forward calls another value so
                name = alignment.names[number].text if variable else ""
                candidates = [v for v in alignment.matcher.named.values() if v.name == name and not v.linear]
            if not candidates or not known or number in alignment.linear or alignment.feeds_right(number):
                continue
        elif (known or among) and not (known and _may_be_misplaced(alignment, number)):
            continue
        given = alignment.column(number)
        if given.dtype.kind not in "fc":
            continue
        mine, others = _leaves(alignment, wrong, number)
        for value in candidates:
            lacks_the_cotangent = value.linear and (misnamed or not known)
            if value.linear != (zero or number in alignment.linear) and not lacks_the_cotangent:
                continue
            for layout, array in layouts(value.array, given.shape[1:]):
                if time.process_time() > deadline:
                    return
                if (layout == "broadcast" and value.linear) or same(given, array):
                    continue
                once = known and number in alignment.linear and sum(number in e.inputs for e in equations) == 1
                if once and constant_factor(given, np.asarray(array)) is not None:
                    continue  # the value is right, and the factor is lacking where it is taken
                right = alignment.right_after({number: array}, [*mine, *others])
                # a right value in the wrong role: all that depends on it has to agree
                if len(right & set(mine)) > (known and not among and not by_name) and right.issuperset(others):
                    yield _Hit(number, value, {number: np.asarray(array)}, right & set(mine))


def _families(alignment: Alignment, group: tuple[int, ...]) -> list[list[ReferenceValue]]:
    """Values of the forward's loops, and gradients by them, that could be those of the rule's loop, pass by pass.

    After what each pass gives, what it starts from: that of the one before, and of the first an argument.
    """
    linear, shape = group[0] in alignment.linear, alignment.column(group[0]).shape
    families = [
        family
        for family in alignment.families.values()
        if len(family) == len(group) and family[0].linear >= linear and not family[0].derivative
    ]
    ends = [v for v in alignment.matcher.values if v.rank <= 0.5 and v.linear == linear and v.array.shape == shape]
    starts = [[end, *family[:-1]] for family in families for end in ends if family[0].array.shape == shape]
    wholes = [v for v in alignment.matcher.values if v.linear == linear and not v.place and v.rank <= UNNAMED]
    cut = [
        [replace(value, name=f"{value.name} for this pass", array=piece) for piece in pieces]
        for value in wholes
        for pieces in _pieces(value.array, len(group), shape)
    ]
    return [*families, *starts, *cut]


def _pieces(x: np.ndarray, count: int, shape: tuple[int, ...]) -> Iterator[list[np.ndarray]]:
    """An array cut into one piece of this shape for each pass of a loop: entries of an axis, or blocks of them."""
    for axis in range(1, x.ndim):
        pieces = np.split(x, count, axis) if x.shape[axis] % count == 0 else [x]
        if x.shape[axis] == count and x.ndim == len(shape) + 1:
            pieces = [piece.squeeze(axis) for piece in pieces]
        if count > 1 and pieces[0].shape == shape:
            yield pieces


def _mending_in_loops(alignment: Alignment, wrong: list[int], deadline: float | int) -> Iterator[_Hit]:
    """The same where a value is computed in each pass of a loop: that of every pass is replaced at once.

    A backward pass goes through a loop from its end, or, as it may recompute the forward, from its beginning.
    """
    above = set().union(*(alignment.above[i] for i in wrong))
    for group in [*alignment.passes, *_carried(alignment)]:
        known = all(map(alignment.known, group))
        if not above.intersection(group) or (known and not all(_may_be_misplaced(alignment, n) for n in group)):
            continue
        hits = list(_as_families(alignment, group, *_leaves(alignment, wrong, group[0]), known, deadline))
        if hits:  # a sum over the passes is right in any order of them: what mends more tells the order
            yield max(hits, key=lambda hit: len(hit.leaves))


def _carried(alignment: Alignment) -> list[tuple[int, ...]]:
    """Of what the passes of a loop hand on, where they begin with an argument or a cotangent: that, and what is
    computed in each pass for the next."""
    program = alignment.program
    groups: dict[tuple[int, ...], None] = {}
    for group in alignment.passes:
        for numbers in zip(*(program.equations[alignment.position[n]].inputs for n in group)):
            if numbers[0] in program.inputs and alignment.position.keys() >= set(numbers[1:]) and _all_differ(numbers):
                groups[numbers] = None
    return list(groups)


def _all_differ(numbers: Sequence[int]) -> bool:
    return len(set(numbers)) == len(numbers)


def _as_families(
    alignment: Alignment,
    group: tuple[int, ...],
    mine: list[int],
    others: list[int],
    known: bool,
    deadline: float | int,
) -> Iterator[_Hit]:
    given = [alignment.column(number) for number in group]
    for family in _families(alignment, group):
        for values in (family[::-1], family):
            if family[0].array.shape != given[0].shape or time.process_time() > deadline:
                break
            differ = [not same(now, value.array) for now, value in zip(given, values)]
            if any(differ):
                mending = {number: value.array for number, value in zip(group, values)}
                right = alignment.right_after(mending, [*mine, *others])
                own = {i for i in mine if alignment.leaves[i] in group}  # right by what was put there
                if len(right & set(mine) - own) > known and right.issuperset(others):
                    first = differ.index(True)
                    yield _Hit(group[first], values[first], mending, right & set(mine))


def _located(alignment: Alignment, hit: _Hit) -> Iterator[Way]:
    """The hit, or the operand further up at which it goes wrong, what that must be being worked out.

    Of a sum that goes wrong in one operand, the sum itself as well: any of its terms may be meant.
    """
    yield from _further_up(alignment, hit, hit.number, hit.array, hit.value, {})


def _further_up(
    alignment: Alignment,
    hit: _Hit,
    number: int,
    wanted: np.ndarray,
    value: ReferenceValue | None,
    beside: dict[int, np.ndarray],
    branch: bool = True,
) -> Iterator[Way]:
    """From a value on; `beside` are those that have to be replaced together with it. Of a product of two values that
    may both be wrong, each once, if it may `branch`."""
    in_loop = len(hit.mending) > 1
    mending = hit.mending if in_loop else {number: wanted}
    sums = roles = 0
    mends = lambda arrays: alignment.right_after(beside | arrays, hit.leaves).issuperset(hit.leaves)
    slip = lambda: replace(_slip(alignment, hit, number, wanted, value, mending, beside), sums=sums, roles=roles)
    while number in alignment.position:
        equation = alignment.program.equations[alignment.position[number]]
        if hit.value.linear and hit.number not in alignment.linear:
            break  # the cotangent is lacking here, and not in what this is made of
        parts = {} if in_loop else _parts(alignment, number, wanted)
        if len(parts) > 1 and mends(parts):
            yield (slip(),)
            others = lambda n: beside | {m: array for m, array in parts.items() if m != n}  # noqa: B023
            ways = [
                [*_further_up(alignment, hit, n, array, _exactly(alignment, n, array), others(n), False)]
                for n, array in parts.items()
            ]
            yield tuple(slip for way in ways for slip in [its for its in way if not its[-1].roles][-1])
            return
        if len(parts) == 1 and mends(parts):
            if not _is_a_line(alignment, *parts):
                yield (slip(),)
            ((number, wanted),) = parts.items()
            value, mending, sums = _exactly(alignment, number, wanted), parts, sums + 1
            continue
        # one piece of code, as hs[t], picks entries and lays them out
        one_piece = equation.name in RESHAPED and _same_code(alignment, equation)
        doubtful = [k for k, n in enumerate(equation.inputs) if one_piece or not alignment.known(n)]
        lacking = False
        if not doubtful and not in_loop:
            doubtful = [k for k, n in enumerate(equation.inputs) if _is_computed_constant(alignment, n)]
            doubtful = doubtful or [k for k, n in enumerate(equation.inputs) if _is_another_name(alignment, n)]
        if not doubtful and not in_loop:
            doubtful = [k for k, n in enumerate(equation.inputs) if _is_right_by_chance(alignment, n)]
            lacking = bool(doubtful)
        if len(doubtful) == 2 and equation.name in ("add", "add_any", "sub"):
            doubtful = [k for k in doubtful if not alignment.is_part(equation.inputs[k])] or doubtful
        if len(doubtful) == 2 and branch and not in_loop and equation.name in ("mul", "div", "dot_general"):
            yield (slip(),)
            operands = [alignment.column(n) for n in equation.inputs]
            for k, n in enumerate(equation.inputs):
                array = wanted_operand(equation, k, wanted, operands)
                if array is not None and array.shape == operands[k].shape and mends({n: array}):
                    yield from _further_up(alignment, hit, n, array, _exactly(alignment, n, array), beside, False)
            return
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
        operand = equation.inputs[k]
        alike = array.shape == operands[k].shape
        in_its_line = _is_a_line(alignment, operand) or (alike and _mends_more(alignment, hit, {operand: array}))
        if operand in alignment.constant and not in_its_line:
            break
        if equation.name in ("add", "add_any", "sub"):
            yield (slip(),)
            sums += 1
        elif _is_scaled(alignment, equation, number, wanted) and not _is_multiple(alignment, operand):
            break  # nothing tells that it is not the number which is wrong
        if lacking:
            if not _is_lacking(alignment, operand, array):
                break
            yield (slip(),)
            roles += 1
        if not alike:
            number, wanted, value = operand, array, None
            break
        if not in_loop:
            if not mends({operand: array}):
                break
            mending = {operand: array}
        number, wanted, value = operand, array, _exactly(alignment, operand, array)
    yield (slip(),)


def _is_multiple(alignment: Alignment, number: int) -> bool:
    match = alignment.matches.get(number)
    return match is not None and not match.exact


def _is_scaled(alignment: Alignment, equation: _jaxpr.Equation, number: int, wanted: np.ndarray) -> bool:
    """Is it a product with a number, and the wanted value a multiple of it, so that the number may be what is wrong?"""
    if equation.name not in ("mul", "div") or not any(n in alignment.constant for n in equation.inputs):
        return False
    given = alignment.column(number)
    factor = np.vdot(given, wanted) / (np.vdot(given, given) or 1.0)
    return same(factor * given, wanted)


def _is_a_line(alignment: Alignment, number: int) -> bool:
    """Is it a variable that is used once, so that what is wrong with its size is wrong in its own line?"""
    named = number in alignment.names and alignment.names[number].variable
    return named and sum(number in e.inputs for e in alignment.program.equations) == 1


def _is_computed_constant(alignment: Alignment, number: int) -> bool:
    return number in alignment.constant and _may_be_misplaced(alignment, number)


def _is_right_by_chance(alignment: Alignment, number: int) -> bool:
    """Is it a gradient, though none by what has a name in the forward, and is there no right one that needs it?"""
    match = alignment.matches.get(number)
    named = match is not None and OF_LEAF < match.value.rank < NAMED + 0.5
    computed = number in alignment.linear and number in alignment.position
    return computed and not named and _may_be_misplaced(alignment, number)


def _is_lacking(alignment: Alignment, number: int, wanted: np.ndarray) -> bool:
    """Is it another gradient that this must be, and the rule has no value that is that one?"""
    match, value = alignment.matches.get(number), _exactly(alignment, number, wanted)
    by_chance = match is not None and match.value.rank == OF_LEAF
    return by_chance or (value is not None and value.name not in alignment.own)


def _is_another_name(alignment: Alignment, number: int) -> bool:
    """Is a variable nothing but a value that has a name already, so that it is likely to be meant as another one?"""
    at = alignment.position.get(number)
    equation = None if at is None else alignment.program.equations[at]
    laid_out = LAYOUT if number in alignment.linear else ("copy", "convert_element_type")
    renamed = equation is not None and equation.name in laid_out
    return (
        renamed and number in alignment.names and alignment.names[number].variable and not alignment.feeds_right(number)
    )


def _mends_more(alignment: Alignment, hit: _Hit, arrays: dict[int, np.ndarray]) -> bool:
    """Are gradients right beside those of the hit, so that what several formulas take is wrong, and not one of them?"""
    others = [i for i in alignment.above if i not in alignment.right]
    return alignment.right_after(arrays, others) > hit.leaves


RESHAPED = frozenset(("squeeze", "reshape", "expand_dims"))
"""Primitives that keep every entry."""


def _same_code(alignment: Alignment, equation: _jaxpr.Equation) -> bool:
    """Is what the equation takes computed by the same piece of code?"""
    at = alignment.position.get(equation.inputs[0])
    above = () if at is None else alignment.program.equations[at].segments
    return bool(above) and above == equation.segments


def _as_hit(alignment: Alignment, hit: _Hit) -> Way:
    """Where the value is replaced, whatever is wrong above it: what it is computed from may be right for another."""
    return (_slip(alignment, hit, hit.number, hit.array, hit.value, hit.mending, {}),)


def _exactly(alignment: Alignment, number: int, wanted: np.ndarray) -> ReferenceValue | None:
    """The reference value that this is."""
    match = alignment.matcher(wanted, number in alignment.linear)
    return match.value if match is not None and match.exact else None


MOST_TERMS = 6


def _parts(alignment: Alignment, number: int, wanted: np.ndarray) -> dict[int, np.ndarray]:
    """Operands that are wrong, each for itself, and what they must be: pieces that are put together, terms of a sum.

    A sum is what is wanted where every term has another factor. There is one set of factors, if the terms differ.
    """
    equation = alignment.program.equations[alignment.position[number]]
    if equation.name == "concatenate":
        sizes = [alignment.program.shapes[n][equation.params["dimension"]] for n in equation.inputs]
        pieces = np.split(wanted, np.cumsum(sizes)[:-1], axis=equation.params["dimension"] + 1)
        return {n: x for n, x in zip(equation.inputs, pieces) if not same(x, alignment.column(n))}
    if equation.name not in ("add", "add_any", "sub"):
        return {}
    terms, signs = zip(*addends(alignment, number))
    if not 1 < len(set(terms)) == len(terms) <= MOST_TERMS or wanted.ndim == 1:
        return {}
    arrays = [alignment.column(n) for n in terms]
    spread = [np.broadcast_to(_full(x, wanted.ndim), wanted.shape).ravel() for x in arrays]
    columns = np.stack(spread, axis=1) * signs
    if not np.all(np.isfinite(columns)) or not np.all(np.isfinite(wanted)):  # as scores behind a mask are
        return {}
    factors, _, rank, _ = np.linalg.lstsq(columns, wanted.ravel(), rcond=1e-9)
    off = np.abs(factors - 1) > SAME
    if rank < len(terms) or not same((columns @ factors).reshape(wanted.shape), wanted) or np.any(abs(factors) < SAME):
        return {}
    parts = {n: f * x for n, x, f, wrong in zip(terms, arrays, factors, off) if wrong}
    in_its_line = lambda n: _is_a_line(alignment, n) and _may_be_misplaced(alignment, n)
    return {} if any(alignment.known(n) and not in_its_line(n) for n in parts) else parts


def _slip(
    alignment: Alignment,
    hit: _Hit,
    number: int,
    wanted: np.ndarray,
    value: ReferenceValue | None,
    mending: dict[int, np.ndarray],
    beside: dict[int, np.ndarray],
) -> Slip:
    given = alignment.column(number)
    name = value.name if value is not None and not value.inside else ""
    others = [i for i in alignment.above if i not in alignment.right and i not in hit.leaves]
    leaves = hit.leaves | alignment.right_after(beside | mending, others)  # of which nothing else is wrong
    return Slip(
        number, wanted, np.asarray(np.broadcast_to(_full(given, wanted.ndim), wanted.shape)), name, leaves, mending
    )


def _full(x: np.ndarray, rank: int) -> np.ndarray:
    """With unit axes before its own."""
    return x.reshape(x.shape[0], *(1,) * (rank - x.ndim), *x.shape[1:])
