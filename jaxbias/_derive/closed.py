"""Closed form: gradients as sums of products, without the error signals of the statistics in between.

A norm's error signals pass through its mean and its variance. Put into each other and simplified they are those of the
textbook,

    d_x = r * (d_xhat - mean(d_xhat) - xhat * mean(d_xhat * xhat))

Which error signals keep a name is chosen so that there is least to be computed and read.
"""

from collections.abc import Container, Iterable, Sequence

from jaxbias._derive.products import ELEMENTWISE, Form, TooLong, is_sum, names_of, with_axes
from jaxbias._derive.statements import Assign, Statement, names_in
from jaxbias.symbols import queries
from jaxbias.symbols.expressions import Expression

FREE = {"name", "number", "size", "spread", "expand", "drop"}
"""What is no operation to a reader."""


def closed(
    statements: Sequence[Statement],
    gradients: Sequence[Expression],
    forward: Iterable[Statement],
    given: Iterable[Expression],
) -> tuple[list[Statement], list[Expression]]:
    """The statements that are left of a backward pass, and its gradients; as they were where that is shorter.

    Args:
        statements: of the backward pass, in order.
        forward: of the forward, for what its names stand for.
        given: error signals of the outputs.
    """
    signals = {s.variable: s.value for s in statements if isinstance(s, Assign)}
    fixed = _inside_of_others([*(root for s in statements for root in s.roots), *gradients])
    fixed |= {x for s in statements if not isinstance(s, Assign) for x in names_of(s.roots)}
    defined = {s.variable: s.value for s in forward if isinstance(s, Assign)}
    named = set(defined.values())

    def written(inlined: set[Expression]) -> tuple[int, list[Statement], list[Expression]] | None:
        form = Form({x: signals[x] for x in inlined}, {*signals, *given}, defined)
        try:
            values = [form.of(s.value) if isinstance(s, Assign) and s.variable not in inlined else None
                      for s in statements]  # fmt: skip
            made = [form.of(gradient) for gradient in gradients]
        except TooLong:
            return None
        left: list[Statement] = []
        read = names_in(made)
        for statement, value in reversed(list(zip(statements, values))):
            if isinstance(statement, Assign):
                if value is None or statement.variable.detail not in read:
                    continue
                statement = Assign(statement.variable, value)
            left.insert(0, statement)
            read |= statement.names()
        roots = [x for s in left for x in s.roots] + made
        return _cost(roots, named), left, made

    roots = [x for s in statements for x in s.roots] + list(gradients)
    best = _cost(roots, named), statements, gradients
    inlined = set(signals) - fixed
    if (first := written(inlined)) is not None and first[0] <= best[0]:
        best = first
    for variable in signals:
        if variable in inlined and (other := written(inlined - {variable})) is not None and other[0] < best[0]:
            best, inlined = other, inlined - {variable}
    return list(best[1]), list(best[2])


def _inside_of_others(roots: Iterable[Expression]) -> set[Expression]:
    """Names that something else than arithmetic and sums reads, so that they must stay."""
    names: set[Expression] = set()
    waiting, seen = list(roots), set()
    while waiting:
        node = waiting.pop()
        if node in seen or node.op == "name":
            continue
        seen.add(node)
        if node.op in ELEMENTWISE or node.op == "total" or is_sum(node):
            waiting += node.args
        elif node.op == "expand" and (inside := with_axes(node.args[0], node.detail)) is not None:
            waiting.append(inside)
        else:
            names |= names_of([node])
    return names


def _cost(roots: Sequence[Expression], named: Container[Expression]) -> int:
    """Operations and lines, with a line for each part that is used again.

    Args:
        named: values of the forward, which are no work.
    """
    again = set(queries.shared(roots, named))
    counts: dict[Expression, int] = {}
    lines = 0
    for node in (node for root in roots for node in queries.parts(root)):
        if node not in counts:
            made = sum(counts[arg] for arg in node.args) + (node.op not in FREE)
            lines += made + 1 if node in again else 0
            counts[node] = 0 if node in again or node in named else made
    return sum(counts[root] for root in roots) + lines + len(roots)
