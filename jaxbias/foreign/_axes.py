"""Which axes of a leaf every axis of a value runs along, followed through the equations of a program.

A value made of a leaf of shape (4, 6) has, after a transpose and a split of the 6 into 2 heads, the axes
({1}, {1}, {0}): so a contact says which axes of the *leaf* it sums over, and along which a leaf was repeated (none).
"""

import math
from collections.abc import Sequence

from jaxbias._jaxpr import Equation

LeafAxes = tuple[frozenset[int], ...] | None
"""Of each axis of a value, the axes of the leaf that it runs along; None where they are lost."""

NOWHERE: frozenset[int] = frozenset()

_BY_AXES = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split()  # noqa: SIM905
)


def of_shape(shape: Sequence[int]) -> LeafAxes:
    """Those of the leaf itself."""
    return tuple(frozenset((i,)) for i in range(len(shape)))


def after(equation: Equation, position: int, axes: LeafAxes) -> LeafAxes:
    """Axes of an output of the equation, given those of its operand at this position."""
    if axes is None:
        return None
    name, params = equation.name, equation.params
    shape, out = equation.shapes.inputs[position], equation.shapes.outputs[0]
    if name == "transpose":
        return tuple(axes[i] for i in params["permutation"])
    if name == "squeeze":
        gone = {i % len(shape) for i in params["dimensions"]}
        return tuple(a for i, a in enumerate(axes) if i not in gone)
    if name == "broadcast_in_dim":
        source = {to: i for i, to in enumerate(params["broadcast_dimensions"])}
        kept = {to: axes[i] for to, i in source.items() if shape[i] == out[to]}
        return tuple(kept.get(i, NOWHERE) for i in range(len(out)))
    if name == "reshape":
        return _regrouped(axes, shape, out)
    if name in _BY_AXES:
        gone = set(params["axes"])
        return tuple(a for i, a in enumerate(axes) if i not in gone)
    if name == "dot_general":
        mine, other = equation.dot_axes()[position], equation.dot_axes()[1 - position]
        elsewhere = [NOWHERE] * len(other.free)
        free = [axes[i] for i in mine.free]
        order = [*free, *elsewhere] if position == 0 else [*elsewhere, *free]
        return (*(axes[i] for i in mine.batch), *order)
    if name == "conv_general_dilated" and position == 1:
        numbers = params["dimension_numbers"]
        made = [NOWHERE] * len(out)
        made[numbers.out_spec[1]] = axes[numbers.rhs_spec[0]]
        return tuple(made)
    if name == "gather" and position == 0:
        return _gathered(equation, axes)
    if len(shape) == len(out):  # JAX lets an axis of size 1 meet a longer one
        return tuple(NOWHERE if n == 1 != m else a for a, n, m in zip(axes, shape, out))
    return (NOWHERE,) * len(out) if not shape else None  # a scalar meets an array


def _regrouped(axes: tuple[frozenset[int], ...], old: Sequence[int], new: Sequence[int]) -> LeafAxes:
    """After a reshape: axes that are merged or split share what they run along."""
    if 0 in old:
        return None
    before = [(n, a) for n, a in zip(old, axes) if n != 1]
    made = {}
    todo = [i for i, n in enumerate(new) if n != 1]
    while todo:
        group, runs, total = [todo.pop(0)], NOWHERE, 1
        size = new[group[0]]
        while total != size:
            if total < size:
                n, along = before.pop(0)
                total, runs = total * n, runs | along
            else:
                group.append(todo.pop(0))
                size *= new[group[-1]]
        made |= dict.fromkeys(group, runs)
    return tuple(made.get(i, NOWHERE) for i in range(len(new)))


def _gathered(equation: Equation, axes: tuple[frozenset[int], ...]) -> LeafAxes:
    numbers = equation.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = iter([a for i, a in enumerate(axes) if i not in gone])
    rows = frozenset().union(*(axes[i] for i in numbers.collapsed_slice_dims))
    out = range(len(equation.shapes.outputs[0]))
    return tuple(next(kept) if i in numbers.offset_dims else rows for i in out)


def chosen(equation: Equation, position: int, axes: LeafAxes) -> frozenset[int]:
    """Axes of a leaf along which the equation takes rows of it."""
    if axes is None or position:
        return NOWHERE
    along: Sequence[int] = ()
    if equation.name == "gather":
        numbers = equation.params["dimension_numbers"]
        along = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    elif equation.name == "dynamic_slice":
        sizes = zip(equation.params["slice_sizes"], equation.shapes.inputs[0])
        along = [i for i, (taken, size) in enumerate(sizes) if taken < size]
    return NOWHERE.union(*(axes[i] for i in along))


def repeated(axes: LeafAxes, rank: int, shape: Sequence[int]) -> bool:
    """Whether a leaf of this rank was spread over an axis that it does not have."""
    if axes is None:
        return False
    return len(axes) > rank or any(not a and n > 1 for a, n in zip(axes, shape))


def contraction(equation: Equation, position: int, axes: LeafAxes) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(axes of the leaf that are summed over, axes of it that the output runs along); None where they are not apart."""
    if axes is None:
        return None
    if equation.name == "dot_general":
        mine = equation.dot_axes()[position]
        contracted, free = mine.contracted, mine.free
    elif equation.name == "conv_general_dilated" and position == 1:
        spec = equation.params["dimension_numbers"].rhs_spec
        contracted, free = spec[1:], spec[:1]
    else:
        return None
    summed, out = (frozenset().union(*(axes[i] for i in group)) for group in (contracted, free))
    if summed & out:
        return None
    return tuple(sorted(summed)), tuple(sorted(out))


def shrinks(equation: Equation, position: int) -> bool:
    """Whether fewer entries come out than go in."""
    return math.prod(equation.shapes.outputs[0]) < math.prod(equation.shapes.inputs[position])
