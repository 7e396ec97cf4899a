"""Norms of per-example gradients without per-example gradients, for anyone's loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxbias._doors import check_size, describe
from jaxbias.foreign.capture._backward import backward, squared_norms
from jaxbias.foreign.capture._plan import plan
from jaxbias.foreign.capture._traced import MEMORY_LIMIT, PerExample, TracedLoss, trace_loss
from jaxbias.foreign.uses import uses_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerExampleNorms:
    """Norms of the gradient of every example, in the units of the loss per unit of the parameter.

    Attributes:
        leaves: tree like params, at each leaf an array (batch,), in at least float32.
        paths, roles, methods: name, role and method of each leaf, in tree order.
    """

    leaves: Any
    paths: tuple[str, ...] = field(metadata={"static": True})
    role_names: tuple[str, ...] = field(metadata={"static": True})
    method_names: tuple[str, ...] = field(metadata={"static": True})

    @property
    def total(self) -> Float[Array, " batch"]:
        """Norm over all leaves."""
        return _norm(jax.tree.leaves(self.leaves))

    @property
    def roles(self) -> dict[str, Array]:
        """Role -> norm (batch,) over the leaves of that role; a tied leaf counts as "embedding+weight"."""
        return self._by(self.role_names)

    @property
    def layers(self) -> dict[str, Array]:
        """Layer -> norm (batch,) over its leaves. A layer is the path of a leaf without its last part."""
        return self._by(tuple(path.rpartition(".")[0] or path for path in self.paths))

    @property
    def methods(self) -> dict[str, str]:
        """Path of a leaf -> how its norm was found: "gram", "shared", "formed", with the block size if there is one."""
        return dict(zip(self.paths, self.method_names))

    def _by(self, names: tuple[str, ...]) -> dict[str, Array]:
        leaves = jax.tree.leaves(self.leaves)
        return {name: _norm([x for x, n in zip(leaves, names) if n == name]) for name in dict.fromkeys(names)}


def _norm(norms: Sequence[Array]) -> Array:
    dtype = jnp.result_type(*(x.dtype for x in norms))
    return jnp.sqrt(sum(jnp.square(x.astype(dtype)) for x in norms))  # type: ignore[arg-type]


def per_example_norms(
    loss: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    verify: bool = False,
) -> Callable[..., PerExampleNorms]:
    """Function `(params, batch) -> PerExampleNorms`: the norm of ∂loss(params, example)/∂params of each example.

        ‖∂L_s/∂θ‖  for s = 1..n and every leaf θ;  for a weight at z = a·w from (a, δ) alone      (10), see `_factors`

    The same numbers as `vmap(grad(loss), (None, 0))` and a norm of each row, exact also where a leaf is used several
    times (tied tables, recurrent weights, positions of a sequence). What is not reached by a contact it can read (a
    leaf transformed before its use, a custom rule, a while loop's constants) falls back to forming that leaf's
    gradient, and `methods` says so. Inside of a `shard_map` the examples are those of the device, and no gradient is
    summed over devices with other examples; `vmap(grad)` sums there where params are not marked as varying
    (docs/devices.md).

    Args:
        loss: per-example loss, `(params, example) -> scalar`, or `(scalar, aux)` with `has_aux`.
        argnums: the argument, or arguments, that hold params.
        batch_argnums: arguments with a leading batch axis. Other arguments are handed to every example as they are.
        keep_batch_dim: call the loss with a batch axis of size 1 instead of none (the default of `clipped_grad`).
        memory_limit: bytes that one intermediate of a norm may take, for the whole batch; larger ones go in blocks.
        verify: also compute the first examples by `vmap(grad)` and raise if they differ. Not under jit.

    Raises:
        TypeError: loss is no function or an option of another kind, at once; a params leaf is no float, when called.
        ValueError: argnums that the loss does not take, at once; when called, batch axes that disagree, a loss that is
            no scalar, or that mixes the examples (batch norm in training mode).
        RuntimeError: `verify` found a difference.

    Source: I. Goodfellow, arXiv:1510.01799 (2015); Z. Bu et al., arXiv:2205.10683 (2022).
    """
    options = argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify
    return _norms_of(PerExample("per_example_norms", loss, *options))


def _norms_of(asked: PerExample) -> Callable[..., PerExampleNorms]:
    def norms(*args) -> PerExampleNorms:
        problem = trace_loss(asked, args)
        methods = plan(problem.analysis, problem.leaves, problem.batch, asked.memory_limit)
        squares = squared_norms(problem, methods, backward(problem, methods))
        of_leaves = [jnp.sqrt(x) for x in squares]
        if asked.verify:
            check_against_vmap_grad(asked.function, problem, of_leaves)
        return PerExampleNorms(
            problem.rebuild(of_leaves, None),
            problem.paths,
            tuple(uses_of(problem.analysis.program, problem.paths).roles()),
            tuple(method.text for method in methods),
        )

    return norms


def grand_scores(
    loss: Callable[..., Any],
    argnums: int = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    verify: bool = False,
) -> Callable[..., Float[Array, " batch"]]:
    """Function `(list_of_params, batch) -> (batch,)`: GraNd scores, gradient norms averaged over models.

        GraNd(s) = mean over initialisations θ of ‖∂L_s/∂θ‖

    Args:
        loss: per-example loss, as for `per_example_norms`.
        argnums: the argument that holds params in the loss, and the list of them in the function returned.
        has_aux, batch_argnums, keep_batch_dim, memory_limit, verify: as for `per_example_norms`.

    Raises:
        TypeError, ValueError: as for `per_example_norms`, and where no list of params is given.

    Source: M. Paul, S. Ganguli, G. K. Dziugaite, Deep learning on a data diet (2021), eq. 2.
    """
    check_size(argnums, "grand_scores", "argnums", least=0)
    options = argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify
    norms = _norms_of(PerExample("grand_scores", loss, *options))

    def scores(*args):
        models = args[argnums] if argnums < len(args) else None
        if type(models) not in (list, tuple):  # a NamedTuple is one params tree
            raise TypeError(f"grand_scores: argument {argnums} must be a list of params trees, got {describe(models)}.")
        if not models:
            raise ValueError("grand_scores: one params tree or more is wanted, got an empty list.")
        totals = [norms(*args[:argnums], params, *args[argnums + 1 :]).total for params in models]
        return jnp.mean(jnp.stack(totals), axis=0)

    return scores


def formed_gradients(problem: TracedLoss, examples: int | None = None) -> list[Array]:
    """Per-example gradients of every leaf by `vmap(grad)`, for checks."""
    data = [x[:examples] if axis == 0 else x for x, axis in zip(problem.data, problem.in_axes)]
    gradient = jax.grad(lambda leaves, data: problem.loss(leaves, data)[0])
    return jax.vmap(gradient, in_axes=(None, problem.in_axes))(problem.leaves, data)


def check_against_vmap_grad(function: str, problem: TracedLoss, norms: list[Array], examples: int = 4) -> None:
    """Compare the norms of the first examples with `vmap(grad)`.

    Raises:
        RuntimeError: they differ by more than the rounding of the dtype explains, or values are traced.
    """
    if any(isinstance(x, Tracer) for x in norms):
        raise RuntimeError(f"{function}: verify=True compares numbers and cannot run under jit. Call it outside once.")
    expected = formed_gradients(problem, examples)
    for path, norm, rows in zip(problem.paths, norms, expected):
        wide = np.asarray(rows, np.float64).reshape(len(rows), -1)
        wanted = np.sqrt(np.sum(np.square(wide), axis=1))
        # the square root of the rounding unit: far above rounding, far below any mistake
        tolerance = float(np.sqrt(jnp.finfo(rows.dtype).eps)) * max(float(wanted.max(initial=0.0)), 1e-30)
        off = np.abs(np.asarray(norm, np.float64)[: len(rows)] - wanted)
        if not np.all(off <= tolerance):
            worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
            raise RuntimeError(
                f"{function}: the norm of leaf {path} of example {worst} is {float(norm[worst])}, by vmap(grad) "
                f"{wanted[worst]}. This is a defect of jaxbias: please report the loss."
            )
