"""What `test_shardings.py` runs on eight devices: forward sums over devices, counted in the compiled program."""

import re
import sys
from pathlib import Path

import equinox as eqx
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
WITH_EXPERTS = jax.make_mesh((2, 2, 2), ("data", "model", "expert"), axis_types=(AxisType.Auto,) * 3)
X, Y = jax.random.normal(jax.random.key(1), (8, 6)), jax.random.normal(jax.random.key(2), (8, 3))


def of(apply, params, batch=(X, Y)):
    return Model(lambda p, example: jnp.sum((apply(p, example[0]) - example[1]) ** 2), params, batch, str)


def own():
    network = jb.chain(jb.layers.dense.layer(8), jb.layers.gelu, jb.layers.dense.layer(3))
    return of(lambda p, x: network.forward(p, x[None])[0][0], network.init(jax.random.key(0), X))


def haiku():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 3])(x)))
    return of(model.apply, model.init(jax.random.key(0), X[0]))


TOKENS = jax.random.normal(jax.random.key(3), (2, 7, 6)), jax.random.normal(jax.random.key(4), (2, 7, 3))


def own_experts():
    expert = jb.chain(jb.layers.dense.layer(8), jb.layers.gelu, jb.layers.dense.layer(3))
    layer = jb.layers.moe.layer(expert, experts=4, top=2, capacity=5)
    return of(lambda p, x: layer.forward(p, x)[0], layer.init(jax.random.key(0), TOKENS[0][0]), TOKENS)


def whole(array):
    """What a router makes, which the compiler would spread over the devices of the experts, and gather for its sums."""
    return jax.lax.with_sharding_constraint(array, NamedSharding(WITH_EXPERTS, P())) if CUT else array


def plain_experts():
    """Rows are sent to the best expert and back by products with masks, as GShard and Switch do it."""

    def apply(params, x):
        gates = jax.nn.softmax(x @ params["router"] + params["router bias"])
        chosen = jax.nn.one_hot(gates.argmax(-1), 4, dtype=x.dtype)
        place = ((jnp.cumsum(chosen, 0) - 1) * chosen).sum(-1).astype(int)
        sent = whole(chosen[:, :, None] * jax.nn.one_hot(place, 5, dtype=x.dtype)[:, None])
        h = jnp.einsum("tec,td->ecd", sent, x)
        h = jax.nn.relu(jnp.einsum("ecd,edf->ecf", h, params["up"]) + params["up bias"][:, None])
        h = jnp.einsum("ecf,efo->eco", h, params["down"]) + params["down bias"][:, None]
        return jnp.einsum("tec,eco->to", sent * whole(gates)[:, :, None], h)

    shapes = {
        "router": (6, 4), "router bias": (4,),
        "up": (4, 6, 8), "up bias": (4, 8), "down": (4, 8, 3), "down bias": (4, 3),
    }  # fmt: skip
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items())}
    return of(apply, params, TOKENS)


def equinox_experts():
    """All experts see every row; the router mixes what they give."""
    experts = eqx.filter_vmap(lambda key: eqx.nn.MLP(6, 3, 8, 1, key=key))(jax.random.split(jax.random.key(0), 4))
    model = {"router": eqx.nn.Linear(6, 4, key=jax.random.key(1)), "experts": experts}

    def apply(model, x):
        gates = jax.nn.sigmoid(jax.vmap(model["router"])(x))
        out = eqx.filter_vmap(lambda expert: jax.vmap(expert)(x))(model["experts"])
        return (gates.T[:, :, None] * out).sum(0)

    return of(apply, model, TOKENS)


CUT = False

if __name__ == "__main__":
    NAMES = [
        "plain",
        "linen attention",
        "linen tied transformer",
        "linen scan over layers",
        "Equinox MLP",
        "Equinox conv",
    ]
    dense = {**{n: build(n) for n in NAMES}, "jaxbias": own(), "Haiku": haiku()}
    experts = {"experts": own_experts(), "plain experts": plain_experts(), "Equinox experts": equinox_experts()}
    for name, model in {**dense, **experts}.items():
        mesh = WITH_EXPERTS if name in experts else MESH
        specs = jb.shardings(model.loss, model.params, jax.tree.map(lambda a: a[0], model.batch), mesh=mesh)
        arrays = jax.tree.map(
            lambda spec, mesh=mesh: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P)
        )
        leaves, treedef = jax.tree.flatten(model.params)
        held = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

        def total(values, batch, model=model, leaves=leaves, treedef=treedef, held=held):
            params = treedef.unflatten([dict(zip(held, values)).get(k, leaf) for k, leaf in enumerate(leaves)])
            return sum(jax.vmap(model.loss, (None, 0))(params, batch))

        values = [leaves[k] for k in held]
        cut = jax.device_put(values, jax.tree.leaves(arrays))
        batch = jax.device_put(model.batch, NamedSharding(mesh, P()))
        assert len(jax.tree.leaves(arrays)) == len(values), name
        wanted, CUT = jax.grad(total)(values, model.batch), True
        for got, want in zip(jax.jit(jax.grad(total))(cut, batch), wanted, strict=True):
            scale = np.abs(want).max() + 1.0
            np.testing.assert_allclose(got, want, rtol=0, atol=1e3 * np.finfo(want.dtype).eps * scale, err_msg=name)
        text = jax.jit(total).lower(cut, batch).compile().as_text() or ""
        assert not re.findall(r"= \S+ (all-gather|all-to-all|collective-permute)", text), name
        sums = re.findall(r" all-reduce(?:-start)?\(", text)
        print(f"{name}: {len(sums)}", flush=True)
        CUT = False
