"""What every layer shares: `Params`, `Layer`, `Loss`, and how each is run and checked at a door.

A layer is three pure functions:

    init(key, x)                -> params              x: an example input, or its jax.ShapeDtypeStruct
    forward(params, x)          -> (out, residuals)
    backward(residuals, delta)  -> (grads, delta_x)

`jax.vjp(forward, params, x, has_aux=True)` and `jax.custom_vjp.defvjp(forward, backward)` take exactly this shape.
The combinators of `jaxbias.combinators` return a `Layer`, so a network is a layer.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.tree_util import register_static
from jaxtyping import Array
from typing_extensions import TypeVar

from jaxbias._doors import check_float, describe, function_name
from jaxbias.layouts import Layouts

Tree = Any
"""A pytree of arrays, or of what stands in the place of each array: a role, a label, a bool."""

SomeTree = TypeVar("SomeTree")
"""The type of a tree that comes out as it went in, as that of grads is the type of params."""

P = TypeVar("P", covariant=True, default=Any)
"""The type of the params of a `Layer`."""

SomeTuple = TypeVar("SomeTuple", bound=type)


def plain_at_runtime(generic: SomeTuple) -> SomeTuple:
    """A generic NamedTuple for type checkers, a plain one at runtime, where `Layer[Params]` is `Layer`.

    beartype, as of 0.22, refuses a generic NamedTuple in an annotation.
    """
    generic.__bases__ = (tuple,)
    generic.__orig_bases__ = (NamedTuple,)
    generic.__class_getitem__ = classmethod(lambda cls, _: cls)
    del generic.__parameters__
    return generic


class Params(NamedTuple):
    """What an affine layer learns. Without a bias, `bias` is None: an empty subtree, so there is no leaf."""

    weight: Array
    bias: Array | Any  # or None; `Array | None` would fit no tree of arrays as optax writes its type


class State(NamedTuple):
    """How a layer treats what is not learned (running statistics, dropout keys): the third argument of `forward`.

    Attributes:
        init: `(key, x) -> state` before the first step.
        step: `(state, residuals) -> state` of the next training step.
        inference: the layer to use when not training; same params, same state. None: this layer is that one already.
    """

    init: Callable[[Array, Any], Tree]
    step: Callable[[Tree, Tree], Tree]
    inference: "Layer | None"


@plain_at_runtime
class Layer(NamedTuple, Generic[P]):
    """Three pure functions, and what the tools need to look inside.

    Attributes:
        init: `(key, x) -> params`; x is an example input or its `jax.ShapeDtypeStruct`.
        forward: `(params, x) -> (out, residuals)`; `(params, x, state)` where `state` below is not None.
        backward: `(residuals, delta) -> (grads, delta_x)`; grads has the tree of params.
        name: type of the layer, for tables and error messages.
        parts: the layers a combinator is made of; empty for a leaf layer.
        rebuild: `(*parts) -> Layer`, the same combinator over other parts.
        state: how to treat what is not learned; None for a stateless layer.
        layouts: its arrays in other libraries, for `jaxbias.io`.
        convolves: whether XLA's convolution does its work: on CPU, autodiff of that crawls inside a compiled loop.
    """

    init: Callable[..., P]
    forward: Callable[..., tuple[Array, Tree]]
    backward: Callable[[Tree, Any], tuple[P, Any]]
    name: str = "layer"
    parts: tuple["Layer", ...] = ()
    rebuild: Callable[..., "Layer"] | None = None
    state: State | None = None
    layouts: Layouts = Layouts()
    convolves: bool = False


@runtime_checkable
class LossForward(Protocol):
    """`(out, targets) -> (loss, residuals)`; loss is a scalar in at least float32, or with "none" one per row."""

    def __call__(self, out: Any, targets: Any, /) -> tuple[Array, Tree]: ...


@runtime_checkable
class LossBackward(Protocol):
    """`residuals -> delta`, the first error signal ∂L/∂out (9), in the tree and the dtypes of out.

    Those of `jb.losses` take the cotangent of the loss as a second argument, 1 by default.
    """

    def __call__(self, residuals: Any, /) -> Any: ...


class ConfiguredLoss(NamedTuple):
    """A loss with its configuration bound, or a loss of your own; `name` is for tables and error messages."""

    forward: LossForward
    backward: LossBackward
    name: str = "loss"


@runtime_checkable
class Loss(Protocol):
    """What a loss can do: a module of `jb.losses` can, a `ConfiguredLoss` can, and so can any object with these two."""

    @property
    def forward(self) -> LossForward: ...

    @property
    def backward(self) -> LossBackward: ...

    if not TYPE_CHECKING:

        def __new__(cls, *fields, **named_fields):
            if cls is not Loss:
                return super().__new__(cls)
            warnings.warn("Loss(forward, backward, name) is now ConfiguredLoss.", DeprecationWarning, stacklevel=2)
            return ConfiguredLoss(*fields, **named_fields)


of_network = ConfiguredLoss(
    lambda out, _: (out, Static(out.dtype)), lambda residuals: jnp.ones((), residuals.value), "of_network"
)
"""The loss of a network that ends in its loss: its input is (x, targets), its output the loss itself.

