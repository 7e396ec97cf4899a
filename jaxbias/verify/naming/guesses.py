"""Small changes of a line that people overlook, for a line that is wrong and says nothing by its value.

Each is tried as a repair is (`mending`): the rule is carried out with it, on all probes and at two sizes. So a guess
that is told is proved, whatever it was guessed by.
"""

import ast
import itertools
import linecache
from collections.abc import Iterator
from typing import NamedTuple

from jaxbias._jaxpr.sources import Segment
from jaxbias.verify.naming.repairs import bracketed, put, source_of, value_of

MOST = 60
"""Guesses at one line."""


class Guess(NamedTuple):
    """What may be wrong with a piece of code: a kind of mistake, a sentence without its subject, and the right code."""

    kind: str
    text: str
    code: str


CALLS = {
    ("sum", "mean"): "batch-mean-vs-sum", ("argmin", "argmax"): "missing-mask", ("tril", "triu"): "missing-mask",
    ("min", "max"): "wrong-operand", ("minimum", "maximum"): "wrong-operand", ("sin", "cos"): "wrong-operand",
    ("real", "imag"): "wrong-operand", ("set", "add"): "overwritten-not-accumulated",
    ("tanh", "sigmoid"): "missing-activation-derivative", ("floor", "ceil"): "wrong-operand",
}  # fmt: skip
"""Functions that are taken for each other, and what kind of mistake that is."""


FLAGS = {
    "trans": "transpose", "transpose_a": "transpose", "lower": "transpose", "reverse": "wrong-index",
    "conjugate_a": "sign", "ascending": "wrong-index", "descending": "wrong-index",
}  # fmt: skip
"""Keywords that are on or off, and what kind of mistake it is to have them the other way round."""

SOLVERS = {"solve_triangular": "trans=1", "triangular_solve": "transpose_a=True"}
"""What has such functions solve with the transpose."""


def guesses(segment: Segment) -> list[Guess]:
    """Of a piece of code that is an expression or assigns one, the likelier first."""
    text, tree = value_of(segment.text)
    if tree is None:
        return []
    made: dict[str, Guess] = {}
    ways = (_letters, _flags, _signs, _axes, _calls, _directions, _transposes, _too_much, _exchanged)
    names, counters = _in_scope(segment)
    entries = (_indices(text, tree, counters), _slices(text, tree, counters))
    for guess in itertools.chain(*entries, *(way(text, tree) for way in ways), _names(text, tree, names)):
        if guess.code != text:
            made.setdefault(guess.code, guess._replace(code=segment.text.replace(text, guess.code)))
    return list(made.values())[:MOST]


def _letters(text: str, tree: ast.expr) -> Iterator[Guess]:
    """A letter of an einsum."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args or not source_of(text, node.func).endswith("einsum"):
            continue
        subscripts = node.args[0]
        if not isinstance(subscripts, ast.Constant) or not isinstance(subscripts.value, str):
            continue
        terms, arrow, out = subscripts.value.partition("->")
        letters = sorted({c for c in terms + out if c.isalpha()})
        for k, now in enumerate(terms):
            for letter in letters if now.isalpha() else ():
                start = terms[:k].rfind(",") + 1
                term = terms[start:].partition(",")[0]
                turned = term[: k - start] + letter + term[k - start + 1 :]
                code = put(text, subscripts, f'"{terms[:k]}{letter}{terms[k + 1 :]}{arrow}{out}"')
                yield Guess("wrong-index", f"has the letters {term} where {turned} are needed", code)


def _indices(text: str, tree: ast.expr, counters: list[str]) -> Iterator[Guess]:
    """Another entry: that before or after, or the one that a name in the index, or the pass of a loop, says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or isinstance(node.slice, ast.Slice | ast.Tuple):
            continue
        index = source_of(text, node.slice)
        names = [part.id for part in ast.walk(node.slice) if isinstance(part, ast.Name) and part.id not in CALLS]
        others = [*names, f"{index} + 1", f"{index} - 1", *counters]
        size = isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
        kind, of = ("scale-constant", source_of(text, node.value)) if size else ("wrong-index", "")
        for other in others if not isinstance(node.slice, ast.Constant) else (*counters, "0", "-1", "1"):
            now, wanted = (f"{of}[{index}]", f"{of}[{other}]") if size else (f"entry {index}", other)
            words = f"must be {wanted}" if size and node is tree else f"takes {now} where {wanted} is needed"
            yield Guess(kind, words, put(text, node.slice, other))


