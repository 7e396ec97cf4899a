"""Dense layer and cross-entropy in one, for many classes: never all logits, whose loss is the output.

h (*batch, fan_in), n rows in all, labels y, weight W (fan_in, K), bias b (K,). With the softcap c (or none), label
smoothing ε and the weight ζ of the z-loss, and r = 1/n for the mean over the rows that count, 1 for their sum:

Forward     a = h W + 1 bᵀ            z = a, or c tanh(a/c)                                          (2), (9.1.2)
            ℓ = log Σ_k exp z_k       t = (1 − ε) onehot(y) + ε/K
            L = r Σ_n (ℓ − Σ_k t_k z_k + ζ ℓ²)                                                       (9.11.9)
Backward    δa = r ((1 + 2 ζ ℓ) p − t) ∘ z′,   p = exp(z − ℓ),   z′ = 1, or 1 − (z/c)²               (9), (9.1.10)
            ∂L/∂W = hᵀ δa      ∂L/∂b = δaᵀ 1      ∂L/∂h = δa Wᵀ                            (10), (14), (9.12.2)

δa depends on the cotangent of L, one number, by a factor alone. So the gradients are formed in forward, where a block
of logits is at hand, and are the residuals: the logits are computed once, three matrix products in all, and never more
than a block of rows of them is kept. Each block goes through the classes twice, chunk by chunk: for ℓ, and for δa. A
compiled program that uses the loss alone drops the gradients.

With a bias Σ_k ∂L/∂b = 0 unless there is a z-loss or a softcap: one constant on all logits changes nothing.

Kinks: none.

Source: derivation sheet (9.11.9), (9.12.1-2); z-loss: A. Chowdhery et al., PaLM (2022); the gradients in the
forward: P.-L. Hsu et al., Liger Kernel (2024).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jaxbias import initializers
from jaxbias._doors import check_delta, check_features, check_float, check_number, check_size, describe
from jaxbias._numerics import accumulation_dtype, rows, widen
from jaxbias.combinators import combined_state, split_keys
from jaxbias.derivation import Derivation, Example, generator, normal
from jaxbias.initializers import Initializer
from jaxbias.layouts import Layouts, of_weight
from jaxbias.losses._loss import is_valid, poison, read_labels, weigh_rows
from jaxbias.params import (
    Layer,
    Params,
    Static,
    as_layer,
    init_state,
    out_shape,
    run_forward,
    weight_and_bias,
)

BLOCK_ENTRIES = 2**23
"""Logits of a block of rows, 32 MiB in float32."""
CHUNK = 4096
"""Classes that are handled at once."""


class Residuals(NamedTuple):
    """The gradients for the cotangent 1, in at least float32, and the dtypes that they go back to."""

    weight: Float[Array, "fan_in k"]
    bias: Float[Array, " k"] | None
    h: Float[Array, "*batch fan_in"]
    dtypes: Static


class Options(NamedTuple):
    """What shapes z, t and L: static."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    ignore_label: int | None = None
    reduction: str = "mean"
    block_rows: int | None = None
    chunk: int = CHUNK