`jb.layers.linear_cross_entropy.network` makes such a network; `value_and_grad`, `deltas`, `fit` and `sweep` hand it the
pair where they hand the loss the targets otherwise.
"""


def network_input(loss: Loss, x: Any, targets: Any) -> Any:
    """What the network gets under this loss: x, or (x, targets) where it ends in its loss."""
    return (x, targets) if loss is of_network else x


def objective(loss: Loss, out: Any, targets: Any, function: str) -> tuple[Array, Tree]:
    """`loss.forward`, which must give one number.

    Raises:
        ValueError: it gave more, as with reduction="none".
    """
    value, residuals = loss.forward(out, targets)
    if jnp.shape(value) != ():
        raise ValueError(
            f'{function}: the loss must be one number, got shape {jnp.shape(value)}, as reduction="none" gives. Take '
            f'"mean" or "sum", weigh rows with jb.losses.with_row_weight, or call loss.backward(residuals, delta) '
            f"with the cotangent of each row yourself."
        )
    return value, residuals


@register_static
@dataclass(frozen=True)
class Static:
    """A hashable value that residuals carry beside their arrays without being traced, such as a shape."""

    value: Any


# --- doors ------------------------------------------------------------------------------------------------------------


def weight_and_bias(
    params: Any, function: str, axes: tuple[str, ...] | None = None, bias_axes: int | None = 1
) -> tuple[Array, Array | None]:
    """The two leaves of `Params`, which must fit together: a broadcast bias would get a gradient of another shape.

    Args:
        axes: names of the axes of the weight, whose number is checked; None where the layer does that itself.
        bias_axes: how many of the last axes of the weight the bias has; None for all, 0 for a layer without a bias.

    Raises:
        TypeError: params is no `Params`, or a leaf is not a floating-point array.
        ValueError: a weight of another rank, or a bias of another shape.
    """
    if not isinstance(params, Params):
        raise TypeError(
            f"{function}: params must be jb.Params(weight, bias), got {describe(params)}. Make it with "
            f"layer.init(key, x), or write jb.Params(weight, bias) with None for no bias."
        )
    weight, bias = params
    check_float(weight, function, "weight")
    if axes is not None and len(weight.shape) != len(axes):
        swapped = bias is not None and len(getattr(bias, "shape", ())) == len(axes)
        raise ValueError(
            f"{function}: weight must have the axes ({', '.join(axes)}), got shape {weight.shape}."
            + (" Weight and bias are exchanged: the order is Params(weight, bias)." if swapped else "")
        )
    if bias is None:
        return weight, bias
    if bias_axes == 0:
        raise ValueError(
            f"{function}: this layer has no bias, got {describe(bias)} for it. Write jb.Params(weight, None)."
        )
    check_float(bias, function, "bias")
    wanted = weight.shape if bias_axes is None else weight.shape[len(weight.shape) - bias_axes :]
    if bias.shape != wanted:
        repeats = bias.size == 1
        raise ValueError(
            f"{function}: bias has shape {bias.shape}, but a weight of shape {weight.shape} wants a bias of shape "
            f"{wanted}. "
            + (
                f"Repeat it with jnp.broadcast_to(bias, {wanted})."
                if repeats
                else "Make params with layer.init(key, x)."
            )
        )
    return weight, bias


def as_layer(x: Any, function: str) -> Layer:
    """x, which must be a `Layer`; the error says how to make one of what came instead.

    Raises:
        TypeError: a module of layers or losses, a function, a list of layers, or anything else.
    """
    if isinstance(x, Layer):
        return x
    came = f"{function}: {describe(x)} is no layer"
    if isinstance(x, ModuleType) and hasattr(x, "layer"):
        raise TypeError(f"{came}: it makes them. Write {_call(x.layer)}.")
    if hasattr(x, "forward") and hasattr(x, "backward") and not hasattr(x, "init"):
        name = describe(x).rpartition(".")[2].rpartition(" ")[2]
        raise TypeError(f"{came}, but a loss, which comes after the network: jb.value_and_grad(network, {name}).")
    if isinstance(x, list | tuple) and x and all(isinstance(part, Layer) for part in x):
        raise TypeError(f"{came}, though its entries are. Write jb.chain(*layers).")
    if isinstance(x, type) or not callable(x):
        raise TypeError(f"{came}. A layer is what jb.layers.dense.layer(16), jb.layers.relu or jb.chain(...) returns.")
    if _returns(x) == "Layer":
        raise TypeError(f"{came}: it makes one. Call it: {_call(x)}.")
    name = getattr(x, "__name__", "")
    # by its dotted name, and only for these words: layers import this file
    if isinstance(getattr(import_module("jaxbias.layers"), name, None), Layer):
        raise TypeError(f"{came}: it has no backward. Write jb.layers.{name}.")
    raise TypeError(
        f"{came}: it has no backward. Write jb.layers.activations.elementwise(name, function, derivative), or "
        f"jb.Layer(init, forward, backward)."
    )


def as_loss(x: Any, function: str) -> Loss:
    """x, which must be a loss: anything with `forward(out, targets)` and `backward(residuals)`, but no layer.

    Raises:
        TypeError: anything else; the error says how to make a loss of it.
    """
    if hasattr(x, "forward") and hasattr(x, "backward") and not hasattr(x, "init"):
        return x
    came = f"{function}: {describe(x)} is no loss"
    if isinstance(x, str):
        raise TypeError(f"{came}, only its name. Write jb.losses.{x} if there is one of that name.")
    if isinstance(x, Layer) or (isinstance(x, ModuleType) and hasattr(x, "layer")):
        raise TypeError(f"{came}: layers belong into the network, and a loss such as jb.losses.cross_entropy ends it.")
    if callable(x) and _returns(x) in ("Loss", "ConfiguredLoss"):
        raise TypeError(f"{came}: it makes one. Call it: {_call(x)}.")
    raise TypeError(
        f"{came}. A loss has forward(out, targets) -> (loss, residuals) and backward(residuals) -> delta, as "
        f"jb.losses.cross_entropy has; make one with jb.losses.ConfiguredLoss(forward, backward)."
    )


def _returns(function: Callable[..., Any]) -> str:
    """Name of the return annotation, as far as there is one."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _call(function: Callable[..., Any]) -> str:
    """How to call it: its name with the arguments that have no default."""
    needed = [
        name for name, p in inspect.signature(function).parameters.items() if p.default is inspect.Parameter.empty
    ]
    return f"{function_name(function)}({', '.join(needed)})"


