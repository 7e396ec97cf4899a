"""Expressions as Python that a person would write: NumPy's operators and methods, `@`, `keepdims`, `x[:, None]`."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression, bare, value_of
from jaxbias.symbols.sums import Sums

COMPARE, BITS, SUM, PRODUCT, UNARY, POWER, ATOM = range(7)
"""What binds more tightly comes later."""

_OWN = re.compile(r"([A-Za-z_]\w*)\(")

_SIMPLE = re.compile(r"[\w.]+")
"""Names, attributes and numbers, which stand close to ** as formatters have it."""

ELEMENTWISE = frozenset(("add", "mul", "div", "negative", "power", "apply", "compare", "where", "cast"))

LETTERS = "ijklmnopqrstuvwxyzabcdefgh"


def literal(value: Any, dtype: Any) -> str:
    """The text of a number: as a person writes 1e-05 where float32 holds just that, else with all its digits."""
    if isinstance(value, complex) or np.dtype(dtype).kind == "c":
        return repr(complex(value))
    if np.dtype(dtype).kind == "b":
        return repr(bool(value))
    value = float(value)
    if math.isnan(value) or math.isinf(value):
        return f"{'-' if value < 0 else ''}jnp.{'nan' if math.isnan(value) else 'inf'}"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    short = str(np.float32(value)) if np.dtype(dtype).itemsize == 4 else repr(value)
    digits = sum(c.isdigit() for c in short.partition("e")[0].strip("0.").replace(".", ""))
    return short if np.float32(value) == np.float32(short) and digits <= 5 else repr(value)


class Printer(Sums):
    """Python for expressions.

    Args:
        text_of: the name of an expression that has one; None for others, which are written out.
        ranks: write axes in front that NumPy puts there by itself, `b[None, :]`, as `jax_numpy_rank_promotion="raise"`
            wants them.

    Attributes:
        names: the variables that what was printed reads.
    """

    sum_level, product_level = SUM, PRODUCT

    def __init__(self, text_of: Callable[[Expression], str | None] = lambda x: None, ranks: bool = False):
        self.text_of, self.ranks = text_of, ranks
        self.names: set[str] = set()

    def __call__(self, x: Expression, level: int = COMPARE) -> str:
        """The text of x, in parentheses where it binds less tightly than its surroundings."""
        text, own = self.of(x)
        return f"({text})" if own < level else text

    def of(self, x: Expression) -> tuple[str, int]:
        """Text, and how tightly it binds."""
        if (known := self.text_of(x)) is not None:
            self.names.add(known)
            return known, ATOM
        x = self._aligned(x, x.ndim, True) if self.ranks else x
        return getattr(self, x.op)(x)

    def _aligned(self, x: Expression, ndim: int, whole: bool = False) -> Expression:
        """An operand with axes in front, as many as an elementwise function has that it goes into."""
        if x.op in ELEMENTWISE and ndim > 1 and (whole or (0 < x.ndim < ndim and self.text_of(x) is None)):
            args = [self._aligned(arg, ndim) for arg in x.args]
            shape = (*(1,) * (ndim - x.ndim), *x.shape)
            return ex.make(x.op, args, x.detail, shape, x.dtype)
        if not 0 < x.ndim < ndim:
            return x
        return ex.make("lead", (x,), None, (*(1,) * (ndim - x.ndim), *x.shape), x.dtype)

    # --- leaves ---

    def name(self, x: Expression) -> tuple[str, int]:
        self.names.add(x.detail)
        return x.detail, ATOM

    def number(self, x: Expression) -> tuple[str, int]:
        text = literal(x.detail, x.dtype)
        return text, UNARY if text.startswith("-") else ATOM

    def size(self, x: Expression) -> tuple[str, int]:
        (of,) = x.args
        if len(x.detail) == of.ndim > 1:
            return f"{self(of, ATOM)}.size", ATOM
        texts = [f"{self(of, ATOM)}.shape[{axis}]" for axis in x.detail]
        return " * ".join(texts), PRODUCT if len(texts) > 1 else ATOM

    # --- elementwise ---

    def mul(self, x: Expression) -> tuple[str, int]:
        first, second = x.args
        # Two numbers side by side would be multiplied by Python, and rounded once instead of twice.
        together = second.op == "mul" and not (first.op == second.args[0].op == "number")
        return f"{self(first, PRODUCT)} * {self(second, PRODUCT if together else UNARY)}", PRODUCT

    def div(self, x: Expression) -> tuple[str, int]:
        first, second = x.args
        if (mean := self._mean(first, second, ())) is not None:
            return mean, ATOM
        return f"{self(first, PRODUCT)} / {self(second, UNARY)}", PRODUCT

    def power(self, x: Expression) -> tuple[str, int]:
        (core,), exponent = x.args, x.detail
        if exponent == 0.5:
            return f"jnp.sqrt({self(core)})", ATOM
        text, base = literal(exponent, x.dtype), self(core, ATOM)
        return f"{base}**{text}" if _SIMPLE.fullmatch(base) else f"{base} ** {text}", POWER

    def apply(self, x: Expression) -> tuple[str, int]:
        if x.detail in ("&", "|", "^"):
            return f" {x.detail} ".join(self(arg, SUM) for arg in x.args), BITS
        if x.detail == "~":
            return f"~{self(x.args[0], UNARY)}", UNARY
        return f"{x.detail}({', '.join(map(self, x.args))})", ATOM

    def compare(self, x: Expression) -> tuple[str, int]:
        first, second = x.args
        return f"{self(first, SUM)} {x.detail} {self(second, SUM)}", COMPARE

    def where(self, x: Expression) -> tuple[str, int]:
        return f"jnp.where({', '.join(map(self, x.args))})", ATOM

    def cast(self, x: Expression) -> tuple[str, int]:
        return f"{self(x.args[0], ATOM)}.astype(jnp.{x.detail.replace('bool', 'bool_')})", ATOM

    # --- layout ---

    def spread(self, x: Expression) -> tuple[str, int]:
        (core,) = x.args
        if core.op == "number":
            if core.detail in (0, 1) and core.dtype.kind == "f":
                return f"jnp.{'ones' if core.detail else 'zeros'}({_tuple(x.shape)}, {self.dtype(x)})", ATOM
            return f"jnp.full({_tuple(x.shape)}, {self(core)}, {self.dtype(x)})", ATOM
        return f"jnp.broadcast_to({self(core)}, {_tuple(x.shape)})", ATOM

    @staticmethod
    def dtype(x: Expression) -> str:
        return f"jnp.{str(x.dtype).replace('bool', 'bool_')}"

    def expand(self, x: Expression) -> tuple[str, int]:
        (core,), axes = x.args, x.detail
        if self.text_of(core) is None:
            if core.op == "total" and core.detail == axes:
                return self._reduced(core.args[0], "sum", axes, True), ATOM
            if core.op == "div" and (mean := self._mean(core.args[0], core.args[1], axes)) is not None:
                return mean, ATOM
            if core.op == "call" and "{keep}" in core.detail:
                return self.call(core, axes)
            if core.op in ("add", "mul", "div", "negative", "apply", "power") and _all_reduced(core, axes):
                inner = _expanded(core, axes)
                return self.of(inner)
        marks = ["None" if k in axes else ":" for k in range(x.ndim)]
        while len(marks) > 1 and marks[-1] == ":":
            marks.pop()
        return f"{self(core, ATOM)}[{', '.join(marks)}]", ATOM

    def lead(self, x: Expression) -> tuple[str, int]:
        (core,) = x.args
        marks = ["None"] * (x.ndim - core.ndim) + [":"] * (core.ndim == 1)
        return f"{self(core, ATOM)}[{', '.join(marks)}]", ATOM

    def drop(self, x: Expression) -> tuple[str, int]:
        return f"{self(x.args[0], ATOM)}.squeeze({_axes(x.detail)})", ATOM

    def reshape(self, x: Expression) -> tuple[str, int]:
        return f"{self(x.args[0], ATOM)}.reshape({', '.join(map(str, x.shape)) or '()'})", ATOM

    def part(self, x: Expression) -> tuple[str, int]:
        return f"{self(x.args[0], ATOM)}[{places_in_brackets(x.detail, x.args[0].shape)}]", ATOM

    def placed(self, x: Expression) -> tuple[str, int]:
        like, held = x.args
        return f"jnp.zeros_like({self(like)}).at[{places_in_brackets(x.detail, x.shape)}].set({self(held)})", ATOM

    def transpose(self, x: Expression) -> tuple[str, int]:
        (core,), order = x.args, x.detail
        if core.op == "contract" and self.text_of(core) is None and self.contract(core)[0].startswith("jnp.einsum"):
            return self._einsum(core, order), ATOM
        if order == tuple(range(len(order)))[::-1]:
            return f"{self(core, ATOM)}.T", ATOM
        moved = [k for k, axis in enumerate(order) if k != axis]
        if len(moved) == 2:
            a, b = (k - len(order) if k >= len(order) - 2 else k for k in moved)
            return f"{self(core, ATOM)}.swapaxes({a}, {b})", ATOM
        return f"{self(core, ATOM)}.transpose({', '.join(map(str, order))})", ATOM

    # --- sums and products ---

    def total(self, x: Expression) -> tuple[str, int]:
        return self._reduced(x.args[0], "sum", x.detail, False), ATOM

    def _reduced(self, x: Expression, method: str, axes: Sequence[int], keepdims: bool) -> str:
        words = [] if len(axes) == x.ndim and not keepdims else [f"axis={_axes([_from_end(k, x.ndim) for k in axes])}"]
        return f"{self(x, ATOM)}.{method}({', '.join([*words, *['keepdims=True'] * keepdims])})"

    def _mean(self, a: Expression, b: Expression, axes: tuple[int, ...]) -> str | None:
        """a / b where it is a mean over axes that are kept (all of them, or none)."""
        if a.op == "expand" and not axes and a.args[0].op == "total" and a.args[0].detail == a.detail:
            a, axes = (a.args[0], a.detail) if self.text_of(a) is None else (a, axes)
        if a.op != "total" or self.text_of(a) is not None or (axes and a.detail != axes):
            return None
        count = math.prod(a.args[0].shape[k] for k in a.detail)
        whole = value_of(bare(b))
        return self._reduced(a.args[0], "mean", a.detail, bool(axes)) if whole == count else None

    def contract(self, x: Expression) -> tuple[str, int]:
        (a, b), (contracted, batch) = x.args, x.detail
        lead = tuple(range(len(batch[0])))
        if len(contracted[0]) == 1 and batch == (lead, lead):
            matrix = a.ndim == b.ndim == len(lead) + 2
            (k,), (m,) = contracted
            rows = not lead and b.ndim <= 2 and contracted[0] == (a.ndim - 1,)
            if matrix or rows or (not lead and a.ndim <= 2 and b.ndim <= 2):
                left = self._turned(a, k != a.ndim - 1)
                right = self._turned(b, m != max(b.ndim - 2, 0))
                return f"{left} @ {right}", PRODUCT
        if not contracted[0] and not lead and a.ndim == b.ndim == 1:
            return f"jnp.outer({self(a)}, {self(b)})", ATOM
        return self._einsum(x, range(x.ndim)), ATOM

    def _einsum(self, x: Expression, order: Sequence[int]) -> str:
        """A product, its axes in this order."""
        (a, b), (contracted, batch) = x.args, x.detail
        letters = iter(LETTERS)
        mine = ["" for _ in range(a.ndim)], ["" for _ in range(b.ndim)]
        for pair in (*zip(*batch), *zip(*contracted)):
            letter = next(letters)
            for operand, axis in zip(mine, pair):
                operand[axis] = letter
        for operand in mine:
            operand[:] = [letter or next(letters) for letter in operand]
        out = [mine[0][k] for k in batch[0]]
        for i, operand in enumerate(mine):
            out += [letter for k, letter in enumerate(operand) if k not in (*batch[i], *contracted[i])]
        subscripts = f"{''.join(mine[0])},{''.join(mine[1])}->{''.join(out[k] for k in order)}"
        return f'jnp.einsum("{subscripts}", {self(a)}, {self(b)})'

    def _turned(self, x: Expression, turn: bool) -> str:
        """An operand of @, its last two axes exchanged."""
        if not turn or x.ndim < 2:
            return self(x, UNARY)
        return f"{self(x, ATOM)}.T" if x.ndim == 2 else f"{self(x, ATOM)}.swapaxes(-1, -2)"

    def call(self, x: Expression, kept: tuple[int, ...] = ()) -> tuple[str, int]:
        texts = [self(arg, ATOM if f"{{{k}}}." in x.detail or f"{{{k}}}[" in x.detail else COMPARE)
                 for k, arg in enumerate(x.args)]  # fmt: skip
        if called := _OWN.match(x.detail):
            self.names.add(called[1])  # a function of the module's own
        return x.detail.format(*texts, keep=", keepdims=True" if kept else ""), ATOM


def _all_reduced(x: Expression, axes: tuple[int, ...]) -> bool:
    """Whether x is made of sums over just these axes, so that keepdims can go inside."""
    if x.op in ("number", "size"):
        return True
    if x.op == "total":
        return x.detail == axes
    if x.op == "call":
        return False
    return x.op in ("add", "mul", "div", "negative", "apply", "power") and bool(x.args) and all(
        _all_reduced(arg, axes) for arg in x.args
    )  # fmt: skip


def _expanded(x: Expression, axes: tuple[int, ...]) -> Expression:
    """x with the unit axes put into each of its operands."""
    parts = [arg if arg.op in ("number", "size") else ex.expand(arg, axes) for arg in x.args]
    return ex.bare(ex.elementwise(x.op, parts, x.detail, x.dtype))


def places_in_brackets(places: Sequence[Any], shape: Sequence[int]) -> str:
    """As they stand in brackets."""
    texts = []
    for place, n in zip(places, shape):
        if isinstance(place, tuple):
            start, stop, step = place
            texts.append(f"{start or ''}:{'' if stop >= n else stop}" + (f":{step}" if step != 1 else ""))
        else:
            texts.append(str(-1 if place == n - 1 and n > 1 else place))
    if len(texts) > 2 and texts[-1] != ":" and all(text == ":" for text in texts[:-1]):
        return f"..., {texts[-1]}"
    while len(texts) > 1 and texts[-1] == ":":
        texts.pop()
    return ", ".join(texts)


def _from_end(axis: int, ndim: int) -> int:
    """The last axis is -1, whatever comes before it."""
    return -1 if axis == ndim - 1 and ndim > 1 else axis


def _axes(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else _tuple(axes)


def _tuple(values: Sequence[int]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"
