"""Changes to weights and biases that keep, or knowingly change, what a network computes; each measures what it changed.

Every function takes the user's own `fn(params, *args)` and returns `(params, change)`: new params, and the largest
change of any output entry on `args`, relative to the largest output. Leaves are named by their path in dots
("params.Dense_0.kernel"), as `jb.contacts` prints them.

    one layer           fold_batch_norm, fold_value_bias, drop_bias, add_bias, shift_prior, correct_bias
    a whole model       fold_batch_norms, fold_value_biases, drop_biases, add_biases, center, fix_gauge
    what could be done  batch_norms, redundant_biases
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbias._doors import check_float, check_number, describe
from jaxbias.foreign._measured import Surgery as Surgery
from jaxbias.foreign._measured import get_leaf as get_leaf
from jaxbias.foreign._measured import measured as _done
from jaxbias.foreign._measured import output_change as output_change
from jaxbias.foreign._measured import relative_change as _change
from jaxbias.foreign._measured import set_leaves as set_leaves
from jaxbias.foreign.contact import contacts
from jaxbias.foreign.norms import NormPair as NormPair
from jaxbias.foreign.norms import batch_norms as batch_norms
from jaxbias.foreign.norms import fold_batch_norms as fold_batch_norms
from jaxbias.foreign.redundant import Redundant as Redundant
from jaxbias.foreign.redundant import parts_of
from jaxbias.foreign.redundant import redundant_biases as redundant_biases
from jaxbias.foreign.traced import check_function
from jaxbias.foreign.uses import trace_uses
from jaxbias.foreign.whole import add_biases as add_biases
from jaxbias.foreign.whole import center as center
from jaxbias.foreign.whole import drop_biases as drop_biases
from jaxbias.foreign.whole import fold_value_biases as fold_value_biases


def _check_finite(function: str, name: str, x: Array) -> None:
    check_float(x, function, name)
    if not bool(jnp.all(jnp.isfinite(x))):
        raise ValueError(
            f"{function}: {name} has entries that are not finite. Hand the params of a run that converged."
        )


def _check_same(function: str, name: str, x: Array, wanted: int, of: str) -> None:
    if x.shape != (wanted,):
        raise ValueError(f"{function}: {name} has shape {x.shape}, but {of} wants ({wanted},).")


# --- batch norm -------------------------------------------------------------------------------------------------------


def fold_batch_norm(
    weight: Float[Array, "*axes"],
    bias: Float[Array, " _"] | None,
    scale: Float[Array, " _"],
    shift: Float[Array, " _"],
    mean: Float[Array, " _"],
    variance: Float[Array, " _"],
    *,
    epsilon: float,
    x: Any = None,
    layer: Callable[..., Array] | None = None,
) -> Surgery:
    """Weight and bias of the one layer that equals an affine layer followed by batch norm with running statistics.

        γ (a·W + b − μ)/√(σ² + ε) + β  =  a·W′ + b′,     W′ = W γ/√(σ² + ε),   b′ = (b − μ) γ/√(σ² + ε) + β

    `fold_batch_norms` does it for a whole model, without names and layouts.

    Args:
        weight: of any layout, with one axis of outputs. bias: (out,), or None for 0.
        scale, shift: γ and β. mean, variance: running μ and σ². epsilon: that of the batch norm.
        layer: `(weight, bias, x) -> z`, the affine layer as it is in use: the axis of the outputs is read from it, and
            the change measured on it. Needed where more than one axis of the weight has the length of the vectors, as
            in a square weight, which alone does not say whether it is (in, out) or (out, in).
        x: data of the layer, on which the change is measured. Without a layer: rows for a dense weight, by default unit
            rows and the zero row, which show every entry of an affine map.

    Returns:
        `Surgery((weight, bias), change)`: the change is rounding.

    Raises:
        ValueError: a vector's length is that of no axis of weight, or of several while there is no layer; a layer
            without x, or one in which the weight is in no product; an entry that is not finite, or a variance + ε that
            is not positive.
        TypeError: what is no array of floats.
    """
    given = {"weight": weight, "scale": scale, "shift": shift, "mean": mean, "variance": variance}
    for name, x_given in (given if bias is None else given | {"bias": bias}).items():
        _check_finite("fold_batch_norm", name, x_given)
    check_number(epsilon, "fold_batch_norm", "epsilon")
    if not bool(jnp.all(variance + epsilon > 0)):
        raise ValueError(
            f"fold_batch_norm: variance + epsilon must be positive, its smallest entry is "
            f"{float(jnp.min(variance + epsilon)):g}. Hand the running variance, not its logarithm."
        )
    axis = _output_axis(weight, bias, scale, layer, x)
    out = weight.shape[axis]
    vectors = {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
    for name, vector in (vectors | ({} if bias is None else {"bias": bias})).items():
        _check_same("fold_batch_norm", name, vector, out, f"weight {weight.shape}")
    gain = scale / jnp.sqrt(variance + epsilon)
    old_bias = jnp.zeros_like(mean) if bias is None else bias
    along = lambda vector, rank, axis: vector.reshape([out if i == axis else 1 for i in range(rank)])
    new = weight * along(gain, weight.ndim, axis), (old_bias - mean) * gain + shift

    def unit_rows(weight, bias, rows):
        return rows @ jnp.moveaxis(weight, axis, -1).reshape(-1, out) + bias[None, :]

    if layer is None:
        layer, fan_in = unit_rows, weight.size // out
        x = jnp.pad(jnp.eye(fan_in, dtype=weight.dtype), ((0, 1), (0, 0))) if x is None else x
    z = layer(weight, old_bias, x)
    channel = z.ndim - 1 if layer is unit_rows else _channel_axis(layer, weight, old_bias, x, out)
    at = lambda vector: along(vector, z.ndim, channel)
    normed = (z - at(mean)) * at(gain) + at(shift)
    return Surgery(new, _change(normed, layer(*new, x)))


def _output_axis(weight: Array, bias: Array | None, scale: Array, layer: Callable | None, x: Any) -> int:
    """The axis of the weight that its outputs run along."""
    if layer is not None:
        if x is None:
            raise ValueError("fold_batch_norm: layer came without x. Hand data of the layer, x=..., to measure on.")
        params = weight, jnp.zeros_like(scale) if bias is None else bias
        made = contacts(lambda params, x: layer(*params, x), params, x, unused="ignore")
        free = next((c.free for c in made if c.leaves == ("0",) and c.role == "weight"), None)
        if not free or len(free) != 1:
            raise ValueError(
                "fold_batch_norm: in layer(weight, bias, x) the weight is in no product with one axis of outputs."
            )
        return free[0]
    fitting = [i for i, n in enumerate(weight.shape) if (n,) == scale.shape]
    if len(fitting) > 1:
        raise ValueError(
            f"fold_batch_norm: axes {fitting} of weight {weight.shape} are as long as scale {scale.shape}, and which "
            f"of them the outputs run along cannot be told. Hand the layer, layer=lambda weight, bias, x: ..., and x; "
            f"or use fold_batch_norms."
        )
    return fitting[0] if fitting else weight.ndim - 1


def _channel_axis(layer: Callable, weight: Array, bias: Array, x: Any, out: int) -> int:
    """The axis of the layer's output along which its bias lies."""
    slopes = jax.jvp(lambda bias: layer(weight, bias, x), (bias,), (jnp.arange(out, dtype=bias.dtype),))[1]
    varies = [i for i in range(slopes.ndim) if out > 1 and bool(jnp.any(jnp.diff(slopes, axis=i) != 0))]
    return varies[0] if varies else [*slopes.shape].index(out)


