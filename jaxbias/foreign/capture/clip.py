"""Sum of clipped per-example gradients, as differential privacy needs it, without per-example weight gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from jaxbias import _jaxpr
from jaxbias._doors import check_flag, check_size
from jaxbias._jaxpr.queries import backward_slice
from jaxbias._meshes import varying, varying_axes
from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture._backward import Readings, backward, backward_twice, squared_norms
from jaxbias.foreign.capture._plan import Method, Tap, form_all, forming_is_enough, plan
from jaxbias.foreign.capture._traced import MEMORY_LIMIT, PerExample, TracedLoss, as_tuple, trace_loss

HOWS = ("auto", "book-keeping", "two-pass", "formed")


class Aux(NamedTuple):
    """What a clipped gradient returns beside the sum; None where not asked for.

    Attributes:
        values: loss of each example.
        grad_norms: norm of the gradient of each example before clipping.
        aux: what else the loss returned.
    """

    values: Any
    grad_norms: Any
    aux: Any


@dataclass(frozen=True)
class ClippedGrad:
    """The function that `clipped_grad` returns, and how far one example can move its result.

    Attributes:
        l2_norm_bound: largest norm of one example's share of the sum.
        has_aux: whether an `Aux` is returned beside the sum.
    """

    fun: Callable[..., Any]
    l2_norm_bound: Any
    has_aux: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    def sensitivity(self, neighboring_relation: Any = None) -> Any:
        """L2 sensitivity: twice the bound for the relation REPLACE_ONE (its name, or dp_accounting's enum)."""
        name = getattr(neighboring_relation, "name", neighboring_relation)
        return 2 * self.l2_norm_bound if name == "REPLACE_ONE" else self.l2_norm_bound


def _unchanged(gradient: Any) -> Any:
    return gradient


def clipped_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    l2_clip_norm: ArrayLike,
    rescale_to_unit_norm: bool = False,
    normalize_by: float | int = 1.0,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    return_values: bool = False,
    return_grad_norms: bool = False,
    pre_clipping_transform: Callable[[Any], Any] = _unchanged,
    microbatch_size: int | None = None,
    nan_safe: bool = True,
    dtype: DTypeLike | None = None,
    prng_argnum: int | None = None,
    spmd_axis_name: str | None = None,
    how: str = "auto",
    memory_limit: int = MEMORY_LIMIT,
) -> ClippedGrad:
    """Function of the arguments of `fun` that returns the sum of clipped per-example gradients.

        Σ_s c_s ∂L_s/∂θ,   c_s = min(1, C / ‖∂L_s/∂θ‖),   C = l2_clip_norm

    Names, order and defaults of the arguments are those of `jax_privacy.clipped_grad` and mean the same, with `how` and
    `memory_limit` added; noise is not added here (optax.contrib, jax-privacy). So `fun` is called with a batch of one
    example, as its loss over a batch would be. For a loss of one example without a batch axis, as under `vmap(grad)`
    and as `per_example_norms` takes it, pass `keep_batch_dim=False`. With `rescale_to_unit_norm` the sum is divided by
    C.

    Three ways, of equal result:
        book-keeping  one backward pass that keeps (a, δ) of each contact; then each weight gradient is one product of
                      a with c δ. About the operations of one plain gradient.
        two-pass      two backward passes of one forward pass: for the norms, then of Σ_s c_s L_s. Keeps nothing; the
                      way to go in a scan or remat.
        formed        the gradient of every example, as by `vmap(grad)`.
    "auto" takes book-keeping where no params are used inside a scan, a remat or a cond, and two-pass elsewhere; but
    where the gradients of all examples fit into a cache (16 MiB), as those of small models do, it forms them unless
    (a, δ) cost less.

    Args:
        fun: loss of a batch of one example, `(params, batch) -> scalar`, or `(scalar, aux)` with `has_aux`.
        argnums: the argument, or arguments, that hold params.
        l2_clip_norm: C, a number or a traced scalar.
        normalize_by: the sum is divided by it.
        batch_argnums: arguments with a leading batch axis.
        keep_batch_dim: call `fun` with a batch axis of size 1; False: with no batch axis.
        return_values, return_grad_norms: return `(sum, Aux)` with the loss, the gradient norm, of each example.
        pre_clipping_transform: not available, as no per-example gradient exists that it could change.
        microbatch_size: examples at a time, one group after another; must divide the batch.
        nan_safe: an example whose gradient is not finite adds nothing to the sum. (jax_privacy drops single entries.)
        dtype: of the sum; by default that of params.
        prng_argnum: argument with a PRNG key, which is split into one key per example.
        spmd_axis_name: as for `jax.vmap`.
        how: "auto", "book-keeping", "two-pass" or "formed".
        memory_limit: as for `per_example_norms`.

    Inside of a `shard_map` the sum is that over the examples of the device; `jax.lax.psum` adds up all of them.

    The returned function also takes `is_padding_example=`, a bool for each example; such examples add nothing.

    Raises:
        TypeError: a params leaf is no float.
        ValueError: a bad argument, disagreeing batch axes, a loss that is no scalar or mixes the examples;
            `how="book-keeping"` for params that are used inside a scan, a remat or a cond.

    Source: M. Abadi et al., Deep learning with differential privacy (2016), alg. 1; Z. Bu, Y.-X. Wang, S. Zha,
    G. Karypis, Differentially private optimization on large model at small cost (2023).
    """
    if how not in HOWS:
        raise ValueError(f"clipped_grad: how must be one of {', '.join(HOWS)}, got {how!r}.")
    if isinstance(l2_clip_norm, float | int) and not l2_clip_norm >= 0:
        raise ValueError(f"clipped_grad: l2_clip_norm must be 0 or larger, got {l2_clip_norm}.")
    if isinstance(normalize_by, float | int) and not normalize_by > 0:
        raise ValueError(f"clipped_grad: normalize_by must be larger than 0, got {normalize_by}.")
    if pre_clipping_transform is not _unchanged:
        raise ValueError(
            "clipped_grad: pre_clipping_transform would need the gradient of each example, which is never formed here. "
            "Transform params inside the loss instead, or use jax_privacy.clipped_grad."
        )
    asked = PerExample(
        "clipped_grad", fun, argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit,
        prng_argnum=prng_argnum, spmd_axis_name=spmd_axis_name,
    )  # fmt: skip
    if isinstance(l2_clip_norm, str) or isinstance(normalize_by, str):
        raise TypeError("clipped_grad: l2_clip_norm and normalize_by must be numbers, got a str.")
    if microbatch_size is not None:
        check_size(microbatch_size, "clipped_grad", "microbatch_size")
    for name, flag in (
        ("rescale_to_unit_norm", rescale_to_unit_norm),
        ("return_values", return_values),
        ("return_grad_norms", return_grad_norms),
        ("nan_safe", nan_safe),
    ):
        check_flag(flag, "clipped_grad", name)

    def one_group(args: tuple[Any, ...], padding: Array | None):
        problem = trace_loss(asked, args)
        _check_way(problem, how)
        readings, _, squares, weighted_sum = both_passes(problem, how, memory_limit)
        wide = jnp.result_type(*squares)
        norms = jnp.sqrt(sum(x.astype(wide) for x in squares))  # type: ignore[arg-type]
        factors = _factors(norms, jnp.asarray(l2_clip_norm, wide), rescale_to_unit_norm)
        finite = jnp.isfinite(norms) if nan_safe else None
        if padding is not None:
            factors = jnp.where(padding, 0, factors)
        total = weighted_sum(factors, finite)
        aux = jax.tree.unflatten(jax.tree.structure(problem.analysis.out_shape[1]), readings.aux)
        return total, (readings.value, norms, aux), problem

    def clipped(*args: Any, is_padding_example: Array | None = None) -> Any:
        batch = _batch_of(args, batch_argnums)
        if prng_argnum is not None:
            args = tuple(jax.random.split(x, batch) if i == prng_argnum else x for i, x in enumerate(args))
        if microbatch_size is None or microbatch_size >= batch:
            total, per_example, problem = one_group(args, is_padding_example)
        else:
            total, per_example, problem = _in_groups(
                one_group, args, set(asked.batched), is_padding_example, batch, microbatch_size
            )
        total = [(x / normalize_by).astype(dtype or leaf.dtype) for x, leaf in zip(total, problem.leaves)]
        result = problem.rebuild(total, None)
        if not (has_aux or return_values or return_grad_norms):
            return result
        returned = zip(per_example, (return_values, return_grad_norms, has_aux))
        return result, Aux(*(x if wanted else None for x, wanted in returned))

    bound = (1.0 if rescale_to_unit_norm else l2_clip_norm) / normalize_by
    return ClippedGrad(clipped, bound, has_aux or return_values or return_grad_norms)


