"""What a contender returns, and what those on JAX share: params, optimizer, loss, one step, a loop over the batches."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Trainer(NamedTuple):
    """How to run a contender.

    Attributes:
        first: does the first step and returns its loss; whatever must be compiled for it is compiled here.
        rest: does the remaining steps of the schedule and returns their losses (None where they are not shown).
        again: trains on, steady state, and returns seconds per step of one stretch; it is called several times.
        predict: network output for test inputs.
        first_s: seconds until the first step was done, where `first` does more than that.
    """

    first: Callable[[], Any]
    rest: Callable[[], Any]
    again: Callable[[], float]
    predict: Callable[[Any], Any]
    first_s: Callable[[], float] | None = None


def seconds_per_step(run: Callable[[], Any], steps: int) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) / steps


def stretched(run: Callable[[], Any], steps: int, least: float = 0.05) -> Callable[[], float]:
    """`again`: the schedule's steps, repeated until a sample lasts at least `least` seconds."""
    repeats = 0

    def again():
        nonlocal repeats
        if not repeats:
            once = seconds_per_step(run, 1)
            repeats = max(1, round(least / once))
        return seconds_per_step(lambda: [run() for _ in range(repeats)], repeats * steps)

    return again


def params_from(arrays) -> Any:
    """[(weight, bias), …] of the layers that have params, as JAX arrays; None for a bias that is not there."""
    import jax.numpy as jnp

    count = sum(name.startswith("weight") for name in arrays)
    biases = [arrays.get(f"bias{i}") for i in range(count)]
    return [(jnp.asarray(arrays[f"weight{i}"]), None if b is None else jnp.asarray(b)) for i, b in enumerate(biases)]


def optimizer_from(workload):
    import optax

    return (optax.sgd if workload["optimizer"] == "sgd" else optax.adam)(workload["learning_rate"])


def loss_from(workload):
    import jax.numpy as jnp
    import optax

    if workload["loss"] == "cross_entropy":
        return lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, y).mean()
    return lambda out, y: jnp.square(out - y).mean()


def jax_step(forward, workload):
    """`(params, opt_state), batch -> (params, opt_state), loss`."""
    import jax
    import optax

    optimizer, loss_of = optimizer_from(workload), loss_from(workload)

    def step(carry, batch):
        params, opt_state = carry
        x, y = batch
        value, grads = jax.value_and_grad(lambda params: loss_of(forward(params, x), y))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return optimizer, step


def python_loop(step_once, order, x, y, wait):
    """A compiled step called from Python; `step_once(batch) -> loss`, `wait` turns losses into numbers."""

    def rows(i):
        return x[order[i]], y[order[i]]

    def first():
        return wait([step_once(rows(0))])

    def rest():
        return wait([step_once(rows(i)) for i in range(1, len(order))])

    def train_on():
        return wait([step_once(rows(i)) for i in range(len(order))])

    return first, rest, stretched(train_on, len(order))


def as_numbers(losses):
    import jax

    return np.asarray(jax.device_get(losses), np.float64)


def functional(job, forward, params_of, predict):
    import jax

    workload = job["workload"]
    optimizer, step = jax_step(forward, workload)
    jitted = jax.jit(step, donate_argnums=0)

    def make(arrays):
        params = jax.tree.map(lambda leaf: leaf.copy(), params_of(arrays))
        state = {"carry": (params, optimizer.init(params))}

        def once(batch):
            state["carry"], value = jitted(state["carry"], batch)
            return value

        first, rest, again = python_loop(once, arrays["order"], arrays["x"], arrays["y"], as_numbers)
        return Trainer(first, rest, again, lambda x: predict(state["carry"][0], x))

    return make
