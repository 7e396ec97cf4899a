"""What optax's optimizers ask for beyond grads and params, and what they are told.

`value`, `grad` and `value_fn` are optax's names for the loss, its gradient, and `params -> loss` on the same batch;
they go to every optimizer that takes extra arguments (L-BFGS and its line searches, Polyak steps, momo,
reduce_on_plateau).
`obj_fn` is sophia's name for value_fn, `grad_fn` that of sam for its gradient.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import jax
import optax
from jaxtyping import Array

from jaxbias.leaves import TRAIN, read_labels, with_frozen
from jaxbias.params import Tree


def prepared(optimizer: Any, function: str) -> optax.GradientTransformationExtraArgs:
    """The optimizer, taking extra arguments whether it uses them or not.

    Raises:
        TypeError: no optimizer of optax.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = _as_transformation(optimizer)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"{function}: optimizer must be an optax gradient transformation, got {optimizer!r}.")
    return _taking_what_it_names(optax.with_extra_args_support(optimizer))


def _as_transformation(steps: optax.MultiSteps) -> optax.GradientTransformationExtraArgs:
    """Its own `gradient_transformation` keeps extra arguments from the optimizer inside."""

    def update(updates, state, params=None, **asked):
        return steps.update(updates, cast(optax.MultiStepsState, state), params, **asked)

    return optax.GradientTransformationExtraArgs(steps.init, update)


def _taking_what_it_names(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """As it is, unless its update takes only arguments of certain names, as that of sam does (optax 0.2.8)."""
    parameters = inspect.signature(optimizer.update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return optimizer
    names = {parameter.name for parameter in parameters}

    def update(updates, state, params=None, **asked):
        return optimizer.update(updates, state, params, **{name: asked[name] for name in names & asked.keys()})

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


@contextmanager
def as_optax_computes() -> Iterator[None]:
    """Where optax's own arithmetic mixes dtypes and ranks, whatever the caller's settings forbid."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def masked(optimizer: optax.GradientTransformation, params: Tree, trainable: Tree) -> optax.GradientTransformation:
    """The optimizer on the trainable leaves alone.

    Raises:
        ValueError: nothing is trainable, or the params are those of lookahead, which must see all of them.
    """
    if trainable is None:
        return optimizer
    if isinstance(params, optax.LookaheadParams):
        raise ValueError(
            "fit: trainable cannot be told apart from outside of lookahead. Freeze inside of it: "
            "optax.lookahead(jb.with_frozen(optimizer, labels), ...)."
        )
    labels = read_labels(trainable, params, "fit")
    if TRAIN not in jax.tree.leaves(labels):
        raise ValueError("fit: trainable freezes every leaf, so there is nothing to train.")
    return with_frozen(optimizer, labels)


def trained(params: Tree) -> Tree:
    """The params that steps are taken from: the fast ones of lookahead."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def evaluated(params: Tree) -> Tree:
    """The params that the network is judged by: the slow ones of lookahead."""
    return params.slow if isinstance(params, optax.LookaheadParams) else params


_LINE_SEARCHES = (optax.ScaleByZoomLinesearchState, optax.ScaleByBacktrackingLinesearchState)


def extra_arguments(
    gradient: Callable[[Tree], tuple[Array, Tree]], params: Tree, value: Array, grads: Tree, opt_state: Tree
) -> dict[str, Any]:
    """What an optimizer may ask for on this batch; what it does not ask for is never traced.

    Args:
        gradient: `params -> (loss, grads)` on this batch.
        params: of this step; where an optimizer sees a part of them, as under `optax.partition`, the rest is theirs.
    """

    @jax.custom_vjp
    def loss(params):
        return gradient(params)[0]

    def pull_back(grads, delta):
        return (jax.tree.map(lambda grad: (delta * grad).astype(grad.dtype), grads),)

    loss.defvjp(gradient, pull_back)

    def whole(part):
        is_masked = lambda leaf: isinstance(leaf, optax.MaskedNode)
        return jax.tree.map(lambda leaf, own: own if is_masked(leaf) else leaf, part, params, is_leaf=is_masked)

    def value_fn(part, *_):
        return loss(whole(part))

    asked = {"value": value, "grad": grads, "value_fn": value_fn}
    searches = lambda node: isinstance(node, _LINE_SEARCHES)
    if any(map(searches, jax.tree.leaves(opt_state, is_leaf=searches))):
        return asked  # line searches hand all further arguments on to value_fn
    return asked | {"obj_fn": value_fn, "grad_fn": jax.grad(value_fn)}
