"""`derive`: the backward pass of a function, as code, checked before it is shown."""

import functools
import html
import inspect
import itertools
import keyword
import linecache
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr, verify
from jaxbias._derive.by_size import holds_at
from jaxbias._derive.checking import autodiff_bytes, bytes_of, checked
from jaxbias._derive.reading import Reading
from jaxbias._derive.sizes import Twin, digits_in, sizes_in, twins_of
from jaxbias._derive.values import Values
from jaxbias._derive.writing import Written
from jaxbias._doors import describe
from jaxbias._jaxpr.sources import place
from jaxbias._trees import in_one_line, is_float, path_name
from jaxbias.symbols import expressions as ex

MOST_TWINS = 12
"""Pairs of other sizes at which the function is written, for its sizes to have names."""

KEEP = ("named", "least")
STYLES = ("steps", "closed")


@dataclass(frozen=True)
class Derived:
    """A forward with its backward pass, written out.

    Attributes:
        code: a Python module: `forward(…) -> (out, residuals)` and `backward(residuals, d_out) -> gradients`, on the
            leaves of the arguments in their order. It needs JAX and nothing else.
        steps: the same as pairs of lines, of the forward and of the backward pass.
        formulas: each line of the backward pass as mathematics, in LaTeX; those of a loop as code.
        latex: forward and backward pass as one aligned block of LaTeX, for a display.
        function: a `jax.custom_vjp` of the two, called as the function was.
        forward, backward: the two of `code`; `jb.derive(derivation.backward, (residuals, delta))` is second order.
        report: that of `jb.verify` on the backward.
        residual_bytes: what the backward keeps from the forward.
        autodiff_bytes: what autodiff keeps.
        notes: what else is worth knowing.
        any_size: whether `code` holds at other sizes too, at those that the function itself takes: tried at a set of
            them. Else its numbers are sizes of these arguments.
        unwritten: operations that have no derivation here, with their lines; JAX carries them out inside of `function`,
            and `code` takes them as functions.
    """

    code: str
    steps: tuple[tuple[str, str], ...]
    function: Callable[..., Any] = field(repr=False)
    forward: Callable[..., Any] = field(repr=False)
    backward: Callable[..., Any] = field(repr=False)
    report: verify.Report = field(repr=False)
    residual_bytes: int
    autodiff_bytes: int
    formulas: tuple[str, ...] = field(repr=False)
    latex: str = field(repr=False)
    unwritten: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    any_size: bool = False

    def __str__(self) -> str:
        width = max((len(left) for left, _ in self.steps), default=0)
        lines = [f"{left:<{width}}    {right}".rstrip() for left, right in self.steps]
        return "\n".join([*lines, "", *self._below()])

    def _below(self) -> list[str]:
        kept = f"keeps {self.residual_bytes} bytes for the backward pass; autodiff keeps {self.autodiff_bytes}"
        return [
            f"{self.report.verdict}; {kept}",
            *(f"not written: {unwritten}" for unwritten in self.unwritten),
            *self.notes,
        ]

    def _repr_html_(self) -> str:
        """For a notebook: the two columns as a table."""
        cell = '<{0} style="text-align: left; white-space: pre; font-family: monospace">{1}</{0}>'
        rows = [
            f"<tr>{''.join(cell.format('th' if k == 0 else 'td', html.escape(text)) for text in row)}</tr>"
            for k, row in enumerate(self.steps)
        ]
        below = "".join(f"<p>{html.escape(line)}</p>" for line in self._below())
        return f"<table>{''.join(rows)}</table>{below}"

    def _repr_latex_(self) -> str:
        return f"$$\n{self.latex}\n$$"


