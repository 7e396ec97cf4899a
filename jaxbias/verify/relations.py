"""What a wrong value is beside the right one: a factor, a term, a layout, an axis, said in the rule's own names."""

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jaxbias import _jaxpr
from jaxbias.verify.alignment import LAYOUT, Alignment, layouts, same
from jaxbias.verify.constants import Shapes, close, name_constant
from jaxbias.verify.operations import AtHand, at_hand, axes_code, divided_below, edits, listed, total_above
from jaxbias.verify.repairs import Repair, bracketed

MOST_ENTRIES = 4096
"""Of a value, for a search that tries products and sums."""

MOST_VALUES = 30
"""From which the products of two are made; of three, half as many."""

SIMPLE = (2.0, 0.5, 3.0, 1 / 3, 4.0, 0.25)


@dataclass(frozen=True)
class Relation:
    """How a wrong value and the right one differ.

    Attributes:
        kind: of mistake, one of `report.KINDS`.
        text: a sentence without its subject: "lacks the factor scale".
        cost: how far-fetched it is.
        number: of the value at which the rule goes wrong, where that is further up; None if it is the wrong value.
        repairs: of the code there, the likeliest first.
        about: name of the reference value that it speaks of, other than the wanted one.
    """

    kind: str
    text: str
    cost: float | int
    number: int | None = None
    repairs: tuple[Repair, ...] = ()
    about: str = ""


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
    return min(_Relations(alignment, number, given, wanted, shapes, deadline), key=lambda r: r.cost, default=None)


def constant_factor(given: np.ndarray, wanted: np.ndarray) -> float | None:
    """c, where the given value is c times the wanted one."""
    if given.shape != wanted.shape or wanted.size == 0:
        return None
    at = np.unravel_index(int(np.argmax(np.abs(wanted))), wanted.shape)
    with np.errstate(all="ignore"):
        factor = given[at] / wanted[at]
    if not np.isfinite(factor) or factor == 0 or np.imag(factor) or not same(given, factor * wanted):
        return None
    return float(np.real(factor))


