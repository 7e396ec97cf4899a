"""The module of a forward and its backward pass, and both side by side."""

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import indent

from jaxbias._derive.by_size import renamed, sizes_of
from jaxbias._derive.pairs import Pair
from jaxbias._derive.reading import Reading
from jaxbias._derive.statements import Assign, Line, bracketed
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.latex import escaped

Row = tuple[str, str]


SECTION = 40
"""Lines of a function that are read without headings."""


class Written:
    """The text of forward and backward.

    Attributes:
        code: of the module.
        unwritten, draws: names of functions that JAX carries out.
        captured: names of what the function closes over and the code takes as arguments.
        residuals: names of what the backward reads.
    """

    def __init__(self, reading: Reading, wanted: Sequence[int], keep: str, style: str = "steps"):
        values = self.values = reading.values
        outputs = [values.of[n] for n in reading.outputs]
        self.outputs = [self._output(reading, k, x, len(outputs)) for k, x in enumerate(outputs)]
        self.deltas = [
            values.variable(f"d_{x.detail if x.op == 'name' else 'out'}", out.shape, out.dtype)
            if ex.is_inexact(out) else None
            for x, out in zip(self.outputs, outputs)
        ]  # fmt: skip
        self.wanted = wanted
        self.arguments = [values.of[n].detail for n in reading.inputs]
        self.pair = Pair(reading, self.deltas, [reading.inputs[k] for k in wanted], keep, style)
        names = [f"d_{self.arguments[k]}" for k in wanted]
        self.gradients = self.pair.write_backward({}, range(len(wanted)), names)
        read = self.pair.backward_reads
        lines, outs, needed = self.pair.forward_of(self.outputs, read & set(self.pair.made))
        self.forward_lines: list[Line] = lines
        self.unwritten = [t for t in values.unwritten if {t, f"{t}_pull"} & (needed | read)]
        self.draws = [text for text in values.draws if text in needed | read]
        self.captured = [text for text in values.captured if text in needed | read]
        self._outs: Sequence[str] = outs
        self.residuals = [text for text in [*self.arguments, *self.captured, *self.pair.made] if text in read]

    @property
    def code(self) -> str:
        return self._module([*self.arguments, *self.captured], self._outs)

    def by_size(self, twins: Sequence["Written"]) -> bool:
        """Put sizes by name in place of numbers, as what is written at other sizes tells; whether that is possible.

        It is not, and nothing is changed, where something else differs than sizes, or sizes do not make a number.
        """
        if self.unwritten or self.draws:  # JAX carries those out at the sizes that they were traced at
            return False
        written = [self, *twins]
        names = [x._named() for x in written]
        if any([list(n) for n in others] != [list(n) for n in names[0]] for others in names):
            return False
        forward, backward = (
            [size for text in at[0] for size in sizes_of(text, [named[text].shape for named in at])]
            for at in zip(*names)
        )
        made = []
        for sizes, *texts in zip((forward, forward, backward, backward), *(x.texts for x in written)):
            if len(set(map(len, texts))) > 1:
                return False
            new = [renamed(lines, sizes) for lines in zip(*texts)]
            if None in new:
                return False
            made.append([text for text in new if text is not None])
        self.texts = made
        return True

    @property
    def texts(self) -> Sequence[Sequence[str]]:
        """Of the lines of the forward, what it returns, the lines of the backward, what that returns."""
        lines, back = ([line.text for line in lines] for lines in (self.forward_lines, self.pair.backward_lines))
        return lines, self._outs, back, self.gradients

    @texts.setter
    def texts(self, texts: Sequence[Sequence[str]]) -> None:
        lines, self._outs, back, gradients = texts
        self.gradients = list(gradients)
        self.forward_lines = [line._replace(text=text) for line, text in zip(self.forward_lines, lines)]
        self.pair.backward_lines = [line._replace(text=text) for line, text in zip(self.pair.backward_lines, back)]

    def _named(self) -> tuple[dict[str, Expression], dict[str, Expression]]:
        """What has a name in all of the forward, and in all of the backward."""
        arguments = dict(zip(self.arguments, (self.values.of[n] for n in self.pair.reading.inputs)))
        made = {**arguments, **self.pair.made}
        kept = {text: made[text] for text in self.residuals if text in made}
        return arguments, kept | {d.detail: d for d in self.deltas if d is not None}

    def _output(self, reading: Reading, k: int, x: Expression, count: int) -> Expression:
        """An output under a name, so that the backward can keep it."""
        if (core := ex.bare(x)).op in ("name", "number") or core is not x:
            return x
        variable = self.values.variable("out" if count == 1 else f"out_{k}", x.shape, x.dtype)
        reading.statements.append(Assign(variable, x))
        for number in reading.outputs:
            if self.values.of[number] is x:
                self.values.of[number] = variable
        return variable

    def _module(self, arguments: Sequence[str], outs: Sequence[str]) -> str:
        deltas = [d.detail if d is not None else "_" for d in self.deltas]
        lines = [line.text for line in (*self.forward_lines, *self.pair.backward_lines)]
        functions = [*self.draws, *(text for name in self.unwritten for text in (name, f"{name}_pull"))]
        several = len(outs) > 1
        return "\n".join([
            *(["import jax"] if any("jax." in line for line in lines) else []),
            "import jax.numpy as jnp", "", "",
            *([f"# {', '.join(functions)}: see `unwritten`", "", ""] if functions else []),
            f"def forward({', '.join(arguments)}):",
            *spaced(self._in_sections(self.forward_lines)),
            f"    return {bracketed(outs)}, {_tuple(self.residuals)}", "", "",
            f"def backward(residuals, {'d_outs' if several else deltas[0]}):",
            *spaced([
                *([Line(f"{_tuple(self.residuals)[1:-1].strip()} = residuals")] if self.residuals else []),
                *([Line(f"{', '.join(deltas)} = d_outs")] if several else []),
                *self._in_sections(self.pair.backward_lines),
            ]),
            f"    return {', '.join(self.gradients)}{',' * (len(self.gradients) == 1)}", "",
        ])  # fmt: skip

    def _in_sections(self, lines: Sequence[Line]) -> list[Line]:
        """A long function with a comment wherever another function of the user's begins."""
        if len(lines) <= SECTION:
            return list(lines)
        made: list[Line] = []
        current = ""
        for line in lines:
            functions = self.values.functions
            function = functions.get(line.about) or functions.get(line.about.removeprefix("d_")) or current
            if function != current and function.isidentifier():
                made.append(Line(f"# {function}"))
            current = function
            made.append(line)
        return made

    def steps(self) -> tuple[Row, ...]:
        """The forward's lines from the top down, and beside each its error signal, which are computed from below."""
        waiting = [line._replace(about=_reversed(line.about)) for line in self.pair.backward_lines]
        given = {d.detail for d in self.deltas if d is not None}
        rows: list[Row] = []  # the last first

        def until(about: str) -> str:
            """The line about this; those that come before it get rows of their own."""
            if about not in [line.about for line in waiting]:
                return f"{about} is given" if about in given else ""
            while (line := waiting.pop(0)).about != about:
                rows.append(("", line.text))
            return line.text

        for line in reversed(self.forward_lines):
            signal = until(line.about if " line of " in line.about else f"d_{line.about}") if line.about else ""
            rows.append((line.text, signal))
        arguments = {text: self.arguments[k] for text, k in zip(self.gradients, self.wanted)}
        rows += [(arguments.get(line.about, ""), line.text) for line in waiting]
        return (("forward", "backward, from below"), *(row for pair in reversed(rows) for row in _apart(*pair)))

    @property
    def formulas(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The lines of forward and backward as mathematics; those of loops as code."""
        both = self.forward_lines, self.pair.backward_lines
        forward, backward = (tuple(text for line in lines for text in _mathematics(line)) for lines in both)
        return forward, backward


def _apart(left: str, right: str) -> list[Row]:
    """A call in several lines is read from above, in either column."""
    return list(zip_longest(left.split("\n"), right.split("\n"), fillvalue=""))


def _mathematics(line: Line) -> list[str]:
    if line.latex:
        return [line.latex]
    return [rf"&\texttt{{{escaped(text).replace('  ', '~~')}}}" for text in line.text.split("\n")]


def _reversed(about: str) -> str:
    """The line of a forward's loop that this line of the backward's stands beside: its first beside the last."""
    which, _, function = about.partition(" line of ")
    return f"{'last' if which == 'first' else 'first'} line of {function.removesuffix('_back')}" if function else about


def spaced(lines: Sequence[Line]) -> list[str]:
    """Lines of a function, an empty one around a function inside of it."""
    texts: list[str] = []
    for k, line in enumerate(lines):
        opens = line.text.lstrip().startswith("def ")
        if opens and k and not texts[-1].lstrip().startswith("def ") and texts[-1]:
            texts.append("")
        texts += indent(line.text, "    ").split("\n")
        depth = len(line.text) - len(line.text.lstrip())
        if line.text.lstrip().startswith("return ") and depth and k + 1 < len(lines):
            texts.append("")
    return texts


def _tuple(texts: Sequence[str]) -> str:
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"
