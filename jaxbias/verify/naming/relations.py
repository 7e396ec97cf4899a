"""What a wrong value is beside the right one: a factor, a term, a layout, an axis, said in the rule's own names."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols.functions import MIXING
from jaxbias.verify.naming.alignment import LAYOUT, PICKS, Alignment, layouts, same, varies
from jaxbias.verify.naming.at_hand import AtHand
from jaxbias.verify.naming.code import bracketed, listed
from jaxbias.verify.naming.constants import Shapes, as_code, close, name_constant
from jaxbias.verify.naming.difference import Difference, Relation, constant_factor
from jaxbias.verify.naming.elements import some_elements
from jaxbias.verify.naming.terms import own_terms, parts, term
from jaxbias.verify.naming.totals import divided_below, total_above

MOST_ENTRIES = 4096
"""Of a value, for a search that tries products and sums."""


def relation(
    alignment: Alignment, number: int, given: np.ndarray, wanted: np.ndarray, shapes: Shapes, deadline: float | int
) -> Relation | None:
    """The simplest one.

    Args:
        number: of the rule's value.
        given, wanted: what it is and what it must be, the probes along the first axis.
        shapes: of arguments and cotangents, by name, from which constants take their names.
        deadline: in `time.process_time`.
    """
    difference = Difference(alignment, number, given, wanted, shapes, deadline)
    with np.errstate(all="ignore"):
        best = min(_relations(difference), key=lambda r: r.cost, default=None)
        if (best is None or best.kind == "unexplained") and np.any(given) and difference.equation is not None:
            best = min(with_a_constant(difference), key=lambda r: r.cost, default=best)
        return best


def _relations(d: Difference) -> Iterator[Relation]:
    yield from another_axis(d)
    yield from over_passes(d)
    if d.given.shape != d.wanted.shape:
        return
    gradient = d.linear or d.number in d.alignment.leaves or d.alignment.matcher(d.wanted, True) is not None
    if not np.any(d.given) and gradient:
        others = [n for group in d.alignment.passes if d.number in group for n in group]
        others += d.equation.inputs[:1] if d.equation is not None and d.equation.name in PICKS else ()
        if any(np.any(d.alignment.column(n)) for n in others):
            return  # the line gives zero in one pass of a loop, as the first and the last may
        whole = next(term(d), None) if d.given[0].size <= MOST_ENTRIES else None
        codes = tuple(code.removeprefix("{} + ") for code in whole.codes) if whole else ()
        yield Relation("detached", "is zero", 0.8, codes=codes)
        return
    yield from constant(d)
    yield from layout(d)
    yield from conjugate(d)
    yield from weighted(d)
    scalar = d.given.ndim == 1
    if not scalar:
        yield from factor(d)
        yield from another_value(d)
        yield from some_elements(d)
    if d.equation is not None and not scalar:
        yield from slope(d)
    yield from own_terms(d)
    yield from parts(d)
    if d.given[0].size <= MOST_ENTRIES and not scalar:
        yield from term(d)


def another_axis(d: Difference) -> Iterator[Relation]:
    """A sum over another axis than the one written."""
    e = d.equation
    while e is not None and e.name in LAYOUT and e.inputs and e.inputs[0] in d.alignment.position:
        e = d.alignment.program.equations[d.alignment.position[e.inputs[0]]]
    if e is None or e.name not in ("reduce_sum", "cumsum", "dot_general"):
        return
    operand, axes = _summands(d.alignment, e)
    rank, matters = operand.ndim - 1, d.alignment.matters(d.number)
    if e.name == "cumsum":
        turned = replace(e, params={**e.params, "reverse": not e.params["reverse"]})
        outs = np.stack([_jaxpr.apply(turned, [x])[0] for x in operand])
        if same(outs, d.wanted):
            axis = e.params["axis"]
            by = f"jnp.flip(jnp.cumsum(jnp.flip({d.alignment.text(e.inputs[0])}, {axis}), {axis}), {axis})"
            yield Relation("wrong-index", "adds up in the other direction", 0.6, codes=(by,))
        return
    for count in range(rank + 1) if axes else ():
        for other in itertools.combinations(range(rank), count):
            if other == axes:
                continue
            total = np.broadcast_to(operand.sum(axis=tuple(a + 1 for a in other), keepdims=True), operand.shape)
            wanted = _spread(d.wanted, operand.shape)
            if matters.shape == total.shape == wanted.shape:
                total, wanted = np.where(matters, total, 0), np.where(matters, wanted, 0)
            if same(total, wanted):
                was = f"axis {listed(axes)}" if axes else "no axis"
                now = f"axis {listed(other)}" if other else "no axis"
                words = f"sums over {was}, and must sum over {now}"
                yield Relation("wrong-reduction-axis", words, 0.6)
                return


def _summands(alignment: Alignment, e: _jaxpr.Equation) -> tuple[np.ndarray, tuple[int, ...]]:
    """What a sum adds up, and over which axes; of a product of matrices only where every axis is in both."""
    arrays = [alignment.column(n) for n in e.inputs]
    if e.name != "dot_general":
        return arrays[0], tuple(e.params.get("axes", ()))
    first, second = e.dot_axes()
    if first.free or second.free:
        return arrays[0], ()
    order = [*second.batch, *second.contracted]
    turned = np.argsort([*first.batch, *first.contracted])
    return arrays[0] * arrays[1].transpose([0, *(1 + order[k] for k in turned)]), first.contracted


def over_passes(d: Difference) -> Iterator[Relation]:
    """What one pass of a loop gives, which the next overwrites, where the sum over all of them is wanted."""
    alignment, number = d.alignment, d.number
    while (at := alignment.position.get(number)) is not None:
        group = next((group for group in alignment.passes if number in group), ())
        if group and same(np.sum([alignment.column(n) for n in group], axis=0), d.wanted):
            name = alignment.names.get(number)
            codes = (f"{name.text} + {{}}",) if name is not None and name.variable else ()
            words = "keeps one pass of the loop, and must add up all of them"
            yield Relation("overwritten-not-accumulated", words, 0.7, codes=codes)
            return
        equation = alignment.program.equations[at]
        if equation.name not in LAYOUT or not equation.inputs:
            return
        number = equation.inputs[0]


def constant(d: Difference) -> Iterator[Relation]:
    factor = constant_factor(d.given, d.wanted)
    if factor is None or close(factor, 1):
        return
    if (sum_above := total_above(d.alignment, d.number)) is not None:
        e, constants = sum_above
        constants *= divided_below(d.alignment, d.number)
        count = float(np.prod([d.alignment.program.shapes[e.inputs[0]][a] for a in e.params["axes"]]))
        if count > 1 and close(constants * count, 1) and close(factor * count, 1):
            codes = (f"{{}} * {count:.0f}",)
            yield Relation("batch-mean-vs-sum", "takes the mean, and must sum", 0.9, codes=codes)
        elif count > 1 and close(constants, 1) and close(factor, count):
            codes = (f"{{}} / {count:.0f}",)
            yield Relation("batch-mean-vs-sum", "sums, and must take the mean", 0.9, codes=codes)
    for scalar in scalars(d):
        if same(np.full_like(scalar.array, 1 / factor), scalar.array):
            codes = (f"{{}} * {scalar.code}",)
            yield Relation("missing-factor", f"lacks the factor {scalar.name}", 0.95, codes=codes)
        if same(np.full_like(scalar.array, factor), scalar.array):
            codes = (f"{{}} / {scalar.code}",)
            yield Relation("scale-constant", f"has the factor {scalar.name} too much", 0.97, codes=codes)
    named = name_constant([factor] * d.given.shape[0], d.shapes)
    if named is None:
        yield Relation("scale-constant", f"is {factor:.6g} times what it must be", 1.7)
    elif named.kind == "sign":
        yield Relation("sign", "has the wrong sign", 1.0)
    else:
        by = "{} / " + bracketed(as_code(named.text), products=True)
        if named.text.startswith("1/"):
            by = "{} * " + bracketed(as_code(named.text[2:]))
        yield Relation(named.kind, f"is {named.text} times what it must be", 1.0, codes=(by,))


def weighted(d: Difference) -> Iterator[Relation]:
    """A sum or mean without the weights of what it adds up."""
    above = total_above(d.alignment, d.number)
    if above is None:
        return
    (e, constants), below = above, divided_below(d.alignment, d.number)
    operand, axes = d.alignment.column(e.inputs[0]), tuple(a + 1 for a in e.params["axes"])
    count = float(np.prod([operand.shape[a] for a in axes]))
    for value in d.at_hand(operand.shape[1:], False):
        if not varies(value.array):
            continue
        total = (operand * value.array).sum(axis=axes)
        for _, laid in layouts(total, d.wanted.shape[1:]):
            factor = constant_factor(np.asarray(laid), d.wanted)
            if factor is not None and (close(factor, below) or close(factor * constants, 1)):
                mean = close(factor, below) and close(constants * below * count, 1) and count > 1
                words = f"takes the mean, and must take the sum weighted by {value.bracketed}"
                words = words if mean else f"adds up without the factor {value.bracketed}"
                own = None if mean or d.alignment.known(e.inputs[0]) else e.inputs[0]  # what is added up lacks it
                words = words if own is None else f"lacks the factor {value.bracketed}"
                yield Relation(value.kind_of_factor, words, 1.5 + 0.05 * value.cost, own, value.as_factor)
            break


def with_a_constant(d: Difference) -> Iterator[Relation]:
    """Another value of the forward times a constant, which is another mistake."""
    match = d.alignment.matcher(d.wanted, d.linear)
    if match is not None and not match.layout and not d.linear:
        array = d.wanted / match.factor
        kind = "missing-mask" if set(np.unique(array)) <= {0.0, 1.0} else "wrong-operand"
        words = f"must be {d.alignment.own_name(match.value)}"
        yield Relation(kind, words, 2.4, mending={d.number: array}, factor=float(np.real(match.factor)))


def scalars(d: Difference) -> Iterator[AtHand]:
    """Numbers with a name, which the rule has computed."""
    alignment = d.alignment
    for number, name in alignment.names.items():
        if name.variable and alignment.program.shapes[number] == () and number not in alignment.linear:
            array = alignment.column(number)
            if array.dtype.kind == "f" and alignment.known(number) and np.all(np.abs(np.abs(array) - 1) > 1e-6):
                yield AtHand(name.text, array, 1.0)


def layout(d: Difference) -> Iterator[Relation]:
    for layout, turned in layouts(d.given, d.wanted.shape[1:]):
        if layout == "transposed" and same(d.given + turned, 2 * d.wanted):
            by = "({} + {}.T) / 2"
            yield Relation("transpose", "must be symmetrised", 1.2, codes=(by,))
        if layout == "transposed" and same(turned, d.wanted):
            yield Relation("transpose", "must be transposed", 1.1, codes=("{}.T",))
    for axis in range(1, d.given.ndim):
        size = d.given.shape[axis]
        if size < 3:
            continue
        if same(np.flip(d.given, axis), d.wanted):
            codes = (f"jnp.flip({{}}, axis={axis - 1})",)
            yield Relation("wrong-index", f"must be reversed along axis {axis - 1}", 1.3, codes=codes)
        for shift in range(1, size):
            if same(np.roll(d.given, shift, axis), d.wanted):
                by = shift if shift <= size // 2 else shift - size
                codes = (f"jnp.roll({{}}, {by}, axis={axis - 1})",)
                yield Relation("wrong-index", f"must be shifted by {by} along axis {axis - 1}", 1.3, codes=codes)


def conjugate(d: Difference) -> Iterator[Relation]:
    if np.iscomplexobj(d.given) and same(np.conj(d.given), d.wanted):
        twice = d.equation is not None and d.equation.name == "conj"
        words = "has a conjugate too much" if twice else "must be conjugated"
        yield Relation("sign", words, 0.9, codes=("jnp.conj({})",))


def factor(d: Difference) -> Iterator[Relation]:
    given, wanted = d.given, d.wanted
    for value in d.at_hand(given.shape[1:], False)[:200]:
        x = value.array
        with np.errstate(all="ignore"):
            if not varies(x):
                continue
            if same(given * x, wanted):
                words, cost = f"lacks the factor {value.bracketed}", 1.5 + 0.05 * value.cost
                yield Relation(value.kind_of_factor, words, cost, codes=value.as_factor)
            elif np.all(x != 0) and same(given / x, wanted):
                words = f"lacks the factor 1/{value.bracketed}"
                yield Relation("missing-factor", words, 1.6 + 0.05 * value.cost, codes=value.as_divisor)
            elif same(wanted * x, given):
                words, codes = f"has the factor {value.bracketed} too much", value.as_divisor * bool(np.all(x != 0))
                yield Relation("wrong-operand", words, 1.7 + 0.05 * value.cost, codes=codes)
            elif (times := constant_factor(given * x, wanted)) is not None:
                constant = name_constant([1 / times] * len(given), d.shapes)
                if constant is not None and constant.text.isdigit():
                    words = f"lacks the factor {constant.text} · {value.bracketed}"
                    codes = tuple(f"{code} * {constant.text}" for code in value.as_factor)
                    yield Relation(value.kind_of_factor, words, 2.0 + 0.05 * value.cost, codes=codes)


def another_value(d: Difference) -> Iterator[Relation]:
    """What is wanted is a value that stands elsewhere in the rule, or is its operand."""
    alignment = d.alignment
    for number, name in alignment.names.items():
        if number == d.number or number not in alignment.position or not name.variable:
            continue
        for layout, array in layouts(alignment.column(number), d.wanted.shape[1:]):
            if same(array, d.wanted):
                kind, text = _words_for(d, number, name.text + (f" {layout}" if layout else ""))
                by = name.text + (".T" if layout == "transposed" else "")
                yield Relation(kind, text, 1.3 + 0.2 * bool(layout), codes=(by,))
                return


def _words_for(d: Difference, number: int, name: str) -> tuple[str, str]:
    """Kind and sentence where another value of the rule is wanted."""
    alignment, e = d.alignment, d.equation
    if e is not None and number in e.inputs and number in alignment.linear and len(e.inputs) == 2:
        other = e.inputs[1 - e.inputs.index(number)]
        if other in alignment.linear and e.name == "mul":
            return "not-linear-in-cotangent", f"must be {name}"
        if e.name in ("mul", "div"):
            return "wrong-operand", f"has the factor {alignment.text(other)} too much: must be {name}"
    maker = alignment.program.equations[alignment.position[number]]
    source = alignment.source(d.number)
    if maker.name in ("add", "add_any") and source in maker.inputs:
        other = maker.inputs[1 - maker.inputs.index(source)]
        return "missing-term", f"lacks the term {alignment.text(other)}: must be {name}"
    gone = (d.given == 0) & (d.wanted != 0)
    if same(np.where(gone, d.wanted, d.given), d.wanted) and not np.all(gone):
        return "only-some-elements", f"sets entries of {name} to 0, and must leave them as they are"
    return "wrong-operand", f"must be {name}"


def slope(d: Difference) -> Iterator[Relation]:
    """The derivative of an elementwise function of the forward, or a product with it, that is another one."""
    made_by = {d.alignment.program.equations[p].name for p in d.alignment.unknown_above(d.number)}
    for value in d.alignment.matcher.values:
        after = d.alignment.matcher.after(value)
        if after is None or after.array.shape != d.wanted.shape:
            continue
        if not d.linear and same(d.wanted * after.array, value.array) and not made_by & MIXING:
            words = f"is not the slope of {value.through}"
            yield Relation("missing-activation-derivative", words, 2.5, about=after.name)
            return
        if d.linear and same(d.wanted, value.array) and _times_a_slope(d, after.array):
            words = f"is not {d.alignment.own_name(after)} times the slope of {value.through}"
            yield Relation("missing-activation-derivative", words, 2.5, about=after.name)
            return


def _times_a_slope(d: Difference, after: np.ndarray) -> bool:
    """Is the value a gradient after a function, times what does not depend on the cotangent?"""
    alignment, number = d.alignment, d.number
    while not same(alignment.column(number), after):
        at = alignment.position.get(number)
        equation = None if at is None else alignment.program.equations[at]
        linear = [n for n in equation.inputs if n in alignment.linear] if equation is not None else []
        if equation is None or len(linear) != 1 or equation.name not in ("mul", "div", "select_n", *LAYOUT):
            return False
        (number,) = linear
    return True


def _spread(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A reduced value along the axes that it lost, where that is clear; else as it is."""
    for _, laid in layouts(x, shape[1:]):
        return np.asarray(laid)
    return x
