"""A user's script, whose types pyright and mypy must know from the installed package: `tests/typing/check.sh`."""

from typing import Any, NamedTuple, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

import jaxbias as jb
from jaxbias.foreign.capture import Capture, KroneckerFactors, NoiseScale, PerExampleNorms
from jaxbias.foreign.contact import Contact
from jaxbias.train import Fit, Sweep
from jaxbias.verify import Diagnosis, Leaf, Report

Network = tuple[jb.Params, tuple[()], jb.Params]
key, x, y = jax.random.key(0), jnp.ones((8, 4)), jnp.zeros(8, jnp.int32)

# layers and networks
assert_type(jb.layers.relu, jb.Layer[tuple[()]])
assert_type(jb.layers.dense.layer(3), jb.Layer[jb.Params])
network = jb.chain(jb.layers.dense.layer(16), jb.layers.relu, jb.layers.dense.layer(3))
assert_type(network, jb.Layer[Network])
long: jb.Layer[tuple[Any, ...]] = jb.chain(*[jb.layers.relu] * 12)
assert_type(jb.residual(jb.layers.dense.layer(4)), jb.Layer[jb.Params])
params = network.init(key, x)
assert_type(params, Network)
assert_type(params[2].weight, jax.Array)
out, residuals = network.forward(params, x)
assert_type(out, jax.Array)
assert_type(network.backward(residuals, out)[0], Network)
assert_type(jb.layers.dense.init(key, 4, 3), jb.Params)
assert_type(jb.inference(network), jb.Layer[Network])


# losses: a module, a configured one, and one's own
class Own(NamedTuple):
    scale: float

    def forward(self, out: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.scale * out.sum(), out

    def backward(self, residuals: jax.Array) -> jax.Array:
        return jnp.full_like(residuals, self.scale)


losses: list[jb.losses.Loss] = [jb.losses.huber, jb.losses.cross_entropy.loss(label_smoothing=0.1), Own(2.0)]
step = jb.value_and_grad(network, jb.losses.cross_entropy)
value, grads = step(params, x, y)
assert_type(value, jax.Array)
assert_type(grads, Network)
(_, (_, state)), grads = jb.value_and_grad(network, losses[1], "autodiff", has_aux=True)(params, x, y)
assert_type(jb.deltas(network, losses[2])(params, x, y), dict[str, jax.Array])
assert_type(jb.as_function(network)(params, x), jax.Array)
updates, _ = optax.adam(1e-3).update(grads, optax.adam(1e-3).init(params), params)
optax.apply_updates(params, updates)

# training, files
result = jb.train.fit(network, losses[0], params, (x, y), optax.adam(1e-3), epochs=1, batch_size=4, key=key)
assert_type(result, Fit[Network])
assert_type(result.params[0].weight, jax.Array)
assert_type(result.history["loss"], np.ndarray)
sweep = jb.train.sweep(network, jb.losses.cross_entropy, (x, y), optax.sgd(0.1), keys=key[None], epochs=1, batch_size=4)
assert_type(sweep, Sweep)
assert_type(sweep.final("loss"), np.ndarray)
assert_type(jb.io.load("params.safetensors", like=params), Network)
assert_type(jb.set_weights(params, jb.get_weights(params)), Network)
assert_type(str(jb.summary(params, network, x)), str)
assert_type(jb.summary(params).total.biases, int)


# anyone's model
def model(params: Network, x: jax.Array) -> jax.Array:
    return jb.as_function(network)(params, x)


def loss(params: Network, x: jax.Array) -> jax.Array:
    return model(params, x).sum()


roles = jb.roles(model, params, x)
optimizer: optax.GradientTransformation = optax.adamw(1e-3, mask=jb.no_decay(roles))
assert_type(jb.contacts(model, params, x), tuple[Contact, ...])
assert_type(jb.capture(loss)(params, x), Capture)
assert_type(jb.per_example_norms(loss)(params, x), PerExampleNorms)
assert_type(jb.ggn_diagonal(model)(params, x), Network)
assert_type(jb.noise_scale(loss)(params, x), NoiseScale)
assert_type(jb.kfac_factors(loss)(params, x), dict[str, KroneckerFactors])

# the checker
report = jb.verify.layer(network, params, x)
assert_type(report, Report)
assert_type(report.ok, bool)
assert_type(report.leaves["0.bias"], Leaf)
assert_type(report.leaves["0.bias"].max_error, float | int)
assert_type(report.diagnoses, tuple[Diagnosis, ...])
assert_type(jb.verify.leaf_errors(network.forward, network.backward, params, x, out), dict[str, float])
