"""Two mistakes at once: each has its own line, and neither is told as what the other one makes of a right line."""

import jax
import jax.numpy as jnp
import pytest

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def lines_of(forward, rule, *shapes, least=0.3):
    """Code of the lines that are wrong, with the kinds of mistake that are told of each."""
    keys = jax.random.split(jax.random.key(3), len(shapes))
    args = tuple(jax.random.uniform(key, shape, minval=least, maxval=1.5) for key, shape in zip(keys, shapes))
    report = verify.vjp(forward, rule, args)
    assert report.verdict == "wrong"
    code = lambda d: d.rule_line.split(": ", 1)[-1]
    kinds = {code(d): {other.kind for other in report.diagnoses if code(other) == code(d)} for d in report.diagnoses}
    wrong = {line.text for line in report.lines if line.status == "wrong"}
    assert all(any(line in place or place in line for place in kinds) for line in wrong), str(report)
    return kinds


def weighted(x, q):
    p = jax.nn.softmax(x @ q / x.shape[1] ** 0.5)
    return p @ x


def test_a_variable_that_is_assigned_anew_is_added_to_though_its_new_value_is_wrong_as_well():
    def rule(args, ct):
        x, q = args
        p = jax.nn.softmax(x @ q / x.shape[1] ** 0.5)
        dp = x @ ct
        dx = jnp.outer(p, ct)
        ds = p * (dp - (p * dp).sum())
        dx = jnp.outer(ds, q)
        return dx, x.T @ ds

    assert lines_of(weighted, rule, (5, 4), (4,)) == {
        "dx = jnp.outer(ds, q)": {"overwritten-not-accumulated"},
        "ds = p * (dp - (p * dp).sum())": {"scale-constant"},
    }


def steps(y, a, b):
    for _ in range(3):
        y = y + 0.2 * jnp.sin(y @ a + b)
    return y


def test_a_variable_that_every_pass_assigns_anew_is_added_to():
    def rule(args, ct):
        y, a, b = args
        ys = [y]
        for _ in range(3):
            ys.append(ys[-1] + 0.2 * jnp.sin(ys[-1] @ a + b))
        da, db = jnp.zeros_like(a), jnp.zeros_like(b)
        for t in (2, 1, 0):
            dz = ct * jnp.cos(ys[t] @ a + b)
            da = da + ys[t].T @ dz
            db = dz.sum(0)
            ct = ct + dz @ a.T
        return ct, da, db

    assert lines_of(steps, rule, (2, 4), (4, 4), (4,)) == {
        "db = dz.sum(0)": {"overwritten-not-accumulated"},
        "dz = ct * jnp.cos(ys[t] @ a + b)": {"scale-constant"},
    }


def residual(x, w, gain):
    return x + gain * jax.nn.relu(x @ w - 1.5)


def test_what_is_handed_on_under_another_name_is_wrong_and_not_what_it_is_a_name_of():
    def rule(args, ct):
        x, w, gain = args
        z = x @ w - 1.5
        dr = ct * gain
        dz = dr
        dgain = (ct * jax.nn.relu(z)).sum(0)
        return dz @ w + ct, x.T @ dz, dgain

    assert lines_of(residual, rule, (6, 4), (4, 4), (4,)) == {
        "dz = dr": {"missing-activation-derivative"},
        "return dz @ w + ct, x.T @ dz, dgain": {"transpose"},
    }


def pairs(x, w, v):
    return jax.nn.sigmoid(x @ w + 0.5 * ((x @ v) ** 2 - x**2 @ v**2).sum(-1))


def test_a_value_that_is_another_gradient_by_chance_may_be_wrong():
    def rule(args, ct):
        x, w, v = args
        y = pairs(x, w, v)
        dt = ct * y * (1 - y)
        ds = dt[:, None] * (x @ v)
        squares = dt @ x
        dv = x.T @ ds - v * squares[:, None]
        dx = jnp.outer(dt, w) - ds @ v.T - dt[:, None] * x * (v**2).sum(-1)
        return dx, x.T @ dt, dv

    assert lines_of(pairs, rule, (6, 5), (5,), (5, 3), least=-1.5) == {
        "squares = dt @ x": {"missing-factor"},
        "dx = jnp.outer(dt, w) - ds @ v.T - dt[:, None] * x * (v**2).sum(-1)": {"sign"},
    }


