"""Repairs of a piece of code: what to write in the place of an expression, as data and as text.

A repair is a guess at what a person would write. Whether the rule is right with it is for `mending` to try.
"""

import ast
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple


class Repair(NamedTuple):
    """A change of an expression.

    Attributes:
        how: a key of `WAYS`.
        by: what is put in: a template in which {} is the expression, a name, a number.
        code: the part of the expression that gives way; empty where it is all of it, or any.
    """

    how: str
    by: str = ""
    code: str = ""


def edits(code: str, repairs: Iterable[Repair]) -> Iterator[str]:
    """The code with the expression that it is or assigns repaired, each once; none where it cannot be read."""
    text, tree = value_of(code)
    made = {text}
    if tree is None:
        return
    for repair in repairs:
        for node, by in WAYS[repair.how](text, tree, repair):
            changed = put(text, node, by)
            if changed not in made and _parsed(changed) is not None:
                made.add(changed)
                yield code.replace(text, changed)


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def value_of(code: str) -> tuple[str, ast.expr | None]:
    """The expression that a piece of code is, or that it assigns, and its tree."""
    if (tree := _parsed(code)) is not None:
        return code, tree
    try:
        statement = ast.parse(code).body[0]
    except (SyntaxError, ValueError, IndexError):
        return code, None
    value = getattr(statement, "value", None)
    if not isinstance(statement, ast.Assign | ast.AugAssign | ast.Return | ast.AnnAssign) or value is None:
        return code, None
    text = ast.get_source_segment(code, value) or ""
    return text, _parsed(text)


def is_code(name: str) -> bool:
    """Whether the name of a value is an expression; ∂L/∂p is none."""
    return name.isascii() and "`" not in name and _parsed(name) is not None


def put(text: str, node: ast.AST, by: str) -> str:
    """The text with another one in the place of a node."""
    raw = text.encode()
    start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", len(raw))
    return raw[:start].decode() + by + raw[end:].decode()


def source_of(text: str, node: ast.AST) -> str:
    return ast.get_source_segment(text, node) or ""


def kind_instead_of(taken: str, meant: str) -> str:
    """Of mistake, where one piece of code stands in the place of another."""
    if meant in (f"{taken}.T", f"({taken}).T") or taken == f"{meant}.T":
        return "transpose"
    if meant.startswith(f"{taken} + ") or meant.endswith(f" + {taken}"):
        return "missing-term"
    return "wrong-operand"


LOOSE = (ast.Compare, ast.BoolOp, ast.IfExp, ast.Lambda, ast.Tuple)


def bracketed(text: str, sums: bool = True, products: bool = False) -> str:
    """In brackets where it is a sum, a product, or what binds less than either."""
    node = _parsed(text)
    loose = isinstance(node, LOOSE)
    if isinstance(node, ast.BinOp):
        loose = products or (sums and isinstance(node.op, ast.Add | ast.Sub))
    if isinstance(node, ast.UnaryOp):
        loose = sums or products
    return f"({text})" if loose else text


Way = Callable[[str, ast.expr, Repair], Iterator[tuple[ast.AST, str]]]
"""Parts of an expression, and what may be written in the place of each."""


