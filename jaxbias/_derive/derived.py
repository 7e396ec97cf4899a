"""`derive`: the backward pass of a function, as code, checked before it is shown."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr, verify
from jaxbias._derive.backward import Backward, is_inexact, kept_parts, parts, shared
from jaxbias._derive.reading import Reading
from jaxbias._derive.sizes import sizes_in
from jaxbias._doors import describe
from jaxbias._trees import path_name
from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression
from jaxbias.symbols.python import Printer

KEEP = ("named", "least")


class NotDerived(ValueError):
    """The backward that was written is not that of the function, so it is not shown."""


@dataclass(frozen=True)
class Derived:
    """A forward with its backward pass, written out.

    Attributes:
        code: a Python module: `forward(…) -> (out, residuals)` and `backward(residuals, d_out) -> gradients`, on the
            leaves of the arguments in their order. It needs JAX and nothing else.
        steps: the same as pairs of lines, of the forward and of the backward pass.
        function: a `jax.custom_vjp` of the two, called as the function was.
        report: that of `jb.verify` on the backward.
        residual_bytes: what the backward keeps from the forward.
        autodiff_bytes: what autodiff keeps.
        unwritten: operations that have no derivation here, with their lines; JAX carries them out inside of `function`,
            and `code` takes them as functions.
    """

    code: str
    steps: tuple[tuple[str, str], ...]
    function: Callable[..., Any] = field(repr=False)
    report: verify.Report = field(repr=False)
    residual_bytes: int
    autodiff_bytes: int
    unwritten: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max((len(left) for left, _ in self.steps), default=0)
        lines = [f"{left:<{width}}    {right}".rstrip() for left, right in self.steps]
        kept = f"keeps {self.residual_bytes} bytes for the backward pass; autodiff keeps {self.autodiff_bytes}"
        return "\n".join([*lines, "", f"{self.report.verdict}; {kept}", *(f"not written: {u}" for u in self.unwritten)])


def derive(
    forward: Callable[..., Any],
    args: Sequence[Any],
    *,
    argnums: int | Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    keep: str = "named",
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

    Raises:
        TypeError: args is no sequence, forward cannot be traced, or nothing in args can be differentiated.
        ValueError: another `keep`, or argnums or names that do not fit args.
        NotDerived: what was written is not the gradient; nothing that is wrong is shown.
    """
    if keep not in KEEP:
        raise ValueError(f'derive: keep must be "named" or "least", got {keep!r}.')
    if not isinstance(args, tuple | list):
        raise TypeError(f"derive: args must be a tuple of the arguments, got {describe(args)}. For one: (x,).")
    args = tuple(jax.tree.map(_drawn, arg) for arg in args)
    chosen = _chosen(args, argnums)
    leaves, tree = jax.tree.flatten(args)
    variables = _arguments(forward, args, names)
    wanted = [
        k for k, (path, leaf) in enumerate(jax.tree.leaves_with_path(args)) if path[0].idx in chosen and _float(leaf)
    ]
    if not wanted:
        raise TypeError("derive: no argument holds floating-point numbers, so there is no gradient.")

    def flat(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(forward(*tree.unflatten(leaves)))

    program, _ = _jaxpr.trace_inlined(flat, *leaves)
    inputs = [ex.name(text, np.shape(leaf), leaf.dtype) for text, leaf in zip(variables, leaves)]
    sizes = sizes_in(program, flat, leaves, inputs)
    captured = _closed_over(forward)
    written = _Written(Reading(program, inputs, captured, sizes), wanted, keep)
    function, report, namespace = _checked(forward, args, tree, wanted, chosen, written)
    captured = [written.reading.captured[text] for text in written.captured]
    shapes = jax.eval_shape(namespace["forward"], *leaves, *captured)[1]
    return Derived(
        code=written.code,
        steps=written.steps(),
        function=function,
        report=report,
        residual_bytes=_bytes(shapes),
        autodiff_bytes=_autodiff_bytes(flat, leaves, wanted),
        unwritten=tuple(str(unwritten) for unwritten in written.reading.unwritten.values()),
    )


# --- the door ---------------------------------------------------------------------------------------------------------


def _float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _drawn(leaf: Any) -> Any:
    """An array, or normal values for a shape."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        draw = np.random.default_rng(0)
        values = draw.standard_normal(leaf.shape) if _float(leaf) else np.zeros(leaf.shape)
        return jnp.asarray(values, leaf.dtype)
    return jnp.asarray(leaf)


def _chosen(args: tuple[Any, ...], argnums: int | Sequence[int] | None) -> set[int]:
    if argnums is None:
        return set(range(len(args)))
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    if wrong := [n for n in numbers if not -len(args) <= n < len(args)]:
        raise ValueError(f"derive: argnums names argument {wrong[0]}, but there are {len(args)}.")
    return {n % len(args) for n in numbers}


def _arguments(forward: Callable[..., Any], args: tuple[Any, ...], names: Sequence[str] | None) -> list[str]:
    """A variable for each leaf: the argument's name, and the path inside of it where it is a tree."""
    if names is not None and len(names) != len(args):
        raise ValueError(f"derive: names must name each of the {len(args)} arguments, got {len(names)}.")
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


def _closed_over(forward: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Variables that a function closes over, and what they hold."""
    try:
        variables = inspect.getclosurevars(inspect.unwrap(forward))
    except TypeError:
        return []
    both = {**variables.globals, **variables.nonlocals}
    return [(text, value) for text, value in both.items() if isinstance(value, np.ndarray | jax.Array)]


# --- writing ----------------------------------------------------------------------------------------------------------


class _Written:
    """The text of forward and backward."""

    def __init__(self, reading: Reading, wanted: Sequence[int], keep: str):
        self.reading = reading
        outputs = [reading.values[n] for n in reading.outputs]
        self.outputs = [self._output(k, x, len(outputs)) for k, x in enumerate(outputs)]
        self.deltas = [
            ex.name(reading.unique(f"d_{x.detail if x.op == 'name' else 'out'}"), out.shape, out.dtype)
            if is_inexact(out) else None
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
        return f"{words[0]}_{of.detail}" if of.op == "name" else known.get(words[0], words[0])
    names = {"contract": "z", "total": "total", "div": "ratio", "add": "s", "mul": "product", "power": "power",
             "where": "chosen", "expand": "e"}  # fmt: skip
    if x.op in ("expand", "spread", "drop", "reshape", "transpose", "cast", "negative"):
        return _letter(x.args[0])
    return names.get(x.op, "value")


def _words(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.\"])[A-Za-z_]\w*", text))


# --- checking ---------------------------------------------------------------------------------------------------------


def _checked(forward: Any, args: Any, tree: Any, wanted: Any, chosen: set[int], written: _Written) -> Any:
    """The written functions as one with a custom rule, the report on them, and the module."""
    namespace: dict[str, Any] = dict(written.reading.captured)
    for text, unwritten in written.reading.unwritten.items():
        namespace |= _by_jax(text, unwritten.step)
    try:
        exec(compile(written.code, "<derived>", "exec"), namespace)
    except SyntaxError as error:
        raise NotDerived(f"derive: what was written is no Python ({error}):\n{written.code}") from None
    captured = [written.reading.captured[text] for text in written.captured]
    out_tree = jax.tree.structure(jax.eval_shape(forward, *args))
    single = len(written.outputs) == 1

    def run(*args: Any) -> Any:
        out, residuals = namespace["forward"](*jax.tree.leaves(args), *captured)
        return out_tree.unflatten([out] if single else list(out)), residuals

    def pull(residuals: Any, delta: Any) -> Any:
        signals = jax.tree.leaves(delta, is_leaf=lambda x: x is None)
        grads = namespace["backward"](residuals, signals[0] if single else tuple(signals))
        return dict(zip(wanted, grads))

    def rule(args: Any, delta: Any) -> Any:
        grads = pull(run(*args)[1], delta)
        return tree.unflatten([grads.get(k) for k in range(tree.num_leaves)])

    @jax.custom_vjp
    def function(*args: Any) -> Any:
        return run(*args)[0]

    def back(residuals: Any, delta: Any) -> Any:
        grads = pull(residuals, delta)
        leaves = jax.tree.leaves(args)
        zeros = [np.zeros(np.shape(x), jax.dtypes.float0) if not _float(x) else jnp.zeros_like(x) for x in leaves]
        return tree.unflatten([grads.get(k, zero) for k, zero in enumerate(zeros)])

    function.defvjp(run, back)
    expected, actual = forward(*args), run(*args)[0]
    errors = verify.relative_errors(actual=actual, expected=expected)
    if not all(error < 1e-3 for error in errors.values()):
        raise NotDerived(f"derive: the forward that was written is another ({errors}):\n{written.code}")
    leaves = jax.tree.leaves(args)
    frozen = [k for k in range(tree.num_leaves) if k not in wanted]

    def of_wanted(*some: Any) -> Any:
        full = dict(zip(wanted, some)) | {k: leaves[k] for k in frozen}
        return forward(*tree.unflatten([full[k] for k in range(tree.num_leaves)]))

    def rule_of_wanted(some: Any, delta: Any) -> Any:
        full = dict(zip(wanted, some)) | {k: leaves[k] for k in frozen}
        grads = pull(run(*tree.unflatten([full[k] for k in range(tree.num_leaves)]))[1], delta)
        return tuple(grads[k] for k in wanted)

    report = verify.vjp(of_wanted, rule_of_wanted, tuple(leaves[k] for k in wanted), diagnose=False)
    if not report.verdict.startswith("right"):
        raise NotDerived(f"derive: what was written is not the gradient.\n{report}\n{written.code}")
    return function, report, namespace


def _by_jax(text: str, step: Any) -> dict[str, Any]:
    """An operation without a derivation, and its transpose, as functions."""
    several = len(step.outputs) > 1

    def run(*values: Any) -> Any:
        out = step.equation.bind(*values)
        return out if several else out[0]

    def pull(values: Any, signals: Any) -> Any:
        floats = [k for k, v in enumerate(values) if _float(jnp.asarray(v))]

        def of_floats(*some: Any) -> Any:
            full = list(values)
            for k, v in zip(floats, some):
                full[k] = v
            return [out for out in step.equation.bind(*full) if _float(out)]

        outs, back = jax.vjp(of_floats, *(jnp.asarray(values[k]) for k in floats))
        shapes = jax.eval_shape(lambda *v: step.equation.bind(*v), *values)
        sent = [jnp.asarray(s, o.dtype) for s, o in zip(signals, shapes) if _float(o)]
        grads = dict(zip(floats, back(sent)))
        return [grads.get(k) for k in range(len(values))]

    return {text: run, f"{text}_pull": pull}


def _bytes(tree: Any) -> int:
    """Of the distinct arrays."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _autodiff_bytes(flat: Callable[..., Any], leaves: Sequence[Any], wanted: Sequence[int]) -> int:
    def kept(*some: Any) -> Any:
        full = list(leaves)
        for k, x in zip(wanted, some):
            full[k] = x
        return jax.vjp(lambda *some: [o for o in flat(*_replaced(leaves, wanted, some)) if _float(o)], *some)[1]

    return _bytes(jax.eval_shape(kept, *(leaves[k] for k in wanted)))


def _replaced(leaves: Sequence[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    full = list(leaves)
    for k, x in zip(places, values):
        full[k] = x
    return full
