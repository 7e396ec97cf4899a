"""`chain`, `residual` and `parallel`: layers made of layers, so that a network is a layer.

Their backward passes are the delta recursion, equation (8) of the derivation sheet: each layer hands `delta_x` to the
layer below.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array
from typing_extensions import TypeVar

from jaxbias._doors import check_key, describe
from jaxbias.params import (
    Layer,
    P,
    State,
    Static,
    Tree,
    as_layer,
    inference,
    init_state,
    out_shape,
    run_forward,
    step_state,
)


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
