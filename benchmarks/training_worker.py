"""One training contender in a process of its own: `python -m benchmarks.training_worker JOB` prints one JSON line.

A contender is a function of the job and its arrays that returns a `Trainer`. All start from the same params, see the
same rows in the same order, and run the same optimizer in float32.
"""

# The peers' own annotations are narrower than what they accept.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportCallIssue=false, reportFunctionMemberAccess=false

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

STARTED = time.perf_counter()

import numpy as np  # noqa: E402  (the clock starts before any import)


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


def main(job: dict[str, Any]) -> dict[str, Any]:
    make = CONTENDERS[job["contender"]](job)  # imports
    imported = time.perf_counter()
    arrays = dict(np.load(job["arrays"]))
    began = time.perf_counter()
    trainer = make(arrays)
    first_loss = np.ravel(trainer.first())
    first_step_s = time.perf_counter() - began
    rest = trainer.rest()
    total_s = time.perf_counter() - began
    losses = None if rest is None else np.concatenate([first_loss, np.ravel(rest)])
    out, y = np.asarray(trainer.predict(arrays["x_test"])), arrays["y_test"]
    is_labels = job["workload"]["loss"] == "cross_entropy"
    return {
        "import_s": imported - STARTED,
        "first_step_s": first_step_s if trainer.first_s is None else trainer.first_s(),
        "total_s": total_s,
        "losses": [] if losses is None else losses[:10].tolist(),
        "mean_loss": None if losses is None else float(losses.mean()),
        "score": float((out.argmax(1) == y).mean() if is_labels else np.square(out - y).mean()),
        "samples": [trainer.again() for _ in range(job["rounds"])],
    }


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


# --- this library, and JAX by hand ------------------------------------------------------------------------------------


def _params(arrays):
    """[(weight, bias), …] of the affine layers, as JAX arrays."""
    import jax.numpy as jnp

    count = sum(name.startswith("weight") for name in arrays)
    return [(jnp.asarray(arrays[f"weight{i}"]), jnp.asarray(arrays[f"bias{i}"])) for i in range(count)]


def _optimizer(workload):
    import optax

    return (optax.sgd if workload["optimizer"] == "sgd" else optax.adam)(workload["learning_rate"])


def jaxbias_fit(job):
    import jax

    import jaxbias as jb
    from benchmarks.workloads import fit_key, network

    workload = job["workload"]
    loss = jb.losses.cross_entropy if workload["loss"] == "cross_entropy" else jb.losses.mean_squared_error

    def make(arrays):
        net, affine = network(workload["name"]), iter(_params(arrays))
        shapes = jax.eval_shape(net.init, jax.random.key(0), arrays["x"][:1])
        start = tuple(jb.Params(*next(affine)) if layer else () for layer in shapes)
        state = {}

        def fit(epochs, progress=None):
            return jb.train.fit(
                net, loss, start, (arrays["x"], arrays["y"]), _optimizer(workload), epochs=epochs,
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


def _plain_forward(name, pool="reduce_window", convolution="lax"):
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

    return cnn if name == "digits_conv" else dense


def _loss_of(workload):
    import jax.numpy as jnp
    import optax

    if workload["loss"] == "cross_entropy":
        return lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, y).mean()
    return lambda out, y: jnp.square(out - y).mean()


def _jax_step(forward, workload):
    """`(params, opt_state), batch -> (params, opt_state), loss`."""
    import jax
    import optax

    optimizer, loss_of = _optimizer(workload), _loss_of(workload)

    def step(carry, batch):
        params, opt_state = carry
        x, y = batch
        value, grads = jax.value_and_grad(lambda params: loss_of(forward(params, x), y))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return optimizer, step


def jax_scan(job):
    """Hand-written JAX: all steps of some epochs, with the drawing of their order, in one compiled program."""
    import jax
    import jax.numpy as jnp

    from benchmarks.workloads import epoch_order

    workload = job["workload"]
    forward = _plain_forward(workload["name"], job.get("pool", "reduce_window"), job.get("convolution", "lax"))
    optimizer, step = _jax_step(forward, workload)

    def make(arrays):
        x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
        epochs = workload["epochs"]
        steps = len(x) // workload["batch"]
        params = _params(arrays)
        state = {"carry": (params, optimizer.init(params))}

        def one_epoch(carry, epoch):
            order = epoch_order(epoch, len(x), workload["batch"])
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