# --- biases -----------------------------------------------------------------------------------------------------------


def fold_value_bias(fn: Callable, params: Any, *args: Any, value_bias: str, out_weight: str, out_bias: str) -> Surgery:
    """Attention's value bias moved into its output bias, and set to zero: the attention weights of a row sum to 1.

        Σ_j p_j (v_j + b_v) W_o + b_o  =  Σ_j p_j v_j W_o + (b_v W_o + b_o)

    Not with dropout on the attention weights: they then do not sum to 1, and `change` shows it.

    Args:
        fn: `(params, *args) -> output`, to measure the change.
        value_bias, out_weight, out_bias: paths; the value bias holds as many entries as the output weight has inputs.

    Raises:
        KeyError: a path that does not exist.
        ValueError: the shapes do not fit together.
    """
    bv, wo, bo = (get_leaf(params, path, "fold_value_bias") for path in (value_bias, out_weight, out_bias))
    if bv.size * bo.size != wo.size:
        raise ValueError(
            f"fold_value_bias: a value bias {bv.shape} and an output bias {bo.shape} want an output weight of "
            f"{bv.size} × {bo.size} entries, got {wo.shape}."
        )
    moved = (bv.reshape(-1) @ wo.reshape(bv.size, bo.size)).reshape(bo.shape)
    new = set_leaves(params, {value_bias: jnp.zeros_like(bv), out_bias: bo + moved})
    return _done(fn, params, new, args)


