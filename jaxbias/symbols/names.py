"""The name that the user's code gives each value of a traced program: the variable it is assigned to, or its text."""

import ast
import functools
from dataclasses import dataclass

from jaxbias import _jaxpr
from jaxbias._jaxpr.program import Signature
from jaxbias._jaxpr.sources import Segment, Span, first_line, functions_in, span_of, tree_of


@dataclass(frozen=True)
class Name:
    """What a value is called.

    Attributes:
        text: the variable, or else the code that computes the value.
        variable: whether it is a variable.
        segment: where that code stands.
    """

    text: str
    variable: bool
    segment: Segment

    @property
    def rank(self) -> tuple[bool, int]:
        """Of several names of one value the least is taken: variables first, then what is short."""
        return not self.variable, len(self.text)


@functools.lru_cache(64)
def _targets(tree: ast.Module) -> dict[Span, tuple[str, ...]]:
    """Where an expression stands → the variables that exactly it is assigned to, or unpacked into."""
    names_at: dict[Span, tuple[str, ...]] = {}

    def assign(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            names_at[span_of(value)] = (target.id,)
        elif isinstance(target, ast.Tuple | ast.List):
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                for element, its in zip(target.elts, value.elts):
                    assign(element, its)
            elif (leaves := _leaves(target)) is not None:
                names_at[span_of(value)] = leaves

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assign(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names_at[span_of(node)] = (node.target.id,)
    return names_at


def _leaves(target: ast.expr) -> tuple[str, ...] | None:
    """The names in a tuple of names or of tuples of them, None where there is anything else."""
    if isinstance(target, ast.Name):
        return (target.id,)
    if not isinstance(target, ast.Tuple | ast.List):
        return None
    parts = [_leaves(element) for element in target.elts]
    return None if None in parts else tuple(name for part in parts for name in part or ())


def targets(segment: Segment) -> tuple[str, ...]:
    """The variables that exactly this piece of code is assigned to."""
    return _targets(tree_of(segment.file)).get(segment.span, ())


def parameters(signature: Signature) -> tuple[str, ...]:
    """What the function itself calls its arguments, leaf by leaf; "" where that cannot be told.

    An argument that is a tuple has the names that it is taken apart into, `h, c = carry`.
    """
    taken_apart: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(_function_at(signature)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and (leaves := _leaves(target)) is not None:
                    taken_apart[node.value.id] = leaves
    made = []
    for path in signature.arguments:
        name, _, places = path.partition("[")
        numbers = [k for k, other in enumerate(signature.arguments) if other.partition("[")[0] == name and other]
        leaves = taken_apart.get(name, ())
        if not places:
            made.append(name if name.isidentifier() else "")
        else:
            position = numbers.index(len(made))
            made.append(leaves[position] if len(leaves) == len(numbers) else "")
    return tuple(made)


def _function_at(signature: Signature) -> ast.AST:
    """The function of a signature; an empty module where its source is not at hand."""
    for node in functions_in(tree_of(signature.file)):
        if signature.line in (node.lineno, first_line(node)):
            return node
    return ast.Module([], [])


def _last_run(positions: list[int]) -> list[int]:
    """Those that follow one upon the other at the end: the last pass of a piece of code in a loop."""
    first = len(positions) - 1
    while first and positions[first - 1] == positions[first] - 1:
        first -= 1
    return positions[first:]


def _returned(program: _jaxpr.Program, segment: Segment, positions: list[int], count: int) -> list[int | None]:
    """Of a call that returns several values, their numbers; None for those that the called function does not compute.

    They are told by the `return` of that function; where there is none to read, they are what is used outside of it.
    """
    run = [program.equations[p] for p in _last_run(positions)]
    inner: dict[Segment, list[int]] = {}
    for equation in run:
        if (at := equation.segments.index(segment)) > 0:
            inner.setdefault(equation.segments[at - 1], []).extend(equation.outputs)
    entries = _entries(next(iter(inner))) if inner else ()
    if len(entries) == count:
        by_name = {targets(piece)[0]: its[-1] for piece, its in inner.items() if len(targets(piece)) == 1}
        by_span = {piece.span: its[-1] for piece, its in inner.items()}
        return [by_name.get(entry) if isinstance(entry, str) else by_span.get(entry) for entry in entries]
    numbers = [n for equation in run for n in equation.outputs]
    users = [e for e in program.equations if segment not in e.segments]
    outside = {n for e in users for n in e.inputs}.union(program.outputs)
    used = [n for n in numbers if n in outside]
    return [*used] if len(used) == count else []


def _entries(piece: Segment) -> tuple[str | Span, ...]:
    """What the function that a piece of code stands in returns: variables by name, other code by its place."""
    for function in functions_in(tree_of(piece.file)):
        if function.name == piece.function and function.lineno <= piece.line <= (function.end_lineno or 0):
            returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
            if len(returned) == 1 and isinstance(returned[0], ast.Tuple):
                return tuple(node.id if isinstance(node, ast.Name) else span_of(node) for node in returned[0].elts)
    return ()


def names_of(program: _jaxpr.Program, *, in_each_call: bool = False) -> dict[int, Name]:
    """Number of a value → its name; values inside of an expression without a name of their own are left out.

    The last equation of a piece of code computes the value of that piece. Of a piece that runs several times, as in a
    Python loop, the last pass is named; so is the last call of a function, unless they are wanted `in_each_call`.
    """
    made: dict[tuple[Segment, ...], list[int]] = {}
    for position, equation in enumerate(program.equations):
        for k, segment in enumerate(equation.segments):
            made.setdefault(equation.segments[k:] if in_each_call else (segment,), []).append(position)
    names: dict[int, Name] = {}
    for (segment, *_), positions in made.items():
        variables = targets(segment)
        texts = variables or (segment.text,)
        numbers: list[int | None] = [*program.equations[positions[-1]].outputs[-1:]]
        if len(texts) > 1:
            numbers = _returned(program, segment, positions, len(texts))
        for text, number in zip(texts, numbers):
            name = Name(text, bool(variables), segment)
            if text and number is not None and (number not in names or name.rank < names[number].rank):
                names[number] = name
    return names
