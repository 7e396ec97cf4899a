"""Repairs of a piece of code: what to write in the place of an expression, as data and as text.

A repair is a guess at what a person would write. Whether the rule is right with it is for `rewrite` to try.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

MOST = 10
"""Texts for one mistake."""


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


def texts(code: str, repairs: tuple[Repair, ...]) -> list[str]:
    """The expression repaired, the likeliest text first; empty where it cannot be read."""
    prefix, expression = value_of(code)
    if expression is None:
        return []
    made: dict[str, None] = {}
    for repair in repairs:
        for text in WAYS[repair.how](prefix, expression, repair):
            if _parsed(text) is not None and text != prefix:
                made.setdefault(code.replace(prefix, text) if prefix != code else text)
    return [text for text in made if text != code][:MOST]


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


def _wrap(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    tight = re.search(r"\{\}(\.|\[|\*\*)", repair.by) is not None
    call = re.search(r"[(,] ?\{\}[,)]", repair.by) is not None
    by = text if call else bracketed(text, sums=not re.match(r"\{\} [+-] ", repair.by), products=tight)
    yield repair.by.replace("{}", by)


def _swap(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """Another value in the place of a part."""
    wanted = _parsed(repair.code)
    if wanted is None:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and ast.dump(node) == ast.dump(wanted):
            yield put(text, node, repair.by if node is tree else bracketed(repair.by, products=True))


def _without(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """A factor, a divisor or a term left out: the one that is named, or a number."""
    named = _parsed(repair.code) if repair.code else None
    for node in ast.walk(tree):
        if not isinstance(node, ast.BinOp):
            continue
        for side, other in ((node.right, node.left), (node.left, node.right)):
            first = side is node.left
            if first and not isinstance(node.op, ast.Mult | ast.Add):
                continue
            if ast.dump(side) == ast.dump(named) if named is not None else isinstance(side, ast.Constant):
                yield put(text, node, source_of(text, other))
    if named is None:
        return
    for node in ast.walk(tree):
        square = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and source_of(text, node.right) == "2"
        if isinstance(node, ast.BinOp) and square and ast.dump(node.left) == ast.dump(named):
            yield put(text, node, source_of(text, node.left))


def _signs(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """A sign turned."""
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        yield source_of(text, tree.operand)
    leading = tree
    while isinstance(leading, ast.BinOp) and isinstance(leading.op, ast.Mult | ast.Div | ast.MatMult):
        leading = leading.left
    if leading is not tree and isinstance(leading, ast.UnaryOp) and isinstance(leading.op, ast.USub):
        yield put(text, leading, source_of(text, leading.operand))
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            left, right = source_of(text, node.left), source_of(text, node.right)
            raw = text.encode()
            between = raw[node.left.end_col_offset : node.right.col_offset].decode()
            before, after = text.encode()[: node.col_offset].decode(), raw[node.end_col_offset :].decode()
            turned = between.replace("+", "-") if isinstance(node.op, ast.Add) else between.replace("-", "+")
            yield f"{before}{left}{turned}{right}{after}"
            if isinstance(node.op, ast.Sub):
                yield put(text, node, f"{right} - {left}")
    for node in ast.walk(tree):
        if node is not tree and isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield put(text, node, source_of(text, node.operand))
    by = bracketed(text)
    yield f"-{by}"


def _calls(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """Another function in the place of `code`, `mean` for `sum`; none where `by` is empty."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else source_of(text, node.func)
        if called != repair.code:
            continue
        if not repair.by:
            yield put(text, node, bracketed(source_of(text, node.args[0])) if node.args else _receiver(text, node))
        elif isinstance(node.func, ast.Attribute):
            raw, end = text.encode(), node.func.end_col_offset or 0
            yield raw[: end - len(called.encode())].decode() + repair.by + raw[end:].decode()


def _receiver(text: str, node: ast.Call) -> str:
    return source_of(text, node.func.value) if isinstance(node.func, ast.Attribute) else text


def _axes(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """Other axes of a sum, a mean or a cumulative sum."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called not in ("sum", "mean", "cumsum", "max", "prod"):
            continue
        method = isinstance(node.func, ast.Attribute) and source_of(text, node.func.value) not in ("jnp", "np", "numpy")
        given = next((k.value for k in node.keywords if k.arg == "axis"), None)
        place = 0 if method else 1
        if given is None and len(node.args) > place:
            given = node.args[place]
        if given is not None:
            yield put(text, given, repair.by)
        else:
            whole = source_of(text, node)
            comma = ", " if node.args or node.keywords else ""
            yield put(text, node, f"{whole[:-1]}{comma}axis={repair.by})")


def _transposes(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """A `.T` put in or left out, at the named part or at any."""
    named = _parsed(repair.code) if repair.code else None
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "T":
            yield put(text, node, source_of(text, node.value))
    for node in ast.walk(tree):
        wanted = ast.dump(node) == ast.dump(named) if named is not None else isinstance(node, ast.Name)
        if wanted and isinstance(node, ast.expr) and source_of(text, node) not in ("jnp", "np", "jax", "lax"):
            yield put(text, node, f"{bracketed(source_of(text, node), products=True)}.T")
    yield f"{bracketed(text, products=True)}.T"


def _letters(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """The letters of one operand of an einsum exchanged."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and source_of(text, node.func).endswith("einsum") and node.args:
            subscripts = node.args[0]
            if not isinstance(subscripts, ast.Constant) or not isinstance(subscripts.value, str):
                continue
            before, arrow, out = subscripts.value.partition("->")
            terms = before.split(",")
            for k, term in enumerate(terms):
                for i in range(len(term)):
                    for j in range(i + 1, len(term)):
                        turned = list(term)
                        turned[i], turned[j] = turned[j], turned[i]
                        parts = [*terms[:k], "".join(turned), *terms[k + 1 :]]
                        yield put(text, subscripts, f'"{",".join(parts)}{arrow}{out}"')


def _compares(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """Another comparison."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.comparators) == 1:
            left, right = source_of(text, node.left), source_of(text, node.comparators[0])
            yield put(text, node, f"{left} {repair.by} {right}")


def _index(text: str, tree: ast.expr, repair: Repair) -> Iterator[str]:
    """The entry before or after the one that is taken."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or isinstance(node.slice, ast.Tuple | ast.Slice | ast.Constant):
            continue
        index = source_of(text, node.slice)
        for sign, other in (("+", "-"), ("-", "+")):
            shorter = index.removesuffix(f" {other} 1")
            yield put(text, node.slice, shorter if shorter != index else f"{index} {sign} 1")


Way = Callable[[str, ast.expr, Repair], Iterator[str]]

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
