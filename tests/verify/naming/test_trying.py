"""Small changes of a line that are tried on the values of its names: what each is called, and what is to be written."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbias import verify
from jaxbias.verify.naming.code import put
from jaxbias.verify.naming.variants import Variants

from .in_other_names import grows, grows_backwards


def normal(*shapes):
    return tuple(jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate(shapes))


def scaled(x, s):
    return jnp.sin(x) * s


def mixed(z, v):
    return jax.nn.softmax(z, axis=-1) @ v


def mixed_rule(back):
    def rule(args, ct):
        z, v = args
        probs = jax.nn.softmax(z, axis=-1)
        g = ct @ v.T
        return back(probs, g), probs.T @ ct

    return rule


def scaled_divided(args, ct):
    x, s = args
    return ct * jnp.cos(x) / s, ct * jnp.sin(x)


def over_rows(args, ct):
    x, v = args
    probs = jax.nn.softmax(x, axis=0)
    g = ct @ v.T
    return probs * (g - (probs * g).sum(axis=-1, keepdims=True)), probs.T @ ct


def rows(x, v):
    return jax.vmap(lambda r: r / jnp.sqrt(r @ r + 1.0) * v)(x)


def rows_without_sum(args, ct):
    x, v = args

    def row(r, c):
        s = jnp.sqrt(r @ r + 1.0)
        dr = c * v / s - r * (r * c * v) / s**3
        return dr, c * r / s

    dx, dv = jax.vmap(row)(x, ct)
    return dx, dv.sum(axis=0)


def steps(xs, w, u):
    def step(h, x):
        h = jnp.tanh(x @ w + h @ u)
        return h, h

    return jax.lax.scan(step, jnp.zeros((xs.shape[1], u.shape[0])), xs)[1]


def steps_slope(args, cts):
    xs, w, u = args
    hs = steps(xs, w, u)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def step(carry, its):
        dh, dw, du = carry
        x, h, hp, ct = its
        dz = (dh + ct) * (1 - h)
        return (dz @ u.T, dw + x.T @ dz, du + hp.T @ dz), dz @ w.T

    zero = (jnp.zeros_like(hs[0]), jnp.zeros_like(w), jnp.zeros_like(u))
    (_, dw, du), dxs = jax.lax.scan(step, zero, (xs, hs, before, cts), reverse=True)
    return dxs, dw, du


def smooth(x, k):
    return sum(x[:, j : j + 6] * k[j] for j in range(3))


def kernel_flipped(args, ct):
    x, k = args
    dx = jnp.zeros_like(x)
    dk = []
    for j in range(3):
        dx = dx.at[:, j : j + 6].add(ct * k[2 - j])
        dk.append((x[:, j : j + 6] * ct).sum())
    return dx, jnp.stack(dk)


MASK = jnp.array([True, False, True, True])
FROM, TO = jnp.array([0, 1, 2, 0, 3]), jnp.array([1, 2, 3, 3, 0])


def attended(q, k, v):
    s = jnp.where(MASK[None, :], q @ k.T, -jnp.inf)
    return jax.nn.softmax(s) @ v


def attended_without_mask(args, ct):
    q, k, v = args
    s = q @ k.T
    p = jax.nn.softmax(s)
    gp = ct @ v.T
    gs = p * (gp - (gp * p).sum(axis=-1, keepdims=True))
    return gs @ k, gs.T @ q, p.T @ ct


def spread(x):
    s = jnp.sqrt(((x - x.mean(0, keepdims=True)) ** 2).sum(0, keepdims=True) / (len(x) - 1))
    return (x - x.mean(0, keepdims=True)) / s


def spread_over_all(args, ct):
    (x,) = args
    s = jnp.std(x, axis=0, keepdims=True)
    z = (x - x.mean(0, keepdims=True)) / s
    proj = (ct * z).sum(0, keepdims=True) / (len(x) - 1)
    return ((ct - ct.mean(0, keepdims=True) - z * proj) / s,)


def pooled(x, a):
    return a * x.max(axis=1) + (1 - a) * x.mean(axis=1)


def pooled_to_all(args, ct):
    x, a = args
    hit = (x == x.max(axis=1, keepdims=True)).astype(x.dtype)  # noqa: F841 (what the rule lacks)
    to_max = (a * ct)[:, None] * jnp.ones_like(x)
    to_mean = ((1 - a) * ct)[:, None] / x.shape[1]
    return to_max + to_mean, jnp.sum(ct * (x.max(axis=1) - x.mean(axis=1)))


def polynomial(t, m):
    return (2 * t**3 - 3 * t**2) + m * (t**3 - 2 * t**2 + t)


def lacking_one(args, ct):
    t, m = args
    slope = 6 * t**2 - 6 * t
    slope = slope + m * (3 * t**2 - 4 * t)
    return ct * slope, ct * (t**3 - 2 * t**2 + t)


def passed_on(x, w):
    return jax.ops.segment_sum((x @ w)[FROM], TO, 4)


def passed_back_to_itself(args, ct):
    x, w = args
    d = jax.ops.segment_sum(ct[TO], TO, 4)
    return d @ w.T, x.T @ d


def bent(r):
    small = jnp.abs(r) < 0.8
    return jnp.where(small, 0.5 * r * r, 0.8 * (jnp.abs(r) - 0.4)).mean()


def not_bent(args, ct):
    (r,) = args
    dr = ct * r / r.size
    return (dr,)


diagonal = mixed_rule(lambda probs, g: probs * (1 - probs) * g)


@pytest.mark.parametrize(
    ("forward", "rule", "args", "patch"),
    [
        (scaled, scaled_divided, normal((5, 4), (5, 4)), "return ct * jnp.cos(x) * s, ct * jnp.sin(x)"),
        (mixed, over_rows, normal((5, 4), (4, 3)), "probs = jax.nn.softmax(x, axis=1)"),
        (mixed, diagonal, normal((5, 4), (4, 3)), "probs * (g - (probs * g).sum(-1, keepdims=True))"),
        (rows, rows_without_sum, normal((4, 5), (5,)), "(r * c * v).sum()"),
        (steps, steps_slope, normal((5, 3, 4), (4, 6), (6, 6)), "dz = (dh + ct) * (1 - h**2)"),
        (smooth, kernel_flipped, normal((4, 8), (3,)), "dx = dx.at[:, j : j + 6].add(ct * k[j])"),
        # where the variable is assigned that the forward gives another value to by that name
        (
            attended,
            attended_without_mask,
            normal((5, 3), (4, 3), (4, 2)),
            "s = jnp.where(MASK[None, :], q @ k.T, -jnp.inf)",
        ),
        (spread, spread_over_all, normal((6, 4)), "s = jnp.std(x, axis=0, keepdims=True, ddof=1)"),
        # where the variable is assigned that one line alone takes
        (pooled, pooled_to_all, normal((5, 4), ()), "to_max = (a * ct)[:, None] * jnp.ones_like(x) * hit"),
        (polynomial, lacking_one, normal((5,), (5,)), "slope = slope + m * (3 * t**2 - 4 * t) + m"),
        # names before combinations of the part that comes first
        (passed_on, passed_back_to_itself, normal((4, 3), (3, 2)), "d = jax.ops.segment_sum(ct[TO], FROM, 4)"),
        # with the name that the module has for jax.numpy
        (
            grows,
            grows_backwards,
            normal((5, 4), (4, 3)),
            "dz = xp.flip(xp.cumsum(xp.flip(2 * ct * h, 0), axis=0), 0)",
        ),
        (bent, not_bent, normal((5, 4)), "dr = ct * jnp.clip(r, -0.8, 0.8) / r.size"),
    ],
)
def test_what_is_to_be_written(forward, rule, args, patch):
    report = verify.vjp(forward, rule, args)
    assert any(patch in d.patch for d in report.diagnoses), str(report)
    assert all(d.kind != "unexplained" for d in report.diagnoses), str(report)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("jnp.cumsum(a, axis=1) - a", "jnp.flip(jnp.cumsum(jnp.flip(a, 1), axis=1), 1) - a"),
        ("jnp.roll(d, 1, axis=0)", "jnp.roll(d, -1, axis=0)"),
        ("solve_triangular(l, d)", "solve_triangular(l, d, trans=1)"),
        ("jnp.std(x, axis=0)", "jnp.std(x, axis=0, ddof=1)"),
        ("x.var(0, ddof=1)", "x.var(0, ddof=0)"),
        ("jnp.concatenate([a, b, c], axis=1)", "jnp.concatenate([c, b, a], axis=1)"),
        ("g + jnp.outer(u, b) + jnp.outer(v, a)", "g + jnp.outer(u, a) + jnp.outer(v, b)"),
        ("d.at[k:].add(w * g[:-k])", "d.at[:-k].add(w * g[k:])"),
        ("jnp.cumsum(e[::-1])[::-1]", "jnp.cumsum(e)"),
        ("d.at[r, c].add(g)", "d.at[r + 1, c + 1].add(g)"),
        ("jnp.where(z > 0, g, 0.0)", "jnp.where(z > 0, g, 0.1 * g)"),
        ("p - jnp.diag(d)", "p - 0.5 * jnp.diag(d)"),
        ("jnp.ones_like(keep)[:, None] * g", "keep[:, None] * g"),
        ("jnp.pad(g, ((k - 1, 0), (0, 0)))", "jnp.pad(g, ((0, k - 1), (0, 0)))"),
        ("jnp.outer(g, c) + g[None, :]", "jnp.outer(g, c) + g[:, None]"),
        ("jnp.where(z > 0, z + 1, jnp.exp(z))", "jnp.where(z > 0, 1.0, jnp.exp(z))"),
        ("jnp.array([a * s, b * s])", "jnp.array([a * s, -b * s])"),
        ("g * (1 - z) * (m - n)", "g * (1 - z) * (n - m)"),
        ("d.at[k].add(1.0)", "d.at[k].add(-1.0)"),
        ("0.05 * w", "0.1 * w"),
        ("jnp.tril(l.T @ g)", "jnp.tril(l.T @ g) - 0.5 * jnp.diag(jnp.diag(l.T @ g))"),
        ("jax.nn.one_hot(h.argmin(1), 3)", "jax.nn.one_hot(h.argmax(1), 3)"),
    ],
)
def test_what_is_tried(code, wanted):
    assert wanted in tried(code)


def tried(code):
    form = Variants(code, ast.parse(code, mode="eval").body, (), (0.1,), lambda code: None)
    return [put(code, variant.node, variant.by) for variant in form.of_form()]


def test_of_what_is_ordered_no_sign_is_tried():
    assert not {"(-h).argmin(1)", "jnp.max(-z, 0)"} & {*tried("h.argmin(1)"), *tried("jnp.max(z, 0)")}
    assert "jnp.sum(-z, 0)" in tried("jnp.sum(z, 0)")


def test_a_pattern_is_said_beside_what_is_to_be_written():
    rule = lambda args, ct: (ct * jnp.cos(args[0]) * (2 - jnp.eye(4)),)
    (diagnosis,) = verify.vjp(jnp.sin, rule, normal((4, 4))).diagnoses
    assert "2 times what it must be off the diagonal" in diagnosis.explanation
    assert diagnosis.patch == "ct * jnp.cos(args[0])"


def test_a_callback_is_not_called_with_values_of_other_shapes():
    shapes = []

    def host(x, g):
        shapes.append((x.shape, g.shape))
        x, g = np.asarray(x, np.float32), np.asarray(g, np.float32)
        return np.float32(1.05) * g * (1 - np.tanh(x) ** 2)

    def rule(args, ct):
        out = jax.ShapeDtypeStruct(args[0].shape, jnp.float32)
        return (jax.pure_callback(host, out, args[0], ct, vmap_method="sequential").astype(args[0].dtype),)

    report = verify.vjp(jnp.tanh, rule, normal((4, 3)))
    assert report.verdict == "wrong" and all(x == g for x, g in shapes)


COS, SIN = jnp.cos(jnp.arange(1.0, 6)), jnp.sin(jnp.arange(1.0, 6))
KEPT = jnp.array([[True, False, True, True], [True, True, True, False]])


def turned(x):
    return jnp.stack([x[0] * COS - x[1] * SIN, x[0] * SIN + x[1] * COS])


def turned_on(args, ct):
    def back(d):
        return jnp.stack([d[0] * COS + d[1] * SIN, d[1] * COS - d[0] * SIN])

    x, y = args
    dx = turned(ct * turned(y))
    dy = back(ct * turned(x))
    return dx, dy


def test_another_function_of_the_rule_is_called():
    report = verify.vjp(lambda x, y: turned(x) * turned(y), turned_on, normal((2, 5), (2, 5)))
    (diagnosis,) = report.diagnoses
    assert diagnosis.patch == "dx = back(ct * turned(y))", str(report)
    assert "calls turned where back is needed" in diagnosis.explanation


def masked(s):
    return jax.nn.softmax(s + jnp.where(KEPT, 0.0, -1e9), axis=1)


def unmasked(args, ct):
    (s,) = args
    p = jax.nn.softmax(s, axis=1)
    return (p * (ct - jnp.sum(p * ct, axis=1, keepdims=True)),)


def test_a_term_without_bounds_is_a_mask():
    (diagnosis,) = verify.vjp(masked, unmasked, normal((2, 4))).diagnoses
    assert diagnosis.kind == "missing-mask" and diagnosis.patch, diagnosis


DONE = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0])


def advantages(delta):
    last, out = 0.0, []
    for t in reversed(range(5)):
        last = delta[t] + 0.7 * (1 - DONE[t]) * last
        out.append(last)
    return jnp.stack(out[::-1])


def not_cut_off(args, ct):
    carry, d_delta = 0.0, jnp.zeros(5)
    for t in range(5):
        carry = carry + ct[t]
        d_delta = d_delta.at[t].set(carry)
        carry = 0.7 * carry
    return (d_delta,)


def test_a_mask_that_is_one_in_most_passes_of_a_loop():
    (diagnosis,) = verify.vjp(advantages, not_cut_off, normal((5,))).diagnoses
    assert diagnosis.kind == "missing-mask" and diagnosis.rule_line.endswith("carry = 0.7 * carry"), diagnosis
    assert diagnosis.patch, diagnosis


def gate(x, t):
    return 6 * x * jax.nn.sigmoid(t)


def without_its_slope(args, ct):
    x, t = args
    s = jax.nn.sigmoid(t)
    dt = ct * x
    return 6 * ct * s, dt


def test_a_factor_with_a_number():
    (diagnosis,) = verify.vjp(gate, without_its_slope, normal((4,), (4,))).diagnoses
    assert diagnosis.patch == "dt = ct * x * s * (1 - s) * 6", diagnosis


MARGIN = 0.4


def hinge(a, b):
    return jnp.sum(jnp.maximum(a - b + MARGIN, 0))


def without_the_margin(args, ct):
    a, b = args
    active = (a - b > 0).astype(a.dtype)
    return ct * active, -ct * active


def test_what_is_said_is_what_is_written():
    (diagnosis,) = verify.vjp(hinge, without_the_margin, normal((9,), (9,))).diagnoses
    assert "MARGIN" in diagnosis.explanation and "MARGIN" in diagnosis.patch, diagnosis


def swung(y, w):
    return y + 0.1 * jnp.array([w[0] * y[1] ** 2, w[1] * y[0] * y[1]])


def test_a_function_that_takes_arrays_from_around_it():
    def rule(args, ct):
        y, w = args
        slope = lambda s: jnp.array([[0 * s[0], 2 * w[0] * s[1]], [w[1] * s[1], w[1] * s[0]]])
        return ct + 0.1 * slope(y) @ ct, 0.1 * ct * jnp.array([y[1] ** 2, y[0] * y[1]])

    (found,) = verify.vjp(swung, rule, normal((2,), (2,))).diagnoses
    assert (found.kind, found.explanation) == (
        "transpose",
        "`ct + 0.1 * slope(y) @ ct` takes slope(y) where its transpose is needed.",
    )
    assert found.patch == "return ct + 0.1 * slope(y).T @ ct, 0.1 * ct * jnp.array([y[1] ** 2, y[0] * y[1]])"


def first_left_out(args, ct):
    x, s = args
    return (ct * jnp.cos(x) * s).at[0].set(0.0), ct * jnp.sin(x)


def last_left_out(args, ct):
    x, s = args
    ds = ct * jnp.sin(x)
    ds = ds.at[-1].set(jnp.zeros(3))
    return ct * jnp.cos(x) * s, ds


@pytest.mark.parametrize(
    ("rule", "words", "patch"),
    [
        (first_left_out, "is 0 at index 0 of axis 0, and must not be", "return ct * jnp.cos(x) * s, ct * jnp.sin(x)"),
        (last_left_out, "sets entries of ds to 0, and must leave them as they are", "ds = ds"),
    ],
)
def test_entries_that_are_set_to_zero(rule, words, patch):
    (found,) = verify.vjp(scaled, rule, normal((4, 3), (4, 3))).diagnoses
    assert (found.kind, found.patch) == ("only-some-elements", patch)
    assert found.explanation.endswith(f": {words}.")


def dropped(x, w):
    return (jnp.where(jnp.arange(6) % 3 > 0, jnp.sin(x), 0.0) / 0.7) @ w


def test_a_gradient_that_is_right_lacks_no_factor():
    def rule(args, ct):
        x, w = args
        kept = jnp.arange(6) % 3 > 0
        dh = ct @ w.T
        dy = jnp.where(kept, dh, 0.0)
        return dy * jnp.cos(x), (jnp.where(kept, jnp.sin(x), 0.0) / 0.7).T @ ct

    report = verify.vjp(dropped, rule, normal((4, 6), (6, 3)))
    assert [line.text for line in report.lines if line.status == "wrong"] == ["dy = jnp.where(kept, dh, 0.0)"]
    assert [d.patch for d in report.diagnoses] == ["dy = jnp.where(kept, dh, 0.0) / 0.7"]


def test_a_statement_that_adds_to_its_variable_is_listed_as_it_is_written():
    def rule(args, ct):
        x, s = args
        dx = ct * s
        dx *= jnp.sin(x)
        return dx, ct * jnp.sin(x)

    report = verify.vjp(scaled, rule, normal((4, 3), (4, 3)))
    assert "dx *= jnp.sin(x)" in [line.text for line in report.lines]


def volume(a, b):
    return jnp.linalg.slogdet(a @ a.T + jnp.eye(3))[1] + jnp.sum(jnp.linalg.inv(a @ a.T + jnp.eye(3)) * b)


def without_the_second_inverse(args, ct):
    a, b = args
    inverse = jnp.linalg.inv(a @ a.T + jnp.eye(3))
    gs = inverse - inverse @ b.T
    return ct * (gs + gs.T) @ a, ct * inverse


def squares(a):
    s = a @ a.T + jnp.eye(3)
    return jnp.linalg.slogdet(s)[1] + jnp.sum(s**2)


def without_the_determinant(args, ct):
    (a,) = args
    s = a @ a.T + jnp.eye(3)
    gs = 2 * s
    return (ct * (gs + gs.T) @ a,)


def solved(x, y):
    return 0.5 * y @ jnp.linalg.solve(x @ x.T + jnp.eye(3), y)


def not_solved(args, ct):
    x, y = args
    k = x @ x.T + jnp.eye(3)
    dk = -0.5 * ct * jnp.linalg.solve(k, jnp.linalg.solve(k, jnp.outer(y, y)).T)
    return (dk + dk.T) @ x, ct * y


@pytest.mark.parametrize(
    ("forward", "rule", "args", "kind", "patch"),
    [
        (
            volume,
            without_the_second_inverse,
            normal((3, 4), (3, 3)),
            "missing-factor",
            "gs = inverse - ((inverse @ b.T) @ inverse)",
        ),
        (squares, without_the_determinant, normal((3, 4)), "missing-term", "jnp.linalg.inv(s)"),
        (solved, not_solved, normal((3, 4), (3,)), "missing-factor", "jnp.linalg.solve(k, "),
    ],
)
def test_matrices_that_are_lacking(forward, rule, args, kind, patch):
    (found,) = verify.vjp(forward, rule, args).diagnoses
    assert found.kind == kind and patch in found.patch, found


WEIGHTS = jnp.array([[1.0, 0.0, 0.5, 1.0], [0.3, 1.0, 1.0, 0.0]])


def smoothed(s):
    z = 2 * s
    p = jnp.exp(z) * WEIGHTS
    return p / p.sum(1, keepdims=True)


def lacking_at_two_places(args, ct):
    (s,) = args
    e = jnp.exp(2 * s)
    p = e / e.sum(1, keepdims=True)
    return (2 * p * (ct - (p * ct).sum(1, keepdims=True)),)


def centred(x, w):
    z = x @ w
    return z - z.mean(0, keepdims=True)


def not_centred(args, ct):
    x, w = args
    dz = ct
    return dz @ w.T, x.T @ dz


def returned_twice(args, ct):
    z, v = args
    probs = jax.nn.softmax(z, axis=-1)
    g = ct @ v.T
    dz = g - (probs * g).sum(axis=-1, keepdims=True)
    return dz, probs.T @ ct


@pytest.mark.parametrize(
    ("forward", "rule", "args", "line", "patch"),
    [
        (smoothed, lacking_at_two_places, normal((2, 4)), "e = jnp.exp(2 * s)", "e = jnp.exp(2 * s) * WEIGHTS"),
        (
            mixed,
            returned_twice,
            normal((5, 4), (4, 3)),
            "dz = g - (probs * g).sum(axis=-1, keepdims=True)",
            "dz = (g - (probs * g).sum(axis=-1, keepdims=True)) * probs",
        ),
    ],
)
def test_a_change_is_made_where_the_variable_is_assigned(forward, rule, args, line, patch):
    report = verify.vjp(forward, rule, args)
    assert [its.text for its in report.lines if its.status == "wrong"] == [line], report
    assert [d.patch for d in report.diagnoses] == [patch], report


def shifted(x, b):
    return x + b[None]


def added_up_over_everything(args, ct):
    return ct, jnp.full_like(args[1], ct.sum())


def test_what_is_wanted_may_have_another_shape():
    (found,) = verify.vjp(shifted, added_up_over_everything, normal((4, 3), (3,))).diagnoses
    assert found.kind == "wrong-reduction-axis" and "ct.sum(axis=0)" in found.patch, found


def gated_twice(x, wa, wb):
    return jnp.tanh(x @ wa) * jax.nn.sigmoid(x @ wb)


def second_path_left_out(args, ct):
    x, wa, wb = args
    t, s = jnp.tanh(x @ wa), jax.nn.sigmoid(x @ wb)
    da = ct * s * (1 - t**2)
    dx = da @ wa.T
    db = ct * t * s * (1 - s)
    return dx, x.T @ da, x.T @ db


def test_what_a_gradient_lacks_may_be_computed_behind_it():
    (found,) = verify.vjp(gated_twice, second_path_left_out, normal((5, 4), (4, 3), (4, 3))).diagnoses
    assert (found.kind, found.patch) == ("missing-term", "return dx + db @ wb.T, x.T @ da, x.T @ db"), found


def standardised(x, z):
    return jnp.sin(x - x.mean(0, keepdims=True)) + jax.nn.log_softmax(z)[None]


def without_the_mean(args, ct):
    x, z = args
    dx = ct * jnp.cos(x - x.mean(0, keepdims=True))
    p, dz = jax.nn.softmax(z), ct.sum(0)
    return dx, dz - p * dz.sum()


def without_the_normaliser(args, ct):
    x, z = args
    dx = ct * jnp.cos(x - x.mean(0, keepdims=True))
    p = jax.nn.softmax(z)  # noqa: F841 (what the rule lacks)
    dz = ct.sum(0)
    return dx - dx.mean(0, keepdims=True), dz


@pytest.mark.parametrize(
    ("rule", "words", "patch"),
    [
        (
            without_the_mean,
            "lacks the term −1/5 · Σ[axis 0](dx)",
            "x.mean(0, keepdims=True))).sum(axis=0, keepdims=True) / ct.shape[0]",
        ),
        (without_the_normaliser, "lacks the term −p · Σ[axis 0](dz)", "p * ct.sum(0).sum(axis=0, keepdims=True)"),
    ],
)
def test_a_sum_of_the_value_itself_is_lacking(rule, words, patch):
    (found,) = verify.vjp(standardised, rule, normal((5, 4), (4,))).diagnoses
    assert found.kind == "missing-term" and words in found.explanation and patch in found.patch, found


def decays(u, a):
    def step(h, x):
        h = a * h + jnp.sin(x)
        return h, h

    return jax.lax.scan(step, jnp.zeros(u.shape[1]), u)[1]


def decay_left_out(args, ct):
    u, a = args
    hs = decays(u, a)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])

    def back(carry, its):
        g, x, h = its
        gh = carry + g
        return gh, (gh * jnp.cos(x), gh * h)

    _, (du, da) = jax.lax.scan(back, jnp.zeros_like(a), (ct, u, before), reverse=True)
    return du, da.sum(0)


def test_what_the_function_around_holds_can_be_taken():
    (found,) = verify.vjp(decays, decay_left_out, normal((5, 3), (3,))).diagnoses
    assert found.kind == "missing-factor" and found.patch in ("gh = carry * a + g", "gh = (carry * a) + g"), found


def centred_maps(x):
    return jnp.sin(x - x.mean((2, 3), keepdims=True))


def centred_over_the_batch(args, ct):
    (x,) = args
    g = ct * jnp.cos(x - x.sum((2, 3), keepdims=True) / 9)
    return (g - g.mean((0, 2, 3), keepdims=True),)


def test_a_product_of_sizes_that_a_rule_holds_as_a_number():
    (found,) = verify.vjp(centred_maps, centred_over_the_batch, normal((2, 2, 3, 3))).diagnoses
    assert (found.kind, found.patch) == ("wrong-reduction-axis", "return (g - g.mean((2, 3), keepdims=True),)"), found


def neighbours(u):
    return jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)


def spread_on(u, k):
    return u + k * neighbours(u)


def factor_outside(args, ct):
    u, k = args
    return ct + k * neighbours(ct), ct * neighbours(u)


def probabilities(z):
    return jax.nn.softmax(z, axis=-1)


def diagonal_alone(args, ct):
    (z,) = args
    p = jax.nn.softmax(z, axis=-1)
    return (p * (1 - p) * ct,)


def apart(a, b):
    near = jnp.sqrt(jnp.sum(a**2))
    far = jnp.sqrt(jnp.sum(b**2))
    return near - far


def other_distance(args, ct):
    a, b = args
    near, far = jnp.sqrt(jnp.sum(a**2)), jnp.sqrt(jnp.sum(b**2))  # noqa: F841 (the one that is not taken)
    return ct * a / near, -ct * b / near


def back_along(u, g, axis):
    return u * (g - jnp.sum(u * g, axis=axis, keepdims=True))


def along_the_other_axis(args, ct):
    (z,) = args
    return (back_along(jax.nn.softmax(z, axis=-1), ct, axis=0),)


@pytest.mark.parametrize(
    ("forward", "rule", "args", "kind", "patch"),
    [
        (spread_on, factor_outside, normal((6,), (6,)), "wrong-operand", "return ct + neighbours(k * ct), "),
        (probabilities, diagonal_alone, normal((3, 4)), "missing-term", "p * (ct - (p * ct).sum(-1, keepdims=True))"),
        (apart, other_distance, normal((4,), (4,)), "wrong-operand", "-ct * b / far"),
        (probabilities, along_the_other_axis, normal((4, 4)), "wrong-reduction-axis", "ct, axis=1)"),
    ],
)
def test_what_it_is_called_and_what_is_written(forward, rule, args, kind, patch):
    (found,) = verify.vjp(forward, rule, args).diagnoses
    assert found.kind == kind and patch in found.patch, found


BLOCKED = jnp.array([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]])


def shared(x, m, w):
    kv = m @ w
    s = jnp.where(BLOCKED[:, None] > 0, jnp.einsum("bid,bjd->bij", x, kv), -1e9)
    return jnp.einsum("bij,bjd->bid", jax.nn.softmax(s, -1), kv)


def through_values_alone(args, ct):
    x, m, w = args
    kv = m @ w
    e = jnp.exp(jnp.einsum("bid,bjd->bij", x, kv)) * BLOCKED[:, None]
    p = e / e.sum(-1, keepdims=True)
    dp = jnp.einsum("bid,bjd->bij", ct, kv)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    dkv = jnp.einsum("bij,bid->bjd", p, ct)
    return jnp.einsum("bij,bjd->bid", ds, kv), dkv @ w.T, jnp.einsum("bjd,bje->de", m, dkv)


def test_a_mistake_is_no_edge_point_where_the_forward_seems_to_have_kinks_everywhere():
    report = verify.vjp(shared, through_values_alone, normal((2, 3, 4), (2, 4, 5), (5, 4)))
    kinds = {path: d.kind for d in report.diagnoses for path in d.leaf.split(", ")}
    assert kinds["m"] == kinds["w"] != "edge-point", report


def forces(x):
    d = x[1:] - x[:-1]
    return jnp.sum(d**4)


def one_end_alone(args, ct):
    (x,) = args
    pull = 4 * ct * (x[1:] - x[:-1]) ** 3
    dx = jnp.zeros_like(x).at[1:].add(pull)
    return (dx,)


def test_a_path_that_is_left_out_of_what_is_added_up_is_where_it_is_returned():
    (found,) = verify.vjp(forces, one_end_alone, normal((5,))).diagnoses
    assert found.kind == "missing-term" and found.rule_line.endswith(": return (dx,)"), found


def kept_in_part(z):
    return jax.nn.softmax(z, axis=-1) * WEIGHTS


def factored(args, ct):
    (z,) = args
    p = jax.nn.softmax(z, axis=-1) * WEIGHTS
    total = (p * ct).sum(-1, keepdims=True)
    return (p * (ct - total),)


def test_a_factor_that_one_term_alone_has():
    (found,) = verify.vjp(kept_in_part, factored, normal((2, 4))).diagnoses
    assert found.kind == "wrong-operand" and found.patch.startswith("return (p * ct - "), found