def drop_bias(fn: Callable, params: Any, *args: Any, bias: str) -> Surgery:
    """The bias at a path set to zero; `change` is what that costs.

    Args:
        bias: its path in params, for example "layer.bias".

    Raises:
        KeyError: a path that does not exist.
        ValueError: a leaf that is no bias, by what fn does with it.
    """
    zero = jnp.zeros_like(get_leaf(params, bias, "drop_bias"))
    uses = trace_uses(fn, params, args)
    roles = dict(zip(uses.paths, uses.roles()))
    if "bias" not in roles[bias].split("+"):
        biases = [path for path, role in roles.items() if "bias" in role.split("+")]
        raise ValueError(
            f"drop_bias: {bias} is no bias but {roles[bias]}; the biases are {', '.join(biases) or 'none'}."
        )
    return _done(fn, params, set_leaves(params, {bias: zero}), args)


def add_bias(weight: Float[Array, "*axes out"], x: Float[Array, "n fan_in"]) -> Surgery:
    """`(weight, bias)` with a zero bias for a layer that had none; the change on x is measured, and is 0.

    Raises:
        ValueError: x has no row for each input of the weight.
    """
    if weight.ndim == 0 or x.ndim == 0 or x.shape[-1] != weight.size // weight.shape[-1]:
        raise ValueError(f"add_bias: rows of x {x.shape} do not fit a weight of shape {weight.shape}, outputs last.")
    flat = weight.reshape(-1, weight.shape[-1])
    bias = jnp.zeros(weight.shape[-1], weight.dtype)
    before, after = x @ flat, x @ flat + bias[None, :]
    return Surgery((weight, bias), _change(before, after))


def shift_prior(
    fn: Callable,
    params: Any,
    *args: Any,
    bias: str,
    old: Float[Array, " _"],
    new: Float[Array, " _"],
) -> Surgery:
    """A classifier for other class frequencies, by its output bias alone: b += log(new/old).

        p_new(c | x) ∝ p_old(c | x) new_c/old_c,    so the logits move by log(new_c/old_c), whatever x is

    Args:
        bias: path of the bias of the logits (one entry per class).
        old, new: class frequencies, positive; each is divided by its sum.

    Raises:
        KeyError: a path that does not exist.
        ValueError: frequencies that are not positive, or of another shape than the bias.

    Source: M. Saerens, P. Latinne, C. Decaestecker, Adjusting the outputs of a classifier to new a priori
    probabilities (2002), eq. 2.4.
    """
    b = get_leaf(params, bias, "shift_prior")
    for name, prior in (("old", old), ("new", new)):
        _check_same("shift_prior", name, prior, b.size, f"the bias {bias} {b.shape}")
        if not bool(jnp.all(prior > 0)):
            raise ValueError(f"shift_prior: {name} must hold positive frequencies, got {prior}.")
    moved = jnp.log(new / new.sum()) - jnp.log(old / old.sum())
    return _done(fn, params, set_leaves(params, {bias: b + moved.reshape(b.shape)}), args)


