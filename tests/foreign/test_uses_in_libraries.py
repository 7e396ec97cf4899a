"""Modules of libraries, keyword arguments, unknown operations, complex leaves, and what `contacts` says of them."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax import lax

import jaxbias as jb
from docs.zoo import MODELS
from docs.zoo_unseen import UNSEEN
from tests.foreign.cases import KEY, ROW, B, W, X, check, shapes
from tests.foreign.test_uses import QUERIES, learned_queries

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")  # these functions are written as people write them


def roles_of(fn, params, *args, **options):
    return jb.named_parameters(jb.roles(fn, params, *args, **options))


def test_recurrent_cells_that_start_at_zero():
    gru = jax.eval_shape(lambda: eqx.nn.GRUCell(3, 4, key=jax.random.key(0)))
    roles = roles_of(lambda cell, x: cell(x, jnp.zeros(4)), gru, ROW)
    assert roles == {"weight_ih": "weight", "weight_hh": "weight", "bias": "bias", "bias_n": "bias"}

    linen = nn.RNN(nn.GRUCell(4))
    params = jax.eval_shape(linen.init, jax.random.key(0), X)
    roles = roles_of(linen.apply, params, X)
    assert roles == {name: "bias" if name.endswith("bias") else "weight" for name in roles} and len(roles) == 10

    def unrolled(x):
        core = hk.LSTM(4)
        return hk.static_unroll(core, x, core.initial_state(None))[0]

    haiku = hk.without_apply_rng(hk.transform(unrolled))
    roles = roles_of(haiku.apply, jax.eval_shape(haiku.init, jax.random.key(0), X), X)
    assert roles == {"lstm/linear.b": "bias", "lstm/linear.w": "weight"}


def test_linen_weight_norm():
    model = nn.Sequential([nn.WeightNorm(nn.Dense(4), variable_filter={"kernel"}), nn.relu, nn.Dense(2)])
    roles = roles_of(model.apply, jax.eval_shape(model.init, jax.random.key(0), X), X)
    scale = [name for name in roles if name.endswith("scale")]
    assert len(scale) == 1 and roles == {
        name: "scale" if name in scale else "weight" if name.endswith("kernel") else "bias" for name in roles
    }


def test_keyword_arguments_of_the_function():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train, mask=None):
            x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x))
            return x if mask is None else x * mask

    model = Net()
    params = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), X)
    expected = {"params.Dense_0.bias": "bias", "params.Dense_0.kernel": "weight"}
    assert roles_of(model.apply, params, X, train=False) == expected
    mask = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    rngs = {"dropout": jax.random.key(1)}
    assert roles_of(model.apply, params, X, train=True, mask=mask, rngs=rngs) == expected
    assert len(jb.contacts(model.apply, params, X, train=False)) == 2


def test_keyword_arguments_of_haiku_equinox_and_plain_functions():
    def network(x, is_training):
        return hk.Linear(2)(hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training))

    model = hk.transform_with_state(network)
    params, state = jax.eval_shape(lambda key, x: model.init(key, x, is_training=True), jax.random.key(0), X)
    held = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
    apply = lambda p, x, is_training: model.apply(p, held, None, x, is_training=is_training)[0]
    roles = roles_of(apply, params, X, is_training=False)
    assert [roles[f"batch_norm.{name}"] for name in ("scale", "offset")] == ["scale", "bias"] and len(roles) == 6

    dropped = eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    call = lambda model, x, *, key, inference: model[1](model[0](x), key=key, inference=inference)
    for inference in (True, False):
        roles = roles_of(call, dropped, ROW, key=jax.random.key(1), inference=inference)
        assert roles == {"layers.0.weight": "weight", "layers.0.bias": "bias"}

    def plain(p, x, *, shift=None, squared=False):
        y = x @ p["w"] * p["s"] + (0 if shift is None else shift)
        return y**2 if squared else y

    shift = jax.ShapeDtypeStruct(B, jnp.float32)
    for options in ({}, {"squared": True}, {"shift": shift, "squared": True}):
        assert jb.roles(plain, shapes(w=W, s=B), X, **options) == {"w": "weight", "s": "scale"}


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(self.dense(x)))


NNX_ROLES = {"dense.bias": "bias", "dense.kernel": "weight", "norm.bias": "bias", "norm.scale": "scale"}


def test_nnx_modules_and_states_go_in_as_they_are():
    model, x = Nnx(nnx.Rngs(0)), jnp.ones((5, 3), jnp.float32)
    before = jax.tree.map(lambda leaf: leaf, nnx.state(model, nnx.BatchStat, nnx.RngCount))
    roles = jb.roles(lambda model, x: model(x), model, x)
    after = nnx.state(model, nnx.BatchStat, nnx.RngCount)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), before, after))  # nothing was run
    named = {name.removesuffix(".value"): role for name, role in jb.named_parameters(roles).items()}
    assert named == NNX_ROLES

    graph, state = nnx.split(model)
    of_state = jb.roles(lambda state, x: nnx.merge(graph, state)(x), state, x)
    named = {name.removesuffix(".value"): role for name, role in jb.named_parameters(of_state).items()}
    assert named == NNX_ROLES


def test_masks_fit_the_optimizer_of_nnx():
    model, x = Nnx(nnx.Rngs(0)), jnp.ones((5, 3), jnp.float32)
    roles = jb.roles(lambda model, x: model(x), model, x)
    tx = optax.adamw(0.1, weight_decay=0.5, mask=jb.no_decay(roles))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    old = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    new = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), old, new)
    assert moved == {"dense": {"bias": False, "kernel": True}, "norm": {"bias": False, "scale": False}}


@pytest.mark.parametrize("name", ["nnx LoRALinear, BatchNorm, Einsum", "nnx OptimizedLSTMCell"])
def test_masks_of_more_modules_let_weights_decay_alone(name):
    model = (MODELS | UNSEEN)[name][1]()
    roles = jb.named_parameters(jb.roles(model.fn, model.params, *model.args))
    mask = jb.no_decay(jb.roles(model.fn, model.params, *model.args))
    optimizer = nnx.Optimizer(model.params, optax.adamw(0.1, weight_decay=0.5, mask=mask), wrt=nnx.Param)
    old = nnx.state(model.params, nnx.Param)
    state = jax.tree.map(jnp.ones_like, old)  # biases start at 0, which nothing moves
    nnx.update(model.params, state)
    optimizer.update(model.params, jax.tree.map(jnp.zeros_like, state))
    new = jb.named_parameters(nnx.to_pure_dict(nnx.state(model.params, nnx.Param)))
    plain = {path.removesuffix(".value"): role for path, role in roles.items()}
    assert {path: bool(jnp.any(x != 1)) for path, x in new.items()} == {path: plain[path] == "weight" for path in new}


# --- what is not known ------------------------------------------------------------------------------------------------


def unknown_power(p, x):
    return x @ p["w"] + jnp.mean(x ** p["p"])


def unknown_callback(p, x):
    form = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    return jax.pure_callback(lambda w, x: x @ w, form, p["p"], x) + x @ p["w"]


def unknown_kernel(p, x):
    from jax.experimental import pallas as pl

    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    form = jax.ShapeDtypeStruct((5, 4), jnp.float32)
    return pl.pallas_call(kernel, form, interpret=True)(x, p["p"]) + x @ p["w"]


@pytest.mark.parametrize(
    ("fn", "shape", "operation"),
    [(unknown_power, (), "pow"), (unknown_callback, W, "pure_callback"), (unknown_kernel, W, "pallas_call")],
)
def test_an_operation_that_is_not_known_warns_with_leaf_and_operation(fn, shape, operation):
    with pytest.warns(UserWarning, match=rf'"other" stands for .*: p by {operation} at .*in_libraries.py:\d+'):
        assert jb.roles(fn, shapes(p=shape, w=W), X) == {"p": "other", "w": "weight"}


def test_complex_params():
    params = {"w": jax.ShapeDtypeStruct(W, jnp.complex64), "b": jax.ShapeDtypeStruct(B, jnp.complex64)}
    params |= shapes(real=(3, 4), imaginary=(3, 4))

    def fn(p, x):
        w = lax.complex(p["real"], p["imaginary"])
        return jnp.abs(jnp.fft.fft(x.astype(jnp.complex64)) @ (p["w"]) + x @ w + p["b"])

    check(fn, params, [X], {"w": "weight", "b": "bias", "real": "weight", "imaginary": "weight"})


def test_complex_params_of_a_state_space_and_of_a_spectral_layer():
    form = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.complex64)

    def state_space(p, x):
        step = lambda h, u: (jnp.exp(p["log_decay"]) * h + u.astype(jnp.complex64) @ p["w"], None)
        return (lax.scan(step, jnp.zeros(4, jnp.complex64), x)[0] @ p["out"]).real + p["b"]

    params = {"log_decay": form(4), "w": form(3, 4), "out": form(4, 2)} | shapes(b=(2,))
    check(state_space, params, [X], {"log_decay": "scale", "w": "weight", "out": "weight", "b": "bias"})

    def spectral(p, x):
        modes = jnp.fft.rfft(x, axis=0)
        return jnp.fft.irfft(jnp.einsum("kc,kcd->kd", modes, p["w"]) + p["b"], n=5, axis=0) * p["s"]

    check(
        spectral, {"w": form(3, 3, 4), "b": form(4)} | shapes(s=(4,)), [X], {"w": "weight", "b": "bias", "s": "scale"}
    )


def drop_connect_by_where(p, x, key):
    kept = jax.random.bernoulli(key, 0.8, W)
    return x @ jnp.where(kept, p["w"] / 0.8, 0) + jnp.where(kept[0], p["b"], 0)


def test_weights_dropped_by_where():
    check(drop_connect_by_where, shapes(w=W, b=B), [X, KEY], {"w": "weight", "b": "bias"})


def test_contacts_name_what_claims_and_leave_out_what_is_unused():
    params = shapes(w=W, b=B, gone=(2,))
    (weight, bias) = jb.contacts(lambda p, x: x @ p["w"] + p["b"], params, X, unused="leave out")
    assert (weight.contracted, weight.free) == ((0,), (1,)) and (bias.contracted, bias.free) == (None, None)
    with pytest.raises(ValueError, match="contacts: the params leaf gone never meets data: the output does not use"):
        jb.contacts(lambda p, x: x @ p["w"] + p["b"], params, X)
    meets = {c.leaves[0]: c for c in jb.contacts(learned_queries, QUERIES, X)}
    assert (meets["q"].role, meets["q"].operation, meets["q"].shape) == ("other", "dot_general", (2, 4))
    assert (meets["wq"].contracted, meets["wq"].free, meets["bq"].operation) == ((0,), (1,), "add")


def _linen_with_a_spare_head():
    class Spare(nn.Module):
        def setup(self):
            self.used, self.spare = nn.Dense(4), nn.Dense(2)

        def __call__(self, x, both=False):
            y = self.used(x)
            return (y, self.spare(x)) if both else y

    params = jax.eval_shape(lambda: Spare().init(jax.random.key(0), jnp.ones(X.shape, X.dtype), both=True))
    return Spare().apply, params


def _equinox_with_a_spare_layer():
    keys = jax.random.split(jax.random.key(0), 2)
    layers = {"used": eqx.nn.Linear(3, 4, key=keys[0]), "spare": eqx.nn.Linear(3, 2, key=keys[1])}
    return lambda layers, x: jax.vmap(layers["used"])(x), layers


def _nnx_with_a_spare_layer():
    class Spare(nnx.Module):
        def __init__(self):
            self.used, self.spare = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.used(x)

    return lambda model, x: model(x), Spare()


def _haiku_with_a_spare_layer():
    def model(x):
        hk.Linear(2, name="spare")(x)
        return hk.Linear(4, name="used")(x)

    net = hk.without_apply_rng(hk.transform(model))
    return net.apply, jax.eval_shape(net.init, jax.random.key(0), X)


@pytest.mark.parametrize(
    "make", [_linen_with_a_spare_head, _equinox_with_a_spare_layer, _nnx_with_a_spare_layer, _haiku_with_a_spare_layer]
)
def test_what_is_not_used_of_a_module(make):
    fn, params = make()
    for door in (jb.contacts, jb.roles):
        with pytest.raises(ValueError, match=rf"{door.__name__}: the params leaf \S*spare"):
            door(fn, params, X)
    met = {path: contact.role for contact in jb.contacts(fn, params, X, unused="leave out") for path in contact.leaves}
    assert sorted(met.values()) == ["bias", "weight"] and all("used" in path for path in met)
    roles = roles_of(fn, params, X, unused="other")
    assert {path: role for path, role in roles.items() if "used" in path} == met
    assert [role for path, role in roles.items() if "spare" in path] == ["other", "other"]


def test_axes_of_a_leaf_at_its_contact():
    params = shapes(qkv=(3, 24), out=(2, 4, 3), kernel=(3, 3, 3, 4), layers=(2, 3, 3))

    def fn(p, x, image):
        q = (x @ p["qkv"]).reshape(5, 3, 2, 4)[:, 0]
        y = jnp.einsum("thd,hde->te", q, p["out"])
        y = lax.scan(lambda y, w: (jnp.tanh(w @ y.T).T, None), y, p["layers"])[0]
        numbers = ("NHWC", "HWIO", "NHWC")
        return y, lax.conv_general_dilated(image, p["kernel"], (1, 1), "SAME", dimension_numbers=numbers)

    image = jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32)
    axes = {c.leaves[0]: (c.contracted, c.free) for c in jb.contacts(fn, params, X, image)}
    assert axes == {
        "qkv": ((0,), (1,)),
        "out": ((0, 1), (2,)),
        "layers": ((2,), (1,)),
        "kernel": ((0, 1, 2), (3,)),
    }