def init(
    key: Array,
    fan_in: int,
    classes: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Weight (fan_in, classes), by default LeCun normal, and bias (classes,), by default zero, as those of `dense`.

    Args:
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function `(key, shape, dtype) -> array`, or its name in `jb.initializers.NAMES`.
        dtype: of weight and bias.
    """
    return initializers.affine(
        key,
        (fan_in, classes),
        (classes,),
        dtype,
        use_bias=use_bias,
        weight_init=weight_init,
        bias_init=bias_init,
        layer="dense",
    )


def forward(
    params: Params,
    x: tuple[Float[Array, "*batch fan_in"], Integer[Array, "*batch"]],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    ignore_label: int | None = None,
    reduction: str = "mean",
    block_rows: int | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, ""], Residuals]:
    """L = r Σ_n (ℓ − Σ_k t_k z_k + ζ ℓ²), in nats, in at least float32.

    Args:
        x: the pair (h, labels): what the network makes of its input, and integers in [0, K), one per row.
        label_smoothing: ε in [0, 1]; the target becomes (1 − ε) onehot + ε/K.
        z_loss: ζ ≥ 0, 1e-4 as a rule: it keeps the logits from drifting, which the softmax does not see.
        softcap: c > 0, the bound of |z|; None for none.
        ignore_label: rows with this label count nothing: neither in L nor in the n of the mean.
        reduction: "mean" or "sum" over rows. Not "none": a cotangent per row would need the logits a second time; for
            that there are `dense` and `losses.cross_entropy`.
        block_rows: rows whose logits are kept at once; by default as many as make 32 MiB in float32.
        chunk: classes that are handled at once.

    Raises:
        TypeError: h is not floating point, or params is no `Params` of floating-point arrays.
        ValueError: x is no pair, shapes that do not fit, a label outside [0, K), or an option that makes no sense.
            Inside jit labels cannot be looked at: one outside [0, K) makes L and the gradients NaN.
    """
    options = Options(label_smoothing, z_loss, softcap, ignore_label, reduction, block_rows, chunk)
    check_options(options, "linear_cross_entropy.forward")
    weight, bias = weight_and_bias(params, "linear_cross_entropy.forward", ("fan_in", "classes"))
    h, labels = _pair(x, "linear_cross_entropy.forward")
    check_features(h, weight.shape[0], "linear_cross_entropy.forward", f"weight has fan_in={weight.shape[0]}")
    logits = jax.ShapeDtypeStruct((*h.shape[:-1], weight.shape[1]), h.dtype)
    labels = read_labels(logits, labels, "linear_cross_entropy.forward", ignore_label).reshape(-1)
    wide = accumulation_dtype(weight.dtype)
    r = _row_factors(labels, weight.shape[1], accumulation_dtype(h.dtype), options)

    blocks = _blocks(rows(h), labels, r, options.block_rows or max(1, BLOCK_ENTRIES // weight.shape[1]))
    start = (
        jnp.zeros((), accumulation_dtype(h.dtype)),
        jnp.zeros(weight.shape, wide),
        None if bias is None else jnp.zeros(bias.shape, wide),
    )
    step = partial(_add_block, weight, bias, options)
    (loss, grad_weight, grad_bias), grad_h = lax.scan(step, start, blocks)
    grad_h = grad_h.reshape(-1, h.shape[-1])[: len(labels)].reshape(h.shape)
    return loss, Residuals(grad_weight, grad_bias, grad_h, Static((weight.dtype, h.dtype)))


def backward(
    residuals: Residuals, delta: Float[Array, ""]
) -> tuple[Params, tuple[Float[Array, "*batch fan_in"], None]]:
    """(∂L/∂W, ∂L/∂b), (∂L/∂h, None): those for the cotangent 1, times the cotangent.

    Raises:
        TypeError: delta is not floating point.
        ValueError: delta is not one number.
    """
    delta = check_delta(delta, (), "linear_cross_entropy.backward")
    of_params, of_h = residuals.dtypes.value
    scaled = lambda grad, dtype: (grad * delta.astype(grad.dtype)).astype(dtype)
    bias = None if residuals.bias is None else scaled(residuals.bias, of_params)
    return Params(scaled(residuals.weight, of_params), bias), (scaled(residuals.h, of_h), None)


# --- a block of rows --------------------------------------------------------------------------------------------------


def _add_block(weight, bias, options, sums, block):
    """Loss and gradients of one block of rows, added to those of the blocks before it; and its own ∂L/∂h."""
    loss, grad_weight, grad_bias = sums
    h, labels, r = block
    z, log_total, mean = _logits(weight, bias, h, options)
    label_logit = jnp.take_along_axis(z, jnp.clip(labels, 0, z.shape[1] - 1)[:, None], axis=1)[:, 0]
    score = (1 - options.label_smoothing) * label_logit
    if options.label_smoothing:
        score = score + options.label_smoothing * mean
    per_row = log_total - score + options.z_loss * log_total**2
    loss = loss + jnp.where(r == 0, 0, r * per_row).sum()

    # L has seen z; that its gradients are formed beside it is nothing to differentiate
    weight, h, z, log_total = lax.stop_gradient((weight, widen(h), z, log_total))
    columns = partial(_columns, z.shape[1], options.chunk)

    def add_chunk(i, sums):
        grad_weight, grad_bias, grad_h = sums
        at, fresh = columns(i)
        delta = _error_signal(_slice(z, at, fresh, 1), log_total, labels, r, at, z.shape[1], options)
        delta = jnp.where((r == 0)[:, None] | ~fresh[None, :], 0, delta)  # an ignored row may hold NaN
        grad_weight = _add_slice(grad_weight, h.T @ delta, at, 1)
        if grad_bias is not None:
            grad_bias = _add_slice(grad_bias, delta.sum(axis=0), at, 0)
        return grad_weight, grad_bias, grad_h + delta @ widen(_slice(weight, at, fresh, 1)).T

    chunks = -(-z.shape[1] // options.chunk)
    grad_weight, grad_bias, grad_h = lax.fori_loop(0, chunks, add_chunk, (grad_weight, grad_bias, jnp.zeros_like(h)))
    return (loss, grad_weight, grad_bias), grad_h


def _logits(weight, bias, h, options):
    """z of all classes, ℓ, and the mean of z: the maximum and the sum of exponentials go along from chunk to chunk."""
    classes, wide = weight.shape[1], accumulation_dtype(h.dtype)

    def add_chunk(i, carry):
        z, maximum, total, sum_z = carry
        at, fresh = _columns(classes, options.chunk, i)
        a = jnp.matmul(h, _slice(weight, at, fresh, 1), preferred_element_type=wide)
        if bias is not None:
            a = a + widen(_slice(bias, at, fresh, 0))[None, :]
        part = a if options.softcap is None else options.softcap * jnp.tanh(a / options.softcap)
        z = lax.dynamic_update_slice_in_dim(z, part, at, 1)
        counted = jnp.where(fresh[None, :], part, -jnp.inf)
        # the shift cancels in ℓ, and so does its derivative
        higher = jnp.maximum(maximum, lax.stop_gradient(counted).max(axis=1))
        total = total * jnp.exp(maximum - higher) + jnp.exp(counted - higher[:, None]).sum(axis=1)
        return z, higher, total, sum_z + jnp.where(fresh[None, :], part, 0).sum(axis=1)

    lowest = jnp.full(len(h), jnp.finfo(wide).min, wide)
    start = jnp.zeros((len(h), classes), wide), lowest, jnp.zeros_like(lowest), jnp.zeros_like(lowest)
    z, maximum, total, sum_z = lax.fori_loop(0, -(-classes // options.chunk), add_chunk, start)
    return z, maximum + jnp.log(total), sum_z / classes


def _error_signal(z, log_total, labels, r, at, classes, options):
    """δa = r ((1 + 2 ζ ℓ) p − t) ∘ z′ of the classes from `at` on."""
    of_others = options.label_smoothing / classes
    is_label = lax.broadcasted_iota(labels.dtype, z.shape, 1) + jnp.asarray(at, labels.dtype) == labels[:, None]
    target = jnp.where(is_label, 1 - options.label_smoothing + of_others, of_others)
    p = jnp.exp(z - log_total[:, None])
    delta = r[:, None] * ((1 + 2 * options.z_loss * log_total)[:, None] * p - target)
    return delta if options.softcap is None else delta * (1 - (z / options.softcap) ** 2)


def _columns(classes, chunk, i):
    """Where the i-th chunk of classes begins, and which of its columns the chunk before it has not had.

    All chunks are of one length, so the last one begins earlier where the length does not divide the classes.
    """
    length = min(chunk, classes)
    at = jnp.minimum(i * length, classes - length)
    return at, at + jnp.arange(length) >= i * length


def _slice(array, at, fresh, axis):
    return lax.dynamic_slice_in_dim(array, at, len(fresh), axis)


def _add_slice(array, part, at, axis):
    before = lax.dynamic_slice_in_dim(array, at, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(array, before + part.astype(array.dtype), at, axis)


def _row_factors(labels, classes, dtype, options):
    """r of each row: 0 for ignored ones, NaN for a label outside [0, K)."""
    per_row = jnp.zeros(labels.shape, dtype)
    counts = None if options.ignore_label is None else labels != options.ignore_label
    weighed = weigh_rows(per_row, options.reduction, None, "linear_cross_entropy.forward", counts=counts)
    return poison(weighed, per_row, is_valid(labels, classes)).factor


def _blocks(h, labels, r, block_rows):
    """Rows in blocks of one length; the last one is filled up with rows that count nothing."""
    block_rows = min(block_rows, max(len(h), 1))
    missing = -len(h) % block_rows

    def in_blocks(array):
        padded = jnp.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)))
        return padded.reshape(-1, block_rows, *array.shape[1:])

    return in_blocks(h), in_blocks(labels), in_blocks(r)


# --- doors ------------------------------------------------------------------------------------------------------------


def _pair(x: Any, function: str) -> Any:
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(f"{function}: x must be a pair (h, labels) of arrays, got {describe(x)}.")
    if not hasattr(x[1], "dtype") or not jnp.issubdtype(x[1].dtype, jnp.integer):
        raise TypeError(f"{function}: labels must be integers, got {describe(x[1])}. Dense targets need dense layers.")
    return x


def check_options(options: Options, function: str) -> None:
    """Raise unless every option makes sense.

    Raises:
        TypeError: one of the wrong kind.
        ValueError: one outside its range.
    """
    label_smoothing, z_loss, softcap, ignore_label, reduction, block_rows, chunk = options
    check_number(label_smoothing, function, "label_smoothing")
    check_number(z_loss, function, "z_loss")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{function}: label_smoothing must lie in [0, 1], got {label_smoothing}.")
    if not z_loss >= 0:
        raise ValueError(f"{function}: z_loss must be at least 0, got {z_loss}.")
    if softcap is not None:
        check_number(softcap, function, "softcap")
        if not softcap > 0:
            raise ValueError(f"{function}: softcap must be positive, or None for no bound, got {softcap}.")
    if ignore_label is not None and not isinstance(ignore_label, int):
        raise ValueError(f"{function}: ignore_label must be an int or None, got {ignore_label!r}.")
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f'{function}: reduction must be "mean" or "sum" over rows, got {reduction!r}. A loss per row is what '
            f"layers.dense and losses.cross_entropy give."
        )
    if block_rows is not None:
        check_size(block_rows, function, "block_rows")
    check_size(chunk, function, "chunk")


LAYOUTS = Layouts(pytorch=of_weight(np.transpose, np.transpose))  # a Linear: weight (out, in)


def layer(
    classes: int,
    *,
    use_bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    ignore_label: int | None = None,
    reduction: str = "mean",
    block_rows: int | None = None,
    chunk: int = CHUNK,
) -> Layer[Params]:
    """The layer whose input is (h, labels) and whose output is the loss; `network` puts it behind others.

    Keywords as for `init` and `forward`.

    Raises:
        TypeError, ValueError: classes is no positive whole number, or an option that makes no sense.
    """
    check_size(classes, "linear_cross_entropy.layer", "classes")
    options = Options(label_smoothing, z_loss, softcap, ignore_label, reduction, block_rows, chunk)
    check_options(options, "linear_cross_entropy.layer")

    def init_for(key, x):
        h, _ = _pair(x, "linear_cross_entropy.init")
        check_float(h, "linear_cross_entropy.init", "h")
        keywords = {"use_bias": use_bias, "weight_init": weight_init, "bias_init": bias_init, "dtype": h.dtype}
        return init(key, h.shape[-1], classes, **keywords)

    bound = partial(forward, **options._asdict())
    return Layer(init_for, bound, backward, "linear_cross_entropy", layouts=LAYOUTS)


def network(trunk: Layer, head: Layer) -> Layer[tuple[Any, Any]]:
    """A network that ends in its loss: its input is (x, labels), its params (trunk's, head's), its output the loss.

        network = linear_cross_entropy.network(jb.chain(...), linear_cross_entropy.layer(32_768))
        params = network.init(key, (x, labels))
        loss, grads = jb.value_and_grad(network, jb.losses.of_network)(params, x, labels)

    `jb.train.fit(network, jb.losses.of_network, params, (x, labels), ...)` trains it.

    Forward     L = head(trunk(x), labels)
    Backward    the head's ∂L/∂h is the trunk's δ       (8)

    Args:
        trunk: any network, from x to h.
        head: what `layer` returns.

    Raises:
        TypeError: trunk or head is no `Layer`.
    """
    parts = as_layer(trunk, "linear_cross_entropy.network"), as_layer(head, "linear_cross_entropy.network")

    def init_part(key, x, make):
        """What `make` gives for both, trunk first."""
        trunk_key, head_key = split_keys(key, parts)
        first = trunk.init(trunk_key, x[0])
        h = out_shape(trunk, first, x[0], init_state(trunk, trunk_key, x[0]))
        return make(trunk, trunk_key, x[0]), make(head, head_key, (h, x[1]))

    def init_both(key, x):
        return init_part(key, _with_labels(x, "init"), lambda part, key, x: part.init(key, x))

    def init_states(key, x):
        return init_part(key, _with_labels(x, "init"), init_state)

    def forward_both(params, x, state=None):
        x, labels = _with_labels(x, "forward")
        h, below = run_forward(trunk, params[0], x, None if state is None else state[0])
        loss, above = run_forward(head, params[1], (h, labels), None if state is None else state[1])
        return loss, (below, above)

    def backward_both(residuals, delta):
        head_grads, (delta_h, _) = head.backward(residuals[1], delta)
        trunk_grads, delta_x = trunk.backward(residuals[0], delta_h)
        return (trunk_grads, head_grads), (delta_x, None)

    state = combined_state(parts, network, init_states)
    return Layer(init_both, forward_both, backward_both, "linear_cross_entropy.network", parts, network, state)


def _with_labels(x: Any, step: str) -> Any:
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(
            f"linear_cross_entropy.network.{step}: x must be a pair (x, labels), got {describe(x)}. value_and_grad and "
            f"fit make it of x and targets where the loss is jb.losses.of_network."
        )
    return x


# --- derivation -------------------------------------------------------------------------------------------------------


def _drawn(*leading: int, fan_in: int = 3, classes: int = 7, ignored: int | None = None):
    def draw(key, dtype):
        keys = jax.random.split(key)
        labels = generator(keys[1]).integers(classes, size=leading, dtype=np.int32)
        if ignored is not None:
            labels.reshape(-1)[1::2] = ignored
        return normal(keys[0], (*leading, fan_in), dtype), jax.device_put(labels)

    return draw


DERIVATIONS = (
    Derivation(
        "linear_cross_entropy",
        (
            r"L = \frac{1}{n} \sum_n \ell_n - \sum_k t_{nk} z_{nk} + \zeta \ell_n^2, \quad \ell = \log \sum_k e^{z_k}",
            r"z = c \tanh(a/c), \quad a = h W + \mathbf{1} b^\top",
            r"\delta_a = \frac{1}{n} \big((1 + 2 \zeta \ell)\, p - t\big) \circ (1 - z^2/c^2)",
            r"\partial L/\partial W = h^\top \delta_a",
            r"\partial L/\partial b = \delta_a^\top \mathbf{1}",
            r"\partial L/\partial h = \delta_a W^\top",
        ),
        "equations (2), (9), (10), (14); derivation sheet 9.11, 9.12",
        (
            Example("plain", layer(7), _drawn(5)),
            Example(
                "blocks, smoothing, z-loss, softcap, ignored rows",
                layer(7, label_smoothing=0.2, z_loss=0.1, softcap=2.0, ignore_label=-1, block_rows=2, chunk=3),
                _drawn(5, ignored=-1),
            ),
            Example("no bias, two leading axes, sum", layer(7, use_bias=False, reduction="sum", chunk=4), _drawn(2, 3)),
            Example("no rows", layer(7), _drawn(0)),
        ),
        {"h": ("x.0",)},
    ),
)