def correct_bias(
    weight: Float[Array, "fan_in out"],
    bias: Float[Array, " out"],
    quantised: Float[Array, "_ _"],
    x: Float[Array, "n fan_in"],
) -> Surgery:
    """Bias that takes the mean error of a quantised weight away:  b′ = b − E[x]·ΔW,  ΔW = quantised − weight.

    Args:
        x: inputs of the layer, over which the mean is taken.

    Returns:
        `Surgery(bias, change)`: the change of the layer's output that remains, relative to its largest entry; its mean
        over x is 0 but for rounding.

    Raises:
        ValueError: the shapes do not fit together.

    Source: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, Data-free quantization through weight equalization and
    bias correction (2019), eq. 15.
    """
    if quantised.shape != weight.shape:
        raise ValueError(f"correct_bias: quantised has shape {quantised.shape}, weight {weight.shape}.")
    corrected = bias - x.mean(axis=0) @ (quantised - weight)
    before, after = x @ weight + bias[None, :], x @ quantised + corrected[None, :]
    return Surgery(corrected, _change(before, after))


def to_homogeneous(weight: Float[Array, "fan_in out"], bias: Float[Array, " out"]) -> Float[Array, "fan_in_1 out"]:
    """[W; b]: the bias as the weight of one more input that is always 1 (4.4). Exact."""
    return jnp.concatenate([weight, bias[None, :]])


def from_homogeneous(weight: Float[Array, "fan_in_1 out"]) -> tuple[Float[Array, "fan_in out"], Float[Array, " out"]]:
    """`(W, b)` from [W; b]; undoes `to_homogeneous`."""
    return weight[:-1], weight[-1]


# --- biases that cannot change the output -----------------------------------------------------------------------------


def fix_gauge(fn: Callable, params: Any, *args: Any, redundant: Sequence[Redundant] | None = None) -> Surgery:
    """Redundant parts of biases set to zero or folded, so that equal functions have equal biases; change measured.

        b′ = b − Σ_k ⟨b, u_k⟩ u_k   for the redundant directions u_k of one leaf

    Of several leaves together each, in the order of their use, becomes as small as the ones before it allow: the value
    bias of attention becomes zero, and the output bias takes it up (`fold_value_bias` does the same by names).

    Args:
        redundant: as `redundant_biases` returns it; found by it when not given.

    Raises:
        TypeError: a `redundant` of another kind.
        KeyError: a path that params do not have.
        ValueError: directions of another number of entries than the leaves, or biases that are not finite.
    """
    check_function(fn)
    redundant = redundant_biases(fn, params, *args) if redundant is None else redundant
    several = isinstance(redundant, list | tuple) and not isinstance(redundant, Redundant)
    if not several or not all(isinstance(item, Redundant) for item in redundant):
        raise TypeError(
            f"fix_gauge: redundant must be the tuple of Redundant that redundant_biases returned, got "
            f"{describe(redundant)}. Leave it out to have it found."
        )
    fixed = params
    for redundancy in redundant:
        old = [get_leaf(fixed, path, "fix_gauge") for path in redundancy.paths]
        sizes = [b.size for b in old]
        for path, b in zip(redundancy.paths, old):
            _check_finite("fix_gauge", path, b)
        if np.shape(redundancy.directions)[1:] != (sum(sizes),):
            raise ValueError(
                f"fix_gauge: directions of {' + '.join(redundancy.paths)} have shape "
                f"{np.shape(redundancy.directions)}, but these leaves have {sum(sizes)} entries. Hand what "
                f"redundant_biases returned for these params."
            )
        flat = _smallest(
            np.concatenate([np.asarray(b, np.float64).reshape(-1) for b in old]), redundancy.directions, sizes
        )
        pieces = (jnp.asarray(flat[part].reshape(b.shape), b.dtype) for part, b in zip(parts_of(sizes), old))
        fixed = set_leaves(fixed, dict(zip(redundancy.paths, pieces)))
    return _done(fn, params, fixed, args)


def _smallest(b: np.ndarray, directions: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """b moved along the directions so that the first part is smallest, then, as far as that leaves open, the next."""
    for part in parts_of(sizes):
        left, values, right = np.linalg.svd(directions[:, part], full_matrices=True)
        rank = int(np.sum(values > 1e-3))  # no far move for a small gain
        steps = left[:, :rank] @ ((right[:rank] @ b[part]) / values[:rank])
        b = b - steps @ directions
        directions = left[:, rank:].T @ directions
    return b