def _python_loop(step_once, order, x, y, wait):
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


def _as_numbers(losses):
    import jax

    return np.asarray(jax.device_get(losses), np.float64)


def jax_loop(job):
    """Hand-written JAX: one jitted step with donated buffers, called from Python."""
    import jax

    workload = job["workload"]
    forward = _plain_forward(workload["name"], job.get("pool", "reduce_window"), job.get("convolution", "lax"))
    return _functional(job, forward, _params, jax.jit(forward))


def _functional(job, forward, params_of, predict):
    import jax

    workload = job["workload"]
    optimizer, step = _jax_step(forward, workload)
    jitted = jax.jit(step, donate_argnums=0)

    def make(arrays):
        params = jax.tree.map(lambda leaf: leaf.copy(), params_of(arrays))
        state = {"carry": (params, optimizer.init(params))}

        def once(batch):
            state["carry"], value = jitted(state["carry"], batch)
            return value

        first, rest, again = _python_loop(once, arrays["order"], arrays["x"], arrays["y"], _as_numbers)
        return Trainer(first, rest, again, lambda x: predict(state["carry"][0], x))

    return make


# --- other libraries on JAX -------------------------------------------------------------------------------------------


def linen(job):
    import flax.linen as nn
    import jax

    class Dense(nn.Module):
        widths: tuple[int, ...]

        @nn.compact
        def __call__(self, x):
            for width in self.widths[:-1]:
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(self.widths[-1])(x)

    class Cnn(nn.Module):
        @nn.compact
        def __call__(self, x):
            for channels in (16, 32):
                x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), strides=(2, 2))
            return nn.Dense(10)(x.reshape((x.shape[0], -1)))

    name = job["workload"]["name"]
    model = Cnn() if name == "digits_conv" else Dense(WIDTHS[name])
    names = ["Conv_0", "Conv_1", "Dense_0"] if name == "digits_conv" else [f"Dense_{i}" for i in range(2)]

    def params_of(arrays):
        return {"params": {n: {"kernel": w, "bias": b} for n, (w, b) in zip(names, _params(arrays))}}

    return _functional(job, model.apply, params_of, jax.jit(model.apply))


WIDTHS = {"lin": (1,), "xor": (2, 1), "digits_dense": (128, 10)}


def haiku(job):
    import haiku as hk
    import jax

    name = job["workload"]["name"]

    def network(x):
        if name == "digits_conv":
            for channels in (16, 32):
                x = hk.max_pool(jax.nn.relu(hk.Conv2D(channels, 3)(x)), (2, 2, 1), (2, 2, 1), "VALID")
            return hk.Linear(10)(x.reshape(x.shape[0], -1))
        for width in WIDTHS[name][:-1]:
            x = jax.nn.relu(hk.Linear(width)(x))
        return hk.Linear(WIDTHS[name][-1])(x)

    model = hk.without_apply_rng(hk.transform(network))
    names = ["conv2_d", "conv2_d_1", "linear"] if name == "digits_conv" else ["linear", "linear_1"]

    def params_of(arrays):
        return {n: {"w": w, "b": b} for n, (w, b) in zip(names, _params(arrays))}

    return _functional(job, model.apply, params_of, jax.jit(model.apply))