def derive(
    forward: Callable[..., Any],
    args: Sequence[Any],
    *,
    argnums: int | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    keep: str = "named",
    style: str = "steps",
) -> Derived:
    """The backward pass of `forward(*args)`, as a person would write it.

        def dense(W, b, x):
            z = x @ W + b
            return jnp.tanh(z)

        print(jb.derive(dense, (W, b, x)).code)

    Args:
        forward: any function that JAX can trace, of arrays or of trees of them.
        args: its arguments: arrays, or shapes (`jax.ShapeDtypeStruct`) that values are drawn for.
        argnums: the arguments to differentiate with respect to; all that hold floating-point numbers if left out.
        names: of the arguments, where those of the signature do not serve.
        keep: "named" keeps what the forward gave a name to, "least" computes again what is cheap.
        style: "steps" has an error signal for each value that the forward names, "closed" puts them into each other
            where the sum of products that comes out is shorter, as a norm's does; the bodies of loops stay in steps.

    Raises:
        TypeError: args is no sequence, argnums no whole numbers, forward cannot be traced, or nothing in args can be
            differentiated.
        ValueError: another `keep` or `style`, argnums or names that do not fit args, args at which forward is not
            finite.
        NotDerived: what was written is not the gradient; nothing that is wrong is shown.
    """
    if keep not in KEEP:
        raise ValueError(f'derive: keep must be "named" or "least", got {keep!r}.')
    if style not in STYLES:
        raise ValueError(f'derive: style must be "steps" or "closed", got {style!r}.')
    if not isinstance(args, tuple | list):
        raise TypeError(f"derive: args must be a tuple of the arguments, got {describe(args)}. For one: (x,).")
    if not callable(forward):
        raise TypeError(f"derive: forward must be a function, got {describe(forward)}.")
    args = tuple(jax.tree.map(lambda leaf, k=k: _drawn(leaf, k), arg) for k, arg in enumerate(args))
    chosen = _chosen(args, argnums)
    leaves, tree = jax.tree.flatten(args)
    variables = _arguments(forward, args, names)
    wanted = [
        k for k, (path, leaf) in enumerate(jax.tree.leaves_with_path(args)) if path[0].idx in chosen and is_float(leaf)
    ]
    if not wanted:
        raise TypeError("derive: no argument holds floating-point numbers, so there is no gradient.")

    def flat(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(forward(*tree.unflatten(leaves)))

    program, ranks = _traced(flat, leaves), _ranks(flat, leaves)
    by_autodiff = autodiff_bytes(flat, leaves, wanted)

    def written_at(program: _jaxpr.Program, leaves: Sequence[Any], other: Twin | None) -> Written:
        inputs = [ex.name(text, np.shape(leaf), leaf.dtype) for text, leaf in zip(variables, leaves)]
        sizes, digits = sizes_in(program, leaves, other, inputs), digits_in(program, flat, leaves)
        values = Values(inputs, _closed_over(forward), sizes, digits)
        with jax.numpy_rank_promotion(ranks):
            return Written(Reading(values, program, [values.new(x) for x in inputs]), wanted, keep, style)

    def has_sizes_by_name(written: Written, pair: tuple[Twin, Twin]) -> bool:
        """Put sizes by name in place of numbers, if what comes out holds at other sizes."""
        others = [written_at(twin.program, twin.leaves, Twin(leaves, program)) for twin in pair]
        as_given, captured = written.texts, [written.values.captured[text] for text in written.captured]
        if written.by_size(others) and holds_at(pair[1].leaves, flat, leaves, wanted, written.code, captured):
            return True
        written.texts = as_given
        return False

    written, any_size = None, False
    for pair in itertools.islice(twins_of(program, flat, leaves), MOST_TWINS):
        attempt = written_at(program, leaves, pair[0])
        if any_size := has_sizes_by_name(attempt, pair):
            written = attempt
            break
        written = written or attempt
    written = written or written_at(program, leaves, None)
    values = written.values
    captured = [values.captured[text] for text in written.captured]
    function, report, namespace = checked(forward, args, tree, wanted, written)
    shapes = jax.eval_shape(namespace["forward"], *leaves, *captured)[1]
    first, then = written.formulas
    return Derived(
        code=written.code,
        formulas=tuple(text.replace("&", "", 1) for text in then),
        latex="\\begin{aligned}\n" + " \\\\\n".join([*first, *then]) + "\n\\end{aligned}",
        steps=written.steps(),
        function=function,
        forward=namespace["forward"],
        backward=namespace["backward"],
        report=report,
        residual_bytes=bytes_of(shapes),
        autodiff_bytes=by_autodiff,
        unwritten=(
            *(str(values.unwritten[text]) for text in written.unwritten),
            *(str(values.draws[text]) for text in written.draws),
        ),
        notes=() if _has_source(forward) else ("the source is not at hand: names of values are made up",),
        any_size=any_size,
    )


# --- the door ---------------------------------------------------------------------------------------------------------


def _traced(flat: Callable[..., Any], leaves: Sequence[Any]) -> _jaxpr.Program:
    """The program of a forward.

    Raises:
        TypeError: it cannot be traced, or returns nothing that has a gradient.
    """
    try:
        program, _ = _jaxpr.trace_inlined(flat, *leaves)
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            f"derive: the forward looks at the values of its arguments{place(error)}; jnp.where or jax.lax.cond choose "
            f"without."
        ) from error
    except Exception as error:  # whatever the user's function raises
        raise TypeError(f"derive: the forward cannot be traced: {in_one_line(error)}{place(error)}") from error
    outputs = [program.dtypes[n] for n in program.outputs]
    if not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in outputs):
        returned = ", ".join(map(str, outputs)) or "nothing"
        raise TypeError(f"derive: the forward returns {returned}; a gradient needs at least one float output.")
    return program


