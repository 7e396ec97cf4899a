"""Changes of what an operation takes: another operand, a factor that one lacks, a sum over other axes in its place."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols.reference_values import ReferenceValue
from jaxbias.verify.naming.alignment import LAYOUT, PICKS, Alignment, same, varies
from jaxbias.verify.naming.at_hand import AtHand, at_hand
from jaxbias.verify.naming.repairs import Repair, axes_code, bracketed, kind_instead_of, listed

HIDDEN = 1.4
"""What it costs more to say that a gradient is needed which the rule does not compute: it may hold the answer."""

SIGNS = {"add": "sub", "add_any": "sub", "sub": "add"}

Change = Callable[[int, list[Any]], Any]
"""(probe, operands) → the output that the operation is to have."""


class Changed(NamedTuple):
    """What is wrong with an operation, and the operation as it must be.

    `number`: where it stands, if not there; `axes`: over which a sum must be taken.
    """

    kind: str
    text: str
    cost: float | int
    change: Change
    number: int | None = None
    repairs: tuple[Repair, ...] = ()
    about: str = ""
    axes: tuple[int, ...] = ()


def on_operand(equation: _jaxpr.Equation, j: int, make: Callable[[int, Any], Any]) -> Change:
    """The operation on another operand, made of the probe's number and what the operand is."""
    return lambda k, x: _jaxpr.apply(equation, [*x[:j], make(k, x[j]), *x[j + 1 :]])[0]


def with_operand(equation: _jaxpr.Equation, j: int, array: np.ndarray) -> Change:
    """The operation on what an array holds for each probe."""
    return on_operand(equation, j, lambda k, _: array[k])


