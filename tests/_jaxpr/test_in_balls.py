"""Enclosures against the float64 interpreter, on the same jaxprs; and what only enclosures can tell."""

import builtins
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import _jaxpr
from jaxbias._jaxpr import balls, in_balls
from tests._jaxpr.test_in_numpy import CASES, WITH_GRADIENT, gradient_of

RNG = np.random.default_rng(5)
X = RNG.standard_normal((4, 6))
SQUARE = RNG.standard_normal((3, 4, 4))
POSITIVE = np.einsum("bij,bkj->bik", SQUARE, SQUARE) + np.eye(4)


@pytest.fixture(autouse=True)
def standard():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def enclosures(function, args, bits=128, **options):
    with balls.precision(bits):
        return in_balls.run(_jaxpr.trace(function, *args), args, **options)


def radius(enclosed):
    parts = [part for ball in enclosed.ravel() for part in (ball.real, ball.imag) if not part.is_nan()]
    return max((float(part.rad()) for part in parts), default=0.0)


def assert_holds(enclosed, values):
    """The balls are narrow, and float64 found the same numbers up to its own rounding."""
    values = np.asarray(values)
    assert enclosed.shape == values.shape
    if enclosed.dtype != object:
        assert np.array_equal(enclosed, values)
        return
    assert radius(enclosed) < 1e-25
    np.testing.assert_allclose(balls.rounded(enclosed), values, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_interpreter(name):
    function, args = CASES[name]
    for enclosed, value in zip(
        enclosures(function, args), _jaxpr.run(_jaxpr.trace(function, *args), args), strict=True
    ):
        assert_holds(enclosed, value)


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_gradients_are_those_of_the_interpreter(name):
    gradient, args = gradient_of(*CASES[name])
    for enclosed, value in zip(
        enclosures(gradient, args), _jaxpr.run(_jaxpr.trace(gradient, *args), args), strict=True
    ):
        assert_holds(enclosed, value)


def fourier(x):
    z = lax.complex(x, x[::-1])
    return [
        *(f(x, n) for f in (jnp.fft.rfft, jnp.fft.irfft) for n in (6, 5)), jnp.fft.rfft2(x), jnp.fft.irfft2(z, (4, 5)),
        jnp.fft.fft(z), jnp.fft.ifft(z, axis=0), jnp.fft.fft2(z), jnp.conj(z) * z, jnp.exp(z), abs(z),
        jnp.isnan(z / 3), jax.nn.sigmoid(z),
    ]  # fmt: skip


def matrices(a, positive):
    b, regular = a[..., :2], a + 3 * jnp.eye(4)
    solve = lax.linalg.triangular_solve
    flags = [(left, lower, turned) for left in (True, False) for lower in (True, False) for turned in (True, False)]
    return [
        jnp.linalg.solve(a, b), jnp.linalg.inv(a), jnp.linalg.det(a), jnp.linalg.cholesky(positive),
        *(
            solve(regular, b if left else jnp.swapaxes(b, -1, -2), left_side=left, lower=lower, transpose_a=turned)
            for left, lower, turned in flags
        ),
        solve(regular, b, left_side=True, lower=True, unit_diagonal=True),
        *lax.linalg.lu(lax.complex(a, jnp.swapaxes(a, -1, -2) * 2)),
    ]  # fmt: skip


def factorisations(a, positive):
    z, tall = lax.complex(a, jnp.swapaxes(a, -1, -2) * 2), a[:, :, :3]
    hermitian = z @ jnp.swapaxes(z.conj(), -1, -2)
    values, vectors = jnp.linalg.eigh(hermitian)
    thin = lambda x: jnp.linalg.svd(x, full_matrices=False)
    u, s, vh = thin(z[:, :3])
    return [
        *jnp.linalg.eigh(positive), *jnp.linalg.eigh(positive[0], UPLO="U"), values, abs(vectors),
        *thin(a), *thin(tall), *thin(jnp.swapaxes(tall, 1, 2)), jnp.linalg.svd(z, compute_uv=False),
        s, (u * s[:, None, :]) @ vh, *jnp.linalg.qr(a), *jnp.linalg.qr(tall), *jnp.linalg.qr(jnp.swapaxes(tall, 1, 2)),
        *jnp.linalg.qr(tall, "complete"), *jnp.linalg.qr(z), *jnp.linalg.qr(jnp.eye(3, 4).at[1, 0].set(2.0)),
        jnp.linalg.pinv(tall), jnp.linalg.norm(a[0], 2),
    ]  # fmt: skip


def convolutions(x):
    image, kernel = x.reshape(2, 6, 2, 1), jnp.sin(jnp.arange(24.0)).reshape(3, 2, 1, 4)
    wide = x.reshape(1, 3, 2, 4)

    def convolve(x, kernel, strides=(1, 1), padding="SAME", **more):
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **more)

    return [
        convolve(image, kernel, (2, 1), ((1, 2), (1, 0))),
        convolve(image, kernel, (1, 1), ((0, 0), (3, 1)), rhs_dilation=(2, 1), lhs_dilation=(1, 2)),
        convolve(wide, kernel[:2, :1], (1, 1), "VALID", feature_group_count=4),
        convolve(image, kernel, batch_group_count=2),
    ]


