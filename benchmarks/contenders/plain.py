"""This library, and JAX by hand."""

import itertools
import time
from typing import Any

import numpy as np

from benchmarks.contenders import language
from benchmarks.contenders.trainer import Trainer, functional, jax_step, optimizer_from, params_from, stretched


def jaxbias_fit(job):
    import jax

    import jaxbias as jb
    from benchmarks.workloads import filled, fit_key, network

    workload = job["workload"]
    loss = jb.losses.cross_entropy if workload["loss"] == "cross_entropy" else jb.losses.mean_squared_error

    def make(arrays):
        net = network(workload["name"])
        start = filled(jax.eval_shape(net.init, jax.random.key(0), arrays["x"][:1]), arrays)
        state = {}

        def fit(epochs, progress=None):
            return jb.train.fit(
                net, loss, start, (arrays["x"], arrays["y"]), optimizer_from(workload), epochs=epochs,
                batch_size=workload["batch"], key=fit_key(), progress=progress, loop=job.get("loop", "auto"),
            )  # fmt: skip

        def first():
            # fit is one call: its first epoch ends when the first progress is told
            began, told = time.perf_counter(), []
            state["fit"] = fit(workload["epochs"], lambda progress: told.append(time.perf_counter() - began))
            state["first_s"] = told[0]
            return state["fit"].history["step_loss"].ravel()[0]

        def rest():
            return state["fit"].history["step_loss"].ravel()[1:]

        steps = arrays["order"].shape[0] // workload["epochs"]

        def again():
            if "stretches" not in state:
                marks = []
                total = max(2 * workload["epochs"], int(job["steady_s"] / job["guess_s"] / steps))
                fit(total, lambda progress: marks.append((time.perf_counter(), progress.epoch)))
                state["stretches"] = [
                    (t1 - t0) / ((e1 - e0) * steps) for (t0, e0), (t1, e1) in itertools.pairwise(marks[1:])
                ] or [(marks[-1][0] - marks[0][0]) / ((marks[-1][1] - marks[0][1]) * steps)]
            taken = state["stretches"]
            state["i"] = state.get("i", -1) + 1
            return taken[state["i"] % len(taken)]

        def predict(x):
            return net.forward(state["fit"].params, x)[0]

        return Trainer(first, rest, again, predict, lambda: state["first_s"])

    return make


def plain_forward(name, pool="reduce_window", convolution="lax"):
    """The network in plain JAX: `[(weight, bias), …], x -> out`."""
    import jax
    import jax.numpy as jnp

    def convolve(x, weight, bias):
        if convolution == "lax":
            z = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return z + bias
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return jnp.concatenate(patches, axis=-1) @ weight.reshape(-1, weight.shape[-1]) + bias

    def max_pool(x):
        if pool == "reduce_window":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        n, height, width, channels = x.shape
        return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))

    def dense(params, x):
        *hidden, (weight, bias) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        return x @ weight + bias

    def cnn(params, x):
        for w, b in params[:2]:
            x = max_pool(jax.nn.relu(convolve(x, w, b)))
        return x.reshape(len(x), -1) @ params[2][0] + params[2][1]

    return {"digits_conv": cnn, "text": language.plain_forward}.get(name, dense)


def jax_scan(job):
    """Hand-written JAX: all steps of some epochs, with the drawing of their order, in one compiled program."""
    import jax
    import jax.numpy as jnp

    from benchmarks.workloads import epoch_order, fit_key

    workload = job["workload"]
    forward = plain_forward(workload["name"], job.get("pool", "reduce_window"), job.get("convolution", "lax"))
    optimizer, step = jax_step(forward, workload)

    def make(arrays):
        x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
        epochs = workload["epochs"]
        steps = len(x) // workload["batch"]
        params = params_from(arrays)
        state: dict[str, Any] = {"carry": (params, optimizer.init(params))}

        def one_epoch(carry, epoch):
            order = epoch_order(fit_key(), epoch, len(x), workload["batch"])
            return jax.lax.scan(lambda carry, rows: step(carry, (x[rows], y[rows])), carry, order)

        compiled = jax.jit(lambda carry, numbers: jax.lax.scan(one_epoch, carry, numbers))

        def run():
            carry, losses = compiled(state["carry"], jnp.arange(epochs))
            return carry, np.asarray(losses)

        def first():
            state["carry"], state["losses"] = run()
            return state["losses"].ravel()[0]

        def train_on():
            state["carry"], _ = run()

        return Trainer(
            first,
            lambda: state["losses"].ravel()[1:],
            stretched(train_on, epochs * steps),
            lambda x: forward(state["carry"][0], x),
        )

    return make


def jax_loop(job):
    """Hand-written JAX: one jitted step with donated buffers, called from Python."""
    import jax

    workload = job["workload"]
    forward = plain_forward(workload["name"], job.get("pool", "reduce_window"), job.get("convolution", "lax"))
    return functional(job, forward, params_from, jax.jit(forward))
