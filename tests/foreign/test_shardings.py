"""Specs of other libraries' models by tracing alone; what the compiler makes of them, on eight devices."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import jaxbias as jb
from tests.devices import run_script
from tests.models import build

pytestmark = pytest.mark.usefixtures("by_the_rules_of_jax")

MESH = AbstractMesh((4, 2), ("data", "model"))
COLUMNS, ROWS = P(None, "model"), P("model", None)
HEADS = {
    "kernel": P(None, "model", None), "bias": P("model", None), "out.kernel": P("model", None, None), "out.bias": P(),
}  # fmt: skip


def attention(prefix):
    specs = {f"{prefix}{name}.{leaf}": HEADS[leaf] for name in ("query", "key", "value") for leaf in ("kernel", "bias")}
    return specs | {f"{prefix}out.{leaf}": HEADS[f"out.{leaf}"] for leaf in ("kernel", "bias")}


LAYERS = "ScanFeedForward_0."
CUT = {
    "plain": {"0.w": COLUMNS, "0.b": P("model"), "1.w": ROWS},
    "plain remat": {"0.w": COLUMNS, "0.b": P("model"), "1.w": ROWS},
    "torch layout": {"w1": ROWS, "b1": ROWS},  # w2 is stored flat: its rows are no axis that could be cut
    "RNN in scan": {},  # every step needs all of the hidden units
    "linen dense and LayerNorm": {},  # so does a norm
    "linen attention": attention("MultiHeadDotProductAttention_0."),
    "linen tied transformer": attention("Block_0.MultiHeadDotProductAttention_0.")
    | {"Block_0.Dense_1.kernel": COLUMNS, "Block_0.Dense_1.bias": P("model"), "Block_0.Dense_0.kernel": ROWS}
    | {"table.embedding": ROWS},  # a table of positions is added, as a bias is, and whole
    "linen scan over layers": {
        LAYERS + "Dense_1.kernel": P(None, None, "model"), LAYERS + "Dense_1.bias": COLUMNS,
        LAYERS + "Dense_0.kernel": P(None, "model", None),
    },
    "Equinox MLP": {"layers.0.weight": ROWS, "layers.0.bias": P("model"), "layers.1.weight": COLUMNS},
    "Equinox conv": {
        "conv.weight": P("model", None, None, None), "conv.bias": P("model", None, None), "head.weight": COLUMNS,
    },
}  # fmt: skip


def specs_of(name):
    model = build(name)
    example = jax.tree.map(lambda array: array[0], model.batch)
    tree = jb.shardings(model.loss, model.params, example, mesh=MESH)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, P))
    return {jax.tree_util.keystr(path, simple=True, separator="."): spec for path, spec in leaves}


@pytest.mark.parametrize("name", CUT)
def test_specs_of_other_libraries_models(name):
    specs = specs_of(name)
    assert {path: spec for path, spec in specs.items() if spec != P()} == {
        p: s for p, s in CUT[name].items() if s != P()
    }


def experts(params, x, mixed=False):
    """Rows go to the expert that the router likes best; or through all of them, mixed by the router."""
    gates = (jax.nn.sigmoid if mixed else jax.nn.softmax)(x @ params["router"] + params["router bias"])
    chosen = jax.nn.one_hot(gates.argmax(-1), gates.shape[-1], dtype=x.dtype)
    sent = chosen[:, :, None] * jnp.eye(len(x), dtype=x.dtype)[:, None]
    own = jnp.einsum("tec,td->ecd", sent, x)
    h = jnp.einsum("td,edf->etf", x, params["up"]) if mixed else jnp.einsum("ecd,edf->ecf", own, params["up"])
    h = jnp.einsum("ecf,efo->eco", jax.nn.relu(h + params["up bias"][:, None]), params["down"])
    h = h + params["down bias"][:, None]
    return (gates.T[:, :, None] * h).sum(0) if mixed else jnp.einsum("te,tec,eco->to", gates, sent, h)


def heads(params, x):
    """A product for every head is no expert: the line of the heads is summed over by the next product."""
    h = jnp.einsum("thk,hkj->thj", jnp.einsum("td,dhk->thk", x, params["make"]), params["turn"])
    return jnp.einsum("thj,hjo->to", h, params["sum"])


def of_shapes(**shapes):
    return {name.replace("_", " "): jax.ShapeDtypeStruct(shape, float) for name, shape in shapes.items()}


@pytest.mark.parametrize("mixed", [False, True])
def test_experts_are_cut_over_their_axis_and_a_router_is_whole(mixed):
    def specs(number, *names):
        sizes = {"router": (6, number), "router_bias": (number,), "up": (number, 6, 8), "up_bias": (number, 8)}
        params = of_shapes(**sizes, down=(number, 8, 3), down_bias=(number, 3))
        x = jax.ShapeDtypeStruct((7, 6), float)
        found = jb.shardings(lambda p, x: experts(p, x, mixed), params, x, mesh=AbstractMesh((2,) * len(names), names))
        return {name: spec for name, spec in found.items() if spec != P()}

    by_model = {"up": P(None, None, "model"), "up bias": P(None, "model"), "down": P(None, "model", None)}
    by_expert = {"up": P("expert", None, None), "up bias": P("expert", None), "down": P("expert", None, None)}
    both = {"up": P("expert", None, "model"), "up bias": P("expert", "model"), "down": P("expert", "model", None)}
    of_bias = {"down bias": P("expert", None)}
    assert specs(4, "data", "model") == by_model
    assert specs(4, "data", "expert") == by_expert | of_bias
    assert specs(4, "data", "model", "expert") == both | of_bias


def test_experts_that_do_not_divide_are_whole_and_heads_are_no_experts():
    layer = jb.layers.moe.layer(jb.layers.dense.layer(3), experts=3, top=2)
    params, x = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((7, 6))), jnp.ones((7, 6))
    specs = lambda parts: jb.shardings(
        lambda p, x: layer.forward(p, x)[0], params, x, mesh=AbstractMesh((2, parts), ("data", "expert"))
    )
    assert specs(2) == jax.tree.map(lambda _: P(), params)
    assert specs(3).experts == jb.Params(P("expert", None, None), P("expert", None))
    assert specs(3).router == jb.Params(P(), P())
    mesh = AbstractMesh((2, 2), ("model", "expert"))
    params = of_shapes(make=(6, 4, 5), turn=(4, 5, 5), sum=(4, 5, 3))
    assert jb.shardings(heads, params, x, mesh=mesh) == {
        "make": P(None, "model", None), "turn": P("model", None, None), "sum": P("model", None, None),
    }  # fmt: skip


def mlp(params, x):
    for weight, bias in params[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]


def dense(*sizes):
    return [(jnp.ones(shape), jnp.ones(shape[1:])) for shape in itertools.pairwise(sizes)]


def test_a_line_is_cut_only_where_it_divides_and_nothing_needs_all_of_it():
    x = jnp.ones((7, 6))
    first = lambda fn, params: jb.shardings(fn, params, x, mesh=MESH)[0][0]
    assert first(mlp, dense(6, 8, 3)) == COLUMNS
    assert first(mlp, dense(6, 9, 3)) == P()
    for needs_all in (
        jax.nn.softmax,
        jnp.cumsum,
        lambda z: z - z.mean(-1, keepdims=True),
        lambda z: z.at[:, 0].set(0.0),
        lambda z: jnp.concatenate([z[:, 4:], z[:, :4]], 1),
        lambda z: jnp.sort(z, -1),
    ):
        through = lambda params, x, f=needs_all: f(x @ params[0][0] + params[0][1]).reshape(7, 8) @ params[1][0]
        assert first(through, dense(6, 8, 3)) == P(), needs_all
    assert first(lambda p, x: (mlp(p, x), x @ p[0][0]), dense(6, 8, 3)) == P()  # it is an output too


def test_rules_by_role_and_bad_input(as_users_run_it):
    params, x = dense(6, 8, 3), jnp.ones((7, 6))
    by_role = jb.shardings(mlp, params[:1], x, mesh=MESH, rules={"bias": P("data")})
    assert by_role == [(P(), P("data"))]
    for error, message, changes in [
        (TypeError, "mesh must be a jax.sharding.Mesh, got 8", {"mesh": 8}),
        (ValueError, 'cuts over "model"', {"mesh": AbstractMesh((8,), ("data",))}),
        (ValueError, 'rules must be "megatron" or a mapping', {"rules": "zero"}),
        (ValueError, "'kernel', which is no role", {"rules": {"kernel": P()}}),
        (TypeError, "must be a PartitionSpec, got 'model'", {"rules": {"weight": "model"}}),
        (ValueError, "0.0 of shape .* 6 is no multiple of 4", {"rules": {"weight": P("data")}}),
        (ValueError, "0.1 has shape .* too many entries", {"rules": {"bias": P(None, "model")}}),
        (ValueError, "names 'expert'", {"rules": {"bias": P("expert")}}),
    ]:
        with pytest.raises(error, match=message):
            jb.shardings(mlp, params, x, **{"mesh": MESH} | changes)
    with pytest.raises(TypeError, match="fn must be a function"):
        jb.shardings(8, params, x, mesh=MESH)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_the_compiled_gradient_is_the_same_and_sums_over_devices_as_often_as_the_rule_says():
    # One for each row-parallel product. The transformer has two, two tables cut by vocabulary, and a softmax over the
    # logits, cut like the table that makes them; XLA joins sums that are due at the same time. Experts: one more sum.
    assert run_script("foreign/sharded_models.py") == [
        "plain: 1", "linen attention: 1", "linen tied transformer: 5", "linen scan over layers: 1", "Equinox MLP: 1",
        "Equinox conv: 1", "jaxbias: 1", "Haiku: 1", "experts: 2", "plain experts: 2", "Equinox experts: 2",
    ]  # fmt: skip


def test_nothing_is_computed():
    shapes = jax.eval_shape(lambda: dense(6, 8, 3))
    specs = jb.shardings(mlp, shapes, jax.ShapeDtypeStruct((7, 6), float), mesh=MESH)
    assert specs == [(COLUMNS, P("model")), (ROWS, P())]