def sampled(mu, logvar, eps, w):
    kl = 0.5 * (jnp.exp(logvar) + mu**2 - 1 - logvar)
    return ((mu + jnp.exp(0.5 * logvar) * eps) @ w).sum(-1) + kl.sum(-1)


def test_a_variable_that_several_formulas_take_is_wrong_beside_another_mistake():
    def rule(args, ct):
        mu, logvar, eps, w = args
        std = jnp.exp(logvar)
        g = ct[:, None]
        dz = g * w.sum(1)
        dmu = dz - g * mu
        dlogvar = 0.5 * dz * eps * std + 0.5 * g * (std**2 - 1)
        return dmu, dlogvar, dz * std, ((mu + std * eps).T @ ct)[:, None] * jnp.ones_like(w)

    assert lines_of(sampled, rule, (5, 3), (5, 3), (5, 3), (3, 4)) == {
        "std = jnp.exp(logvar)": {"missing-factor"},
        "dmu = dz - g * mu": {"sign"},
    }


def test_a_term_that_has_a_line_of_its_own_is_wrong_there():
    def rule(args, ct):
        mu, logvar, eps, w = args
        std = jnp.exp(0.5 * logvar)
        g = ct[:, None]
        dz = g * w.sum(1)
        dlogvar = dz * eps * std
        dlogvar = dlogvar + 0.5 * g * (std**2 - 1)
        return dz + g * mu, dlogvar, dz * std, (eps.T @ ct)[:, None] * jnp.ones_like(w)

    assert lines_of(sampled, rule, (5, 3), (5, 3), (5, 3), (3, 4)) == {
        "dlogvar = dz * eps * std": {"scale-constant"},
        "return dz + g * mu, dlogvar, dz * std, (eps.T @ ct)[:, None] * jnp.ones_like(w)": {"wrong-operand"},
    }


def kernel(x, y, ell):
    return jnp.exp(-0.5 * ((x[:, None] - y) ** 2).sum(-1) / ell**2)


def test_two_mistakes_on_one_way_have_two_lines():
    def rule(args, ct):
        x, y, ell = args
        diff = x[:, None] - y
        d2 = (diff**2).sum(-1)
        dk = ct * jnp.exp(-0.5 * d2 / ell**2)
        dd2 = -0.5 * dk / ell
        ddiff = dd2[:, :, None] * diff
        return ddiff.sum(1), -ddiff.sum(0), (dk * d2).sum() / ell**3

    assert lines_of(kernel, rule, (5, 2), (4, 2), ()) == {
        "dd2 = -0.5 * dk / ell": {"missing-factor"},
        "ddiff = dd2[:, :, None] * diff": {"scale-constant"},
    }


def norm(x, gain):
    xhat = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return xhat * gain


def test_a_helper_that_is_called_twice_is_wrong_once():
    def norm_back(x, gain, dy):
        s = jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
        xhat = (x - x.mean(-1, keepdims=True)) / s
        dxhat = dy
        dx = (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True)) / s
        return dx, (dy * xhat).sum(0)

    def rule(args, ct):
        x, w, g1, g2 = args
        h = norm(x, g1)
        dz, dg2 = norm_back(h @ w, g2, ct)
        dx, dg1 = norm_back(x, g1, dz @ w.T)
        return dx, h.T @ dz, dg1, dg2

    forward = lambda x, w, g1, g2: norm(norm(x, g1) @ w, g2)
    assert lines_of(forward, rule, (4, 5), (5, 3), (5,), (3,)) == {"dxhat = dy": {"missing-factor"}}


def test_gradients_of_another_shape_have_their_line_and_the_others_theirs():
    def rule(args, ct):
        x, w, b = args
        dz = ct * (1 - jnp.tanh(x @ w + b) ** 2)
        dw = dz.T @ x
        return dz @ w.T, dw, ct.sum(0)

    def forward(x, w, b):
        return jnp.tanh(x @ w + b)

    assert lines_of(forward, rule, (6, 5), (5, 3), (3,)) == {
        "dw = dz.T @ x": {"transpose"},
        "return dz @ w.T, dw, ct.sum(0)": {"missing-activation-derivative"},
    }
