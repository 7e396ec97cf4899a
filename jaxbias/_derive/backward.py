"""The error signals of a forward that has been read, from its outputs back to its arguments, and the names they get."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxbias._derive.reading import Reading, Unwritten
from jaxbias._derive.rules import NoRule
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression

CHEAP = {"name", "number", "size", "spread", "expand", "drop", "reshape", "transpose", "negative", "cast", "compare"}
"""What is as soon computed again as kept."""


class Backward:
    """The statements of a backward pass.

    Attributes:
        statements: (variable, what it is), in order.
        gradients: of each argument that has one, in its full shape.
    """

    def __init__(self, reading: Reading, deltas: Sequence[Expression | None], wanted: Sequence[int]):
        self.reading = reading
        self.statements: list[tuple[Expression, Expression]] = []
        self._at: dict[int, list[Expression]] = {}
        self._variables = {variable for variable, _ in reading.defined}
        for number, delta in zip(reading.outputs, deltas):
            if delta is not None:
                self._send(number, delta)
        self._needed = self._leading_from(wanted)
        for step in reversed(reading.steps):
            self._pull(step)
        self.gradients = [self._gradient(number) for number in wanted]
        self._drop_unread()

    def _leading_from(self, wanted: Sequence[int]) -> set[int]:
        """The values that depend on the arguments that are asked for."""
        reached = set(wanted)
        for step in self.reading.steps:
            if reached.intersection(step.inputs):
                reached.update(step.outputs)
        return reached

    def _send(self, number: int, delta: Expression) -> None:
        self._at.setdefault(number, []).append(delta)

    def _arrived(self, number: int) -> Expression | None:
        parts = self._at.get(number, [])
        if not parts:
            return None
        counts: dict[Expression, int] = {}
        for part in parts:
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
        if all(delta is None for delta in deltas) or self._needed.isdisjoint(step.outputs):
            return
        values = self.reading.values
        args, outs = [values[i] for i in step.inputs], [values[i] for i in step.outputs]
        named = []
        for out, delta in zip(outs, deltas):
            variable = ex.bare(out)
            named.append(self._named(variable, delta) if delta is not None and variable in self._variables else delta)
        try:
            if step.rule is None:
                raise NoRule
            pulled = step.rule.pull(step.equation, args, outs[0], named[0])
        except NoRule:
            pulled = self._by_jax(step, args, outs, named)
        for number, arg, delta in zip(step.inputs, args, pulled):
            if delta is not None and number in self._needed and ex.is_inexact(arg):
                self._send(number, _as_wide_as(delta, arg))

    def _named(self, variable: Expression, delta: Expression) -> Expression:
        """The error signal of a variable as a variable of its own, unless it is one already."""
        core = ex.bare(delta)
        if core.op == "name":
            return delta
        made = ex.name(self.reading.unique(f"d_{variable.detail}"), core.shape, core.dtype)
        self.statements.append((made, core))
        return ex.spread(made, delta.shape)

    def _by_jax(self, step: Any, args: Sequence[Expression], outs: Sequence[Expression], deltas: Sequence[Any]):
        """The transpose of what has no rule, as a function beside that which carries it out."""
        text = next((t for t, u in self.reading.unwritten.items() if u.step is step), None)
        if text is None:  # its forward has a rule
            text = self.reading.unique(step.equation.name)
            self.reading.unwritten[text] = Unwritten(step.equation.name, step)
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
        read = {node for root in self.gradients for node in parts(root)}
        left = []
        for variable, value in reversed(self.statements):
            if variable in read:
                read.update(parts(value))
                left.append((variable, value))
        self.statements = left[::-1]

    def _gradient(self, number: int) -> Expression:
        argument = self.reading.values[number]
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
    if any(not isinstance(place, tuple) or place[2] != 1 for place in places):
        return None
    order = sorted(range(len(terms)), key=lambda k: places[k])
    for k in order:
        if places[k][0] != end:
            return None
        end = places[k][1]
    if end != shape[axis]:
        return None
    holes = ", ".join(f"{{{k}}}" for k in range(len(terms)))
    last = -1 if axis == len(shape) - 1 and axis else axis
    parts_in_order = [terms[k].args[1] for k in order]
    return ex.call(f"jnp.concatenate([{holes}], axis={last})", parts_in_order, shape, terms[0].dtype)


def _as_wide_as(delta: Expression, arg: Expression) -> Expression:
    """Summed over the axes along which an elementwise function repeated the operand."""
    lead = delta.ndim - arg.ndim
    delta = ex.total(delta, range(lead))
    repeated = [k for k, n in enumerate(arg.shape) if n == 1 and delta.shape[k] != 1]
    return ex.spread(ex.expand(ex.total(delta, repeated), repeated), arg.shape)


# --- what gets a name besides -----------------------------------------------------------------------------------------


def parts(x: Expression) -> Iterator[Expression]:
    """x and all that it is made of, each once, operands first."""
    seen: set[int] = set()

    def visit(node: Expression) -> Iterator[Expression]:
        if id(node) in seen:
            return
        seen.add(id(node))
        for arg in node.args:
            yield from visit(arg)
        yield node

    yield from visit(x)


def weight(x: Expression) -> int:
    """How much there is to compute: functions, sums and products count, layout does not."""
    return sum(node.op not in CHEAP for node in parts(x))


def kept_parts(roots: Sequence[Expression], forward: Sequence[Expression], signals: set[str]) -> list[Expression]:
    """Parts of a backward pass that the forward has computed already and that are worth keeping, the larger first.

    Args:
        roots: the statements of the backward.
        forward: those of the forward.
        signals: names of error signals.
    """
    computed = {id(node) for root in forward for node in parts(root)}
    free = {}  # of error signals
    for root in roots:
        for node in parts(root):
            free[id(node)] = not (node.op == "name" and node.detail in signals) and all(free[id(a)] for a in node.args)
    kept: list[Expression] = []

    def visit(node: Expression) -> None:
        core = ex.bare(node)
        if node.op == "size":
            return
        if free[id(node)] and id(core) in computed and _worth(core):
            if core not in kept:
                kept.append(core)
            return
        for arg in node.args:
            visit(arg)

    for root in roots:
        visit(root)
    return kept


def _worth(x: Expression) -> bool:
    """Whether to keep a value rather than to compute it again: a sum, a product of matrices, a costly function."""
    costly = {"contract", "total", "apply", "call"}
    stopped = x.op == "call" and "stop_gradient" in x.detail
    varies = (
        any(node.op == "name" for node in parts(x)) and x.op not in ("size", "compare", "cast") and not _of_sizes(x)
    )
    return varies and any(node.op in costly for node in parts(x)) and not stopped


def _of_sizes(x: Expression) -> bool:
    """Whether it is a number that only sizes go into."""
    return x.op in ("number", "size") or (bool(x.args) and all(map(_of_sizes, x.args)))


def shared(roots: Sequence[Expression], named: set[int]) -> list[Expression]:
    """Parts that occur more than once and are worth a line of their own, in order of need."""
    uses: dict[int, int] = {}
    order: list[Expression] = []
    seen: set[int] = set()

    def visit(node: Expression) -> None:
        uses[id(node)] = uses.get(id(node), 0) + 1
        if id(node) in seen:
            return
        seen.add(id(node))
        if id(node) not in named and node.op != "size":
            for arg in node.args:
                visit(arg)
        order.append(node)

    for root in roots:
        visit(root)
    return [n for n in order if uses[id(n)] > 1 and id(n) not in named and n.op not in CHEAP and _long(n)]


def _long(x: Expression) -> bool:
    return weight(x) > 1 or x.op in ("contract", "total", "call")
