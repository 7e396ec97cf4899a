"""What `test_on_meshes.py` runs on eight devices: capture inside of shard_map and on automatic and explicit axes.

Inside, every device has its own examples, so what is expected of it is `vmap(grad)` of the loss of one device on its
rows, outside of any mesh; of a leaf that is cut, its part of that.
"""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbias as jb
from jaxbias import _meshes
from jaxbias.foreign.capture import _plan, _traced

MESH = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
EXPLICIT = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
COLLECTIVE = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
MOVED = r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)(?:-start)?\("
CLIP = 3.0


def problem(dtype):
    """Params for every method: Gram forms, formed ones, one shared in a scan; and 8 examples."""
    keys = iter(jax.random.split(jax.random.key(0), 10))
    draw = lambda *shape: jax.random.normal(next(keys), shape, dtype)
    params = {
        "table": draw(9, 14), "w1": draw(14, 20) / 4, "b1": draw(20), "w2": draw(20, 16) / 4, "b2": draw(16),
        "scale": draw(16), "recurrent": draw(16, 16) / 4,
    }  # fmt: skip
    return params, (jax.random.randint(next(keys), (8, 3), 0, 9), draw(8, 3, 16))


def on_explicit_axes(table, ids):
    return table.at[ids].get(out_sharding=P(None, None))  # JAX asks for it


def hidden(p, ids, summed=lambda z: z, rows=lambda table, ids: table[ids]):
    """(time, 16): the hidden units between w1 and w2 may be cut over the devices that `summed` sums over."""
    x = rows(p["table"], ids)
    return summed(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]) + p["b2"]


def loss(p, example, summed=lambda z: z, rows=lambda table, ids: table[ids]):
    ids, y = example
    z = hidden(p, ids, summed, rows) * p["scale"]

    def step(state, row):
        return jnp.tanh(state @ p["recurrent"] + row), None

    state, _ = jax.lax.scan(step, y[0] * 0, z)
    return jnp.sum((state - y[-1]) ** 2) + jnp.sum((z - y) ** 2)


def loss_of_rows(p, example, summed=lambda z: z):
    """Adds up over time, which `summed` may be cut over too."""
    ids, y = example
    return summed(jnp.sum((hidden(p, ids) * p["scale"] - y) ** 2))


def tools(loss):
    """All at once, so that one program is compiled: norms, values and sums of two kinds, noise scale, K-FAC."""

    def run(p, batch):
        norms = jb.per_example_norms(loss)(p, batch)
        how = {"l2_clip_norm": CLIP, "keep_batch_dim": False, "return_grad_norms": True}
        (clipped, aux), groups = (
            jb.clipped_grad(loss, **how, how="two-pass")(p, batch),
            jb.clipped_grad(loss, **how, microbatch_size=2)(p, batch)[0],
        )
        factors = jb.kfac_factors(loss)(p, batch)
        moments = jb.foreign.capture.second_moments(loss)(p, batch)
        return norms, clipped, aux.grad_norms, groups, jb.noise_scale(loss)(p, batch).total, factors, moments

    return run


def expected(loss, p, batch, total=lambda squares: sum(squares.values())):
    """The same from `vmap(grad)` of one device's rows: norms of leaves, clipped sum, norms, noise scale, moments."""
    rows = jax.vmap(jax.grad(loss), (None, 0))(p, batch)
    squares = {name: jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for name, g in rows.items()}
    norms = jnp.sqrt(total(squares))
    factor = jnp.minimum(1, CLIP / norms)
    clipped = {name: jnp.tensordot(factor, g, 1) for name, g in rows.items()}
    n = len(norms)
    of_mean = sum(jnp.sum(jnp.square(g.mean(axis=0))) for g in rows.values())
    of_each = jnp.mean(norms**2)
    noise = (of_each - of_mean) * n / (n * of_mean - of_each)
    roots = {name: jnp.sqrt(square) for name, square in squares.items()}
    return roots, clipped, norms, noise, {name: jnp.mean(jnp.square(g), axis=0) for name, g in rows.items()}