def _slices(text: str, tree: ast.expr, counters: list[str]) -> Iterator[Guess]:
    """Entries that move on with the passes of a loop."""
    for node, counter in itertools.product(ast.walk(tree), counters):
        if isinstance(node, ast.Slice) and (node.upper is not None or node.lower is not None):
            ends = [source_of(text, end) if end is not None else "" for end in (node.lower, node.upper)]
            lower, upper = (f"{counter} + {bracketed(end)}" if end else end for end in ends)
            step = f" : {source_of(text, node.step)}" if node.step is not None else ""
            entries = f"{lower or counter} : {upper}{step}"
            words = f"takes entries {source_of(text, node)} where {entries} are needed"
            yield Guess("wrong-index", words, put(text, node, entries))


def _flags(text: str, tree: ast.expr) -> Iterator[Guess]:
    """A keyword turned round."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in FLAGS and isinstance(node.value, ast.Constant):
            now, other = node.value.value, 1 - node.value.value
            other = bool(other) if isinstance(now, bool) else other
            words = f"has {node.arg}={now}, and must have {node.arg}={other}"
            yield Guess(FLAGS[node.arg], words, put(text, node.value, str(other)))
        if isinstance(node, ast.Call) and node.args:
            keyword = SOLVERS.get(source_of(text, node.func).rpartition(".")[2], "")
            if keyword and all(keyword.partition("=")[0] != given.arg for given in node.keywords):
                words = f"solves with {source_of(text, node.args[0])}, and must solve with its transpose"
                yield Guess("transpose", words, put(text, node, f"{source_of(text, node)[:-1]}, {keyword})"))


def _signs(text: str, tree: ast.expr) -> Iterator[Guess]:
    for node in ast.walk(tree):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            its = source_of(text, node.operand)
            yield Guess("sign", f"has {bracketed(its)} with the wrong sign", put(text, node, its))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            left, right = source_of(text, node.left), source_of(text, node.right)
            sign = "-" if isinstance(node.op, ast.Add) else "+"
            turned = f"{left} {sign} {bracketed(right)}"
            yield Guess("sign", f"has the term {right} with the wrong sign", put(text, node, turned))


def _axes(text: str, tree: ast.expr) -> Iterator[Guess]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("axis", "axes", "dims"):
            now = source_of(text, node.value)
            for other in ("0", "1", "-1", "2", "(0, 1)"):
                words = f"is taken over axis {now}, and must be over axis {other}"
                yield Guess("wrong-reduction-axis", words, put(text, node.value, other))


def _calls(text: str, tree: ast.expr) -> Iterator[Guess]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            for pair, kind in CALLS.items():
                for now, other in (pair, pair[::-1]):
                    if node.attr == now:
                        words = f"takes {now}, and must take {other}"
                        yield Guess(kind, words, put(text, node, f"{source_of(text, node.value)}.{other}"))


def _transposes(text: str, tree: ast.expr) -> Iterator[Guess]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "T":
            its = source_of(text, node.value)
            yield Guess("transpose", f"takes {its}.T where {its} is needed", put(text, node, its))
        matrices: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            matrices = [node.left, node.right]
        elif isinstance(node, ast.Call) and source_of(text, node.func).rpartition(".")[2] in OF_MATRICES:
            matrices = node.args
        for side in matrices:
            its = bracketed(source_of(text, side), products=True)
            yield Guess("transpose", f"takes {its} where {its}.T is needed", put(text, side, f"{its}.T"))


OF_MATRICES = ("solve", "inv", "dot", "matmul", "cholesky", "expm")
"""Functions of matrices, any of which may have to be transposed."""


def _directions(text: str, tree: ast.expr) -> Iterator[Guess]:
    """From the other end, or the other way round: what is added up, and what is shifted."""
    for node in ast.walk(tree):
        module, _, name = source_of(text, node.func).rpartition(".") if isinstance(node, ast.Call) else ("", "", "")
        if (
            not isinstance(node, ast.Call)
            or not node.args
            or module not in ("jnp", "np", "lax", "jax.numpy", "jax.lax")
        ):
            continue
        if name in ("cumsum", "cumprod"):
            axis = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "axis")]
            by, taken = source_of(text, axis[0]) if axis else "0", source_of(text, node.args[0])
            flipped = put(text, node.args[0], f"jnp.flip({taken}, {by})")
            start, end = node.col_offset, (node.end_col_offset or 0) + len(flipped) - len(text)
            turned = f"{flipped[:start]}jnp.flip({flipped[start:end]}, {by}){flipped[end:]}"
            yield Guess("wrong-index", f"adds {taken} up from the wrong end", turned)
        if name == "roll":
            shift = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "shift")]
            for its in shift:
                now = source_of(text, its)
                other = now[1:] if now.startswith("-") else f"-{bracketed(now)}"
                yield Guess("wrong-index", f"shifts by {now}, and must shift by {other}", put(text, its, other))


def _too_much(text: str, tree: ast.expr) -> Iterator[Guess]:
    """A factor or a term left out."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp) or isinstance(node.op, ast.MatMult):
            continue
        for side, other in ((node.right, node.left), (node.left, node.right)):
            its = source_of(text, side)
            if isinstance(node.op, ast.Add | ast.Sub):
                kind, words = "extra-term", f"has the term {its} too much"
            else:
                kind = "scale-constant" if isinstance(side, ast.Constant) else "wrong-operand"
                words = f"has the factor {its} too much"
            if not isinstance(node.op, ast.Pow):
                yield Guess(kind, words, put(text, node, source_of(text, other)))