def nnx(job):
    import jax.numpy as jnp
    from flax import nnx

    workload = job["workload"]
    name = workload["name"]
    loss_of = _loss_of(workload)

    class Network(nnx.Module):
        def __init__(self, params):
            rngs = nnx.Rngs(0)
            self.layers = nnx.List()
            for w, b in params:
                if w.ndim == 4:
                    layer = nnx.Conv(w.shape[2], w.shape[3], (3, 3), rngs=rngs)
                else:
                    layer = nnx.Linear(*w.shape, rngs=rngs)
                layer.kernel.value, layer.bias.value = w, b
                self.layers.append(layer)

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = nnx.relu(layer(x))
                if name == "digits_conv":
                    x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            return self.layers[-1](x.reshape(x.shape[0], -1))

    def make(arrays):
        model = Network(_params(arrays))
        optimizer = nnx.Optimizer(model, _optimizer(workload), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, y):
            value, grads = nnx.value_and_grad(lambda model: loss_of(model(x), y))(model)
            optimizer.update(model, grads)
            return value

        run = nnx.cached_partial(step, model, optimizer) if job.get("cached") else lambda *b: step(model, optimizer, *b)
        first, rest, again = _python_loop(
            lambda batch: run(*batch), arrays["order"], arrays["x"], arrays["y"], _as_numbers
        )
        return Trainer(first, rest, again, lambda x: model(jnp.asarray(x)))

    return make


def equinox(job):
    import equinox as eqx
    import jax

    workload = job["workload"]
    name, loss_of, optimizer = workload["name"], _loss_of(workload), _optimizer(workload)

    class Network(eqx.Module):
        layers: list

        def __call__(self, x):
            if name == "digits_conv":
                x = x.transpose(2, 0, 1)
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
                if name == "digits_conv":
                    x = eqx.nn.MaxPool2d(2, 2)(x)
            if name == "digits_conv":
                x = x.transpose(1, 2, 0).ravel()
            return self.layers[-1](x)

    def layer_of(w, b):
        key = jax.random.key(0)
        if w.ndim == 4:
            layer = eqx.nn.Conv2d(w.shape[2], w.shape[3], 3, padding=1, key=key)
            new = w.transpose(3, 2, 0, 1), b[:, None, None]
        else:
            layer, new = eqx.nn.Linear(*w.shape, key=key), (w.T, b)
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, new)

    def make(arrays):
        model = Network([layer_of(w, b) for w, b in _params(arrays)])
        state = {"model": model, "opt": optimizer.init(eqx.filter(model, eqx.is_array))}

        @eqx.filter_jit
        def step(model, opt_state, x, y):
            value, grads = eqx.filter_value_and_grad(lambda model: loss_of(jax.vmap(model)(x), y))(model)
            updates, opt_state = optimizer.update(grads, opt_state, model)
            return eqx.apply_updates(model, updates), opt_state, value

        def once(batch):
            state["model"], state["opt"], value = step(state["model"], state["opt"], *batch)
            return value

        first, rest, again = _python_loop(once, arrays["order"], arrays["x"], arrays["y"], _as_numbers)
        return Trainer(first, rest, again, lambda x: jax.vmap(state["model"])(x))

    return make