class _Relations:
    def __init__(self, alignment, number, given, wanted, shapes, deadline):
        self.alignment, self.number, self.deadline = alignment, number, deadline
        self.given, self.wanted = given, wanted
        self.shapes = [list(shapes)] * given.shape[0]
        self.linear = number in alignment.linear
        at = alignment.position.get(number)  # None where the rule returns an argument as it is
        self.equation: _jaxpr.Equation | None = None if at is None else alignment.program.equations[at]

    def __iter__(self) -> Iterator[Relation]:
        yield from self.another_axis()
        if self.given.shape != self.wanted.shape:
            return
        if not np.any(self.given):
            whole = next(self.term(), None) if self.given[0].size <= MOST_ENTRIES else None
            repairs = (
                tuple(repair._replace(by=repair.by.removeprefix("{} + ")) for repair in whole.repairs) if whole else ()
            )
            yield Relation("detached", "is zero", 0.8, repairs=repairs)
            return
        yield from self.constant()
        yield from self.layout()
        yield from self.conjugate()
        if self.given[0].size == 1 and self.given.ndim == 1:
            return
        yield from self.factor()
        yield from self.another_value()
        yield from self.some_elements()
        yield from self.slope()
        for edit in edits(self.alignment, self.number, self.wanted, self.deadline) if self.equation else ():
            yield Relation(edit.kind, edit.text, edit.cost, edit.number, edit.repairs, edit.about)
        yield from self.own_terms()
        if self.given[0].size <= MOST_ENTRIES:
            yield from self.term()

    def at_hand(self, shape: Sequence[int], linear: bool) -> list[AtHand]:
        return at_hand(self.alignment, self.number, tuple(shape), linear)

    # --- hypotheses, the cheapest first

    def another_axis(self) -> Iterator[Relation]:
        """A sum over another axis than the one written."""
        e = self.equation
        while e is not None and e.name in LAYOUT and e.inputs and e.inputs[0] in self.alignment.position:
            e = self.alignment.program.equations[self.alignment.position[e.inputs[0]]]
        if e is None or e.name not in ("reduce_sum", "cumsum"):
            return
        operand = self.alignment.column(e.inputs[0])
        rank = operand.ndim - 1
        if e.name == "cumsum":
            turned = replace(e, params={**e.params, "reverse": not e.params["reverse"]})
            outs = np.stack([_jaxpr.apply(turned, [x])[0] for x in operand])
            if same(outs, self.wanted):
                axis = e.params["axis"]
                by = f"jnp.flip(jnp.cumsum(jnp.flip({self.alignment.text(e.inputs[0])}, {axis}), {axis}), {axis})"
                yield Relation("wrong-index", "adds up in the other direction", 0.6, repairs=(Repair("wrap", by),))
            return
        axes = tuple(e.params["axes"])
        for count in range(rank + 1):
            for other in itertools.combinations(range(rank), count):
                if other == axes:
                    continue
                total = operand.sum(axis=tuple(a + 1 for a in other), keepdims=True)
                if same(np.broadcast_to(total, operand.shape), _spread(self.wanted, operand.shape)):
                    was = f"axis {listed(axes)}" if axes else "no axis"
                    now = f"axis {listed(other)}" if other else "no axis"
                    repairs = (Repair("axes", axes_code(other)), Repair("letters"))
                    words = f"sums over {was}, and must sum over {now}"
                    yield Relation("wrong-reduction-axis", words, 0.6, repairs=repairs)
                    return

    def constant(self) -> Iterator[Relation]:
        factor = constant_factor(self.given, self.wanted)
        if factor is None:
            return
        if (sum_above := total_above(self.alignment, self.number)) is not None:
            e, constants = sum_above
            constants *= divided_below(self.alignment, self.number)
            count = float(np.prod([self.alignment.program.shapes[e.inputs[0]][a] for a in e.params["axes"]]))
            if count > 1 and close(constants * count, 1) and close(factor * count, 1):
                calls = (Repair("calls", "sum", "mean"), Repair("wrap", f"{{}} * {count:.0f}"))
                yield Relation("batch-mean-vs-sum", "takes the mean, and must sum", 0.9, repairs=calls)
            elif count > 1 and close(constants, 1) and close(factor, count):
                calls = (Repair("calls", "mean", "sum"), Repair("wrap", f"{{}} / {count:.0f}"))
                yield Relation("batch-mean-vs-sum", "sums, and must take the mean", 0.9, repairs=calls)
        for scalar in self.scalars():
            if same(np.full_like(scalar.array, 1 / factor), scalar.array):
                repairs = (Repair("wrap", f"{{}} * {scalar.code}"), Repair("wrap", f"{scalar.code} * {{}}"))
                yield Relation("missing-factor", f"lacks the factor {scalar.name}", 0.95, repairs=repairs)
            if same(np.full_like(scalar.array, factor), scalar.array):
                repairs = (Repair("without", code=scalar.name), Repair("wrap", f"{{}} / {scalar.code}"))
                yield Relation("scale-constant", f"has the factor {scalar.name} too much", 0.97, repairs=repairs)
        named = name_constant([factor] * self.given.shape[0], self.shapes)
        if named is None:
            yield Relation("scale-constant", f"is {factor:.6g} times what it must be", 1.7)
        elif named.kind == "sign":
            yield Relation("sign", "has the wrong sign", 1.0, repairs=(Repair("signs"),))
        else:
            by = "{} / " + bracketed(as_code(named.text), products=True)
            if named.text.startswith("1/"):
                by = "{} * " + bracketed(as_code(named.text[2:]))
            repairs = (Repair("calls", "sum", "mean"), Repair("calls", "mean", "sum"), Repair("without"))
            yield Relation(
                named.kind, f"is {named.text} times what it must be", 1.0, repairs=(*repairs, Repair("wrap", by))
            )

    def scalars(self) -> Iterator[AtHand]:
        """Numbers with a name, which the rule has computed."""
        alignment = self.alignment
        for number, name in alignment.names.items():
            if name.variable and alignment.program.shapes[number] == () and number not in alignment.linear:
                array = alignment.column(number)
                if array.dtype.kind == "f" and alignment.known(number) and np.all(np.abs(np.abs(array) - 1) > 1e-6):
                    yield AtHand(name.text, array, 1.0)

    def layout(self) -> Iterator[Relation]:
        for layout, turned in layouts(self.given, self.wanted.shape[1:]):
            if layout == "transposed" and same(turned, self.wanted):
                yield Relation(
                    "transpose", "must be transposed", 1.1, repairs=(Repair("transposes"), Repair("letters"))
                )
        for axis in range(1, self.given.ndim):
            size = self.given.shape[axis]
            if size < 3:
                continue
            if same(np.flip(self.given, axis), self.wanted):
                flip = (Repair("calls", "", "flip"), Repair("wrap", f"jnp.flip({{}}, axis={axis - 1})"))
                yield Relation("wrong-index", f"must be reversed along axis {axis - 1}", 1.3, repairs=flip)
            for shift in range(1, size):
                if same(np.roll(self.given, shift, axis), self.wanted):
                    by = shift if shift <= size // 2 else shift - size
                    roll = (Repair("calls", "", "roll"), Repair("wrap", f"jnp.roll({{}}, {by}, axis={axis - 1})"))
                    yield Relation("wrong-index", f"must be shifted by {by} along axis {axis - 1}", 1.3, repairs=roll)

    def conjugate(self) -> Iterator[Relation]:
        if np.iscomplexobj(self.given) and same(np.conj(self.given), self.wanted):
            repairs = (Repair("calls", "", "conj"), Repair("wrap", "jnp.conj({})"))
            yield Relation("sign", "must be conjugated", 0.9, repairs=repairs)

    def factor(self) -> Iterator[Relation]:
        given, wanted = self.given, self.wanted
        for value in self.at_hand(given.shape[1:], False)[:200]:
            x = value.array
            with np.errstate(all="ignore"):
                if np.ptp(np.abs(x)) == 0:
                    continue
                if same(given * x, wanted):
                    words, cost = f"lacks the factor {value.bracketed}", 1.5 + 0.05 * value.cost
                    yield Relation(value.kind_of_factor, words, cost, repairs=value.as_factor)
                elif np.all(x != 0) and same(given / x, wanted):
                    repairs = (Repair("wrap", f"{{}} / {bracketed(value.code, products=True)}"),) if value.code else ()
                    words = f"lacks the factor 1/{value.bracketed}"
                    yield Relation("missing-factor", words, 1.6 + 0.05 * value.cost, repairs=repairs)
                elif same(wanted * x, given):
                    words, repairs = f"has the factor {value.bracketed} too much", (Repair("without", code=value.name),)
                    if value.code and np.all(x != 0):
                        repairs += (Repair("wrap", f"{{}} / {bracketed(value.code, products=True)}"),)
                    yield Relation("wrong-operand", words, 1.7 + 0.05 * value.cost, repairs=repairs)

    def another_value(self) -> Iterator[Relation]:
        """What is wanted is a value that stands elsewhere in the rule, or is its operand."""
        alignment = self.alignment
        for number, name in alignment.names.items():
            if number == self.number or number not in alignment.position or not name.variable:
                continue
            for layout, array in layouts(alignment.column(number), self.wanted.shape[1:]):
                if same(array, self.wanted):
                    kind, text = self._words_for(number, name.text + (f" {layout}" if layout else ""))
                    by = name.text + (".T" if layout == "transposed" else "")
                    yield Relation(kind, text, 1.3 + 0.2 * bool(layout), repairs=(Repair("wrap", by),))
                    return

    def _words_for(self, number: int, name: str) -> tuple[str, str]:
        """Kind and sentence where another value of the rule is wanted."""
        alignment, e = self.alignment, self.equation
        if e is not None and number in e.inputs and number in alignment.linear and len(e.inputs) == 2:
            other = e.inputs[1 - e.inputs.index(number)]
            if other in alignment.linear and e.name == "mul":
                return "not-linear-in-cotangent", f"must be {name}"
            if e.name in ("mul", "div"):
                return "wrong-operand", f"has the factor {alignment.text(other)} too much: must be {name}"
        maker = alignment.program.equations[alignment.position[number]]
        if maker.name in ("add", "add_any") and self.number in maker.inputs:
            other = maker.inputs[1 - maker.inputs.index(self.number)]
            return "missing-term", f"lacks the term {alignment.text(other)}: must be {name}"
        return "wrong-operand", f"must be {name}"

    def slope(self) -> Iterator[Relation]:
        """The derivative of an elementwise function of the forward, or a product with it, that is another one."""
        for value in self.alignment.matcher.values:
            after = self.alignment.matcher.named.get((value.through, value.iteration))
            if after is None or after.array.shape != self.wanted.shape:
                continue
            function = value.through.removeprefix("∂L/∂").removeprefix("(").removesuffix(")")
            if not self.linear and same(self.wanted * after.array, value.array):
                words = f"is not the slope of {function}"
                yield Relation("missing-activation-derivative", words, 1.75, about=value.through)
                return
            if self.linear and same(self.wanted, value.array):
                words = f"is not {self.alignment.own_name(after)} times the slope of {function}"
                yield Relation("missing-activation-derivative", words, 2.5, about=value.through)
                return

    def some_elements(self) -> Iterator[Relation]:
        """Right but for some elements, which have something in common."""
        size = np.max(np.abs(self.wanted), initial=0.0)
        wrong = ~(np.abs(self.given - self.wanted) <= 1e-8 * size)
        if not 0 < wrong.mean() < 1:
            return
        where, kink = self.where(wrong)
        if not where:
            return
        ratio = self.given[wrong] / np.where(self.wanted[wrong] == 0, np.nan, self.wanted[wrong])
        if not np.any(self.wanted[wrong]):
            repairs = ()
            if where.startswith("where "):
                condition = where.removeprefix("where ")
                repairs = (Repair("wrap", f"jnp.where({condition}, 0, {{}})"),)
            kind = "missing-activation-derivative" if kink else "missing-mask"
            yield Relation(kind, f"must be 0 {where}", 1.25, repairs=repairs)
        elif not np.any(self.given[wrong]):
            yield Relation("only-some-elements", f"is 0 {where}, and must not be", 1.4)
        elif np.all(np.isfinite(ratio)) and np.ptp(np.real(ratio)) <= 1e-8 * abs(ratio[0]):
            factor = float(np.real(ratio[0]))
            kind = "double-count" if abs(factor - 2) < 1e-8 else "only-some-elements"
            yield Relation(kind, f"is {factor:.6g} times what it must be {where}", 1.4)
        else:
            yield Relation("unexplained", f"is wrong {where}", 3.5)

    def where(self, wrong: np.ndarray) -> tuple[str, bool]:
        """Words for a set of elements, empty if there are none, and whether a float decides it, as at a kink."""
        shape = wrong.shape[1:]
        if np.all(wrong == wrong[:1]):
            first = wrong[0]
            if len(shape) >= 2 and shape[-1] == shape[-2]:
                diagonal = np.broadcast_to(np.eye(shape[-1], dtype=bool), shape)
                if np.array_equal(first, diagonal):
                    return "on the diagonal", False
                if np.array_equal(first, ~diagonal):
                    return "off the diagonal", False
            for axis in range(len(shape)):
                others = tuple(a for a in range(len(shape)) if a != axis)
                some = first.any(axis=others)
                spread = np.broadcast_to(some.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)
                if np.array_equal(spread, first):
                    index = np.flatnonzero(some)
                    more = " …" if index.size > 6 else ""
                    return f"at index {listed(index[:6])}{more} of axis {axis}", False
        tests = {"== 0": np.equal, "> 0": np.greater, "< 0": np.less, "!= 0": np.not_equal}
        for value in self.at_hand(shape, False):
            if np.iscomplexobj(value.array):
                continue
            for sign, test in tests.items():
                if np.array_equal(test(value.array, 0), wrong):
                    return f"where {value.name} {sign}", value.array.dtype.kind == "f" and np.unique(
                        value.array
                    ).size > 2
        return "", False

    def own_terms(self) -> Iterator[Relation]:
        """One of the terms that the rule adds up here is too much, has a wrong factor, or lacks one."""
        terms = list(self._addends(self.number, 1.0))
        lacking = self.wanted - self.given
        for n, sign in terms if len(terms) > 1 else ():
            name, own = self.alignment.text(n), sign * self._full(n)
            if own.shape != self.given.shape or not np.any(own):
                continue
            needed = own + lacking
            size = float(np.max(np.abs(own)))
            if np.max(np.abs(needed)) <= 1e-8 * size:
                equal = sum(same(s * self._full(m), own) for m, s in terms)
                words = f"counts the term {name} twice" if equal > 1 else f"has the term {name} too much"
                kind = "double-count" if equal > 1 else "extra-term"
                yield Relation(kind, words, 1.2, repairs=(Repair("without", code=name),))
                continue
            factor = constant_factor(own, needed)
            named = name_constant([factor] * len(own), self.shapes) if factor is not None else None
            values = [v for v in self.at_hand(self.given.shape[1:], False) if same(own * v.array, needed)]
            for v in values[:1]:
                repairs = (Repair("swap", f"{bracketed(name)} * {bracketed(v.code)}", name),) if v.code else ()
                words = f"the term {name} lacks the factor {v.bracketed}"
                yield Relation(v.kind_of_factor, words, 1.3 + 0.05 * v.cost, repairs=repairs)
            if named is not None and named.kind == "sign":
                yield Relation("sign", f"has the term {name} with the wrong sign", 1.15, repairs=(Repair("signs"),))
            elif named is not None and not values:
                yield Relation(named.kind, f"has {named.text} times the term {name} that it must have", 1.35)

    def _full(self, number: int) -> np.ndarray:
        x = self.alignment.column(number)
        return x if x.ndim > 1 else np.broadcast_to(x.reshape(-1, *(1,) * (self.given.ndim - 1)), self.given.shape)

    def _addends(self, number: int, sign: float) -> Iterator[tuple[int, float]]:
        """Values that are added up to this one, with their signs."""
        at = self.alignment.position.get(number)
        e = None if at is None else self.alignment.program.equations[at]
        if e is not None and e.name in ("add", "add_any", "sub"):
            yield from self._addends(e.inputs[0], sign)
            yield from self._addends(e.inputs[1], -sign if e.name == "sub" else sign)
        elif e is not None and e.name == "neg":
            yield from self._addends(e.inputs[0], -sign)
        else:
            yield number, sign

    def term(self) -> Iterator[Relation]:
        """The right value less the given one, as one product or sum of values at hand."""
        lacking = self.wanted - self.given
        shape, size = lacking.shape[1:], float(np.sum(np.abs(lacking) ** 2))
        if size == 0:
            return
        linear = [v for v in self.at_hand(shape, self.linear)[:120] if constant_factor(v.array, self.wanted) is None]
        factors = self.at_hand(shape, False)[:MOST_VALUES] if self.linear else linear[:MOST_VALUES]
        axes = [tuple(a) for k in (1, 2) for a in itertools.combinations(range(1, len(shape) + 1), k)]
        total = lambda x, a: np.broadcast_to(x.sum(axis=a, keepdims=True), lacking.shape)

        def terms() -> Iterator[tuple[float, "_Term", np.ndarray]]:
            for v in linear:
                yield 1.8 + 0.1 * v.cost, _Term((), (), (v,)), v.array
            short = linear[:MOST_VALUES]
            for v, a in itertools.product(short, axes):
                yield 2.0 + 0.1 * v.cost, _Term((), a, (v,)), total(v.array, a)
            for f, v in itertools.product(factors, short):
                product, cost = f.array * v.array, 0.1 * (f.cost + v.cost)
                yield 2.1 + cost, _Term((), (), (f, v)), product
                for a in axes:
                    yield 2.2 + cost, _Term((), a, (f, v)), total(product, a)
                    yield 2.3 + cost, _Term((f,), a, (v,)), f.array * total(v.array, a)
            half = MOST_VALUES // 2
            for f, g, v in itertools.product(factors[:half], factors[:half], short[:half]):
                for a in axes[:3]:
                    cost = 2.4 + 0.1 * (f.cost + g.cost + v.cost)
                    yield cost, _Term((f,), a, (g, v)), f.array * total(g.array * v.array, a)

        for count, (cost, term, array) in enumerate(terms()):
            if count % 64 == 0 and time.process_time() > self.deadline:
                return
            own = float(np.sum(np.abs(array) ** 2))
            if not 1e-200 < own < np.inf:
                continue
            factor = float(np.real(np.sum(np.conj(array) * lacking))) / own
            if abs(factor * factor * own - size) > 1e-8 * size or not same(factor * array, lacking):
                continue
            simple = next((f for f in (1.0, -1.0) if abs(factor - f) < 1e-8), None)
            if simple is None and not any(abs(abs(factor) - f) < 1e-8 for f in SIMPLE):
                cost += 0.8
            sign = "" if simple == 1 else "−" if simple == -1 else f"{factor:.4g} · "
            code = term.code
            near = next((f for f in SIMPLE if abs(abs(factor) - f) < 1e-8), abs(factor))
            if simple is None and code:
                code = f"{code} / {1 / near:.0f}" if near < 1 and (1 / near).is_integer() else f"{near:.6g} * {code}"
            repairs = (Repair("wrap", f"{{}} {'+' if factor > 0 else '-'} {code}"),) if code else ()
            yield Relation("missing-term", f"lacks the term {sign}{term}", cost, repairs=repairs)
            return


