"""Library functions that a trace has taken apart, put together again: softmax, log-softmax, logsumexp.

They are known by what they compute, so one written by hand in a single expression counts too, and one whose parts have
names of their own does not.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxbias.symbols import expressions as ex
from jaxbias.symbols.expressions import Expression


class Fused(NamedTuple):
    """A function of one array.

    Attributes:
        value: the call.
        of: its argument.
        pull: (out, δ) → δ of the argument.
    """

    value: Expression
    of: Expression
    pull: Callable[[Expression, Expression], Expression]


def recognise(x: Expression) -> Fused | None:
    """The function that this value is."""
    x = ex.bare(x)
    return _softmax(x) or _log_softmax(x) or _logsumexp(x)


def _shifted(x: Expression, axes: tuple[int, ...]) -> Expression | None:
    """u of u − m, where m, the largest of u, is held constant and the same along the axes."""
    if x.op == "add" and x.args[1].op == "negative":
        u, m = x.args[0], x.args[1].args[0]
        parts = [m]
        while parts:
            node = parts.pop()
            if node.op == "call" and "stop_gradient" in node.detail:
                alike = m.ndim < u.ndim or all(m.shape[k] == 1 for k in axes)
                return u if u.ndim == x.ndim and alike else None
            if node.op in ("expand", "spread", "drop"):
                parts += node.args
    return None


def _exponentials(x: Expression) -> tuple[Expression, tuple[int, ...]] | None:
    """The u and the axes of Σ exp(u − m)."""
    if x.op == "total" and x.args[0].op == "apply" and x.args[0].detail == "jnp.exp":
        u = _shifted(x.args[0].args[0], x.detail)
        return None if u is None else (u, x.detail)
    return None


def _sum_of(x: Expression) -> Expression:
    """Without unit axes, and without |·| of what is positive."""
    while x.op == "expand" or (x.op == "apply" and x.detail == "jnp.abs"):
        x = x.args[0]
    return x


def _words(u: Expression, axes: tuple[int, ...]) -> str:
    texts = [str(-1 if k == u.ndim - 1 else k) for k in axes]
    return f"axis={texts[0]}" if len(texts) == 1 else f"axis=({', '.join(texts)})"


def _keeping(x: Expression, axes: tuple[int, ...]) -> Expression:
    return ex.expand(ex.total(x, axes), axes)


def _softmax(x: Expression) -> Fused | None:
    if x.op != "div" or x.args[0].op != "apply" or x.args[0].detail != "jnp.exp":
        return None
    over = _exponentials(_sum_of(x.args[1]))
    if over is None or _sum_of(x.args[1]).args[0] is not x.args[0]:
        return None
    u, axes = over
    value = ex.call(f"jax.nn.softmax({{0}}, {_words(u, axes)})", [u], u.shape, u.dtype)
    return Fused(value, u, lambda p, d: ex.multiply(p, ex.subtract(d, _keeping(ex.multiply(p, d), axes))))


def _log_softmax(x: Expression) -> Fused | None:
    if x.op != "add" or x.args[1].op != "negative":
        return None
    log = ex.bare(x.args[1].args[0])
    if log.op != "apply" or log.detail != "jnp.log":
        return None
    over = _exponentials(_sum_of(log.args[0]))
    if over is None or _sum_of(log.args[0]).args[0].args[0] is not x.args[0]:
        return None
    u, axes = over
    value = ex.call(f"jax.nn.log_softmax({{0}}, {_words(u, axes)})", [u], u.shape, u.dtype)
    return Fused(value, u, lambda q, d: ex.subtract(d, ex.multiply(ex.apply("jnp.exp", q), _keeping(d, axes))))


def _logsumexp(x: Expression) -> Fused | None:
    if x.op != "add":
        return None
    for log, shift in (x.args, x.args[::-1]):
        if log.op != "apply" or log.detail != "jnp.log":
            continue
        over = _exponentials(_sum_of(log.args[0]))
        if over is None or "stop_gradient" not in str(_sum_of_shift(shift)):
            continue
        u, axes = over
        kept = x.ndim == u.ndim
        words = _words(u, axes) if kept or len(axes) < u.ndim else ""
        text = f"jax.nn.logsumexp({{0}}{', ' if words else ''}{words}{', keepdims=True' if kept else '{keep}'})"
        value = ex.call(text, [u], x.shape, u.dtype)

        def pull(out: Expression, d: Expression, axes=axes, u=u, kept=kept) -> Expression:
            out, d = (out, d) if kept else (ex.expand(out, axes), ex.expand(d, axes))
            return ex.multiply(d, ex.apply("jnp.exp", ex.subtract(u, out)))

        return Fused(value, u, pull)
    return None


def _sum_of_shift(x: Expression) -> str:
    while x.op in ("expand", "spread", "drop"):
        x = x.args[0]
    return x.detail if x.op == "call" else ""
