"""Programs for devices, right ones and planted mistakes, for `test_on_devices.py` on meshes of six and eight devices.

Each row: what it is → (function, reference, rule or None, arguments of `verify.sharded`, words wanted in each leaf's
line). A leaf that is not named must be right.
"""

import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxbias import verify

psum, pmean, tree = jax.lax.psum, jax.lax.pmean, jax.tree.map
OFF = {"check_vma": False}


def mesh_of(model):
    devices = jax.devices()[: 2 * model]
    return jax.make_mesh((2, model), ("data", "model"), devices=devices, axis_types=(AxisType.Auto,) * 2)


def problem():
    keys = jax.random.split(jax.random.key(0), 8)
    draw = lambda key, *shape: jax.random.normal(key, shape)
    params = {"w1": draw(keys[0], 6, 12), "b1": draw(keys[1], 12), "w2": draw(keys[2], 12, 5), "b2": draw(keys[3], 5)}
    x, mask = draw(keys[4], 24, 6), (draw(keys[5], 24) > jnp.linspace(-2, 1, 24)).astype(float)
    return params, x, mask


SPECS = {"w1": P(None, "model"), "b1": P("model"), "w2": P("model", None), "b2": P()}, P("data", None)
HIDDEN = ("w1", "b1", "w2")
ALL = (*HIDDEN, "b2")

# The operators f and g of Megatron: one sums in the backward, the other in the forward.
copy_in = jax.custom_vjp(lambda x: x)
copy_in.defvjp(lambda x: (x, None), lambda _, delta: (psum(delta, "model"),))
reduce_out = jax.custom_vjp(lambda x: psum(x, "model"))
reduce_out.defvjp(lambda x: (psum(x, "model"), None), lambda _, delta: (delta,))


def out(p, x, summed=lambda z: psum(z, "model"), inside=0.0, outside=1.0):
    return summed(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + inside * p["b2"]) + outside * p["b2"]


def reference(p, x):
    return jnp.sum(out(p, x, lambda z: z) ** 2)


def reference_of_mean(p, x):
    return jnp.mean(out(p, x, lambda z: z) ** 2)


def total(p, x, **how):
    return jnp.sum(out(p, x, **how) ** 2)


def average(p, x, **how):
    return jnp.mean(out(p, x, **how) ** 2)


def megatron(p, x, **how):
    return total(p, copy_in(x), summed=reduce_out, **how)


def megatron_mean(p, x):
    return average(p, copy_in(x), summed=reduce_out)


def grads_of(loss, finish=lambda g: tree(lambda t: psum(t, "data"), g), of=lambda loss: jax.grad(loss)):
    return lambda args, cotangent: finish(of(loss)(*args))


def averaged(g):
    return tree(lambda t: pmean(t, "data"), g)


def over_data(change):
    """Summed over the data axis, then one leaf changed."""
    return lambda g: change(tree(lambda t: psum(t, "data"), g))


def changed(**changes):
    return over_data(lambda g: {**g, **{name: change(g[name]) for name, change in changes.items()}})


def rows_in_sequence(p, x):
    """Rows are cut over both axes, as the layer norm under sequence parallelism sees them; params are whole."""
    return jnp.sum(jnp.tanh(x * p["gain"] + p["bias"]) ** 2)


SEQUENCE = {"gain": P(), "bias": P()}, P(("data", "model"), None)


def masked_reference(p, x, mask):
    return jnp.sum(mask[:, None] * out(p, x, lambda z: z) ** 2) / mask.sum()


def masked(count):
    return lambda p, x, mask: (
        jnp.sum(mask[:, None] * out(p, copy_in(x), summed=reduce_out) ** 2) / count(mask)
    )  # fmt: skip


def global_count(mask):
    return psum(mask.sum(), "data")


MASKED = (*SPECS, P("data"))


