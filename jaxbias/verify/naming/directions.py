"""Loops that run in the wrong direction: each is turned round, and the rule carried out so."""

import ast
from collections.abc import Iterable, Iterator
from typing import TypeGuard

from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.code import source_of, value_of
from jaxbias.verify.naming.pieces import functions_around, piece_of
from jaxbias.verify.naming.trying import Fit
from jaxbias.verify.naming.variants import COST, Variant

SCANS = ("scan", "associative_scan")

WORDS = "goes through the passes in the wrong direction"


def turned(segments: Iterable[Segment]) -> Iterator[Fit]:
    """The loops of the functions that these pieces of code stand in, each in the other direction."""
    loops = (
        loop for segment in segments for function in functions_around(segment) for loop in _loops(function, segment)
    )
    for piece in dict.fromkeys(loops):
        text, tree = value_of(piece.text)
        if tree is None:  # a comment stands in it
            continue
        if code := _scanned(text, tree) if _is_scan(tree) else _iterated(text, tree):
            yield Fit(piece, code, Variant(COST["flag"], "wrong-index", WORDS, tree, code))


def _loops(function: ast.FunctionDef, segment: Segment) -> Iterator[Segment]:
    """What `for` goes through, and calls of `scan`, each where it stands."""
    for node in ast.walk(function):
        if isinstance(node, ast.For):
            yield piece_of(segment, node.iter)
        elif _is_scan(node):
            yield piece_of(segment, node)


def _is_scan(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SCANS


def _scanned(text: str, call: ast.Call) -> str:
    flag = next((its.value for its in call.keywords if its.arg == "reverse"), None)
    if flag is None:
        return f"{text[:-1].rstrip().removesuffix(',')}, reverse=True)"
    if not isinstance(flag, ast.Constant):
        return ""
    return text.replace(f"reverse={flag.value}", f"reverse={not flag.value}")


def _iterated(text: str, its: ast.expr) -> str:
    match its:
        case ast.Call(func=ast.Name(id="reversed"), args=[inner]):
            return source_of(text, inner)
        case ast.Subscript(value=inner, slice=ast.Slice(lower=None, upper=None, step=ast.UnaryOp())):
            return source_of(text, inner)
        case ast.Call(func=ast.Name(id="range")):
            return f"reversed({text})"
        case ast.Name() | ast.Attribute():
            return f"{text}[::-1]"
    return ""