def both_passes(problem: TracedLoss, how: str, memory_limit: int):
    """Readings, methods and squared norms of each leaf, and `(weights, finite or None) -> Σ_s weights_s ∂L_s/∂θ`."""
    nested = any(site.scope for site in problem.analysis.sites)
    keep = how == "book-keeping" or (how == "auto" and not nested)
    methods = plan(problem.analysis, problem.leaves, problem.batch, memory_limit, form_at_leaf=keep)
    if how == "formed" or (
        how == "auto" and nested and forming_is_enough(methods, problem.leaves, problem.batch, memory_limit)
    ):
        keep, methods = True, form_all(methods)
    if keep:
        readings = backward(problem, methods, keep=True)
        weighted_sum = lambda weights, finite: _book_kept_sum(problem, methods, readings, weights, finite)
    else:
        readings, gradient = backward_twice(problem, methods)
        weighted_sum = lambda weights, finite: _finite_sum(problem, gradient, weights, finite)
    return readings, methods, squared_norms(problem, methods, readings, keep), weighted_sum


def _batch_of(args: tuple[Any, ...], batch_argnums: int | Sequence[int]) -> int:
    first = as_tuple(batch_argnums)[0]
    leaves = jax.tree.leaves(args[first]) if first < len(args) else []
    return leaves[0].shape[0] if leaves and getattr(leaves[0], "ndim", 0) else 0  # `trace_loss` reports what is wrong


