"""What the checker decides: right rules, wrong rules, kinks, cancellation, precision, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias.selfcheck import planted


def dense(x, weight, bias):
    return jnp.tanh(x @ weight + bias[None, :])


def dense_rule(args, ct):
    x, weight, bias = args
    delta = ct * (1 - jnp.tanh(x @ weight + bias[None, :]) ** 2)
    return delta @ weight.T, x.T @ delta, delta.sum(axis=0)


@pytest.fixture
def dense_args(key):
    keys = jax.random.split(key, 3)
    shapes = (5, 3), (3, 4), (4,)
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_right_rule_is_right(dense_args, dtype):
    report = verify.vjp(dense, dense_rule, tuple(x.astype(dtype) for x in dense_args))
    assert report.verdict == "right" and report.ok
    assert list(report.leaves) == ["x", "weight", "bias"]
    assert all(leaf.ok and leaf.max_error < 1e-12 for leaf in report.leaves.values())


def test_report_names_leaf_element_and_values(dense_args):
    def wrong(args, ct):
        dx, dw, db = dense_rule(args, ct)
        return dx, dw.at[1, 2].add(0.5 * ct.sum()), db

    ct = jnp.full((5, 4), 0.3, jnp.float32).at[0, 0].set(1.0)
    report = verify.vjp(dense, wrong, dense_args, cotangent=ct)
    leaf = report.leaves["weight"]
    assert [path for path, each in report.leaves.items() if not each.ok] == ["weight"]
    assert leaf.worst_index == (1, 2) and leaf.wrong_elements == 1
    assert abs(abs(leaf.actual - leaf.expected) - 0.5 * float(ct.sum())) < 1e-5
    assert report.leaves["1"] is leaf  # a path may be written by position


def test_truth_value_is_refused_and_dict_is_plain(dense_args):
    report = verify.vjp(dense, dense_rule, dense_args)
    with pytest.raises(TypeError, match=r"Use report\.ok"):
        bool(report)
    import json

    assert json.loads(report.to_json())["verdict"] == "right"
    assert "right" in str(report) and "<table" in report._repr_html_()


def test_pytrees_names_integers_and_none(key):
    def forward(params, ids):
        return {"out": params["table"][ids] * params["scale"], "count": ids.sum()}

    def rule(args, ct):
        params, ids = args
        rows = params["table"][ids]
        table = jnp.zeros_like(params["table"]).at[ids].add(ct["out"] * params["scale"])
        return {"table": table, "scale": (ct["out"] * rows).sum()}, None

    args = ({"table": jax.random.normal(key, (4, 3)), "scale": jnp.asarray(2.5)}, jnp.array([0, 3, 3, 1]))
    report = verify.vjp(forward, rule, args)
    assert report.verdict == "right" and set(report.leaves) == {"params.table", "params.scale"}


def test_other_entrances(key):
    x = jax.random.normal(key, (5,))
    assert verify.gradient(lambda x: (x**3).sum(), lambda x: 3 * x**2, (x,)).verdict == "right"
    assert not verify.gradient(lambda x: (x**3).sum(), lambda x: 2 * x**2, (x,)).ok
    assert verify.jvp(jnp.sin, lambda args, t: jnp.cos(args[0]) * t[0], (x,)).verdict == "right"
    assert not verify.jvp(jnp.sin, lambda args, t: 2 * jnp.cos(args[0]) * t[0], (x,)).ok
    cube = lambda x: (x**3).sum()
    assert verify.hessian_vector(cube, lambda args, v: (6 * args[0] * v[0],), (x,)).verdict == "right"
    assert not verify.hessian_vector(cube, lambda args, v: (3 * args[0] * v[0],), (x,)).ok


def test_custom_vjp(key):
    def make(factor):
        @jax.custom_vjp
        def f(x):
            return jnp.sin(x)

        f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (factor * ct * jnp.cos(x),))
        return f

    x = jax.random.normal(key, (5,))
    assert verify.custom_vjp(make(1.0), jnp.sin, (x,)).verdict == "right"
    report = verify.custom_vjp(make(-1.0), jnp.sin, (x,))
    assert not report.ok and report.diagnoses[0].kind == "sign"


def test_layer(key):
    from jaxbias.layers import dense

    layer = dense.layer(4)
    x = jax.random.normal(key, (5, 3))
    params = layer.init(key, x)
    assert verify.layer(layer, params, x).verdict == "right"
    wrong = layer._replace(backward=lambda r, d: (lambda g, dx: (g._replace(bias=-g.bias), dx))(*layer.backward(r, d)))
    report = verify.layer(wrong, params, x)
    assert [path for path, leaf in report.leaves.items() if not leaf.ok] == ["params.bias"]


def test_steps_name_the_first_wrong_line(key):
    def forward(x, weight):
        z = x @ weight
        a = jnp.tanh(z)
        return {"z": z, "a": a, "out": a * a}

    steps = {
        "a": lambda values, done: done["out"] * values["a"],  # 2 is missing
        "z": lambda values, done: done["a"] * (1 - values["a"] ** 2),
        "weight": lambda values, done: values["x"].T @ done["z"],
    }
    args = (jax.random.normal(key, (5, 3)), jax.random.normal(key, (3, 2)))
    report = verify.steps(forward, steps, args)
    assert [name for name, leaf in report.leaves.items() if not leaf.ok] == ["a"]
    assert report.diagnoses[0].leaf == "a" and "first wrong line" in report.diagnoses[0].explanation
    with pytest.raises(ValueError, match="named after no value"):
        verify.steps(forward, {"b": lambda values, done: 0}, args)


def test_args_may_be_a_function_of_a_key(dense_args):
    def draw(key):
        return tuple(jax.random.normal(k, (n + 1, 3) if n == 0 else s) for n, (k, s) in enumerate(
            zip(jax.random.split(key, 3), ((4, 3), (3, 4), (4,)))
        ))  # fmt: skip

    report = verify.vjp(dense, dense_rule, draw)
    assert report.verdict == "right" and any(name.startswith("drawn") for name in report.probes)


# --- kinks, undefined and imprecise references ------------------------------------------------------------------------


CONVENTION = "right up to convention"


@pytest.mark.parametrize(("factor", "verdict"), [(0.0, CONVENTION), (1.0, CONVENTION), (3.0, "wrong")])
def test_a_convention_at_many_ties_behind_a_product(key, factor, verdict):
    """Each gradient sums over many borders: what one convention gives at all of them, random directions never do."""
    forward = lambda x, w: jnp.clip(x @ w, 0, 6)

    def rule(args, ct):
        x, w = args
        z = x @ w
        delta = jnp.where((z > 0) & (z < 6), ct, jnp.where((z == 0) | (z == 6), factor * ct, 0))
        return delta @ w.T, x.T @ delta

    keys = jax.random.split(key)
    args = jax.random.normal(keys[0], (9, 4), jnp.float32), jax.random.normal(keys[1], (4, 6), jnp.float32)
    assert verify.vjp(forward, rule, args, diagnose=False).verdict == verdict


def test_relu_with_another_convention_at_zero(key):
    x = jax.random.normal(key, (6, 4)).at[0].set(0.0)
    rule = lambda args, ct: (jnp.where(args[0] >= 0, ct, 0),)
    assert verify.vjp(jax.nn.relu, rule, (x,)).verdict == "right up to convention"
    outside = lambda args, ct: (jnp.where(args[0] > 0, ct, jnp.where(args[0] == 0, 3 * ct, 0)),)
    report = verify.vjp(jax.nn.relu, outside, (x,))
    assert report.diagnoses[0].kind == "edge-point"


def test_a_tie_may_go_to_one_but_not_to_both(key):
    x = jax.random.normal(key, (5, 4))
    first = lambda args, ct: (ct[:, None] * jax.nn.one_hot(args[0].argmax(axis=1), 4),)
    both = lambda args, ct: (ct[:, None] * (args[0] == args[0].max(axis=1, keepdims=True)),)
    maximum = lambda x: x.max(axis=1)
    assert verify.vjp(maximum, first, (x,)).verdict == "right up to convention"
    assert verify.vjp(maximum, both, (x,)).verdict == "wrong"


def test_autodiff_may_be_undefined_where_the_rule_is_right():
    x = jnp.array([3.0, -4.0, -1.0])
    forward = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)
    rule = lambda args, ct: (jnp.where(args[0] > 0, ct * 0.5 / jnp.sqrt(jnp.where(args[0] > 0, args[0], 1)), 0),)
    assert verify.vjp(forward, rule, (x,)).verdict == "reference undefined"
    wrong = lambda args, ct: (jnp.where(args[0] > 0, rule(args, ct)[0], ct),)
    assert verify.vjp(forward, wrong, (x,)).verdict == "wrong"


def test_cancellation_long_sums_and_small_terms(key):
    def before_norm(x, bias):
        z = x + bias[None, :]
        return (z - z.mean(axis=0, keepdims=True)) ** 3

    def rule(args, ct):
        x, bias = args
        z = x + bias[None, :]
        d = 3 * ct * (z - z.mean(axis=0, keepdims=True)) ** 2
        dx = d - d.mean(axis=0, keepdims=True)
        return dx, dx.sum(axis=0)  # zero, up to rounding

    x, bias = jax.random.normal(key, (9, 3), jnp.float32), jnp.ones(3, jnp.float32)
    assert verify.vjp(before_norm, rule, (x, bias)).verdict == "right"
    long = jax.random.normal(key, (10_000,)).astype(jnp.bfloat16)
    dot = lambda x, s: (x * s).astype(jnp.float32).sum()
    assert verify.gradient(dot, lambda x, s: (s + 0 * x, x.sum()), (long, jnp.bfloat16(1.5))).ok
    w = jax.random.normal(key, (4,))
    loss = lambda w: (w**3).sum() + 0.5e-6 * (w**2).sum()
    assert verify.gradient(loss, lambda w: 3 * w**2 + 1e-6 * w, (w,)).verdict == "right"
    assert verify.gradient(loss, lambda w: 3 * w**2, (w,)).verdict == "wrong"


def test_a_large_number_in_place_of_minus_infinity_hides_nothing(key):
    def forward(scores, v):
        return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((4, 4), bool)), scores, -1e30)) @ v

    def rule(args, ct, second=1.0):
        scores, v = args
        p = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((4, 4), bool)), scores, -1e30))
        d = ct @ v.T
        return p * (d - second * (p * d).sum(axis=1, keepdims=True)), p.T @ ct

    args = jax.random.normal(key, (4, 4)), jax.random.normal(key, (4, 3))
    assert verify.vjp(forward, rule, args).verdict == "right"
    assert verify.vjp(forward, lambda args, ct: rule(args, ct, 0.0), args, diagnose=False).verdict == "wrong"


def test_values_rounded_by_the_user_and_positions_outside_are_no_mistakes():
    half = np.float32(0.3)  # in the rule only: 1e-8 off
    x = jnp.arange(1.0, 5.0, dtype=jnp.float32)
    assert verify.vjp(lambda x: 0.3 * x * x, lambda args, ct: (2 * half * ct * args[0],), (x,)).ok

    def interpolate(table, at):
        u, i = at - jnp.floor(at), jnp.floor(at).astype(int)
        return table[i] * (1 - u) + table[i + 1] * u

    def rule(args, ct):
        table, at = args
        u, i = at - jnp.floor(at), jnp.floor(at).astype(int)
        zeros = jnp.zeros_like(table)
        return zeros.at[i].add(ct * (1 - u)).at[i + 1].add(ct * u), ct * (table[i + 1] - table[i])

    assert verify.vjp(interpolate, rule, (x, jnp.array([2.9, 0.4, 1.2], jnp.float32))).ok


def test_what_a_right_formula_loses_in_a_narrower_dtype_is_a_remark(dense_args):
    def rounded(args, ct):
        return tuple(g.astype(jnp.bfloat16).astype(g.dtype) for g in dense_rule(args, ct))

    report = verify.vjp(dense, rounded, dense_args)
    assert report.verdict == "right" and not report.diagnoses
    assert [(d.leaf, d.kind) for d in report.remarks] == [(leaf, "dtype-precision") for leaf in report.leaves], report
    assert "bias: dtype-precision. The formula is right" in str(report) and len(report.to_dict()["remarks"]) == 3
    assert not verify.vjp(dense, rounded, dense_args, rtol=1e-5, diagnose=False).ok


def half_products(args, ct, factor=1.0, half=jnp.float16):
    x, w, b = args
    narrow = lambda v: v.astype(half)
    dx, dw = narrow(ct) @ narrow(w).T, narrow(x).T @ narrow(ct)
    return dx.astype(x.dtype), factor * dw.astype(w.dtype), ct.sum(0)


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_products_in_half_precision_under_float32_arguments(key, half):
    affine, rule = lambda x, w, b: x @ w + b[None, :], functools.partial(half_products, half=half)
    keys = jax.random.split(key, 3)
    args = [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, [(4, 3), (3, 2), (2,)])]
    report = verify.vjp(affine, rule, tuple(args))
    assert report.verdict == "right" and "dtype-precision" in [d.kind for d in report.remarks if d.leaf == "w"], report
    only_in_float32 = lambda args, ct: rule(args, ct, 1.003 if args[0].dtype == jnp.float32 else 1.0)
    for wrong in (functools.partial(rule, factor=1.001), functools.partial(rule, factor=-1.0), only_in_float32):
        report = verify.vjp(affine, wrong, tuple(args), diagnose=False)
        assert report.verdict == "wrong" and not report.leaves["w"].ok and report.leaves["b"].ok


def test_a_gradient_of_which_rounding_leaves_nothing_is_wrong(key):
    def cancelled(args, ct):
        return (ct * (2 + ((args[0] + 1e8) - 1e8) - args[0]),)

    report = verify.vjp(lambda x: 2 * x, cancelled, (jax.random.normal(key, (5,), jnp.float32),))
    assert report.verdict == "wrong" and {d.kind for d in report.diagnoses} == {"dtype-precision"}


def test_a_gradient_that_went_through_bfloat16(key):
    """Values of 1 ± 0.01 cancel in a standard deviation, so that the bound on rounding exceeds what the cast loses."""
    x = (jax.random.normal(key, (7, 3)) * 1e-2 + 1).astype(jnp.float32)
    forward, right = planted.RULES["std"].forward, planted.RULES["std"].rule
    narrowed = lambda args, ct: tuple(g.astype(jnp.bfloat16).astype(g.dtype) for g in right(args, ct))
    report = verify.vjp(forward, narrowed, (x,))
    assert report.ok and ["only numbers of bfloat16" in d.explanation for d in report.remarks] == [True], report
    assert not verify.vjp(forward, right, (x,)).remarks
    assert verify.vjp(forward, narrowed, (x,), rtol=1e-2).ok


def test_a_singular_matrix_in_the_rule_is_no_crash(key):
    solve = lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True)
    a, b = jnp.tril(jax.random.normal(key, (3, 3))) + 3 * jnp.eye(3), jax.random.normal(key, (3, 2))
    strict = lambda args, ct: (jnp.tril(args[0], -1), solve(jnp.tril(args[0], -1), ct))
    assert not verify.vjp(solve, strict, (a, b)).ok


def test_the_global_configuration_is_left_alone(dense_args):
    before = jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion
    verify.vjp(dense, dense_rule, dense_args)
    assert (jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion) == before


# --- bad input --------------------------------------------------------------------------------------------------------


def test_shapes_are_explained(dense_args):
    delta = lambda args, ct: ct * (1 - dense(*args) ** 2)
    unsummed = lambda args, ct: (*dense_rule(args, ct)[:2], delta(args, ct))
    assert verify.vjp(dense, unsummed, dense_args).diagnoses[0].kind == "broadcast-not-summed"
    turned = lambda args, ct: (dense_rule(args, ct)[0], dense_rule(args, ct)[1].T, dense_rule(args, ct)[2])
    report = verify.vjp(dense, turned, dense_args)
    assert report.diagnoses[0].kind == "transpose" and not report.leaves["weight"].ok and report.leaves["bias"].ok


def test_bad_arguments(dense_args):
    with pytest.raises(TypeError, match=r"write \(x,\)"):
        verify.vjp(dense, dense_rule, dense_args[0])
    with pytest.raises(TypeError, match="which is no array"):
        verify.vjp(dense, dense_rule, (*dense_args[:2], "bias"))
    with pytest.raises(TypeError, match="at least one float output"):
        verify.vjp(lambda x: x.argmax(), lambda args, ct: (None,), dense_args[:1])
    with pytest.raises(ValueError, match="forward raises ZeroDivisionError"):
        verify.vjp(lambda x: x / (1 // 0), lambda args, ct: (ct,), dense_args[:1])
    with pytest.raises(ValueError, match="cannot be traced"):
        verify.vjp(lambda x: x if x.sum() > 0 else -x, lambda args, ct: (ct,), dense_args[:1])
    with pytest.raises(ValueError, match="cotangent must have"):
        verify.vjp(dense, dense_rule, dense_args, cotangent=jnp.ones(3))
    with pytest.raises(ValueError, match="names must name the 3 arguments"):
        verify.vjp(dense, dense_rule, dense_args, names=["x"])
    with pytest.raises(ValueError, match="must return one scalar"):
        verify.gradient(dense, lambda *args: args, dense_args)


def test_assert_vjp_shows_the_report(dense_args):
    verify.assert_vjp(dense, dense_rule, dense_args)
    with pytest.raises(AssertionError, match="wrong sign"):
        verify.assert_vjp(dense, lambda args, ct: tuple(-g for g in dense_rule(args, ct)), dense_args)


@pytest.mark.parametrize("fused", [True, False])
def test_softmax_and_cross_entropy_in_one_is_explained(key, fused):
    targets = jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3, dtype=jnp.float64)

    def loss(z):
        return -jnp.sum(targets * jnp.log(jax.nn.softmax(z, axis=-1))) if fused else jnp.sum(jnp.exp(z))

    def gradient(z):
        return (jax.nn.softmax(z, axis=-1) - targets if fused else jnp.exp(z),)

    report = verify.gradient(loss, gradient, (jax.random.normal(key, (4, 3), jnp.float64),))
    assert report.verdict == "right"
    assert (
        any("the 1/p of the logarithm" in note and "jnp.log(jax.nn.softmax" in note for note in report.notes) == fused
    )


FROM_OUTPUT = {
    "tanh": (jnp.tanh, lambda a: 1 - a**2, lambda z: 1 / jnp.cosh(z) ** 2),
    "logistic": (jax.nn.sigmoid, lambda a: a * (1 - a), lambda z: 1 / (2 + jnp.exp(z) + jnp.exp(-z))),
    "max": (lambda z: jnp.maximum(z, 0), lambda a: (a > 0).astype(a.dtype), lambda z: (z > 0).astype(z.dtype)),
}


@pytest.mark.parametrize("name", FROM_OUTPUT)
def test_a_derivative_from_the_output_is_explained(dense_args, name):
    function, from_output, from_input = FROM_OUTPUT[name]

    def rule(args, ct):
        x, weight, bias = args
        z = x @ weight + bias[None, :]
        delta = ct * (from_output(function(z)) if by_output else from_input(z))
        return delta @ weight.T, x.T @ delta, delta.sum(axis=0)

    for by_output in (True, False):
        report = verify.vjp(lambda x, w, b: function(x @ w + b[None, :]), rule, dense_args)
        assert report.ok
        explained = [note for note in report.notes if f"derivative of `{name}`" in note and "from its output" in note]
        assert len(explained) == by_output


def test_an_output_used_beside_its_input_is_no_derivative_from_the_output(dense_args):
    x = dense_args[0]

    def rule(args, ct):
        x, weight = args
        return ct * weight / jnp.cosh(x) ** 2, ct * jnp.tanh(x)

    assert not verify.vjp(lambda x, weight: jnp.tanh(x) * weight, rule, (x, 1 + x)).notes
