"""The doors of the checker: each turns its arguments into a flat `Problem` and hands it to `check`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias import _jaxpr
from jaxbias._trees import first_line, in_one_line, is_float
from jaxbias.params import as_layer
from jaxbias.verify import references
from jaxbias.verify.checker import SECONDS
from jaxbias.verify.decide import check
from jaxbias.verify.problem import (
    Problem,
    argument_names,
    check_arrays,
    flatten_like,
    leaf_paths,
    zero_cotangent,
)
from jaxbias.verify.report import Report, Undecided

Tree = Any


class _Args:
    """Arguments as flat leaves, and back."""

    def __init__(self, args: Any, names: list[str], owner: str):
        check_arrays(args, owner)
        self.args = tuple(args)
        self.names = names
        self.leaves, self.treedef = jax.tree.flatten(self.args)
        self.leaves = [x if isinstance(x, jax.Array) else np.asarray(x, jnp.result_type(x)) for x in self.leaves]
        self.paths, self.aliases = leaf_paths(self.args, names)
        self.floats = [i for i, x in enumerate(self.leaves) if is_float(x)]

    def tree(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        return self.treedef.unflatten(leaves)

    def with_floats(self, leaves: Sequence[Any], floats: Sequence[Any]) -> tuple[Any, ...]:
        merged = list(leaves)
        for i, x in zip(self.floats, floats):
            merged[i] = x
        return self.tree(merged)

    def float_leaves(self) -> list[tuple[str, tuple[int, ...], Any]]:
        return [(self.paths[i], np.shape(self.leaves[i]), self.leaves[i].dtype) for i in self.floats]


def _draws(args: Any, key: Array, owner: str) -> tuple[Any, Any]:
    if not callable(args):
        return args, None
    try:
        drawn: Any = args(key)
    except Exception as error:
        raise ValueError(f"{owner}: args is a function, and args(key) raises {in_one_line(error)}") from error
    if not isinstance(drawn, tuple | list):
        raise TypeError(
            f"{owner}: args(key) must return a tuple with one entry per argument, got {type(drawn).__name__}. For a "
            f"single argument return (x,)."
        )
    return tuple(drawn), args


def _redrawer(draw, names, owner):
    return None if draw is None else (lambda key: _Args(tuple(draw(key)), names, owner).leaves)


def _outputs(forward: Callable[..., Any], args: tuple[Any, ...], owner: str) -> tuple[list[Any], Any]:
    """Shapes of the leaves of the forward's output, and their tree.

    Raises:
        TypeError: the forward returns no float.
        ValueError: the forward raises.
    """
    try:
        out = jax.eval_shape(forward, *args)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"{owner}: the forward cannot be traced, so it cannot be differentiated: {first_line(error)} Write it "
            f"with jax.numpy, and with jnp.where or lax.cond in place of if."
        ) from error
    except Exception as error:
        raise ValueError(f"{owner}: the forward raises {in_one_line(error)}") from error
    leaves, treedef = jax.tree.flatten(out)
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        got = ", ".join(f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for leaf in leaves) or "nothing"
        raise TypeError(f"{owner}: the forward returns {got}; a gradient needs at least one float output.")
    return leaves, treedef


def _key(key: Array | None) -> Array:
    return jax.random.key(0) if key is None else key


def _check_options(owner: str, functions: dict[str, Any], key: Any, rtol: Any, atol: Any) -> None:
    """Raise for what is no function, no key or no tolerance."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{owner}: {name} must be a function, got {type(function).__name__}.")
    if key is not None and not hasattr(key, "dtype"):
        raise TypeError(f"{owner}: key must be a JAX key such as jax.random.key(0), got {type(key).__name__} {key!r}.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and (isinstance(value, bool | str) or not np.isscalar(value) or not np.isreal(value)):
            raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__} {value!r}.")
        if not (value is None or np.real(value) >= 0):
            raise ValueError(f"{owner}: {name} must not be negative, got {value}.")


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
    _check_options("verify.vjp", {"forward": forward, "rule": rule}, key, rtol, atol)
    values, draw = _draws(args, _key(key), "verify.vjp")
    check_arrays(values, "verify.vjp")
    names = argument_names(forward, len(values), names, "verify.vjp")
    return check(
        vjp_problem(forward, rule, values, cotangent, names, draw, "verify.vjp"),
        key=_key(key),
        rtol=rtol,
        atol=atol,
        diagnose=diagnose,
        seconds=seconds,
    )


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
    _check_options("verify.explain", {"forward": forward, "rule": rule}, key, None, None)
    values, draw = _draws(args, _key(key), "verify.explain")
    check_arrays(values, "verify.explain")
    names = argument_names(forward, len(values), names, "verify.explain")
    problem = vjp_problem(forward, rule, values, cotangent, names, draw, "verify.explain")
    return check(problem, key=_key(key), seconds=seconds, explain=True)


