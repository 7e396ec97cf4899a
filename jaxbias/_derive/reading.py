"""A traced forward as steps on expressions: one equation each, values under the names that the user gave them."""

import math
from collections.abc import Sequence
from typing import Any

from jaxbias import _jaxpr
from jaxbias._derive import control
from jaxbias._derive.fused import recognise
from jaxbias._derive.rules import NoRule, Rule, layout, rule_of
from jaxbias._derive.scope import Scope, Step
from jaxbias._derive.statements import Assign
from jaxbias._derive.values import Draw, Later, Unwritten, Values
from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.names import targets

MOST_FOLLOWED = 1_000_000
"""Entries of a value that depends on no argument, for it to be computed."""

WRITTEN_OUT = {"custom_jvp_call", "remat", "custom_lin"}
"""Calls whose bodies stand for them."""

CALLED = {"_det"}
"""Functions with a derivative of their own that their body does not stand for: that of a determinant is defined where
the matrix has no inverse."""

LAYOUT = {"broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "neg", "slice"}
"""What costs nothing to do again in every pass of a loop."""

RANDOM = {"random_seed", "random_wrap", "random_bits", "random_fold_in", "random_split", "random_unwrap"}


class Reading(Scope):
    """A function or the body of a loop, read from its program.

    Args:
        above: the function around it.
        own: of a loop's body, the inputs that are new in every pass.
    """

    def __init__(
        self,
        values: Values,
        program: _jaxpr.Program,
        inputs: Sequence[int],
        above: Scope | None = None,
        own: Sequence[int] = (),
    ):
        super().__init__(values, inputs, above, inputs if above is None else own)
        self._passes = bool(own)
        self.outputs = self._run(program, inputs, self._called(program))

    def body(self, program: _jaxpr.Program, inputs: Sequence[int], own: Sequence[int]) -> Scope:
        """The body of a loop or a branch of this function.

        Args:
            own: those of the inputs that are new in every pass of a loop; none are in a branch.
        """
        return Reading(self.values, program, inputs, self, own)

    def _called(self, program: _jaxpr.Program) -> dict[int, str]:
        """Number of a value → its variable; in which function of the user's that stands is kept for the writing."""
        names = _variables(program)
        self._functions = {number: segment.function for number, (_, segment) in names.items()}
        return {number: text for number, (text, _) in names.items()}

    def _run(self, program: _jaxpr.Program, inputs: Sequence[int], names: dict[int, str]) -> tuple[int, ...]:
        numbers = dict(zip(program.inputs, inputs))

        def number(i: int) -> int:
            if i not in numbers:
                numbers[i] = self.values.constant(program, i)
            return numbers[i]

        before = self._before(program, {i for i, n in zip(program.inputs, inputs) if not self.makes(n)})
        for equation in program.equations:
            values = [number(i) for i in equation.inputs]
            home = self._home(values) if id(equation) in before else self
            if self._draws(equation, values):
                outputs = self._from_keys(equation, values)
                numbers.update(zip(equation.outputs, outputs))
                for i, out in zip(equation.outputs, outputs):
                    if i in names:
                        self._draw(out, names[i])
                continue
            for value in values:
                self._draw(value, "drawn")
                home.named_above(value)
            if equation.name in control.READ and equation.bodies:
                outputs = control.READ[equation.name](home, equation, values, [names.get(i) for i in equation.outputs])
            else:
                outputs = home.equation(equation, values)
            home.follow(equation, values, outputs)
            numbers.update(zip(equation.outputs, outputs))
            for i, out in zip(equation.outputs, outputs):
                if i in names:
                    home.define(out, names[i])
                    self.values.functions.setdefault(ex.bare(self.values.of[out]).detail, self._functions[i])
        for i in program.outputs:
            self._draw(number(i), "drawn")
        return tuple(number(i) for i in program.outputs)

    def _draws(self, equation: _jaxpr.Equation, inputs: Sequence[int]) -> bool:
        """Whether what comes out is made of keys alone: random numbers, for which there is no error signal.

        What the user's code computes of them is written: from a draw that has a name, or that a call has returned.
        """
        values = self.values
        unknown = [i for i in inputs if i not in values.known]
        keys = [i for i in unknown if _is_key(values.of[i].dtype) or (i in values.of_keys and not values.of[i].detail)]
        if not unknown or len(keys) < len(unknown):
            return bool(unknown) and equation.name == "random_wrap"
        computes = equation.caller is None and not equation.bodies and not equation.name.startswith("random_")
        return not computes or any(_is_key(values.of[i].dtype) for i in keys)

    def _from_keys(self, equation: _jaxpr.Equation, inputs: Sequence[int]) -> list[int]:
        """Numbers of what is made of keys, which has no name until something else reads it."""
        outputs = []
        for place, (shape, dtype) in enumerate(zip(equation.shapes.outputs, equation.dtypes.outputs)):
            number = self.values.new(ex.name("", shape, dtype))
            self._own.add(number)
            self.values.of_keys[number] = equation, tuple(inputs), place
            outputs.append(number)
        return outputs

    def _draw(self, number: int, text: str) -> None:
        """A statement that draws, once, under this name."""
        values = self.values
        core = values.of[number]
        if number not in values.of_keys or core.detail or _is_key(core.dtype):
            return
        variable = values.variable(text, core.shape, core.dtype)
        keys = values.keys_of(number)
        function = values.unique(f"draw_{variable.detail}")
        values.draws[function] = Draw(number, keys, values.of_keys[number][0])
        holes = ", ".join(f"{{{k}}}" for k in range(len(keys)))
        call = ex.call(f"{function}({holes})", [values.of[key] for key in keys], core.shape, core.dtype)
        self.statements.append(Assign(variable, call))
        values.of[number] = variable

    def _before(self, program: _jaxpr.Program, same: set[int]) -> set[int]:
        """Ids of the equations of a loop's body that are the same in every pass, and worth computing before it.

        Args:
            same: inputs that are.
        """
        if not self._passes:
            return set()
        same = same | set(program.constants)
        alike = []
        for equation in program.equations:
            if same.issuperset(equation.inputs):
                same.update(equation.outputs)
                alike.append(equation)
        worth: set[int] = set()
        needed: set[int] = set()
        for equation in reversed(alike):
            if equation.name not in LAYOUT or needed.intersection(equation.outputs):
                worth.add(id(equation))
                needed.update(equation.inputs)
        return worth

    def _home(self, inputs: Sequence[int]) -> Scope:
        """Where it is computed: before the loop, unless it depends on nothing at all."""
        moved = self.above is not None and self._passes and not all(i in self.values.known for i in inputs)
        if not moved or any(self.makes(i) for i in inputs):
            return self
        return self.above._home(inputs) if isinstance(self.above, Reading) else self

    def equation(self, equation: _jaxpr.Equation, inputs: list[int]) -> Sequence[int]:
        """Read one equation; the numbers of what comes out."""
        args = [self.values.of[i] for i in inputs]
        name, known = equation.name, self.values.known
        if inputs and all(i in known for i in inputs) and (folded := self._folded(equation, inputs)) is not None:
            return folded
        if name == "custom_jvp_call":
            called = equation.called
            if called == "logaddexp" and ex.is_zero(args[1]):
                name, inputs, args = "softplus", inputs[:1], args[:1]
            elif rule_of(called, len(equation.outputs)) is not None:
                name = called
        if name == "split":
            return [out for piece in layout.pieces(equation) for out in self.equation(piece, inputs)]
        if name in WRITTEN_OUT and equation.bodies and equation.called not in CALLED:
            return self._run(equation.bodies[0], inputs, {})
        if (rule := rule_of(name, len(equation.outputs))) is not None:
            try:
                read = rule.read(equation, args)
            except NoRule:
                pass
            else:
                values = [read] if isinstance(read, Expression) else list(read)
                values = [ex.spread(value, shape) for value, shape in zip(values, equation.shapes.outputs)]
                fused = recognise(values[0]) if name in ("div", "add", "sub") else None
                if fused is not None and (of := self._number_of(fused.of)) is not None:
                    rule = Rule(rule.read, lambda eq, args, out, d: [fused.pull(out, d)])
                    return self.step(Step(equation, rule, (of,), ()), [fused.value])
                return self.step(Step(equation, rule, tuple(inputs), ()), values)
        text = self.values.unique(control.function_name(equation, equation.called or name))
        called = f"{text}({', '.join(f'{{{k}}}' for k in range(len(args)))})"
        forms = list(zip(equation.shapes.outputs, equation.dtypes.outputs))
        outputs = [ex.call(called + (f"[{i}]" if len(forms) > 1 else ""), args, *form) for i, form in enumerate(forms)]
        self.values.unwritten[text] = Unwritten(equation.name, equation)
        return self.step(Step(equation, None, tuple(inputs), ()), outputs)

    def _number_of(self, x: Expression) -> int | None:
        """A value that is this expression."""
        return next((n for n, value in enumerate(self.values.of) if value is x), None)

    def follow(self, equation: _jaxpr.Equation, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Keep what a value is that depends on no argument."""
        known = self.values.known
        if equation.bodies or not all(i in known for i in inputs) or all(i in known for i in outputs):
            return
        if max(map(math.prod, equation.shapes.outputs), default=0) <= MOST_FOLLOWED:
            known.update((out, Later(equation, tuple(inputs), place)) for place, out in enumerate(outputs))

    def _folded(self, equation: _jaxpr.Equation, inputs: Sequence[int]) -> list[int] | None:
        """What depends on no argument, as random numbers from a given key do: computed now, and closed over.

        None where it can be written, as a mask of ones can.
        """
        names = {ex.bare(self.values.of[i]).detail for i in inputs if ex.bare(self.values.of[i]).op == "name"}
        drawn = bool(names & self.values.drawn)
        if equation.bodies or not (drawn or equation.name in RANDOM):
            return None
        outputs = []
        for held in equation.bind(*map(self.values.held, inputs)):
            self.values.drawn.add(text := self.values.unique("drawn"))
            self.values.captured[text] = held
            outputs.append(self.values.new(ex.name(text, held.shape, held.dtype)))
            self._own.add(outputs[-1])
            self.values.known[outputs[-1]] = held
        return outputs


def _is_key(dtype: Any) -> bool:
    return hasattr(dtype, "_rules")


def _variables(program: _jaxpr.Program) -> dict[int, tuple[str, Segment]]:
    """Number of a value → the variable that the user's code assigns it to, in every pass of a Python loop, and where.

    A run of equations that belong to one piece of code computes its value; the last of them is what is assigned. Where
    an equation of that piece is followed by one from inside of it, the piece begins anew.
    """
    names: dict[int, tuple[int, str, Any]] = {}
    open_runs: dict[Any, tuple[int, _jaxpr.Equation, bool]] = {}

    def close(segment: Any) -> None:
        depth, last, _ = open_runs.pop(segment)
        variables = targets(segment)
        for text, number in zip(variables, last.outputs[-len(variables) :]):
            if text == "_":
                continue
            if number not in names or depth >= names[number][0]:
                names[number] = depth, text, segment

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
    return {number: (text, segment) for number, (_, text, segment) in names.items()}
