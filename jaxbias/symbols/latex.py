"""Expressions as mathematics in LaTeX: δ for error signals, ⊙ for products entry by entry, Σ with its axes.

What only lines arrays up with each other (unit axes, broadcasts, casts) is not written, as on paper.
"""

import math
import re
from collections.abc import Callable, Sequence

from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression, bare, value_of
from jaxbias.symbols.python import Printer, literal
from jaxbias.symbols.sums import Sums

COMPARE, SUM, PRODUCT, POWER, ATOM = range(5)
"""What binds more tightly comes later."""

GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega".split()  # noqa: SIM905
)
FUNCTIONS = {"exp": r"\exp", "log": r"\log", "sin": r"\sin", "cos": r"\cos", "tan": r"\tan", "tanh": r"\tanh",
             "sinh": r"\sinh", "cosh": r"\cosh", "sigmoid": r"\sigma", "arctan": r"\arctan", "maximum": r"\max",
             "minimum": r"\min", "erf": r"\operatorname{erf}"}  # fmt: skip
RELATIONS = {">": ">", ">=": r"\ge", "<": "<", "<=": r"\le", "==": "=", "!=": r"\ne"}
LAYOUT = {"spread", "expand", "drop", "cast"}


def symbol(name: str) -> str:
    """A variable: `d_z` is δ with the index z, `xhat` is x with a hat, `h_2` has the index 2."""
    if name.startswith("d_") and not name[2:].isdigit():
        return rf"\delta_{{{symbol(name[2:])}}}"
    stem, _, index = name.rpartition("_")
    if stem and (index.isdigit() or len(index) <= 2):
        return rf"{symbol(stem)}_{{{index}}}" if "_" not in symbol(stem) else rf"{{{symbol(stem)}}}_{{{index}}}"
    if name.endswith("hat") and len(name) > 3:
        return rf"\hat{{{symbol(name[:-3])}}}"
    if name in GREEK:
        return rf"\{name}"
    letters = re.fullmatch(r"([A-Za-z])(\d*)", name)
    if letters:
        return f"{letters[1]}_{{{letters[2]}}}" if letters[2] else letters[1]
    return rf"\mathrm{{{escaped(name)}}}"


def escaped(text: str) -> str:
    """Text inside of \\mathrm or \\texttt."""
    text = text.replace("\\", r"\backslash ")
    return re.sub(r"([_%&#{}$])", r"\\\1", text).replace("^", r"\hat{}").replace("~", r"\sim ")


