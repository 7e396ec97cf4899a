"""A forward and its backward pass, of a function or of the body of a loop, and the names that both have for values."""

from collections.abc import Sequence

from jaxbias._derive.backward import Backward
from jaxbias._derive.closed import closed
from jaxbias._derive.scope import Scope
from jaxbias._derive.statements import Assign, Line, Lines, Statement, printer
from jaxbias.symbols import expressions as ex
from jaxbias.symbols import queries
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.queries import parts


class Pair:
    """A forward and its backward.

    Attributes:
        backward: its error signals.
        texts: names of what the forward computes, that of variables included.
        made: names that the forward defines → values, in its order.
        backward_lines, backward_reads: the text of the backward, and what it takes from the forward and from outside.
    """

    def __init__(
        self,
        reading: Scope,
        deltas: Sequence[Expression | None],
        wanted: Sequence[int],
        keep: str,
        style: str = "steps",
    ):
        self.reading, self.values, self.wanted = reading, reading.values, wanted
        self.backward = back = Backward(reading, deltas, wanted, keep)
        if style == "closed":
            given = [ex.bare(d) for d in deltas if d is not None]
            back.statements, back.gradients = closed(back.statements, back.gradients, reading.statements, given)
        self._choose_names({d.detail for d in deltas if d is not None and d.op == "name"})
        self.statements = self._ordered()
        self.made = {x.detail: x for statement in self.statements for x in statement.targets}
        self.made |= {text: x for x, text in self.texts.items() if x in self._kept}
        self.written: list[Lines] = []
        self.backward_lines: list[Line] = []
        self.backward_reads: set[str] = set()

    def _choose_names(self, signals: set[str]) -> None:
        """Variables for what both passes compute, and for what the backward uses more than once."""
        unique, reading = self.values.unique, self.reading
        roots = [x for statement in self.backward.statements for x in statement.roots] + self.backward.gradients
        forward = [x for statement in reading.statements for x in statement.roots]
        forward += [self.values.of[n] for n in reading.outputs]
        signals = signals | {x.detail for statement in self.backward.statements for x in statement.targets}
        self.texts: dict[Expression, str] = {}
        for statement in reading.statements:
            if isinstance(statement, Assign):
                self.texts.setdefault(statement.value, statement.variable.detail)
        self._kept = kept_parts(roots, forward, signals)
        for x in self._kept:
            if x not in self.texts:
                self.texts[x] = unique(queries.word_for(x))
        self._twice: dict[Expression, str] = {}  # of what the forward alone has a name for
        for x in queries.shared([*forward, *self._kept], self.texts):
            if not queries.is_of_sizes(x):
                self._twice[x] = unique(queries.word_for(x))
        self._again: dict[Expression, str] = {}  # of what the backward alone has a name for
        for x in queries.shared(roots, self.texts):
            signal = any(node.op == "name" and node.detail in signals for node in parts(x))
            self._again[x] = self._twice.get(x) or unique("d" if signal else queries.word_for(x))

    def _in_forward(self, x: Expression) -> str | None:
        return self.texts.get(x) or self._twice.get(x)

    def _ordered(self) -> list[Statement]:
        """The forward's statements, the parts that are kept before the first that needs them."""
        ordered: list[Statement] = []
        done: set[str] = set()

        assigned = {s.value: s for s in reversed(self.reading.statements) if isinstance(s, Assign)}

        def need(root: Expression, of_variable: bool = False) -> None:
            for node in parts(root):
                if node in assigned and not (of_variable and node is root):
                    if not (names := {x.detail for x in assigned[node].targets}) <= done:  # named only later
                        done.update(names)
                        ordered.append(assigned[node])
                    continue
                text = self._in_forward(node)
                named = node in self._kept or (node in self._twice and not (of_variable and node is root))
                if named and text not in done and text is not None:
                    done.add(text)
                    ordered.append(Assign(ex.name(text, node.shape, node.dtype), node))

        for statement in self.reading.statements:
            for root in statement.roots:
                need(root, isinstance(statement, Assign))
            if not {x.detail for x in statement.targets} <= done:
                done |= {x.detail for x in statement.targets}
                ordered.append(statement)
        for number in self.reading.outputs:
            need(self.values.of[number])
        return ordered

    def forward_of(self, results: Sequence[Expression], besides: set[str] | None = None) -> tuple[list, list, set[str]]:
        """The lines of the forward that these results need, their texts, and the names that it takes from outside.

        Args:
            besides: names that are needed too.
        """
        write = printer(self._in_forward)
        texts = [write(x) for x in results]
        needed = write.names | (besides or set())
        self.written = []
        for statement in reversed(self.statements):
            if needed & (targets := {x.detail for x in statement.targets}):
                lines = statement.write(self._in_forward, needed)
                needed = (needed - targets) | lines.reads
                self.written.insert(0, lines)
        return [line for lines in self.written for line in lines.lines], texts, needed

    def write_backward(
        self, totals: dict[int, Expression], kept: Sequence[int], names: Sequence[str] | None = None
    ) -> list[str]:
        """Write the backward; the texts of its gradients.

        Args:
            totals: number of a value → the variable that its gradient is added to.
            kept: which gradients are returned.
            names: variables for all of them.
        """
        later: dict[Expression, str] = dict(self._again)
        done: set[Expression] = set()
        ordered: list[tuple[Statement, dict[Expression, str]]] = []  # each with the names that there are by then

        def need(roots: Sequence[Expression], whole: Expression | None) -> None:
            for node in (node for root in roots for node in parts(root)):
                if node in self._again and node not in done and node is not whole:
                    done.add(node)
                    ordered.append((Assign(ex.name(self._again[node], node.shape, node.dtype), node), dict(later)))

        for statement in self.backward.statements:
            whole = statement.value if isinstance(statement, Assign) else None
            need(statement.roots, whole)
            ordered.append((statement, dict(later)))
            if isinstance(statement, Assign):
                done.add(statement.value)
                later[statement.value] = statement.variable.detail
        texts, reads = [], set()
        for position in kept:
            gradient = self.backward.gradients[position]
            need([gradient], None)
            total = totals.get(self.wanted[position])
            whole = gradient if total is None else ex.add(total, gradient)
            write = printer(lambda x: self.texts.get(x) or later.get(x))
            text = write(whole)
            if names is not None and not text.isidentifier():
                taken = names[position] in self.values.taken
                text = self.values.unique(names[position]) if taken else names[position]
                ordered.append((Assign(ex.name(text, whole.shape, whole.dtype), whole), dict(later)))
                reads.add(text)
            else:
                reads |= write.names
            texts.append(text)
        left: list[Lines] = []
        for statement, known in reversed(ordered):
            if reads & (targets := {x.detail for x in statement.targets}):
                lines = statement.write(lambda x, known=known: self.texts.get(x) or known.get(x), reads)
                reads = (reads - targets) | lines.reads
                left.insert(0, lines)
        if self.backward.keep == "least":
            left, reads = self._recomputed(left, reads)
        self.backward_lines = [line for lines in left for line in lines.lines]
        self.backward_reads = reads
        return texts

    def _recomputed(self, lines: list[Lines], reads: set[str]) -> tuple[list[Lines], set[str]]:
        """With what is elementwise in the rest that is kept computed again."""
        again: list[Lines] = []
        forward = {x.detail: s for s in self.statements if isinstance(s, Assign) for x in s.targets}
        for text in [text for text in reversed(self.made) if text in reads and text in forward]:
            line = forward[text].write(self._in_forward, None)
            if line.cheap and line.reads <= reads - {text}:
                reads = reads - {text}
                again.insert(0, line)
        return [*again, *lines], reads