def run_forward(layer: Layer, params: Tree, x: Any, state: Tree = None) -> tuple[Any, Tree]:
    """`layer.forward`, handing over `state` only where the layer keeps one.

    Raises:
        ValueError: the layer keeps a state and none was given.
    """
    if layer.state is None:
        return layer.forward(params, x)
    if state is None:
        raise ValueError(
            f"{layer.name}: this layer keeps a state (running statistics or a dropout key) and got none. Pass "
            f"state=layer.state.init(key, x), or use jb.inference(layer) when not training."
        )
    return layer.forward(params, x, state)


def init_state(layer: Layer, key: Array, x: Any) -> Tree:
    """State before the first step; None for a stateless layer."""
    return None if layer.state is None else layer.state.init(key, x)


def step_state(layer: Layer, state: Tree, residuals: Tree) -> Tree:
    """State of the next training step; None for a stateless layer."""
    return None if layer.state is None else layer.state.step(state, residuals)


def inference(layer: Layer[P]) -> Layer[P]:
    """The same network when not training: dropout passes through, batch norm uses its running statistics.

    Raises:
        TypeError: the argument is no `Layer`.
    """
    as_layer(layer, "inference")
    return layer if layer.state is None or layer.state.inference is None else layer.state.inference


def out_shape(layer: Layer, params: Tree, x: Any, state: Tree = None) -> jax.ShapeDtypeStruct:
    """`jax.ShapeDtypeStruct` of the layer's output, without computing it."""
    return jax.eval_shape(lambda p, x, s: run_forward(layer, p, x, s)[0], params, x, state)


def map_layers(f: Callable[[Layer, tuple[str, ...]], Layer], network: Layer, path: tuple[str, ...] = ()) -> Layer:
    """Rebuild a network with `f(layer, path)` in the place of every leaf layer; path indexes into params."""
    if network.rebuild is None:
        return f(network, path)
    if network.name == "residual":  # its params are those of the layer inside
        return network.rebuild(map_layers(f, network.parts[0], path))
    return network.rebuild(*(map_layers(f, part, (*path, str(i))) for i, part in enumerate(network.parts)))
