"""What one forward and backward pass of a batch tells: values, norms, any weighting of the examples, noise scale."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture._traced import MEMORY_LIMIT, PerExample, TracedLoss, trace_loss
from jaxbias.foreign.capture.clip import both_passes
from jaxbias.foreign.capture.norms import PerExampleNorms, check_against_vmap_grad
from jaxbias.foreign.uses import uses_of
from jaxbias.params import Tree


class Capture:
    """What one forward and backward pass of a batch tells; made by `capture`. Use it inside of jit, not across.

    Attributes:
        values: loss of each example (batch,).
        aux: what else the loss returned, of each example; () without `has_aux`.
        norms: `PerExampleNorms`.
        roles: role of each leaf, a tree like params.
    """

    def __init__(self, problem: TracedLoss, memory_limit: int):
        readings, methods, squares, self._weighted_sum = both_passes(problem, "auto", memory_limit)
        self._problem = problem
        names = uses_of(problem.analysis.program, problem.paths).roles()
        self.values: Array = readings.value
        self.aux = jax.tree.unflatten(jax.tree.structure(problem.analysis.out_shape[1]), readings.aux)
        leaves = problem.rebuild([jnp.sqrt(x) for x in squares], None)
        self.norms: PerExampleNorms = PerExampleNorms(
            leaves, problem.paths, tuple(names), tuple(m.text for m in methods)
        )
        self.roles: Tree = problem.rebuild(names, None)

    def pullback(self, weights: Float[Array, " batch"]) -> Tree:
        """Σ_s weights_s ∂L_s/∂θ, a tree like params: any weighting of the examples, without another forward pass."""
        return self._problem.rebuild(self._weighted_sum(weights, None), None)

    def gradient(self) -> Tree:
        """Gradient of the mean loss, a tree like params."""
        return self.pullback(jnp.full_like(self.values, 1 / self._problem.batch))

    def noise_scale(self) -> "NoiseScale":
        """See `noise_scale`."""
        return _noise_scale(self.norms, jax.tree.leaves(self.gradient()), self._problem.batch)


def capture(
    loss: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    verify: bool = False,
) -> Callable[..., Capture]:
    """Function `(params, batch) -> Capture`: per-example values and norms, and the pullback of any weighting.

    Args:
        loss, argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify: as for `per_example_norms`.

    Raises:
        TypeError, ValueError: as for `per_example_norms`.
        RuntimeError: `verify` found a difference.
    """
    options = argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify
    return _capturing(PerExample("capture", loss, *options))


def _capturing(asked: PerExample) -> Callable[..., Capture]:
    def captured(*args):
        problem = trace_loss(asked, args)
        result = Capture(problem, asked.memory_limit)
        if asked.verify:
            check_against_vmap_grad(asked.function, problem, jax.tree.leaves(result.norms.leaves))
        return result

    return captured


class NoiseScale(NamedTuple):
    """Simple gradient noise scale B = tr Σ / |G|², in examples: batches much smaller than B are mostly noise.

    Attributes:
        total: over all leaves.
        leaves: path -> noise scale. roles: role -> noise scale.
    """

    total: Array
    leaves: dict[str, Array]
    roles: dict[str, Array]


def noise_scale(
    loss: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    verify: bool = False,
) -> Callable[..., NoiseScale]:
    """Function `(params, batch) -> NoiseScale`, from one batch of n ≥ 2 examples by unbiased estimates:

        |G|² ≈ (n |ḡ|² − mean_s |g_s|²) / (n − 1),   tr Σ ≈ (mean_s |g_s|² − |ḡ|²) n / (n − 1)

    The estimate of |G|² may be negative for a noisy batch, and the scale with it.

    Args:
        loss, argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify: as for `per_example_norms`; what
            else the loss returns is dropped.

    Raises:
        TypeError, ValueError: as for `per_example_norms`, and where there are fewer than two examples.
        RuntimeError: `verify` found a difference.

    Source: S. McCandlish, J. Kaplan, D. Amodei, An empirical model of large-batch training (2018), appendix A.1.
    """
    options = argnums, has_aux, batch_argnums, keep_batch_dim, memory_limit, verify
    captured = _capturing(PerExample("noise_scale", loss, *options))
    return lambda *args: captured(*args).noise_scale()


def _noise_scale(norms: PerExampleNorms, mean_gradient: list[Array], n: int) -> NoiseScale:
    if n < 2:
        raise ValueError(f"noise_scale: two examples or more are wanted, got {n}.")
    dtype = accumulation_dtype(mean_gradient[0].dtype)
    of_mean = [jnp.sum(jnp.square(g.astype(dtype))) for g in mean_gradient]
    of_each = [jnp.mean(jnp.square(x)) for x in jax.tree.leaves(norms.leaves)]

    def scale(keep):
        mean_sq, example_sq = (jnp.stack([x for x, k in zip(xs, keep) if k]).sum() for xs in (of_mean, of_each))
        signal = (n * mean_sq - example_sq) / (n - 1)
        noise = (example_sq - mean_sq) * n / (n - 1)
        return noise / signal

    by = lambda names: {name: scale([name == x for x in names]) for name in dict.fromkeys(names)}
    return NoiseScale(scale([True] * len(of_mean)), by(norms.paths), by(norms.role_names))
