"""The name that the user's code gives each value of a traced program: the variable it is assigned to, or its text."""

import ast
import functools
import linecache
from dataclasses import dataclass

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import Segment

Span = tuple[int, int, int, int]


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
def _targets(file: str, lines: tuple[str, ...]) -> dict[Span, tuple[str, ...]]:
    """Where an expression stands → the variables that exactly it is assigned to, or unpacked into."""
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return {}
    names_at: dict[Span, tuple[str, ...]] = {}

    def assign(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            names_at[_span(value)] = (target.id,)
        elif isinstance(target, ast.Tuple | ast.List):
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                for element, its in zip(target.elts, value.elts):
                    assign(element, its)
            elif all(isinstance(element, ast.Name) for element in target.elts):
                names_at[_span(value)] = tuple(element.id for element in target.elts if isinstance(element, ast.Name))

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assign(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names_at[_span(node)] = (node.target.id,)
    return names_at


def _span(node: ast.stmt | ast.expr) -> Span:
    return node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0


def targets(segment: Segment) -> tuple[str, ...]:
    """The variables that exactly this piece of code is assigned to."""
    lines = tuple(linecache.getlines(segment.file))
    place = segment.line, segment.column, segment.end_line, segment.end_column
    return _targets(segment.file, lines).get(place, ())


def names_of(program: _jaxpr.Program) -> dict[int, Name]:
    """Number of a value → its name; values inside of an expression without a name of their own are left out.

    The last equation of a piece of code computes the value of that piece. Of a piece that runs several times, as in a
    Python loop, the last pass is named.
    """
    made: dict[Segment, list[int]] = {}
    for equation in program.equations:
        for segment in equation.segments:
            made.setdefault(segment, []).extend(equation.outputs)
    names: dict[int, Name] = {}
    for segment, numbers in made.items():
        variables = targets(segment)
        texts = variables or (segment.text,)
        for text, number in zip(texts, numbers[-len(texts) :]):
            name = Name(text, bool(variables), segment)
            if text and (number not in names or name.rank < names[number].rank):
                names[number] = name
    return names
