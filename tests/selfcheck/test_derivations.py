import jax.numpy as jnp
import pytest

from jaxbias import selfcheck
from jaxbias.layers import dense
from jaxbias.selfcheck import LeafCheck, check_all, check_derivation


def derivation(change=lambda residuals, grads, delta, delta_x: (grads, delta_x)):
    """dense, with its backward changed."""

    def backward(residuals, delta):
        grads, delta_x = dense.backward(residuals, delta)
        return change(residuals, grads, delta, delta_x)

    original = selfcheck.layer_derivations()["dense"]
    example = original.examples[0]
    return original._replace(examples=(example._replace(layer=example.layer._replace(backward=backward)),))


def failed(found):
    return {(leaf.leaf, leaf.dtype) for leaf in found.leaves if not leaf.ok}


def test_a_right_derivation_passes_in_every_dtype():
    found = check_derivation(derivation())
    assert found.ok and failed(found) == set()
    assert {(leaf.leaf, leaf.dtype) for leaf in found.leaves} == {
        (leaf, dtype) for leaf in ("weight", "bias", "x") for dtype in selfcheck.DTYPES
    }
    assert any(leaf.error > 0 for leaf in found.leaves if leaf.dtype == "bfloat16")  # it does run in bfloat16


WRONG = {
    "mean for sum": (lambda r, g, d, dx: (g._replace(bias=d.mean(0)), dx), "bias"),
    "sign": (lambda r, g, d, dx: (g._replace(weight=-g.weight), dx), "weight"),
    "a factor of 1.2": (lambda r, g, d, dx: (g, dx * jnp.asarray(1.2, dx.dtype)), "x"),
    "NaN": (lambda r, g, d, dx: (g._replace(bias=g.bias * jnp.asarray(jnp.nan, d.dtype)), dx), "bias"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_derivation_is_caught_in_every_dtype_and_no_other_leaf_is_blamed(name):
    change, leaf = WRONG[name]
    found = check_derivation(derivation(change))
    assert not found.ok and failed(found) == {(leaf, dtype) for dtype in selfcheck.DTYPES}


def test_a_float32_accumulation_mistake_shows_in_float32_only_where_it_matters():
    """Rounding the error signal to bfloat16 first is right in bfloat16 and wrong in the wider dtypes."""

    def change(residuals, grads, delta, delta_x):
        del delta_x
        rough = (delta / 3).astype(jnp.bfloat16).astype(delta.dtype) * 3
        return grads, rough @ residuals.weight.T

    assert failed(check_derivation(derivation(change))) == {("x", "float64"), ("x", "float32")}


WRONG_SHAPE = {
    "shape": (
        lambda r, g, d, dx: (g._replace(bias=g.bias[None]), dx),
        "ValueError: 0.bias: the backward returned shape (1, 4)",
    ),
    "raises": (lambda r, g, d, dx: 1 / 0, "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", WRONG_SHAPE)
def test_a_derivation_that_breaks_is_a_finding(name):
    change, note = WRONG_SHAPE[name]
    found = check_derivation(derivation(change))
    assert not found.ok and all(leaf.note.startswith(note) and leaf.error != leaf.error for leaf in found.leaves)


def test_worst_prefers_a_failure_and_never_swallows_nan():
    nan = float("nan")
    leaves = [LeafCheck("d", str(i), "bias", "float32", e, 1e-6) for i, e in enumerate((1e-9, nan, 5.0, 1e-8))]
    (row,) = selfcheck.Check(derivation(), tuple(leaves), 0.0).worst().values()
    assert row["float32"].example == "1" and not row["float32"].ok
    leaves = [LeafCheck("d", str(i), "bias", "float32", e, 1e-6) for i, e in enumerate((1e-9, 1e-8, 0.0))]
    (row,) = selfcheck.Check(derivation(), tuple(leaves), 0.0).worst().values()
    assert row["float32"].example == "1"
    assert not selfcheck.Check(derivation(), (), 0.0).ok  # a check of nothing is not passed


def test_check_all_keeps_the_order_and_tells_progress():
    names = ["tanh", "relu", "identity"]
    told = []
    found = check_all(
        [selfcheck.layer_derivations()[name] for name in names], progress=told.append, dtypes=("float64",)
    )
    assert [each.derivation.name for each in found] == names and all(each.ok for each in found)
    assert sorted(each.derivation.name for each in told) == sorted(names)
