"""Rules with mistakes in the derivatives of spectral."""

import jax
import jax.numpy as jnp

from tests.verify.slips.changes import wrong_rules


def normal(key, *shapes):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes))


N, D = 8, 3


def cnormal(key, *shapes):
    re = normal(jax.random.fold_in(key, 0), *shapes)
    im = normal(jax.random.fold_in(key, 1), *shapes)
    return tuple((a + 1j * b).astype(jnp.complex64) for a, b in zip(re, im))


def fourier_filter(x, h):
    return jnp.fft.ifft(jnp.fft.fft(x) * h).real


def draw_filter(key):
    (x,) = normal(key, (N,))
    (h,) = cnormal(key, (N,))
    return x, h


def complex_power(z, w):
    y = w @ z
    return y.real**2 + y.imag**2


def draw_cpower(key):
    return cnormal(key, (4,), (D, 4))


def phase_rotate(z, theta):
    return z * jnp.exp(1j * theta)


def draw_phase(key):
    (z,) = cnormal(key, (N,))
    (theta,) = normal(key, (N,))
    return z, theta


def spectral_loss(x, y):
    d = jnp.fft.fft(x) - jnp.fft.fft(y)
    return 0.5 * jnp.sum(jnp.abs(d) ** 2) / N


def draw_two(key):
    return normal(key, (N,), (N,))


def complex_recurrence(u, lam, b):
    s = jnp.zeros((D,), jnp.complex64)
    outs = []
    for t in range(5):
        s = lam * s + b * u[t]
        outs.append(s)
    return jnp.stack(outs)


def draw_crec(key):
    (u,) = normal(key, (5,))
    lam, b = cnormal(key, (D,), (D,))
    return u, lam * 0.5, b


def rotary(x, freqs):
    ang = jnp.arange(N)[:, None] * freqs
    x1, x2 = x[:, :2], x[:, 2:]
    c, s = jnp.cos(ang), jnp.sin(ang)
    return jnp.concatenate([x1 * c - x2 * s, x1 * s + x2 * c], axis=1)


def draw_rotary(key):
    return normal(key, (N, 4), (2,))


def circular_corr(a, b):
    return jnp.stack([jnp.sum(a * jnp.roll(b, -k)) for k in range(N)])


def right_fourier_filter(args, ct):
    x, h = args
    g_y = jnp.fft.ifft(ct)
    xf = jnp.fft.fft(x)
    g_h = g_y * xf
    g_x = jnp.fft.fft(g_y * h).real
    return g_x.astype(x.dtype), g_h.astype(h.dtype)


def right_complex_power(args, ct):
    z, w = args
    y = w @ z
    y_bar = 2.0 * ct * jnp.conj(y)
    z_bar = w.T @ y_bar
    w_bar = jnp.outer(y_bar, z)
    return z_bar, w_bar


def right_phase_rotate(args, ct):
    z, theta = args
    rot = jnp.exp(1j * theta)
    gz = ct * rot
    gtheta = (ct * 1j * z * rot).real
    return gz, gtheta


def right_spectral_loss(args, ct):
    x, y = args
    d = jnp.fft.fft(x) - jnp.fft.fft(y)
    g = jnp.fft.ifft(d).real * N
    g = ct * g / N
    return g, -g


def right_complex_recurrence(args, ct):
    u, lam, b = args
    states = [jnp.zeros_like(b)]
    for t in range(5):
        states.append(lam * states[-1] + b * u[t])
    g_u, g_lam, g_b = [], jnp.zeros_like(lam), jnp.zeros_like(b)
    acc = jnp.zeros_like(b)
    for t in range(4, -1, -1):
        acc = acc + ct[t]
        g_lam = g_lam + acc * states[t]
        g_b = g_b + acc * u[t]
        g_u.append(jnp.sum(acc * b).real)
        acc = acc * lam
    return jnp.stack(g_u[::-1]), g_lam, g_b


def right_rotary(args, ct):
    x, freqs = args
    pos = jnp.arange(N)[:, None]
    c, s = jnp.cos(pos * freqs), jnp.sin(pos * freqs)
    x1, x2 = jnp.split(x, 2, axis=1)
    d1, d2 = jnp.split(ct, 2, axis=1)
    dx1 = d1 * c + d2 * s
    dx2 = d2 * c - d1 * s
    d_ang = d2 * (x1 * c - x2 * s) - d1 * (x1 * s + x2 * c)
    d_freqs = jnp.sum(pos * d_ang, axis=0)
    return jnp.concatenate([dx1, dx2], axis=1), d_freqs


def right_circular_corr(args, ct):
    a, b = args
    ga, gb = jnp.zeros_like(a), jnp.zeros_like(b)
    for k in range(N):
        ga = ga + ct[k] * jnp.roll(b, -k)
        gb = gb + ct[k] * jnp.roll(a, k)
    return ga, gb