def _check_way(problem: TracedLoss, how: str) -> None:
    """Raise where (a, δ) of every contact cannot be kept: params that are used in a scan, a remat or a cond."""
    nested = [site for site in problem.analysis.sites if site.scope]
    if how == "book-keeping" and nested:
        leaf = problem.paths[nested[0].origin.leaves[0]]
        raise ValueError(
            f'clipped_grad: how="book-keeping" keeps (a, δ) of every contact, but the leaf {leaf} is used inside a '
            f"scan, a remat or a cond ({nested[0].equation.source}), where that would undo the saving of memory. "
            f'Use how="two-pass".'
        )


def _factors(norms: Array, clip: Array, rescale: bool) -> Array:
    """c = min(1, C/‖g‖), divided by C where asked for; the limits for C = 0, C = ∞ and ‖g‖ = 0 are finite."""
    clip = jnp.maximum(clip, 0)
    shrunk = norms > clip
    safe = jnp.where(norms > 0, norms, 1)
    if rescale:
        return jnp.where(shrunk, 1 / safe, jnp.where(clip > 0, 1 / jnp.where(clip > 0, clip, 1), 0))
    return jnp.where(shrunk, clip / safe, jnp.ones_like(norms))


def _along_batch(weights: Array, x: Array) -> Array:
    """Of shape (batch, 1, …), with as many axes as x."""
    return weights.reshape(-1, *(1,) * (x.ndim - 1))


def _only(x: Array, which: Array) -> Array:
    """The one entry of x that a (batch,) of bools names; a sum, as indexing would bring all of x to every device."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_only(jax.random.key_data(x), which), impl=jax.random.key_impl(x))
    kept = jnp.where(_along_batch(which, x), x, jnp.zeros_like(x))
    return kept.any(axis=0) if x.dtype == bool else kept.sum(axis=0, dtype=x.dtype)


def _weighted(x: Array, factors: Array | None, finite: Array | None) -> Array:
    """factors · x over the batch axis; examples that are not finite give zeros, whatever x holds."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    out = x
    if factors is not None:
        dtype = accumulation_dtype(x.dtype)
        out = (x.astype(dtype) * _along_batch(factors.astype(dtype), x)).astype(x.dtype)
    return out if finite is None else jnp.where(_along_batch(finite, x), out, jnp.zeros_like(out))


