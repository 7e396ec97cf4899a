"""Low-rank adapter of a dense layer: W plus s A C of rank r, with W usually frozen; on top of it DoRA's magnitudes.

params: base = Params(W (fan_in, fan_out), b), down = A (fan_in, r), up = C (r, fan_out), magnitude = μ (fan_out,) for
DoRA, else None. C is the matrix that is often called B; b is the bias. s = α/r, or α/√r with `rank_stabilised`.

Forward     z = x W + b + s (x A) C                                                                  (9.6.1)
Backward    ∂L/∂C = s (x A)ᵀ δ        ∂L/∂A = s xᵀ (δ Cᵀ)        ∂L/∂b = Σ δ        ∂L/∂W = xᵀ δ     (9.6.2)
            ∂L/∂x = δ Wᵀ + s (δ Cᵀ) Aᵀ                                                               (9.6.3)

DoRA        z = x W′ + b,  V = W + s A C,  n[o] = |V[:,o]|,  W′ = μ V/n
Backward, G = xᵀ δ = ∂L/∂W′:
            ∂L/∂μ[o] = Σ_i G V/n                                                                     (9.6.5)
            δV = (μ/n) (G − (V/n) ∂L/∂μ)      ∂L/∂W = δV      ∂L/∂A = s δV Cᵀ      ∂L/∂C = s Aᵀ δV   (9.6.6)
            ∂L/∂x = δ W′ᵀ,  ∂L/∂b = Σ δ

δ Cᵀ (n, r) comes first: A C is never formed but by DoRA and `merge`. C starts at 0, so the first step moves C alone.
(A, C) → (A Q, Q⁻¹ C) changes nothing: Aᵀ ∂L/∂A = ∂L/∂C Cᵀ (9.6.7). Every leaf gets its gradient; `trainable` says which
are to be used, and a compiled step does not compute the others.

    >>> network, params = lora.adapt(network, params, key, rank=4)              # every dense layer
    >>> jb.train.fit(network, loss, params, data, optimizer, trainable=lora.trainable(params, "lora_only"), ...)
    >>> network, params = lora.merge(network, params)                           # dense layers again

A bias that was trained belongs to the adapter: without it, A and C are not what was learned.

Source: E. Hu et al., LoRA (2022); D. Kalajdzievski, rsLoRA (2023); S.-Y. Liu et al., DoRA (2024); equations 9.6.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_number, check_size, describe
from jaxbias._numerics import matmul, product, rows, sum_over, widen
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer
from jaxbias.layers import dense
from jaxbias.layouts import Arrays, Layout, Layouts
from jaxbias.params import Layer, Params, Tree, as_layer, map_layers, weight_and_bias

BIASES = ("none", "lora_only", "all")


class LoraParams(NamedTuple):
    """The layer that is adapted, the two factors, and DoRA's magnitudes or None."""

    base: Params
    down: Array
    up: Array
    magnitude: Array | Any


class Residuals(NamedTuple):
    x: Float[Array, "*batch fan_in"]
    between: Float[Array, "*batch rank"] | None  # x A; DoRA has it not
    params: LoraParams


