"""Second moments, Fisher and Gauss-Newton diagonals, K-FAC factors, from (a, δ).

With g_s the gradient of example s of n, everything here is a mean over the examples:

    second moments (empirical Fisher diagonal)   (1/n) Σ_s g_s²              Σ_s (a_s²)ᵀ (δ_s²) for one row per example
    Gauss-Newton diagonal                        (1/n) Σ_s diag(J_sᵀ H_s J_s)   J of the model's output, H of the loss
    K-FAC                                        A = E[ã ãᵀ], G = E[δ δᵀ],  ã = [a, 1]: the bias as one more input (4.4)
"""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxbias import _jaxpr
from jaxbias._doors import describe
from jaxbias._jaxpr import Program
from jaxbias._jaxpr.queries import LAYOUT, backward_slice
from jaxbias._meshes import einsum, varying, varying_axes
from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture._backward import backward, tap_factors
from jaxbias.foreign.capture._plan import SAME_NORM, Method, plan, tap_products
from jaxbias.foreign.capture._traced import MEMORY_LIMIT, PerExample, TracedLoss, trace_loss
from jaxbias.foreign.capture.clip import weight_gradient
from jaxbias.foreign.capture.histograms import DeltaHistogram, delta_histograms
from jaxbias.foreign.capture.influence import gradient_dots
from jaxbias.foreign.capture.one_pass import Capture, NoiseScale, capture, noise_scale
from jaxbias.foreign.sites import DATA
from jaxbias.foreign.traced import split_params
from jaxbias.foreign.uses import uses_of
from jaxbias.params import SomeTree, Tree

__all__ = [  # the last four lines' names stood here in 0.1
    "Capture",
    "DeltaHistogram",
    "KroneckerFactors",
    "LikeParams",
    "NoiseScale",
    "capture",
    "delta_histograms",
    "fisher_diagonal",
    "ggn_diagonal",
    "gradient_dots",
    "kfac_factors",
    "noise_scale",
    "second_moments",
]


@runtime_checkable
class LikeParams(Protocol):
    """`(params, ...) -> tree`, of the type of params."""

    def __call__(self, params: SomeTree, /, *args: Any, **kwargs: Any) -> SomeTree: ...


def second_moments(
    loss: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
) -> Callable[..., Tree]:
    """Function `(params, batch) -> tree`: mean of the squared per-example gradient: the empirical Fisher.

        (1/n) Σ_s (∂L_s/∂θ)²

    A weight that each example uses in one row (a dense layer without a sequence axis) needs no per-example gradient:
    it is (a²)ᵀ(δ²). Others are formed for the whole batch; map over smaller batches where that is too much.

    Args:
        loss, argnums, has_aux, batch_argnums, keep_batch_dim: as for `per_example_norms`; what else the loss
            returns is dropped.

    Raises:
        TypeError, ValueError: as for `per_example_norms`.
    """
    asked = PerExample("second_moments", loss, argnums, has_aux, batch_argnums, keep_batch_dim)
    return lambda *args: _second_moments(trace_loss(asked, args))


def _second_moments(problem: TracedLoss) -> Any:
    methods = plan(problem.analysis, problem.leaves, problem.batch, MEMORY_LIMIT, form_at_leaf=True)
    methods = [m if m.name == "unused" or _one_row(m) else Method("formed") for m in methods]
    readings = backward(problem, methods, keep=True)
    moments = []
    for i, (leaf, method) in enumerate(zip(problem.leaves, methods)):
        if method.name == "unused":
            moments.append(jnp.zeros_like(leaf))
        elif i in readings.formed:
            rows = readings.formed[i]
            rows = rows.astype(accumulation_dtype(rows.dtype))
            moments.append(jnp.mean(jnp.square(rows), axis=0).astype(leaf.dtype))
        else:
            (tap,) = method.taps
            operands = [jnp.square(x) for x in readings.operands[tap.number]]
            delta = jnp.square(readings.slots[tap.number])
            moments.append(weight_gradient(problem, tap, leaf, operands, delta) / problem.batch)
    return problem.rebuild(moments, None)