def _book_kept_sum(
    problem: TracedLoss, methods: list[Method], readings: Readings, factors: Array, finite: Array | None
) -> list[Array]:
    """Σ_s c_s G_s from what the taps kept."""
    total = []
    for i, (leaf, method) in enumerate(zip(problem.leaves, methods)):
        if i in readings.formed:
            total.append(_weighted(readings.formed[i], factors, finite).sum(axis=0))
            continue
        share = jnp.zeros(leaf.shape, leaf.dtype)
        for tap in method.taps:
            operands = [_weighted(x, None, finite) for x in readings.operands[tap.number]]
            delta = _weighted(readings.slots[tap.number], factors, finite)
            share += weight_gradient(problem, tap, leaf, operands, delta)
        total.append(share)
    return total


def weight_gradient(problem: TracedLoss, tap: Tap, leaf: Array, operands: list[Array], delta: Array) -> Array:
    """Gradient of the leaf at one contact, summed over the batch: the backward of the contact and of the layout."""
    equation, position = tap.site.equation, tap.site.position
    layout = backward_slice(problem.analysis.program, [equation.inputs[position]])
    weight, through_layout = jax.vjp(lambda leaf: _jaxpr.run_in_jax(layout, [leaf])[0], leaf)

    def contact(weight):
        def of_row(*others):
            values = list(others)
            values.insert(position, weight)
            return equation.bind(*values)[0]

        return jax.vmap(of_row)(*operands)

    _, pull = jax.vjp(contact, weight)
    return through_layout(pull(delta)[0])[0]


def _finite_sum(
    problem: TracedLoss, weighted_gradient: Callable[[Array], list[Array]], factors: Array, finite: Array | None
) -> list[Array]:
    """Σ_s c_s ∂L_s/∂θ over the examples that are finite.

    A weight of 0 does not silence an example with NaN (0 · NaN), so where there is one, the gradient is computed again
    from data in which an example that is finite takes its place, with weight 0.
    """
    if finite is None:
        return weighted_gradient(factors)

    def without_some(state):
        is_stand_in = jnp.arange(problem.batch) == jnp.argmax(finite)
        data = [
            jnp.where(_along_batch(finite, x), x, _only(x, is_stand_in)) if axis == 0 else x
            for x, axis in zip(problem.data, problem.in_axes)
        ]
        weights = jnp.where(finite, factors, 0)

        def weighted_loss(leaves):
            values = problem.vmap(lambda data: problem.loss(leaves, data)[0])(data)
            return jnp.sum(weights.astype(values.dtype) * values)

        total = jax.grad(weighted_loss)(problem.leaves)
        return jnp.ones_like(state[0]), [jnp.where(finite.any(), x, jnp.zeros_like(x)) for x in total]

    # A loop of no or one turn, not a cond: it leaves the sum in its place instead of copying it.
    first = finite.all(), weighted_gradient(factors)
    return jax.lax.while_loop(lambda state: ~state[0], without_some, first)[1]


def _in_groups(one_group, args, batched: set[int], padding, batch: int, size: int):
    """The groups one after another in a scan; sums add up, what is per example is put together again.

    A group is every so many examples, so that devices that share the batch have a part in each.
    """
    if batch % size:
        raise ValueError(f"clipped_grad: microbatch_size={size} does not divide the batch of {batch} examples.")
    padding = np.zeros(batch, bool) if padding is None else padding
    split = lambda tree: jax.tree.map(lambda x: x.reshape(size, batch // size, *x.shape[1:]).swapaxes(0, 1), tree)
    groups = {i: split(args[i]) for i in batched}
    kept: list[TracedLoss] = []

    def step(total, group):
        parts, padding = group
        sums, per_example, problem = one_group(tuple(parts.get(i, x) for i, x in enumerate(args)), padding)
        kept.append(problem)
        sums = [x.astype(accumulation_dtype(x.dtype)) for x in sums]
        return (sums if total is None else [a + b for a, b in zip(total, sums)]), per_example

    first = jax.tree.map(lambda x: x[0], (groups, split(padding)))
    shapes, _ = jax.eval_shape(lambda group: step(None, group), first)
    zeros = [varying(jnp.zeros(x.shape, x.dtype), varying_axes(x)) for x in shapes]
    total, per_example = jax.lax.scan(step, zeros, (groups, split(jnp.asarray(padding))))
    return total, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(batch, *x.shape[2:]), per_example), kept[0]
