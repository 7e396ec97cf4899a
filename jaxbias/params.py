"""What every layer shares: `Params`, `Layer`, and the combinators that turn layers into networks.

A layer is three pure functions:

    init(key, x)                -> params              x: an example input, or its jax.ShapeDtypeStruct
    forward(params, x)          -> (out, residuals)
    backward(residuals, delta)  -> (grads, delta_x)

`jax.vjp(forward, params, x, has_aux=True)` and `jax.custom_vjp.defvjp(forward, backward)` take exactly this shape.
The combinators `chain`, `residual` and `parallel` return a `Layer`, so a network is a layer. Their backward passes are
the delta recursion, equation (8) of the derivation sheet: each layer hands `delta_x` to the layer below.
"""

import inspect
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, overload, runtime_checkable

import jax
import jax.numpy as jnp
from jax.tree_util import register_static
from jaxtyping import Array
from typing_extensions import TypeVar

from jaxbias._doors import check_float, check_key, describe, function_name
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


# --- combinators ------------------------------------------------------------------------------------------------------


def split_keys(key: Array, layers: Sequence[Layer]) -> list[Array]:
    """One key per layer; `fold_in` is one compiled program for any number of layers, a `split` one for each number."""
    check_key(key, "init")
    return [jax.random.fold_in(key, i) for i in range(len(layers))]


def _states(name: str, layers: Sequence[Layer], state: Tree) -> Sequence[Tree]:
    if state is None:
        return (None,) * len(layers)
    _check_entries(name, "state", state, layers, "network.state.init(key, x)")
    return state


def _check_entries(name: str, argument: str, entries: Any, layers: Sequence[Layer], maker: str) -> None:
    """Raise a ValueError unless there is a tuple with one entry per layer; a Params is a tuple too, but of one layer.

    A list will not do: the grads are a tuple, and no optimizer takes params and grads of different trees.
    """
    if type(entries) is not tuple or len(entries) != len(layers):
        remedy = f"tuple({argument})" if type(entries) is list and len(entries) == len(layers) else maker
        raise ValueError(
            f"{name}.forward: {argument} must be a tuple with one entry for each of the {len(layers)} layers, got "
            f"{describe(entries)}. Make it with {remedy}."
        )


def combined_state(layers, rebuild, init, parts_of=lambda residuals: residuals) -> State | None:
    """State of `chain` and `parallel`: a tuple with the state of each part; None where no part keeps one."""
    if all(layer.state is None for layer in layers):
        return None

    def step(state, residuals):
        return tuple(step_state(layer, s, r) for layer, s, r in zip(layers, state, parts_of(residuals), strict=True))

    if all(inference(layer) is layer for layer in layers):
        return State(init, step, None)
    return State(init, step, rebuild(*(inference(layer) for layer in layers)))


# The params of up to eight layers are known one by one; those of a longer chain are a tuple. Its `| Any` is for mypy,
# which (as of 2.4) makes something unusable of `chain(*layers)` where all overloads return a NamedTuple.
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")


@overload
def chain(a: Layer[A], /) -> Layer[tuple[A]]: ...
@overload
def chain(a: Layer[A], b: Layer[B], /) -> Layer[tuple[A, B]]: ...
@overload
def chain(a: Layer[A], b: Layer[B], c: Layer[C], /) -> Layer[tuple[A, B, C]]: ...
@overload
def chain(a: Layer[A], b: Layer[B], c: Layer[C], d: Layer[D], /) -> Layer[tuple[A, B, C, D]]: ...
@overload
def chain(a: Layer[A], b: Layer[B], c: Layer[C], d: Layer[D], e: Layer[E], /) -> Layer[tuple[A, B, C, D, E]]: ...
@overload
def chain(
    a: Layer[A], b: Layer[B], c: Layer[C], d: Layer[D], e: Layer[E], f: Layer[F], /
) -> Layer[tuple[A, B, C, D, E, F]]: ...
@overload
def chain(
    a: Layer[A], b: Layer[B], c: Layer[C], d: Layer[D], e: Layer[E], f: Layer[F], g: Layer[G], /
) -> Layer[tuple[A, B, C, D, E, F, G]]: ...
@overload
def chain(
    a: Layer[A], b: Layer[B], c: Layer[C], d: Layer[D], e: Layer[E], f: Layer[F], g: Layer[G], h: Layer[H], /
) -> Layer[tuple[A, B, C, D, E, F, G, H]]: ...
@overload
def chain(
    a: Layer, b: Layer, c: Layer, d: Layer, e: Layer, f: Layer, g: Layer, h: Layer, i: Layer, /, *layers: Layer
) -> Layer[tuple[Any, ...]] | Any: ...
def chain(*layers: Layer) -> Layer:
    """Layers one after another; params, residuals and grads are tuples with one entry per layer.

    Forward     a⁰ = x,  aˡ = fˡ(aˡ⁻¹)
    Backward    δˡ⁻¹ = backwardˡ(δˡ), from the last layer to the first        (8)

    All deltas are computed with the weights of the forward pass; nothing is updated on the way (E23).

    Raises:
        TypeError: an argument is no `Layer`.
    """
    for layer in layers:
        as_layer(layer, "chain")

    def init(key, x):
        params = []
        for layer, layer_key in zip(layers, split_keys(key, layers)):
            params.append(layer.init(layer_key, x))
            x = out_shape(layer, params[-1], x, init_state(layer, layer_key, x))
        return tuple(params)

    def init_states(key, x):
        states = []
        for layer, layer_key in zip(layers, split_keys(key, layers)):
            states.append(init_state(layer, layer_key, x))
            x = out_shape(layer, jax.eval_shape(layer.init, layer_key, x), x, states[-1])
        return tuple(states)

    def forward(params, x, state=None):
        _check_entries("chain", "params", params, layers, "network.init(key, x)")
        residuals = []
        for layer, layer_params, layer_state in zip(layers, params, _states("chain", layers, state)):
            x, layer_residuals = run_forward(layer, layer_params, x, layer_state)
            residuals.append(layer_residuals)
        return x, tuple(residuals)

    def backward(residuals, delta):
        grads = []
        for layer, layer_residuals in zip(reversed(layers), reversed(residuals)):
            layer_grads, delta = layer.backward(layer_residuals, delta)
            grads.append(layer_grads)
        return tuple(reversed(grads)), delta

    state = combined_state(layers, chain, init_states)
    return Layer(init, forward, backward, "chain", layers, chain, state)


