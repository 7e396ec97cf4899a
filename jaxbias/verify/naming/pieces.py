"""Pieces of the user's code beside one that is known."""

import ast
import functools
import linecache
from collections.abc import Iterator

from jaxbias._jaxpr.sources import Segment, Span, functions_in, span_of, tree_of
from jaxbias.verify.naming.code import names_within, value_of


def numbers_in(segment: Segment) -> Iterator[Segment]:
    """Where the function around a piece of code assigns the sizes and numbers that its statement takes."""
    tree = value_of(segment.statement)[1] or value_of(segment.text)[1]
    taken = names_within(tree) if tree is not None else frozenset()
    for function in functions_around(segment):
        for node in ast.walk(function):
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and target.id in taken:
                parts = list(ast.walk(node.value))
                sizes = any(isinstance(part, ast.Attribute) and part.attr in ("shape", "size") for part in parts)
                if sizes or isinstance(node.value, ast.Constant):
                    yield piece_of(segment, node.value)


def piece_of(segment: Segment, node: ast.expr | ast.stmt) -> Segment:
    """A part of the function that a piece of code stands in."""
    return Segment(segment.file, *span_of(node), segment.function)


def functions_around(segment: Segment) -> Iterator[ast.FunctionDef]:
    """The functions that a piece of code stands in and that have its function's name."""
    for node in functions_in(tree_of(segment.file)):
        if node.name == segment.function and node.lineno <= segment.line <= (node.end_lineno or node.lineno):
            yield node


def names_around(segment: Segment) -> tuple[ast.FunctionDef | None, list[str]]:
    """The function that the one around a piece of code is defined in, and what that has given names to by then."""
    inside = [node for node in outwards(segment) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    if len(inside) < 2 or not isinstance(inside[0], ast.FunctionDef) or not isinstance(inside[1], ast.FunctionDef):
        return None, []
    inner, outer = inside[0], inside[1]
    own = {node.id for node in ast.walk(inner) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {argument.arg for argument in ast.walk(inner.args) if isinstance(argument, ast.arg)}
    names = [argument.arg for argument in outer.args.args]
    for statement in outer.body:
        if statement.lineno >= inner.lineno:
            break
        for target in statement.targets if isinstance(statement, ast.Assign) else ():
            names += [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
    return outer, [name for name in dict.fromkeys(names) if name not in own]


def functions_beside(segment: Segment) -> list[str]:
    """Names by which the function around a piece of code calls, or defines, others."""
    names: list[str] = []
    for function in functions_around(segment):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names.append(node.func.id)
            elif isinstance(node, ast.FunctionDef) and node is not function:
                names.append(node.name)
    return [*dict.fromkeys(names)]


def outwards(segment: Segment) -> list[ast.AST]:
    """The node that a piece of code is, the outermost if it is several, and those that this stands in."""
    nodes, parents = _nested(tree_of(segment.file))
    node = nodes.get(segment.span)
    around = [] if node is None else [node]
    while around and (above := parents.get(around[-1])) is not None:
        around.append(above)
    return around


@functools.lru_cache(16)
def _nested(tree: ast.Module) -> tuple[dict[Span, ast.AST], dict[ast.AST, ast.AST]]:
    """Expressions and statements by where they stand, and of every node the one that it stands in."""
    nodes: dict[Span, ast.AST] = {}
    parents: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):  # what stands around another comes before it
        parents |= dict.fromkeys(ast.iter_child_nodes(node), node)
        if isinstance(node, ast.expr | ast.stmt):
            nodes.setdefault(span_of(node), node)
    return nodes, parents


LONGEST_PART = 30


def parts_around(segment: Segment) -> list[str]:
    """Expressions of the function that a piece of code stands in, as they are written elsewhere in it."""
    lines = tuple(linecache.getlines(segment.file))
    its = _parts_of(lines, tree_of(segment.file), segment.function)
    return [code for code, numbers in its if segment.line not in numbers]


@functools.lru_cache(16)
def _parts_of(lines: tuple[str, ...], tree: ast.Module, function: str) -> list[tuple[str, frozenset[int]]]:
    """Entries, sums and products in the functions of a name, and on which lines each stands."""
    text = "".join(lines)
    places: dict[str, set[int]] = {}
    for node in functions_in(tree):
        for part in ast.walk(node) if node.name == function else ():
            if isinstance(part, ast.Subscript | ast.BinOp) and isinstance(getattr(part, "ctx", ast.Load()), ast.Load):
                code = ast.get_source_segment(text, part) or ""
                if 0 < len(code) <= LONGEST_PART and "\n" not in code:
                    places.setdefault(code, set()).add(part.lineno)
    return [(code, frozenset(numbers)) for code, numbers in places.items()]
