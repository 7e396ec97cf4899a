"""What is checked, without its tree structure: a reference and a rule, both flat functions of primals and seeds.

A seed is what the rule is linear in: a cotangent (reverse mode), a tangent (forward mode) or a vector (second order).
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from jaxbias import _jaxpr
from jaxbias._jaxpr.closed_over import taken_anew
from jaxbias._jaxpr.loop_carries import carries_widened
from jaxbias._jaxpr.sources import place as place
from jaxbias._trees import in_one_line, is_float, path_name

Arrays = list[Any]


class RuleError(Exception):
    """The rule cannot be compared: it raised, or returned another structure."""

    def __init__(self, explanation: str, fix: str = "", leaf: str = ""):
        super().__init__(explanation)
        self.explanation, self.fix, self.leaf = explanation, fix, leaf


@dataclass
class Problem:
    """A reference and a rule on flat lists of arrays.

    Attributes:
        primals, seeds: values as the user gave them.
        reference: `(primals, seeds) -> [*gradients, *forward values]`, traceable.
        rule: `(primals, seeds) -> gradients`, one per leaf; raises `RuleError`.
        leaves: path, shape and dtype of every gradient.
        aliases: other paths of the leaves.
        draw: `key -> primals`, or None.
        leaf_primal: position of the primal that each leaf is the gradient of, or None.
        seed_shapes: shapes of the seeds that go with primals of other sizes.
        by_columns, by_differences: the reference where reverse mode does not exist, and where forward mode neither does
            (`references`), or None.
        forward: float outputs of the forward, from the primals; None where the gradient is not its first derivative.
        cotangent_name: what the rule itself calls its cotangent; empty if unknown.
        independent: hold the rule against differences of the forward too, so that autodiff's own rules are judged.
        values: forward values of the function whose rule is checked, where it has its own.
    """

    primals: Arrays
    seeds: Arrays
    reference: Callable[[Arrays, Arrays], Arrays]
    rule: Callable[[Arrays, Arrays], Arrays]
    primal_names: list[str]
    seed_names: list[str]
    leaves: list[tuple[str, tuple[int, ...], Any]]
    aliases: dict[str, str] = field(default_factory=dict)
    draw: Callable[[Any], Arrays] | None = None
    subject: str = "rule"
    seed_word: str = "cotangent"
    given_seeds: bool = False
    leaf_primal: list[int] | None = None
    seed_shapes: Callable[[Arrays], list[tuple[int, ...]]] | None = None
    by_columns: Callable[[Arrays, Arrays], Arrays] | None = None
    by_differences: Callable[[Arrays, Arrays], Arrays] | None = None
    values: Callable[[Arrays], Arrays] | None = None
    forward: Callable[[Arrays], Arrays] | None = None
    independent: bool = False
    cotangent_name: str = ""


def exact_context() -> ExitStack:
    """float64 available and JAX's own promotion rules, whatever the user's configuration; restored on leaving."""
    stack = ExitStack()
    stack.enter_context(jax.enable_x64(True))
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    stack.enter_context(taken_anew())
    stack.enter_context(carries_widened())
    return stack


def widen(x: Any) -> Any:
    """A float64 (complex128) NumPy array; anything that is not a float is kept."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(np.complex128)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def narrow(x: Any, dtype: Any) -> Any:
    return jnp.asarray(x, dtype) if is_float(x) else x


# --- names and trees --------------------------------------------------------------------------------------------------


def argument_names(function: Callable[..., Any], count: int, names: Sequence[str] | None, owner: str) -> list[str]:
    """Given names, else those of the function's parameters, else positions."""
    if names is not None:
        if len(names) != count:
            raise ValueError(f"{owner}: names must name the {count} arguments, got {len(names)}: {list(names)}.")
        return [str(name) for name in names]
    try:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind in (0, 1)]
    except (TypeError, ValueError):
        parameters = []
    if len(parameters) >= count:
        return [p.name for p in parameters[:count]]
    return [str(i) for i in range(count)]