class Latex(Sums):
    """LaTeX for expressions.

    Args:
        text_of: the name of an expression that has one; None for others, which are written out.
    """

    sum_level, product_level = SUM, PRODUCT

    def __init__(self, text_of: Callable[[Expression], str | None] = lambda x: None):
        self.text_of = text_of

    def __call__(self, x: Expression, level: int = COMPARE) -> str:
        text, own = self.of(x)
        return rf"\left({text}\right)" if own < level else text

    def of(self, x: Expression) -> tuple[str, int]:
        """Text, and how tightly it binds."""
        if (known := self.text_of(x)) is not None:
            return symbol(known), ATOM
        if x.op in LAYOUT:
            return self.of(x.args[0])
        method = getattr(self, x.op, None)
        return method(x) if method else (rf"\texttt{{{escaped(Printer(self.text_of)(x))}}}", ATOM)

    def name(self, x: Expression) -> tuple[str, int]:
        return symbol(x.detail), ATOM

    def number(self, x: Expression) -> tuple[str, int]:
        text = literal(x.detail, x.dtype).replace("jnp.inf", r"\infty").replace("jnp.nan", r"\mathrm{nan}")
        mantissa, e, exponent = text.partition("e")
        text = rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if e and exponent.lstrip("+-").isdigit() else text
        return text, SUM if text.startswith("-") else PRODUCT if e else ATOM

    def size(self, x: Expression) -> tuple[str, int]:
        return " ".join(rf"n_{{{k}}}({self(x.args[0])})" for k in x.detail), ATOM

    def mul(self, x: Expression) -> tuple[str, int]:
        first, second = x.args
        sign = r" \odot " if first.shape and second.shape else r" \, "
        sign = r" \cdot " if first.op == second.op == "number" else sign
        factor = self(first) if first.op == "number" else self(first, PRODUCT)
        return f"{factor}{sign}{self(second, PRODUCT)}", PRODUCT

    def div(self, x: Expression) -> tuple[str, int]:
        a, b = x.args
        total = a.args[0] if a.op == "expand" and self.text_of(a) is None else a
        if total.op == "total" and self.text_of(total) is None:
            count = math.prod(total.args[0].shape[k] for k in total.detail)
            if value_of(bare(b)) == count:
                return self._over(r"\operatorname{mean}", total.args[0], total.detail), PRODUCT
        return rf"\frac{{{self(a)}}}{{{self(b)}}}", ATOM

    def power(self, x: Expression) -> tuple[str, int]:
        (core,), exponent = x.args, x.detail
        if exponent == 0.5:
            return rf"\sqrt{{{self(core)}}}", ATOM
        return f"{{{self(core, ATOM)}}}^{{{literal(exponent, x.dtype)}}}", POWER

    def apply(self, x: Expression) -> tuple[str, int]:
        word = x.detail.rpartition(".")[2]
        if word == "sqrt":
            return rf"\sqrt{{{self(x.args[0])}}}", ATOM
        if word == "rsqrt":
            return rf"{{{self(x.args[0], ATOM)}}}^{{-1/2}}", POWER
        if word == "abs":
            return rf"\left|{self(x.args[0])}\right|", ATOM
        if not word.isidentifier():
            sign = {"&": r" \wedge ", "|": r" \vee ", "^": r" \oplus "}.get(word, r"\neg ")
            texts = [self(arg, ATOM) for arg in x.args]
            return (sign.join(texts) if len(texts) > 1 else sign + texts[0]), COMPARE
        function = FUNCTIONS.get(word, rf"\operatorname{{{escaped(word)}}}")
        return rf"{function}\left({', '.join(map(self, x.args))}\right)", ATOM

    def compare(self, x: Expression) -> tuple[str, int]:
        first, second = x.args
        return rf"\left[{self(first, SUM)} {RELATIONS[x.detail]} {self(second, SUM)}\right]", ATOM

    def where(self, x: Expression) -> tuple[str, int]:
        condition, yes, no = x.args
        if ex.is_zero(no):
            sign = r" \odot " if yes.shape and condition.shape else r" \, "
            return f"{self(condition, PRODUCT)}{sign}{self(yes, PRODUCT)}", PRODUCT
        return (
            rf"\begin{{cases}}{self(yes)} & {self(condition)} \\ {self(no)} & \text{{else}}\end{{cases}}",
            ATOM,
        )

    def transpose(self, x: Expression) -> tuple[str, int]:
        order = ", ".join(map(str, x.detail))
        mark = r"\top" if x.ndim == 2 else rf"\top({order})"
        return rf"{{{self(x.args[0], ATOM)}}}^{{{mark}}}", POWER

    def reshape(self, x: Expression) -> tuple[str, int]:
        return rf"\operatorname{{reshape}}\left({self(x.args[0])}\right)", ATOM

    def total(self, x: Expression) -> tuple[str, int]:
        return self._over(r"\sum", x.args[0], x.detail), PRODUCT

    def _over(self, sign: str, x: Expression, axes: Sequence[int]) -> str:
        places = ", ".join(str(-1 if k == x.ndim - 1 and k else k) for k in axes)
        under = "" if len(axes) == x.ndim else rf"_{{{places}}}"
        return rf"{sign}{under} {self(x, PRODUCT)}"

    def contract(self, x: Expression) -> tuple[str, int]:
        (a, b), (contracted, batch) = x.args, x.detail
        lead = tuple(range(len(batch[0])))
        if len(contracted[0]) == 1 and batch == (lead, lead):
            (k,), (m,) = contracted
            matrices = a.ndim == b.ndim == len(lead) + 2 or (not lead and (a.ndim <= 2 and b.ndim <= 2))
            if matrices or (not lead and b.ndim <= 2 and k == a.ndim - 1):
                left = self._turned(a, k != a.ndim - 1 or a.ndim == b.ndim == 1)
                right = self._turned(b, m != max(b.ndim - 2, 0))
                return rf"{left} \, {right}", PRODUCT
        if not contracted[0] and not lead and a.ndim == b.ndim == 1:
            return rf"{self(a, POWER)} \, {self(b, ATOM)}^{{\top}}", PRODUCT
        text = Printer(self.text_of)(x)
        subscripts = text.partition('"')[2].partition('"')[0].replace("->", r" \to ")
        return rf"\operatorname{{einsum}}_{{{subscripts}}}\left({self(a)}, {self(b)}\right)", ATOM

    def _turned(self, x: Expression, turn: bool) -> str:
        return rf"{{{self(x, ATOM)}}}^{{\top}}" if turn else self(x, PRODUCT)

    def call(self, x: Expression) -> tuple[str, int]:
        whole = re.match(r"^(?:\{0\}\.)?([\w.]+)\((.*)\)$", x.detail, re.DOTALL)
        if whole is None or "(" in whole[2].replace("{keep}", "") or not x.args:
            return rf"\texttt{{{escaped(Printer(self.text_of)(x))}}}", ATOM
        word = whole[1].rpartition(".")[2]
        function = FUNCTIONS.get(word, rf"\operatorname{{{escaped(word)}}}")
        return rf"{function}\left({', '.join(map(self, x.args))}\right)", ATOM


def equation(variable: str, text: str) -> str:
    """A line of an aligned block."""
    return f"{symbol(variable)} &= {text}"