def _one_row(method: Method) -> bool:
    if len(method.taps) != 1:
        return False
    tap = method.taps[0]
    return not tap.links and tap.site.equation.name == "dot_general" and tap.sizes is not None and tap.sizes.rows == 1


def _cross_entropy_root(output: Array, column: Array) -> Array:
    """Column c of S with S Sᵀ = diag(p) − p pᵀ:  √p_c (e_c − p)."""
    p = jax.nn.softmax(output)
    one_hot = jax.nn.one_hot(column, p.shape[-1], dtype=p.dtype)
    return jnp.sqrt(p[column]) * (one_hot - p)


def _squared_error_root(output: Array, column: Array) -> Array:
    return jax.nn.one_hot(column, output.shape[-1], dtype=output.dtype)


ROOTS = {"cross_entropy": _cross_entropy_root, "squared_error": _squared_error_root}


def _check_model(function: str, model: Any, kind: Any) -> None:
    if not callable(model):
        raise TypeError(
            f"{function}: model must be a function (params, x) -> outputs, got {describe(model)}. Of a network of this "
            f"library it is lambda params, x: network.forward(params, x)[0]."
        )
    if kind not in ROOTS:
        raise ValueError(f"{function}: kind must be one of {', '.join(ROOTS)}, got {kind!r}.")


def ggn_diagonal(model: Callable[..., Array], kind: str = "cross_entropy") -> LikeParams:
    """Function `(params, inputs) -> tree`: diagonal of the generalised Gauss-Newton matrix, mean over the examples.

        (1/n) Σ_s diag(J_sᵀ H_s J_s) = (1/n) Σ_s Σ_c (J_sᵀ S_s[:, c])²,   H = S Sᵀ

    One backward pass for each of the model's outputs. For these losses it is that of the true Fisher matrix too.

    Args:
        model: `(params, x) -> outputs (outputs,)` of one example.
        kind: "cross_entropy" of logits, H = diag(p) − p pᵀ, or "squared_error" ½‖f − y‖², H = 1.

    Raises:
        ValueError: another kind, or outputs that are no vector.

    Source: F. Dangel, F. Kunstner, P. Hennig, BackPACK (2020), DiagGGNExact; J. Martens, New insights and perspectives
    on the natural gradient method (2020), section 9.2.
    """
    _check_model("ggn_diagonal", model, kind)

    def diagonal(params, inputs):
        example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
        out = jax.eval_shape(lambda x: model(params, x), example)
        if len(out.shape) != 1:
            raise ValueError(
                f"ggn_diagonal: model(params, x) must return a vector for one example, got shape {out.shape}."
            )

        def column_loss(params, column, x):
            output = model(params, x)
            return jnp.vdot(lax.stop_gradient(ROOTS[kind](output, column)), output)

        split = split_params(params)  # what is no array, in an Equinox module, is nothing to scan over
        moments_of = second_moments(column_loss, batch_argnums=2)

        def step(total, column):
            moments = split_params(moments_of(params, column, inputs)).leaves
            return [x + y for x, y in zip(total, moments)], None

        of_inputs = {axis for x in jax.tree.leaves(inputs) for axis in varying_axes(x)}
        zeros = [varying(jnp.zeros_like(leaf), of_inputs) for leaf in split.leaves]
        return split.rebuild(lax.scan(step, zeros, jnp.arange(out.shape[0]))[0], None)

    return diagonal


def fisher_diagonal(model: Callable[..., Array], kind: str = "cross_entropy") -> LikeParams:
    """Function `(params, inputs, key) -> tree`: diagonal of the true Fisher matrix, labels drawn from the model.

        (1/n) Σ_s (∂ log p(y_s | x_s)/∂θ)²,   y_s ~ p(· | x_s);  its expectation is `ggn_diagonal`

    Args:
        model: `(params, x) -> outputs (outputs,)` of one example.
        kind: "cross_entropy": y from softmax(outputs); "squared_error": y normal around the outputs, of variance 1.

    Raises:
        ValueError: another kind.

    Source: F. Kunstner, L. Balles, P. Hennig, Limitations of the empirical Fisher approximation (2019), eq. 3.
    """
    _check_model("fisher_diagonal", model, kind)

    def sampled_loss(params, example):
        x, key = example
        output = model(params, x)
        fixed = lax.stop_gradient(output)
        if kind == "squared_error":
            return 0.5 * jnp.sum(jnp.square(output - fixed - jax.random.normal(key, output.shape, output.dtype)))
        return -jax.nn.log_softmax(output)[jax.random.categorical(key, fixed)]

    def diagonal(params, inputs, key):
        keys = jax.random.split(key, jax.tree.leaves(inputs)[0].shape[0])
        return second_moments(sampled_loss)(params, (inputs, keys))

    return diagonal


