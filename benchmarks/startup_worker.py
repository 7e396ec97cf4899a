"""One start-up measurement in a process of its own: `python -m benchmarks.startup_worker JOB` prints one JSON line.

A job is {"import": module}, or {"step": name of a function below} for the first training step (or first gradient) of
the digits dense network: 64-128-10, batch 64, Adam.
"""

import importlib
import json
import sys
import time

# `import jaxbias` alone brings nothing, not even JAX: what a program uses of it is asked for too.
_JAXBIAS = "chain freeze initializers io layers losses penalties roles capture summary value_and_grad"
USED = {"jaxbias": _JAXBIAS.split()}


def import_seconds(module: str) -> dict:
    began = time.perf_counter()
    imported = importlib.import_module(module)
    for name in USED.get(module, ()):
        getattr(imported, name)
    return {"seconds": time.perf_counter() - began}


def first_step(name: str) -> dict:
    import jax

    imported = time.perf_counter()
    step = STEPS[name]()
    jax.block_until_ready(step())
    return {"seconds": time.perf_counter() - imported}


def _batch():
    import numpy as np

    random = np.random.default_rng(0)
    return random.standard_normal((64, 64)).astype(np.float32), random.integers(0, 10, 64).astype(np.int32)


def jaxbias():
    """The first step of `fit`, with its checks and its compiling."""
    import jax
    import optax

    import jaxbias as jb

    x, y = _batch()
    network = jb.chain(jb.layers.dense.layer(128), jb.layers.relu, jb.layers.dense.layer(10))
    params = network.init(jax.random.key(0), x)

    def step():
        return jb.train.fit(
            network, jb.losses.cross_entropy, params, (x, y), optax.adam(1e-3),
            epochs=1, batch_size=64, key=jax.random.key(1),
        ).params  # fmt: skip

    return step


def jaxbias_gradient():
    """The first call of `value_and_grad`."""
    import jax

    import jaxbias as jb

    x, y = _batch()
    network = jb.chain(jb.layers.dense.layer(128), jb.layers.relu, jb.layers.dense.layer(10))
    params = network.init(jax.random.key(0), x)
    return lambda: jb.value_and_grad(network, jb.losses.cross_entropy)(params, x, y)


def jax_by_hand():
    import jax
    import jax.numpy as jnp
    import optax

    x, y = _batch()
    draw = jax.nn.initializers.lecun_normal()
    params = [(draw(jax.random.key(i), shape), jnp.zeros(shape[1])) for i, shape in enumerate([(64, 128), (128, 10)])]
    optimizer = optax.adam(1e-3)

    def loss(params):
        (w1, b1), (w2, b2) = params
        out = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    @jax.jit
    def step(params, opt_state):
        grads = jax.grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates)

    return lambda: step(params, optimizer.init(params))


def nnx():
    import optax
    from flax import nnx

    x, y = _batch()

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.hidden, self.out = nnx.Linear(64, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.hidden(x)))

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss)(model))
        return nnx.state(model, nnx.Param)

    return lambda: step(model, optimizer)


STEPS = {"jaxbias": jaxbias, "jaxbias, value_and_grad": jaxbias_gradient, "jax by hand": jax_by_hand, "nnx": nnx}

if __name__ == "__main__":
    JOB = json.loads(sys.argv[1])
    print(json.dumps(import_seconds(JOB["import"]) if "import" in JOB else first_step(JOB["step"])))