def vjp_problem(forward, rule, args, cotangent, names, draw, owner, subject="rule") -> Problem:
    """The flat problem of a reverse-mode rule."""
    flat = _Args(args, names, owner)
    if not flat.floats:
        reason = f"none of the arguments {', '.join(names)} is a float" if names else "there are no arguments"
        raise TypeError(f"{owner}: {reason}, so there is no gradient.")
    outs, out_tree = _outputs(forward, flat.args, owner)
    float_outs = [i for i, out in enumerate(outs) if jnp.issubdtype(out.dtype, jnp.inexact)]
    if cotangent is not None:
        seeds = _given_cotangent(cotangent, outs, out_tree, owner)
        seeds = [seeds[i] for i in float_outs]
    else:
        seeds = [np.ones(outs[i].shape, outs[i].dtype) for i in float_outs]

    def of_floats(primals: Any, forward: Callable[..., Any] = forward) -> tuple[references.Function, list[Any]]:
        def floats_only(*floats):
            out = jax.tree.leaves(forward(*flat.with_floats(primals, floats)))
            return [jnp.asarray(out[i]) for i in float_outs]

        return floats_only, [primals[i] for i in flat.floats]

    def reference(primals, seeds, forward=forward):
        function, floats = of_floats(primals, forward)
        values, pull_back = jax.vjp(function, *floats)
        gradients = pull_back([jnp.asarray(s).astype(v.dtype) for s, v in zip(seeds, values)])
        return [*gradients, *values]

    def values_of(primals):
        function, floats = of_floats(primals)
        return function(*floats)

    def shapes(primals):
        return [out.shape for out in jax.tree.leaves(jax.eval_shape(forward, *flat.tree(primals)))]

    def run_rule(primals, seeds):
        cotangents = [zero_cotangent(np.empty(shape)) for shape in (shapes(primals) if len(outs) > len(seeds) else ())]
        cotangents = cotangents or [None] * len(outs)
        for i, seed in zip(float_outs, seeds):
            cotangents[i] = seed
        arguments = flat.tree(primals)
        result = rule(arguments, out_tree.unflatten(cotangents))
        leaves = flatten_like(result, arguments, names, "the rule")
        return [leaves[i] for i in flat.floats]

    return Problem(
        primals=flat.leaves,
        seeds=seeds,
        reference=reference,
        rule=run_rule,
        primal_names=flat.paths,
        seed_names=["cotangent" if len(float_outs) == 1 else f"cotangent[{i}]" for i in float_outs],
        leaves=flat.float_leaves(),
        aliases=flat.aliases,
        draw=_redrawer(draw, names, owner),
        given_seeds=cotangent is not None,
        leaf_primal=flat.floats,
        seed_shapes=lambda primals: [shapes(primals)[i] for i in float_outs],
        numbered=lambda primals, seeds: reference(primals, seeds, _jaxpr.numbered(forward)),
        forward=values_of,
        by_columns=lambda primals, seeds: references.by_columns(*of_floats(primals), seeds),
        by_differences=lambda primals, seeds: references.by_differences(*of_floats(primals), seeds),
        subject=subject,
        cotangent_name=argument_names(rule, 2, None, owner)[1],
    )


