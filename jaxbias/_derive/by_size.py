"""Numbers of what is written that are sizes, by name: what is written at other sizes says which numbers they are."""

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbias import _jaxpr, verify
from jaxbias._trees import is_float

NUMBER = re.compile(r"(?:(?<=[\[ ])-(?=1[\],]))?(?<![\w.])(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?![\w.])")
"""A number, and an index -1 with its sign."""

TOLERANCE = 1e-4
"""Of gradients at yet other sizes, in float64 on numbers that the code holds in float32."""


class Size(NamedTuple):
    """A size by name, and what it is at each of the sizes."""

    text: str
    values: tuple[int, ...]


_SLICE = re.compile(r"(\0[^\0]+\0|\w*):(\0[^\0]+\0|\w*)")
"""Both ends of a slice; those that are sizes stand between zeros."""


def _spaced(slice_: re.Match[str]) -> str:
    """As formatters have it where an end is more than a name."""
    first, second = slice_[1], slice_[2]
    if "\0" not in first + second:
        return slice_[0]
    return f"{first} : {second}".strip().replace("\0", "")


def sizes_of(text: str, shapes: Sequence[Sequence[int]]) -> list[Size]:
    """The sizes that a variable has of these shapes."""
    ndim = len(shapes[0])
    sizes = [Size(f"{text}.shape[{-1 if k == ndim - 1 and k else k}]", n) for k, n in enumerate(zip(*shapes))]
    return [size for size in sizes if len(set(size.values)) > 1]


def renamed(texts: Sequence[str], sizes: Sequence[Size]) -> str | None:
    """The first text with those numbers by name that differ in the others.

    None where the texts differ in more than numbers, or where sizes do not make a number.
    """
    numbers = [NUMBER.findall(text) for text in texts]
    if len({NUMBER.sub("#", text) for text in texts}) > 1 or len(set(map(len, numbers))) > 1:
        return None
    text, made, end = texts[0], [], 0
    for match, *held in zip(NUMBER.finditer(text), *numbers):
        new = held[0]
        if len(set(held)) > 1 and new == "-1":  # the last entry, which is the last no more elsewhere
            if len(set(held[1:])) > 1:
                return None
            new = held[1]
        elif len(set(held)) > 1:
            if (called := _called([float(x) for x in held], sizes)) is None:
                return None
            before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
            alone = before.endswith(("(", "[", ",", ":", "=")) and after.startswith((")", "]", ",", ":"))
            new = called if alone or " " not in called or called.startswith("(") else f"({called})"
            if before.endswith(":") or after.startswith(":"):
                new = f"\0{new}\0"
        made += [text[end : match.start()], new]
        end = match.end()
    return _SLICE.sub(_spaced, "".join([*made, text[end:]]))


_OF_A_SIZE: tuple[tuple[Callable[[float], float], str], ...] = (
    (lambda x: x, "{}"),
    (lambda x: x**2, "{}**0.5"),
    (lambda x: 1 / x, "1 / {}"),
    (lambda x: x**-2, "{}**-0.5"),
)
"""The size that a number is made of, and how."""


def _called(numbers: Sequence[float], sizes: Sequence[Size]) -> str | None:
    """The expression of sizes that is each number at its sizes; the simplest first."""
    for size_of, how in _OF_A_SIZE:
        if 0 in numbers:
            return None
        exact = [size_of(x) for x in numbers]
        whole = tuple(map(round, exact))
        if all(k and math.isclose(x, k, rel_tol=1e-6) for x, k in zip(exact, whole)):
            text = next((size.text for size in _expressions(whole, sizes) if size.values == whole), None)
            if text is not None:
                return how.format(text if how == "{}" or " " not in text else f"({text})")
    return None


