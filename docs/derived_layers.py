"""Write docs/derived_layers.md, each layer and loss derived, beside the hand-written: `python -m docs.derived_layers`.

Counted are assignments and returns. Of the hand-written backward those that run for the configuration, without checks
of arguments: its own, and with those of the functions of the library that it calls. The derived one calls nothing.
"""

import ast
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxbias as jb
from jaxbias import selfcheck
from jaxbias.derivation import Derivation, Instance, instance

PAGE = Path(__file__).with_name("derived_layers.md")
PACKAGE = Path(jb.__file__).parent
HAND_WRITTEN = tuple(str(PACKAGE / room) for room in ("layers", "losses"))
SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)
MOST = 1.2
"""Statements of the derived backward over those of the hand-written one, in the median."""

Where = tuple[str, int]
"""A file, and a line of it."""


class Row(NamedTuple):
    """A layer or a loss in its plainest configuration.

    Attributes:
        name: of the derivation.
        derived: statements of the derived backward.
        hand, whole: those of the hand-written one itself, and with what it calls.
        helpers: functions of the library that it calls.
        unwritten: primitives that `derive` leaves to JAX.
    """

    name: str
    derived: int
    hand: int
    whole: int
    helpers: tuple[str, ...]
    unwritten: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.derived / self.hand


def compared(derivation: Derivation) -> Row:
    """Derive the forward of its first example; what is written has been judged right, or NotDerived is raised."""
    example = instance(derivation.examples[0], jax.random.key(0), jnp.float32)
    written = jb.derive(lambda params, x: example.forward(params, x)[0], (example.params, example.x))
    hand, whole, helpers = statements_that_run(example)
    primitives = (unwritten.partition(" in line ")[0] for unwritten in written.unwritten)
    return Row(derivation.name, statements_in(written.code), hand, whole, helpers, tuple(dict.fromkeys(primitives)))


def statements_in(code: str) -> int:
    """Assignments and returns of the `backward` of a derived module."""
    backward = next(n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef) and n.name == "backward")
    return sum(isinstance(node, SIMPLE) for node in ast.walk(backward))


def statements_that_run(example: Instance) -> tuple[int, int, tuple[str, ...]]:
    """Statements of the library that a hand-written backward carries out: its own, all of them, and where the rest stand.

    Its own are those of the function that is called first, of functions inside of it, and of what a layer was made from.
    """  # noqa: E501
    _, residuals = jax.eval_shape(example.forward, example.params, example.x)
    lines: dict[Where, str] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(HAND_WRITTEN) or "check" in code.co_name:
            return None
        if event == "line":
            lines.setdefault((code.co_filename, frame.f_lineno), code.co_qualname.partition(".")[0])
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        jax.eval_shape(example.backward, residuals, example.delta)
    finally:
        sys.settrace(before)
    ran: dict[tuple[str, int, int], str] = {}
    for (file, line), function in lines.items():
        if (statement := _statement_at(file, line)) is not None:
            ran[file, *statement] = function
    first = next(iter(lines.values()))
    helpers = [name for name in ran.values() if name not in (first, "<lambda>") and not name.startswith("make_")]
    return len(ran) - len(helpers), len(ran), tuple(dict.fromkeys(helpers))


@functools.cache
def _statements(file: str) -> tuple[ast.stmt, ...]:
    return tuple(n for n in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))) if isinstance(n, SIMPLE))


def _statement_at(file: str, line: int) -> tuple[int, int] | None:
    """Place of the innermost simple statement in this line, None for one that only checks an argument."""
    around = [n for n in _statements(file) if n.lineno <= line <= (n.end_lineno or n.lineno)]
    if not around:
        return None
    statement = max(around, key=lambda n: (n.lineno, -(n.end_lineno or 0)))
    called = statement.value.func if isinstance(statement.value, ast.Call) else None  # type: ignore[attr-defined]
    checks = isinstance(called, ast.Name) and called.id.startswith("check")
    return None if checks else (statement.lineno, statement.col_offset)


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """\
# Every layer and loss, derived

<!-- This page is written by `python -m docs.derived_layers`: change `jb.derive`, then run it. -->

The forward of each layer and loss, in the configuration that its table shows first, given to `jb.derive` as a function
that nobody knows a backward of. What it writes is right for all of them (`jb.verify`). Counted are assignments and
returns: of the derived backward, which calls nothing; of the hand-written one by itself, and with the functions of the
library that it calls. Checks of arguments are left out.
"""
REASONS = {
    "linear_cross_entropy": "its forward forms both gradients while it has the logits; the backward scales them",
    "dropout": "the mask is applied by a function that the forward calls too",
    "entmax15": "the sum over the support stands for the slopes of τ, which need not be taken",
    "implicit": "it solves for the error signal where z stands; the derived one goes back through every iterate",
}
"""Why a hand-written backward is shorter, where it is not for what it calls."""


def why(row: Row) -> str:
    """Why the hand-written one is shorter."""
    if row.name in REASONS:
        return REASONS[row.name]
    if row.whole > row.hand:
        shown = ", ".join(f"`{name}`" for name in row.helpers[:3]) + (" …" if len(row.helpers) > 3 else "")
        return f"calls {shown}: {row.whole} statements with them"
    return "returns at once what the derived one unpacks or gives a name first"


def page(rows: Sequence[Row]) -> str:
    """The text of the page."""
    median = statistics.median(row.ratio for row in rows)
    shorter = sum(row.ratio > 1 for row in rows)
    left = [row for row in rows if row.unwritten]
    summary = (
        f"Of {len(rows)} the median of derived over hand-written is {median:.2f}; {shorter} are shorter by hand, for"
        " the reason that stands beside them."
    )
    parts = [
        HEAD,
        summary,
        f"\nLeft to JAX, because `derive` has no rule for the primitive, is a part of {len(left)}:\n",
        *(f"- `{row.name}`: {', '.join(f'`{name}`' for name in row.unwritten)}" for row in left),
        "\n| | derived | by hand | with what it calls | where it is shorter by hand: why |\n|---|---|---|---|---|",
        *(
            f"| `{row.name}` | {row.derived} | {row.hand} | {row.whole} | {why(row) if row.ratio > 1 else ''} |"
            for row in rows
        ),
    ]
    return "\n".join(parts) + "\n"


def rows(names: Sequence[str] = ()) -> list[Row]:
    """All layers and losses, or those with these names."""
    return [compared(derivation) for derivation in selfcheck.select(names)]


if __name__ == "__main__":
    PAGE.write_text(page(rows()), encoding="utf-8")
