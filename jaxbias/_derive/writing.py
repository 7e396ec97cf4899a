"""The text of a forward and of its backward pass, and the names of what the user gave none."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from jaxbias._derive.backward import Backward, kept_parts, parts, shared
from jaxbias._derive.reading import Reading
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.python import Printer


class Written:
    """The text of forward and backward."""

    def __init__(self, reading: Reading, wanted: Sequence[int], keep: str):
        self.reading = reading
        outputs = [reading.values[n] for n in reading.outputs]
        self.outputs = [self._output(k, x, len(outputs)) for k, x in enumerate(outputs)]
        self.deltas = [
            ex.name(reading.unique(f"d_{x.detail if x.op == 'name' else 'out'}"), out.shape, out.dtype)
            if ex.is_inexact(out) else None
            for x, out in zip(self.outputs, outputs)
        ]  # fmt: skip
        self.backward = Backward(reading, self.deltas, [reading.inputs[k] for k in wanted])
        self.wanted = wanted
        self._choose_names()
        self._write(keep)

    def _output(self, k: int, x: Expression, count: int) -> Expression:
        """An output under a name, so that the backward can keep it."""
        core = ex.bare(x)
        if core.op in ("name", "number") or core is not x:
            return x
        text = "out" if count == 1 else f"out_{k}"
        variable = ex.name(self.reading.unique(text), x.shape, x.dtype)
        self.reading.defined.append((variable, x))
        for number in self.reading.outputs:
            if self.reading.values[number] is x:
                self.reading.values[number] = variable
        return variable

    def _choose_names(self) -> None:
        """Variables for what both passes compute, and for what the backward uses more than once."""
        unique, reading = self.reading.unique, self.reading
        roots = [x for _, x in self.backward.statements] + self.backward.gradients
        forward = [x for _, x in reading.defined]
        signals = {v.detail for v, _ in self.backward.statements} | {d.detail for d in self.deltas if d is not None}
        self.kept = kept_parts(roots, forward, signals)
        self.texts: dict[int, str] = {}
        for x, value in reading.defined:
            self.texts.setdefault(id(value), x.detail)
        for x in self.kept:
            if id(x) not in self.texts:
                self.texts[id(x)] = unique(_letter(x))
        self.again: dict[int, str] = {}
        self.repeated = []
        for x in shared(roots, set(self.texts)):
            signal = any(node.op == "name" and node.detail in signals for node in parts(x))
            self.again[id(x)] = unique("d" if signal else _letter(x))
            self.repeated.append(x)

    def _in_forward(self, x: Expression) -> str | None:
        return self.texts.get(id(x))

    def _in_backward(self, x: Expression) -> str | None:
        return self.texts.get(id(x)) or self.again.get(id(x))

    def _full(self, x: Expression) -> str:
        """What a value of the backward is, though it has a name."""
        return _Whole(self._in_backward, x)(x)

    def _write(self, keep: str) -> None:
        reading, printer = self.reading, Printer(self._in_backward)
        arguments = [reading.values[n].detail for n in reading.inputs]
        lines = self._ordered(reading.defined, self.kept)
        self.forward_lines = [(text, _Whole(self._in_forward, value)(value)) for text, value in lines]
        self.backward_lines: list[tuple[str, str]] = []
        done: set[int] = set()

        def need(root: Expression) -> None:
            for node in parts(root):
                if id(node) in done or node not in self.repeated or node is root:
                    continue
                done.add(id(node))
                self.backward_lines.append((self.again[id(node)], self._full(node)))

        for variable, value in self.backward.statements:
            need(value)
            done.add(id(value))
            self.backward_lines.append((variable.detail, self._full(value)))
            self.again[id(value)] = variable.detail
        gradients = []
        for k, value in zip(self.wanted, self.backward.gradients):
            need(value)
            if value in self.repeated and id(value) not in done:
                done.add(id(value))
                self.backward_lines.append((self.again[id(value)], self._full(value)))
            text = printer(value)
            argument = reading.values[reading.inputs[k]].detail
            if not text.isidentifier():
                name = f"d_{argument}" if f"d_{argument}" not in reading.taken else reading.unique(f"d_{argument}")
                self.backward_lines.append((name, text))
                text = name
            gradients.append(text)
        self._drop_unused(gradients)
        texts = [value for _, value in self.forward_lines + self.backward_lines]
        texts += [Printer(self._in_forward)(x) for x in self.outputs]
        read = _words(" ".join(texts))
        self.captured = [text for text in reading.captured if text in read]
        arguments += self.captured
        known = {text for text, _ in self.forward_lines} | set(arguments)
        used = _words(" ".join([*(t for _, t in self.backward_lines), *gradients]))
        made = {text for text, _ in self.backward_lines}
        self.residuals = [text for text in [*arguments, *(t for t, _ in self.forward_lines)] if text in used - made]
        if keep == "least":
            self._recompute(set(arguments))
        assert not (used - made) & set(self.texts.values()) - known - {d.detail for d in self.deltas if d is not None}
        outs = [Printer(self._in_forward)(x) for x in self.outputs]
        deltas = [d.detail if d is not None else "_" for d in self.deltas]
        out, delta = (outs[0], deltas[0]) if len(outs) == 1 else (f"({', '.join(outs)})", f"({', '.join(deltas)})")
        kept = f"({', '.join(self.residuals)}{',' if len(self.residuals) == 1 else ''})"
        unpack = f"{', '.join(self.residuals)}{',' if len(self.residuals) == 1 else ''} = residuals"
        taken = list(reading.unwritten)
        extra = [f"{t}" for t in taken] + [f"{t}_pull" for t in taken]
        self.code = "\n".join([
            *(["import jax"] if "jax." in "".join(t for _, t in self.forward_lines + self.backward_lines) else []),
            "import jax.numpy as jnp", "", "",
            *([f"# {', '.join(extra)}: see `unwritten`", "", ""] if extra else []),
            f"def forward({', '.join(arguments)}):",
            *(f"    {text} = {value}" for text, value in self.forward_lines),
            f"    return {out}, {kept}", "", "",
            f"def backward(residuals, {delta if len(outs) == 1 else 'd_outs'}):",
            *([f"    {unpack}"] if self.residuals else []),
            *([f"    {delta[1:-1]} = d_outs"] if len(outs) > 1 else []),
            *(f"    {text} = {value}" for text, value in self.backward_lines),
            f"    return {', '.join(gradients)}{',' if len(gradients) == 1 else ''}", "",
        ])  # fmt: skip

    def _ordered(self, defined: Any, kept: Sequence[Expression]) -> list[tuple[str, Expression]]:
        """The forward's statements, each kept part before the first that needs it."""
        lines: list[tuple[str, Expression]] = []
        done: set[str] = set()
        for variable, value in defined:
            for node in parts(value):
                text = self.texts.get(id(node))
                if node in kept and text is not None and text not in done and node is not value:
                    done.add(text)
                    lines.append((text, node))
            if variable.detail not in done:
                done.add(variable.detail)
                lines.append((variable.detail, value))
        return lines

    def _drop_unused(self, gradients: Sequence[str]) -> None:
        """Statements that nothing reads."""
        needed, left = set(gradients), []
        for text, value in reversed(self.backward_lines):
            if text in needed:
                needed |= _words(value)
                left.append((text, value))
        self.backward_lines = left[::-1]
        needed |= {w for x in self.outputs for w in _words(Printer(self._in_forward)(x))}
        for _, value in self.backward_lines:
            needed |= _words(value)
        lines = []
        for text, value in reversed(self.forward_lines):
            if text in needed:
                needed |= _words(value)
                lines.append((text, value))
        self.forward_lines = lines[::-1]

    def _recompute(self, arguments: set[str]) -> None:
        """Computes again in the backward what is elementwise from the rest that is kept."""
        values = dict(self.forward_lines)
        again: list[tuple[str, str]] = []
        for text in [t for t in reversed(self.residuals) if t in values]:
            needs = _words(values[text]) & (arguments | set(values))
            rest = set(self.residuals) - {text}
            if needs <= rest and not re.search(r"@|einsum|\.(sum|mean|max|min|prod)\(", values[text]):
                self.residuals.remove(text)
                again.insert(0, (text, values[text]))
        self.backward_lines = [*again, *self.backward_lines]

    def steps(self) -> tuple[tuple[str, str], ...]:
        """The forward's lines from the top down, and beside each its error signal, which are computed from below."""
        waiting = list(self.backward_lines)
        given = {d.detail for d in self.deltas if d is not None}
        rows: list[tuple[str, str]] = []  # the last first

        def until(name: str) -> str:
            """The line of this error signal; those that come before it get rows of their own."""
            if name not in [text for text, _ in waiting]:
                return f"{name} is given" if name in given else ""
            while waiting:
                text, value = waiting.pop(0)
                if text == name:
                    return f"{text} = {value}"
                rows.append(("", f"{text} = {value}"))
            return ""

        for text, value in reversed(self.forward_lines):
            signal = until(f"d_{text}")
            rows.append((f"{text} = {value}", signal))
        arguments = {f"d_{self.reading.values[n].detail}": self.reading.values[n].detail for n in self.reading.inputs}
        rows += [(arguments.get(text, ""), f"{text} = {value}") for text, value in waiting]
        return (("forward", "backward, from below"), *reversed(rows))


class _Whole(Printer):
    """Writes one expression out though it has a name; names inside of it stay."""

    def __init__(self, text_of: Callable[[Expression], str | None], root: Expression):
        super().__init__(lambda x: None if x is root else text_of(x))


def _letter(x: Expression) -> str:
    """A name for a value that the user gave none."""
    words = re.findall(r"([a-z]\w*)\(", f"{x.detail}(") if x.op in ("apply", "call") else []
    if words:
        of = ex.bare(x.args[0]) if x.args else x
        known = {"exp": "e", "sqrt": "root", "max": "largest", "min": "smallest"}
        return f"{words[0]}_{of.detail}" if of.op == "name" else str(known.get(words[0], words[0]))
    names = {"contract": "z", "total": "total", "div": "ratio", "add": "s", "mul": "product", "power": "power",
             "where": "chosen", "expand": "e"}  # fmt: skip
    if x.op in ("expand", "spread", "drop", "reshape", "transpose", "cast", "negative"):
        return _letter(x.args[0])
    return names.get(x.op, "value")


def _words(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.\"])[A-Za-z_]\w*", text))
