"""How the rule behaves as a function: called eagerly and twice the same, traced, batched, on a sum and on zero.

A call under `jax.jit` carries out what the rule gives when it is traced; that is what `checker` compares.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias import _jaxpr
from jaxbias._trees import first_line, in_one_line, is_float
from jaxbias.verify.probes import Probe, random_seeds
from jaxbias.verify.problem import (
    UNTRACEABLE,
    Arrays,
    Problem,
    RuleError,
    Runner,
    call_rule,
    exact_context,
    narrow_np,
    place,
    widen,
)
from jaxbias.verify.report import Diagnosis

if TYPE_CHECKING:
    from jaxbias.verify.checker import Case, Checker

LARGEST_BATCHED = 1000
"""Equations of a rule up to which it is traced once more under vmap."""


@dataclass
class Calls:
    """What the rule gave when really called, in the dtype of the arguments: gradients for the given cotangent, for
    another one, and for the first one again; the dtypes of the first ones, None where they follow the others; and what
    is worth noting about the calls."""

    first: Arrays
    other: Arrays
    again: Arrays
    dtypes: list[str | None]
    notes: list[str]


def real_calls(problem: Problem, probe: Probe, rng: np.random.Generator) -> Calls:
    """Call the rule three times.

    Raises:
        RuleError: it raises, or returns another structure or what is no array.
    """
    dtypes = [jnp.result_type(s) for s in problem.seeds]
    primals = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in problem.primals]
    first_seeds = [narrow_np(s, d) for s, d in zip(probe.seeds, dtypes)]
    second_seeds = [narrow_np(s, d) for s, d in zip(random_seeds(problem, rng), dtypes)]

    dtypes_out: list[str | None] = []
    notes: list[str] = []

    def rule(seeds):
        return [
            None if getattr(out, "dtype", None) == jax.dtypes.float0 else out
            for out in call_rule(problem, primals, seeds)
        ]

    def call(seeds):
        arrays = [jnp.asarray(s) for s in seeds]
        try:
            outs = rule(arrays)
        except jax.errors.JaxRuntimeError as error:  # some backends cannot run one operation that they can compile
            try:
                outs = jax.jit(rule)(arrays)
            except jax.errors.JaxRuntimeError:
                raise RuleError(
                    f"this machine cannot run the rule: {first_line(error)}", "run it on another"
                ) from error
            notes[:] = [f"called under jax.jit, because this machine cannot run the rule as it is: {first_line(error)}"]
        try:
            arrays = [None if out is None else np.asarray(widen(out)) for out in outs]
            odd = next((a for a in arrays if a is not None and a.dtype.kind not in "fiubc"), None)
            if odd is not None:
                raise TypeError(f"dtype {odd.dtype}")
            for (path, _, dtype), out in zip(problem.leaves, outs):
                _require_kind(path, dtype, out)
            free = [not hasattr(out, "dtype") or getattr(out, "weak_type", False) for out in outs]
            dtypes_out[:] = [None if is_free else str(getattr(out, "dtype", "")) for is_free, out in zip(free, outs)]
            return arrays
        except (TypeError, ValueError) as error:
            raise RuleError(f"the rule returned what is no array: {error}", "return arrays") from error

    try:
        first, other = call(first_seeds), call(second_seeds)
        return Calls(first, other, call(first_seeds), dtypes_out, notes)
    except UNTRACEABLE as error:  # called as it is: a loop or a vmap within it, or what an earlier trace left behind
        raise RuleError(
            f"the rule raised {in_one_line(error)}{place(error)}",
            "keep to JAX within a loop, jit or vmap, and return as residuals what an earlier trace computed",
        ) from error


def _require_kind(path: str, dtype: Any, out: Any) -> None:
    """Raise a RuleError for an integer or boolean gradient, or a complex one of a real argument."""
    got = getattr(out, "dtype", None)
    if got is None or got == jax.dtypes.float0 or getattr(out, "weak_type", False):
        return
    real = jnp.issubdtype(dtype, jnp.floating)
    if not jnp.issubdtype(got, jnp.floating) if real else not jnp.issubdtype(got, jnp.inexact):
        raise RuleError(
            f"the gradient of {path} has dtype {got}, but {path} has dtype {dtype}.",
            f"return it as {dtype}",
            path,
        )


def other_dtypes(problem: Problem, calls: Calls) -> list[str]:
    """Notes on gradients in another float dtype than their argument, which JAX lets a custom_vjp hand on."""
    return [
        f"{path}: the rule returns {got} for an argument in {jnp.dtype(dtype).name}; in a custom_vjp JAX hands that on"
        for (path, _, dtype), got in zip(problem.leaves, calls.dtypes)
        if got is not None and got != jnp.dtype(dtype).name
    ]


def _close(a: Any, b: Any, factor: float, eps: float) -> bool:
    if a is None or b is None:
        return a is b
    if np.shape(a) != np.shape(b):
        return False
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    scale = np.max(np.abs(np.where(finite, a, 0)), initial=0.0) + np.max(np.abs(np.where(finite, b, 0)), initial=0.0)
    with np.errstate(invalid="ignore"):
        return bool(np.all(np.abs(np.where(finite, a - b, 0)) <= factor * eps * scale))


def hidden_state(problem: Problem, calls: Calls) -> Diagnosis | None:
    eps = max(float(jnp.finfo(jnp.result_type(s)).eps) for s in (*problem.seeds, *_floats(problem.primals)))
    paths = [path for path, _, _ in problem.leaves]
    changed = [p for p, a, b in zip(paths, calls.first, calls.again) if not _close(a, b, 64.0, eps)]
    if changed:
        if all(_close(a, b, 64.0, eps) for a, b in zip(calls.other, calls.again)):
            return Diagnosis(
                ", ".join(changed),
                "stale-value",
                "The rule returns what belongs to the call before: two calls with the same arguments differ, and the "
                "second one equals the call between them.",
                "compute the gradient from this call's arguments, not from a stored value",
            )
        return Diagnosis(
            ", ".join(changed),
            "nondeterministic",
            "Two calls with the same arguments and cotangent give different gradients.",
            "make the rule a pure function: no global state, no new random numbers",
        )
    return None


def _floats(primals: Arrays) -> Arrays:
    return [x for x in primals if is_float(x)]


# --- linear, eager, traced, batched -----------------------------------------------------------------------------------


def not_linear(
    checker: "Checker", case: "Case", calls: Calls, rng: np.random.Generator, notes: list[str]
) -> Diagnosis | None:
    """Is the rule additive in the cotangent, and zero for a zero cotangent? Notes say where it could not be asked.

    In float64, to the reference's rounding; what rounding of the rule may explain too is asked again as any probe is.
    """
    problem, first_seeds = checker.problem, case.probe.seeds
    second_seeds = random_seeds(problem, rng) if problem.seeds else []
    if not second_seeds or any(np.shape(a) != np.shape(b) for a, b in zip(first_seeds, second_seeds)):
        return None

    def at(seeds):
        outs = checker.run_rule(Probe(case.probe.name, case.probe.primals, seeds))
        return [np.zeros(e.shape) if out is None else np.asarray(out) for out, e in zip(outs, case.expected)]

    cotangents = second_seeds, [a + b for a, b in zip(first_seeds, second_seeds)], list(map(np.zeros_like, first_seeds))
    try:
        other, total, zero = map(at, cotangents)
    except RuleError as error:
        notes.append(f"linearity in the {problem.seed_word} is not checked: {error.explanation}")
        return None
    wrong = []
    for i, (a, b, c, z, e, t) in enumerate(zip(case.actual, other, total, zero, case.expected, case.tolerance)):
        if a.shape != e.shape or any(np.shape(x) != e.shape for x in (b, c, z)):
            continue
        usable = np.isfinite(a) & np.isfinite(b) & np.isfinite(e)
        scale = np.max(np.abs(a[usable]), initial=0.0) + np.max(np.abs(b[usable]), initial=0.0)
        slack = 3 * t + (1e-9 if checker.exact else 1e4 * float(jnp.finfo(checker.dtype).eps)) * scale
        with np.errstate(all="ignore"):
            if not np.all((np.abs(c - a - b) <= slack) & (np.abs(z) <= slack) | ~usable):
                wrong.append(i)
    if wrong:
        cases = [checker.case(Probe(case.probe.name, case.probe.primals, seeds)) for seeds in cotangents]
        right = lambda i: all(c is not None and not np.any(c.wrong[i] | c.undecided[i]) for c in cases)
        wrong = [i for i in wrong if not right(i)]
    if not wrong:
        return None
    same = [_close(calls.first[i], calls.other[i], 64.0, float(jnp.finfo(checker.dtype).eps)) for i in wrong]
    return Diagnosis(
        ", ".join(problem.leaves[i][0] for i in wrong),
        "not-linear-in-cotangent",
        f"The rule gives the same gradient whatever the {problem.seed_word} is: it ignores the {problem.seed_word}."
        if all(same)
        else "rule(args, c₁ + c₂) is not rule(args, c₁) + rule(args, c₂), or rule(args, 0) is not 0: a gradient is "
        f"linear in the {problem.seed_word}.",
        f"multiply the derivative by the {problem.seed_word}"
        if all(same)
        else f"use the {problem.seed_word} once in every term",
    )


def _same_numbers(a: Any, b: Any, tolerance: Any) -> bool:
    scale = np.max(np.abs(np.where(np.isfinite(b), b, 0)), initial=0.0)
    tolerance = np.where(np.isfinite(tolerance), tolerance, 0.0)  # none is known where autodiff gives NaN
    with np.errstate(all="ignore"):
        return bool(np.all((np.abs(a - b) <= tolerance + 1e-9 * scale) | (a == b) | (np.isnan(a) & np.isnan(b))))


def eager_differs(checker: "Checker", case: "Case", suspects: list[int]) -> Diagnosis | None:
    """Does the rule give other gradients in float64 when it is called eagerly than when it is traced?"""
    program = checker.rule.program(case.probe.primals, case.probe.seeds)
    if not checker.exact or program is None:
        return None
    # A rule that casts to a narrower dtype rounds when called, and that is another matter.
    inputs = case.probe.primals, case.probe.seeds
    rounded = checker.rule.placed(*inputs, _jaxpr.run(program, [*inputs[0], *inputs[1]], rounded=True))
    try:
        with exact_context():
            called = call_rule(
                checker.problem,
                [jnp.asarray(x) for x in case.probe.primals],
                [jnp.asarray(s) for s in case.probe.seeds],
            )
        values = [None if called[i] is None else np.asarray(widen(called[i])) for i in range(len(case.actual))]
    except Exception:
        return None
    differs = []
    for i in suspects:
        eager, traced = values[i], case.actual[i]
        if eager is None or rounded[i] is None or eager.shape != traced.shape:
            continue
        lost = np.max(np.abs(rounded[i] - traced), initial=0.0)
        if not _same_numbers(eager, traced, case.tolerance[i] + 8 * lost):
            differs.append(i)
    if not differs:
        return None
    return Diagnosis(
        ", ".join(checker.problem.leaves[i][0] for i in differs),
        "nondeterministic",
        "The rule gives one gradient when it is called as it stands, and another when JAX traces it (under jit or "
        "vmap), with the same arguments.",
        "do not let the rule depend on whether its arguments are traced, nor on values kept from another call",
        f"compared on {len(differs)} gradients, in float64",
    )


def batched_differs(checker: "Checker", case: "Case", notes: list[str]) -> Diagnosis | None:
    """Does the rule give other gradients for a batch of two cotangents under `jax.vmap` than for each of them?

    The second one is −2 times the first, so its gradients are known.
    """
    problem, program = checker.problem, checker.rule.program(case.probe.primals, case.probe.seeds)
    if program is None:
        notes.append(
            "the rule looks at the values of its arguments or leaves JAX, so it cannot be traced: it works outside of "
            "jax.jit and jax.vmap only"
        )
        return None
    if len(program.equations) > LARGEST_BATCHED or not problem.seeds or not checker.exact:
        return None

    def of_batch(primals, seeds):
        def of_one_cotangent(*seeds):
            outs = problem.rule(primals, list(seeds))
            return [None if getattr(g, "dtype", None) == jax.dtypes.float0 else g for g in outs]

        return jax.vmap(of_one_cotangent)(*seeds)

    pairs = [np.stack([s, -2 * s]) for s in case.probe.seeds]
    try:
        if checker.batched is None:
            checker.batched = Runner(of_batch)
        outs = checker.batched(case.probe.primals, pairs)
    except Exception as error:
        notes.append(f"the rule cannot be batched by jax.vmap: {in_one_line(error)}")
        return None
    differs = []
    for i, (out, alone, e, t) in enumerate(zip(outs, checker.run_rule(case.probe), case.actual, case.tolerance)):
        if out is None or alone is None:
            continue
        with np.errstate(all="ignore"):  # where an enclosure has given e, what the rule loses in float64 is not in t
            lost = np.abs(np.asarray(alone) - e)
        slack = t + 8 * np.max(np.where(np.isfinite(lost), lost, 0.0), initial=0.0)
        if not (_same_numbers(out[0], e, slack) and _same_numbers(out[1], -2 * e, 2 * slack)):
            differs.append(i)
    if not differs:
        return None
    return Diagnosis(
        ", ".join(problem.leaves[i][0] for i in differs),
        "nondeterministic",
        f"Under jax.vmap over the {problem.seed_word} the rule gives other gradients than for one {problem.seed_word} "
        "at a time.",
        "check the batching rule of what the rule calls (custom_vmap, pure_callback, a kernel)",
        "compared for a batch of two, in float64",
    )
