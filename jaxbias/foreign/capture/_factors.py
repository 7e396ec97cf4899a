"""Per-example weight gradients as sums of outer products, and their squared norms without forming them.

At a contact z = a·w the gradient of one example is a sum over its rows t (positions, time steps, patches):

    G[g, i, j] = Σ_t left[g, t, i] right[g, t, j]          left = a, right = δ            (10), with weight sharing

so that   ‖G‖² = Σ_g Σ_{t,s} (left[g,t]·left[g,s]) (right[g,t]·right[g,s])                the Gram, or ghost, form.

The Gram form costs T²(m + n) multiplications, forming G costs T m n: Gram is the cheaper one where T(m + n) ≤ m n.
For T = 1 it is ‖a‖² ‖δ‖². A lookup of rows e[ids] is the same with one-hot left rows, of which only the ids are kept.

Source: I. Goodfellow, Efficient per-example gradient computations (2015), arXiv:1510.01799 (T = 1);
Z. Bu, J. Mao, S. Xu, Scalable and efficient training of large convolutional neural networks with differential privacy
(2022), the layerwise choice; Z. Bu, Y.-X. Wang, S. Zha, G. Karypis, Differentially private optimization on large model
at small cost (2023), book-keeping.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxbias._jaxpr import Equation
from jaxbias._meshes import einsum
from jaxbias._numerics import accumulation_dtype


class Factors(NamedTuple):
    """G[g, i, j] = Σ_t left[g, t, i] right[g, t, j] of one example; `left` holds ids (t,) where it is one-hot."""

    left: Array
    right: Array

    @property
    def one_hot(self) -> bool:
        return self.left.ndim == 1


class Sizes(NamedTuple):
    """Sizes of `Factors`, and which axes of the operand the left and right entries run over."""

    groups: int
    rows: int
    left: int
    right: int
    left_axes: tuple[int, ...]
    right_axes: tuple[int, ...]


def _gather_rows(equation: Equation) -> bool:
    """Whether a gather looks whole rows up: e[ids]."""
    numbers, shape = equation.params["dimension_numbers"], equation.shapes.inputs[0]
    return (
        tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(equation.params["slice_sizes"][1:]) == tuple(shape[1:])
    )


def sizes(equation: Equation, position: int) -> Sizes | None:
    """Sizes of the factors of this contact; None where it has none."""
    shape = equation.shapes.inputs[position]
    if equation.name == "dot_general":
        axes = equation.dot_axes()
        weight, a, of_a = axes[position], axes[1 - position], equation.shapes.inputs[1 - position]
        count = lambda axes: math.prod(of_a[i] for i in axes)
        right = math.prod(shape[i] for i in weight.free)
        return Sizes(count(a.batch), count(a.free), count(a.contracted), right, weight.contracted, weight.free)
    if equation.name == "gather" and position == 0 and _gather_rows(equation):
        rows = math.prod(equation.shapes.inputs[1][:-1])
        return Sizes(1, rows, shape[0], math.prod(shape[1:]), (0,), tuple(range(1, len(shape))))
    if equation.name == "conv_general_dilated" and position == 1 and equation.params["feature_group_count"] == 1:
        if equation.params["batch_group_count"] != 1:
            return None
        numbers = equation.params["dimension_numbers"]
        out = equation.shapes.outputs[0]
        rows = math.prod(out) // out[numbers.out_spec[1]]
        channels = numbers.rhs_spec[0]
        left_axes = tuple(i for i in numbers.rhs_spec[1:])
        return Sizes(1, rows, math.prod(shape) // shape[channels], shape[channels], left_axes, (channels,))
    return None


def factors(equation: Equation, position: int, others: list[Any], delta: Array) -> Factors:
    """Factors of one example's gradient from the other operands of the contact and its error signal."""
    if equation.name == "dot_general":
        axes = equation.dot_axes()
        (batch, contract, free), w_free = axes[1 - position], axes[position].free
        (a,) = others
        shape = a.shape
        left = lax.transpose(a, (*batch, *free, *contract))
        groups, rows = (math.prod(shape[i] for i in axes) for axes in (batch, free))
        n_batch, n_free = len(batch), len(free)
        # z has axes (batch, free of lhs, free of rhs)
        if position == 0:
            order = (*range(n_batch), *range(n_batch + len(w_free), delta.ndim), *range(n_batch, n_batch + len(w_free)))
            delta = lax.transpose(delta, order)
        return Factors(
            left.reshape(groups, rows, math.prod(shape[i] for i in contract)),
            delta.reshape(groups, rows, math.prod(delta.shape[n_batch + n_free :])),
        )
    if equation.name == "gather":
        (indices,) = others
        table = equation.shapes.inputs[0]
        offset = tuple(equation.params["dimension_numbers"].offset_dims)
        order = (*(i for i in range(delta.ndim) if i not in offset), *offset)
        ids = indices.reshape(-1)
        right = lax.transpose(delta, order).reshape(1, ids.size, -1)
        if "FILL" in str(equation.params["mode"]):
            inside = (ids >= 0) & (ids < table[0])
            right = jnp.where(inside[None, :, None], right, jnp.zeros_like(right))
        return Factors(jnp.clip(ids, 0, table[0] - 1), right)
    (x,) = others
    params = equation.params
    numbers = params["dimension_numbers"]
    kernel = equation.shapes.inputs[1]
    patches = lax.conv_general_dilated_patches(
        jnp.transpose(x, numbers.lhs_spec),
        [kernel[i] for i in numbers.rhs_spec[2:]],
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        precision=lax.Precision.HIGHEST,
    )  # (batch, channels × window, *spatial)
    rows = lambda z: jnp.moveaxis(z, 1, -1).reshape(1, -1, z.shape[1])
    return Factors(rows(patches), rows(jnp.transpose(delta, numbers.out_spec)))