def as_code(constant: str) -> str:
    """The name of a constant as Python."""
    text = re.sub(r"√(\([^)]*\)|[\w.\[\]]+)", r"jnp.sqrt(\1)", constant)
    return text.replace("²", "**2").replace(" · ", " * ").replace("π", "jnp.pi").replace("ln 2", "jnp.log(2)")


class _Term(NamedTuple):
    """outside · Σ[axes](inside); the sum is left out without axes, which count the probes' as 0."""

    outside: tuple[AtHand, ...]
    axes: tuple[int, ...]
    inside: tuple[AtHand, ...]

    def __str__(self) -> str:
        product = lambda values: " · ".join(v.bracketed for v in values) if len(values) > 1 else values[0].name
        text = product(self.inside)
        if self.axes:
            text = f"Σ[axis {listed(b - 1 for b in self.axes)}]({text})"
        return " · ".join([*(v.bracketed for v in self.outside), text])

    @property
    def code(self) -> str:
        """As Python; empty where a value has no expression."""
        values = (*self.outside, *self.inside)
        if not all(v.code for v in values):
            return ""
        product = lambda values: " * ".join(bracketed(v.code) for v in values)
        inside = product(self.inside) if len(values) > 1 or self.axes else bracketed(self.inside[0].code)
        if self.axes:
            axes = axes_code([a - 1 for a in self.axes])
            inside = f"{bracketed(inside, products=True)}.sum(axis={axes}, keepdims=True)"
        return " * ".join(filter(None, [product(self.outside), inside]))


def _spread(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A reduced value along the axes that it lost, where that is clear; else as it is."""
    for _, laid in layouts(x, shape[1:]):
        return np.asarray(laid)
    return x