def other_operands(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """Another right value in the place of an operand."""
    program = alignment.program
    for j, n in enumerate(equation.inputs):
        if program.dtypes[n] is None or np.dtype(program.dtypes[n]).kind not in "fcb":
            continue
        if equation.name in ("reduce_sum", "dot_general", "cumsum") or (equation.name == "select_n" and j):
            yield from _masked_operands(alignment, equation, j)
        yield from _opposite_mask(alignment, equation, j)
        if n in program.constants:
            continue
        now = alignment.column(n)
        if np.iscomplexobj(now) and n not in alignment.linear:
            taken = alignment.text(n)
            conjugate = on_operand(equation, j, lambda k, x: np.conj(x))
            repairs = (Repair("swap", f"jnp.conj({taken})", taken), Repair("calls", "", "conj"))
            yield Changed("sign", f"takes {taken} where its conjugate is needed", 1.2, conjugate, repairs=repairs)
        if now.ndim > 2 and now.shape[-1] == now.shape[-2] and n not in alignment.linear:
            turned = on_operand(equation, j, lambda k, x: np.swapaxes(x, -1, -2))
            words = f"takes {alignment.text(n)} where its transpose is needed"
            yield Changed("transpose", words, 1.7, turned, repairs=(Repair("transposes"), Repair("letters")))
        yield from _shifted(alignment, equation, j)
        yield from _summed(alignment, equation, j)
        values = at_hand(alignment, n, now.shape[1:], n in alignment.linear)
        if equation.outputs[0] not in alignment.linear:  # the cotangent may be what it lacks
            values += at_hand(alignment, n, now.shape[1:], True)
        elif alignment.linear.issuperset(equation.inputs) and len(equation.inputs) == 2:  # or has too much
            values += at_hand(alignment, n, now.shape[1:], False)
        for value in values:
            if same(value.array, now):
                continue
            change = on_operand(equation, j, lambda k, x, a=value.array: a[k] if x.dtype.kind != "b" else a[k] != 0)
            taken = alignment.text(n)
            kind = kind_instead_of(taken, value.name)
            if n in alignment.linear and value.own is not None and value.own[0].size < value.array[0].size:
                continue  # a gradient broadcast back gives itself under a sum
            if hidden(alignment, n, value):
                continue
            after = alignment.matcher.after(value.reference)
            if value.reference is not None and after is not None and same(now, after.array):
                function = value.reference.through
                slopes = [slope.code for slope in _slopes(alignment, after, value)]
                written = [value.code] * bool(value.code) + [f"{taken} * {bracketed(slope)}" for slope in slopes]
                repairs = tuple(Repair("swap", code, taken) for code in written)
                words = f"takes {taken} without the slope of {function}"
                slope = "missing-activation-derivative"
                yield Changed(slope, words, 1.3, change, repairs=repairs, about=after.name)
                continue
            if n in alignment.linear and value.own is not None and equation.inputs.count(n) == 2:
                kind = "not-linear-in-cotangent"
            repairs = value.instead_of(taken)
            if kind == "transpose":
                repairs = (Repair("transposes", code=taken), Repair("letters"))
            text, at = f"takes {taken} where {value.name} is needed", None
            if n in alignment.linear and masked(now, value.array):
                kind = "missing-activation-derivative"
            if value.name == taken:
                if not any(n in group for group in alignment.passes):
                    continue  # its own line is wrong, and says more
                kind, text = "wrong-index", f"takes {taken} of another pass of the loop than it must"
                repairs = (Repair("index"),)
            if n in alignment.constant and n in alignment.names and kind == "wrong-operand":  # its own line is wrong
                at, text = n, f"must be {value.name}"
                apart = value.array - now
                if value.reference is not None and value.reference.linear:
                    kind, text = "not-linear-in-cotangent", f"does not depend on the cotangent, and {text}"
                elif np.any(now) and np.ptp(apart) <= 1e-9 * np.max(np.abs(apart)):
                    kind = "missing-term"
                repairs = (Repair("wrap", value.code),) if value.code else ()
            cost = 1.4 + 0.1 * value.cost + (HIDDEN if n in alignment.linear and not value.code else 0.0)
            yield Changed(kind, text, cost, change, at, repairs)


def hidden(alignment: Alignment, number: int, value: AtHand) -> bool:
    """Is it a gradient that the rule computes nowhere, in the place of a value whose own line may be what is wrong?"""
    return number in alignment.linear and not value.code and not alignment.known(number)


def masked(given: np.ndarray, wanted: np.ndarray) -> bool:
    """Is what is wanted the given value with some elements left out, as by the slope of a function with a kink?"""
    size = float(np.max(np.abs(given), initial=0.0))
    kept = np.abs(wanted - given) <= 1e-9 * size
    return bool(np.any(kept) and not np.all(kept) and not np.any(wanted[~kept]))


def _shifted(alignment: Alignment, equation: _jaxpr.Equation, j: int) -> Iterator[Changed]:
    """The entries before or after along an axis, with zeros at its end, as states of the step before."""
    n = equation.inputs[j]
    now, taken = alignment.column(n), alignment.text(n)
    if now.dtype.kind not in "fc" or n in alignment.constant:
        return
    for axis, by in itertools.product(range(1, now.ndim), (1, -1)):
        if now.shape[axis] < 3:
            continue
        shape = now.shape[1:axis] + now.shape[axis + 1 :]
        ends = [v.array for v in at_hand(alignment, n, shape, n in alignment.linear) if v.cost < 0.5] if shape else []
        for end in [np.zeros((len(now), *shape)), *ends]:
            array = np.roll(now, by, axis)
            np.moveaxis(array, axis, 0)[0 if by > 0 else -1] = end
            which = "before" if by > 0 else "after"
            words = f"takes the entries of {taken} along axis {axis - 1}, and must take those {which} them"
            yield Changed("wrong-index", words, 1.45, with_operand(equation, j, array))


def _summed(alignment: Alignment, equation: _jaxpr.Equation, j: int) -> Iterator[Changed]:
    """The sum over some axes in the place of what is to be added up."""
    n = equation.inputs[j]
    now, taken = alignment.column(n), alignment.text(n)
    if now.dtype.kind not in "fc" or n in alignment.constant or equation.name in PICKS:
        return
    for size in range(1, now.ndim):
        for axes in itertools.combinations(range(1, now.ndim), size):
            if any(now.shape[axis] > 1 for axis in axes):
                array = np.broadcast_to(now.sum(axis=axes, keepdims=True), now.shape)
                change = with_operand(equation, j, array)
                words = f"takes {taken} where its sum over axis {listed(a - 1 for a in axes)} is needed"
                code = f"{bracketed(taken, products=True)}.sum({axes_code([a - 1 for a in axes])}, keepdims=True)"
                yield Changed("broadcast-not-summed", words, 1.3, change, repairs=(Repair("swap", code, taken),))


def _opposite_mask(alignment: Alignment, equation: _jaxpr.Equation, j: int) -> Iterator[Changed]:
    """The elements that a condition leaves out, in the place of those that it keeps."""
    n = equation.inputs[j]
    now = alignment.column(n)
    if now.size < 2 or n in alignment.linear or not np.array_equal(np.unique(now), [0, 1]):
        return

    change = on_operand(equation, j, lambda k, x: ~x if x.dtype.kind == "b" else 1 - x)
    taken = alignment.text(n)
    repairs = (
        Repair("swap", f"~{bracketed(taken, products=True)}" if now.dtype.kind == "b" else f"(1 - {taken})", taken),
    )
    yield Changed("missing-mask", f"takes the opposite of {taken}", 1.1, change, repairs=repairs)


def distributed(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """Of a product with a sum, another factor with one of its terms: a·(b − c) that must be a·b − d·c."""
    program = alignment.program
    for j, total in enumerate(equation.inputs):
        n = equation.inputs[1 - j]
        at = alignment.position.get(total)
        if at is None or n == total or program.shapes[n] != program.shapes[total]:
            continue
        e = program.equations[at]
        if e.name not in SIGNS:
            continue
        taken = alignment.text(n)
        sign = "-" if e.name == "sub" else "+"
        for side, term in enumerate(e.inputs):
            held = alignment.column(term)
            held = held.reshape(len(held), *(1,) * (len(program.shapes[total]) - held.ndim + 1), *held.shape[1:])
            for value in at_hand(alignment, n, program.shapes[n], n in alignment.linear):
                turn = -1 if side and sign == "-" else 1
                difference = turn * (value.array - alignment.column(n)) * held

                def change(k: int, x: list[Any], difference: np.ndarray = difference) -> Any:
                    return x[0] * x[1] + difference[k]

                parts = [f"{bracketed(taken)} * {bracketed(alignment.text(m))}" for m in e.inputs]
                parts[side] = f"{bracketed(value.code)} * {bracketed(alignment.text(term))}"
                repairs = (Repair("wrap", f" {sign} ".join(parts)),) if value.code else ()
                words = f"takes {taken} where {value.name} is needed, with the term {alignment.text(term)}"
                yield Changed("wrong-operand", words, 1.9 + 0.1 * value.cost, change, repairs=repairs)


def _slopes(alignment: Alignment, after: ReferenceValue, before: AtHand) -> Iterator[AtHand]:
    """Derivatives at hand by which the gradient after a function gives the one before it."""
    for value in at_hand(alignment, -1, after.array.shape[1:], False):
        if value.code and before.own is not None and same(value.array * after.array, before.own):
            yield value


def _masked_operands(alignment: Alignment, equation: _jaxpr.Equation, j: int) -> Iterator[Changed]:
    """A mask or a slope that what is added up lacks."""
    n = equation.inputs[j]
    taken = alignment.text(n)
    for value in at_hand(alignment, n, alignment.program.shapes[n], False):
        total = equation.name == "reduce_sum" and varies(value.array)
        if total or value.derivative or value.kind_of_factor in ("missing-mask", "sign"):
            change = on_operand(equation, j, lambda k, x, a=value.array: x * a[k])
            repairs = (Repair("swap", f"{bracketed(taken)} * {bracketed(value.code)}", taken),) if value.code else ()
            words = f"{taken} lacks the factor {value.bracketed}"
            yield Changed(value.kind_of_factor, words, 1.65 + 0.1 * value.cost, change, repairs=repairs)


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


def other_reductions(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """The mean or sum over other axes in the place of an operand that is one, broadcast back."""
    shape = alignment.program.shapes[equation.outputs[0]]
    for j, n in enumerate(equation.inputs):
        above = total_above(alignment, n)
        if above is None:
            continue
        e, constants = above
        whole = alignment.column(e.inputs[0])
        if whole.shape[1:] != shape:
            continue
        was = tuple(e.params["axes"])
        count = np.prod([shape[a] for a in was])
        mean = abs(constants * count - 1) < 1e-9
        for size in range(1, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), size):
                if axes == was:
                    continue
                factor = 1 / np.prod([shape[a] for a in axes]) if mean else constants
                array = factor * np.broadcast_to(whole.sum(axis=tuple(a + 1 for a in axes), keepdims=True), whole.shape)
                verb = "takes the mean" if mean else "sums"
                text = f"{verb} over axis {listed(was)}, and must {'take it' if mean else 'sum'}"
                change = with_operand(equation, j, array)
                repairs = (Repair("axes", axes_code(axes)),)
                words = f"{text} over axis {listed(axes)}"
                yield Changed("wrong-reduction-axis", words, 0.85, change, e.outputs[0], repairs, axes=axes)


def factors(alignment, output, shape, linear) -> Iterator[Changed]:
    """A factor that the output lacks."""
    for value in at_hand(alignment, output, shape, False):
        if value.cost < 2.5 and varies(value.array):
            text, change = f"lacks the factor {value.bracketed}", partial(_product, alignment, output, value.array)
            yield Changed(value.kind_of_factor, text, 1.6 + 0.1 * value.cost, change, repairs=value.as_factor)


def _product(alignment: Alignment, output: int, array: np.ndarray, k: int, operands: list[Any]) -> Any:
    equation = alignment.program.equations[alignment.position[output]]
    return _jaxpr.apply(equation, operands)[0] * array[k]