def leaf_paths(args: Sequence[Any], names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Path of every leaf with the argument's name in front, and the same paths with its position."""
    paths, aliases = [], {}
    for i, (arg, name) in enumerate(zip(args, names)):
        for path, _ in jax.tree_util.tree_leaves_with_path(arg):
            rest = path_name(path)
            full = f"{name}.{rest}" if rest else name
            paths.append(full)
            aliases[f"{i}.{rest}" if rest else str(i)] = full
    return paths, aliases


def check_arrays(args: Any, owner: str) -> None:
    """Raise a TypeError that names the first leaf which is no array and no number."""
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"{owner}: args must be a tuple with one entry per argument of the forward, or a function key -> tuple, "
            f"got {type(args).__name__}. For a single argument write (x,)."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(args):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise TypeError(
                f"{owner}: argument {path_name(path)} holds {type(leaf).__name__} {leaf!r:.60}, which is no array. "
                f"Close over what is not an array, for example lambda *args: forward(*args, mode=...)."
            )
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSU":
            raise TypeError(f"{owner}: argument {path_name(path)} has dtype {leaf.dtype}, which JAX cannot use.")


def flatten_like(result: Any, like: Sequence[Any], names: Sequence[str], owner: str) -> Arrays:
    """Leaves of what a rule returned, one per leaf of `like`; None for an absent gradient.

    Raises:
        RuleError: another number of entries, or another tree in one of them.
    """
    wanted = f"a tuple with one entry for each of {', '.join(names)} ({len(like)} entries): expected "
    wanted += describe(tuple(like))
    if not isinstance(result, tuple | list) or (hasattr(result, "_fields") and len(like) == 1):
        if len(like) == 1:
            result = (result,)
        else:
            raise RuleError(
                f"{owner} must return {wanted}, got {describe(result)}.",
                "return a tuple, in the order of the arguments",
            )
    if len(result) != len(like):
        raise RuleError(
            f"{owner} must return {wanted}, got {len(result)}: {describe(tuple(result))}.",
            "return one gradient per argument; None for an integer argument",
        )
    leaves: Arrays = []
    for entry, expected, name in zip(result, like, names):
        structure = jax.tree.structure(expected)
        count = structure.num_leaves
        if entry is None:
            leaves += [None] * count
            continue
        got = jax.tree.structure(entry, is_leaf=lambda node: node is None)
        want = jax.tree.structure(expected, is_leaf=lambda node: node is None)
        flat = jax.tree.leaves(entry, is_leaf=lambda node: node is None)
        if got != want and jax.tree.structure(entry) != structure:
            raise RuleError(
                f"the gradient of {name} must have the structure of the argument: expected {describe(expected)}, "
                f"got {describe(entry)}.",
                f"return the same tree as {name}",
                name,
            )
        if len(flat) != count:
            keep = jax.tree.leaves(expected, is_leaf=lambda node: node is None)
            flat = [leaf for leaf, e in zip(flat, keep) if e is not None] if len(flat) == len(keep) else flat
        leaves += flat
    return leaves


def describe(tree: Any) -> str:
    """A tree with shapes in place of its arrays."""

    def short(x):
        if x is None:
            return "None"
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            return f"{x.dtype}[{','.join(map(str, x.shape))}]"
        return type(x).__name__

    class Text:
        def __init__(self, text):
            self.text = text

        def __repr__(self):
            return self.text

    try:
        return repr(jax.tree.map(lambda x: Text(short(x)), tree, is_leaf=lambda node: node is None))
    except Exception:
        return type(tree).__name__


def zero_cotangent(x: Any) -> Any:
    """float0 zeros, what JAX hands to a rule for an integer output."""
    return np.zeros(np.shape(x), float0)


# --- running a rule ---------------------------------------------------------------------------------------------------

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def call_rule(problem: Problem, primals: Arrays, seeds: Arrays) -> Arrays:
    """The rule, its exceptions turned into a `RuleError`."""
    try:
        return problem.rule(primals, seeds)
    except (RuleError, jax.errors.JaxRuntimeError, *UNTRACEABLE):
        raise
    except jax.errors.UnexpectedTracerError as error:
        raise RuleError(
            f"the rule uses a value that an earlier trace of the forward or of the rule left behind{place(error)}.",
            "return such a value as a residual, or compute it anew",
        ) from error
    except Exception as error:
        raise RuleError(f"the rule raised {in_one_line(error)}{place(error)}", "make the rule run") from error


class Runner:
    """Evaluates a flat function on float64 arrays: traced once per signature, then equation by equation in NumPy.

    A rule that cannot be traced (it looks at values, or uses NumPy) is called as it is, in float64.

    Args:
        dtypes: of primals and seeds; float64 if None.
        unrolled: write the passes of short loops out.
        native: trace under the user's configuration, on which defaults such as the dtype of random numbers depend.
    """

    def __init__(
        self,
        function: Callable[[Arrays, Arrays], Arrays],
        dtypes: Sequence[Any] | None = None,
        native: bool = False,
        unrolled: bool = True,
    ):
        self.function, self.dtypes, self.native, self.unrolled = function, dtypes, native, unrolled
        self.context = ExitStack if native else exact_context
        self.programs: dict[Any, _jaxpr.Program | None] = {}
        self.absent: dict[Any, list[bool]] = {}

    def afresh(self) -> "Runner":
        """The same, with nothing traced yet."""
        return Runner(self.function, self.dtypes, self.native)

    def of(self, function: Callable[[Arrays, Arrays], Arrays]) -> "Runner":
        """The same for another function."""
        return Runner(function, self.dtypes, self.native, self.unrolled)

    def signature(self, primals: Arrays, seeds: Arrays) -> Any:
        return tuple((np.shape(x), str(jnp.result_type(x))) for x in (*primals, *seeds)), len(primals)

    def program(self, primals: Arrays, seeds: Arrays) -> _jaxpr.Program | None:
        key = self.signature(primals, seeds)
        if key not in self.programs:
            absent: list[bool] = []

            def flat(primals, seeds):
                outs = self.function(primals, seeds)
                absent[:] = [out is None or _is_float0(out) for out in outs]
                return [jnp.asarray(out) for out, gone in zip(outs, absent) if not gone]

            typed = self._typed(primals, seeds)
            try:
                with self.context():
                    self.programs[key] = _jaxpr.trace(flat, *typed, unrolled=self.unrolled)
            except UNTRACEABLE:
                self.programs[key] = None
            self.absent[key] = list(absent)
        return self.programs[key]

    def _typed(self, primals, seeds):
        if self.dtypes is None:
            return primals, seeds
        arrays = [narrow_np(x, d) for x, d in zip((*primals, *seeds), self.dtypes)]
        return arrays[: len(primals)], arrays[len(primals) :]

    def __call__(self, primals: Arrays, seeds: Arrays) -> Arrays:
        program = self.program(primals, seeds)
        if program is None:
            with self.context():
                outs = self.function(*self._typed([_put(x) for x in primals], [_put(x) for x in seeds]))
            return [None if out is None or _is_float0(out) else widen(out) for out in outs]
        return self.placed(primals, seeds, _jaxpr.run(program, [*primals, *seeds]))

    def placed(self, primals: Arrays, seeds: Arrays, outs: Arrays) -> Arrays:
        """The outputs of the program, with None where the function gave None."""
        present = iter(outs)
        return [None if gone else next(present) for gone in self.absent[self.signature(primals, seeds)]]


def _put(x: Any) -> Any:
    return x if _is_float0(x) else jnp.asarray(x)


def _is_float0(x: Any) -> bool:
    return getattr(x, "dtype", None) == float0


def narrow_np(x: Any, dtype: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(dtype) if is_float(x) else x