def _exchanged(text: str, tree: ast.expr) -> Iterator[Guess]:
    """Two variables, each in the place of the other."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    for a, b in itertools.combinations(nodes, 2):
        if a.id != b.id:
            first, second = sorted((a, b), key=lambda node: node.col_offset)
            code = put(put(text, second, first.id), first, second.id)
            yield Guess("wrong-operand", f"has {first.id} and {second.id} exchanged", code)


def _names(text: str, tree: ast.expr, names: list[str]) -> Iterator[Guess]:
    """Another variable."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    attributes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr != "T"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in called | attributes and node.id in names:
            for other in names:
                if other != node.id:
                    words = f"takes {node.id} where {other} is needed"
                    yield Guess("wrong-operand", words, put(text, node, other))


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
                    value, end = node.value, node.value.end_lineno or node.value.lineno
                    place = value.lineno, value.col_offset, end, value.end_col_offset or 0
                    yield Segment(segment.file, *place, function.name)


def functions_around(segment: Segment) -> Iterator[ast.FunctionDef]:
    """The functions that a piece of code stands in and that have its function's name."""
    try:
        tree = ast.parse("".join(linecache.getlines(segment.file)))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        named = isinstance(node, ast.FunctionDef) and node.name == segment.function
        if named and node.lineno <= segment.line <= (node.end_lineno or node.lineno):
            yield node


def _in_scope(segment: Segment) -> tuple[list[str], list[str]]:
    """Variables and arguments of the function that a piece of code stands in, the last assigned first; those that count
    the passes of the loops around it."""
    around = lambda node: node.lineno <= segment.line <= (node.end_lineno or node.lineno)
    names: dict[str, None] = {}
    counters: list[str] = []
    for function in functions_around(segment):
        inside = list(ast.walk(function))
        stored = [n for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        before = [n.id for n in stored if n.lineno < segment.line]
        names |= dict.fromkeys([*reversed(before), *(argument.arg for argument in function.args.args)])
        loops = [n.target for n in inside if isinstance(n, ast.For) and around(n)]
        counters += [target.id for target in loops if isinstance(target, ast.Name)]
    return list(names), counters
