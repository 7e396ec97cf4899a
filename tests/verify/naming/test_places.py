"""Where a mistake stands: in a loop, in a number, where a value is handed on; and that no name rests on one pass."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxbias import verify

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def said(forward, rule, *shapes):
    keys = jax.random.split(jax.random.key(3), len(shapes))
    report = verify.vjp(forward, rule, tuple(map(jax.random.normal, keys, shapes)))
    assert report.verdict == "wrong"
    lines = {line.text for line in report.lines if line.status == "wrong"}
    return [(d.kind, d.patch) for d in report.diagnoses], lines, report


def leaky(xs, w):
    def step(h, x):
        h = jax.nn.sigmoid(x) * h + jnp.tanh(x * w)
        return h, h

    return lax.scan(step, jnp.zeros_like(w), xs)[1]


def carry_undamped(args, ct):
    xs, w = args
    hs = jnp.concatenate([jnp.zeros_like(w)[None], leaky(xs, w)[:-1]])

    def back(carry, at):
        dh, dw = carry
        x, h, g = at
        keep, new = jax.nn.sigmoid(x), jnp.tanh(x * w)
        dh = dh + g
        dz = dh * (1 - new**2)
        dw = dw + dz * x
        return (dh, dw), dz * w + dh * h * keep * (1 - keep)

    (_, dw), dxs = lax.scan(back, (jnp.zeros_like(w), jnp.zeros_like(w)), (xs, hs, ct), reverse=True)
    return dxs, dw


def test_a_carry_is_mended_where_a_pass_hands_it_on():
    diagnoses, lines, report = said(leaky, carry_undamped, (4, 3), (3,))
    assert diagnoses == [("missing-factor", "return (dh * keep, dw), dz * w + dh * h * keep * (1 - keep)")], str(report)
    assert lines == {"return (dh, dw), dz * w + dh * h * keep * (1 - keep)"}


def total(x, w):
    return jnp.tanh(x @ w).sum(axis=0)


def always_the_first_rows(args, ct):
    x, w = args

    def block(dw, rows):
        slope = 1 - jnp.tanh(x[:3] @ w) ** 2
        return dw + rows.T @ (slope * ct), (slope * ct) @ w.T

    dw, dx = lax.scan(block, jnp.zeros_like(w), x.reshape(2, 3, -1))
    return dx.reshape(x.shape), dw


def test_a_pass_of_a_loop_takes_other_entries_of_a_value_and_sizes_that_are_refused_take_no_digits_away():
    diagnoses, lines, report = said(total, always_the_first_rows, (6, 4), (4, 2))
    assert diagnoses == [("wrong-index", "slope = 1 - jnp.tanh(rows @ w) ** 2")], str(report)
    assert lines == {"slope = 1 - jnp.tanh(x[:3] @ w) ** 2"}


def decays(x, a):
    def step(h, x):
        h = jax.nn.sigmoid(a) * h + x
        return h, h

    return lax.scan(step, jnp.zeros_like(a), x)[1]


def without_the_slope(args, ct):
    x, a = args
    s = jax.nn.sigmoid(a)
    before = jnp.concatenate([jnp.zeros_like(a)[None], decays(x, a)[:-1]])

    def back(carry, at):
        g, h = at
        dh = carry[0] * s + g
        return (dh, carry[1] + dh * h), dh

    (_, da), dx = lax.scan(back, (jnp.zeros_like(a), jnp.zeros_like(a)), (ct, before), reverse=True)
    return dx, da


def test_what_is_zero_in_one_pass_of_a_loop_is_not_detached():
    diagnoses, _, report = said(decays, without_the_slope, (5, 3), (3,))
    assert [kind for kind, _ in diagnoses] == ["missing-activation-derivative"], str(report)


def windows(x, w):
    return sum(x[k : k + 4] * w[k] for k in range(3))


def first_window_left_out(args, ct):
    x, w = args
    dx = jnp.zeros_like(x)
    for k in range(1, 3):
        dx = dx.at[k : k + 4].add(w[k] * ct)
    return dx, jnp.stack([(x[k : k + 4] * ct).sum() for k in range(3)])


def test_a_loop_that_leaves_out_a_pass():
    diagnoses, _, report = said(windows, first_window_left_out, (6,), (3,))
    assert [kind for kind, _ in diagnoses] == ["wrong-index"], str(report)
    assert "in 1 of 3 passes of the loop" in str(report)


def centred(x, gamma):
    return (x - x.mean(axis=0)) * gamma


def by_the_wrong_size(args, ct):
    x, gamma = args
    n = x.shape[1]
    g = ct * gamma
    return g - g.sum(axis=0) / n, (ct * (x - x.mean(axis=0))).sum(axis=0)


def test_a_number_is_corrected_where_it_is_assigned():
    diagnoses, lines, report = said(centred, by_the_wrong_size, (5, 3), (3,))
    assert diagnoses == [("scale-constant", "n = x.shape[0]")], str(report)
    assert lines == {"n = x.shape[1]"}


def distances(x):
    return jnp.sqrt(((x[:, None] - x) ** 2).sum(axis=-1))


def softened(args, ct):
    (x,) = args
    apart = x[:, None] - x
    g = ct[..., None] * apart / jnp.sqrt((apart**2).sum(axis=-1, keepdims=True) + 0.1)
    return (g.sum(axis=1) - g.sum(axis=0),)


def test_where_autodiff_gives_nan_two_calls_that_agree_do_not_differ():
    x = jax.random.normal(jax.random.key(1), (4, 5), jnp.float32)
    assert "nondeterministic" not in [d.kind for d in verify.vjp(distances, softened, (x,)).diagnoses]


def heads(x, w):
    return jnp.einsum("bhtk,dhk->btd", jnp.tanh(jnp.einsum("btd,dhk->bhtk", x, w)), w)


def heads_part_and_whole(args, ct):
    x, w = args
    h = jnp.tanh(jnp.einsum("btd,dhk->bhtk", x, w))
    dz = jnp.einsum("btd,dhk->bhtk", ct, w) * (1 - h**2)
    parts = [("bhtk,dhk->btd", dz, w)]
    dx = sum(jnp.einsum(letters, g, k) for letters, g, k in parts[:0] + parts) * 2
    dw = jnp.einsum("btd,bhtk->dhk", x, dz) + jnp.einsum("btd,bhtk->dhk", ct, h)
    return dx, dw


def test_a_piece_that_stands_in_another_is_in_nobodys_way():
    diagnoses, lines, report = said(heads, heads_part_and_whole, (2, 3, 4), (4, 2, 3))
    assert [kind for kind, _ in diagnoses] == ["scale-constant"], str(report)
    assert diagnoses[0][1] == "dx = sum(jnp.einsum(letters, g, k) for letters, g, k in parts[:0] + parts)", str(report)


def blocks(x, ws):
    for w in ws:
        x = x + jnp.tanh(x @ w)
    return x


def blocks_with_what_comes_after(args, ct):
    x, ws = args
    xs = [x]
    for w in ws:
        xs.append(xs[-1] + jnp.tanh(xs[-1] @ w))
    dws = []
    for i in reversed(range(len(ws))):
        d = ct * (1 - jnp.tanh(xs[i] @ ws[i]) ** 2)
        dws.append(xs[i + 1].T @ d)
        ct = ct + d @ ws[i].T
    return ct, jnp.stack(dws[::-1])


def test_what_is_put_into_a_list_is_wrong_there():
    diagnoses, lines, report = said(blocks, blocks_with_what_comes_after, (5, 3), (3, 3, 3))
    assert diagnoses == [("wrong-index", "dws.append(xs[i].T @ d)")], str(report)
