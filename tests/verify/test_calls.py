"""How a rule behaves as a function: planted rules that fail in one respect each, and right ones that must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from tests.verify.tanh_layer import forward, rule


def wrong_leaves(report):
    return [path for path, leaf in report.leaves.items() if not leaf.ok]


def test_eager_and_traced_calls_must_agree(args):
    def depends(args, ct):
        dx, dw = rule(args, ct)
        return dx, dw if isinstance(ct, jax.core.Tracer) else 1.5 * dw

    for each in (depends, lambda a, c: tuple(3 * r - 2 * d for r, d in zip(rule(a, c), depends(a, c)))):
        report = verify.vjp(forward, each, args)
        assert wrong_leaves(report) == ["weight"]
        assert report.diagnoses[0].kind == "nondeterministic" and "traces it" in report.diagnoses[0].explanation


def test_a_batch_of_cotangents_must_give_what_each_gives(args):
    @jax.custom_batching.custom_vmap
    def double(x):
        return 2 * x

    @double.def_vmap
    def _(axis_size, in_batched, x):
        return 2 * x[::-1], True  # the batch comes back in another order

    def twisted(args, ct):
        dx, dw = rule(args, ct)
        return dx, double(dw) / 2

    report = verify.vjp(forward, twisted, args)
    assert wrong_leaves(report) == ["weight"] and "Under jax.vmap" in report.diagnoses[0].explanation
    assert verify.vjp(forward, rule, args).verdict == "right"


def test_a_rule_in_numpy_is_right_and_noted(args):
    def in_numpy(args, ct):
        x, weight = map(np.asarray, args)
        delta = np.asarray(ct) * (1 - np.tanh(x @ weight) ** 2)
        return delta @ weight.T, x.T @ delta

    report = verify.vjp(forward, in_numpy, args)
    assert report.verdict == "right" and any("cannot be traced" in note for note in report.notes)


@pytest.mark.parametrize(
    "spoil", [lambda ct: ct + (jnp.sum(ct * ct) == 0).astype(ct.dtype), lambda ct: ct * ct / ct, jnp.abs, jnp.ones_like]
)
def test_linear_in_the_cotangent_and_zero_for_zero(args, spoil):
    report = verify.vjp(forward, lambda args, ct: rule(args, spoil(ct).astype(ct.dtype)), args)
    assert wrong_leaves(report) == ["x", "weight"]
    assert report.diagnoses[0].kind == "not-linear-in-cotangent", report


def test_a_gradient_that_cancels_to_zero_is_linear(key):
    def centred(x, bias):
        z = x + bias[None, :]
        return (z - z.mean(axis=0, keepdims=True)) ** 2

    def centred_rule(args, ct):
        x, bias = args
        z = x + bias[None, :]
        d = 2 * ct * (z - z.mean(axis=0, keepdims=True))
        dx = d - d.mean(axis=0, keepdims=True)
        return dx, dx.sum(axis=0)  # zero, up to rounding that is not linear in ct

    args = jax.random.normal(key, (7, 3), jnp.float32), jnp.array([1.0, -2.0, 0.3], jnp.float32)
    report = verify.vjp(centred, centred_rule, args)
    assert report.verdict == "right"
    assert [note.split(":")[0] for note in report.notes if "its terms cancel" in note] == ["bias"]


def test_stale_and_random_rules(args):
    seen = []

    def stale(args, ct):
        seen.append(rule(args, ct))
        return seen[max(0, len(seen) - 2)]

    assert verify.vjp(forward, stale, args).diagnoses[0].kind in ("stale-value", "nondeterministic")
    rng = np.random.default_rng(0)
    noisy = lambda args, ct: tuple(g * (1 + 0.01 * rng.uniform()) for g in rule(args, ct))
    assert verify.vjp(forward, noisy, args).diagnoses[0].kind == "nondeterministic"


def test_narrower_dtypes_are_noted(args):
    def fragile(args, ct):
        short = ct if ct.dtype == jnp.float64 else ct.astype(jnp.bfloat16).astype(ct.dtype)
        return rule(args, short)

    wide = tuple(x.astype(jnp.float64) for x in args)
    report = verify.vjp(forward, fragile, wide)
    assert report.verdict == "right" and any("in float32" in note for note in report.notes), report.notes
    assert not any("in float32" in note for note in verify.vjp(forward, rule, wide).notes)
    only_wide = lambda args, ct: rule(args, ct) if ct.dtype == jnp.float64 else 1 / 0
    report = verify.vjp(forward, only_wide, wide)
    assert report.ok and any("does not run in float32" in note for note in report.notes)


def test_a_second_rule_sees_what_the_forward_closes_over_now(args):
    held = {"scale": np.array([1.0, 2.0], np.float32)}
    scaled = lambda x, weight: forward(x, weight) * held["scale"][None, :]
    scaled_rule = lambda args, ct: rule(args, ct * held["scale"][None, :])
    assert verify.vjp(scaled, scaled_rule, args).ok
    old = held["scale"].copy()
    stale_rule = lambda args, ct: rule(args, ct * old[None, :])
    held["scale"][1] = 3.0  # in place: the same function, the same array
    assert verify.vjp(scaled, scaled_rule, args).ok
    assert not verify.vjp(scaled, stale_rule, args, diagnose=False).ok
    held["scale"] = 3.0 * jnp.ones(2, jnp.float32)
    assert verify.vjp(scaled, scaled_rule, args).ok


def test_what_a_machine_runs_only_compiled_is_run_compiled(args):
    def picky(args, ct):
        if not isinstance(ct, jax.core.Tracer):
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such kernel")
        return rule(args, ct)

    report = verify.vjp(forward, picky, args)
    assert report.verdict == "right" and any("no such kernel" in note for note in report.notes)


def test_a_barrier_around_several_values(args):
    def fenced(args, ct):
        args, ct = jax.lax.optimization_barrier((args, ct))
        return rule(args, ct)

    assert verify.vjp(forward, fenced, args, diagnose=False).verdict == "right"


# --- rules that refuse values -----------------------------------------------------------------------------------------


def refusing(refuses):
    """2 ct, by a callback that raises for some cotangents, as a solver does that breaks down."""

    def on_the_host(ct):
        if refuses(np.asarray(ct)):
            raise RuntimeError("the solver broke down")
        return 2 * np.asarray(ct)

    def rule(args, ct):
        return (jax.pure_callback(on_the_host, jax.ShapeDtypeStruct(ct.shape, ct.dtype), ct, vmap_method="sequential"),)

    return rule


def test_a_rule_that_refuses_a_cotangent_is_judged_by_the_others():
    report = verify.vjp(lambda x: 2 * x, refusing(lambda ct: not np.any(ct)), (jnp.arange(1.0, 4.0),))
    assert report.verdict == "right"
    assert any("linearity in the cotangent is not checked" in n and "broke down" in n for n in report.notes), report
    report = verify.vjp(lambda x: 3 * x, refusing(lambda ct: not np.any(ct)), (jnp.arange(1.0, 4.0),))
    assert report.verdict == "wrong"


def test_a_rule_that_refuses_every_value_is_wrong():
    report = verify.vjp(lambda x: 2 * x, refusing(lambda ct: True), (jnp.arange(1.0, 4.0),))
    assert report.verdict == "wrong" and report.diagnoses[0].kind == "wrong-structure"
    assert "broke down" in report.diagnoses[0].explanation
