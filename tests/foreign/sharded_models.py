"""What `test_shardings.py` runs on eight devices: forward sums over devices, counted in the compiled program."""

import re
import sys
from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbias as jb

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import Model, build

MESH = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
X, Y = jax.random.normal(jax.random.key(1), (8, 6)), jax.random.normal(jax.random.key(2), (8, 3))


def of(apply, params):
    return Model(lambda p, example: jnp.sum((apply(p, example[0]) - example[1]) ** 2), params, (X, Y), str)


def own():
    network = jb.chain(jb.layers.dense.layer(8), jb.layers.gelu, jb.layers.dense.layer(3))
    return of(lambda p, x: network.forward(p, x[None])[0][0], network.init(jax.random.key(0), X))


def haiku():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 3])(x)))
    return of(model.apply, model.init(jax.random.key(0), X[0]))


if __name__ == "__main__":
    NAMES = [
        "plain",
        "linen attention",
        "linen tied transformer",
        "linen scan over layers",
        "Equinox MLP",
        "Equinox conv",
    ]
    for name, model in {**{n: build(n) for n in NAMES}, "jaxbias": own(), "Haiku": haiku()}.items():
        specs = jb.shardings(model.loss, model.params, jax.tree.map(lambda a: a[0], model.batch), mesh=MESH)
        arrays = jax.tree.map(lambda spec: NamedSharding(MESH, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P))
        leaves, treedef = jax.tree.flatten(model.params)
        held = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

        def total(values, batch, model=model, leaves=leaves, treedef=treedef, held=held):
            params = treedef.unflatten([dict(zip(held, values)).get(k, leaf) for k, leaf in enumerate(leaves)])
            return sum(jax.vmap(model.loss, (None, 0))(params, batch))

        values = [leaves[k] for k in held]
        cut = jax.device_put(values, jax.tree.leaves(arrays))
        batch = jax.device_put(model.batch, NamedSharding(MESH, P()))
        assert len(jax.tree.leaves(arrays)) == len(values), name
        for got, want in zip(jax.jit(jax.grad(total))(cut, batch), jax.grad(total)(values, model.batch), strict=True):
            scale = np.abs(want).max() + 1.0
            np.testing.assert_allclose(got, want, rtol=0, atol=1e3 * np.finfo(want.dtype).eps * scale, err_msg=name)
        text = jax.jit(total).lower(cut, batch).compile().as_text() or ""
        assert not re.findall(r"= \S+ (all-gather|all-to-all|collective-permute)", text), name
        sums = re.findall(r" all-reduce(?:-start)?\(", text)
        print(f"{name}: {len(sums)}", flush=True)
