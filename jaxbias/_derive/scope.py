"""A function or the body of a loop that has been read: its steps, its statements, and which values are made in it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxbias import _jaxpr
from jaxbias._derive.rules import Rule
from jaxbias._derive.statements import Assign, Statement
from jaxbias._derive.values import Values
from jaxbias.symbols import expressions as ex
from jaxbias.symbols import queries
from jaxbias.symbols.expressions import Expression


@dataclass(frozen=True)
class Step:
    """An equation: values by number in and out, and its rule; None where it has none and JAX carries it out."""

    equation: _jaxpr.Equation
    rule: Rule | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    """A loop or a choice: its values by number, and how its error signals are derived.

    Attributes:
        pull: of the backward that it is part of, the step itself and the error signals of what comes out.
    """

    equation: _jaxpr.Equation
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    pull: Callable[..., list[Expression | None]]


class Scope:
    """What has been read.

    Attributes:
        values: of the whole derivation.
        above: the function around it.
        steps: in order; a loop or a choice is one step.
        statements: the named values in order.
        inputs, outputs: numbers of values.
    """

    outputs: tuple[int, ...]

    def __init__(self, values: Values, inputs: Sequence[int], above: "Scope | None", own: Sequence[int]):
        self.values, self.above = values, above
        self.steps: list[Step | Whole] = []
        self.statements: list[Statement] = []
        self.inputs = tuple(inputs)
        self._own = set(own)

    def makes(self, number: int) -> bool:
        """Whether the value is made here, and not in a function around it."""
        return number in self._own

    def named_above(self, number: int) -> None:
        """See that a value of a function around this one has a name there, if it is worth one."""
        if self.above is None or self.makes(number) or number in self.values.known:
            return
        if not self.above.makes(number):
            self.above.named_above(number)
        elif queries.weight(ex.bare(self.values.of[number])):
            self.above.define(number, queries.word_for(self.values.of[number]))

    def define(self, number: int, text: str) -> None:
        """Give a value a name; what is a variable, a number or an argument already keeps what it is."""
        values = self.values
        value = values.of[number]
        core = ex.bare(value)
        if core.op == "name" and core.detail in values.drawn:
            held = values.captured.pop(core.detail)
            values.captured[made := values.unique(text)] = held
            values.drawn.add(made)
            values.of[number] = ex.spread(ex.name(made, core.shape, core.dtype), value.shape)
            return
        if core.op in ("name", "number", "size"):
            return
        variable = values.variable(text, core.shape, core.dtype)
        self.statements.append(Assign(variable, core))
        values.of[number] = ex.spread(variable, value.shape)

    def step(self, step: Any, values: Iterable[Expression]) -> list[int]:
        """Append a step that makes these values."""
        outputs = [self.values.new(value) for value in values]
        self._own.update(outputs)
        self.steps.append(replace(step, outputs=tuple(outputs)))
        return outputs

    def body(self, program: _jaxpr.Program, inputs: Sequence[int], own: Sequence[int]) -> "Scope":
        """The body of a loop or a branch, read."""
        raise NotImplementedError

    def equation(self, equation: _jaxpr.Equation, inputs: list[int]) -> Sequence[int]:
        """Read one equation; the numbers of what comes out."""
        raise NotImplementedError

    def follow(self, equation: _jaxpr.Equation, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Keep what a value is that depends on no argument."""
        raise NotImplementedError
