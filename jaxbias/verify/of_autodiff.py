"""A drop-in for `jax.test_util.check_grads` that compares autodiff with no autodiff, and says what is wrong."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxbias import _jaxpr
from jaxbias._trees import is_float
from jaxbias.verify.as_problem import check_options, jvp_problem, vjp_problem
from jaxbias.verify.decide import check
from jaxbias.verify.entrances import required
from jaxbias.verify.problem import Problem, argument_names, check_arrays, zero_cotangent
from jaxbias.verify.report import Report


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float | int | None = None,
    rtol: float | int | None = None,
    eps: float | int | None = None,
) -> None:
    """Check the derivatives that JAX computes of f, with the signature of `jax.test_util.check_grads`.

    What JAX gives, by whatever custom rules f carries, is held against two references that know none of them: autodiff
    of f with every `jax.custom_jvp` and `jax.custom_vjp` taken off, and differences of f itself in ball arithmetic, at
    the given and at random points. So a wrong rule of a primitive is found too, and float32 hides nothing.

    Args:
        f: `(*args) -> out`, an array or a pytree of arrays.
        args: arrays or pytrees of arrays.
        order: highest derivative to check; from the second on, the derivative's own derivative.
        modes: of "fwd" and "rev", those to check.
        atol, rtol: allow this much in place of the exact comparison.
        eps: taken for the signature's sake; no step has to be chosen here.

    Raises:
        AssertionError: a derivative is wrong, with the report; `Undecided`, which is one, where the check cannot tell.
        TypeError, ValueError: as `vjp`; or modes and order are none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbias import verify
        >>> verify.check_grads(jnp.tanh, (jnp.linspace(-2.0, 2.0, 5),), order=2)
    """
    for report in reports(f, args, order, modes, atol, rtol):
        required(report)


def reports(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float | int | None = None,
    rtol: float | int | None = None,
) -> Iterator[Report]:
    """What `check_grads` raises from: a report for each mode and order, the lower orders first."""
    owner = "verify.check_grads"
    args = tuple(args) if isinstance(args, list) else args
    check_options(owner, {"f": f}, None, rtol, atol)
    check_arrays(args, owner)
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or not set(modes) <= {"fwd", "rev"}:
        raise ValueError(f'{owner}: modes must be of "fwd" and "rev", got {modes}.')
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"{owner}: order must be a whole number from 1 on, got {order!r}.")
    yield from _reports(f, tuple(args), order, modes, {"rtol": rtol, "atol": atol}, "")


def _reports(
    f: Callable[..., Any], args: tuple, order: int, modes: tuple[str, ...], tolerances: dict, of: str
) -> Iterator[Report]:
    plain = _jaxpr.without_custom_rules(f)
    names = argument_names(f, len(args), None, "verify.check_grads")
    key = jax.random.key(0)
    if "fwd" in modes:
        problem = jvp_problem(plain, _tangent_rule(f), args, names, None, "verify.check_grads")
        yield _report(problem, key, tolerances, f"forward mode{of}")
        if order > 1:
            yield from _reports(_tangents_of(f), (args, args), order - 1, modes, tolerances, f" of forward mode{of}")
    if "rev" in modes:
        problem = vjp_problem(plain, _cotangent_rule(f), args, None, names, None, "verify.check_grads")
        yield _report(problem, key, tolerances, f"reverse mode{of}")
        if order > 1:
            yield from _reports(_gradients_of(f), args, order - 1, modes, tolerances, f" of reverse mode{of}")


def _report(problem: Problem, key: Array, tolerances: dict, subject: str) -> Report:
    problem.subject, problem.independent = subject, True
    return check(problem, key=key, **tolerances)


def _tangent_rule(f):
    def rule(args, tangents):
        return jax.jvp(f, args, tangents)[1]

    return rule


def _cotangent_rule(f):
    def rule(args, cotangents):
        values, pull_back = jax.vjp(f, *args)
        typed = jax.tree.map(lambda c, v: c if c.dtype == jax.dtypes.float0 else c.astype(v.dtype), cotangents, values)
        return pull_back(typed)

    return rule


def _tangents_of(f):
    def of_both(args, tangents):
        typed = jax.tree.map(lambda x, t: t if is_float(x) else zero_cotangent(x), args, tangents)
        return jax.jvp(f, args, typed)

    return of_both


def _gradients_of(f):
    def gradients(*args):
        values, pull_back = jax.vjp(f, *args)
        typed = jax.tree.map(lambda v: v if is_float(v) else zero_cotangent(v), values)
        return [g for g in jax.tree.leaves(pull_back(typed)) if g.dtype != jax.dtypes.float0]

    return gradients