def others(x):
    tied = jnp.where(abs(x) < 0.5, 0.0, jnp.round(x))  # reals have one zero
    return [
        lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), lax.round(tied / 2, lax.RoundingMethod.TO_NEAREST_EVEN),
        lax.round(tied / 2, lax.RoundingMethod.AWAY_FROM_ZERO), jnp.argmax(tied, 1), jnp.argmin(tied, 0),
        jnp.sort(tied, 1), jnp.argsort(tied, 1), *lax.top_k(tied, 3), jnp.cbrt(x), jnp.power(x, 3.0),
        jnp.power(x, -2), jnp.power(2.0, x), x.astype(int), (x > 0).astype(float), tied.astype(bool),
        jax.scipy.special.polygamma(1, jnp.abs(x)), jax.scipy.special.zeta(2.5, abs(x)), lax.bessel_i0e(x),
        lax.bessel_i1e(x), lax.igamma(abs(x) + 1, x * x), lax.igammac(abs(x) + 1, x * x),
        lax.betainc(abs(x), x * x + 0.5, jnp.exp(-abs(x))), lax.lgamma(x), jnp.max(jnp.where(x > 0, x, -jnp.inf), 1),
        jnp.sum(x[:0], 0), jnp.isfinite(x / (x > 0)), jax.nn.softmax(jnp.where(x > 0, x, -1e30)), jnp.sign(x),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (fourier, (X,)),
        (matrices, (SQUARE, POSITIVE)),
        (factorisations, (SQUARE, POSITIVE)),
        (convolutions, (X,)),
        (others, (X,)),
    ],
    ids=["fourier", "matrices", "factorisations", "convolutions", "others"],
)
def test_what_the_interpreter_leaves_to_jax_or_has_no_case_for(function, args):
    for enclosed, value in zip(enclosures(function, args), jax.jit(function)(*args), strict=True):
        assert_holds(enclosed, value)


def square_root(a, steps):
    """By Newton's iteration; its first-order rounding bound grows with every step, its error does not."""
    step = lambda y, _: (y - (y * y - a) / (2 * y), None)
    return lax.scan(step, jnp.ones_like(a), None, length=steps)[0]


@pytest.mark.parametrize("steps", [30, 400])
def test_a_contractive_loop_is_decided(steps):
    """400 steps of 5 equations are beyond what is unrolled: the loop is evaluated as one."""
    a, g = np.array([1.5, 2.25, 0.3]), np.array([0.7, -1.0, 2.0])
    (gradient,) = enclosures(lambda a, g: jax.vjp(lambda a: square_root(a, steps), a)[1](g), (a, g), 2048)
    (right,) = enclosures(lambda a, g: [g / (2 * jnp.sqrt(a))], (a, g), 2048)
    assert all(abs(x - y).upper() < 1e-80 for x, y in zip(gradient, right))
    assert not any((x - y * 1.0001).contains(0) for x, y in zip(gradient, right))


def test_comparisons_are_decided_for_certain_or_left_open():
    third = lambda x: x / 3 + x / 3 + x / 3
    with pytest.raises(balls.Open, match="comparison"):
        enclosures(lambda x: [third(x) > x], (np.ones(2),))
    (equal,) = enclosures(lambda x: [jnp.max(x) == x], (np.array([1.0, 3.0, 3.0]),))
    assert equal.tolist() == [False, True, True]
    (known,) = enclosures(lambda x: [jnp.max(e := jnp.exp(x)) == e], (np.array([1.0, 3.0]),))
    assert known.tolist() == [False, True]  # which is larger is known, so it is that ball itself
    (greatest,) = enclosures(lambda x: [jnp.maximum(third(x), x)], (np.ones(1),))
    assert greatest[0].contains(1) and radius(greatest) < 1e-30  # which of the two is not, so both are held
    with pytest.raises(balls.Open, match="integer"):
        enclosures(lambda x: [third(x).astype(int)], (np.ones(1),))


def test_constants_stand_for_what_rounds_to_them():
    function = lambda x: [x * 0.05]
    exact, reals = (enclosures(function, (np.ones(1),), constants_as_reals=as_reals)[0] for as_reals in (False, True))
    with balls.precision(128):
        twentieth = balls.lift(np.ones(1))[0] / 20
    assert not exact[0].contains(twentieth) and reals[0].contains(twentieth)
    assert radius(reals) <= 0.05 * 2.0**-53 * 1.001


def test_what_has_no_enclosure_and_what_takes_too_long_is_said():
    with pytest.raises(balls.NoBall, match="no enclosure of eig"):
        enclosures(lambda x: list(jnp.linalg.eig(x)), (POSITIVE[0],))
    with pytest.raises(balls.Late):
        enclosures(lambda x: [jnp.exp(x)], (X,), deadline=0.0)
    assert math.isclose(float(enclosures(lambda x: [jnp.exp(x)], (X,))[0][0, 0].mid()), math.exp(X[0, 0]))


def test_without_python_flint_there_are_none(monkeypatch):
    def block(name, *more):
        if name == "flint":
            raise ModuleNotFoundError(name)
        return original(name, *more)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", block)
    balls.python_flint.cache_clear()
    try:
        assert not balls.available()
        with pytest.raises(balls.NoBall, match="python-flint is not installed"):
            enclosures(lambda x: [jnp.exp(x)], (X,))
    finally:
        balls.python_flint.cache_clear()