def _ranks(flat: Callable[..., Any], leaves: Sequence[Any]) -> str:
    """The strictest `jax_numpy_rank_promotion` that a forward runs under, which the code then runs under too."""
    try:
        with jax.numpy_rank_promotion("raise"):
            jax.eval_shape(flat, *leaves)
    except ValueError:
        return "allow"
    return "raise"


def _drawn(leaf: Any, position: int) -> Any:
    """An array, or normal values for a shape.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        draw = np.random.default_rng(0)
        values = draw.standard_normal(leaf.shape) if is_float(leaf) else np.zeros(leaf.shape)
        return jnp.asarray(values, leaf.dtype)
    try:
        return jnp.asarray(np.asarray(leaf) if isinstance(leaf, str | bytes) else leaf)
    except TypeError:
        raise TypeError(f"derive: args[{position}] holds {describe(leaf)}, which is no array.") from None


def _chosen(args: tuple[Any, ...], argnums: int | Sequence[int] | None) -> set[int]:
    if argnums is None:
        return set(range(len(args)))
    numbers: list[int] = (
        [argnums] if isinstance(argnums, int) else list(argnums) if isinstance(argnums, Sequence) else []
    )
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise TypeError(f"derive: argnums must be a whole number or several, got {describe(argnums)}.")
    if wrong := [n for n in numbers if not -len(args) <= n < len(args)]:
        raise ValueError(f"derive: argnums names argument {wrong[0]}, but there are {len(args)}.")
    return {n % len(args) for n in numbers}


def _arguments(forward: Callable[..., Any], args: tuple[Any, ...], names: Sequence[str] | None) -> list[str]:
    """A variable for each leaf: the argument's name, and the path inside of it where it is a tree."""
    if names is not None and len(names) != len(args):
        raise ValueError(f"derive: names must name each of the {len(args)} arguments, got {len(names)}.")
    for k, name in enumerate(names or ()):
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in (names or ())[:k]:
            raise ValueError(f"derive: names must be different names of Python variables, got {name!r}.")
    given = list(names) if names is not None else _signature(forward, len(args))
    paths = [path for path, _ in jax.tree.leaves_with_path(args)]
    texts = [_identifier(path_name(path[1:])) if path[1:] else given[path[0].idx] for path in paths]
    texts = [
        text if texts.count(text) == 1 else _identifier(f"{given[path[0].idx]}_{text}")
        for text, path in zip(texts, paths)
    ]
    made: list[str] = []
    for text in texts:
        while text in (*made, "jax", "jnp", "residuals"):
            text += "_"
        made.append(text)
    return made


def _signature(forward: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return [f"x_{k}" for k in range(count)]
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "x")
    return [plain[k] if k < len(plain) else f"{rest}_{k - len(plain)}" for k in range(count)]


def _identifier(text: str) -> str:
    made = re.sub(r"\W+", "_", text).strip("_") or "x"
    return made if not made[0].isdigit() else f"x{made}"


def _has_source(forward: Callable[..., Any]) -> bool:
    function = inspect.unwrap(forward)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    # All code that exec was handed as text shares one name: what stands under it may be another's.
    return code.co_filename not in ("<string>", "<stdin>") and bool(linecache.getlines(code.co_filename))


def _closed_over(forward: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Variables that a function closes over, and what they hold."""
    try:
        variables = inspect.getclosurevars(inspect.unwrap(forward))
    except TypeError:
        return []
    both = {**variables.globals, **variables.nonlocals}
    return [(text, value) for text, value in both.items() if isinstance(value, np.ndarray | jax.Array)]