def programs(model):
    """Rows for a mesh with so many devices along "model"."""
    n = model
    rank_0 = lambda b: jnp.where(jax.lax.axis_index("model") == 0, b, jnp.zeros_like(b))
    ring = [(k, (k + 1) % n) for k in range(n)]
    by_rank = lambda t: t + 0.1 * jax.lax.axis_index("model").astype(float)
    double = dict.fromkeys(HIDDEN, "counted once per device of 'model'")
    unsummed = dict.fromkeys(ALL, "not summed over 'data'")
    whole = lambda loss: (loss, reference)
    right = {
        "autodiff, checked": (*whole(total), None, {}, {}),
        "loss_over as it is": (*whole(total), None, {"loss_over": {"data": "sum"}}, {}),
        "Megatron, summed over data": (*whole(megatron), grads_of(megatron), OFF, {}),
        "b/n inside of the sum": (*whole(lambda p, x: total(p, x, inside=1 / n, outside=0.0)), None, {}, {}),
        "b/n inside and its gradient summed: two wrongs that cancel": (
            *whole(lambda p, x: megatron(p, x, inside=1 / n, outside=0.0)),
            grads_of(lambda p, x: megatron(p, x, inside=1 / n, outside=0.0), changed(b2=lambda t: psum(t, "model"))),
            OFF, {},
        ),
        "the bias where rank is 0": (
            *whole(lambda p, x: total(p, x, outside=0.0, summed=lambda z: psum(z + rank_0(p["b2"]), "model"))),
            None, {}, {},
        ),
        "psum transposed to psum, divided by its size": (
            *whole(total), grads_of(total, changed(**dict.fromkeys(HIDDEN, lambda t: t / n))), OFF, {},
        ),
        "mean of means": (megatron_mean, reference_of_mean, grads_of(megatron_mean, averaged), OFF, {}),
        "mean inside of the loss": (lambda p, x: pmean(average(p, x), "data"), reference_of_mean, None, {}, {}),
        "sequence, summed over both": (rows_in_sequence, rows_in_sequence, None, {"specs": SEQUENCE}, {}),
        "global count": (
            masked(global_count), masked_reference, grads_of(masked(global_count)),
            {"specs": MASKED, **OFF}, {},
        ),
        "through, checked": (*whole(total), None, {"where": "through"}, {}),
        "through, not checked": (*whole(total), None, {"where": "through", **OFF}, {}),
    }  # fmt: skip
    wrong = {
        "forgot to sum over data": (*whole(megatron), grads_of(megatron, lambda g: g), OFF, unsummed),
        "a mean over data": (
            *whole(megatron), grads_of(megatron, averaged), OFF,
            dict.fromkeys(ALL, "a mean in place of a sum over 'data' (1/2"),
        ),
        "b/n inside, divided (torchtitan 4332)": (
            *whole(lambda p, x: megatron(p, x, inside=1 / n, outside=0.0)),
            grads_of(lambda p, x: megatron(p, x, inside=1 / n, outside=0.0)), OFF,
            {"b2": f"divided by the size of 'model' (1/{n} of the truth)"},
        ),
        "summed over model too": (
            *whole(megatron), grads_of(megatron, changed(b2=lambda t: psum(t, "model"))), OFF,
            {"b2": f"counted once per device of 'model' ({n} times the truth)"},
        ),
        "psum transposed to psum": (*whole(total), grads_of(total), OFF, double),
        "and not summed over data": (
            *whole(total), grads_of(total, lambda g: g), OFF,
            {k: f"not summed over 'data'; {v}" for k, v in double.items()} | {"b2": "not summed over 'data'"},
        ),
        "summed twice, implicitly and explicitly": (
            *whole(total), grads_of(total), {}, dict.fromkeys(ALL, "summed twice over 'data' (2 times"),
        ),
        "bias added once per device": (
            *whole(lambda p, x: total(p, x, inside=1.0, outside=0.0)), None, {},
            {"loss": "b2 is added once per device of 'model'"} | dict.fromkeys(ALL, ""),
        ),
        "bias added once per device, Megatron": (
            *whole(lambda p, x: megatron(p, x, inside=1.0, outside=0.0)),
            grads_of(lambda p, x: megatron(p, x, inside=1.0, outside=0.0)), OFF,
            {"loss": "b2 is added once per device of 'model'"} | dict.fromkeys(ALL, ""),
        ),
        "bias divided in the forward": (
            *whole(lambda p, x: total(p, x, outside=1 / n)), None, {},
            {"loss": "b2 is divided by the size of 'model'"} | dict.fromkeys(ALL, ""),
        ),
        "through, bias added once per device": (
            *whole(lambda p, x: total(p, x, inside=1.0, outside=0.0)), None, {"where": "through"},
            {"loss": "b2 is added once per device of 'model'"} | dict.fromkeys(ALL, ""),
        ),
        "sequence, not summed over model": (
            rows_in_sequence, rows_in_sequence, grads_of(rows_in_sequence), {"specs": SEQUENCE, **OFF},
            dict.fromkeys(("gain", "bias"), "not summed over 'model'"),
        ),
        "sequence, only the bias forgotten": (
            rows_in_sequence, rows_in_sequence,
            grads_of(
                rows_in_sequence,
                lambda g: {"gain": psum(g["gain"], ("data", "model")), "bias": psum(g["bias"], "data")},
            ),
            {"specs": SEQUENCE, **OFF}, {"bias": "not summed over 'model'"},
        ),
        "sequence, not summed at all": (
            rows_in_sequence, rows_in_sequence, grads_of(rows_in_sequence, lambda g: g), {"specs": SEQUENCE, **OFF},
            dict.fromkeys(("gain", "bias"), "not summed over 'data'; not summed over 'model'"),
        ),
        "replicas differ": (
            *whole(megatron), grads_of(megatron, changed(b2=by_rank)), OFF, {"b2": "replicas differ along 'model'"},
        ),
        "shards moved around": (
            *whole(megatron), grads_of(megatron, changed(w1=lambda t: jax.lax.ppermute(t, "model", ring))), OFF,
            {"w1": "shards in the wrong order: device 0 holds that of"},
        ),
        "everyone holds the first slice": (
            *whole(megatron), grads_of(megatron, changed(b1=lambda t: jax.lax.all_gather(t, "model")[0])), OFF,
            {"b1": "device 1 holds that of 0"},
        ),
        "local count": (
            masked(jnp.sum), masked_reference, grads_of(masked(jnp.sum), averaged),
            {"specs": MASKED, **OFF},
            {"loss": "each device divides by the count of its own rows"} | dict.fromkeys(ALL, ""),
        ),
        "a sum of means": (
            megatron_mean, reference_of_mean, grads_of(megatron_mean), OFF,
            dict.fromkeys(ALL, "a sum in place of a mean over 'data' (2 times"),
        ),
        "averaged twice": (
            megatron_mean, reference_of_mean,
            grads_of(megatron_mean, lambda g: tree(lambda t: pmean(t, "data") / 2, g)), OFF,
            dict.fromkeys(ALL, "averaged twice over 'data' (1/2"),
        ),
        "means not averaged": (
            megatron_mean, reference_of_mean, grads_of(megatron_mean, lambda g: g), OFF,
            dict.fromkeys(ALL, "not averaged over 'data'"),
        ),
        "two mistakes in one step": (
            *whole(megatron),
            grads_of(
                megatron,
                lambda g: {**tree(lambda t: psum(t, "data"), g), "w1": g["w1"], "b1": pmean(g["b1"], "data")},
            ),
            OFF, {"w1": "not summed over 'data'", "b1": "a mean in place of a sum over 'data'"},
        ),
        "a sign": (
            *whole(megatron), grads_of(megatron, changed(b2=lambda t: -t)), OFF,
            {"b2": "by no factor, sum or order of this mesh"},
        ),
        "losses said to add up": (
            megatron_mean, reference_of_mean,
            grads_of(megatron_mean, averaged), {"loss_over": {"data": "sum"}, **OFF},
            {"loss": "the count of its own rows"} | dict.fromkeys(ALL, ""),
        ),
    }  # fmt: skip
    return right, wrong


