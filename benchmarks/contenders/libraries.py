"""Other libraries on JAX."""

# The peers' own annotations are narrower than what they accept.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportCallIssue=false, reportFunctionMemberAccess=false

import os

import numpy as np

from benchmarks.contenders import language
from benchmarks.contenders.trainer import (
    Trainer,
    as_numbers,
    functional,
    loss_from,
    optimizer_from,
    params_from,
    python_loop,
    stretched,
)


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
        return {"params": {n: {"kernel": w, "bias": b} for n, (w, b) in zip(names, params_from(arrays))}}

    return functional(job, model.apply, params_of, jax.jit(model.apply))


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
        return {n: {"w": w, "b": b} for n, (w, b) in zip(names, params_from(arrays))}

    return functional(job, model.apply, params_of, jax.jit(model.apply))


def nnx(job):
    import jax.numpy as jnp
    from flax import nnx

    workload = job["workload"]
    name = workload["name"]
    loss_of = loss_from(workload)

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
        model = (language.nnx_network if name == "text" else Network)(params_from(arrays))
        optimizer = nnx.Optimizer(model, optimizer_from(workload), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, y):
            value, grads = nnx.value_and_grad(lambda model: loss_of(model(x), y))(model)
            optimizer.update(model, grads)
            return value

        run = nnx.cached_partial(step, model, optimizer) if job.get("cached") else lambda *b: step(model, optimizer, *b)
        first, rest, again = python_loop(
            lambda batch: run(*batch), arrays["order"], arrays["x"], arrays["y"], as_numbers
        )
        return Trainer(first, rest, again, lambda x: model(jnp.asarray(x)))

    return make


def equinox(job):
    import equinox as eqx
    import jax

    workload = job["workload"]
    name, loss_of, optimizer = workload["name"], loss_from(workload), optimizer_from(workload)

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
        params = params_from(arrays)
        model = language.equinox_network(params) if name == "text" else Network([layer_of(*pair) for pair in params])
        state = {"model": model, "opt": optimizer.init(eqx.filter(model, eqx.is_array))}

        @eqx.filter_jit
        def step(model, opt_state, x, y):
            value, grads = eqx.filter_value_and_grad(lambda model: loss_of(jax.vmap(model)(x), y))(model)
            updates, opt_state = optimizer.update(grads, opt_state, model)
            return eqx.apply_updates(model, updates), opt_state, value

        def once(batch):
            state["model"], state["opt"], value = step(state["model"], state["opt"], *batch)
            return value

        first, rest, again = python_loop(once, arrays["order"], arrays["x"], arrays["y"], as_numbers)
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
        model.set_weights([np.asarray(leaf) for pair in params_from(arrays) for leaf in pair])
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