def _expressions(wanted: tuple[int, ...], sizes: Sequence[Size]) -> Iterator[Size]:
    """Sizes, products, multiples, parts, neighbours, sums and differences of them that may be these numbers."""
    yield from sizes
    for n in (2, 3, 4):
        for factors in itertools.combinations(sizes, n):
            values = tuple(map(math.prod, zip(*(size.values for size in factors))))
            yield Size(" * ".join(size.text for size in factors), values)
    sizes = list({size.values: size for size in reversed(sizes)}.values())[::-1]
    ratios = [(Fraction(wanted[0], size.values[0]), size) for size in sizes]
    for ratio, size in sorted(ratios, key=lambda pair: (pair[0].denominator, pair[0].numerator)):
        if all(ratio * n == m for n, m in zip(size.values, wanted)):
            times = f"{ratio.numerator} * {size.text}" if ratio.numerator > 1 else size.text
            yield Size(times if ratio.denominator == 1 else f"{times} // {ratio.denominator}", wanted)
    for size in sizes:
        apart = wanted[0] - size.values[0]
        if all(n + apart == m for n, m in zip(size.values, wanted)):
            yield Size(f"{size.text} {'+' if apart > 0 else '-'} {abs(apart)}", wanted)
    for a, b in itertools.permutations(sizes, 2):
        yield Size(f"{a.text} + {b.text}", tuple(map(operator.add, a.values, b.values)))
        yield Size(f"{a.text} - {b.text}", tuple(map(operator.sub, a.values, b.values)))


def holds_at(
    shapes: Sequence[Any],
    flat: Callable[..., list[Any]],
    leaves: Sequence[Any],
    wanted: Sequence[int],
    code: str,
    captured: Sequence[Any],
) -> bool:
    """Whether the code is forward and gradients of the function at these sizes too; in float64, nothing is compiled.

    Args:
        flat: the function, from leaves to leaves.
        leaves: its arguments, which values of other sizes are made of.
        wanted: the leaves that the code gives gradients of.
    """
    draw = np.random.default_rng(1)
    values = [_resized(leaf, shape, draw) for leaf, shape in zip(leaves, shapes)]
    try:
        outs = jax.eval_shape(flat, *shapes)
        deltas = [draw.standard_normal(out.shape).astype(out.dtype) for out in outs if is_float(out)]

        def expected(values: Sequence[Any], deltas: Sequence[Any]) -> list[Any]:
            def of_wanted(*some: Any) -> tuple[list[Any], list[Any]]:
                outs = flat(*(dict(zip(wanted, some)).get(k, x) for k, x in enumerate(values)))
                return [x for x in outs if is_float(x)], outs

            _, pull, outs = jax.vjp(of_wanted, *(values[k] for k in wanted), has_aux=True)
            return [*outs, *pull(list(deltas))]

        def actual(values: Sequence[Any], deltas: Sequence[Any]) -> list[Any]:
            namespace: dict[str, Any] = {}
            exec(code, namespace)
            made, residuals = namespace["forward"](*values, *captured)
            signals = iter(deltas)
            all_signals = tuple(next(signals) if is_float(out) else None for out in outs)
            single = len(outs) == 1
            grads = namespace["backward"](residuals, all_signals[0] if single else all_signals)
            return [*([made] if single else made), *grads]

        both = [_jaxpr.trace(f, values, deltas, unrolled=False) for f in (actual, expected)]
        ours, theirs = (_jaxpr.run(program, jax.tree.leaves((values, deltas))) for program in both)
    except Exception:  # shapes that are not those of the code, or an operation that NumPy has no value for
        return False
    errors = verify.relative_errors(actual=ours, expected=theirs)
    return all(error < TOLERANCE for error in errors.values())


def _resized(leaf: Any, shape: jax.ShapeDtypeStruct, draw: np.random.Generator) -> Any:
    """Values as those of the leaf, in another shape."""
    if not is_float(leaf):
        return leaf if np.shape(leaf) == shape.shape else np.resize(leaf, shape.shape)
    return (np.resize(leaf, shape.shape) * draw.uniform(0.9, 1.1, shape.shape)).astype(leaf.dtype)