def kept_parts(roots: Sequence[Expression], forward: Sequence[Expression], signals: set[str]) -> list[Expression]:
    """Parts of a backward pass that the forward has computed already and that are worth keeping, the larger first.

    Args:
        roots: the statements of the backward.
        forward: those of the forward.
        signals: names of error signals.
    """
    computed = {node for root in forward for node in parts(root)}
    free = {}  # of error signals
    for root in roots:
        for node in parts(root):
            free[node] = not (node.op == "name" and node.detail in signals) and all(free[a] for a in node.args)
    kept: list[Expression] = []

    def visit(node: Expression) -> None:
        core = ex.bare(node)
        if node.op == "size":
            return
        if free[node] and core in computed and _worth(core):
            if core not in kept:
                kept.append(core)
            return
        for arg in node.args:
            visit(arg)

    for root in roots:
        visit(root)
    return kept


def _worth(x: Expression) -> bool:
    """Whether to keep a value rather than to compute it again: a sum, a product of matrices, a costly function."""
    costly = {"contract", "total", "apply", "call"}
    stopped = x.op == "call" and "stop_gradient" in x.detail
    varies = (
        any(node.op == "name" for node in parts(x))
        and x.op not in ("size", "compare", "cast")
        and not queries.is_of_sizes(x)
    )
    return varies and any(node.op in costly for node in parts(x)) and not stopped
