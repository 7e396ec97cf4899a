"""Names for a constant factor between a wrong and a right gradient: −1, 2, ½, 1/n, √d, ..."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SIMPLE = {
    2.0: "2", 0.5: "1/2", 3.0: "3", 1 / 3: "1/3", 4.0: "4", 0.25: "1/4", 6.0: "6", 1 / 6: "1/6",
    math.sqrt(2): "√2", 1 / math.sqrt(2): "1/√2",
    math.pi: "π", 2 * math.pi: "2π", 1 / math.pi: "1/π", math.log(2): "ln 2", 1 / math.log(2): "1/ln 2", 1.5: "3/2",
    2 / 3: "2/3", math.sqrt(2 * math.pi): "√(2π)", math.sqrt(2 / math.pi): "√(2/π)", 10.0: "10", 0.1: "1/10",
}  # fmt: skip


@dataclass(frozen=True)
class Constant:
    """A name for a factor, and the kind of mistake it speaks of."""

    text: str
    kind: str
    leading_mean: bool = False


SAME_FACTOR = 1e-7
"""How far, relatively, a factor in float64 may be from what its name says."""


def close(a: float | int, b: float | int, tolerance: float = SAME_FACTOR) -> bool:
    return bool(abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-300))


Shapes = Sequence[tuple[str, tuple[int, ...]]]


def sizes(shapes: Shapes) -> list[tuple[str, int, bool]]:
    """Sizes of the axes of named arrays, their products and total: (text, size, is it a leading axis)."""
    named: dict[tuple[str, int], tuple[str, int, bool]] = {}

    def add(text, size, leading):
        if size > 1:
            named.setdefault((text, size), (text, size, leading))

    for name, shape in shapes:
        for axis, size in enumerate(shape):
            add(
                f"{name}.shape[{axis}]",
                size,
                (axis == 0 and len(shape) > 1) or (len(shape) == 1 and name == "cotangent"),
            )
    for name, shape in shapes:
        for count in range(2, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), count):
                product = math.prod(shape[a] for a in axes)
                whole = count == len(shape)
                text = f"{name}.size" if whole else " · ".join(f"{name}.shape[{a}]" for a in axes)
                add(text, product, axes[0] == 0)
    return list(named.values())


def name_constant(factors: Sequence[Any], shapes: Sequence[Shapes], tolerance: float = SAME_FACTOR) -> Constant | None:
    """Name of a factor seen on several probes, each with its own shapes: one name has to fit all of them.

    Args:
        factors: wrong divided by right, one per probe.
        shapes: named shapes of arguments and cotangent, one list per probe.
        tolerance: how far, relatively, a factor may be from what its name says.
    """
    if all(close(f, 1.0, tolerance) for f in factors):
        return None
    if all(close(f, -1.0, tolerance) for f in factors):
        return Constant("-1", "sign")
    fixed = all(close(f, factors[0], tolerance) for f in factors)
    varied = len({tuple(s) for s in shapes}) > 1
    by_size = _by_size(factors, shapes, tolerance)
    simple = _simple(factors[0], tolerance) if fixed else None
    # a factor 2 on an axis of size 2 is no evidence of a mean, unless it follows the size on other shapes
    if by_size is not None and (simple is None or (by_size.leading_mean and not varied)):
        return by_size
    if simple is not None:
        return simple
    if fixed:
        return Constant(f"{factors[0]:.6g}", "scale-constant")
    return None


def as_code(constant: str) -> str:
    """The name of a constant as Python."""
    text = re.sub(r"√(\([^)]*\)|[\w.\[\]]+)", r"jnp.sqrt(\1)", constant)
    return text.replace("²", "**2").replace(" · ", " * ").replace("π", "jnp.pi").replace("ln 2", "jnp.log(2)")


def _simple(factor: Any, tolerance: float) -> Constant | None:
    for sign in (1, -1):
        for value, text in SIMPLE.items():
            if close(factor, sign * value, tolerance):
                return Constant(text if sign > 0 else f"-{text}", "scale-constant")
    return None


def _by_size(factors: Sequence[Any], shapes: Sequence[Shapes], tolerance: float) -> Constant | None:
    tables = [sizes(s) for s in shapes]
    names = {text: None for text, _, _ in tables[0]}
    candidates = []
    for text in names:
        row = []
        for table in tables:
            match = [(n, leading) for t, n, leading in table if t == text]
            row.append(match[0] if match else None)
        if all(row):
            candidates.append((text, [n for n, _ in row], all(leading for _, leading in row)))  # type: ignore[misc]
    forms = (
        ("1/{}", lambda n: 1 / n), ("{}", lambda n: n), ("1/√{}", lambda n: n**-0.5), ("√{}", lambda n: n**0.5),
        ("1/({} - 1)", lambda n: 1 / (n - 1)), ("{0}/({0} - 1)", lambda n: n / (n - 1)),
        ("({0} - 1)/{0}", lambda n: (n - 1) / n), ("1/{}²", lambda n: n**-2.0),
    )  # fmt: skip
    candidates.sort(key=lambda c: not c[2])
    for sign in (1, -1):
        for form, value in forms:
            for text, numbers, leading in candidates:
                if all(close(f, sign * value(n), tolerance) for f, n in zip(factors, numbers)):
                    mean = form in ("1/{}", "{}") and sign > 0
                    kind = "batch-mean-vs-sum" if mean else "scale-constant"
                    least = mean and form == "1/{}" and leading
                    return Constant(("" if sign > 0 else "-") + form.format(text), kind, least)
    return None