SINGLE = [
    *wrong_rules(
        fourier_filter,
        right_fourier_filter,
        draw_filter,
        """
fourier_filter_bwd_1
- g_x = jnp.fft.fft(g_y * h).real
+ g_x = jnp.fft.fft(g_y * jnp.conj(h)).real
conjugate: the filter must not be conjugated (gradients are transposes here)

fourier_filter_bwd_2
- g_y = jnp.fft.ifft(ct)
+ g_y = jnp.fft.fft(ct)
transpose: transpose of ifft is ifft, not fft
    """,
    ),
    *wrong_rules(
        complex_power,
        right_complex_power,
        draw_cpower,
        """
complex_power_bwd_1
- y_bar = 2.0 * ct * jnp.conj(y)
+ y_bar = 2.0 * ct * y
conjugate: conjugate of y missing

complex_power_bwd_2
- z_bar = w.T @ y_bar
+ z_bar = jnp.conj(w).T @ y_bar
conjugate: w must not be conjugated
    """,
    ),
    *wrong_rules(
        phase_rotate,
        right_phase_rotate,
        draw_phase,
        """
phase_rotate_bwd_1
- gtheta = (ct * 1j * z * rot).real
+ gtheta = (ct * 1j * z).real
factor: rotation missing in the derivative by the angle
    """,
    ),
    *wrong_rules(
        spectral_loss,
        right_spectral_loss,
        draw_two,
        """
spectral_loss_bwd_1
- g = jnp.fft.ifft(d).real * N
+ g = jnp.fft.fft(d).real
conjugate: d must be conjugated for fft (or ifft taken)
    """,
    ),
    *wrong_rules(
        complex_recurrence,
        right_complex_recurrence,
        draw_crec,
        """
complex_recurrence_bwd_1
- acc = acc * lam
+ acc = acc * lam.conj()
conjugate: eigenvalue must not be conjugated in the carry
    """,
    ),
    *wrong_rules(
        rotary,
        right_rotary,
        draw_rotary,
        """
rotary_bwd_1
- dx2 = d2 * c - d1 * s
+ dx2 = d2 * c + d1 * s
sign: rotation the wrong way in the second half
    """,
    ),
    *wrong_rules(
        circular_corr,
        right_circular_corr,
        draw_two,
        """
circular_corr_bwd_1
- gb = gb + ct[k] * jnp.roll(a, k)
+ gb = gb + ct[k] * jnp.roll(a, -k)
index: rolled the wrong way
    """,
    ),
]


SEVERAL = [
    *wrong_rules(
        fourier_filter,
        right_fourier_filter,
        draw_filter,
        """
fourier_filter_bwd_3
- g_h = g_y * xf
+ g_h = g_y * jnp.conj(xf)
- g_x = jnp.fft.fft(g_y * h).real
+ g_x = jnp.fft.fft(g_y).real
conjugate: spectrum of x must not be conjugated
@ g_h = g_y * jnp.conj(xf)
factor: filter missing
@ g_x = jnp.fft.fft(g_y).real
    """,
    ),
    *wrong_rules(
        complex_power,
        right_complex_power,
        draw_cpower,
        """
complex_power_bwd_3
- y_bar = 2.0 * ct * jnp.conj(y)
+ y_bar = ct * jnp.conj(y)
- w_bar = jnp.outer(y_bar, z)
+ w_bar = jnp.outer(y_bar, jnp.conj(z))
constant: factor 2 of the square missing
@ y_bar = ct * jnp.conj(y)
conjugate: z must not be conjugated
@ w_bar = jnp.outer(y_bar, jnp.conj(z))
    """,
    ),
    *wrong_rules(
        phase_rotate,
        right_phase_rotate,
        draw_phase,
        """
phase_rotate_bwd_2
- gz = ct * rot
+ gz = ct * jnp.exp(-1j * theta)
- gtheta = (ct * 1j * z * rot).real
+ gtheta = (ct * z * rot).real
conjugate: rotation conjugated
@ gz = ct * jnp.exp(-1j * theta)
factor: factor i missing
@ gtheta = (ct * z * rot).real
    """,
    ),
    *wrong_rules(
        complex_recurrence,
        right_complex_recurrence,
        draw_crec,
        """
complex_recurrence_bwd_2
- g_lam = g_lam + acc * states[t]
+ g_lam = g_lam + acc * states[t + 1]
- g_u.append(jnp.sum(acc * b).real)
+ g_u.append(jnp.sum(acc * b.conj()).real)
conjugate: b must not be conjugated
@ g_u.append(jnp.sum(acc * b.conj()).real)
index: new state in place of the old one
@ g_lam = g_lam + acc * states[t + 1]
    """,
    ),
]
