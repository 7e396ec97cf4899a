"""A traced forward as steps on expressions: one equation each, values under the names that the user gave them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxbias import _jaxpr
from jaxbias._derive.fused import recognise
from jaxbias._derive.rules import RULES, NoRule, Rule
from jaxbias._derive.sizes import Sizes
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.names import targets

MOST_FOLLOWED = 1_000_000
"""Entries of a value that depends on no argument, for it to be computed."""

WRITTEN_OUT = {"custom_jvp_call", "remat", "custom_lin"}
"""Calls whose bodies stand for them."""


Variables = Sequence[tuple[str, Any]]
"""What a function closes over, by name."""


def _equal(value: Any, array: np.ndarray) -> bool:
    return bool((np.asarray(value) == array).all())


@dataclass(frozen=True)
class Step:
    """An equation: values by number in and out, and its rule; None where it has none and JAX carries it out."""

    equation: _jaxpr.Equation
    rule: Rule | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Unwritten:
    """An equation that has no rule: what it is, and where it stands."""

    name: str
    step: Step

    def __str__(self) -> str:
        source = self.step.equation.source
        return self.name + (f" in line {source.line}: `{source.text}`" if source else "")


class Reading:
    """The forward, read.

    Attributes:
        steps: in order.
        values: number of a value → its expression; a variable where it has a name.
        defined: the named values in order: (variable, what it is).
        unwritten: variable of a function that JAX carries out → what it is.
    """

    def __init__(self, program: _jaxpr.Program, inputs: Sequence[Expression], closed_over: Variables, sizes: Sizes):
        self.steps: list[Step] = []
        self.values: dict[int, Expression] = {}
        self.defined: list[tuple[Expression, Expression]] = []
        self.unwritten: dict[str, Unwritten] = {}
        self.captured: dict[str, Any] = {}
        self.taken = {"jax", "jnp", "residuals", "forward", "backward", *(x.detail for x in inputs)}
        self._count, self._closed_over, self._sizes = 0, closed_over, sizes
        self._known: dict[int, Any] = {}  # values that are the same whatever the arguments
        numbers = [self._new(x) for x in inputs]
        self.inputs = tuple(numbers)
        self.outputs = self._run(program, numbers, _variables(program))

    def unique(self, text: str) -> str:
        """The text, with a number where it is taken."""
        made, k = text, 1
        while made in self.taken:
            k += 1
            made = f"{text}_{k}"
        self.taken.add(made)
        return made

    def _new(self, value: Expression) -> int:
        self.values[self._count] = value
        self._count += 1
        return self._count - 1

    def _run(self, program: _jaxpr.Program, inputs: Sequence[int], names: dict[int, str]) -> tuple[int, ...]:
        numbers = dict(zip(program.inputs, inputs))

        def number(i: int) -> int:
            if i not in numbers:
                size = self._sizes.get((id(program), i))
                constant = (
                    self._constant(program.constants[i], program.dtypes[i]) if size is None else size(program.dtypes[i])
                )
                numbers[i] = self._new(constant)
                self._known[numbers[i]] = program.constants[i]
            return numbers[i]

        for equation in program.equations:
            inputs = [number(i) for i in equation.inputs]
            outputs = self._equation(equation, inputs)
            self._follow(equation, inputs, outputs)
            numbers.update(zip(equation.outputs, outputs))
            for i, out in zip(equation.outputs, outputs):
                if i in names:
                    self._define(out, names[i])
        return tuple(number(i) for i in program.outputs)

    def _define(self, number: int, text: str) -> None:
        """Give a value a name; what is a variable, a number or an argument already keeps what it is."""
        value = self.values[number]
        core = ex.bare(value)
        if core.op == "name" and number in self._known and core.detail.startswith("drawn"):
            held = self.captured.pop(core.detail)
            self.captured[made := self.unique(text)] = held
            self.values[number] = ex.spread(ex.name(made, core.shape, core.dtype), value.shape)
            return
        if core.op in ("name", "number", "size"):
            return
        variable = ex.name(self.unique(text), core.shape, core.dtype)
        self.defined.append((variable, core))
        self.values[number] = ex.spread(variable, value.shape)

    def _constant(self, held: Any, dtype: Any) -> Expression:
        array = np.asarray(held, dtype)
        if array.size and (array.ndim == 0 or (array == array.flat[0]).all()):
            scalar = held if isinstance(held, int | float | complex) else array.flat[0].item()  # as it was written
            kind = {"b": bool, "i": int, "u": int, "c": complex}.get(array.dtype.kind, float)
            return ex.spread(ex.number(kind(scalar), array.dtype), array.shape)
        for text, known in self.captured.items():
            if known is held:
                return ex.name(text, array.shape, array.dtype)
        same = (text for text, value in self._closed_over if np.shape(value) == array.shape and _equal(value, array))
        text = self.unique(next(same, "constant"))
        self.captured[text] = held
        return ex.name(text, array.shape, array.dtype)

    def _equation(self, equation: _jaxpr.Equation, inputs: list[int]) -> Sequence[int]:
        args = [self.values[i] for i in inputs]
        name = equation.name
        if inputs and all(i in self._known for i in inputs) and (folded := self._folded(equation, inputs)) is not None:
            return folded
        if name == "custom_jvp_call":
            called = equation.called
            if called == "logaddexp" and ex.is_zero(args[1]):
                name, inputs, args = "softplus", inputs[:1], args[:1]
            elif called in RULES:
                name = called
        if name == "split":
            return self._split(equation, inputs[0])
        if name in WRITTEN_OUT and equation.bodies:
            return self._run(equation.bodies[0], inputs, {})
        if name in RULES and len(equation.outputs) == 1:
            try:
                value = RULES[name].read(equation, args)
            except NoRule:
                pass
            else:
                value = ex.spread(value, equation.shapes.outputs[0])
                fused = recognise(value) if name in ("div", "add", "sub") else None
                if fused is not None and (of := self._number_of(fused.of)) is not None:
                    rule = Rule(RULES[name].read, lambda eq, args, out, d: [fused.pull(out, d)])
                    return self._step(Step(equation, rule, (of,), ()), [fused.value])
                return self._step(Step(equation, RULES[name], tuple(inputs), ()), [value])
        text = self.unique(name)
        step = Step(equation, None, tuple(inputs), ())
        called = f"{text}({', '.join(f'{{{k}}}' for k in range(len(args)))})"
        forms = list(zip(equation.shapes.outputs, equation.dtypes.outputs))
        outputs = [ex.call(called + (f"[{i}]" if len(forms) > 1 else ""), args, *form) for i, form in enumerate(forms)]
        made = self._step(step, outputs)
        self.unwritten[text] = Unwritten(equation.name, self.steps[-1])
        return made

    def _number_of(self, x: Expression) -> int | None:
        """A value that is this expression."""
        return next((n for n, value in self.values.items() if value is x), None)

    def _step(self, step: Step, values: Iterable[Expression]) -> list[int]:
        outputs = [self._new(value) for value in values]
        self.steps.append(replace(step, outputs=tuple(outputs)))
        return outputs

    def _follow(self, equation: _jaxpr.Equation, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Keep what a value is that depends on no argument."""
        if equation.bodies or not all(i in self._known for i in inputs) or all(i in self._known for i in outputs):
            return
        if max(map(math.prod, equation.shapes.outputs), default=0) <= MOST_FOLLOWED:
            self._known.update(zip(outputs, equation.bind(*(self._known[i] for i in inputs))))

    def _folded(self, equation: _jaxpr.Equation, inputs: Sequence[int]) -> list[int] | None:
        """What depends on no argument, as random numbers from a given key do: computed now, and closed over.

        None where it can be written, as a mask of ones can.
        """
        arrays = [self._known[i] for i in inputs]
        drawn = any(ex.bare(self.values[i]).op == "name" for i in inputs)
        if equation.bodies or not (drawn or equation.name in ("random_seed", "random_wrap", "random_bits")):
            return None
        outputs = []
        for held in equation.bind(*arrays):
            text = self.unique("drawn")
            self.captured[text] = held
            outputs.append(self._new(ex.name(text, held.shape, held.dtype)))
            self._known[outputs[-1]] = held
        return outputs

    def _split(self, equation: _jaxpr.Equation, number: int) -> list[int]:
        """One slice for each part."""
        axis, begin, made = equation.params["axis"], 0, []
        x = self.values[number]
        for part, n in enumerate(equation.params["sizes"]):
            starts, stops = [0] * x.ndim, list(x.shape)
            starts[axis], stops[axis] = begin, begin + n
            begin += n
            params = {"start_indices": tuple(starts), "limit_indices": tuple(stops), "strides": None}
            piece = replace(equation, name="slice", params=params, outputs=equation.outputs[part : part + 1], bodies=())
            value = RULES["slice"].read(piece, [x])
            made += self._step(Step(piece, RULES["slice"], (number,), ()), [value])
        return made


def _variables(program: _jaxpr.Program) -> dict[int, str]:
    """Number of a value → the variable that the user's code assigns it to, in every pass of a Python loop.

    A run of equations that belong to one piece of code computes its value; the last of them is what is assigned. Where
    an equation of that piece is followed by one from inside of it, the piece begins anew.
    """
    names: dict[int, tuple[int, str]] = {}
    open_runs: dict[Any, tuple[int, _jaxpr.Equation, bool]] = {}

    def close(segment: Any) -> None:
        depth, last, _ = open_runs.pop(segment)
        variables = targets(segment)
        for text, number in zip(variables, last.outputs[-len(variables) :]):
            if number not in names or depth >= names[number][0]:
                names[number] = depth, text

    for equation in program.equations:
        segments = {segment: depth for depth, segment in enumerate(equation.segments)}
        for segment in [s for s in open_runs if s not in segments]:
            close(segment)
        for segment, depth in segments.items():
            if not targets(segment):
                continue
            innermost = depth == 0
            if segment in open_runs and open_runs[segment][2] and not innermost:
                close(segment)  # inside of it again: another pass
            open_runs[segment] = depth, equation, innermost
    for segment in list(open_runs):
        close(segment)
    return {number: text for number, (_, text) in names.items()}
