"""Sizes that a rule holds as numbers: along such an axis another size is no test of what is written for a line."""

import ast
from collections.abc import Callable, Iterator
from typing import Any

from jaxbias._jaxpr.sources import first_line, tree_of
from jaxbias.verify.naming.rewrite import reached

AXES = ("axis", "axes", "axis1", "axis2", "dimension")
"""Arguments that are no sizes."""

OF_SIZES = frozenset((
    "reshape", "zeros", "ones", "full", "empty", "arange", "eye", "identity", "tri", "linspace", "iota", "broadcast_to",
    "one_hot", "tile", "repeat", "resize", "split", "array_split", "segment_sum", "segment_max", "bincount", "roll",
    "fori_loop", "scan", "dynamic_slice", "dynamic_slice_in_dim", "dynamic_index_in_dim",
))  # fmt: skip
"""Functions of modules, and methods, that take sizes, counts or places."""


def fixed_sizes(rule: Callable[..., Any]) -> frozenset[int]:
    """Whole numbers that the user's functions take for sizes or places, or hand to each other, as in `range(5)`,
    `dy.reshape(4, 3)` and `x[:4]`, or by the names of such numbers."""
    sizes: set[int] = set()
    for code in reached(rule):
        tree = tree_of(code.co_filename)
        its = [node for node in ast.walk(tree) if _first_line(node) == code.co_firstlineno]
        named = dict(_numbers((tree, *its)))
        for place in (place for node in its for place in _places(node)):
            sizes |= {n for part in _entries(place) if (n := _number(part)) is not None}
            sizes |= {named[part.id] for part in ast.walk(place) if isinstance(part, ast.Name) and part.id in named}
    return frozenset(sizes)


def numbers_of(rule: Callable[..., Any]) -> frozenset[int]:
    """Whole numbers that stand in the user's functions."""
    trees = ((tree_of(code.co_filename), code.co_firstlineno) for code in reached(rule))
    functions = (node for tree, line in trees for node in ast.walk(tree) if _first_line(node) == line)
    return frozenset(n for its in functions for node in ast.walk(its) if (n := _number(node)) is not None)


def _first_line(node: ast.AST) -> int:
    """Of a function; 0 for what is none."""
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        return 0
    return node.lineno if isinstance(node, ast.Lambda) else first_line(node)


def _places(function: ast.AST) -> Iterator[ast.expr]:
    """Arguments and subscripts."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in {None, *OF_SIZES}:
            yield from node.args
            yield from (keyword.value for keyword in node.keywords if keyword.arg not in AXES)
        elif isinstance(node, ast.Subscript):
            yield node.slice


def _entries(place: ast.expr) -> Iterator[ast.AST]:
    """What stands there by itself, in a tuple or as the end of a slice."""
    if isinstance(place, ast.Tuple | ast.List | ast.Slice):
        for part in ast.iter_child_nodes(place):
            if isinstance(part, ast.expr):
                yield from _entries(part)
    else:
        yield place


def _number(node: ast.AST) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _numbers(scopes: tuple[ast.AST, ...]) -> Iterator[tuple[str, int]]:
    """Names that a module or a function gives to whole numbers."""
    for scope in scopes:
        for node in getattr(scope, "body", ()) if not isinstance(scope, ast.Lambda) else ():
            for target in node.targets if isinstance(node, ast.Assign) else ():
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = [*zip(target.elts, node.value.elts)]
                for name, value in pairs:
                    if isinstance(name, ast.Name) and (n := _number(value)) is not None:
                        yield name.id, n