def _given_cotangent(cotangent, outs, out_tree, owner):
    leaves, tree = jax.tree.flatten(cotangent)
    shapes = [np.shape(leaf) for leaf in leaves]
    wanted = [out.shape for out in outs]
    if tree != out_tree or shapes != wanted:
        raise ValueError(
            f"{owner}: the cotangent must have the tree and shapes of the forward's output: expected {out_tree} with "
            f"shapes {wanted}, got {tree} with shapes {shapes}."
        )
    return leaves


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
    _check_options("verify.gradient", {"f": f, "rule": rule}, key, rtol, atol)
    values, draw = _draws(args, _key(key), "verify.gradient")
    check_arrays(values, "verify.gradient")
    names = argument_names(f, len(values), names, "verify.gradient")
    outs, _ = _outputs(f, tuple(values), "verify.gradient")
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
    return check(problem, key=_key(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


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
    _check_options("verify.jvp", {"forward": forward, "rule": rule}, key, rtol, atol)
    values, draw = _draws(args, _key(key), "verify.jvp")
    check_arrays(values, "verify.jvp")
    names = argument_names(forward, len(values), names, "verify.jvp")
    problem = jvp_problem(forward, rule, values, names, draw, "verify.jvp")
    return check(problem, key=_key(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def jvp_problem(forward, rule, values, names, draw, owner) -> Problem:
    """The flat problem of a forward-mode rule."""
    flat = _Args(values, names, owner)
    if not flat.floats:
        raise TypeError(f"{owner}: none of the arguments {', '.join(names)} is a float, so there is no tangent.")
    outs, out_tree = _outputs(forward, flat.args, owner)
    float_outs = [i for i, out in enumerate(outs) if jnp.issubdtype(out.dtype, jnp.inexact)]

    def of_floats(primals: Any) -> tuple[references.Function, list[Any]]:
        def floats_only(*floats):
            out = jax.tree.leaves(forward(*flat.with_floats(primals, floats)))
            return [jnp.asarray(out[i]) for i in float_outs]

        return floats_only, [jnp.asarray(primals[i]) for i in flat.floats]

    def reference(primals, seeds):
        outputs, tangents = jax.jvp(*of_floats(primals), list(seeds))
        return [*tangents, *outputs]

    def run_rule(primals, seeds):
        tangents = flat.with_floats([zero_cotangent(x) for x in primals], seeds)
        result = rule(flat.tree(primals), tangents)
        leaves = flatten_like((result,), (out_tree.unflatten(outs),), ["out"], "the rule")
        return [leaves[i] for i in float_outs]

    paths, aliases = leaf_paths((out_tree.unflatten(outs),), ["out"])
    return Problem(
        primals=flat.leaves,
        seeds=[flat.leaves[i] for i in flat.floats],
        reference=reference,
        rule=run_rule,
        primal_names=flat.paths,
        seed_names=[f"tangent of {flat.paths[i]}" for i in flat.floats],
        seed_shapes=lambda primals: [np.shape(primals[i]) for i in flat.floats],
        leaves=[(paths[i], outs[i].shape, outs[i].dtype) for i in float_outs],
        aliases=aliases,
        draw=_redrawer(draw, names, owner),
        forward=lambda primals: [
            out for out in jax.tree.leaves(forward(*flat.tree(primals))) if jnp.issubdtype(out.dtype, jnp.inexact)
        ],
        by_differences=lambda primals, seeds: references.along_tangents(*of_floats(primals), seeds),
        subject="tangent rule",
        seed_word="tangent",
    )


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
    _check_options("verify.hessian_vector", {"f": f, "rule": rule}, key, rtol, atol)
    values, draw = _draws(args, _key(key), "verify.hessian_vector")
    check_arrays(values, "verify.hessian_vector")
    names = argument_names(f, len(values), names, "verify.hessian_vector")
    flat = _Args(values, names, "verify.hessian_vector")
    if not flat.floats:
        raise TypeError(f"verify.hessian_vector: none of the arguments {', '.join(names)} is a float.")
    outs, _ = _outputs(f, flat.args, "verify.hessian_vector")
    if len(outs) != 1 or outs[0].shape != ():
        raise ValueError("verify.hessian_vector: f must return one scalar.")

    def reference(primals, seeds):
        def scalar(*floats):
            return jax.tree.leaves(f(*flat.with_floats(primals, floats)))[0]

        floats = [jnp.asarray(primals[i]) for i in flat.floats]
        gradients = jax.grad(scalar, argnums=tuple(range(len(floats))))
        outputs, tangents = jax.jvp(gradients, floats, list(seeds))
        return [*tangents, *outputs]

    def run_rule(primals, seeds):
        vectors = flat.with_floats([zero_cotangent(x) for x in primals], seeds)
        arguments = flat.tree(primals)
        leaves = flatten_like(rule(arguments, vectors), arguments, names, "the rule")
        return [leaves[i] for i in flat.floats]

    problem = Problem(
        primals=flat.leaves,
        seeds=[flat.leaves[i] for i in flat.floats],
        reference=reference,
        rule=run_rule,
        primal_names=flat.paths,
        seed_names=[f"vector of {flat.paths[i]}" for i in flat.floats],
        seed_shapes=lambda primals: [np.shape(primals[i]) for i in flat.floats],
        leaves=flat.float_leaves(),
        aliases=flat.aliases,
        draw=_redrawer(draw, names, "verify.hessian_vector"),
        leaf_primal=flat.floats,
        subject="Hessian-vector rule",
        seed_word="vector",
    )
    return check(problem, key=_key(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


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
    _check_options("verify.custom_vjp", {"f": f, "reference": reference}, key, rtol, atol)
    values, draw = _draws(args, _key(key), "verify.custom_vjp")
    check_arrays(values, "verify.custom_vjp")
    names = argument_names(reference, len(values), names, "verify.custom_vjp")
    outs, tree = _outputs(reference, tuple(values), "verify.custom_vjp")
    own, own_tree = _outputs(f, tuple(values), "verify.custom_vjp")
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
        v for v in jax.tree.leaves(f(*_Args(values, names, "").tree(primals))) if is_float(v)
    ]
    return check(problem, key=_key(key), rtol=rtol, atol=atol, diagnose=diagnose, seconds=seconds)


def layer(layer: Any, params: Tree, x: Any, *, state: Tree = None, **options: Any) -> Report:
    """Check a triple `Layer(init, forward, backward)`: the gradients of params and of x.

    Args:
        layer: has `forward(params, x) -> (out, residuals)` and `backward(residuals, delta) -> (grads, delta_x)`.
        state: third argument of `forward`, for a layer that keeps one.
        options: as in `vjp`.

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

    return vjp(forward, rule, (params, x), **{"names": ("params", "x"), **options})


def assert_vjp(forward: Callable[..., Tree], rule: Callable[..., Any], args: Any, **options: Any) -> Report:
    """`vjp` for a test: fails with the text of the report; options as there.

    Raises:
        AssertionError: the rule is wrong; `Undecided`, which is one, where the check could not tell.
    """
    return required(vjp(forward, rule, args, **options))


def required(report: Report) -> Report:
    """The report of a rule that may be used.

    Raises:
        AssertionError: the rule is wrong, or undecided (`Undecided`).
    """
    if not report.ok:
        raise (Undecided if report.verdict == "undecided" else AssertionError)("\n" + str(report))
    return report


__all__ = ["assert_vjp", "custom_vjp", "gradient", "hessian_vector", "jvp", "layer", "vjp"]