def keras(job):
    """Keras 3 on JAX: `fit` over the rows in their order, which is Keras' fastest way."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as k

    workload = job["workload"]
    name = workload["name"]

    def make(arrays):
        layers = []
        if name == "digits_conv":
            for channels in (16, 32):
                layers += [k.layers.Conv2D(channels, 3, padding="same", activation="relu"), k.layers.MaxPooling2D(2)]
            layers += [k.layers.Flatten(), k.layers.Dense(10)]
        else:
            layers = [k.layers.Dense(w, activation="relu") for w in WIDTHS[name][:-1]]
            layers += [k.layers.Dense(WIDTHS[name][-1])]
        model = k.Sequential(layers)
        model.build((None, *arrays["x"].shape[1:]))
        model.set_weights([np.asarray(leaf) for pair in _params(arrays) for leaf in pair])
        rate = workload["learning_rate"]
        loss = k.losses.MeanSquaredError()
        if workload["loss"] == "cross_entropy":
            loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = k.optimizers.SGD(rate) if workload["optimizer"] == "sgd" else k.optimizers.Adam(rate, epsilon=1e-8)
        model.compile(optimizer=optimizer, loss=loss)
        order = arrays["order"]

        def fit(order):
            rows = order.ravel()
            history = model.fit(
                arrays["x"][rows], arrays["y"][rows], batch_size=workload["batch"], shuffle=False, verbose=0
            )
            return history.history["loss"]

        state = {}

        def rest():
            fit(order[1:])
            # Keras shows the mean loss only, and keeps its weights: no losses, the score is compared
            state["trained"] = model.get_weights()

        def predict(x):
            return model.predict(x, verbose=0)

        return Trainer(lambda: fit(order[:1]), rest, stretched(lambda: fit(order), len(order)), predict)

    return make


# --- without compiling ------------------------------------------------------------------------------------------------


def numpy_by_hand(job):
    """The dense workloads in NumPy, with the formulas (BP1)-(BP4)."""
    workload = job["workload"]

    def make(arrays):
        params = [np.array(arrays[f"{what}{i}"]) for i in range(_affine(arrays)) for what in ("weight", "bias")]
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
        x, y, order = arrays["x"], arrays["y"], arrays["order"]
        count = [0]

        def forward(x):
            kept = [x]
            for i in range(0, len(params), 2):
                z = kept[-1] @ params[i] + params[i + 1]
                kept.append(z if i == len(params) - 2 else np.maximum(z, 0))
            return kept

        def gradient(x, y):
            *kept, out = forward(x)
            if workload["loss"] == "mse":
                value, delta = np.square(out - y).mean(), 2 * (out - y) / out.size
            else:
                shifted = out - out.max(axis=1, keepdims=True)
                e = np.exp(shifted)
                total = e.sum(axis=1, keepdims=True)
                rows = np.arange(len(y))
                value = (np.log(total[:, 0]) - shifted[rows, y]).mean()
                delta = e / total
                delta[rows, y] -= 1
                delta /= len(y)
            grads = []
            for i in range(len(params) - 2, -1, -2):
                a = kept[i // 2]
                grads = [a.T @ delta, delta.sum(axis=0), *grads]
                if i:
                    delta = (delta @ params[i].T) * (a > 0)
            return value, grads

        def step(rows):
            value, grads = gradient(x[rows], y[rows])
            rate = workload["learning_rate"]
            count[0] += 1
            if workload["optimizer"] == "sgd":
                for p, g in zip(params, grads):
                    p -= rate * g
                return value
            first, second = 1 - 0.9 ** count[0], 1 - 0.999 ** count[0]
            for p, g, (m, v) in zip(params, grads, moments):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= (rate / first) * m / (np.sqrt(v / second) + 1e-8)
            return value

        return Trainer(
            lambda: step(order[0]),
            lambda: [step(rows) for rows in order[1:]],
            stretched(lambda: [step(rows) for rows in order], len(order)),
            lambda x: forward(x)[-1],
        )

    return make


def _affine(arrays) -> int:
    return sum(name.startswith("weight") for name in arrays)


def sklearn(job):
    """scikit-learn's MLPClassifier: its own initial weights and order; only its score is compared."""
    from sklearn.neural_network import MLPClassifier

    workload = job["workload"]

    def make(arrays):
        x, y = arrays["x"].astype(np.float32), arrays["y"]
        make_model = lambda: MLPClassifier(
            (128,), batch_size=workload["batch"], learning_rate_init=workload["learning_rate"], alpha=0,
            max_iter=workload["epochs"], n_iter_no_change=10**6, random_state=0,
        )  # fmt: skip
        state = {"model": make_model()}
        steps = -(-len(x) // workload["batch"]) * workload["epochs"]

        def train():
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it has not converged after the epochs asked for
                state["model"] = make_model().fit(x, y)

        def rest():
            return None

        def first():
            train()
            return 0.0

        return Trainer(first, rest, stretched(train, steps), lambda x: state["model"].predict_proba(x))

    return make


CONTENDERS = {
    "jaxbias": jaxbias_fit,
    "jax_scan": jax_scan,
    "jax_loop": jax_loop,
    "linen": linen,
    "haiku": haiku,
    "nnx": nnx,
    "equinox": equinox,
    "keras": keras,
    "numpy": numpy_by_hand,
    "sklearn": sklearn,
}

if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
