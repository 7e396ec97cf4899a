"""Per-example norms and clipped sums against `vmap(grad)`, on models of several libraries and on hard cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbias as jb
from jaxbias.foreign.traced import split_params
from tests.models import MODELS, build


def foreign():
    """The promotion rules that other libraries are written for."""
    return jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")


def cast(tree, dtype):
    """Float arrays of the tree in another dtype; bfloat16 stays, as it is the point of its model."""

    def leaf(x):
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != jnp.bfloat16:
            return x.astype(dtype)
        return x

    return jax.tree.map(leaf, tree)


def reference(loss, params, batch):
    """Per-example gradients of every leaf by vmap(grad), with bfloat16 leaves widened: their exact values."""
    split = split_params(params)
    leaves = [x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in split.leaves]
    gradient = jax.grad(lambda leaves, example: loss(split.rebuild(leaves), example))
    return jax.vmap(gradient, in_axes=(None, 0))(leaves, batch)


def norms_of(gradients):
    """Norm of each row of each leaf, in float64 by NumPy."""
    rows = [np.asarray(g, np.float64).reshape(len(g), -1) for g in gradients]
    return [np.sqrt(np.sum(np.square(r), axis=1)) for r in rows]


def both(loss, params, batch, **options):
    """(PerExampleNorms, per-example gradients), compiled as one program."""
    split = split_params(params)

    def run(leaves, batch):
        params = split.rebuild(leaves)
        return jb.per_example_norms(loss, **options)(params, batch), reference(loss, params, batch)

    with foreign()[0], foreign()[1]:
        return jax.jit(run)(split.leaves, batch)


def assert_norms_match(found, gradients, tolerance):
    """Every norm of every leaf and example, relative to itself.

    Where a gradient is zero but for rounding (the key bias of softmax attention), relative to the total.
    """
    expected = norms_of(gradients)
    total = np.sqrt(sum(np.square(e) for e in expected))
    for path, ours, theirs in zip(found.paths, jax.tree.leaves(found.leaves), expected, strict=True):
        scale = np.where(theirs > 1e-6 * total, theirs, total)
        off = np.abs(np.asarray(ours, np.float64) - theirs) / scale
        assert np.all(off < tolerance), (path, found.methods[path], off)
    assert np.allclose(found.total, total, rtol=tolerance, atol=0)


DOUBLE = [name for name in MODELS if name != "bf16 params"]  # its float32 sums are checked below


@pytest.mark.parametrize("name", DOUBLE)
def test_norms_of_every_library_in_float64(name):
    model = build(name)
    found, gradients = both(model.loss, cast(model.params, jnp.float64), cast(model.batch, jnp.float64))
    assert_norms_match(found, gradients, 1e-12)
    roles = dict(zip(found.paths, found.role_names))
    assert roles == {path: model.roles(path) for path in found.paths}


SINGLE = [pytest.param(n, marks=[] if n in ("plain", "bf16 params") else pytest.mark.slow) for n in MODELS]


@pytest.mark.parametrize("name", SINGLE)
def test_norms_of_every_library_in_float32(name):
    model = build(name)
    found, gradients = both(model.loss, model.params, model.batch)
    assert_norms_match(found, gradients, 1e-6)


# --- every way a leaf can be handled ----------------------------------------------------------------------------------


def normal(key, **shapes):
    keys = jax.random.split(key, len(shapes))
    return {name: 0.5 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items())}


def check(loss, params, batch, tolerance=1e-12, **options):
    found, gradients = both(loss, params, batch, **options)
    assert_norms_match(found, gradients, tolerance)
    return found.methods


def test_a_table_used_as_embedding_and_as_head(key):
    params = normal(key, table=(80, 12), w=(12, 12))
    ids = jax.random.randint(key, (3, 5), 0, 80).at[:, 1].set(7).at[:, 3].set(7)  # the same row twice

    def loss(p, ids):
        h = jnp.tanh(p["table"][ids] @ p["w"])
        return jnp.sum(jax.nn.log_softmax(h @ p["table"].T)[:, 3] ** 2)

    assert check(loss, params, ids)["table"] == "shared"
    assert check(loss, params, ids, memory_limit=400)["table"] == "shared, 1 rows at a time"
    assert (
        check(lambda p, ids: loss({**p, "table": p["table"].T}, ids), {**params, "table": params["table"].T}, ids)[
            "table"
        ]
        == "shared"
    )


def test_recurrent_weights_under_scans(key):
    params = normal(key, u=(9, 9), deep=(2, 9, 9))
    xs = jax.random.normal(key, (3, 4, 9))

    def loss(p, xs):
        def layer(h, w):  # a scan over layers, each with a scan over time that shares its weights
            return lax.scan(lambda c, x: (jnp.tanh(c @ w + x @ p["u"]),) * 2, jnp.ones(9), h, reverse=True)[1], None

        return jnp.sum(lax.scan(layer, xs, p["deep"])[0] ** 3)

    methods = check(loss, params, xs)
    assert methods["deep"] == "shared" and methods["u"] == "formed"  # 8 rows of u in all: forming it is cheaper


def test_blocks_that_bound_memory(key):
    params = normal(key, gram=(30, 25), formed=(2, 5, 7), out=(7, 2))
    x = jax.random.normal(key, (3, 6, 30))

    def loss(p, x):
        h = jnp.tanh(x @ p["gram"])[:, :5]
        h, _ = lax.scan(lambda h, w: (jnp.tanh((h @ w)[:, :5]), None), h, p["formed"])
        return jnp.sum((h.sum(axis=0) @ p["out"][:5]) ** 2)

    methods = check(loss, params, x, memory_limit=3 * 6 * 8 * 4)
    assert methods["gram"] == "gram, 4 rows at a time" and methods["formed"] == "formed, 4 columns at a time"


def test_ensembles_and_batched_products(key):
    params = normal(key, w=(4, 6, 9), b=(4, 9))

    def loss(p, x):
        z = jax.vmap(lambda w, b: jnp.tanh(x @ w + b[None]))(p["w"], p["b"])
        return jnp.sum(jnp.einsum("eti,eji->etj", z, p["w"]) ** 2)

    check(loss, params, jax.random.normal(key, (3, 2, 6)))
    single = lambda p, x: jnp.sum(jnp.tanh(jnp.einsum("ti,eij->etj", x, p["w"])) ** 2) + p["b"].sum() * x.sum()
    assert check(single, params, jax.random.normal(key, (3, 2, 6)))["w"] == "gram"
    batched = lambda p, x: jnp.sum(jnp.tanh(jnp.einsum("eti,eij->etj", x, p["w"])) ** 2) + p["b"].sum() * x.sum()
    assert check(batched, params, jax.random.normal(key, (3, 4, 2, 6)))["w"] == "gram"


def conv(x, kernel, numbers, **options):
    return lax.conv_general_dilated(x[None], kernel, dimension_numbers=numbers, **options)[0]


def test_convolutions_by_patches(key):
    params = normal(key, k=(3, 2, 5, 8), oihw=(8, 8, 2, 2), grouped=(2, 2, 4, 6))

    def loss(p, x):
        options = {"window_strides": (2, 3), "padding": ((1, 0), (2, 1)), "rhs_dilation": (1, 2)}
        h = jnp.tanh(conv(x, p["k"], ("NHWC", "HWIO", "NHWC"), **options))
        h = jnp.tanh(conv(h, p["oihw"], ("NHWC", "OIHW", "NHWC"), window_strides=(1, 1), padding="SAME"))
        grouped = {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2}
        return jnp.sum(conv(h, p["grouped"], ("NHWC", "HWIO", "NHWC"), **grouped) ** 2)

    methods = check(loss, params, jax.random.normal(key, (3, 5, 7, 5)))
    assert methods == {"grouped": "formed", "k": "gram", "oihw": "gram"}


@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
def test_lookups_outside_of_the_table(key, mode):
    table = normal(key, t=(20, 6))
    ids = jnp.array([[0, 19, 0], [3, -1, 25], [-20, -30, 19]])
    ids = jnp.clip(ids, 0, 19) if mode == "promise_in_bounds" else ids
    check(lambda p, i: jnp.sum(jnp.nan_to_num(p["t"].at[i].get(mode=mode)) ** 3), table, ids)


def test_leaves_that_are_changed_before_their_use(key):
    params = normal(key, v=(4, 5), gain=(5,), fused=(5, 6), part=(2, 3), other=(2, 3), penalised=(3, 3), exponent=(3,))

    @jax.custom_vjp
    def dense(w, x):
        return x @ w

    dense.defvjp(lambda w, x: (x @ w, (w, x)), lambda res, d: (jnp.outer(res[1], d), res[0] @ d))

    def loss(p, x):
        w = p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True) * p["gain"][None]
        h = jnp.tanh(x @ w)
        h = jnp.tanh((h @ p["fused"][:, :3]) * (h @ p["fused"][:, 3:]))[:2] @ (p["part"] + 2.0 * p["other"])
        h = jax.checkpoint(lambda h: lax.cond(h[0] > 0, lambda h: h @ p["penalised"], lambda h: h * h, h))(h)
        h = jnp.abs(dense(p["penalised"], h)) ** jnp.exp(p["exponent"])
        return h.sum() + 0.1 * jnp.sum(p["penalised"] ** 2)

    methods = check(loss, params, jax.random.normal(key, (6, 4)), tolerance=1e-11)
    assert set(methods.values()) == {"formed"}


def test_leaves_behind_a_shard_map_are_formed(key):
    params, x = normal(key, w=(3, 4), b=(4,), s=(4,), after=(3, 2)), jax.random.normal(key, (5, 3))
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    columns, whole = jax.sharding.PartitionSpec("i"), jax.sharding.PartitionSpec()

    def inside(w, b, s, x):
        return lax.psum(jnp.sum((jnp.tanh(x @ w.T + b) * s) ** 2), "i")

    sharded = jax.shard_map(inside, mesh=mesh, in_specs=(columns, columns, columns, whole), out_specs=whole)
    loss = lambda p, x: sharded(p["w"].T, p["b"], p["s"], x) + jnp.sum(x @ p["after"]) ** 2
    roles = jb.roles(loss, params, x[0])
    assert roles == {"w": "weight", "b": "bias", "s": "scale", "after": "weight"}
    assert check(loss, params, x) == {"w": "formed", "b": "formed", "s": "formed", "after": "gram"}


def test_an_unused_leaf_has_no_gradient(key):
    params = normal(key, w=(3, 2), unused=(4,), compared=(2,))
    found, gradients = both(lambda p, x: jnp.sum((x @ p["w"]) * (x[:2] > p["compared"])), params, jnp.ones((3, 3)))
    assert found.methods["unused"] == found.methods["compared"] == "unused"
    assert not found.leaves["unused"].any() and not any(g.any() for g in gradients[:2])


def test_numbers_by_hand():
    # L = w·x + b with x = (3, 4): ∂L/∂w = (3, 4), ∂L/∂b = 1
    found = jb.per_example_norms(lambda p, x: p["layer"]["w"] @ x + p["layer"]["b"])(
        {"layer": {"w": jnp.zeros(2), "b": jnp.array(0.0)}}, jnp.array([[3.0, 4.0], [0.0, 0.0]])
    )
    assert found.leaves["layer"]["w"].tolist() == [5.0, 0.0] and found.leaves["layer"]["b"].tolist() == [1.0, 1.0]
    assert found.total.tolist() == pytest.approx([26**0.5, 1.0])
    assert found.layers["layer"].tolist() == found.total.tolist()
    assert {role: x.tolist() for role, x in found.roles.items()} == {"bias": [1.0, 1.0], "weight": [5.0, 0.0]}


def test_grand_scores_are_the_mean_over_models():
    loss = lambda w, x: 0.5 * (w @ x) ** 2
    models = [jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0])]
    x = jnp.array([[3.0, 4.0], [1.0, 0.0]])  # |w·x| ‖x‖: (15, 60) and (1, 0)
    assert jb.grand_scores(loss)(models, x).tolist() == [37.5, 0.5]
    with pytest.raises(ValueError, match="grand_scores: one params tree or more is wanted"):
        jb.grand_scores(loss)([], x)


def test_other_arguments_aux_and_several_params(key):
    p, q, x = (jax.random.normal(k, s) for k, s in zip(jax.random.split(key, 3), [(4, 3), (3,), (5, 4)]))

    def loss(p, scale, x, q):
        return scale * jnp.sum((x @ p + q) ** 2), x

    options = {"argnums": (0, 3), "batch_argnums": 2, "has_aux": True}
    found = jb.per_example_norms(loss, **options)(p, 3.0, x, q)
    gradient = jax.grad(lambda p, q, x: loss(p, 3.0, x, q)[0], argnums=(0, 1))
    assert_norms_match(found, jax.vmap(gradient, in_axes=(None, None, 0))(p, q, x), 1e-12)


def test_keep_batch_dim_hands_over_an_axis_of_size_one(key):
    p, x = normal(key, w=(4, 3), b=(1, 3)), jax.random.normal(key, (5, 4))
    loss = lambda p, x: jnp.mean(jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2, axis=1))
    found = jb.per_example_norms(loss, keep_batch_dim=True)(p, x)
    gradients = jax.vmap(lambda x: jax.grad(loss)(p, x[None]))(x)
    assert_norms_match(found, jax.tree.leaves(gradients), 1e-12)


def test_nan_stays_with_its_example(key):
    p, x = normal(key, w=(4, 3), b=(3,)), jax.random.normal(key, (5, 4)).at[2, 0].set(jnp.nan)
    total = jb.per_example_norms(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"])))(p, x).total
    assert jnp.isnan(total).tolist() == [False, False, True, False, False]


# --- bad input --------------------------------------------------------------------------------------------------------


def norms(loss, *args, **options):
    return jb.per_example_norms(loss, **options)(*args)


def test_bad_input_is_refused_with_a_remedy():
    w, x = jnp.ones((3, 2)), jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"must return one float number for one example, got float64\[2\]"):
        norms(lambda w, x: x @ w, w, x)
    with pytest.raises(ValueError, match=r"first axis is the batch axis and must agree, got argument 1 0: \(4, 3\)"):
        norms(lambda w, x: x[0] @ w, w, (x, jnp.ones(5)))
    with pytest.raises(ValueError, match=r"argument 1 1 has no batch axis"):
        norms(lambda w, x: x[0] @ w, w, (x, jnp.array(1.0)))
    with pytest.raises(TypeError, match="the params leaf ids has dtype int64, and only float leaves have a gradient"):
        norms(lambda p, x: jnp.sum(x[p["ids"]]), {"ids": jnp.arange(2)}, x)
    with pytest.raises(
        TypeError, match=r"the params leaf z is complex \(complex128\), and .* Keep its real and imaginary"
    ):
        norms(lambda p, x: jnp.abs(p["z"]).sum() * x.sum(), {"z": w.astype(complex)}, x)
    with pytest.raises(ValueError, match="argument 1 is wanted, got 1 arguments"):
        norms(lambda w, x: w.sum(), w)
    with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax.while_loop"):
        norms(lambda w, x: lax.while_loop(lambda h: h.sum() < 9, lambda h: h @ w, x).sum(), 2 * jnp.eye(3), x)


def test_wrong_functions_and_empty_params(as_users_run_it):
    w, x = jnp.ones((3, 2)), jnp.ones((4, 3))
    loss = lambda w, x: jnp.sum(x @ w)
    with pytest.raises(TypeError, match=r"per_example_norms: with has_aux=True loss must return a pair .* got a "):
        norms(loss, w, x, has_aux=True)
    with pytest.raises(TypeError, match=r"per_example_norms: loss must be a function .* got a dict"):
        norms({"w": w}, loss, x)
    with pytest.raises(ValueError, match="per_example_norms: argument 0, which should be params, holds no arrays"):
        norms(lambda p, x: x.sum(), {}, x)
    with pytest.raises(ValueError, match="the loss does not depend on the batch, so every example has the same"):
        norms(lambda w, x: w.sum(), w, x)


def test_batch_norm_in_training_mode_is_refused():
    p, x = {"scale": jnp.ones((1, 3)), "w": jnp.ones((3, 2))}, jnp.ones((4, 3))

    def batch_norm(p, x):
        centred = x - x.mean(axis=0, keepdims=True)
        return jnp.sum(centred / jnp.sqrt(centred.var(axis=0, keepdims=True) + 1e-3) * p["scale"] @ p["w"])

    with pytest.raises(ValueError, match="statistics over a batch axis: batch norm in training mode"):
        norms(batch_norm, p, x, keep_batch_dim=True)
    with pytest.raises(ValueError, match=r"uses a named axis .* batch norm in training mode"):
        norms(lambda p, x: jnp.sum((x - lax.pmean(x, "batch")) @ p["w"]), p, x)
    layer_norm = lambda p, x: jnp.sum((x - x.mean(axis=-1, keepdims=True)) * p["scale"] @ p["w"])
    norms(layer_norm, p, x, keep_batch_dim=True)


def test_verify_compares_with_vmap_grad(key, monkeypatch):
    p, x = normal(key, w=(4, 3), b=(3,)), jax.random.normal(key, (5, 4))
    loss = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"]))
    norms(loss, p, x, verify=True)
    with pytest.raises(RuntimeError, match="verify=True compares numbers and cannot run under jit"):
        jax.jit(lambda p, x: norms(loss, p, x, verify=True))(p, x)
    from jaxbias.foreign.capture import _factors

    right = _factors.gram_norm
    monkeypatch.setattr(_factors, "gram_norm", lambda f, block: 1.001 * right(f, block))
    with pytest.raises(RuntimeError, match=r"the norm of leaf w of example \d is .* by vmap\(grad\)"):
        norms(loss, p, x, verify=True)