def init(
    key: Array,
    fan_in: int,
    fan_out: int,
    *,
    rank: int,
    dora: bool = False,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> LoraParams:
    """A dense layer's params with A, drawn LeCun normal, and C = 0: at first z is the dense layer's.

    Args:
        rank: r.
        dora: whether there are magnitudes; they start as the lengths of the columns of W.
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: of W and b; a function `(key, shape, dtype) -> array`, or its name in
            `jb.initializers.NAMES`.
        dtype: of all of them.
    """
    base = dense.init(
        key, fan_in, fan_out, use_bias=use_bias, weight_init=weight_init, bias_init=bias_init, dtype=dtype
    )
    return _around(base, jax.random.fold_in(key, 2), rank, dora)


def _around(base: Params, key: Array, rank: int, dora: bool) -> LoraParams:
    fan_in, fan_out = base.weight.shape
    down = initializers.lecun_normal(key, (fan_in, rank), base.weight.dtype)
    magnitude = _lengths(widen(base.weight)).astype(base.weight.dtype) if dora else None
    return LoraParams(base, down, jnp.zeros((rank, fan_out), base.weight.dtype), magnitude)


def forward(
    params: LoraParams, x: Float[Array, "*batch fan_in"], *, alpha: float = 1.0, rank_stabilised: bool = False
) -> tuple[Float[Array, "*batch fan_out"], Residuals]:
    """z = x W + b + s (x A) C, or with magnitudes x (μ V/n) + b.

    Args:
        alpha: α, any number; s = α/r.
        rank_stabilised: s = α/√r in its place, whose steps do not shrink as r grows.

    Raises:
        TypeError: x is not floating point, or params is no `LoraParams`.
        ValueError: shapes that do not fit together.
    """
    _check_params(params)
    (weight, bias), down, up, magnitude = params
    check_features(x, weight.shape[0], "lora.forward", f"weight has fan_in={weight.shape[0]}, shape {weight.shape}")
    s = _scale(params, alpha, rank_stabilised)
    if magnitude is None:
        between = matmul(x, down)
        z = (_wide_product(x, weight) + s * _wide_product(between, up)).astype(x.dtype)
    else:
        between, z = None, product(x, _normalised(params, s)[2])
    if bias is not None:
        z = z + jnp.broadcast_to(bias, z.shape)
    return z, Residuals(x, between, params)


def backward(
    residuals: Residuals, delta: Float[Array, "*batch fan_out"], *, alpha: float = 1.0, rank_stabilised: bool = False
) -> tuple[LoraParams, Float[Array, "*batch fan_in"]]:
    """Every leaf's gradient, that of a frozen W too, and ∂L/∂x; the keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    x, between, params = residuals
    (weight, bias), down, up, magnitude = params
    delta = check_delta(delta, (*x.shape[:-1], weight.shape[1]), "lora.backward")
    s = _scale(params, alpha, rank_stabilised)
    grad_bias = None if bias is None else sum_over(delta, tuple(range(delta.ndim - 1)))
    if between is None:
        return _backward_of_dora(x, delta, params, s, grad_bias)
    delta_between = matmul(delta, up.T)  # δ Cᵀ
    grads = LoraParams(
        base=Params(matmul(rows(x).T, rows(delta)), grad_bias),
        down=(s * _wide_product(rows(x).T, rows(delta_between))).astype(down.dtype),  # (9.6.2)
        up=(s * _wide_product(rows(between).T, rows(delta))).astype(up.dtype),
        magnitude=magnitude,
    )
    delta_x = _wide_product(delta, weight.T) + s * _wide_product(delta_between, down.T)  # (9.6.3)
    return grads, delta_x.astype(delta.dtype)


def _backward_of_dora(x: Array, delta: Array, params: LoraParams, s: float, grad_bias: Array | None):
    direction, length, used = _normalised(params, s)
    g = _wide_product(rows(x).T, rows(delta))
    grad_magnitude = (g * direction).sum(axis=0)  # (9.6.5)
    ratio = widen(params.magnitude) / length
    delta_v = ratio[None] * (g - direction * grad_magnitude[None])  # (9.6.6)
    grads = LoraParams(
        Params(delta_v, None), s * delta_v @ widen(params.up).T, s * widen(params.down).T @ delta_v, grad_magnitude
    )
    grads = jax.tree.map(lambda grad: grad.astype(delta.dtype), grads)
    return grads._replace(base=Params(grads.base.weight, grad_bias)), matmul(delta, used.T)


def _wide_product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=widen(a[:0]).dtype)


def _lengths(v: Array) -> Array:
    return jnp.sqrt(jnp.square(v).sum(axis=0))


def _normalised(params: LoraParams, s: float) -> tuple[Array, Array, Array]:
    """V/n and n in at least float32, and W′ = μ V/n in the dtype of W."""
    v = widen(params.base.weight) + s * widen(params.down) @ widen(params.up)
    length = _lengths(v)
    direction = v / length[None]
    return direction, length, (widen(params.magnitude)[None] * direction).astype(params.base.weight.dtype)


def _scale(params: LoraParams, alpha: float, rank_stabilised: bool) -> float:
    rank = params.down.shape[1]
    return alpha / (rank**0.5 if rank_stabilised else rank)


def _check_params(params: LoraParams) -> None:
    if not isinstance(params, LoraParams):
        raise TypeError(
            f"lora.forward: params must be LoraParams(base, down, up, magnitude), got {describe(params)}. Make it with "
            f"layer.init(key, x), or around a dense layer with lora.adapt."
        )
    weight, _ = weight_and_bias(params.base, "lora.forward (base)", ("fan_in", "fan_out"))
    check_float(params.down, "lora.forward", "down")
    check_float(params.up, "lora.forward", "up")
    rank = params.down.shape[-1]
    wanted = (weight.shape[0], rank), (rank, weight.shape[1]), (weight.shape[1],)
    got = params.down.shape, params.up.shape, wanted[2] if params.magnitude is None else params.magnitude.shape
    if got != wanted:
        raise ValueError(
            f"lora.forward: down, up and magnitude must have shapes {wanted} for a weight of shape {weight.shape}, got "
            f"{got}."
        )


# --- networks ---------------------------------------------------------------------------------------------------------


def trainable(params: Tree, biases: str = "none") -> Tree:
    """Which leaves of a network's params to train: the factors and magnitudes of adapters, and biases as asked.

    The tree of True and False that `jb.train.fit` takes as `trainable`.

    Args:
        params: of any network, with adapters in it.
        biases: "none"; "lora_only", those of adapted layers; "all", also those of every other layer.

    Raises:
        ValueError: another word, or params without an adapter.
    """
    if biases not in BIASES:
        raise ValueError(f"lora.trainable: biases must be one of {', '.join(BIASES)}, got {describe(biases)}.")
    layers = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, LoraParams))
    if not any(isinstance(layer_params, LoraParams) for layer_params in layers):
        raise ValueError("lora.trainable: there is no adapter in params. Put some in with lora.adapt.")

    def marked(node):
        if isinstance(node, LoraParams):
            return jax.tree.map(lambda _: True, node)._replace(base=only_bias(node.base, biases != "none"))
        if isinstance(node, Params):
            return only_bias(node, biases == "all")
        return False

    def only_bias(node, trained):
        frozen = jax.tree.map(lambda _: False, node)
        return frozen if node.bias is None else frozen._replace(bias=trained)

    return jax.tree.map(marked, params, is_leaf=lambda node: isinstance(node, LoraParams | Params))


def adapt(
    network: Layer,
    params: Tree,
    key: Array,
    *,
    rank: int,
    alpha: float = 1.0,
    rank_stabilised: bool = False,
    dora: bool = False,
) -> tuple[Layer, Tree]:
    """The network and its params with an adapter around every dense layer; at first it computes what it did.

    Args:
        network, params: of any network.
        key: for the factors A.
        rank, dora: as for `init`; alpha, rank_stabilised: as for `forward`.

    Raises:
        TypeError, ValueError: network is no `Layer` or has no dense layer; as `layer`.
    """
    as_layer(network, "lora.adapt")
    keywords: dict[str, Any] = {"rank": rank, "alpha": alpha, "rank_stabilised": rank_stabilised, "dora": dora}
    places: list[tuple[str, ...]] = []

    def adapted(part, path):
        if part.name != "dense":
            return part
        places.append(path)
        weight, bias = _at(params, path)
        return layer(weight.shape[1], **keywords, use_bias=bias is not None)

    new = map_layers(adapted, network)
    if not places:
        raise ValueError("lora.adapt: the network has no dense layer to adapt.")
    for i, path in enumerate(places):
        params = _replaced(params, path, _around(_at(params, path), jax.random.fold_in(key, i), rank, dora))
    return new, params


def merge(network: Layer, params: Tree) -> tuple[Layer, Tree]:
    """The network with a dense layer for every adapter, W′ = W + s A C or μ V/n, rounded once (9.6.4).

    Raises:
        TypeError, ValueError: network is no `Layer`, or has no adapter.
    """
    as_layer(network, "lora.merge")
    places: list[tuple[tuple[str, ...], float]] = []

    def merged(part, path):
        if part.name != "lora":
            return part
        adapted = _at(params, path)
        places.append((path, _scale(adapted, **part.forward.keywords)))
        return dense.layer(adapted.base.weight.shape[1], use_bias=adapted.base.bias is not None)

    new = map_layers(merged, network)
    if not places:
        raise ValueError("lora.merge: the network has no adapter. Put some in with lora.adapt.")
    for path, s in places:
        params = _replaced(params, path, _merged(_at(params, path), s))
    return new, params


def _merged(params: LoraParams, s: float) -> Params:
    weight, bias = params.base
    if params.magnitude is not None:
        return Params(_normalised(params, s)[2], bias)
    return Params((widen(weight) + s * widen(params.down) @ widen(params.up)).astype(weight.dtype), bias)


def _at(tree: Tree, path: tuple[str, ...]) -> Any:
    for step in path:
        tree = tree[int(step)]
    return tree


def _replaced(tree: Tree, path: tuple[str, ...], value: Any) -> Tree:
    if not path:
        return value
    i = int(path[0])
    return (*tree[:i], _replaced(tree[i], path[1:], value), *tree[i + 1 :])


_NAMES = {
    "base.weight": "base_layer.weight",
    "base.bias": "base_layer.bias",
    "down": "lora_A.default.weight",
    "up": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
}


def _renamed(names: dict[str, str], arrays: Arrays) -> Arrays:
    return {names[name]: array.T for name, array in arrays.items()}


# The names of the package peft, whose matrices are (out, in).
LAYOUTS = Layouts(
    pytorch=Layout(partial(_renamed, _NAMES), partial(_renamed, {there: here for here, there in _NAMES.items()}))
)


def layer(
    fan_out: int,
    *,
    rank: int,
    alpha: float = 1.0,
    rank_stabilised: bool = False,
    dora: bool = False,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Layer[LoraParams]:
    """A dense layer with an adapter of rank `rank`; fan_in and dtype are those of the input.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: fan_out or rank is no positive whole number, or alpha no number.
    """
    check_size(fan_out, "lora.layer", "fan_out")
    check_size(rank, "lora.layer", "rank")
    check_number(alpha, "lora.layer", "alpha")

    def init_for(key, x):
        check_float(x, "lora.init")
        return init(
            key,
            x.shape[-1],
            fan_out,
            rank=rank,
            dora=dora,
            use_bias=use_bias,
            weight_init=weight_init,
            bias_init=bias_init,
            dtype=x.dtype,
        )

    keywords = {"alpha": alpha, "rank_stabilised": rank_stabilised}
    return Layer(init_for, partial(forward, **keywords), partial(backward, **keywords), "lora", layouts=LAYOUTS)


DERIVATIONS = (
    Derivation(
        "lora",
        (
            r"z = x W + b + s\,(x A) C \quad \text{or} \quad x\,(\mu V / n) + b, \quad V = W + s A C",
            r"\partial L/\partial C = s\,(x A)^\top \delta",
            r"\partial L/\partial A = s\, x^\top (\delta C^\top)",
            r"\partial L/\partial W = x^\top \delta",
            r"\partial L/\partial b = \sum_n \delta",
            r"\partial L/\partial x = \delta W^\top + s\,(\delta C^\top) A^\top",
            r"\partial L/\partial \mu_o = \sum_i G V / n, \quad G = x^\top \delta \text{ (DoRA)}",
            r"\delta_V = (\mu/n)\,(G - (V/n)\, \partial L/\partial \mu) \text{ (DoRA)}",
        ),
        "Hu et al. (2022), Kalajdzievski (2023), Liu et al. (2024); equations 9.6",
        (
            Example("alpha over rank", layer(4, rank=2, alpha=3.0), (5, 3)),
            Example("DoRA, rank-stabilised", layer(4, rank=2, alpha=3.0, rank_stabilised=True, dora=True), (2, 3, 3)),
            Example("no bias, no rows", layer(4, rank=2, use_bias=False), (0, 3)),
        ),
        {
            "W": ("base.weight",),
            "b": ("base.bias",),
            "A": ("down",),
            "C": ("up",),
            r"\mu_o": ("magnitude",),
        },
    ),
)