# --- K-FAC ------------------------------------------------------------------------------------------------------------


@jax.tree_util.register_pytree_with_keys_class
class KroneckerFactors(NamedTuple):
    """Fisher block of one weight (and its bias): E[g gᵀ] ≈ A ⊗ G.

    As a tree it has the two arrays for leaves, so that it may leave a jit or a shard_map.

    Attributes:
        inputs: A (inputs, inputs), of [a, 1] with a bias; a leading axis for stacked layers.
        outputs: G (outputs, outputs).
        bias: path of the bias leaf, with its part where only one is added ("b[0:2]"), or None.
    """

    inputs: Array
    outputs: Array
    bias: str | None

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey
        return ((key("inputs"), self.inputs), (key("outputs"), self.outputs)), self.bias  # a name can be no output

    @classmethod
    def tree_unflatten(cls, bias: str | None, factors: tuple[Array, Array]) -> "KroneckerFactors":
        return cls(*factors, bias)


def kfac_factors(
    loss: Callable[..., Any],
    approximation: str = "expand",
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
) -> Callable[..., dict[str, KroneckerFactors]]:
    """Function `(params, batch) -> {path of weight: KroneckerFactors}`, the bias as homogeneous coordinate.

        expand   A = 1/(nT) Σ_{s,t} ã ãᵀ        G = 1/n Σ_{s,t} δ δᵀ
        reduce   A = 1/n Σ_s (mean_t ã)(mean_t ã)ᵀ,   G = 1/n Σ_s (Σ_t δ)(Σ_t δ)ᵀ

    t runs over positions, time steps or patches that share the weight; without them the two agree. The labels are those
    of the batch (empirical Fisher); for the true Fisher draw them from the model. A weight that is cut before its use,
    each part by one product, has factors for each part, under its path with the part: "gru.w_h[0:5, 0:10]". What is
    rematerialised is computed once: (a, δ) are kept anyway. Weights that are used at several contacts, or otherwise
    than by one product, are left out, and a warning names them.

    Args:
        loss, argnums, has_aux, batch_argnums, keep_batch_dim: as for `per_example_norms`; what else the loss
            returns is dropped.
        approximation: "expand" or "reduce".

    Raises:
        TypeError, ValueError: another approximation; and as for `per_example_norms`.

    Warns:
        UserWarning: weights are left out.

    Source: J. Martens, R. Grosse (2015), eq. 16; R. Eschenhagen, A. Immer, R. Turner, F. Schneider, P. Hennig,
    Kronecker-factored approximate curvature for modern neural network architectures (2023), eqs. 11, 12.
    """
    if approximation not in ("expand", "reduce"):
        raise ValueError(f"kfac_factors: approximation must be 'expand' or 'reduce', got {approximation!r}.")
    asked = PerExample("kfac_factors", loss, argnums, has_aux, batch_argnums, keep_batch_dim)

    def factors(*args):
        problem = trace_loss(asked, args, remat=False)
        methods = tap_products(problem.analysis, problem.leaves)
        methods = [m if _each_in_one_product(m) else Method("unused") for m in methods]
        _warn_of_left_out(problem, methods)
        readings = backward(problem, methods)
        by_leaf = {}
        for path, method in zip(problem.paths, methods):
            for tap in method.taps:
                single = replace(method, taps=(tap,))
                factors_of = lambda a, d, single=single: tap_factors(single, [a], [d])[0]
                f = jax.vmap(factors_of)(readings.operands[tap.number], readings.slots[tap.number])
                by_leaf[path + _part(tap.operand)] = _kronecker(f.left, f.right, _bias_of(problem, tap), approximation)
        return by_leaf

    return factors