def _wrap(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    tight = re.search(r"\{\}(\.|\[|\*\*)", repair.by) is not None
    call = re.search(r"[(,] ?\{\}[,)]", repair.by) is not None
    by = text if call else bracketed(text, sums=not re.match(r"\{\} [+-] ", repair.by), products=tight)
    yield tree, repair.by.replace("{}", by)


def _swap(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """Another value in the place of a part."""
    wanted = _parsed(repair.code)
    if wanted is None:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and ast.dump(node) == ast.dump(wanted):
            yield node, repair.by if node is tree else bracketed(repair.by, products=True)


def _without(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """A factor, a divisor or a term left out: the one that is named, or a number."""
    named = _parsed(repair.code) if repair.code else None
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp):
            continue
        for side, other in ((node.right, node.left), (node.left, node.right)):
            if side is node.left and not isinstance(node.op, ast.Mult | ast.Add):
                continue
            if ast.dump(side) == ast.dump(named) if named is not None else isinstance(side, ast.Constant):
                yield node, source_of(text, other) if node is tree else bracketed(source_of(text, other))
        square = isinstance(node.op, ast.Pow) and source_of(text, node.right) == "2"
        if named is not None and square and ast.dump(node.left) == ast.dump(named):
            yield node, source_of(text, node.left)


def _signs(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """A sign turned."""
    leading = tree
    while isinstance(leading, ast.BinOp) and isinstance(leading.op, ast.Mult | ast.Div | ast.MatMult):
        leading = leading.left
    if isinstance(leading, ast.UnaryOp) and isinstance(leading.op, ast.USub):
        yield leading, source_of(text, leading.operand)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            raw, start, end = text.encode(), node.left.end_col_offset or 0, node.right.col_offset
            between = raw[start:end].decode()
            turned = between.replace("+", "-") if isinstance(node.op, ast.Add) else between.replace("-", "+")
            yield node, raw[node.col_offset : start].decode() + turned + raw[end : node.end_col_offset].decode()
            if isinstance(node.op, ast.Sub):
                left, right = source_of(text, node.left), source_of(text, node.right)
                yield node, f"{right} - {bracketed(left)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node, source_of(text, node.operand)
    yield tree, f"-{bracketed(text)}"


def _calls(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """Another function called, or put around the operand of none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else source_of(text, function)
        if called != repair.code:
            continue
        if not repair.by:
            operand = node.args[0] if node.args else function.value if isinstance(function, ast.Attribute) else tree
            yield node, bracketed(source_of(text, operand))
        elif isinstance(function, ast.Attribute):
            before = text.encode()[function.col_offset : (function.end_col_offset or 0) - len(called.encode())].decode()
            yield function, before + repair.by


def _axes(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """Other axes of what is taken along some."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = next((k.value for k in node.keywords if k.arg in ("axis", "axes", "dims")), None)
        method = isinstance(node.func, ast.Attribute) and source_of(text, node.func.value) not in ("jnp", "np", "numpy")
        place = 0 if method else 1
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("sum", "mean", "cumsum", "max", "prod"):
            given = node.args[place] if given is None and len(node.args) > place else given
            if given is None:
                comma = ", " if node.args or node.keywords else ""
                yield node, f"{source_of(text, node)[:-1]}{comma}axis={repair.by})"
        if given is not None:
            yield given, repair.by


MODULES = ("jnp", "np", "jax", "lax")


def _transposes(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """A `.T` put in or left out, at the named part or at any."""
    named = _parsed(repair.code) if repair.code else None
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "T":
            yield node, source_of(text, node.value)
    sides: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            sides += [node.left, node.right]
        elif isinstance(node, ast.Call) and source_of(text, node.func).endswith(("solve", "solve_triangular")):
            sides += node.args
    for node in ast.walk(tree):
        alike = isinstance(node, ast.Name) or node in sides
        if named is not None:
            alike = ast.dump(node) == ast.dump(named)
        if alike and isinstance(node, ast.expr) and source_of(text, node) not in MODULES:
            yield node, f"{bracketed(source_of(text, node), products=True)}.T"
    yield tree, f"{bracketed(text, products=True)}.T"


def _letters(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """The letters of one operand of an einsum: two of them exchanged."""
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and source_of(text, node.func).endswith("einsum") and node.args
        subscripts = node.args[0] if isinstance(node, ast.Call) and called else None
        if not isinstance(subscripts, ast.Constant) or not isinstance(subscripts.value, str):
            continue
        before, arrow, out = subscripts.value.partition("->")
        terms = before.split(",")
        for k, term in enumerate(terms):
            for i, j in itertools.combinations(range(len(term)), 2):
                turned = term[:i] + term[j] + term[i + 1 : j] + term[i] + term[j + 1 :]
                yield subscripts, f'"{",".join([*terms[:k], turned, *terms[k + 1 :]])}{arrow}{out}"'


def _compares(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """Another comparison."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.comparators) == 1:
            yield node, f"{source_of(text, node.left)} {repair.by} {source_of(text, node.comparators[0])}"


def _index(text: str, tree: ast.expr, repair: Repair) -> Iterator[tuple[ast.AST, str]]:
    """The entry before or after the one that is taken."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or isinstance(node.slice, ast.Tuple | ast.Slice | ast.Constant):
            continue
        whole, index = source_of(text, node.value), source_of(text, node.slice)
        if not whole.endswith(".shape"):
            for sign, other in (("+", "-"), ("-", "+")):
                shorter = index.removesuffix(f" {other} 1")
                for entry in (shorter, f"{shorter} {sign} 1"):
                    yield node, f"{whole}[{entry}]"


WAYS: dict[str, Way] = {
    "wrap": _wrap,
    "swap": _swap,
    "without": _without,
    "signs": _signs,
    "calls": _calls,
    "axes": _axes,
    "transposes": _transposes,
    "letters": _letters,
    "compares": _compares,
    "index": _index,
}


def listed(numbers) -> str:
    return ", ".join(map(str, numbers))


def axes_code(axes: Sequence[int]) -> str:
    """Axes as an argument."""
    return str(axes[0]) if len(axes) == 1 else f"({listed(axes)})"
