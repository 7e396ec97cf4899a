"""The step that `fit` carries out, compiled for one H100 in a process of its own: what `test_backends.py` reads."""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxbias as jb
from benchmarks.compiled import Target, facts_of_compiled
from jaxbias.train._optimizer import prepared
from jaxbias.train._step import Learned, Objective


def facts(target: Target, rows: int = 1024, width: int = 4096) -> dict[str, Any]:
    """Two hidden layers, ReLU and tanh, and ten outputs, in bfloat16 with params and Adam's moments in float32."""
    L = jb.layers
    network = jb.chain(L.dense.layer(width), L.relu, L.dense.layer(width), L.tanh, L.dense.layer(10))
    optimizer = prepared(optax.adam(1e-3), "fit")
    objective = Objective.of(network, jb.losses.cross_entropy, None, "delta", jnp.bfloat16)
    x, labels = jax.ShapeDtypeStruct((rows, width), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), x)
    learned = jax.eval_shape(lambda params: Learned.at_start(optimizer, params, None), params)
    whole = NamedSharding(target.mesh(rows=1), PartitionSpec())
    args = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), (learned, (x, labels))
    )
    return facts_of_compiled(lambda *of: objective.step(*of, optimizer), args, target.platform, 1)


if __name__ == "__main__":
    print(json.dumps(facts(Target(*json.loads(sys.argv[1])["target"]))))
