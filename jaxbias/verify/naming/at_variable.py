"""A variable that one statement alone takes, and takes in a changed form, is changed where it is assigned."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from jaxbias._jaxpr.sources import Segment
from jaxbias.symbols.names import targets
from jaxbias.symbols.reference_values import NAMED, ReferenceValue
from jaxbias.verify.naming.alignment import Alignment, same
from jaxbias.verify.naming.code import bracketed, put, source_of, value_of


class Moved(NamedTuple):
    """What is to stand where the variable is assigned, and how that differs from what stands there."""

    segment: Segment
    code: str
    words: str


def at_variable(alignment: Alignment, segment: Segment, code: str) -> Moved | None:
    """The same change as this code in the place of a piece, where the variable is assigned that it changes.

    None where it changes anything else, where other statements take the variable as well, and where this is computed
    and is what the forward has a name for, or the gradient by such a value: then it is right as it is.
    """
    text, tree = value_of(segment.text)
    changed, new = value_of(code)
    if tree is None or new is None:
        return None
    (before, after), *others = _changes(tree, new)
    if not isinstance(before, ast.Name) or isinstance(after, ast.Name):
        return None
    if before is tree and not segment.statement.startswith("return "):
        return None  # a statement that only gives a value another name is meant to give another value
    if any(_dumped(pair) != _dumped([before, after]) for pair in others):
        return None
    names = [n for n in ast.walk(after) if isinstance(n, ast.Name) and n.id == before.id]
    places = set(_assigned(alignment, segment, before.id))
    if len(names) > 1 or len(places) != 1 or (place := places.pop()) is None:
        return None
    by = source_of(changed, after)
    if not names:
        return Moved(place, by, f"must be {by}")
    (name,) = (n for n in ast.walk(ast.parse(by, mode="eval")) if isinstance(n, ast.Name) and n.id == before.id)
    argument = isinstance(after, ast.Call) and any(n in after.args for n in names)
    adds, inside = _is(after, ast.Add), not isinstance(after, ast.BinOp)
    code = put(by, name, place.text if argument else bracketed(place.text, sums=not adds, products=inside))
    return Moved(place, code, _words(changed, after, names[0], code))


def _is(node: ast.AST, operator: type[ast.operator]) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, operator)


def _words(text: str, after: ast.AST, name: ast.Name, code: str) -> str:
    if isinstance(after, ast.BinOp) and name in (after.left, after.right):
        first, other = name is after.left, source_of(text, after.right if name is after.left else after.left)
        match after.op:
            case ast.Mult():
                return f"lacks the factor {bracketed(other)}"
            case ast.Div() if first:
                return f"lacks the factor 1/{bracketed(other, products=True)}"
            case ast.Add():
                return f"lacks the term {other}"
            case ast.Sub() if first:
                return f"lacks the term −{bracketed(other)}"
    return f"must be {code}"


def _changes(old: ast.AST, new: ast.AST) -> list[list[ast.AST]]:
    """The smallest parts of two trees in which they differ."""
    differ = [pair for pair in _children(old, new) if _dumped(pair[0]) != _dumped(pair[1])]
    pairs = [[a, b] for a, b in differ if isinstance(a, PARTS) and isinstance(b, PARTS)]
    if type(old) is not type(new) or not pairs or len(pairs) < len(differ):
        return [[old, new]]
    return [change for a, b in pairs for change in _changes(a, b)]


PARTS = (ast.expr, ast.keyword)


def _children(old: ast.AST, new: ast.AST) -> Iterator[tuple[object, object]]:
    for (_, a), (_, b) in zip(ast.iter_fields(old), ast.iter_fields(new)):
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            yield from zip(a, b)
        else:
            yield a, b


def _dumped(x: object) -> object:
    return ast.dump(x) if isinstance(x, ast.AST) else [*map(_dumped, x)] if isinstance(x, list) else x


def _assigned(alignment: Alignment, segment: Segment, name: str) -> Iterator[Segment | None]:
    """Where the variable of this name is assigned that a piece of code takes; None of one that is to stay."""
    program = alignment.program
    for number, its in alignment.names.items():
        if its.text != name or not its.variable or number not in alignment.position:
            continue
        users = [e for e in program.equations if number in e.inputs]
        here = [any(_on_the_lines(s, segment) for s in e.segments) for e in users]
        if not any(here):
            continue
        match = alignment.matches.get(number)
        shape = alignment.column(number).shape
        right = match is not None and match.itself and match.value.array.shape == shape
        stays = match is not None and right and (match.value.linear or _has_a_name(match.value))
        stays = stays or (match is not None and right and _is_code_of(match.value.name, its.segment.text))
        # a value under another name is meant to be another, and so is what the forward calls otherwise
        stays = stays and not its.segment.text.isidentifier() and not _is_called_otherwise(alignment, number, name)
        alone = all(here) and number not in alignment.leaves and targets(its.segment) == (name,)
        text, tree = value_of(its.segment.text)
        yield its.segment if alone and not stays and tree is not None and text == its.segment.text else None


def _is_called_otherwise(alignment: Alignment, number: int, name: str) -> bool:
    """Does the forward call another value by this name?"""
    called = alignment.matcher.named.get((name, 0))
    return called is not None and not called.linear and not same(called.array, alignment.column(number))


def _has_a_name(value: ReferenceValue) -> bool:
    """In the forward."""
    return value.rank < NAMED + 0.5 and not value.derivative


def _is_code_of(name: str, code: str) -> bool:
    """Is it written as in the forward?"""
    first, second = (value_of(text)[1] for text in (name, code))
    return first is not None and second is not None and ast.dump(first) == ast.dump(second)


def _on_the_lines(inner: Segment, outer: Segment) -> bool:
    return inner.file == outer.file and outer.line <= inner.line <= (outer.end_line or outer.line)
