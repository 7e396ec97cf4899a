"""What the functions of a derivation are made of: assignments and loops, and how they are written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from textwrap import indent
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.latex import Latex, equation
from jaxbias.symbols.python import Printer

TextOf = Callable[[Expression], str | None]
"""The name of an expression that has one."""


def printer(text_of: TextOf) -> Printer:
    """Writes Python that runs where `jax_numpy_rank_promotion` is what it is now."""
    return Printer(text_of, jax.numpy_rank_promotion.value == "raise")


AT_ONCE = {"contract", "total", "call", "placed"}
"""What is no elementwise function: it is kept rather than computed again."""


LONGEST = 84
"""Characters of a call in one line."""


class Line(NamedTuple):
    """A line of code, or a call in several.

    Attributes:
        about: the name that it defines, or which line of a loop it is.
        latex: the same as mathematics; "" where it is none.
    """

    text: str
    about: str = ""
    latex: str = ""

    def indented(self) -> "Line":
        return Line(indent(self.text, "    "), self.about, self.latex)


@dataclass(frozen=True)
class Lines:
    """A statement as text.

    Attributes:
        targets: the names that it defines.
        reads: those that it reads.
        cheap: whether it is as soon computed again.
    """

    targets: tuple[str, ...]
    lines: tuple[Line, ...]
    reads: frozenset[str]
    cheap: bool = False


@runtime_checkable
class Statement(Protocol):
    """One statement.

    Attributes:
        targets: the variables that it defines.
        roots: the expressions that it is made of, outside of a body of its own.
    """

    @property
    def targets(self) -> Sequence[Expression]: ...

    @property
    def roots(self) -> Sequence[Expression]: ...

    def names(self) -> set[str]:
        """The variables that it reads."""
        ...

    def write(self, text_of: TextOf, needed: set[str] | None) -> Lines:
        """Its text, without targets that are not needed; None stands for all."""
        ...


def names_in(roots: Sequence[Expression]) -> set[str]:
    """The variables that expressions are made of."""
    seen: set[Expression] = set()
    waiting, names = list(roots), set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += node.args
            if node.op == "name":
                names.add(node.detail)
    return names


@dataclass(eq=False)
class Assign:
    """variable = value"""

    variable: Expression
    value: Expression

    @property
    def targets(self) -> Sequence[Expression]:
        return (self.variable,)

    @property
    def roots(self) -> Sequence[Expression]:
        return (self.value,)

    def names(self) -> set[str]:
        return names_in(self.roots)

    def write(self, text_of: TextOf, needed: set[str] | None) -> Lines:
        write = printer(lambda x: None if x is self.value else text_of(x))
        text, name = write(self.value), self.variable.detail
        mathematics = equation(name, Latex(write.text_of)(self.value))
        line = Line(f"{name} = {text}", name, mathematics)
        return Lines((name,), (line,), frozenset(write.names), _cheap(self.value, text_of))


def _cheap(x: Expression, text_of: TextOf) -> bool:
    """Whether it is elementwise in what has a name."""
    waiting = [x]
    while waiting:
        node = waiting.pop()
        if node is x or text_of(node) is None:
            if node.op in AT_ONCE:
                return False
            waiting += node.args
    return True


def bracketed(texts: Sequence[str], none: str = "()") -> str:
    """One as it is, several as a tuple."""
    return none if not texts else texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


class Body(NamedTuple):
    """What is done in one pass of a loop: its lines, what it hands on, what it leaves, what it reads."""

    lines: Sequence[Line]
    carried: Sequence[str]
    left: Sequence[str]
    reads: set[str]


@dataclass(eq=False)
class Loop:
    """A `lax.scan` whose body is written out.

    Attributes:
        function: name of the body.
        carried, taken: names in the body: of what is handed from pass to pass, and of the slices.
        starts, sequences: what they are before the loop, and whole.
        ends, stacks: what comes out of it.
        body: of which of the stacks are needed → its text.
        free: variables that the body closes over, where that is known beforehand.
    """

    function: str
    carried: list[Expression]
    taken: list[Expression]
    starts: list[Expression]
    sequences: list[Expression]
    ends: list[Expression]
    stacks: list[Expression]
    body: Callable[[Sequence[bool]], Body]
    length: int
    reverse: bool
    free: set[str] = field(default_factory=set)

    @property
    def targets(self) -> Sequence[Expression]:
        return (*self.ends, *self.stacks)

    @property
    def roots(self) -> Sequence[Expression]:
        return (*self.starts, *self.sequences)

    def names(self) -> set[str]:
        return names_in(self.roots) | self.free

    def write(self, text_of: TextOf, needed: set[str] | None) -> Lines:
        wanted = [needed is None or x.detail in needed for x in self.stacks]
        body = self.body(wanted)
        used = [name.detail in body.reads for name in self.taken]
        taken = [name.detail for name, keep in zip(self.taken, used) if keep]
        write = printer(text_of)
        starts = [write(x) for x in self.starts]
        sequences = [write(x) for x, keep in zip(self.sequences, used) if keep]
        ends = [x.detail if needed is None or x.detail in needed else "_" for x in self.ends]
        stacks = [x.detail for x, keep in zip(self.stacks, wanted) if keep]
        carried = [x.detail for x in self.carried]
        first, before = _parameter(carried, "carry")
        second, after = _parameter(taken, "at")
        left = [text for text in body.left if text]
        words = [*([] if sequences else [f"length={self.length}"]), *["reverse=True"] * self.reverse]
        left_over = "_" if not stacks else bracketed(stacks)
        call = f"{bracketed(ends, '_')}, {left_over} = jax.lax.scan("
        given = [self.function, bracketed(starts), bracketed(sequences, "None"), *words]
        lines = [
            Line(f"def {self.function}({first}, {second}):", f"first line of {self.function}"),
            *(Line(f"    {text}") for text in (before, after) if text),
            *(line.indented() for line in body.lines),
            Line(f"    return {bracketed(body.carried)}, {bracketed(left, 'None')}"),
            *_call(call, given, f"last line of {self.function}"),
        ]
        inside = body.reads - {*carried, *taken}
        return Lines(tuple(x.detail for x in self.targets), tuple(lines), frozenset(write.names | inside))


def _call(start: str, given: Sequence[str], about: str) -> list[Line]:
    """A call in a line, or with a line for each argument."""
    if len(line := f"{start}{', '.join(given)})") <= LONGEST:
        return [Line(line, about)]
    return [Line("\n".join([start, *(f"    {text}," for text in given), ")"]), about)]


def _parameter(names: Sequence[str], whole: str) -> tuple[str, str]:
    """A parameter of a body, and the line that takes it apart."""
    if len(names) == 1:
        return names[0], ""
    return (whole, f"{', '.join(names)} = {whole}") if names else ("_", "")


@dataclass(eq=False)
class Choice:
    """A `lax.cond` or `lax.switch` whose branches are written out; they close over what they read.

    Attributes:
        functions: names of the branches, in order of the index that chooses.
        which: the predicate or the index.
        outs: what comes out of it.
        branches: texts of each; `carried` is what it returns.
    """

    functions: tuple[str, ...]
    which: Expression
    outs: list[Expression]
    branches: Callable[[], Sequence[Body]]
    free: set[str] = field(default_factory=set)

    @property
    def targets(self) -> Sequence[Expression]:
        return self.outs

    @property
    def roots(self) -> Sequence[Expression]:
        return (self.which,)

    def names(self) -> set[str]:
        return names_in(self.roots) | self.free

    def write(self, text_of: TextOf, needed: set[str] | None) -> Lines:
        write = printer(text_of)
        which, lines, reads = write(ex.bare(self.which)), [], set(write.names)
        for function, body in zip(self.functions, self.branches()):
            lines += [
                Line(f"def {function}():", f"first line of {function}"),
                *(line.indented() for line in body.lines),
                Line(f"    return {bracketed(body.carried)}", f"last line of {function}"),
            ]
            reads |= body.reads
        names = [x.detail for x in self.outs]
        call = f"jax.lax.switch({which}, ({', '.join(self.functions)}))"
        if len(self.functions) == 2:
            call = f"jax.lax.cond({which}, {self.functions[1]}, {self.functions[0]})"
        lines.append(Line(f"{bracketed(names)} = {call}", names[0] if len(names) == 1 else ""))
        return Lines(tuple(names), tuple(lines), frozenset(reads))
