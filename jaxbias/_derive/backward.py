"""The error signals of a forward that has been read, from its outputs back to its arguments."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxbias._derive.rules import NoRule
from jaxbias._derive.scope import Scope
from jaxbias._derive.statements import Assign, Statement, names_in
from jaxbias._derive.values import Unwritten
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression


class Backward:
    """The statements of a backward pass.

    Attributes:
        statements: in order.
        gradients: of each value that is asked for, in its full shape.
        needed: the values that depend on those.
        keep: what the user wants kept.
    """

    def __init__(self, reading: Scope, deltas: Sequence[Expression | None], wanted: Sequence[int], keep: str):
        self.reading, self.values, self.keep = reading, reading.values, keep
        self.statements: list[Statement] = []
        self._at: dict[int, list[Expression]] = {}
        self._variables = {variable for statement in reading.statements for variable in statement.targets}
        for number, delta in zip(reading.outputs, deltas):
            if delta is not None:
                self._send(number, delta)
        self.needed = self.leading(reading, wanted)
        for step in reversed(reading.steps):
            self._pull(step)
        self.gradients = [self._gradient(number) for number in wanted]
        self._drop_unread()

    @staticmethod
    def leading(reading: Scope, start: Iterable[int]) -> set[int]:
        """The values that depend on these."""
        reached = set(start)
        for step in reading.steps:
            if reached.intersection(step.inputs):
                reached.update(step.outputs)
        return reached

    def line(self, value: Expression) -> Expression:
        """A variable for an error signal."""
        core = ex.bare(value)
        made = self.values.variable("d", core.shape, core.dtype)
        self.statements.append(Assign(made, core))
        return ex.spread(made, value.shape)

    def _send(self, number: int, delta: Expression) -> None:
        self._at.setdefault(number, []).append(delta)

    def _arrived(self, number: int) -> Expression | None:
        arrived = self._at.get(number, [])
        if not arrived:
            return None
        counts: dict[Expression, int] = {}
        for part in arrived:
            counts[part] = counts.get(part, 0) + 1
        terms = [ex.multiply(ex.number(n, part.dtype), part) for part, n in counts.items()]
        if (whole := _joined(terms)) is not None:
            return whole
        delta = terms[0]
        for term in terms[1:]:
            delta = ex.add(delta, term)
        return None if ex.is_zero(delta) else delta

    def _pull(self, step: Any) -> None:
        deltas = [self._arrived(number) for number in step.outputs]
        if all(delta is None for delta in deltas) or self.needed.isdisjoint(step.outputs):
            return
        args, outs = [self.values.of[i] for i in step.inputs], [self.values.of[i] for i in step.outputs]
        named = []
        for out, delta in zip(outs, deltas):
            variable = ex.bare(out)
            named.append(self._named(variable, delta) if delta is not None and variable in self._variables else delta)
        pulled = self._rule_of(step, args, outs, named)
        for number, arg, delta in zip(step.inputs, args, pulled):
            if delta is not None and number in self.needed and ex.is_inexact(arg):
                self._send(number, _as_wide_as(delta, arg))

    def _rule_of(self, step: Any, args: Sequence[Expression], outs: Sequence[Expression], deltas: Sequence[Any]) -> Any:
        if hasattr(step, "pull"):
            return step.pull(self, step, deltas)
        try:
            if step.rule is None:
                raise NoRule
            single = step.rule.outputs == 1
            return step.rule.pull(
                step.equation, args, outs[0] if single else outs, deltas[0] if single else tuple(deltas)
            )
        except NoRule:
            return self._by_jax(step, args, outs, deltas)

    def _named(self, variable: Expression, delta: Expression) -> Expression:
        """The error signal of a variable as a variable of its own, unless it is one already."""
        core = ex.bare(delta)
        if core.op == "name":
            return delta
        made = self.values.variable(f"d_{variable.detail}", core.shape, core.dtype)
        self.statements.append(Assign(made, core))
        return ex.spread(made, delta.shape)

    def _by_jax(self, step: Any, args: Sequence[Expression], outs: Sequence[Expression], deltas: Sequence[Any]):
        """The transpose of what has no rule, as a function beside that which carries it out."""
        unwritten = self.values.unwritten
        text = next((t for t, u in unwritten.items() if u.equation is step.equation), None)
        if text is None:  # its forward has a rule
            text = self.values.unique(step.equation.name)
            unwritten[text] = Unwritten(step.equation.name, step.equation)
        full = [ex.zeros(out) if delta is None else delta for out, delta in zip(outs, deltas)]
        holes = ", ".join(f"{{{k}}}" for k in range(len(args)))
        signals = ", ".join(f"{{{len(args) + k}}}" for k in range(len(full)))
        return [
            ex.call(f"{text}_pull(({holes},), ({signals},))[{k}]", [*args, *full], arg.shape, arg.dtype)
            if ex.is_inexact(arg) else None
            for k, arg in enumerate(args)
        ]  # fmt: skip

    def _drop_unread(self) -> None:
        """Statements that no gradient goes through."""
        read = names_in(self.gradients)
        left = []
        for statement in reversed(self.statements):
            if read & {x.detail for x in statement.targets}:
                read |= statement.names()
                left.append(statement)
        self.statements = left[::-1]

    def _gradient(self, number: int) -> Expression:
        argument = self.values.of[number]
        delta = self._arrived(number)
        delta = ex.zeros(argument) if delta is None else delta
        return ex.spread(ex.cast(delta, argument.dtype), argument.shape)


def _joined(terms: Sequence[Expression]) -> Expression | None:
    """Error signals of the parts of one array side by side, where together they are all of it."""
    if len(terms) < 2 or any(term.op != "placed" for term in terms):
        return None
    shape = terms[0].shape
    spans = [[k for k, p in enumerate(term.detail) if p != (0, shape[k], 1)] for term in terms]
    if any(len(axes) != 1 or axes != spans[0] for axes in spans):
        return None
    ((axis,), *_), end = spans, 0
    places = [term.detail[axis] for term in terms]
    if len({isinstance(place, tuple) for place in places}) > 1:
        return None
    order = sorted(range(len(terms)), key=lambda k: places[k])
    holes = ", ".join(f"{{{k}}}" for k in range(len(terms)))
    last = -1 if axis == len(shape) - 1 and axis else axis
    parts_in_order = [terms[k].args[1] for k in order]
    if [places[k] for k in order] == list(range(shape[axis])):  # one entry each
        return ex.call(f"jnp.stack([{holes}], axis={last})", parts_in_order, shape, terms[0].dtype)
    for k in order:
        if not isinstance(places[k], tuple) or places[k][2] != 1 or places[k][0] != end:
            return None
        end = places[k][1]
    if end != shape[axis]:
        return None
    return ex.call(f"jnp.concatenate([{holes}], axis={last})", parts_in_order, shape, terms[0].dtype)


def _as_wide_as(delta: Expression, arg: Expression) -> Expression:
    """Summed over the axes along which an elementwise function repeated the operand."""
    lead = delta.ndim - arg.ndim
    delta = ex.total(delta, range(lead))
    repeated = [k for k, n in enumerate(arg.shape) if n == 1 and delta.shape[k] != 1]
    return ex.spread(ex.expand(ex.total(delta, repeated), repeated), arg.shape)
