"""Batch norms of whole models: which are folded, into what, and which are left alone. The judge is the model itself."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbias as jb
from jaxbias.foreign import norms
from jaxbias.layers import batch_norm, conv, dense, global_avg_pool
from jaxbias.params import init_state, run_forward


def drawn(tree, seed=0):
    """Random entries; variances stay positive, and of each scale some entries are negative and one is 0."""
    random = np.random.default_rng(seed)

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        if "var" in name:
            return jnp.asarray(random.uniform(0.3, 2, x.shape))
        values = random.normal(size=x.shape)
        return jnp.asarray(values * (np.arange(x.size).reshape(x.shape) > 0) if "scale" in name else values)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def folds(fn, params, stats, x, bound=1e-12):
    """The pairs, and the folded params; `output_change` is tested in test_surgery."""
    folded, change = jb.surgery.fold_batch_norms(fn, params, stats, x)
    assert 0 <= change < bound
    return jb.surgery.batch_norms(fn, params, stats, x), folded


def norm(p, s, z, axis=-1, epsilon=1e-3):
    """As the articles write it."""
    shape = [1] * z.ndim
    shape[axis] = -1
    at = lambda v: v.reshape(shape)
    return at(p["scale"]) * (z - at(s["mean"])) / jnp.sqrt(at(s["var"]) + epsilon) + at(p["shift"])


def norm_in_two(p, s, z, epsilon=1e-3):
    """As programs write it that have little time: one product, one sum."""
    factor = p["scale"] / jnp.sqrt(s["var"] + epsilon)
    return z * factor[None] + (p["shift"] - s["mean"] * factor)[None]


def of_norm(size):
    return {"scale": np.zeros(size), "shift": np.zeros(size)}, {"mean": np.zeros(size), "var": np.zeros(size)}


def image(x, w, transposed=False, groups=1, numbers=("NCHW", "OIHW", "NCHW")):
    if transposed:
        return jax.lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=numbers)
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups)


def plain(p, s, x):
    """Channels first: with bias, depthwise, transposed, then dense with (out, in) weights, square too."""
    z = norm(p["n0"], s["n0"], image(x, p["w0"]) + p["b0"][None, :, None, None], axis=1)
    z = norm(p["n1"], s["n1"], image(jnp.tanh(z), p["w1"], groups=4), axis=1)
    z = norm(p["n2"], s["n2"], image(jnp.tanh(z), p["w2"], transposed=True), axis=1)
    z = jnp.tanh(z).mean(axis=(2, 3))
    z = jnp.tanh(norm(p["n3"], s["n3"], z @ p["w3"].T + p["b3"][None]))
    return norm_in_two(p["n4"], s["n4"], z @ p["w4"].T)


SHAPES = {
    "w0": (4, 3, 2, 2),
    "b0": (4,),
    "w1": (4, 1, 3, 3),
    "w2": (5, 4, 2, 2),
    "w3": (5, 5),
    "b3": (5,),
    "w4": (5, 5),
}


def plain_model():
    made = {f"n{i}": of_norm(size) for i, size in enumerate((4, 4, 5, 5, 5))}
    params = {name: pair[0] for name, pair in made.items()} | {name: np.zeros(s) for name, s in SHAPES.items()}
    params, stats = drawn(params), drawn({name: pair[1] for name, pair in made.items()}, 1)
    return params, stats, jax.random.normal(jax.random.key(2), (2, 3, 4, 4))


def test_plain_jax(by_the_rules_of_jax):
    params, stats, x = plain_model()
    pairs, folded = folds(jax.checkpoint(plain), params, stats, x)  # what is rematerialised is looked into
    assert [(p.weight, p.bias, p.scale, p.shift, p.why) for p in pairs] == [
        (f"w{i}", bias, f"n{i}.scale", f"n{i}.shift", "") for i, bias in enumerate(("b0", "", "", "b3", ""))
    ]
    # the norms are the identity, or add what the bias would
    for i, has_bias in enumerate((True, False, False, True, False)):
        scale, mean = jnp.sqrt(stats[f"n{i}"]["var"] + 1e-3), stats[f"n{i}"]["mean"]
        np.testing.assert_allclose(folded[f"n{i}"]["scale"], scale, rtol=1e-12)
        identity = bool(np.allclose(folded[f"n{i}"]["shift"], mean, rtol=1e-12))
        assert identity == has_bias
    # by hand, the square weight of (out, in): its rows are scaled
    gain = params["n3"]["scale"] / jnp.sqrt(stats["n3"]["var"] + 1e-3)
    np.testing.assert_allclose(folded["w3"], params["w3"] * gain[:, None], rtol=1e-12)
    np.testing.assert_allclose(
        folded["b3"], (params["b3"] - stats["n3"]["mean"]) * gain + params["n3"]["shift"], rtol=1e-12
    )


def test_a_wrong_axis_is_seen(monkeypatch, by_the_rules_of_jax):
    """Planted: the gain along the other axis of a square weight; the measured change says so."""
    (norm_params, stats), x = of_norm(3), jax.random.normal(jax.random.key(2), (4, 3))
    params, stats = drawn({"w": np.zeros((3, 3)), "n": norm_params}), drawn(stats)
    right = norms._over_leaf
    monkeypatch.setattr(norms, "_over_leaf", lambda *args: right(*args).T)
    fn = lambda p, s, x: norm(p["n"], s, x @ p["w"].T)
    assert jb.surgery.fold_batch_norms(fn, params, stats, x).change > 1e-2


def test_a_norm_that_no_scale_undoes(by_the_rules_of_jax):
    (norm_params, stats), x = of_norm(3), jax.random.normal(jax.random.key(2), (4, 3))
    params, stats = drawn({"w": np.zeros((3, 3)), "n": norm_params, "gain": np.zeros(3)}), drawn(stats)
    fn = lambda p, s, x: norm(p["n"], s, x @ p["w"].T) * p["gain"][None]
    params["gain"] = jnp.array([1.0, 0.0, 2.0])
    with pytest.warns(
        UserWarning, match="at these values no scale undoes 1 of 1 norms, which are left alone; the first"
    ):
        folded, change = jb.surgery.fold_batch_norms(fn, params, stats, x)
    assert change == 0 and bool(jnp.all(folded["w"] == params["w"]))


def left_alone(p, s, x):
    """Every way in which a norm must not be folded, one after another, on rows of 4."""
    z = norm(p["first"], s["a"], x)  # nothing before it
    z = jnp.tanh(norm(p["active"], s["a"], jax.nn.relu(z @ p["v0"])))  # an activation between
    z1 = z @ p["v1"]
    z = jnp.tanh(norm(p["twice"], s["a"], z1)) + z1  # the product is used twice
    z = jnp.tanh(norm(p["one"], s["a"], z @ p["tied"])) + norm(p["two"], s["b"], jnp.cos(z) @ p["tied"])
    z = norm(p["same"], s["a"], z @ p["v2"])  # its scale and shift serve another norm too
    z = norm(p["same"], s["b"], jnp.tanh(z) @ p["v3"])
    z = norm(p["residual"], s["a"], jnp.tanh(z) @ p["v4"] + z)
    z = z @ p["v5"]
    z = p["batch"]["scale"] * (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-3) + p["batch"]["shift"]
    z = (jnp.tanh(z) @ p["v6"] - s["a"]["mean"]) / jnp.sqrt(s["a"]["var"])  # no scale
    z = norm(p["inner"], s["a"], jnp.tanh(z) @ p["v7"])
    return norm(p["outer"], s["b"], z)


def test_what_must_be_left_alone(by_the_rules_of_jax):
    names = ["first", "active", "twice", "one", "two", "same", "residual", "batch", "inner", "outer"]
    params = {name: of_norm(4)[0] for name in names} | {f"v{i}": np.zeros((4, 4)) for i in range(8)}
    params = drawn(params | {"tied": np.zeros((4, 4))})
    stats = drawn({name: of_norm(4)[1] for name in "ab"}, 1)
    x = jax.random.normal(jax.random.key(2), (3, 4))
    pairs, folded = folds(left_alone, params, stats, x)
    assert [(p.weight, p.why) for p in pairs] == [
        ("", "no weight lies before it"),
        ("", "relu lies before it"),
        ("v1", "what it normalises (dot_general) is used elsewhere too"),
        ("tied", "the weight tied is used elsewhere too"),
        ("tied", "the weight tied is used elsewhere too"),
        ("v2", "the scale same.scale is used elsewhere too"),
        ("v3", "the scale same.scale is used elsewhere too"),
        ("", "add lies before it"),
        ("v6", "it has no scale that could undo what the weight takes"),
        ("v7", ""),
        ("", "another norm lies before it"),
    ]
    changed = {
        p for p, a in jb.named_parameters(params).items() if not bool(jnp.all(a == jb.named_parameters(folded)[p]))
    }
    assert changed == {"v7", "inner.scale", "inner.shift"}
    assert str(pairs[3]).startswith("tied <- one.scale (") and str(pairs[3]).endswith("): left alone, " + pairs[3].why)
    alone = jb.surgery.fold_batch_norms(lambda p, s, x: jnp.tanh(x @ p["v0"]), params, stats, x)
    assert alone.params is params and alone.change == 0


def test_layers_of_this_library_get_biases():
    network = jb.chain(conv.layer(4, (2, 2), use_bias=False), batch_norm.layer(), global_avg_pool.layer())
    network = jb.inference(jb.chain(network, dense.layer(4), batch_norm.layer()))
    x = jax.random.normal(jax.random.key(2), (2, 4, 4, 3))
    params = drawn(jax.eval_shape(network.init, jax.random.key(0), x))
    state = jax.tree.map(lambda leaf: leaf + 0.5, init_state(network, jax.random.key(1), x))

    def fn(params, state, x):
        return run_forward(network, params, x, state)[0]

    pairs, folded = folds(fn, params, state, x)
    assert [(bool(p.bias), p.why) for p in pairs] == [(False, ""), (True, "")]
    again = jb.surgery.batch_norms(fn, folded, state, x)
    assert all(pair.bias.endswith("bias") for pair in again)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        skip = x
        for _ in range(2):
            x = nn.Conv(3, (3, 3), use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=True, scale_init=nn.initializers.ones)(x)
            x = nn.relu(x)
        x = nn.ConvTranspose(4, (2, 2), transpose_kernel=True)(x + skip)
        x = nn.BatchNorm(use_running_average=True)(x).mean((1, 2))
        return nn.BatchNorm(use_running_average=True)(nn.DenseGeneral((2, 2))(x))


def test_flax_linen(by_the_rules_of_jax):
    model, x = LinenNet(), jax.random.normal(jax.random.key(2), (2, 4, 4, 3))
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), x))
    fn = lambda p, s, x: model.apply({"params": p, "batch_stats": s}, x)
    pairs, _ = folds(fn, variables["params"], variables["batch_stats"], x)
    # heads by channels, of which the norm knows the channels: the gain is told for every output
    assert [(p.weight.partition(".")[0], bool(p.bias), p.why) for p in pairs] == [
        ("Conv_0", False, ""), ("Conv_1", False, ""), ("ConvTranspose_0", True, ""), ("DenseGeneral_0", True, ""),
    ]  # fmt: skip


def test_flax_nnx(by_the_rules_of_jax):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (2, 2), rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.dense = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
            self.last = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            return self.last(self.dense(nnx.relu(self.norm(self.conv(x)).mean((1, 2)))))

    graph, params, stats = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    params, stats = drawn(params), drawn(stats, 1)
    fn = lambda p, s, x: nnx.merge(graph, p, s)(x)
    pairs, folded = folds(fn, params, stats, jax.random.normal(jax.random.key(2), (2, 3, 3, 3)))
    assert [(p.weight.split(".")[0], p.why) for p in pairs] == [("conv", ""), ("dense", "")]
    assert isinstance(folded, nnx.State)


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    first: eqx.nn.BatchNorm
    dense: eqx.nn.Linear
    last: eqx.nn.BatchNorm

    def __call__(self, x, state):
        x, state = self.first(self.conv(x), state, inference=True)
        x, state = self.last(self.dense(jnp.tanh(x).mean((1, 2))), state, inference=True)
        return x


def test_equinox(by_the_rules_of_jax):
    def make():
        norm = lambda size: eqx.nn.BatchNorm(size, "batch", mode="ema")
        convolution = eqx.nn.Conv2d(3, 4, 2, key=jax.random.key(0))
        return EquinoxNet(convolution, norm(4), eqx.nn.Linear(4, 4, use_bias=False, key=jax.random.key(1)), norm(4))

    model, state = eqx.nn.make_with_state(make)()
    state = jax.tree.map(lambda x: x + 0.5 if eqx.is_inexact_array(x) else x, state)
    fn = lambda model, state, x: jax.vmap(model, axis_name="batch", in_axes=(0, None))(x, state)
    pairs, folded = folds(fn, drawn(model), state, jax.random.normal(jax.random.key(2), (2, 3, 4, 4)))
    assert [(p.weight, p.bias, p.why) for p in pairs] == [
        ("conv.weight", "conv.bias", ""), ("dense.weight", "", ""),
    ]  # fmt: skip
    assert folded.dense.bias.shape == (4,) and bool(folded.dense.bias.any())  # a place was found and taken


def test_haiku(by_the_rules_of_jax):
    def network(x):
        x = hk.Conv2D(4, 2, data_format="NHWC")(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=False)).mean((1, 2))
        return hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training=False)

    training = hk.transform_with_state(lambda x: network(x))
    x = jax.random.normal(jax.random.key(2), (2, 4, 4, 3))
    model = hk.without_apply_rng(training)
    with pytest.MonkeyPatch.context() as patch:  # Haiku makes its averages in training only
        patch.setattr(hk.BatchNorm, "__call__", _always_training(hk.BatchNorm.__call__))
        params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    state = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5).astype(leaf.dtype), state)
    pairs, _ = folds(lambda p, s, x: model.apply(p, s, x)[0], drawn(params), state, x)
    assert [(p.weight, p.bias, p.why) for p in pairs] == [
        ("conv2_d.w", "conv2_d.b", ""), ("linear.w", "linear.b", ""),
    ]  # fmt: skip


def _always_training(call):
    return lambda self, x, is_training: call(self, x, is_training=True)
