"""Roles that leaves take where they meet constants, noise and other leaves, before they meet data."""

from collections.abc import Sequence
from dataclasses import replace

from jaxbias._jaxpr import Equation
from jaxbias.foreign import _axes
from jaxbias.foreign._values import PARAMS, TOKEN, Pick, Place, Use, Value, join


class Claims:
    """The uses recorded so far, and how claims are added to them.

    Attributes:
        ranks: of the leaves.
        rehearsing: how many loops are walked only to see what they carry: nothing is recorded then but picks.
    """

    def __init__(self, ranks: Sequence[int]):
        self.ranks = ranks
        self.recorded: list[Use | Pick] = []
        self.rehearsing = 0

    def claimed(self, equation: Equation, position: int, value: Value, role: str, firm: bool = True) -> Value:
        """The value with this role for every leaf in it that has none yet."""
        threads = []
        for t in value.threads:
            if t.claim:
                threads.append(t)
                continue
            place = Place(equation, position, t.axes)
            if not self.rehearsing:
                level = max(t.level, 1) if role == TOKEN else 3
                self.recorded.append(Use(t.leaf, role, level, place))
            threads.append(replace(t, claim=role, firm=firm, claimed_at=place))
        return replace(value, threads=tuple(threads))


def claim_weights(claims: Claims, equation: Equation, values: list[Value]) -> list[Value]:
    """Roles that leaves take in a matrix product with constants, noise or other leaves."""
    first, second = values[0], values[1] if len(values) == 2 else join(values[1:])
    if len(values) > 2:  # a solve of several operands: the last one is what it is applied to
        first, second = join(values[:-1]), values[-1]
    if first.leaves & second.leaves:
        return values
    if PARAMS not in (first.kind, second.kind) or first.kind != second.kind:
        return [claims.claimed(equation, i, v, "weight") for i, v in enumerate(values)]
    if first.processed != second.processed or any(t.gathered for v in values for t in v.threads):
        rows = first.processed if first.processed != second.processed else any(t.gathered for t in first.threads)
        is_rows = [rows, not rows] if len(values) == 2 else [rows] * (len(values) - 1) + [not rows]
    elif first.processed:
        return values
    else:
        is_rows = _stand_for_data(claims, equation, values)
    made = []
    for position, (value, rows) in enumerate(zip(values, is_rows)):
        claim = ("embedding" if any(t.gathered for t in value.threads) else TOKEN) if rows else "weight"
        if rows and len({t.leaf for t in value.threads if not t.claim}) > 1:
            claim = "other"
        value = claims.claimed(equation, position, value, claim)
        if not any(is_rows) and len(values) == 2:
            partner = min(values[1 - position].leaves)
            value = replace(value, threads=tuple(replace(t, partner=partner) for t in value.threads))
        made.append(value)
    return made


def _stand_for_data(claims: Claims, equation: Equation, values: list[Value]) -> list[bool]:
    """Of two leaves in a product, which one stands where data do: a vector, or what was repeated for the batch."""
    if len(values) != 2:
        return [False] * (len(values) - 1) + [True]
    if equation.name == "conv_general_dilated":
        return [True, False]
    if equation.name == "dot_general":
        vectors = [not axes.free for axes in equation.dot_axes()]
        if vectors[0] != vectors[1]:
            return vectors
    spread = [
        any(_axes.repeated(t.axes, claims.ranks[t.leaf], shape) for t in value.threads if t.claim != "scale")
        for value, shape in zip(values, equation.shapes.inputs)
    ]
    return spread if spread[0] != spread[1] else [False, False]


def claim_spread(claims: Claims, equation: Equation, values: list[Value], role: str) -> list[Value]:
    """Roles that leaves take where they are added to, or multiplied with, what other leaves made."""
    if sum(v.kind == PARAMS for v in values) != 2 or len(values) != 2:
        return values
    shape = equation.shapes.outputs[0]
    along = [_along(equation, i, v) for i, v in enumerate(values)]
    made = []
    for position, value in enumerate(values):
        other = values[1 - position]
        mine, theirs = along[position], along[1 - position]
        claimed = value
        if value.leaves.isdisjoint(other.leaves) and not value.processed:
            product = other.processed or any(t.partner is not None for t in other.threads)
            product = product and not (role == "scale" and all(t.logarithm for t in other.threads))
            if _lies_across(mine, theirs, shape):
                claimed = claims.claimed(equation, position, value, role)
            elif product and not any(t.partner is not None for t in value.threads):
                claimed = claims.claimed(equation, position, value, role, firm=False)
        made.append(_rows_told(claimed, theirs) if role == "bias" else claimed)
    return made


def _along(equation: Equation, position: int, value: Value) -> _axes.LeafAxes:
    """Of each axis of the output, the axes of any leaf in the operand; of a scalar that meets an array, ()."""
    if not equation.shapes.inputs[position] and equation.shapes.outputs[0]:
        return ()
    axes = [_axes.after(equation, position, t.axes) for t in value.threads]
    if any(a is None or len(a) != len(axes[0] or ()) for a in axes):
        return None
    return tuple(frozenset().union(*group) for group in zip(*(a for a in axes if a is not None)))


def _lies_across(mine: _axes.LeafAxes, theirs: _axes.LeafAxes, shape: Sequence[int]) -> bool:
    """Whether a value is repeated over axes that the other one runs along, and not the other way round."""
    if mine == () and shape:
        return theirs != ()
    if mine is None or theirs == ():
        return False
    if theirs is None:
        return any(not a and n > 1 for a, n in zip(mine, shape))
    return any(b and not a for a, b in zip(mine, theirs)) and not any(a and not b for a, b in zip(mine, theirs))


def _rows_told(value: Value, bias: _axes.LeafAxes) -> Value:
    """After a bias is added to a product of two leaves: the leaf that shares none of its axes is a token."""
    if not any(t.partner is not None for t in value.threads) or not bias or all(bias):
        return value
    threads = []
    for t in value.threads:
        shares = t.axes is None or any(a and b for a, b in zip(bias, t.axes))
        threads.append(replace(t, partner=None, claim=t.claim if shares else TOKEN))
    return replace(value, threads=tuple(threads))
