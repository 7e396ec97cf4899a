"""Loss and gradients of a network, by the hand-derived backward passes or by autodiff."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, overload, runtime_checkable

import jax
from jaxtyping import Array

from jaxbias._meshes import summed_to, varying_axes
from jaxbias.params import (
    Layer,
    Loss,
    SomeTree,
    Static,
    Tree,
    as_layer,
    as_loss,
    map_layers,
    network_input,
    objective,
    run_forward,
    step_state,
)

HOW = ("delta", "autodiff")


@runtime_checkable
class ValueAndGrad(Protocol):
    """`(params, x, targets, state=None) -> (loss, grads)`: grads has the type of params."""

    def __call__(self, params: SomeTree, x: Any, targets: Any, state: Tree = None) -> tuple[Array, SomeTree]: ...


@runtime_checkable
class ValueAndGradWithAux(Protocol):
    """`(params, x, targets, state=None) -> ((loss, (out, state)), grads)`: grads has the type of params."""

    def __call__(
        self, params: SomeTree, x: Any, targets: Any, state: Tree = None
    ) -> tuple[tuple[Array, tuple[Array, Tree]], SomeTree]: ...


@overload
def value_and_grad(network: Layer, loss: Loss, how: str = ..., *, has_aux: Literal[False] = ...) -> ValueAndGrad: ...
@overload
def value_and_grad(network: Layer, loss: Loss, how: str = ..., *, has_aux: Literal[True]) -> ValueAndGradWithAux: ...
@overload
def value_and_grad(
    network: Layer, loss: Loss, how: str = ..., *, has_aux: bool
) -> ValueAndGrad | ValueAndGradWithAux: ...
def value_and_grad(
    network: Layer, loss: Loss, how: str = "delta", *, has_aux: bool = False
) -> ValueAndGrad | ValueAndGradWithAux:
    """Jit-compiled `(params, x, targets, state=None) -> (loss, grads)`.

    Args:
        network: any layer, so any network.
        loss: a module of `jb.losses`, or any `Loss`; `jb.losses.of_network` for a network that ends in its loss.
        how: "delta" runs the hand-derived backward passes, the recursion (8); "autodiff" differentiates the forward.
        has_aux: return `((loss, (out, state)), grads)` instead, with the network output and the state of the next
            training step (None for a stateless network).

    Raises:
        TypeError: network is no `Layer`, or loss no loss.
        ValueError: another `how`; when called, a loss of more than one number, as with reduction="none".
    """
    as_layer(network, "value_and_grad")
    as_loss(loss, "value_and_grad")
    if how not in HOW:
        raise ValueError(f'value_and_grad: how must be "delta" or "autodiff", got {how!r}.')

    def by_delta(params, x, targets, state=None):
        out, residuals = run_forward(network, params, network_input(loss, x, targets), state)
        value, loss_residuals = objective(loss, out, targets, "value_and_grad")
        grads, _ = network.backward(residuals, loss.backward(loss_residuals))
        aux = out, step_state(network, state, residuals)
        return ((value, aux) if has_aux else value), grads

    def forward_only(params, x, targets, state):
        out, residuals = run_forward(network, params, network_input(loss, x, targets), state)
        value, _ = objective(loss, out, targets, "value_and_grad")
        return value, (out, step_state(network, state, residuals))

    def by_autodiff(params, x, targets, state=None):
        (value, aux), grads = jax.value_and_grad(forward_only, has_aux=True)(params, x, targets, state)
        return ((value, aux) if has_aux else value), grads

    return jax.jit(by_delta if how == "delta" else by_autodiff)


def as_function(layer: Layer) -> Callable[..., Array]:
    """A plain `(params, x) -> out` whose custom_vjp is the hand-derived backward; `(params, x, state)` if stateful.

    Inside of a `shard_map` that checks it, gradients are summed over the devices that share params, as autodiff does.

    A custom_vjp has no forward mode: use `lambda params, x: layer.forward(params, x)[0]`, the plain forward, under
    `jax.jvp`, `jax.jacfwd` and `jax.hessian`.

    Raises:
        TypeError: the argument is no `Layer`.
    """
    as_layer(layer, "as_function")

    @jax.custom_vjp
    def function(params, x, *state):
        return run_forward(layer, params, x, *state)[0]

    def forward(params, x, *state):
        out, residuals = run_forward(layer, params, x, *state)
        types = Static(tuple(map(varying_axes, jax.tree.leaves((params, x)))))
        return out, (residuals, types, state)

    def backward(residuals, delta):
        layer_residuals, types, state = residuals
        cotangents = layer.backward(layer_residuals, delta)
        return *_typed(cotangents, types.value), *(None for _ in state)

    function.defvjp(forward, backward)
    return function


def _typed(cotangents: Tree, axes: tuple[frozenset[str], ...]) -> Tree:
    """Inside of a shard_map that checks it: summed over the devices that share what these are the cotangents of."""
    leaves, treedef = jax.tree.flatten(cotangents)
    if len(leaves) != len(axes):  # what has no cotangent, as integer inputs, is left out
        return cotangents
    return treedef.unflatten([summed_to(leaf, own) for leaf, own in zip(leaves, axes)])


def deltas(network: Layer, loss: Loss) -> Callable[..., dict[str, Array]]:
    """Jit-compiled `(params, x, targets, state=None) -> {path: delta}` with ∂L/∂(output) of every layer.

    For an affine layer this is the error signal δ = ∂L/∂z of equation (6), summed over nothing: under a mean over rows
    it carries the factor 1/n of the loss. The path is that of the layer in `params`, for example "0" or "2.1".

    Raises:
        TypeError: network is no `Layer`, or loss no loss.
    """
    as_layer(network, "deltas")
    as_loss(loss, "deltas")

    def tap(layer, path):
        def backward(residuals, delta):
            _, delta_x = layer.backward(residuals, delta)
            return {".".join(path): delta}, delta_x

        return layer._replace(backward=backward)

    tapped = map_layers(tap, network)

    def run(params, x, targets, state=None):
        out, residuals = run_forward(tapped, params, network_input(loss, x, targets), state)
        _, loss_residuals = objective(loss, out, targets, "deltas")
        tapped_deltas, _ = tapped.backward(residuals, loss.backward(loss_residuals))
        merged: dict[str, Array] = {}
        for part in jax.tree.leaves(tapped_deltas, is_leaf=lambda node: isinstance(node, dict)):
            merged.update(part)
        return merged

    return jax.jit(run)
