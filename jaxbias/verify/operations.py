"""One operation of a rule changed: which change gives the wanted value?"""

import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from jaxbias import _jaxpr
from jaxbias.symbols.reference_values import ReferenceValue
from jaxbias.verify.alignment import LAYOUT, Alignment, layouts, same
from jaxbias.verify.repairs import Repair, bracketed, is_code

MOST_OPERATIONS = 60
"""Between right values and a wrong one, for all changes to be tried."""

HIDDEN = 0.6
"""What it costs more to say that a gradient is needed which the rule does not compute: it may hold the answer."""

SIGNS = {"add": "sub", "add_any": "sub", "sub": "add"}
COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}

Change = Callable[[int, list[Any]], Any]
"""(probe, operands) → the output that the operation is to have."""


class Changed(NamedTuple):
    """What is wrong with an operation, and the operation as it must be; `number`: where it stands, if not there."""

    kind: str
    text: str
    cost: float | int
    change: Change
    number: int | None = None
    repairs: tuple[Repair, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Edit:
    """A change of one operation that mends a value.

    Attributes:
        number: of the output of that operation.
        kind: of mistake, one of `report.KINDS`.
        text: a sentence without its subject: "takes g where d_n is needed".
        cost: how far-fetched it is.
        repairs: of its code.
        about: name of a reference value that it speaks of.
    """

    number: int
    kind: str
    text: str
    cost: float | int
    repairs: tuple[Repair, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class AtHand:
    """A right value: of the reference, or one that the rule has computed.

    Attributes:
        own: as it was before it was laid out.
        derivative, through: see `ReferenceValue`.
    """

    name: str
    array: np.ndarray
    cost: float | int
    own: np.ndarray | None = None
    derivative: bool = False
    through: tuple[str, int] = ("", 0)

    @cached_property
    def code(self) -> str:
        """As Python; empty where it has no expression, as ∂L/∂p has none."""
        return (
            _laid_out(self.name, self.array if self.own is None else self.own, self.array) if is_code(self.name) else ""
        )

    @property
    def kind_of_factor(self) -> str:
        """Of mistake, where a value is not multiplied by this one."""
        if self.derivative:
            return "missing-activation-derivative"
        return "missing-mask" if set(np.unique(self.array).tolist()) <= {0.0, 1.0} else "missing-factor"

    @property
    def as_factor(self) -> tuple[Repair, ...]:
        """What puts it into a product."""
        return (Repair("wrap", f"{{}} * {bracketed(self.code)}"),) if self.code else ()

    @property
    def bracketed(self) -> str:
        """As a factor of a product."""
        plain = self.name.startswith(("∂", "(")) or re.fullmatch(r"[\w.]+(\([^ ]*\))?", self.name)
        return self.name if plain else f"({self.name})"


def at_hand(alignment: Alignment, number: int, shape: tuple[int, ...], linear: bool) -> list[AtHand]:
    """Right values of this shape, up to layout, that a value of the rule could be computed from; likely ones first."""
    values: list[AtHand] = []

    def add(name: str, array: np.ndarray, cost: float, derivative: bool = False, through: Any = ("", 0)) -> None:
        array = array.astype(float) if array.dtype.kind == "b" else array
        if array.dtype.kind not in "fiuc":
            return
        for layout, laid in layouts(array, shape):
            turned = name if layout != "transposed" else f"{name}.T" if name.isidentifier() else f"({name}).T"
            own = laid if layout == "transposed" else array
            values.append(AtHand(turned, np.asarray(laid), cost + 0.2 * bool(layout), own, derivative, through))

    for value in alignment.matcher.values:
        if value.linear == linear and value.rank < 3:
            add(alignment.own_name(value), value.array, value.rank, value.derivative, (value.through, value.iteration))
    for other, name in alignment.names.items():
        inside = other in alignment.position and other != number and other not in alignment.matches
        if inside and name.variable and (other in alignment.linear) == linear and alignment.known(other):
            add(name.text, alignment.column(other), 1.2)
    return sorted(values, key=lambda value: value.cost)


def _laid_out(code: str, x: np.ndarray, laid: np.ndarray) -> str:
    """Code of an array that stands where `laid` is needed: unit axes put in where broadcasting does not by itself."""
    own, shape = x.shape[1:], laid.shape[1:]
    if own == shape or (_fits(own, shape[len(shape) - len(own) :]) and same(_spread(_in_front(x, shape), laid), laid)):
        return code
    for axes in itertools.combinations(range(len(shape)), len(own)):
        full = [own[axes.index(a)] if a in axes else 1 for a in range(len(shape))]
        if _fits(full, shape) and same(_spread(x.reshape(len(x), *full), laid), laid):
            index = ", ".join(":" if a in axes else "None" for a in range(len(shape)))
            return f"{bracketed(code, products=True)}[{index}]"
    return ""


def _fits(own: Sequence[int], shape: Sequence[int]) -> bool:
    return len(own) == len(shape) and all(n in (1, m) for n, m in zip(own, shape))


def _in_front(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return x.reshape(len(x), *(1,) * (len(shape) - x.ndim + 1), *x.shape[1:])


def _spread(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, like.shape)


def edits(alignment: Alignment, number: int, wanted: np.ndarray, deadline: float | int) -> Iterator[Edit]:
    """Every change of one operation, between right values and this one, that gives it the wanted value."""
    region = _region(alignment, number)
    if len(region) > MOST_OPERATIONS:
        return
    trial = _Trial(alignment, region, number, wanted)
    for edit in _shared_operands(alignment, trial):
        if time.process_time() > deadline:
            return
        yield edit
    for position in region:
        equation = alignment.program.equations[position]
        for changed in _changes(alignment, equation):
            if time.process_time() > deadline:
                return
            if trial(position, changed.change):
                place = equation.outputs[0] if changed.number is None else changed.number
                yield Edit(place, changed.kind, changed.text, changed.cost, changed.repairs, changed.about)


def _shared_operands(alignment: Alignment, trial: "_Trial") -> Iterator[Edit]:
    """Another value in the place of one that several operations take, as softmax does what it is the softmax of."""
    equations = [alignment.program.equations[p] for p in trial.region]
    inside = {n for e in equations for n in e.outputs}
    uses = Counter(n for e in equations for n in set(e.inputs) if n not in inside)
    for n, count in uses.items():
        shape, program = alignment.program.shapes[n], alignment.program
        dtype = program.dtypes[n]
        if count < 2 or n in program.constants or not shape or dtype is None or np.dtype(dtype).kind != "f":
            continue
        now = alignment.column(n)
        for value in at_hand(alignment, n, shape, n in alignment.linear):
            if same(value.array, now) or not trial.with_value(n, value.array):
                continue
            kept = np.abs(value.array - now) <= 1e-9 * np.abs(now)
            masked = bool(np.any(kept)) and np.ptp(value.array[~kept]) == 0  # all the others are one number
            taken, kind = alignment.text(n), "missing-mask" if masked else "wrong-operand"
            repairs = (Repair("swap", value.code, taken),) if value.code else ()
            words = f"takes {taken} where {value.name} is needed"
            cost = 1.35 + 0.1 * value.cost + (HIDDEN if n in alignment.linear and not value.code else 0.0)
            yield Edit(trial.number, kind, words, cost, repairs)


def _region(alignment: Alignment, number: int) -> list[int]:
    """Positions of the equations between right values and this one."""
    positions, todo = set(), [number]
    while todo:
        n = todo.pop()
        if (
            n in alignment.position
            and (n == number or not alignment.known(n))
            and alignment.position[n] not in positions
        ):
            positions.add(alignment.position[n])
            todo += alignment.program.equations[alignment.position[n]].inputs
    return sorted(positions)


class _Trial:
    """Carries a region out with one operation changed."""

    def __init__(self, alignment: Alignment, region: list[int], number: int, wanted: np.ndarray):
        self.alignment, self.region, self.number, self.wanted = alignment, region, number, wanted

    def __call__(self, position: int, change: Change) -> bool:
        for k in range(len(self.alignment.cases)):
            try:
                out = self._run(k, position, change)
            except (ValueError, IndexError):  # the shapes of a change need not fit what follows
                return False
            if out is None or not same(np.asarray(out)[None], self.wanted[k : k + 1]):
                return False
        return True

    def with_value(self, number: int, array: np.ndarray) -> bool:
        """Is what is wanted got, where this value is another one?"""
        for k, values in enumerate(self.alignment.values):
            changed = {number: array[k]}
            with np.errstate(all="ignore"):
                for p in self.region:
                    e = self.alignment.program.equations[p]
                    if any(i in changed for i in e.inputs):
                        changed.update(zip(e.outputs, _jaxpr.apply(e, [changed.get(i, values[i]) for i in e.inputs])))
            out = changed.get(self.number)
            if out is None or not same(np.asarray(out)[None], self.wanted[k : k + 1]):
                return False
        return True

    def _run(self, k: int, position: int, change: Change) -> Any:
        values, changed = self.alignment.values[k], {}
        with np.errstate(all="ignore"):
            for p in self.region[self.region.index(position) :]:
                equation = self.alignment.program.equations[p]
                operands = [changed.get(i, values[i]) for i in equation.inputs]
                if p == position:
                    changed[equation.outputs[0]] = change(k, operands)
                elif any(i in changed for i in equation.inputs):
                    changed.update(zip(equation.outputs, _jaxpr.apply(equation, operands)))
        return changed.get(self.number)


def _changes(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """What may be wrong with one operation, and the operation as it would be right."""
    program, name = alignment.program, equation.name
    (output,) = equation.outputs[:1]
    shape = program.shapes[output]
    apply = lambda e, operands: _jaxpr.apply(e, operands)[0]
    if name in SIGNS:
        other = SIGNS[name]
        yield Changed(
            "sign",
            f"must {'add' if other == 'add' else 'subtract'} here",
            0.9,
            (lambda k, x: x[0] + x[1] if other == "add" else x[0] - x[1]),
            repairs=(Repair("signs"),),
        )
    if name in COMPARISONS:
        for other, sign in COMPARISONS.items():
            if other != name:
                flipped = replace(equation, name=other)
                yield Changed(
                    "missing-mask",
                    f"compares by {COMPARISONS[name]} in place of {sign}",
                    1.1,
                    (lambda k, x, e=flipped: apply(e, x)),
                    repairs=(Repair("compares", sign),),
                )
    if name == "reduce_sum":
        rank = len(program.shapes[equation.inputs[0]])
        for count in range(rank + 1):
            for axes in itertools.combinations(range(rank), count):
                if axes != tuple(equation.params["axes"]) and count == len(equation.params["axes"]):
                    turned = replace(equation, params={**equation.params, "axes": axes})
                    text = f"sums over axis {listed(equation.params['axes'])}, and must sum over axis {listed(axes)}"
                    repairs = (Repair("axes", axes_code(axes)), Repair("letters"))
                    change = lambda k, x, e=turned: apply(e, x)
                    yield Changed("wrong-reduction-axis", text, 0.8, change, repairs=repairs)
    if name == "scatter":
        adding = replace(equation, name="scatter-add")
        words = "overwrites where indices are repeated, and must add"
        repairs = (Repair("calls", "add", "set"),)
        yield Changed("index-collision", words, 0.7, lambda k, x: apply(adding, x), repairs=repairs)
    if name == "dynamic_update_slice":
        words, repairs = "overwrites what is there, and must add to it", (Repair("calls", "add", "set"),)
        change = lambda k, x: x[0] + apply(equation, [np.zeros_like(x[0]), *x[1:]])
        yield Changed("overwritten-not-accumulated", words, 0.7, change, repairs=repairs)
    if name == "integer_pow":
        y = equation.params["y"]
        for power in (y - 1, y + 1, -y):
            turned = replace(equation, params={**equation.params, "y": power})
            text = f"has the power {y}, and must have {power}"
            operand = alignment.text(equation.inputs[0])
            by = operand if power == 1 else f"{bracketed(operand, products=True)}**{power}"
            repairs = tuple(Repair("swap", by, code) for code in (f"{operand}**{y}", f"{operand} * {operand}"))
            yield Changed("scale-constant", text, 1.2, lambda k, x, e=turned: apply(e, x), repairs=repairs)
    linear = output in alignment.linear
    if name not in LAYOUT and len(equation.inputs) == 1 and program.shapes[equation.inputs[0]] == shape:
        kind = "not-linear-in-cotangent" if equation.inputs[0] in alignment.linear and name != "neg" else "extra-term"
        kind, repairs = ("sign", (Repair("signs"),)) if name == "neg" else (kind, (Repair("calls", "", name),))
        yield Changed(kind, f"must not take the {_word(name)}", 1.3, lambda k, x: x[0], repairs=repairs)
    if name in ("mul", "div", "add", "add_any", "sub"):
        for j, n in enumerate(equation.inputs):
            if program.shapes[equation.inputs[1 - j]] == shape and (
                n not in alignment.linear or name not in ("mul", "div")
            ):
                kind, words = "wrong-operand", f"has the factor {alignment.text(n)} too much"
                if name not in ("mul", "div"):
                    twice = _occurs(alignment, equation.inputs[1 - j], n)
                    kind = "double-count" if twice else "extra-term"
                    term = alignment.text(n)
                    words = f"counts the term {term} twice" if twice else f"has the term {term} too much"
                repairs = (Repair("without", code=alignment.text(n)),)
                yield Changed(kind, words, 1.5, lambda k, x, j=j: x[1 - j], repairs=repairs)
    if name == "mul":
        yield from _distributed(alignment, equation)
    if name not in LAYOUT:
        yield from _other_reductions(alignment, equation)
        yield from _other_operands(alignment, equation)
        if not equation.bodies and program.dtypes[output] is not None and np.dtype(program.dtypes[output]).kind in "fc":
            yield from _factors(alignment, output, shape, linear)


def _other_operands(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
    """Another right value in the place of an operand."""
    program = alignment.program
    for j, n in enumerate(equation.inputs):
        if n in program.constants or program.dtypes[n] is None or np.dtype(program.dtypes[n]).kind not in "fcb":
            continue
        now = alignment.column(n)
        values = at_hand(alignment, n, now.shape[1:], n in alignment.linear)
        if equation.outputs[0] not in alignment.linear:  # the cotangent may be what it lacks
            values += at_hand(alignment, n, now.shape[1:], True)
        elif alignment.linear.issuperset(equation.inputs) and len(equation.inputs) == 2:  # or has too much
            values += at_hand(alignment, n, now.shape[1:], False)
        if equation.name in ("reduce_sum", "dot_general", "cumsum"):
            yield from _masked_operands(alignment, equation, j)
        for value in values:
            if same(value.array, now.astype(value.array.dtype)):
                continue

            def change(k: int, x: list[Any], j: int = j, array: np.ndarray = value.array) -> Any:
                operand = array[k] if x[j].dtype.kind != "b" else array[k] != 0
                return _jaxpr.apply(equation, [*x[:j], operand, *x[j + 1 :]])[0]

            taken = alignment.text(n)
            kind = "transpose" if value.name == f"{taken}.T" else "wrong-operand"
            if n in alignment.linear and value.own is not None and value.own[0].size < value.array[0].size:
                continue  # a gradient broadcast back gives itself under a sum
            after = alignment.matcher.named.get(value.through)
            if after is not None and same(now, after.array):
                function = value.through[0].removeprefix("∂L/∂").removeprefix("(").removesuffix(")")
                slopes = [slope.code for slope in _slopes(alignment, after, value)]
                written = [value.code] * bool(value.code) + [f"{taken} * {bracketed(slope)}" for slope in slopes]
                repairs = tuple(Repair("swap", code, taken) for code in written)
                words = f"takes {taken} without the slope of {function}"
                slope = "missing-activation-derivative"
                yield Changed(slope, words, 1.3, change, repairs=repairs, about=value.through[0])
                continue
            if n in alignment.linear and value.own is not None and equation.inputs.count(n) == 2:
                kind = "not-linear-in-cotangent"
            repairs = (Repair("swap", value.code, taken),) if value.code else ()
            if kind == "transpose":
                repairs = (Repair("transposes", code=taken), Repair("letters"))
            text, at = f"takes {taken} where {value.name} is needed", None
            if n in alignment.constant and n in alignment.names and kind == "wrong-operand":  # its own line is wrong
                at, text = n, f"must be {value.name}"
                repairs = (Repair("wrap", value.code),) if value.code else ()
            cost = 1.4 + 0.1 * value.cost + (HIDDEN if n in alignment.linear and not value.code else 0.0)
            yield Changed(kind, text, cost, change, at, repairs)


def _occurs(alignment: Alignment, number: int, term: int) -> bool:
    """Is the term among those of a sum?"""
    if same(alignment.column(number), alignment.column(term)):
        return True
    at = alignment.position.get(number)
    e = None if at is None else alignment.program.equations[at]
    return e is not None and e.name in ("add", "add_any") and any(_occurs(alignment, i, term) for i in e.inputs)


def _distributed(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
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
        if value.derivative or value.kind_of_factor == "missing-mask":

            def change(k: int, x: list[Any], array: np.ndarray = value.array) -> Any:
                return _jaxpr.apply(equation, [*x[:j], x[j] * array[k], *x[j + 1 :]])[0]

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


def _other_reductions(alignment: Alignment, equation: _jaxpr.Equation) -> Iterator[Changed]:
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

                def change(k: int, x: list[Any], j: int = j, array: np.ndarray = array) -> Any:
                    return _jaxpr.apply(equation, [*x[:j], array[k], *x[j + 1 :]])[0]

                repairs = (Repair("axes", axes_code(axes)),)
                words = f"{text} over axis {listed(axes)}"
                yield Changed("wrong-reduction-axis", words, 0.85, change, e.outputs[0], repairs)


def _factors(alignment, output, shape, linear) -> Iterator[Changed]:
    """A factor that the output lacks."""
    for value in at_hand(alignment, output, shape, False):
        if value.cost < 2.5 and np.ptp(np.abs(value.array)) > 0:
            text, change = f"lacks the factor {value.bracketed}", partial(_product, alignment, output, value.array)
            yield Changed(value.kind_of_factor, text, 1.6 + 0.1 * value.cost, change, repairs=value.as_factor)


def _product(alignment: Alignment, output: int, array: np.ndarray, k: int, operands: list[Any]) -> Any:
    equation = alignment.program.equations[alignment.position[output]]
    return _jaxpr.apply(equation, operands)[0] * array[k]


def _word(name: str) -> str:
    return {"neg": "negative", "tanh": "tanh", "exp": "exponential", "sqrt": "root", "log": "logarithm"}.get(name, name)


def listed(numbers) -> str:
    return ", ".join(map(str, numbers))


def axes_code(axes: Sequence[int]) -> str:
    """Axes as an argument."""
    return str(axes[0]) if len(axes) == 1 else f"({listed(axes)})"