def _inner(x: Array, y: Array) -> Array:
    """x (g, t, m), y (g, s, m) -> all inner products (g, t, s), accumulated in at least float32."""
    return einsum("gtm,gsm->gts", x, y, accumulation_dtype(x.dtype))


def _inner_left(x: Array, y: Array) -> Array:
    """Inner products of left rows, where either side may be ids of one-hot rows."""
    if x.ndim == 1 and y.ndim == 1:
        return (x[:, None] == y[None, :])[None]
    if x.ndim == 1:
        return jnp.swapaxes(_inner_left(y, x), 1, 2)
    if y.ndim == 1:
        return jnp.take(x, y, axis=2)
    return _inner(x, y)


def swap(f: Factors, size: int) -> Factors:
    """The factors of the transposed weight. One-hot rows have to be written out."""
    left = jax.nn.one_hot(f.left, size, dtype=f.right.dtype)[None] if f.one_hot else f.left
    return Factors(f.right, left)


def inner_product(f: Factors, h: Factors, block: int | None = None) -> Array:
    """⟨G, H⟩ = Σ_g Σ_{t,s} (left_f[t]·left_h[s]) (right_f[t]·right_h[s]), in blocks of `block` rows t where given."""

    def product(left, right):
        lefts = _inner_left(left, h.left)
        rights = _inner(right, h.right)
        return jnp.sum(jnp.where(lefts, rights, 0) if lefts.dtype == bool else lefts * rights)

    rows = f.right.shape[1]
    if block is None or block >= rows:
        return product(f.left, f.right)

    def blocks(x, axis):  # rows of zeros are added to fill the last block: they add nothing
        x = jnp.pad(x, [(0, -rows % block if i == axis else 0) for i in range(x.ndim)])
        return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :]), axis, 0)

    pieces = blocks(f.left, 0 if f.one_hot else 1), blocks(f.right, 1)
    return lax.map(lambda piece: product(*piece), pieces).sum()  # one after another: memory for one block at a time


def gram_norm(f: Factors, block: int | None = None) -> Array:
    """‖G‖² by the Gram form."""
    if f.right.shape[1] == 1:  # one row: ‖left‖² ‖right‖², without a matrix product of size one
        dtype = accumulation_dtype(f.right.dtype)
        square = lambda x: jnp.sum(jnp.square(x.astype(dtype)), axis=(1, 2))
        return jnp.sum(square(f.right) if f.one_hot else square(f.left) * square(f.right))
    return inner_product(f, f, block)


def formed_norm(f: Factors, columns: int | None = None) -> Array:
    """‖G‖² by forming G, `columns` of its columns at a time where given."""
    dtype = accumulation_dtype(f.right.dtype)

    def norm(right):
        return jnp.sum(jnp.square(einsum("gtm,gtn->gmn", f.left, right, dtype)))

    width = f.right.shape[2]
    if columns is None or columns >= width:
        return norm(f.right)
    right = jnp.pad(f.right, [(0, 0), (0, 0), (0, -width % columns)])
    split = right.reshape(*right.shape[:2], -1, columns)
    return lax.map(norm, jnp.moveaxis(split, 2, 0)).sum()