def all_close(got, want, dtype):
    """Whether every leaf is right up to 1,000 roundings of its largest entry, whichever way sums are taken."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return all(np.abs(a - b).max() <= 1e3 * np.finfo(dtype).eps * np.abs(b).max() for a, b in pairs)


def spread(local, specs, mesh=MESH):
    """`local(p, batch)` on every device, its results stacked along a leading axis of the eight devices."""

    def inside(p, batch):
        return jax.tree.map(lambda x: _meshes.varying(x, ("data", "model"))[None], local(p, batch))

    return jax.shard_map(inside, mesh=mesh, in_specs=(*specs,), out_specs=P(("data", "model")))


def of_device(tree, k):
    return jax.tree.map(lambda x: np.asarray(x)[k], tree)


def marked(local):
    return lambda p, batch: local(jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), p), batch)


def assert_own_examples(dtype, local, reference=loss):
    """Every device finds what its own rows give alone, without asking another."""
    p, batch = problem(dtype)
    compiled = jax.jit(spread(local, (P(), P("data")))).lower(p, batch).compile()
    assert not re.findall(COLLECTIVE, compiled.as_text())
    everywhere = compiled(p, batch)
    for k in (0, 6):  # devices with the same rows have the same program
        rows = jax.tree.map(lambda x, k=k: x[4 * (k // 4) : 4 * (k // 4) + 4], batch)
        norms, clipped, totals, groups, noise, factors, moments = of_device(everywhere, k)
        assert all_close((norms.leaves, clipped, totals, noise, moments), expected(reference, p, rows), dtype)
        assert all_close(groups, clipped, dtype)
        alone = jb.kfac_factors(reference)(p, rows)
        assert factors.keys() == alone.keys() >= {"w1", "w2"}
        assert all_close(factors, alone, dtype) and factors["w1"].bias == "b1"
    methods = everywhere[0].methods
    assert methods["w1"] == "gram" and methods["recurrent"] == "shared" and methods["b1"] == "formed", methods


def params_that_all_devices_share():
    assert_own_examples(np.float64, tools(loss))


def params_marked_as_varying_and_float32():
    assert_own_examples(np.float64, marked(tools(loss)))
    assert_own_examples(np.float32, tools(loss))


def vmap_of_grad_as_the_docs_say():
    """On params that all devices share it gives sums over devices, example s of one with example s of the other."""
    p, batch = problem(np.float64)
    rows = jax.vmap(jax.grad(loss), (None, 0))
    shared = jax.jit(spread(rows, (P(), P("data"))))(p, batch)
    own = jax.jit(spread(marked(rows), (P(), P("data"))))(p, batch)
    want = rows(p, batch)
    for name, g in want.items():
        assert all_close(of_device(own[name], 5), g[4:], np.float64)
        assert all_close(of_device(shared[name], 5), g[:4] + g[4:], np.float64)


CUT = {"w1": P(None, "model"), "b1": P("model"), "w2": P("model", None)}


def specs_of(p):
    return {name: CUT.get(name, P()) for name in p}


def part(tree, k):
    """The part of each leaf that device k holds, axes of examples left as they are."""

    def cut(name, x):
        spec = tuple(CUT.get(name, P()))
        axis = spec.index("model") - len(spec) + x.ndim if "model" in spec else None
        return x if axis is None else np.split(np.asarray(x), 4, axis=axis)[k % 4]

    return {name: cut(name, x) for name, x in tree.items()}


def hidden_units_cut_over_devices():
    """The norm of a leaf that is cut is that of the own part; clipping asks for the sum of their squares."""
    p, batch = problem(np.float64)
    summed = lambda z: jax.lax.psum(z, "model")
    of_device_loss = lambda p, example: loss(p, example, summed)
    local = lambda p, batch: (
        jb.per_example_norms(of_device_loss)(p, batch),
        jb.capture(of_device_loss)(p, batch).gradient(),
    )
    everywhere = jax.jit(spread(local, (specs_of(p), P("data"))))(p, batch)
    rows = jax.vmap(jax.grad(loss), (None, 0))(p, batch)
    for k in range(8):
        norms, gradient = of_device(everywhere, k)
        own = part({name: g[4 * (k // 4) : 4 * (k // 4) + 4] for name, g in rows.items()}, k)
        want = {name: np.sqrt(np.sum(g**2, axis=tuple(range(1, g.ndim)))) for name, g in own.items()}
        assert all_close(norms.leaves, want, np.float64), k
        assert all_close(gradient, {name: g.mean(axis=0) for name, g in own.items()}, np.float64), k
        assert norms.methods["w1"] == norms.methods["w2"] == "gram"


def time_cut_over_devices():
    """Devices that share an example: the gradient is summed over them, so a leaf they share is formed."""
    p, (ids, y) = problem(np.float64)
    ids, y = (jnp.concatenate([x, x[:, :1]], axis=1) for x in (ids, y))  # a step for each device
    summed = lambda z: jax.lax.psum(z, "model")
    local = lambda p, batch: jb.per_example_norms(lambda p, e: loss_of_rows(p, e, summed))(p, batch)
    specs = P(), P("data", "model")
    everywhere = jax.jit(spread(local, specs))(p, (ids, y))
    used = {name: leaf for name, leaf in p.items() if name != "recurrent"}
    want = {name: norm for name, norm in expected(loss_of_rows, p, (ids, y))[0].items() if name in used}
    right = lambda: all_close({name: of_device(everywhere, 6).leaves[name] for name in used}, {
        name: norm[4:] for name, norm in want.items()}, np.float64)  # fmt: skip
    assert right() and everywhere.methods["w1"] == "formed"
    saved, _plan.SAME_NORM = _plan.SAME_NORM, _plan.SAME_NORM | {"pvary", "pcast"}  # each device its own part
    try:
        everywhere = jax.jit(spread(local, specs))(p, (ids, y))
        assert not right() and everywhere.methods["w1"] == "gram"
    finally:
        _plan.SAME_NORM = saved


def without_marks_it_is_refused_or_wrong():
    """What `params_that_all_devices_share` is there to catch."""
    p, batch = problem(np.float64)
    saved, _traced._of_own_examples = _traced._of_own_examples, lambda loss, leaves, example: leaves
    try:
        everywhere = jax.jit(spread(lambda p, b: jb.per_example_norms(loss)(p, b).leaves, (P(), P("data"))))(p, batch)
        want = expected(loss, p, jax.tree.map(lambda x: x[4:], batch))[0]
        assert not all_close(of_device(everywhere, 6), want, np.float64)
    finally:
        _traced._of_own_examples = saved


def automatic_and_explicit_axes():
    """The compiler cuts the batch: right numbers, sums over devices, and no activation is brought together."""
    p, batch = problem(np.float64)
    want, factors_wanted = expected(loss, p, batch), jb.kfac_factors(loss)(p, batch)
    explicit = lambda p, example: loss(p, example, rows=on_explicit_axes)
    for mesh, loss_here in ((MESH, loss), (EXPLICIT, explicit)):
        placed = jax.device_put(batch, NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            everywhere = jax.device_put(p, NamedSharding(mesh, P()))
            compiled = jax.jit(tools(loss_here)).lower(everywhere, placed).compile()
        moved = [math.prod(map(int, shape.split(","))) for shape in re.findall(MOVED, compiled.as_text())]
        assert all(size <= len(placed[0]) for size in moved), moved  # a number for each example at most
        norms, clipped, totals, _, noise, factors, moments = compiled(everywhere, placed)
        assert all_close((norms.leaves, clipped, totals, noise, moments), want, np.float64)
        assert all_close(factors, factors_wanted, np.float64)
        assert norms.methods["w1"] == "gram" and norms.methods["recurrent"] == "shared"


def squared_error_gradient(f):
    return lambda p, batch: jax.grad(lambda p, x: jnp.sum((f(p, x) - batch[1]) ** 2), (0, 1))(p, batch[0])


def as_function_inside_shard_map():
    keys = jax.random.split(jax.random.key(0), 4)
    network = jb.chain(jb.layers.dense.layer(8), jb.layers.tanh, jb.layers.layer_norm.layer(), jb.layers.dense.layer(3))
    for dtype in (np.float32, np.float64):
        x, y = jax.random.normal(keys[0], (8, 6), dtype), jax.random.normal(keys[1], (8, 3), dtype)
        params = jax.tree.map(lambda leaf: leaf + np.asarray(0.1, leaf.dtype), network.init(keys[2], x))
        forward = lambda params, x: network.forward(params, x)[0]
        by_hand, by_autodiff = squared_error_gradient(jb.as_function(network)), squared_error_gradient(forward)
        for local, reference in ((by_hand, by_autodiff), (marked(by_hand), marked(by_autodiff))):
            got, want = (jax.jit(spread(f, (P(), P("data"))))(params, (x, y)) for f in (local, reference))
            assert all_close(got, want, dtype)
        total, half = by_autodiff(params, (x, y))[0], by_autodiff(params, (x[4:], y[4:]))[0]
        assert all_close(of_device(got[0], 6), half, dtype)
        shared = jax.jit(spread(by_hand, (P(), P("data"))))(params, (x, y))
        assert all_close(of_device(shared[0], 6), total, dtype)


if __name__ == "__main__":
    assert jax.device_count() == 8
    for check in sys.argv[1:]:
        globals()[check]()
        print(check, flush=True)
