"""A rule gone through line by line: several mistakes in one chain, and one mistake above several gradients."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from jaxbias.symbols.reference_values import ReferenceValue
from jaxbias.verify.naming.steps import Known
from jaxbias.verify.naming.variants import Variants

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def normal(*shapes):
    return tuple(jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate(shapes))


def said(forward, rule, args):
    """The statement that each diagnosis gives to write → its kind."""
    report = verify.vjp(forward, rule, args)
    assert report.verdict == "wrong"
    return {d.patch: d.kind for d in report.diagnoses}


def pooled(x, w):
    y = x @ w
    act = y * jax.nn.sigmoid(y)
    return act.reshape(-1, 2, act.shape[1]).mean(1)


def pooled_rule(args, ct):
    x, w = args
    y = x @ w
    s = jax.nn.sigmoid(y)
    dact = jnp.repeat(ct, 2, axis=0)
    dy = dact * (y * s * (1 - s))
    return dy @ w, x.T @ dy


def test_three_mistakes_in_one_chain_have_a_line_each():
    kinds = said(pooled, pooled_rule, normal((6, 4), (4, 4)))
    assert kinds == {
        "dact = jnp.repeat(ct, 2, axis=0) / 2": "scale-constant",
        "dy = dact * (y * s * (1 - s) + s)": "missing-term",
        "return dy @ w.T, x.T @ dy": "transpose",
    }


def cell(xs, w, u):
    def step(carry, x):
        h, c = carry
        z = jnp.tanh(x @ w + h @ u)
        f = jax.nn.sigmoid(z)
        c = f * c + z
        h = jnp.sin(c)
        return (h, c), h

    start = jnp.zeros(u.shape[0])
    return lax.scan(step, (start, start), xs)[1]


def cell_rule(args, ct):
    xs, w, u = args
    h = c = jnp.zeros(u.shape[0])
    tape = []
    for x in xs:
        z = jnp.tanh(x @ w + h @ u)
        f = jax.nn.sigmoid(z)
        c_new = f * c + z
        tape.append((x, h, c, z, f, c_new))
        h, c = jnp.sin(c_new), c_new
    dw, du, dh, dc = jnp.zeros_like(w), jnp.zeros_like(u), jnp.zeros_like(h), jnp.zeros_like(h)
    dxs = []
    for x, h, c, z, f, c_new in reversed(tape):
        i = len(tape) - 1 - len(dxs)
        dh = dh + ct[i]
        dc = dc + dh * jnp.sin(c_new)
        df = dc * c
        dz = dc + df * f * (1 - f)
        dpre = dz * (1 - z**2)
        dw = dw + jnp.outer(x, dpre)
        du = du + jnp.outer(h, dpre)
        dxs.insert(0, dpre @ w.T)
        dh = dpre @ u.T
        dc = dc * z
    return jnp.stack(dxs), dw, du


def test_two_mistakes_in_what_a_loop_carries_have_a_line_each():
    kinds = said(cell, cell_rule, normal((4, 2), (2, 3), (3, 3)))
    assert set(kinds) == {"dc = dc + dh * jnp.cos(c_new)", "dc = dc * f"}
    assert set(kinds.values()) == {"wrong-operand"}


SENDERS, RECEIVERS = jnp.array([0, 1, 1, 2, 3]), jnp.array([1, 0, 2, 3, 0])
DEGREE = jnp.array([2.0, 1.0, 1.0, 1.0])


def gathered(h):
    return jax.ops.segment_sum(h[SENDERS], RECEIVERS, num_segments=4) / DEGREE[:, None]


def graph(x, w1, w2):
    return gathered(jnp.tanh(gathered(x @ w1)) @ w2)


def handed_back(g):
    return jax.ops.segment_sum(g[RECEIVERS], SENDERS, num_segments=4)


def graph_rule(args, ct):
    x, w1, w2 = args
    h = jnp.tanh(gathered(x @ w1))
    m = handed_back(ct)
    n = handed_back((m @ w2.T) * (1 - h**2))
    return n @ w1.T, x.T @ n, h.T @ m


def gated(xs, w, u):
    h = jnp.ones(u.shape[0])
    hs = []
    for x in xs:
        z = jax.nn.sigmoid(w @ x)
        n = jnp.tanh(u @ h)
        h = (1 - z) * n + z * h
        hs.append(h)
    return jnp.stack(hs)


def gated_rule(args, ct):
    xs, w, u = args
    h, tape = jnp.ones(u.shape[0]), []
    for x in xs:
        z, n = jax.nn.sigmoid(w @ x), jnp.tanh(u @ h)
        tape.append((x, h, z, n))
        h = (1 - z) * n + z * h
    dh, dw, du, dxs = jnp.zeros_like(h), jnp.zeros_like(w), jnp.zeros_like(u), []
    for g, (x, h, z, n) in zip(ct[::-1], tape[::-1]):
        dh = dh + g
        dz = dh * (n - h) * z * (1 - z)
        dn = dh * (1 - z) * (1 - n**2)
        dw = dw + jnp.outer(dz, x)
        du = jnp.outer(dn, h)
        dxs.append(w.T @ dz)
        dh = dh * z + u.T @ dn
    return jnp.stack(dxs[::-1]), dw, du


def test_what_every_pass_of_a_loop_overwrites_beside_another_mistake():
    assert said(gated, gated_rule, normal((4, 2), (3, 2), (3, 3))) == {
        "dz = -(dh * (n - h) * z * (1 - z))": "sign",
        "du = du + jnp.outer(dn, h)": "overwritten-not-accumulated",
    }


KEPT = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def pooled_over_kept(x, w):
    m = (x * KEPT[..., None]).sum(1) / KEPT.sum(1, keepdims=True)
    return jnp.arctan(m @ w)


def pooled_over_all(args, ct):
    x, w = args
    share = jnp.ones_like(KEPT) / KEPT.sum(1, keepdims=True)
    m = jnp.einsum("bl,bld->bd", share, x)
    z = m @ w
    dz = ct * (1 - z**2)
    dm = dz @ w.T
    return share[:, :, None] * dm[:, None, :], m.T @ dz


def test_a_constant_is_wrong_where_more_is_known_when_it_is_changed():
    assert said(pooled_over_kept, pooled_over_all, normal((2, 3, 4), (4, 2))) == {
        "share = KEPT / KEPT.sum(1, keepdims=True)": "missing-mask",
        "dz = ct * (1 / (1 + (m @ w) ** 2))": "wrong-operand",
    }


def in_groups(x, scale):
    groups = x.reshape(x.shape[0], 2, -1)
    centred = groups - groups.mean(2, keepdims=True)
    unit = centred / jnp.sqrt((centred**2).mean(2, keepdims=True) + 1e-5)
    return unit.reshape(x.shape) * scale


def in_groups_rule(args, ct):
    x, scale = args
    groups = x.reshape(x.shape[0], 2, -1)
    centred = groups - groups.mean(2, keepdims=True)
    root = jnp.sqrt((centred**2).mean(2, keepdims=True) + 1e-5)
    unit = centred / root
    g = ct.reshape(unit.shape)
    along = (g * unit).mean((1, 2), keepdims=True)
    dx = (g - g.mean(2, keepdims=True) - unit * along) / root
    return dx.reshape(x.shape), (ct * unit.reshape(x.shape)).sum(0)


def test_a_sum_over_other_axes_beside_another_mistake():
    kinds = said(in_groups, in_groups_rule, normal((3, 6), (6,)))
    assert kinds == {
        "g = (ct * scale).reshape(unit.shape)": "missing-factor",
        "along = (g * unit).mean(-1, keepdims=True)": "wrong-reduction-axis",
    }


def test_one_mistake_in_a_function_that_is_called_twice_is_said_there():
    (patch, kind), *others = said(graph, graph_rule, normal((4, 3), (3, 2), (2, 5))).items()
    assert not others and kind == "missing-factor"
    assert patch == "return jax.ops.segment_sum((g / DEGREE[:, None])[RECEIVERS], SENDERS, num_segments=4)"


def test_a_value_is_known_transposed_and_with_unit_axes_and_by_nothing_else():
    x = np.arange(1.0, 7.0).reshape(1, 2, 3)
    known = Known([ReferenceValue("x", x, False, 1.0), ReferenceValue("∂L/∂x", 2 * x, True, 1.0)])
    assert known(x[0].T, False) is known(x[0][:, None], False) is known(x[0], False)
    assert known(2 * x[0], True) is not None and known(2 * x[0], True).name == "∂L/∂x"
    assert known(2 * x[0], False) is known(x[0], True) is known(0 * x[0], False) is known(x[0] + 1e-6, False) is None


def changes_of(text, **names):
    value_of = lambda code: eval(code, dict(names))
    return {v.by for v in Variants(text, ast.parse(text, mode="eval").body, (), (), value_of).of_form()}


def test_axes_are_those_of_what_is_added_up():
    assert {"(2, 3)", "4", "(0, 2, 4)"} <= changes_of("x.mean(3)", x=np.ones((2, 2, 2, 2, 2)))
    codes = changes_of("x.sum(0)", x=np.ones((2, 3)))
    assert "(0, 1)" in codes and not codes & {"(0, 2)", "(1, 2)"}
