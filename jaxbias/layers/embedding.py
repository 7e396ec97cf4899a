"""Embedding: row `ids` of a table W (vocabulary, features), for integer ids of any shape; no bias.

Forward     z[n,j] = s W[ids[n], j]                     the product x W with one-hot rows x[n,v] = [ids[n] = v]   (2)
Backward, with the error signal δ = ∂L/∂z:
            ∂L/∂W[v,j] = Σ_{n: ids[n] = v} s δ[n,j]     xᵀ δ: δ is added up where an id repeats     (10), (9.12.3)
            ids are integers and have no gradient: delta_x is None

`tied` uses the table a second time, as the output layer over what the layers between have made of z, with a bias b:

Forward     z = h Wᵀ + b                  h = body(s W[ids])                                                  (9.12.1)
Backward    ∂L/∂b = Σ_n δ                 ∂L/∂h = δ W                                                         (9.12.2)
            ∂L/∂W = Σ_n δᵀ h + the lookup's part above: every row by the first, those looked up by both       (9.12.3)

A bias on h just before it duplicates b: c moves z as W c does, so ∂L/∂c = Wᵀ ∂L/∂b.

An id outside 0 … vocabulary − 1 is an error where its value is known; inside `jit`, where it is not, its row of z is
NaN and its δ is dropped. There is no wrapping of negative ids.
With a padding id, ∂L/∂W of that row is 0 whatever δ is, so the row keeps its value (zero from `init`) in training, the
part of a tied head included. This is the one place where the backward differs on purpose from the derivative of the
forward.

    >>> network = embedding.tied(dense.layer(8), 100, 8, scale=8**0.5)    # (n, time) ids to (n, time, 100) logits

Source: derivation sheet (2), (10), (9.12); the padding id as in torch.nn.Embedding; O. Press and L. Wolf, Using the
Output Embedding (2017); A. Vaswani et al. (2017) for the scale √features.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxbias._doors import check_delta, check_float, check_key, check_number, check_size, describe
from jaxbias._numerics import accumulation_dtype, matmul, product, rows, sum_over
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer, by_name, normal, zeros
from jaxbias.layers.activations import identity, tanh
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import (
    Layer,
    Params,
    State,
    Static,
    Tree,
    as_layer,
    inference,
    init_state,
    out_shape,
    run_forward,
    step_state,
    weight_and_bias,
)

STANDARD_NORMAL = normal(1.0)


class Residuals(NamedTuple):
    ids: Int[Array, "*batch"]
    table_shape: Static


def init(
    key: Array,
    vocabulary: int,
    features: int,
    *,
    padding_id: int | None = None,
    weight_init: Initializer = STANDARD_NORMAL,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (vocabulary, features), by default standard normal; the row of the padding id is zero. No bias.

    Args:
        padding_id: its row is zero.
        weight_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of the weight.
    """
    _check_padding_id("embedding.init", padding_id, vocabulary)
    weight = by_name(weight_init)(key, (vocabulary, features), dtype)
    return Params(weight if padding_id is None else weight.at[padding_id].set(0), None)


def forward(
    params: Params, x: Int[Array, "*batch"], *, scale: float = 1.0, padding_id: int | None = None
) -> tuple[Float[Array, "*batch features"], Residuals]:
    """z[n] = s W[ids[n]]; x holds the ids.

    Args:
        scale: s, any number; often √features, where the table is that of the output layer too.
        padding_id: its row gets no gradient.

    Raises:
        TypeError: x is not an integer array, or params is no `Params` with a floating-point weight.
        ValueError: an id, or the padding id, is outside 0 … vocabulary − 1; or params has a bias.
    """
    weight, _ = weight_and_bias(params, "embedding.forward", ("vocabulary", "features"), bias_axes=0)
    vocabulary = weight.shape[0]
    _check_ids(x)
    check_number(scale, "embedding.forward", "scale")
    _check_padding_id("embedding.forward", padding_id, vocabulary)
    if not isinstance(x, Tracer):  # inside jit the values are not known
        values = np.asarray(x)
        if values.size and (values.min() < 0 or values.max() >= vocabulary):
            raise ValueError(
                f"embedding.forward: ids must lie in 0 … {vocabulary - 1} for a weight of shape {weight.shape}, got "
                f"ids from {values.min()} to {values.max()}."
            )
    ids = jnp.where(x < 0, jnp.asarray(vocabulary, x.dtype), x)  # else −1 would be the last row
    z = scale * weight.at[ids].get(mode="fill", fill_value=jnp.nan)
    return z, Residuals(ids, Static(weight.shape))


