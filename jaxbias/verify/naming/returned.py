"""What a rule returns twice, returns and goes on computing with, or returns without computing it, as zeros: there the
place of a gradient is where it is handed on, `dy = dx` or an entry of the `return`, and not the line that computes it.
"""

import ast
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence, Set

from jaxbias import _jaxpr
from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.pieces import functions_around, piece_of


def with_returns(program: _jaxpr.Program, leaves: Sequence[int | None]) -> tuple[_jaxpr.Program, list[int | None]]:
    """The program with an equation of its own for each such gradient, and the numbers of all gradients in it."""
    numbers = [n for n in leaves if n is not None]
    taken = Counter(numbers) + Counter(n for equation in program.equations for n in set(equation.inputs))
    made = {n for equation in program.equations for n in equation.outputs}
    shared = [i for i, n in enumerate(leaves) if n is not None and (taken[n] > 1 or n not in made)]
    places = dict(_places(program, leaves, made)) if shared else {}
    if not places.keys() & set(shared):
        return program, list(leaves)
    copies = {name: list(getattr(program, name)) for name in ("equations", "shapes", "dtypes")}
    longer, moved = dataclasses.replace(program, **copies), list(leaves)
    for i in shared:
        if i in places and (number := leaves[i]) is not None:
            out = longer.value(program.shapes[number], program.dtypes[number])
            equation = _jaxpr.Equation("copy", (number,), (out,), {}, longer)
            equation.segments, equation.source = (places[i],), None
            longer.equations.append(equation)
            moved[i] = out
    return longer, moved


def _places(program: _jaxpr.Program, leaves: Sequence[int | None], made: Set[int]) -> Iterator[tuple[int, Segment]]:
    """Where each gradient is handed on, in the function that the last of them is computed in."""
    entries = entries_of_return(program, leaves)
    function = _function_around(entries[0]) if entries else None
    assigned = {
        target.id: node.value
        for node in (ast.walk(function) if function is not None else ())
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for i, entry in enumerate(entries):
        its = assigned.get(entry.text)
        given = its is not None and (isinstance(its, ast.Name) or leaves[i] not in made)
        yield i, piece_of(entry, its) if its is not None and given else entry


def entries_of_return(program: _jaxpr.Program, leaves: Sequence[int | None]) -> list[Segment]:
    """Of the function that the last gradient is computed in, if it returns a tuple of all gradients, at one place."""
    outermost = [equation.segments[-1] for equation in program.equations if equation.segments]
    function = _function_around(outermost[-1]) if outermost else None
    returned = [node.value for node in ast.walk(function or ast.Pass()) if isinstance(node, ast.Return)]
    if len(returned) != 1 or not isinstance(returned[0], ast.Tuple) or len(returned[0].elts) != len(leaves):
        return []
    return [piece_of(outermost[-1], entry) for entry in returned[0].elts]


def handed_on(segment: Segment) -> Iterator[Segment]:
    """Where variables of a function stand alone in what it returns, or puts into a tuple."""
    function = _function_around(segment)
    for node in _own_nodes(function) if function is not None else ():
        if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
            yield from (piece_of(segment, entry) for entry in node.elts if isinstance(entry, ast.Name))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, and in no other function in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from _own_nodes(node)


def _function_around(segment: Segment) -> ast.FunctionDef | None:
    """The innermost function that a piece of code stands in."""
    return next(iter([*functions_around(segment)][::-1]), None)
