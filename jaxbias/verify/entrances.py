"""The doors of the checker: each turns its arguments into a flat `Problem` and hands it to `check`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxbias._trees import is_float
from jaxbias.params import as_layer
from jaxbias.verify.as_problem import (
    Arguments,
    admit,
    hessian_problem,
    jvp_problem,
    key_or_default,
    outputs,
    vjp_problem,
)
from jaxbias.verify.checker import SECONDS
from jaxbias.verify.decide import check
from jaxbias.verify.problem import zero_cotangent
from jaxbias.verify.report import Report, Undecided

Tree = Any


def vjp(
    forward: Callable[..., Tree],
    rule: Callable[[tuple[Any, ...], Any], tuple[Any, ...]],
    args: Any,
    *,
    cotangent: Tree = None,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """Check a reverse-mode rule against autodiff of the forward, and say what is wrong with it.

    The rule is right if rule(args, c)ᵢ = Jᵢᵀ c for every argument i and cotangent c, with Jᵢ = ∂forward/∂argsᵢ.

    Args:
        forward: `(*args) -> out`, an array or a pytree of arrays.
        rule: `(args, cotangent) -> (gradient of each argument, ...)`; None or float0 for an integer argument. A zero
            gradient may be None.
        args: arrays or pytrees of arrays, in the dtype to check; or `key -> args`, from which other inputs are drawn.
        cotangent: shape and tree of out; drawn at random if None.
        key: for the random values.
        names: of the arguments, for the report; by default those of the forward's parameters.
        rtol, atol: replace the tolerance that is derived from the dtype and the terms added up.
        diagnose: look for the mistake if there is one.
        seconds: of processor time, for the whole check.

    Raises:
        TypeError: args is no tuple, holds what is no array, or has no float; the forward returns no float.
        ValueError: the forward raises or cannot be traced; the cotangent does not fit.
    """
    options = {"rtol": rtol, "atol": atol, "diagnose": diagnose, "seconds": seconds}
    return _of_reverse_mode("verify.vjp", forward, rule, args, cotangent, key, names, **options)


def _of_reverse_mode(owner, forward, rule, args, cotangent, key, names, *, rtol, atol, diagnose, seconds) -> Report:
    values, draw, names = admit(owner, {"forward": forward, "rule": rule}, args, key, names, rtol, atol)
    problem = vjp_problem(forward, rule, values, cotangent, names, draw, owner)
    return check(problem, key=key_or_default(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def explain(
    forward: Callable[..., Tree],
    rule: Callable[[tuple[Any, ...], Any], tuple[Any, ...]],
    args: Any,
    *,
    cotangent: Tree = None,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    seconds: float | int = SECONDS,
) -> Report:
    """Check a reverse-mode rule as `vjp` does, and say of each of its lines what it computes, right or wrong.

    A line is a forward value, the gradient ∂L/∂p of the loss by one, or an intermediate value of the rule's own. Of a
    wrong rule the lines where it goes wrong say what they must be, and later ones are judged given the mended values.

    Args:
        forward, rule, args, cotangent, key, names, seconds: as in `vjp`.

    Returns:
        The report, with `lines`; where the rule cannot be listed a note says why.

    Raises:
        TypeError, ValueError: as `vjp`.

    Example:
        >>> def rule(args, ct):
        ...     a = jnp.tanh(args[0])
        ...     return (ct * (1 - a**2),)
        >>> for line in jb.verify.explain(jnp.tanh, rule, (jnp.ones((2, 3)),)).lines:
        ...     print(line.status, "|", line.text, "|", line.meaning)
        ok | a = jnp.tanh(args[0]) | tanh
        ok | ct * (1 - a**2) | ∂L/∂x
    """
    values, draw, names = admit("verify.explain", {"forward": forward, "rule": rule}, args, key, names)
    problem = vjp_problem(forward, rule, values, cotangent, names, draw, "verify.explain")
    return check(problem, key=key_or_default(key), seconds=seconds, explain=True)


def gradient(
    f: Callable[..., Array],
    rule: Callable[..., Any],
    args: Any,
    *,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """Check the gradient of a scalar function: `rule(*args)` gives ∂f/∂argsᵢ for every argument.

    Args:
        f: `(*args) -> scalar`.
        rule: `(*args) -> (gradient of each argument, ...)`; for a single argument the gradient itself will do.
        args, key, names, rtol, atol, diagnose, seconds: as in `vjp`.

    Raises:
        ValueError: f returns no scalar.
        TypeError, ValueError: as `vjp`.
    """
    values, draw, names = admit("verify.gradient", {"f": f, "rule": rule}, args, key, names, rtol, atol, like="f")
    outs, _ = outputs(f, tuple(values), "verify.gradient")
    if len(outs) != 1 or outs[0].shape != ():
        shapes = ", ".join(str(out.shape) for out in outs)
        raise ValueError(f"verify.gradient: f must return one scalar, got shape {shapes}. Use verify.vjp for arrays.")

    def scaled(arguments, cotangent):
        result = rule(*arguments)

        def times(g):
            if not hasattr(g, "dtype") or g.dtype == jax.dtypes.float0:
                return g
            with jax.numpy_dtype_promotion("standard"):
                return (cotangent * g).astype(g.dtype)

        return jax.tree.map(times, result)

    problem = vjp_problem(f, scaled, tuple(values), None, names, draw, "verify.gradient", "gradient")
    problem.seed_word = "scale"
    return check(problem, key=key_or_default(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def jvp(
    forward: Callable[..., Tree],
    rule: Callable[[tuple[Any, ...], tuple[Any, ...]], Tree],
    args: Any,
    *,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """Check a forward-mode rule: `rule(args, tangents)` gives Σᵢ (∂forward/∂argsᵢ) tangentsᵢ, in the output's tree.

    Its tangents are a tuple like args, with float0 for an integer leaf.

    Args:
        forward, rule, args, key, names, rtol, atol, diagnose, seconds: as in `vjp`.

    Raises:
        TypeError, ValueError: as `vjp`.
    """
    values, draw, names = admit("verify.jvp", {"forward": forward, "rule": rule}, args, key, names, rtol, atol)
    problem = jvp_problem(forward, rule, values, names, draw, "verify.jvp")
    return check(problem, key=key_or_default(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def hessian_vector(
    f: Callable[..., Array],
    rule: Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]],
    args: Any,
    *,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """Check a second-order rule: `rule(args, vectors)` gives Σⱼ (∂²f/∂argsᵢ∂argsⱼ) vectorsⱼ for every argument i.

    Args:
        f: `(*args) -> scalar`.
        rule: its vectors are a tuple like args, and so is what it returns.
        args, key, names, rtol, atol, diagnose, seconds: as in `vjp`.

    Raises:
        ValueError: f returns no scalar.
        TypeError, ValueError: as `vjp`.
    """
    values, draw, names = admit("verify.hessian_vector", {"f": f, "rule": rule}, args, key, names, rtol, atol, like="f")
    problem = hessian_problem(f, rule, values, names, draw, "verify.hessian_vector")
    return check(problem, key=key_or_default(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def custom_vjp(
    f: Callable[..., Tree],
    reference: Callable[..., Tree],
    args: Any = None,
    *,
    cotangent: Tree = None,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """Check a function that carries its own rule (custom_vjp, custom_jvp, a Pallas kernel) against the plain function.

    Args:
        f: the function with its own rule; differentiated with `jax.vjp`, so by that rule.
        reference: the plain function with the same values.
        args, cotangent, key, names, rtol, atol, diagnose, seconds: as in `vjp`.

    Raises:
        TypeError: the reference was left out.
        ValueError: f and reference return different trees or shapes.
        TypeError, ValueError: as `vjp`.
    """
    if args is None:
        raise TypeError(
            "verify.custom_vjp: three arguments are wanted, f, reference and args, got two. The reference is the plain "
            "function without its own rule: autodiff of it is what the rule is compared with."
        )
    values, draw, names = admit(
        "verify.custom_vjp", {"f": f, "reference": reference}, args, key, names, rtol, atol, like="reference"
    )
    outs, tree = outputs(reference, tuple(values), "verify.custom_vjp")
    own, own_tree = outputs(f, tuple(values), "verify.custom_vjp")
    if tree != own_tree or [o.shape for o in outs] != [o.shape for o in own]:
        raise ValueError(
            f"verify.custom_vjp: f returns {own_tree} with shapes {[o.shape for o in own]}, but reference returns "
            f"{tree} with shapes {[o.shape for o in outs]}."
        )

    def rule(arguments, cotangents):
        floats = [i for i, x in enumerate(jax.tree.leaves(arguments)) if is_float(x)]
        leaves, treedef = jax.tree.flatten(arguments)

        def floats_only(*values):
            merged = list(leaves)
            for i, value in zip(floats, values):
                merged[i] = value
            return f(*treedef.unflatten(merged))

        values, pull_back = jax.vjp(floats_only, *(leaves[i] for i in floats))
        typed = jax.tree.map(lambda c, v: c if c.dtype == jax.dtypes.float0 else c.astype(v.dtype), cotangents, values)
        gradients = iter(pull_back(typed))
        return treedef.unflatten([next(gradients) if i in floats else zero_cotangent(x) for i, x in enumerate(leaves)])

    problem = vjp_problem(reference, rule, tuple(values), cotangent, names, draw, "verify.custom_vjp", "custom rule")
    problem.values = lambda primals: [
        v for v in jax.tree.leaves(f(*Arguments(values, names, "").tree(primals))) if is_float(v)
    ]
    return check(problem, key=key_or_default(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def layer(
    layer: Any,
    params: Tree,
    x: Any,
    *,
    state: Tree = None,
    cotangent: Tree = None,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """Check a triple `Layer(init, forward, backward)`: the gradients of params and of x.

    Args:
        layer: has `forward(params, x) -> (out, residuals)` and `backward(residuals, delta) -> (grads, delta_x)`.
        state: third argument of `forward`, for a layer that keeps one.
        cotangent, key, names, rtol, atol, diagnose, seconds: as in `vjp`.

    Raises:
        TypeError: layer has no forward and backward, for example because its module was meant to be called.
        TypeError, ValueError: as `vjp`.
    """
    if not (hasattr(layer, "forward") and hasattr(layer, "backward")):
        as_layer(layer, "verify.layer")
    extra = () if state is None else (state,)

    def forward(params, x):
        return layer.forward(params, x, *extra)[0]

    def rule(args, delta):
        _, residuals = layer.forward(*args, *extra)
        return tuple(layer.backward(residuals, delta))

    options = {"rtol": rtol, "atol": atol, "diagnose": diagnose, "seconds": seconds}
    return _of_reverse_mode("verify.layer", forward, rule, (params, x), cotangent, key, names, **options)


def assert_vjp(
    forward: Callable[..., Tree],
    rule: Callable[[tuple[Any, ...], Any], tuple[Any, ...]],
    args: Any,
    *,
    cotangent: Tree = None,
    key: Array | None = None,
    names: Sequence[str] | None = None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    diagnose: bool = True,
    seconds: float | int = SECONDS,
) -> Report:
    """`vjp` for a test: fails with the text of the report.

    Args:
        forward, rule, args, cotangent, key, names, rtol, atol, diagnose, seconds: as in `vjp`.

    Raises:
        AssertionError: the rule is wrong; `Undecided`, which is one, where the check could not tell.
        TypeError, ValueError: as `vjp`.
    """
    options = {"rtol": rtol, "atol": atol, "diagnose": diagnose, "seconds": seconds}
    return required(_of_reverse_mode("verify.assert_vjp", forward, rule, args, cotangent, key, names, **options))


def required(report: Report) -> Report:
    """The report of a rule that may be used.

    Raises:
        AssertionError: the rule is wrong, or undecided (`Undecided`).
    """
    if not report.ok:
        raise (Undecided if report.verdict == "undecided" else AssertionError)("\n" + str(report))
    return report


__all__ = ["assert_vjp", "custom_vjp", "explain", "gradient", "hessian_vector", "jvp", "layer", "vjp"]
