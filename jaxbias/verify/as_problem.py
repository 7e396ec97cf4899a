"""Anyone's functions and trees as a flat `Problem`: what stands between the doors of the checker and `check`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbias._trees import first_line, in_one_line, is_float
from jaxbias.verify import references
from jaxbias.verify.problem import (
    Problem,
    argument_names,
    check_arrays,
    flatten_like,
    leaf_paths,
    zero_cotangent,
)


class Arguments:
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
    return None if draw is None else (lambda key: Arguments(tuple(draw(key)), names, owner).leaves)


def outputs(forward: Callable[..., Any], args: tuple[Any, ...], owner: str) -> tuple[list[Any], Any]:
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


def key_or_default(key: Array | None) -> Array:
    return jax.random.key(0) if key is None else key


def check_options(owner: str, functions: dict[str, Any], key: Any, rtol: Any, atol: Any) -> None:
    """Raise for what is no function, no key or no tolerance."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{owner}: {name} must be a function, got {type(function).__name__}.")
    if key is not None and not hasattr(key, "dtype"):
        raise TypeError(f"{owner}: key must be a JAX key such as jax.random.key(0), got {type(key).__name__} {key!r}.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and (isinstance(value, bool | str) or not np.isscalar(value) or not np.isreal(value)):
            raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__} {value!r}.")
        if not (value is None or 0 <= np.real(value) < np.inf):
            raise ValueError(f"{owner}: {name} must be finite and not negative, got {value}.")


def admit(
    owner: str,
    functions: dict[str, Any],
    args: Any,
    key: Array | None,
    names: Sequence[str] | None,
    rtol: float | int | None = None,
    atol: float | int | None = None,
    like: str = "forward",
) -> tuple[tuple[Any, ...], Any, list[str]]:
    """What every door does first: checks, then values of the arguments, how to draw others, and their names.

    Args:
        like: the function whose parameters name the arguments.
    """
    check_options(owner, functions, key, rtol, atol)
    values, draw = _draws(args, key_or_default(key), owner)
    check_arrays(values, owner)
    return values, draw, argument_names(functions[like], len(values), names, owner)


def vjp_problem(forward, rule, args, cotangent, names, draw, owner, subject="rule") -> Problem:
    """The flat problem of a reverse-mode rule."""
    flat = Arguments(args, names, owner)
    if not flat.floats:
        reason = f"none of the arguments {', '.join(names)} is a float" if names else "there are no arguments"
        raise TypeError(f"{owner}: {reason}, so there is no gradient.")
    outs, out_tree = outputs(forward, flat.args, owner)
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


def jvp_problem(forward, rule, values, names, draw, owner) -> Problem:
    """The flat problem of a forward-mode rule."""
    flat = Arguments(values, names, owner)
    if not flat.floats:
        raise TypeError(f"{owner}: none of the arguments {', '.join(names)} is a float, so there is no tangent.")
    outs, out_tree = outputs(forward, flat.args, owner)
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


def hessian_problem(f, rule, values, names, draw, owner) -> Problem:
    """The flat problem of a second-order rule."""
    flat = Arguments(values, names, owner)
    if not flat.floats:
        raise TypeError(f"{owner}: none of the arguments {', '.join(names)} is a float.")
    outs, _ = outputs(f, flat.args, owner)
    if len(outs) != 1 or outs[0].shape != ():
        raise ValueError(f"{owner}: f must return one scalar.")

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

    return Problem(
        primals=flat.leaves,
        seeds=[flat.leaves[i] for i in flat.floats],
        reference=reference,
        rule=run_rule,
        primal_names=flat.paths,
        seed_names=[f"vector of {flat.paths[i]}" for i in flat.floats],
        seed_shapes=lambda primals: [np.shape(primals[i]) for i in flat.floats],
        leaves=flat.float_leaves(),
        aliases=flat.aliases,
        draw=_redrawer(draw, names, owner),
        leaf_primal=flat.floats,
        subject="Hessian-vector rule",
        seed_word="vector",
    )