def check(model, only):
    mesh, (params, x, mask) = mesh_of(model), problem()
    right, wrong = programs(model)
    assert len(right) >= 10 and len(wrong) >= 20
    failures, rows = [], list((right | wrong).items())[::only]
    for name, (function, whole, rule, how, wanted) in rows:
        how = dict(how)
        specs = how.pop("specs", SPECS)
        args = (params, x, mask)[: len(specs)]
        if specs is SEQUENCE:
            args = {"gain": params["w1"][0, :6], "bias": params["w1"][1, :6]}, x
        report = verify.sharded(function, whole, mesh, args, specs, rule=rule, **how)
        lines = report.lines
        named = {path: words for path, words in wanted.items() if words}
        misnamed = {path: lines.get(path) for path, words in named.items() if words not in lines.get(path, "")}
        beside = [path for path in lines if path not in wanted]
        if misnamed or beside or report.ok != (not wanted):
            failures.append(f"{name} on {dict(mesh.shape)}:\n{report}")
        if name == "a sign":
            assert report.further is not None and not report.further.ok
    assert not failures, "\n\n".join(failures)
    print(len(rows), "programs on", dict(mesh.shape), flush=True)


def refused():
    import pytest

    params, x, _ = problem()
    mesh = mesh_of(4)
    square = jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 2)
    single = jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 2)
    usual = {"function": total, "reference": reference, "mesh": mesh, "args": (params, x), "in_specs": SPECS}
    for error, message, changes in [
        (ValueError, "two axes of one size, and a factor of 2", {"mesh": square}),
        (ValueError, "has one device", {"mesh": single}),
        (TypeError, "function must be a function, got int", {"function": 1}),
        (TypeError, "mesh must be a jax.sharding.Mesh", {"mesh": 8}),
        (TypeError, "args must be a tuple", {"args": params}),
        (ValueError, 'where must be "inside"', {"where": "outside"}),
        (ValueError, "loss_over must name axes", {"loss_over": {"x": "sum"}}),
        (ValueError, "in a tree like params", {"rule": lambda args, cotangent: args[0]["b2"]}),
    ]:
        with pytest.raises(error, match=message):
            verify.sharded(**usual | changes)
    with pytest.raises(TypeError, match="truth value"):
        bool(verify.sharded(total, reference, mesh, (params, x), SPECS))
    print("refused", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "short":
        check(4, only=12)
        refused()
    else:
        check(4, only=1)
        check(3, only=1)
