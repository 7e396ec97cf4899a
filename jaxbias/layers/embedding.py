"""Embedding: row `ids` of a table W (vocabulary, features), for integer ids of any shape; no bias.

Forward     z[n,j] = W[ids[n], j]                       the product x W with one-hot rows x[n,v] = [ids[n] = v]   (2)
Backward, with the error signal δ = ∂L/∂z:
            ∂L/∂W[v,j] = Σ_{n: ids[n] = v} δ[n,j]       xᵀ δ: δ is added up where an id repeats                   (10)
            ids are integers and have no gradient: delta_x is None

An id outside 0 … vocabulary − 1 is an error where its value is known; inside `jit`, where it is not, its row of z is
NaN and its δ is dropped. There is no wrapping of negative ids.
With a padding id, ∂L/∂W of that row is 0 whatever δ is, so the row keeps its value (zero from `init`) in training. This
is the one place where the backward differs on purpose from the derivative of the forward.

Source: derivation sheet (2) and (10); the padding id as in torch.nn.Embedding.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxbias._doors import check_delta, check_size, describe
from jaxbias._numerics import accumulation_dtype
from jaxbias.derivation import Derivation, Example
from jaxbias.initializers import Initializer, by_name, normal
from jaxbias.layouts import AS_HERE, Layouts
from jaxbias.params import Layer, Params, Static, weight_and_bias

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
    params: Params, x: Int[Array, "*batch"], *, padding_id: int | None = None
) -> tuple[Float[Array, "*batch features"], Residuals]:
    """z[n] = W[ids[n]]; x holds the ids.

    Args:
        padding_id: its row gets no gradient.

    Raises:
        TypeError: x is not an integer array, or params is no `Params` with a floating-point weight.
        ValueError: an id, or the padding id, is outside 0 … vocabulary − 1; or params has a bias.
    """
    weight, _ = weight_and_bias(params, "embedding.forward", ("vocabulary", "features"), bias_axes=0)
    vocabulary = weight.shape[0]
    _check_ids(x)
    _check_padding_id("embedding.forward", padding_id, vocabulary)
    if not isinstance(x, Tracer):  # inside jit the values are not known
        values = np.asarray(x)
        if values.size and (values.min() < 0 or values.max() >= vocabulary):
            raise ValueError(
                f"embedding.forward: ids must lie in 0 … {vocabulary - 1} for a weight of shape {weight.shape}, got "
                f"ids from {values.min()} to {values.max()}."
            )
    ids = jnp.where(x < 0, jnp.asarray(vocabulary, x.dtype), x)  # else −1 would be the last row
    z = weight.at[ids].get(mode="fill", fill_value=jnp.nan)
    return z, Residuals(ids, Static(weight.shape))


def backward(
    residuals: Residuals, delta: Float[Array, "*batch features"], *, padding_id: int | None = None
) -> tuple[Params, None]:
    """∂L/∂W: δ added up by id, in at least float32; None for the ids. The keyword is that of `forward`.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta has another shape than z.
    """
    table_shape = residuals.table_shape.value
    delta = check_delta(delta, (*residuals.ids.shape, table_shape[1]), "embedding.backward")
    zero = jnp.zeros(table_shape, accumulation_dtype(delta.dtype))
    grad = zero.at[residuals.ids].add(delta.astype(zero.dtype), mode="drop")
    if padding_id is not None:
        grad = grad.at[padding_id].set(0)
    return Params(grad.astype(delta.dtype), None), None


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


LAYOUTS = Layouts(pytorch=AS_HERE, keras=AS_HERE)


def layer(
    vocabulary: int,
    features: int,
    *,
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
    check_size(vocabulary, "embedding.layer", "vocabulary")
    check_size(features, "embedding.layer", "features")
    _check_padding_id("embedding.layer", padding_id, vocabulary)

    def init_for(key, x):
        _check_ids(x)
        return init(key, vocabulary, features, padding_id=padding_id, weight_init=weight_init, dtype=dtype)

    keywords = {"padding_id": padding_id}
    return Layer(
        init_for,
        partial(forward, **keywords),
        partial(backward, **keywords),
        "embedding",
        layouts=LAYOUTS,
    )


def _repeated_ids(*shape: int):
    return lambda key, dtype: jax.device_put(
        np.arange(np.prod(shape, dtype=np.int32), dtype=np.int32).reshape(shape) ** 2 % 5
    )


DERIVATIONS = (
    Derivation(
        "embedding",
        (r"z_{nj} = W_{v_n j}", r"\partial L/\partial W_{vj} = \sum_{n:\,v_n = v} \delta_{nj}"),
        "equations (2), (10)",
        (
            Example("vector of ids", layer(6, 3), _repeated_ids(7)),
            Example("matrix of ids", layer(6, 3), _repeated_ids(2, 4)),
            Example("one id", layer(6, 3), _repeated_ids()),
            Example("no ids", layer(6, 3), _repeated_ids(0)),
            Example("padding id that does not occur", layer(6, 3, padding_id=2), _repeated_ids(7)),
        ),
    ),
)
