"""What a leaf is that data multiplied: a scale, unless what follows the multiplication says more.

g a + (1 − g) x        a stands in the place of a value, as a token does: "other"
x + g (a − x)          the same
g a + (1 − g) b        a mixture of leaves is used as one leaf is: x·(g w + (1 − g) v) has two weights
x·(w s)                data repeated along axes of a leaf change it, and the product is the leaf still: a weight
Σ_i x_i a_i            a sum over an axis of the leaf, of nothing else, is a contraction: a weight
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np

from jaxbias._jaxpr import Equation
from jaxbias._jaxpr.queries import LAYOUT
from jaxbias.foreign import _axes
from jaxbias.foreign._values import CONSTANT, DATA, NOISE, Factor, Place, Product, Thread, Value

ADDS = ("add", "add_any", "sub")
MULTIPLIES = ("mul", "div")


def repeated_along(equation: Equation, position: int, value: Value) -> frozenset[int]:
    """Axes of the output along which this operand is the same."""
    shape, out = equation.shapes.inputs[position], equation.shapes.outputs[0]
    if len(shape) != len(out):
        return frozenset(range(len(out))) if not shape else frozenset()
    return frozenset(i for i, (n, m) in enumerate(zip(shape, out)) if i in value.repeated or n == 1 < m)


def product(equation: Equation, position: int, thread: Thread, values: Sequence[Value]) -> Product:
    """Of a leaf in the operand at this position, which the other operand multiplies."""
    axes = _axes.after(equation, position, thread.axes)
    if equation.name == "sub":
        return Product(replace(thread, axes=axes), equation, differs_from=values[1 - position].idents)
    if axes is None:
        return Product(replace(thread, axes=axes), equation)
    same, shape = repeated_along(equation, 1 - position, values[1 - position]), equation.shapes.outputs[0]
    whole = any(axes[i] and shape[i] > 1 for i in same)
    shared = _axes.NOWHERE.union(*(along for i, along in enumerate(axes) if i not in same and shape[i] > 1))
    return Product(replace(thread, axes=axes), equation, whole, shared)


class Marks(TypedDict, total=False):
    """Attributes of a `Value`: what was just done to it, which a sum that follows may ask."""

    repeated: frozenset[int]
    complement: frozenset[int]
    factors: tuple[Factor, ...]
    grouped: bool


def marks(equation: Equation, values: Sequence[Value]) -> Marks:
    """What an equation does to its operands, whatever they are made of."""
    name, first = equation.name, values[0] if values else Value()
    if name in LAYOUT:
        repeated = first.repeated if name == "convert_element_type" else frozenset[int]()
        if name == "broadcast_in_dim":
            source = dict(zip(equation.params["broadcast_dimensions"], equation.shapes.inputs[0]))
            repeated = frozenset(i for i, n in enumerate(equation.shapes.outputs[0]) if source.get(i, 1) == 1 < n)
        return {
            "repeated": repeated,
            "complement": first.complement,
            "factors": first.factors,
            "grouped": first.grouped,
        }
    if name == "not" or (name == "sub" and first.kind == CONSTANT and _may_be_one(equation)):
        return {"complement": values[-1].idents}
    if name == "mul":
        return {"factors": tuple(Factor(v.idents, v.complement, v.selects == "mixture") for v in values if v.idents)}
    return {"grouped": name.startswith("ragged_dot")}


def _may_be_one(equation: Equation) -> bool:
    number = equation.inputs[0]
    held = equation.program.constants.get(number)
    return held is None or bool(np.all(np.asarray(held) == 1))


def joined(equation: Equation, values: Sequence[Value]) -> list[Product]:
    """Leaves that data changed, where they are added to a leaf."""
    return [replace(p, mixed=True, at=equation) for v in values for p in v.products if p.whole]


def comes_back(equation: Equation, position: int, thread: Thread, values: Sequence[Value]) -> bool:
    """Whether the leaf is added to a gated difference from it, a + g (x − a)."""
    differences = [p for v in values for p in v.products if p.gated and p.thread.leaf == thread.leaf]
    for p in differences:
        p.is_now("other", Place(equation, position, thread.axes))
    return bool(differences)


def stands_for_data(equation: Equation, position: int, value: Value) -> None:
    """Where a weight is applied to a leaf that data only changed, the leaf stands where data do, as a token does."""
    kernel = equation.name == "conv_general_dilated" and position == 1
    for p in value.products:
        if (p.whole or p.mixed) and _contracts(equation, position, p) and (kernel or not p.mixed):
            p.is_now("weight" if kernel else "other", Place(equation, position, p.thread.axes))


def after(equation: Equation, values: Sequence[Value], alone: bool) -> tuple[Product, ...]:
    """The products that are left after an equation on data, those that it tells told."""
    operands = [(i, v) for i, v in enumerate(values) if v.kind == DATA]
    if not any(v.products for _, v in operands):
        return ()
    name = equation.name
    moved = [
        replace(p, thread=replace(p.thread, axes=_axes.after(equation, i, p.thread.axes)), alone=p.alone and alone)
        for i, v in operands
        for p in v.products
    ]
    if name in MULTIPLIES and any(v.kind >= NOISE for v in values if not v.products):
        moved = [replace(p, gated=bool(p.differs_from)) for p in moved]
    if len(operands) == 1:
        if name == "reduce_sum" and alone:
            _contracted_by_sum(equation, operands[0][1])
        keeps = name in LAYOUT or name in (*MULTIPLIES, "neg", "stop_gradient")
        return tuple(moved) if keeps else ()
    if len(operands) > 2 or len(values) > 2:
        return ()
    (_, first), (_, second) = operands
    if name in ADDS:
        return _added(equation, operands, moved, complementary(first, second))
    if name in MULTIPLIES:  # of a leaf that data changed, changed again
        return tuple(p for p in moved if p.gated or (p.whole and _changes(equation, operands, p)))
    for position, value in operands:
        for p in value.products:
            other = values[1 - position]
            if (p.whole or p.mixed) and p.thread.leaf not in other.made_of and _contracts(equation, position, p):
                p.is_now("weight", Place(equation, position, p.thread.axes))
    return ()


def complementary(first: Value, second: Value) -> bool:
    """Whether one was multiplied with g and the other one with 1 − g."""
    return any(
        (f.complement != g.complement and (f.complement == g.idents or g.complement == f.idents))
        or (f.mixture and g.mixture and f.idents == g.idents)
        for f in first.factors
        for g in second.factors
    )


def _added(
    equation: Equation, operands: Sequence[tuple[int, Value]], moved: list[Product], mixes: bool
) -> tuple[Product, ...]:
    """After a sum of products."""
    values_of = [v for _, v in operands]
    leaves = all(v.products for v in values_of)
    mixes = mixes and not set.intersection(*({p.thread.leaf for p in v.products} for v in values_of))
    for position, value in operands:
        for p in value.products:
            place = Place(equation, position, p.thread.axes)
            if mixes or (p.gated and p.differs_from == values_of[1 - position].idents):
                p.is_now("other", place)
            elif p.mixed and not leaves and not p.chosen:
                p.is_now("bias", place)
    whole = leaves and (mixes or all(p.whole for p in moved))
    return tuple(replace(p, at=equation, mixed=True) for p in moved) if whole else ()


def _changes(equation: Equation, operands: Sequence[tuple[int, Value]], p: Product) -> bool:
    """Whether the operand without this leaf is repeated, so that it only changes the one that has it."""
    return any(not v.products and p.thread.axes is not None and repeated_along(equation, i, v) for i, v in operands)


def _contracts(equation: Equation, position: int, p: Product) -> bool:
    """Whether a product with other data sums over an axis of the leaf."""
    if equation.name == "dot_general":
        axes = equation.dot_axes()[position].contracted
    elif equation.name == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        axes = numbers.rhs_spec[1:] if position else numbers.lhs_spec[1:2]
    else:
        return False
    return p.thread.axes is None or any(p.thread.axes[i] for i in axes)


def _contracted_by_sum(equation: Equation, value: Value) -> None:
    if not equation.shapes.outputs[0]:  # a sum over everything is a loss
        return
    for p in value.products:
        along = p.thread.axes or ()
        summed = along and any(along[i] & p.shared - p.thread.rows for i in equation.params["axes"])
        if p.alone and p.at.name == "mul" and summed:
            p.is_now("weight", Place(p.at, *_operand(p)))


def _operand(p: Product) -> tuple[int, _axes.LeafAxes]:
    assert p.thread.pick is not None
    place = p.thread.pick.otherwise.place
    return (place.position, place.axes) if place.equation is p.at else (0, p.thread.axes)


# --- rows that data chose -------------------------------------------------------------------------------------------


def contracted(equation: Equation, position: int, thread: Thread) -> bool:
    """Whether a product sums over an axis of the leaf itself, and not only over the rows of it that data chose."""
    if equation.name != "dot_general" or thread.axes is None:
        return True
    return any(thread.axes[i] - thread.rows for i in equation.dot_axes()[position].contracted)


def is_whole(thread: Thread, equation: Equation, position: int, values: Sequence[Value]) -> bool:
    """Whether data multiply the rows that they chose each as a whole: by numbers that are the same along its axes."""
    axes = _axes.after(equation, position, thread.axes)
    if axes is None:
        return False
    own = {i for i, along in enumerate(axes) if along - thread.rows and equation.shapes.outputs[0][i] > 1}
    if equation.name == "dot_general":
        batch = len(equation.dot_axes()[position].batch)
        return bool(own) and min(own) >= batch
    return bool(own) and own <= repeated_along(equation, 1 - position, values[1 - position])


def matrix_of_rows(equation: Equation, position: int, values: Sequence[Value]) -> None:
    """Where rows that data chose meet in a product, and those of one leaf are matrices: these are a weight."""
    if equation.name != "dot_general":
        return
    value, axes = values[position], equation.dot_axes()
    mine, other = (
        any(t.axes is not None and t.axes[i] - t.rows for t in values[k].threads for i in axes[k].free)
        for k in (position, 1 - position)
    )
    for thread in value.threads if mine and not other else ():
        if thread.pick is not None and contracted(equation, position, thread):
            thread.pick.among_rows = True
            thread.pick.follows.append(("weight", Place(equation, position, thread.axes)))


def of_rows(equation: Equation, values: Sequence[Value]) -> tuple[Product, ...]:
    """Rows that data chose, just after other data multiplied them."""
    if equation.name not in MULTIPLIES or any(v.kind != DATA for v in values):
        return ()
    return tuple(
        product(equation, position, thread, values)
        for position, other in ((0, values[1]), (1, values[0]))
        for thread in values[position].threads
        if not other.threads and thread.leaf not in other.looked_up
    )