def _region(operand: Program) -> list[tuple[int, int]]:
    """The part of a program's one input that comes out of it: (start, stop) along each axis."""
    (root,) = operand.inputs
    shape = operand.shapes[root]
    with jax.ensure_compile_time_eval():
        places = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
        given = jnp.asarray(places, jnp.float32)
        part = np.asarray(_jaxpr.run_in_jax(operand, [given])[0], np.float64).astype(np.int64)
    indices = np.unravel_index(part.reshape(-1), shape)
    return [(int(i.min()), int(i.max()) + 1) for i in indices]


def _part(operand: Program) -> str:
    """The part as it stands behind a path: "[0:5, 0:10]"; "" for all of the leaf."""
    region, (root,) = _region(operand), operand.inputs
    whole = region == [(0, n) for n in operand.shapes[root]]
    return "" if whole else f"[{', '.join(f'{start}:{stop}' for start, stop in region)}]"


def _each_in_one_product(method: Method) -> bool:
    """Whether each entry of the leaf is in one product: the leaf in one, or its parts in one each."""
    if not method.taps or any(tap.site.equation.name == "gather" for tap in method.taps):
        return False
    if len(method.taps) == 1:
        return True
    regions = [_region(tap.operand) for tap in method.taps]
    meet = lambda r, s: all(a < d and c < b for (a, b), (c, d) in zip(r, s))
    same_scope = len({tap.site.scope for tap in method.taps}) == 1
    return same_scope and not any(meet(r, s) for r, s in itertools.combinations(regions, 2))


def _warn_of_left_out(problem: TracedLoss, methods: list[Method]) -> None:
    """Name the weights that get no factors."""
    roles = uses_of(problem.analysis.program, problem.paths).roles()
    left = [p for p, role, m in zip(problem.paths, roles, methods) if "weight" in role.split("+") and not m.taps]
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        warnings.warn(
            f"kfac_factors: without factors are {', '.join(left[:4])}{more}, used in several products, or otherwise "
            f"than in one of a dense or convolution layer. What has no key in the result needs another preconditioner.",
            stacklevel=3,
        )


def _kronecker(a: Array, delta: Array, bias: str | None, approximation: str) -> KroneckerFactors:
    """From a (n, groups, rows, inputs) and delta (n, groups, rows, outputs)."""
    n, groups, rows, _ = a.shape
    if bias is not None:
        a = jnp.concatenate([a, jnp.ones_like(a[..., :1])], axis=-1)
    if approximation == "reduce":
        a, delta, rows = a.mean(axis=2, keepdims=True), delta.sum(axis=2, keepdims=True), 1
    product = lambda x: einsum("ngti,ngtj->gij", x, x, accumulation_dtype(x.dtype))
    inputs, outputs = product(a) / (n * rows), product(delta) / n
    return KroneckerFactors(*((inputs[0], outputs[0]) if groups == 1 else (inputs, outputs)), bias)


def _bias_of(problem: TracedLoss, tap) -> str | None:
    """Path of the leaf that is added to the tap's output, nothing but layout in between."""
    analysis = problem.analysis
    program, kinds = analysis.programs[tap.site.scope], analysis.kinds[tap.site.scope]
    same = set(tap.site.equation.outputs)
    for equation in program.equations:
        if equation.name in LAYOUT and same & set(equation.inputs):
            same |= set(equation.outputs)
        elif equation.name in ("add", "add_any") and same & set(equation.inputs):
            for site in analysis.sites:
                if site.scope == tap.site.scope and site.equation is equation and len(site.origin.leaves) == 1:
                    data = equation.inputs[1 - site.position]
                    if data in same and kinds[data] == DATA:
                        operand = backward_slice(program, [equation.inputs[site.position]])
                        moved = all(e.name in SAME_NORM or e.name == "broadcast_in_dim" for e in operand.equations)
                        return problem.paths[site.origin.leaves[0]] + _part(operand) if moved else None
    return None
