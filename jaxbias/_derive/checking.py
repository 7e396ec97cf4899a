"""What was written, run: as one function with a custom rule, and judged by `jb.verify` before anyone sees it."""

import itertools
import linecache
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxbias import _jaxpr, verify
from jaxbias._derive.writing import Written
from jaxbias._trees import in_one_line, is_float

_COUNT = itertools.count(1)
QUICK: dict[str, bool | int | str | float] = {"xla_backend_optimization_level": 0}
"""Run a few times on a few numbers: compiling is the cost."""


class NotDerived(ValueError):
    """The backward that was written is not that of the function, so it is not shown."""


def checked(forward: Any, args: Any, tree: Any, wanted: Any, written: Written) -> Any:
    """The written functions as one with a custom rule, the report on them, and the module."""
    namespace: dict[str, Any] = dict(written.values.captured)
    for text, unwritten in written.values.unwritten.items():
        namespace |= _by_jax(text, unwritten.equation)
    namespace |= {text: written.values.drawn_by(draw) for text, draw in written.values.draws.items()}
    file = f"<derived {next(_COUNT)}>"
    linecache.cache[file] = (
        len(written.code),
        None,
        written.code.splitlines(keepends=True),
        file,
    )  # so that it is read
    try:
        exec(compile(written.code, file, "exec"), namespace)
    except SyntaxError as error:
        raise NotDerived(f"derive: what was written is no Python ({error}):\n{written.code}") from None
    captured = [written.values.captured[text] for text in written.captured]
    out_tree = jax.tree.structure(jax.eval_shape(forward, *args))
    single = len(written.outputs) == 1

    def run(*args: Any) -> Any:
        out, residuals = namespace["forward"](*jax.tree.leaves(args), *captured)
        return out_tree.unflatten([out] if single else list(out)), residuals

    def pull(residuals: Any, delta: Any) -> Any:
        signals = jax.tree.leaves(delta, is_leaf=lambda x: x is None)
        grads = namespace["backward"](residuals, signals[0] if single else tuple(signals))
        return dict(zip(wanted, grads))

    @jax.custom_vjp
    def function(*args: Any) -> Any:
        return run(*args)[0]

    def back(residuals: Any, delta: Any) -> Any:
        grads = pull(residuals, delta)
        leaves = jax.tree.leaves(args)
        zeros = [np.zeros(np.shape(x), jax.dtypes.float0) if not is_float(x) else jnp.zeros_like(x) for x in leaves]
        return tree.unflatten([grads.get(k, zero) for k, zero in enumerate(zeros)])

    function.defvjp(run, back)
    expected, actual = _quickly(lambda *args: (forward(*args), run(*args)[0]))(*args)
    if not all(np.isfinite(out).all() for out in jax.tree.leaves(expected) if is_float(out)):
        raise ValueError(
            "derive: what forward gives at args is not finite, so nothing that is written can be compared with it. "
            "Hand over shapes (jax.ShapeDtypeStruct), for which values are drawn, or others within its domain."
        )
    errors = verify.relative_errors(actual=actual, expected=expected)
    if not all(error < 1e-3 for error in errors.values()):
        raise NotDerived(f"derive: the forward that was written is another ({errors}):\n{written.code}")
    leaves = jax.tree.leaves(args)

    def of_wanted(*some: Any) -> Any:
        return forward(*tree.unflatten(_replaced(leaves, wanted, some)))

    @_quickly
    def rule_of_wanted(some: Any, delta: Any) -> Any:
        grads = pull(run(*tree.unflatten(_replaced(leaves, wanted, some)))[1], delta)
        return tuple(grads[k] for k in wanted)

    if written.values.drawn:  # rounded once, as in the code: exact ones would be other numbers
        of_wanted = _jaxpr.with_draws_held(of_wanted, *(leaves[k] for k in wanted))
    report = verify.vjp(of_wanted, rule_of_wanted, tuple(leaves[k] for k in wanted), diagnose=False)
    if not report.ok:
        raise NotDerived(f"derive: what was written is not the gradient.\n{report}\n{written.code}")
    return function, report, namespace


def _quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """As one program, which is not worth optimising, in place of one for each operation; inside of a trace as it is."""
    program = jax.jit(function, compiler_options=QUICK)

    def run(*args: Any) -> Any:
        traced = any(isinstance(x, Tracer) for x in jax.tree.leaves(args))
        return function(*args) if traced else program(*args)

    return run


def _by_jax(text: str, equation: Any) -> dict[str, Any]:
    """An operation without a derivation, and its transpose, as functions."""
    several = len(equation.outputs) > 1

    dtypes = equation.dtypes.inputs

    def exactly(values: Any) -> list[Any]:
        """As the operation was given them: a number of the code has no dtype of its own."""
        return [v if hasattr(v, "dtype") else jnp.asarray(v, dtype) for v, dtype in zip(values, dtypes)]

    def run(*values: Any) -> Any:
        out = equation.bind(*exactly(values))
        return out if several else out[0]

    def pull(values: Any, signals: Any) -> Any:
        values = exactly(values)
        floats = [k for k, v in enumerate(values) if is_float(jnp.asarray(v))]

        def of_floats(*some: Any) -> Any:
            return [out for out in equation.bind(*_replaced(values, floats, some)) if is_float(out)]

        outs, back = jax.vjp(of_floats, *(jnp.asarray(values[k]) for k in floats))
        shapes = jax.eval_shape(lambda *v: equation.bind(*v), *values)
        sent = [jnp.asarray(s, o.dtype) for s, o in zip(signals, shapes) if is_float(o)]
        grads = dict(zip(floats, back(sent)))
        return [grads.get(k) for k in range(len(values))]

    return {text: run, f"{text}_pull": pull}


def bytes_of(tree: Any) -> int:
    """Of the distinct arrays."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def autodiff_bytes(flat: Callable[..., Any], leaves: Sequence[Any], wanted: Sequence[int]) -> int:
    """Of what autodiff keeps for the backward pass.

    Raises:
        TypeError: JAX cannot differentiate the function, so there is nothing to compare with.
    """

    def floats(*some: Any) -> Any:
        return [out for out in flat(*_replaced(leaves, wanted, some)) if is_float(out)]

    def pull_back(*some: Any) -> Any:
        out, back = jax.vjp(floats, *some)
        back(out)  # what has no reverse mode raises only here
        return back

    try:
        return bytes_of(jax.eval_shape(pull_back, *(leaves[k] for k in wanted)))
    except Exception as error:  # whatever a rule of the user's own raises
        raise TypeError(f"derive: JAX cannot differentiate the forward: {in_one_line(error)}") from error


def _replaced(leaves: Sequence[Any], places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """The leaves, with these values in these places."""
    full = list(leaves)
    for k, x in zip(places, values):
        full[k] = x
    return full
