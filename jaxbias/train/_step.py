"""What `fit` and `sweep` share: the order of the rows, one step, what is measured, and an evaluation."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike

from jaxbias._doors import describe
from jaxbias._numerics import accumulation_dtype
from jaxbias.grads import ValueAndGradWithAux, value_and_grad
from jaxbias.params import Layer, Loss, Tree, inference, network_input, run_forward
from jaxbias.train._mixed_precision import in_dtype
from jaxbias.train._optimizer import as_optax_computes, evaluated, extra_arguments, trained

Metric = Callable[[Any, Any], Array]
"""`(out, targets) -> scalar`, a mean over rows."""


RESERVED = ("loss", "step_loss")


class Learned(NamedTuple):
    """All that changes from step to step."""

    params: Tree
    opt_state: Tree
    state: Tree

    @classmethod
    def at_start(cls, optimizer: optax.GradientTransformation, params: Tree, state: Tree) -> "Learned":
        """Before the first step."""
        with as_optax_computes():
            return cls(params, optimizer.init(params), state)


class Objective(NamedTuple):
    """What is minimised and what is measured: everything of a step but the rows and the optimizer.

    Attributes:
        gradient: `(params, x, targets, state) -> ((loss, (out, state)), grads)`.
        compute_dtype: in which the network computes; None for that of params.
        place: lays out a batch over the devices.
    """

    network: Layer
    loss: Loss
    metrics: Mapping[str, Metric]
    gradient: ValueAndGradWithAux
    compute_dtype: DTypeLike | None
    place: Callable[[Tree], Tree]

    @classmethod
    def of(
        cls,
        network: Layer,
        loss: Loss,
        metrics: Mapping[str, Metric] | None,
        how: str,
        compute_dtype: DTypeLike | None = None,
        place: Callable[[Tree], Tree] = lambda batch: batch,
    ) -> "Objective":
        gradient = value_and_grad(in_dtype(network, compute_dtype), loss, how, has_aux=True)
        return cls(network, loss, _checked(metrics), gradient, compute_dtype, place)

    def measured(self, value: Array, out: Any, targets: Any) -> dict[str, Array]:
        """The loss and the metrics, in at least float32."""
        results = {"loss": value}
        for name, metric in self.metrics.items():
            results[name] = jnp.asarray(metric(out, targets))
            if results[name].shape:
                raise ValueError(
                    f"fit: the metric {name} must return a scalar, such as a mean over rows, got shape "
                    f"{results[name].shape} for an output of {jax.tree.map(jnp.shape, out)}."
                )
        return {name: result.astype(accumulation_dtype(result.dtype)) for name, result in results.items()}

    def step(
        self,
        learned: Learned,
        batch: Any,
        optimizer: optax.GradientTransformationExtraArgs,
        only: Callable = lambda tree: tree,
    ) -> tuple[Learned, dict[str, Array]]:
        """One step of the optimizer.

        Args:
            only: what of the gradient, and of the update, is used.
        """
        batch = self.place(batch)
        params = trained(learned.params)

        def gradient(params):
            (value, _), grads = self.gradient(params, batch[0], batch[1], learned.state)
            return value, only(grads)

        (value, (out, state)), grads = self.gradient(params, batch[0], batch[1], learned.state)
        with as_optax_computes():
            used = only(grads)
            asked = extra_arguments(gradient, params, value, used, learned.opt_state)
            updates, opt_state = optimizer.update(used, learned.opt_state, learned.params, **asked)
            params = optax.apply_updates(learned.params, only(updates))
        after = Learned(params, _as_before(learned.opt_state, opt_state), _as_before(learned.state, state))
        return after, self.measured(value, out, batch[1])

    def evaluate(self, learned: Learned, data: Any, batch_size: int) -> dict[str, Array]:
        """Loss and metrics of the network when not training: the mean over all rows of what is a mean over a batch."""
        network, params = in_dtype(inference(self.network), self.compute_dtype), evaluated(learned.params)

        def on_batch(batch):
            out, _ = run_forward(network, params, network_input(self.loss, *batch), learned.state)
            return self.measured(self.loss.forward(out, batch[1])[0], out, batch[1])

        rows = len(data[0])
        whole, left = divmod(rows, batch_size)
        total = None
        if whole:
            batches = jax.tree.map(lambda a: a[: whole * batch_size].reshape(whole, batch_size, *a.shape[1:]), data)
            total = jax.tree.map(
                lambda means: means.sum() * (batch_size / rows),
                jax.lax.map(lambda batch: on_batch(self.place(batch)), batches),
            )
        if left:  # the last batch is smaller
            last = on_batch(jax.tree.map(lambda a: a[whole * batch_size :], data))
            last = jax.tree.map(lambda mean: mean * (left / rows), last)
            total = last if total is None else jax.tree.map(jnp.add, total, last)
        assert total is not None  # check_data refuses data without rows
        return total


def _checked(metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    """The metrics by name.

    Raises:
        TypeError: no mapping of names to functions.
        ValueError: a name that the history has for itself.
    """
    if not isinstance(metrics, Mapping | None):
        raise TypeError(f'fit: metrics must be a dict such as {{"accuracy": train.accuracy}}, got {describe(metrics)}.')
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str) or not callable(metric):
            raise TypeError(f"fit: a metric is a name and a function, got {name!r} and {describe(metric)}.")
        if name in RESERVED:
            raise ValueError(f"fit: no metric may be called {name}: the history has {' and '.join(RESERVED)} itself.")
    return dict(metrics or {})


def _as_before(before: Tree, after: Tree) -> Tree:
    """What is carried keeps its dtypes: some optimizers widen a sum, and states come out as the network computes."""
    return jax.tree.map(lambda old, new: new if old.dtype == new.dtype else new.astype(old.dtype), before, after)


def state_key(key: Array) -> Array:
    """Key of a run's initial state; `row_order` folds the epochs into the same key, and no epoch has this number."""
    return jax.random.fold_in(key, 2**32 - 1)


def row_order(key: Array, epoch: Any, rows: int, batch_size: int) -> Array:
    """(steps, batch_size) row numbers of one epoch: a new order for each, cut into whole batches."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), rows)
    steps = rows // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def take(data: Any, rows: Any) -> Any:
    """These rows of every array."""
    return jax.tree.map(lambda array: array[rows], data)