def backward(
    residuals: Residuals, delta: Float[Array, "*batch features"], *, scale: float = 1.0, padding_id: int | None = None
) -> tuple[Params, None]:
    """∂L/∂W: s δ added up by id, in at least float32; None for the ids. The keywords are those of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    table_shape = residuals.table_shape.value
    delta = check_delta(delta, (*residuals.ids.shape, table_shape[1]), "embedding.backward")
    zero = jnp.zeros(table_shape, accumulation_dtype(delta.dtype))
    grad = _without_padding(_added_up(zero, residuals.ids, delta, scale), padding_id)
    return Params(grad.astype(delta.dtype), None), None


def _added_up(table: Array, ids: Array, delta: Array, scale: float) -> Array:
    """`table` with s δ added in the rows of the ids."""
    return table.at[ids].add(scale * delta.astype(table.dtype), mode="drop")


def _without_padding(grad: Array, padding_id: int | None) -> Array:
    return grad if padding_id is None else grad.at[padding_id].set(0)


def _check_ids(x) -> None:
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
        got = x.dtype if hasattr(x, "dtype") else describe(x)
        raise TypeError(
            f"embedding.forward: x must be an array of integer ids, got {got}. Convert it first, for example "
            f"jnp.asarray(x, jnp.int32)."
        )


def _check_padding_id(function: str, padding_id: int | None, vocabulary: int) -> None:
    if padding_id is not None:
        check_size(padding_id, function, "padding_id", least=0)
    if padding_id is not None and padding_id >= vocabulary:
        raise ValueError(f"{function}: padding_id must lie in 0 … {vocabulary - 1}, got {padding_id}.")


def _check_table(function: str, vocabulary: int, features: int, scale: float, padding_id: int | None) -> None:
    check_size(vocabulary, function, "vocabulary")
    check_size(features, function, "features")
    check_number(scale, function, "scale")
    _check_padding_id(function, padding_id, vocabulary)


LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)


def layer(
    vocabulary: int,
    features: int,
    *,
    scale: float = 1.0,
    padding_id: int | None = None,
    weight_init: Initializer = STANDARD_NORMAL,
    dtype: DTypeLike = jnp.float32,
) -> Layer[Params]:
    """An embedding of `vocabulary` ids in `features` numbers of `dtype`; the ids do not say which.

    `jb.roles` calls the table "embedding", so a weight decay behind `jb.no_decay` shrinks it. The same table added to
    tokens as a learned position, without a look-up by data, has the role "bias" and does not decay.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: vocabulary or features is no positive whole number, or the padding id is outside
            0 … vocabulary − 1.
    """
    _check_table("embedding.layer", vocabulary, features, scale, padding_id)

    def init_for(key, x):
        _check_ids(x)
        return init(key, vocabulary, features, padding_id=padding_id, weight_init=weight_init, dtype=dtype)

    keywords: dict[str, Any] = {"scale": scale, "padding_id": padding_id}
    return Layer(
        init_for,
        partial(forward, **keywords),
        partial(backward, **keywords),
        "embedding",
        layouts=LAYOUTS,
    )


# --- the table as output layer, too -----------------------------------------------------------------------------------


class TiedResiduals(NamedTuple):
    ids: Int[Array, "*batch"]
    weight: Float[Array, "vocabulary features"]
    h: Float[Array, "*batch features"]
    has_bias: Static
    body: Tree


def _table(vocabulary, features, scale, padding_id, use_bias, weight_init, bias_init, dtype) -> Layer[Params]:
    """The shared table with the bias of the output: a layer of two outputs, s W[ids] and h Wᵀ + b."""

    def init_for(key, x):
        check_key(key, "embedding.tied")
        weight = init(key, vocabulary, features, padding_id=padding_id, weight_init=weight_init, dtype=dtype).weight
        bias = by_name(bias_init)(jax.random.fold_in(key, 1), (vocabulary,), dtype) if use_bias else None
        return Params(weight, bias)

    def backward_of_both(residuals, deltas):
        ids, weight, h, has_bias, _ = residuals
        delta_lookup, delta = deltas
        wide = accumulation_dtype(delta.dtype)
        product = jnp.matmul(rows(delta).T, rows(h), preferred_element_type=wide)
        grad = _without_padding(_added_up(product, ids, delta_lookup, scale), padding_id)  # (9.12.3)
        grad_bias = sum_over(delta, tuple(range(delta.ndim - 1))).astype(weight.dtype) if has_bias.value else None
        return Params(grad.astype(weight.dtype), grad_bias), None

    def lookup(params, ids):
        return forward(Params(params.weight, None), ids, scale=scale, padding_id=padding_id)

    return Layer(init_for, lookup, backward_of_both, "embedding", layouts=LAYOUTS)


def _tied(table: Layer[Params], body: Layer) -> Layer[tuple[Params, Any]]:
    """The combinator of `tied`; params are those of the table and those of the body."""

    def lookup_of(key, x):
        params = jax.eval_shape(table.init, key, x)
        return params, out_shape(table, params, x)

    def init_for(key, x):
        _check_ids(x)
        return table.init(key, x), body.init(jax.random.fold_in(key, 2), lookup_of(key, x)[1])

    def forward_of_both(params, x, state=None):
        if type(params) is not tuple or len(params) != 2:
            raise ValueError(
                f"embedding.tied: params must be the pair (table, body), got {describe(params)}. Make it with "
                f"network.init(key, x)."
            )
        weight, bias = params[0]
        looked_up, (ids, _) = table.forward(params[0], x)
        h, body_residuals = run_forward(body, params[1], looked_up, state)
        check_float(h, "embedding.tied", "the body's output")
        if h.shape != looked_up.shape:
            raise ValueError(
                f"embedding.tied: the body must end in as many features as the table has, {weight.shape[1]}, and keep "
                f"the axes before, got {h.shape} for {looked_up.shape}."
            )
        z = product(h, weight.T)
        if bias is not None:
            z = z + jnp.broadcast_to(bias, z.shape)
        return z, TiedResiduals(ids, weight, h, Static(bias is not None), body_residuals)

    def backward_of_both(residuals, delta):
        weight = residuals.weight
        delta = check_delta(delta, (*residuals.h.shape[:-1], weight.shape[0]), "embedding.tied.backward")
        body_grads, delta_lookup = body.backward(residuals.body, matmul(delta, weight))  # (9.12.2)
        table_grads, _ = table.backward(residuals, (delta_lookup, delta))
        return (table_grads, body_grads), None

    state = None
    if body.state is not None:
        state = State(
            lambda key, x: init_state(body, key, lookup_of(key, x)[1]),
            lambda state, residuals: step_state(body, state, residuals.body),
            None if inference(body) is body else _tied(table, inference(body)),
        )
    return Layer(init_for, forward_of_both, backward_of_both, "tied", (table, body), _tied, state)


def tied(
    body: Layer,
    vocabulary: int,
    features: int,
    *,
    scale: float = 1.0,
    padding_id: int | None = None,
    use_bias: bool = True,
    weight_init: Initializer = STANDARD_NORMAL,
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Layer[tuple[Params, Any]]:
    """Ids to logits over the vocabulary, with one table for both ends: body(s W[ids]) Wᵀ + b.

    Params are the pair (table = Params(W, b), params of the body). Other keywords as for `layer`.

    Args:
        body: from (..., features) to (..., features); `jb.layers.identity` for none.
        use_bias: whether the output has a bias b (vocabulary,).
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`; for
            the bias for example `jb.initializers.log_prior(frequencies)`.

    Raises:
        TypeError: body is no `Layer`; TypeError, ValueError: as `layer`.
        ValueError (from forward): the body's output has another shape than its input.
    """
    as_layer(body, "embedding.tied")
    _check_table("embedding.tied", vocabulary, features, scale, padding_id)
    return _tied(_table(vocabulary, features, scale, padding_id, use_bias, weight_init, bias_init, dtype), body)


def _repeated_ids(*shape: int):
    return lambda key, dtype: jax.device_put(
        np.arange(np.prod(shape, dtype=np.int32), dtype=np.int32).reshape(shape) ** 2 % 5
    )


DERIVATIONS = (
    Derivation(
        "embedding",
        (
            r"z_{nj} = s W_{v_n j}",
            r"\partial L/\partial W_{vj} = \sum_{n:\,v_n = v} s\,\delta_{nj}",
            r"z = h W^\top + b \text{ (tied)}, \quad \delta_h = \delta W",
            r"\partial L/\partial W = \sum_n \delta^\top h + \text{ that of the table (tied)}",
            r"\partial L/\partial b = \sum_n \delta \text{ (tied)}",
        ),
        "equations (2), (10), 9.12; Press and Wolf (2017)",
        (
            Example("vector of ids", layer(6, 3), _repeated_ids(7)),
            Example("matrix of ids, scale", layer(6, 3, scale=3**0.5), _repeated_ids(2, 4)),
            Example("one id", layer(6, 3), _repeated_ids()),
            Example("no ids", layer(6, 3), _repeated_ids(0)),
            Example("padding id that does not occur", layer(6, 3, padding_id=2), _repeated_ids(7)),
            Example("tied", tied(tanh, 6, 3, scale=3**0.5), _repeated_ids(2, 4)),
            Example("tied, no bias, no ids", tied(identity, 6, 3, use_bias=False), _repeated_ids(0)),
        ),
        {"W_{vj}": ("*weight",), "W": ("0.weight",), "b": ("0.bias",)},
    ),
)
