"""Small changes of a line that people overlook, for a line that is wrong and says nothing by its value.

Each is tried as a repair is (`mending`): the rule is carried out with it, on all probes and at two sizes. So a guess
that is told is proved, whatever it was guessed by.
"""

import ast
import linecache
from collections.abc import Iterator

from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.repairs import Repair, value_of

TAKEN_FOR_EACH_OTHER = {
    ("sum", "mean"): "batch-mean-vs-sum", ("argmin", "argmax"): "missing-mask", ("tril", "triu"): "missing-mask",
    ("min", "max"): "wrong-operand", ("minimum", "maximum"): "wrong-operand", ("sin", "cos"): "wrong-operand",
    ("real", "imag"): "wrong-operand", ("set", "add"): "overwritten-not-accumulated",
    ("tanh", "sigmoid"): "missing-activation-derivative", ("floor", "ceil"): "wrong-operand",
}  # fmt: skip
"""Functions, and what kind of mistake that is."""


FLAGS = {
    "trans": "transpose", "transpose_a": "transpose", "lower": "transpose", "reverse": "wrong-index",
    "conjugate_a": "sign", "ascending": "wrong-index", "descending": "wrong-index",
}  # fmt: skip
"""Keywords that are on or off, and what kind of mistake it is to have them the other way round."""


def guesses(segment: Segment) -> Iterator[tuple[Repair, str]]:
    """What may be wrong with a piece of code, the likelier first: a change, and the kind of mistake that it mends."""
    text, tree = value_of(segment.text)
    names, taken, counters = _in_scope(segment)
    yield Repair("index"), "wrong-index"
    nodes = [*ast.walk(tree)] if tree is not None else []
    inside = [part for node in nodes if isinstance(node, ast.Subscript) for part in ast.walk(node.slice)]
    for name in [*(part.id for part in inside if isinstance(part, ast.Name)), *counters, "0", "-1", "1"]:
        yield Repair("index", name), "wrong-index"
        yield Repair("index", name, "shape"), "scale-constant"
    for counter in counters:
        yield Repair("slices", counter), "wrong-index"
    yield Repair("letters", "another"), "wrong-index"
    for flag, kind in FLAGS.items():
        yield Repair("flags", flag), kind
    yield Repair("directions"), "wrong-index"
    yield Repair("signs"), "sign"
    for axes in ("0", "1", "-1", "2", "(0, 1)"):
        yield Repair("axes", axes), "wrong-reduction-axis"
    for pair, kind in TAKEN_FOR_EACH_OTHER.items():
        for now, other in (pair, pair[::-1]):
            yield Repair("calls", other, now), kind
    yield Repair("transposes"), "transpose"
    yield Repair("without", "+"), "extra-term"
    yield Repair("without"), "scale-constant"
    yield Repair("without", "*"), "wrong-operand"
    yield Repair("exchanged"), "wrong-operand"
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Name) and id(node) not in called:
            for other in next((its for its in (names, taken) if node.id in its), ()):
                yield Repair("swap", other, node.id), "wrong-operand"


def numbers_in(segment: Segment) -> Iterator[Segment]:
    """Where the function around a piece of code assigns the sizes and numbers that its statement takes."""
    tree = value_of(segment.statement)[1] or value_of(segment.text)[1]
    taken = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree is not None else set()
    for function in functions_around(segment):
        for node in ast.walk(function):
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and target.id in taken:
                parts = list(ast.walk(node.value))
                sizes = any(isinstance(part, ast.Attribute) and part.attr in ("shape", "size") for part in parts)
                if sizes or isinstance(node.value, ast.Constant):
                    yield piece_of(segment, node.value)


def piece_of(segment: Segment, node: ast.expr) -> Segment:
    """An expression of the function that a piece of code stands in."""
    end = node.end_lineno or node.lineno, node.end_col_offset or 0
    return Segment(segment.file, node.lineno, node.col_offset, *end, segment.function)


def functions_around(segment: Segment) -> Iterator[ast.FunctionDef]:
    """The functions that a piece of code stands in and that have its function's name."""
    try:
        tree = ast.parse("".join(linecache.getlines(segment.file)))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name != segment.function:
            continue
        if node.lineno <= segment.line <= (node.end_lineno or node.lineno):
            yield node


def _in_scope(segment: Segment) -> tuple[list[str], list[str], list[str]]:
    """Variables and arguments of the function that a piece of code stands in, the last assigned first; what it takes
    from outside; what counts the passes of the loops around it."""
    around = lambda node: node.lineno <= segment.line <= (node.end_lineno or node.lineno)
    names: dict[str, None] = {}
    others: dict[str, None] = {}
    counters: list[str] = []
    for function in functions_around(segment):
        inside = list(ast.walk(function))
        stored = [n for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        before = [n.id for n in stored if n.lineno < segment.line]
        names |= dict.fromkeys([*reversed(before), *(argument.arg for argument in function.args.args)])
        loops = [n.target for n in inside if isinstance(n, ast.For) and around(n)]
        counters += [target.id for target in loops if isinstance(target, ast.Name)]
        called = {id(node.func) for node in inside if isinstance(node, ast.Call)}
        modules = {id(node.value) for node in inside if isinstance(node, ast.Attribute) and node.attr != "T"}
        loaded = [n for n in inside if isinstance(n, ast.Name) and id(n) not in called | modules]
        others |= dict.fromkeys(n.id for n in loaded if n.id not in {its.id for its in stored})
    return list(names), [name for name in others if name not in names], counters