def residual(layer: Layer[P]) -> Layer[P]:
    """A layer with a skip connection; params are those of the layer inside.

    Forward     z = x + f(x)
    Backward    ∂L/∂x = δ + backward_f(δ): x reaches the loss on both ways, so its errors add up       (5)

    Raises:
        TypeError: the argument is no `Layer`.
    """
    as_layer(layer, "residual")

    def forward(params, x, state=None):
        out, residuals = run_forward(layer, params, x, state)
        if out.shape != x.shape:
            raise ValueError(
                f"residual.forward: the layer inside must keep the shape, got out {out.shape} for x {x.shape}."
            )
        return x + out, residuals

    def backward(residuals, delta):
        grads, delta_x = layer.backward(residuals, delta)
        return grads, delta + delta_x

    state = layer.state
    if state is not None and state.inference is not None:
        state = state._replace(inference=residual(state.inference))
    return Layer(layer.init, forward, backward, "residual", (layer,), residual, state)


def parallel(*layers: Layer, combine: str | Callable[..., Any] = "sum") -> Layer[tuple[Any, ...]]:
    """The same input through several layers, their outputs combined; params is a tuple with one entry per layer.

    Forward     z = Σᵢ fᵢ(x)            combine="sum"
                z = [f₁(x), f₂(x), …]   combine="concatenate", along the last axis
    Backward    δᵢ = δ, or its slice of the last axis;  ∂L/∂x = Σᵢ backwardᵢ(δᵢ)       (5)

    Args:
        combine: "sum" or "concatenate"; the functions `sum` and `jnp.concatenate` are taken by their name.

    Raises:
        TypeError: an argument is no `Layer`.
        ValueError: another `combine`, no layers, or outputs whose shapes do not fit together.
    """
    for layer in layers:
        as_layer(layer, "parallel")
    combine_name = getattr(combine, "__name__", combine)
    if combine_name not in ("sum", "concatenate"):
        raise ValueError(f'parallel: combine must be "sum" or "concatenate", got {combine!r}.')
    if not layers:
        raise ValueError("parallel: at least one layer is needed, got none.")

    def rebuild(*parts):
        return parallel(*parts, combine=combine)

    def init(key, x):
        return tuple(layer.init(k, x) for layer, k in zip(layers, split_keys(key, layers)))

    def init_states(key, x):
        return tuple(init_state(layer, k, x) for layer, k in zip(layers, split_keys(key, layers)))

    def forward(params, x, state=None):
        _check_entries("parallel", "params", params, layers, "network.init(key, x)")
        states = _states("parallel", layers, state)
        results = [run_forward(*arguments) for arguments in zip(layers, params, [x] * len(layers), states)]
        outs: tuple[Array, ...]
        outs, residuals = zip(*results)
        shared = [out.shape if combine_name == "sum" else out.shape[:-1] for out in outs]
        if any(shape != shared[0] for shape in shared):
            shapes = ", ".join(str(out.shape) for out in outs)
            raise ValueError(f'parallel.forward: combine="{combine_name}" cannot join outputs of shapes {shapes}.')
        if combine_name == "sum":
            return sum(outs[1:], start=outs[0]), residuals
        return jnp.concatenate(outs, axis=-1), tuple((r, Static(out.shape[-1])) for r, out in zip(residuals, outs))

    def backward(residuals, delta):
        if combine_name == "sum":
            deltas = [delta] * len(layers)
        else:
            residuals, widths = zip(*residuals)
            stops = list(itertools.accumulate(width.value for width in widths))
            if delta.shape[-1:] != (stops[-1],):  # of the other axes each layer sees to its own
                raise ValueError(
                    f"parallel.backward: delta has shape {delta.shape} but the concatenated outputs have {stops[-1]} "
                    f"features. Hand over the residuals and the delta of one forward pass."
                )
            deltas = jnp.split(delta, stops[:-1], axis=-1)
        grads, delta_xs = zip(*(layer.backward(r, d) for layer, r, d in zip(layers, residuals, deltas)))
        return grads, jax.tree.map(
            lambda *parts: sum(parts[1:], start=parts[0]), *delta_xs
        )  # x may be a pair, or integer

    def parts_of(residuals):
        return residuals if combine_name == "sum" else tuple(r for r, _ in residuals)

    state = combined_state(layers, rebuild, init_states, parts_of)
    return Layer(init, forward, backward, "parallel", layers, rebuild, state)
