"""The verdict: nothing that is wrong passes, and nothing that is right is convicted, where float64 says nothing.

Loops that contract, transforms, saturation, narrow floats, complex numbers, ties that persist, singular matrices,
kernels that keep to float32, forwards without reverse mode; each right, and wrong by a factor, a sign, a conjugate.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxbias import verify
from jaxbias._jaxpr import balls
from jaxbias.verify import of_autodiff
from jaxbias.verify.entrances import required
from jaxbias.verify.report import Undecided

pytestmark = pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")


def normal(k, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(k), shape, dtype)


def scaled(f, factor):
    """Autodiff of f, every gradient times a factor."""
    return lambda args, ct: jax.tree.map(lambda g: (factor * g).astype(g.dtype), jax.vjp(f, *args)[1](ct))


def with_rule_scaled(f, factor, mode="fwd"):
    """f with a rule of its own for this mode: its derivative by autodiff, times a factor."""
    if mode == "fwd":
        g = jax.custom_jvp(lambda x: f(x))
        g.defjvp(lambda x, t: (f(*x), jax.tree.map(lambda t: factor * t, jax.jvp(f, x, t)[1])))
    else:
        g = jax.custom_vjp(lambda x: f(x))
        g.defvjp(lambda x: (f(x), x), lambda x, ct: (factor * jax.vjp(f, x)[1](ct)[0],))
    return g


def check_grads_unnamed(f, args, modes=("fwd", "rev")):
    """`verify.check_grads` of first order, but a mistake is not named, which would take longer than finding it."""
    for report in of_autodiff._reports(f, args, 1, modes, {"diagnose": False}, ""):
        required(report)


# --- forwards ---------------------------------------------------------------------------------------------------------


def newton(a):
    return lax.scan(lambda y, _: (y - (y * y - a) / (2 * y), None), jnp.ones_like(a), None, length=30)[0]


def halley(a):
    return lax.fori_loop(0, 20, lambda _, y: y * (y**3 + 2 * a) / (2 * y**3 + a), jnp.ones_like(a))


def sinkhorn(cost):
    kernel, u = jnp.exp(-cost), jnp.ones(cost.shape[0], cost.dtype)
    for _ in range(20):
        v = 1 / (kernel.T @ u)
        u = 1 / (kernel @ v)
    return u[:, None] * kernel * v


WEIGHTS = np.linspace(0.5, 2, 5).astype(np.float32)
MATRIX = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32) * np.float32(0.5)
HALF = np.random.default_rng(1).standard_normal((5, 3)).astype(jnp.bfloat16)


def spectral(x):
    return jnp.fft.irfft(jnp.fft.rfft(x) * WEIGHTS.astype(x.dtype), 8)


def filtered_twice(x):
    return jnp.abs(jnp.fft.fft2(x)) + jnp.fft.ifft2(x).imag.astype(x.dtype)


def repeated(x):
    for _ in range(25):
        x = jnp.tanh(x @ MATRIX.astype(x.dtype))
    return x


def squares(z):
    return lax.scan(lambda c, _: (c * c * 0.3 + z, None), z, None, length=6)[0]


def sigmoid(x):
    return 1 / (1 + jnp.exp(-6 * x))


def long_loop(x):
    return lax.scan(lambda c, _: (0.99 * jnp.sin(c) + 0.1 * x, None), x, None, length=60)[0]


def masked(x):
    return jax.nn.logsumexp(jnp.where(jnp.arange(4) < 2, x, -jnp.inf))


def half_product(x):
    return x @ HALF


POSITIVE = 1 + jnp.abs(normal(1, 3))
COMPLEX = lax.complex(normal(1, 4), normal(2, 4))
FORWARDS = {
    "newton": (newton, (POSITIVE,)),
    "halley": (halley, (POSITIVE,)),
    "sinkhorn": (sinkhorn, (normal(1, 3, 4) ** 2,)),
    "spectral filter closed over": (spectral, (normal(1, 8),)),
    "fft in two dimensions": (filtered_twice, (normal(1, 3, 4),)),
    "product closed over, repeated": (repeated, (normal(1, 2, 4),)),
    "complex loop": (squares, (COMPLEX,)),
    "complex sigmoid": (jax.nn.sigmoid, (COMPLEX,)),
    "saturated": (sigmoid, (normal(1, 5),)),
    "a loop of 60 steps": (long_loop, (normal(1, 2),)),
    "masked by infinity": (masked, (normal(1, 4),)),
    "bfloat16": (lambda x, w: x @ w, (normal(1, 4, 5, dtype=jnp.bfloat16), normal(2, 5, 3, dtype=jnp.bfloat16))),
    "float16": (lambda x: jnp.tanh(jnp.tanh(x) * 1.5), (normal(1, 6, dtype=jnp.float16),)),
    "bfloat16 closed over": (half_product, (normal(1, 4, 5, dtype=jnp.bfloat16),)),
    "nearly singular inverse": (jnp.linalg.inv, (jnp.array([[1.0, 1.0], [1.0, 1.0001]]),)),
    "exponential of a matrix": (jax.scipy.linalg.expm, (0.3 * normal(2, 2, 2),)),
    "empty": (lambda x: jnp.cumsum(x, 1), (normal(1, 0, 3),)),
}
FACTORS = {"empty": (), "exponential of a matrix": (1.01,)}
QUICK = {"newton", "spectral filter closed over", "complex sigmoid", "bfloat16", "nearly singular inverse"}
each_forward = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FORWARDS]
)


@each_forward
def test_the_right_rule_is_right_and_1_percent_is_wrong(name):
    forward, args = FORWARDS[name]
    report = verify.vjp(forward, scaled(forward, 1.0), args)
    assert report.verdict == "right", report
    for factor in FACTORS.get(name, (1.01, -1.0, 0.0)):
        report = verify.vjp(forward, scaled(forward, factor), args, diagnose=False)
        assert report.verdict == "wrong" and report.evidence.startswith("proved different"), (factor, str(report))
        assert report.certificate["probes"], factor


@pytest.mark.slow
@pytest.mark.parametrize("loop", [newton, halley])
def test_a_rule_by_the_implicit_function_theorem(loop):
    power = 2 if loop is newton else 3
    rule = lambda args, ct, factor=1.0: (factor * ct / (power * loop(args[0]) ** (power - 1)),)
    assert verify.vjp(loop, rule, (POSITIVE,)).verdict == "right"
    wrong = verify.vjp(loop, functools.partial(rule, factor=2.0), (POSITIVE,))
    assert [d.kind for d in wrong.diagnoses] == ["scale-constant"], str(wrong)
    assert not any("true gradient is zero" in note for note in wrong.notes)


def test_a_forgotten_conjugate():
    rule = lambda args, ct: (jnp.conj(jax.vjp(squares, *args)[1](jnp.conj(ct))[0]),)
    assert verify.vjp(squares, rule, (COMPLEX,), diagnose=False).verdict == "wrong"


# --- what is right ----------------------------------------------------------------------------------------------------


def test_the_rounding_of_the_rule_itself_is_no_mistake(key):
    with jax.enable_x64(True):
        x, w = 4 * jax.random.normal(key, (4, 3), jnp.float64), 6 * jax.random.normal(key, (3, 2), jnp.float64)
    forward = lambda x, w: 1 / (1 + jnp.exp(-(x @ w)))

    def from_output(args, ct):
        x, w = args
        a = forward(x, w)
        d = ct * a * (1 - a)
        return d @ w.T, x.T @ d

    assert verify.vjp(forward, from_output, (x, w)).verdict == "right"


def test_a_rule_that_loses_digits_is_linear_all_the_same():
    a = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9 + 1e-7]])

    def rule(args, ct, power=1):
        return (-jnp.linalg.solve(args[0].T, jnp.linalg.solve(args[0], (ct**power).T).T),)

    with jax.enable_x64(True):
        assert verify.vjp(jnp.linalg.inv, rule, (a,), diagnose=False).verdict == "right"
        cubed = verify.vjp(jnp.linalg.inv, functools.partial(rule, power=3), (a,), diagnose=False)
        assert "not-linear-in-cotangent" in [d.kind for d in cubed.diagnoses], cubed


def test_constants_rounded_to_float32_stand_for_the_reals_around_them():
    """Written with the digits that float32 holds, of √(2/π) and 0.044715, where a trace in float64 has all of them."""
    forward = lambda w, x: jax.nn.gelu(w @ x)

    def rule(args, ct, third=0.044714998453855515):
        w, x = args
        z = w @ x
        a = jnp.tanh(0.7978845834732056 * (z + 0.044714998453855515 * z**3))
        d = ct * z * (1 - a**2)
        d_z = 0.5 * ct * (1 + a) + 0.3989422917366028 * d + 3 * (third * (0.3989422917366028 * d * z**2))
        return d_z @ x.T, w.T @ d_z

    args = normal(1, 6, 4), normal(2, 4, 5)
    assert verify.vjp(forward, rule, args, diagnose=False).verdict == "right"
    wrong = functools.partial(rule, third=0.04472)
    assert verify.vjp(forward, wrong, args, diagnose=False).verdict == "wrong"


def test_numbers_cut_to_fewer_bits_are_no_other_rule():
    forward = lambda x: lax.reduce_precision(x, 8, 10) * x
    assert verify.vjp(forward, lambda args, ct: (2 * args[0] * ct,), (normal(1, 3),)).verdict == "right"
    verify.check_grads(lambda x: jnp.ldexp(x, jnp.array([1, 2, 3])), (normal(1, 3),), 1)


def test_a_start_in_another_dtype():
    rule = lambda args, ct: (ct, lax.reduce(ct, jnp.bfloat16(0), lax.add, (0,)))
    args = normal(1, 16, 2, dtype=jnp.bfloat16), normal(3, 2, dtype=jnp.bfloat16)
    assert verify.vjp(lambda x, b: x + b, rule, args).verdict == "right"


def cofactors(a):
    rows, n = np.arange(len(a)), len(a)
    minor = lambda i, j: jnp.linalg.det(a[rows != i][:, rows != j]) if n > 2 else a[1 - i, 1 - j]
    return jnp.array([[(-1) ** (i + j) * minor(i, j) for j in range(n)] for i in range(n)])


def test_autodiff_that_is_wrong_at_a_point_convicts_no_rule():
    """Of a determinant of rank n − 1 by elimination; JAX 0.10 eliminates from 4×4 on."""
    size = 2 if jax.__version_info__ >= (0, 11) else 4
    args = (normal(1, size, size),)
    report = verify.vjp(jnp.linalg.det, lambda args, ct: (ct * cofactors(args[0]),), args)
    assert report.ok and report.verdict == "reference imprecise", report
    assert any("autodiff of the forward is wrong at" in note for note in report.notes)
    turned = verify.vjp(jnp.linalg.det, lambda args, ct: (ct * cofactors(args[0]).T,), args, diagnose=False)
    assert turned.verdict == "wrong"


@pytest.mark.parametrize("given", ["any matrix", "triangular, first column zero"])
def test_a_rule_that_shares_the_fault_of_autodiff_is_wrong(given):
    """Where the zeros of the given matrix are kept, every probe is singular, and autodiff wrong at all of them."""
    size = 2 if jax.__version_info__ >= (0, 11) else 4
    at = normal(1, size, size)
    at = at if given == "any matrix" else jnp.triu(at).at[:, 0].set(0)
    of_jax = verify.vjp(jnp.linalg.det, lambda args, ct: jax.vjp(jnp.linalg.det, *args)[1](ct), (at,), diagnose=False)
    assert of_jax.verdict == "wrong", of_jax
    assert any("and the rule gives the same" in note for note in of_jax.notes)
    zeros = verify.vjp(jnp.linalg.det, lambda args, ct: (jnp.zeros_like(args[0]),), (at,), diagnose=False)
    assert zeros.verdict == "wrong", zeros
    assert verify.vjp(jnp.linalg.det, lambda args, ct: (ct * cofactors(args[0]),), (at,)).ok


def test_a_gradient_stopped_on_purpose_at_a_singular_matrix_is_no_fault():
    forward = lambda a, x: jnp.sum(lax.stop_gradient(jnp.linalg.det(a)) * x)
    rule = lambda args, ct: (jnp.zeros_like(args[0]), ct * jnp.linalg.det(args[0]) * jnp.ones_like(args[1]))
    args = jnp.triu(normal(1, 4, 4)).at[:, 0].set(0), normal(2, 3)
    assert verify.vjp(forward, rule, args).verdict == "right"


# --- kernels that keep to float32 -------------------------------------------------------------------------------------


def in_float32(factor):
    """A kernel in NumPy, behind a callback."""

    def kernel(x, ct):
        x, ct = np.asarray(x, np.float32), np.asarray(ct, np.float32)
        return np.float32(factor) * ct * (1 - np.tanh(x) ** 2)

    def rule(args, ct):
        out = jax.ShapeDtypeStruct(args[0].shape, jnp.float32)
        return (jax.pure_callback(kernel, out, args[0], ct, vmap_method="sequential").astype(args[0].dtype),)

    return rule


def only_float32(factor):
    def rule(args, ct):
        if args[0].dtype == jnp.float64:
            raise TypeError("float32 only")
        return (factor * ct * (1 - jnp.tanh(args[0]) ** 2),)

    return rule


def not_traceable(factor):
    def rule(args, ct):
        x, ct = np.asarray(args[0], np.float32), np.asarray(ct, np.float32)
        return (np.float32(factor) * ct * (1 - np.tanh(x) ** 2),)

    return rule


@pytest.mark.parametrize("kernel", [in_float32, only_float32, not_traceable])
def test_a_kernel_that_computes_in_float32(kernel):
    args = (normal(1, 4, 3),)
    right = verify.vjp(jnp.tanh, kernel(1.0), args)
    assert right.verdict == "right", right
    assert kernel is only_float32 or right.evidence.startswith("seen to 7 digits only"), right.evidence
    for factor in (1.01, -1.0, 0.0):
        assert verify.vjp(jnp.tanh, kernel(factor), args, diagnose=False).verdict == "wrong", factor


# --- forwards without reverse mode ------------------------------------------------------------------------------------


def fixed_point(w, x):
    step = lambda s: (jnp.tanh(w @ s[0] + x), s[1] + 1)
    return lax.while_loop(lambda s: s[1] < 14, step, (jnp.zeros_like(x), 0))[0]


def implicit(args, ct, transposed=True, factor=1.0):
    w, x = args
    z = fixed_point(w, x)
    derivative = jnp.eye(2, dtype=z.dtype) - (1 - z * z)[:, None] * w
    u = factor * jnp.linalg.solve(derivative.T if transposed else derivative, ct)
    return jnp.outer((1 - z * z) * u, z), (1 - z * z) * u


WRONG = [(jnp.float32, {"transposed": False}), (jnp.float64, {"factor": 1.001})]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "wrong"), WRONG)
def test_forward_mode_where_there_is_no_reverse_mode(dtype, wrong):
    args = 0.2 * normal(1, 2, 2, dtype=dtype), normal(2, 2, dtype=dtype)
    report = verify.vjp(fixed_point, implicit, args)
    assert report.verdict == "right" and "column by column" in report.notes[0], report
    assert verify.vjp(fixed_point, functools.partial(implicit, **wrong), args, diagnose=False).verdict == "wrong"


def by_callback(x):
    f = lambda v: np.sin(np.asarray(v)) * np.asarray(v)
    return jax.pure_callback(f, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def test_differences_where_there_is_no_derivative():
    rule = lambda args, ct, factor=1.0: (factor * ct * (jnp.cos(args[0]) * args[0] + jnp.sin(args[0])),)
    report = verify.vjp(by_callback, rule, (normal(1, 3, 2),))
    assert report.verdict == "right" and "differences" in report.notes[0], report
    wrong = verify.vjp(by_callback, functools.partial(rule, factor=1.01), (normal(1, 3, 2),), diagnose=False)
    assert wrong.verdict == "wrong"


@pytest.mark.parametrize("given", [1.0, -1.0])
def test_a_forward_that_raises_where_it_is_not_defined(given):
    """As solvers do that check what they return."""

    def checked(v):
        if np.any(np.asarray(v) <= 0):
            raise RuntimeError("not positive")
        return np.asarray(v)

    def forward(x):
        guard = jax.pure_callback(checked, jax.ShapeDtypeStruct(x.shape, x.dtype), lax.stop_gradient(x) - 0.5)
        return x * x + 0 * lax.stop_gradient(guard)

    rule = lambda args, ct: (2 * args[0] * ct,)
    x = given * jnp.array([1.0, 2.0, 3.0])
    if given < 0:
        with pytest.raises(ValueError, match=r"cannot differentiate the forward|the forward cannot be evaluated"):
            verify.vjp(forward, rule, (x,))
    else:
        assert verify.vjp(forward, rule, (x,)).ok


def test_a_callback_that_raises_at_a_drawn_probe():
    """As np.linalg.solve does where the matrix is zero."""
    solved = lambda a, b: np.linalg.solve(np.asarray(a), np.asarray(b)[..., None])[..., 0].astype(b.dtype)

    def forward(a, b):
        out = jax.ShapeDtypeStruct(b.shape, b.dtype)
        return jax.pure_callback(solved, out, a, b, vmap_method="sequential")

    def rule(args, ct, factor=1.0):
        a, b = args
        u = factor * jnp.linalg.solve(a.T, ct)
        return -jnp.outer(u, jnp.linalg.solve(a, b)), u

    args = normal(1, 2, 2) + 2 * jnp.eye(2), normal(2, 2)
    assert verify.vjp(forward, rule, args).verdict == "right"
    assert verify.vjp(forward, functools.partial(rule, factor=1.01), args, diagnose=False).verdict == "wrong"


def test_too_many_columns_are_refused():
    loop = lambda x: lax.while_loop(lambda s: s[1] < 3, lambda s: (s[0] * 2, s[1] + 1), (x, 0))[0]
    with pytest.raises(ValueError, match=r"no reverse mode.*up to 4,096 entries.*5,000"):
        verify.vjp(loop, lambda args, ct: (8 * ct,), (jnp.ones(5000),))


@pytest.mark.slow
def test_mapped_loops():
    function, args = jax.scipy.special.expi, (POSITIVE,)
    assert verify.vjp(function, scaled(function, 1.0), args).verdict == "right"
    assert verify.vjp(function, scaled(function, 1.001), args, diagnose=False).verdict == "wrong"


@pytest.mark.slow
def test_an_unconverged_iteration_excuses_no_more_than_it_misses():
    forward = lambda w, x: lax.scan(lambda z, _: (jnp.tanh(w @ z + x), None), jnp.zeros_like(x), None, length=25)[0]
    args = 0.3 * normal(1, 3, 3, dtype=jnp.float64), normal(2, 3, dtype=jnp.float64)

    def rule(args, ct, factor=1.0):
        w, x = args
        z = forward(w, x)
        u = factor * jnp.linalg.solve((jnp.eye(3) - (1 - z * z)[:, None] * w).T, ct)
        return jnp.outer((1 - z * z) * u, z), (1 - z * z) * u

    right = verify.vjp(forward, rule, args)
    assert right.verdict == "right" and "digits" in right.evidence, right
    assert verify.vjp(forward, functools.partial(rule, factor=1.01), args, diagnose=False).verdict == "wrong"


# --- constants closed over --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [np.array([0, 2, 1]), np.array([0.5, 2.0, 1.0]), np.float64(1.5)], ids=str)
def test_a_forward_that_closes_over_numpy(constant):
    if constant.dtype.kind == "i":
        forward = lambda z: -jax.nn.log_softmax(z)[np.arange(3), constant]
    else:
        forward = lambda z: (jnp.tanh(z).T * constant).sum(0)
    args = (normal(0, 3, 4),)
    assert verify.vjp(forward, scaled(forward, 1.0), args).verdict == "right"
    wrong = verify.vjp(forward, scaled(forward, 2.0), args)
    assert [d.kind for d in wrong.diagnoses] == ["scale-constant"], str(wrong)


def test_constants_that_round_differently_are_no_mistake():
    forward = lambda x: x * (1 / 20)
    rule = lambda args, ct: (ct / 20,)
    with jax.enable_x64(True):
        report = verify.vjp(forward, rule, (normal(1, 5, dtype=jnp.float64),))
    assert report.verdict == "right", report


# --- undecided, and without enclosures --------------------------------------------------------------------------------


@pytest.fixture
def without_flint(monkeypatch):
    """As where python-flint has no wheel."""
    balls.python_flint.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    yield
    balls.python_flint.cache_clear()


@pytest.mark.usefixtures("without_flint")
def test_without_enclosures_the_checker_says_undecided_where_it_would_have_asked():
    assert not balls.available()
    report = verify.vjp(newton, scaled(newton, 2.0), (POSITIVE,))
    assert report.verdict == "undecided" and not report.ok and not report.certificate
    assert any("python-flint is not installed" in note for note in report.notes), report
    with pytest.raises(Undecided, match="undecided"):
        verify.assert_vjp(newton, scaled(newton, 2.0), (POSITIVE,))
    x = (normal(1, 4, 3),)
    assert verify.vjp(jnp.tanh, scaled(jnp.tanh, 1.0), x).verdict == "right"
    assert verify.vjp(jnp.tanh, scaled(jnp.tanh, 1.001), x, diagnose=False).verdict == "wrong"


def test_no_time_is_undecided_rather_than_guessed():
    report = verify.vjp(newton, scaled(newton, 2.0), (POSITIVE,), seconds=0)
    assert report.verdict == "undecided" and any("time" in note for note in report.notes), report


def test_a_screen_that_convicts_says_so_where_no_enclosure_is_to_be_had():
    forward = lambda x: jnp.linalg.eigvals(x).real
    args = (normal(1, 3, 3),)
    assert verify.vjp(forward, scaled(forward, 1.0), args).verdict == "right"
    wrong = verify.vjp(forward, scaled(forward, 1.001), args, diagnose=False)
    assert wrong.verdict == "wrong" and "no enclosure of eig" in wrong.evidence, wrong.evidence


def test_the_certificate_holds_exact_inputs_and_what_was_proved():
    report = verify.vjp(jnp.tanh, scaled(jnp.tanh, 1.001), (normal(1, 2, 2),), diagnose=False)
    held = report.to_dict()["certificate"]
    first = held["probes"][0]
    values = [float.fromhex(v) for v in first["inputs"][0]["values"]]
    assert values == np.asarray(normal(1, 2, 2), np.float64).ravel().tolist()
    leaf = first["leaves"]["x"]
    assert leaf["proved"] == 4 and leaf["equal"] == 0
    x, ct = values[np.ravel_multi_index(leaf["at"], (2, 2))], np.ravel_multi_index(leaf["at"], (2, 2))
    cotangent = float.fromhex(first["inputs"][1]["values"][ct])
    assert math.isclose(float(leaf["low"]), 0.001 * cotangent * (1 - math.tanh(x) ** 2), rel_tol=1e-6)
