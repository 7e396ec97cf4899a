"""Activations a = σ(z): elementwise, but for those of the last lines, which couple the entries of one axis. No params.

Forward     a = σ(z)
Backward    ∂L/∂z = δ σ′(z)                       elementwise σ (7)
            ∂L/∂z[k] = Σᵢ δ[i] ∂a[i]/∂z[k]        coupled σ: the vector-Jacobian product that (9) asks for

    σ              a                            σ′, or ∂L/∂z where σ is coupled           kept   at the kink
    identity       z                            1                                         –
    relu           max(z, 0)                    [a > 0]                                   a      σ′(0) = 0
    leaky_relu     z if z > 0 else c z          1 if a > 0 else c                         a      σ′(0) = c
    elu            z if z > 0 else α (eᶻ − 1)   1 if a > 0 else a + α                     a      σ′(0) = α
    softplus       log(1 + eᶻ)                  1 − e⁻ᵃ                                   a
    sigmoid        1 / (1 + e⁻ᶻ)                a (1 − a)                                 a
    tanh           tanh z                       1 − a²                                    a
    silu           z s,  s = sigmoid(z)         s (1 + z (1 − s))                         z
    gelu           z Φ(z)                       Φ(z) + z φ(z)                             z
    gelu_tanh      z s,  s = sigmoid(2u)        s + 2 z s (1 − s) u′                      z
    selu           λ z if z > 0 else λα (eᶻ−1)  λ if a > 0 else a + λα                    a      σ′(0) = λα
    celu           z if z > 0 else α (e^(z/α)−1) 1 if a > 0 else 1 + a/α                  a
    mish           z t,  t = tanh softplus z    t + z s (1 − t²),  s = sigmoid(z)         z                     (9.10.7)
    log_sigmoid    −softplus(−z)                1 − eᵃ                                    a                     (9.10.8)
    hard_sigmoid   clip((z + 3)/6, 0, 1)        [−3 < z < 3]/6                            z      0              (9.10.4)
    hard_swish     z clip((z + 3)/6, 0, 1)      0, (2z + 3)/6, 1 below, in, above (−3, 3) z      0 and 1        (9.10.5)
    hard_tanh      clip(z, −1, 1)               [−1 < a < 1]                              a      0              (9.10.6)
    softmax        e^z / Σ e^z                  a (δ − Σ a δ)                             a
    log_softmax    z − log Σ e^z                δ − eᵃ Σ δ                                a
    sparsemax      max(z − τ, 0),  Σ a = 1      [a > 0] (δ − Σ_K δ/|K|),  K = {a > 0}     a      0             (9.10.10)
    entmax15       max(z/2 − τ, 0)²,  Σ a = 1   g (δ − Σ g δ/Σ g),  g = √a                a                    (9.10.11)

with u = √(2/π) (z + 0.044715 z³), and Φ, φ the distribution and density function of the standard normal.
σ′ is written from the output a where σ can be undone, because the layer above keeps a anyway; silu, gelu, mish and
hard_swish take some values twice, and a rounded hard_sigmoid may be 1 where z is below 3, so they keep z.
Every σ′ is finite at every finite z, and half-precision ones are computed in float32.

A plain name (`relu`, `gelu`, `softmax`) is a ready `Layer` with the usual constants; `make_leaky_relu`, `make_elu`,
`make_celu`, `make_gelu`, `make_softmax`, `make_log_softmax`, `make_sparsemax` and `make_entmax15` build it with other
ones. One that learns is a module of its own: `prelu`.

    >>> a, z = mish.forward((), jnp.array([1.0, -1.0]))
    >>> _, delta_x = mish.backward(z, jnp.ones(2))

Source: derivation sheet 4.3; D.-A. Clevert et al., ELU (2016); D. Hendrycks and K. Gimpel, GELU (2016), sec. 2;
S. Elfwing et al., SiLU (2018); G. Klambauer et al., SELU (2017), sec. 2; J. Barron, CELU (2017); D. Misra, Mish (2019);
A. Howard et al., MobileNetV3 (2019), hard swish; C. Bishop, PRML (2006), eq. 4.106 (softmax); A. Martins and
R. Astudillo, From Softmax to Sparsemax (2016); B. Peters, V. Niculae and A. Martins, Sparse Sequence-to-Sequence Models
(2019), 1.5-entmax.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias._doors import check_delta, check_float, check_no_params, check_number
from jaxbias._numerics import accumulation_dtype
from jaxbias.derivation import Derivation, Example, normal
from jaxbias.layers import _coupled
from jaxbias.layers._coupled import entmax15 as entmax15
from jaxbias.layers._coupled import log_softmax as log_softmax
from jaxbias.layers._coupled import make_entmax15 as make_entmax15
from jaxbias.layers._coupled import make_log_softmax as make_log_softmax
from jaxbias.layers._coupled import make_softmax as make_softmax
from jaxbias.layers._coupled import make_sparsemax as make_sparsemax
from jaxbias.layers._coupled import softmax as softmax
from jaxbias.layers._coupled import sparsemax as sparsemax
from jaxbias.layers._elementwise import elementwise as elementwise
from jaxbias.params import Layer, Static

# --- elementwise ------------------------------------------------------------------------------------------------------


def _identity_forward(params, x):
    check_no_params(params, "identity.forward")
    check_float(x, "identity.forward")
    return x, Static(x.shape)


def _identity_backward(residuals, delta):
    return (), check_delta(delta, residuals.value, "identity.backward")


identity: Layer[tuple[()]] = Layer(lambda key, x: (), _identity_forward, _identity_backward, "identity")
"""a = z; σ′ = 1, so nothing but the shape is kept."""


def _relu(z: Array) -> Array:
    # A maximum in half precision: compilers for GPUs carry it out where the product before it is written, as they do no
    # select. In wider dtypes the program by which checkpoints of 0.1 know their run. Both give NaN for NaN and have
    # σ′(0) = 0 under autodiff, where jnp.maximum has 1/2.
    return jax.nn.relu(z) if z.dtype != accumulation_dtype(z.dtype) else jnp.where(z <= 0, 0, z)


relu: Layer[tuple[()]] = elementwise("relu", _relu, lambda a: (a > 0).astype(a.dtype))
"""a = max(z, 0); σ′ = [a > 0], so σ′(0) = 0."""


def make_leaky_relu(slope: float = 0.01) -> Layer[tuple[()]]:
    """a = z where z > 0, c z elsewhere; σ′ = 1 where z > 0, c elsewhere, so σ′(0) = c.

    Args:
        slope: c, any number. a has the sign of z only for c ≥ 0; for a negative c, z is kept instead.

    Raises:
        TypeError: slope is no number.
    """
    check_number(slope, "make_leaky_relu", "slope")
    return elementwise(
        "leaky_relu",
        lambda z: jnp.where(z > 0, z, slope * z),
        lambda kept: jnp.where(kept > 0, jnp.ones_like(kept), slope),
        keep="output" if slope >= 0 else "input",
    )


def make_elu(alpha: float = 1.0) -> Layer[tuple[()]]:
    """a = z where z > 0, α (eᶻ − 1) elsewhere; σ′ = 1 where a > 0, α eᶻ = a + α elsewhere, so σ′(0) = α.

    Raises:
        TypeError: alpha is no number.
        ValueError: a negative alpha: then a no longer tells the sign of z.
    """
    check_number(alpha, "make_elu", "alpha")
    if not alpha >= 0:
        raise ValueError(f"make_elu: alpha must be at least 0, got {alpha}.")
    return elementwise(
        "elu",
        # The inner where keeps a large z out of expm1: its overflow would be 0 · ∞ under autodiff.
        lambda z: jnp.where(z > 0, z, alpha * jnp.expm1(jnp.where(z > 0, 0, z))),
        lambda a: jnp.where(a > 0, 1, a + alpha),
    )


leaky_relu: Layer[tuple[()]] = make_leaky_relu()
"""Leaky ReLU with slope 0.01."""

elu: Layer[tuple[()]] = make_elu()
"""ELU with α = 1: smooth, σ′(0) = 1."""

softplus: Layer[tuple[()]] = elementwise("softplus", lambda z: jnp.logaddexp(z, 0), lambda a: -jnp.expm1(-a))
"""a = log(1 + eᶻ); σ′ = sigmoid(z) = 1 − e⁻ᵃ, which keeps its relative accuracy where both are small."""

sigmoid: Layer[tuple[()]] = elementwise("sigmoid", jax.lax.logistic, lambda a: a * (1 - a))
"""a = 1 / (1 + e⁻ᶻ); σ′ = a (1 − a)."""

tanh: Layer[tuple[()]] = elementwise("tanh", jnp.tanh, lambda a: 1 - a * a)
"""a = tanh z; σ′ = 1 − a²."""


def _silu_derivative(z: Array) -> Array:
    s = jax.lax.logistic(z)
    return s * (1 + z * (1 - s))


silu: Layer[tuple[()]] = elementwise("silu", lambda z: z * jax.lax.logistic(z), _silu_derivative, keep="input")
"""a = z s with s = sigmoid(z), also called swish; σ′ = s (1 + z (1 − s))."""


def _normal_cdf(z: Array) -> Array:
    # By erfc: 1 + erf would lose the lower tail to cancellation. Behind a barrier, forward and backward in one program
    # share its values; without one, XLA evaluates its polynomials in both and keeps three arrays for them meanwhile.
    return jax.lax.optimization_barrier(0.5 * jax.lax.erfc(-(z * math.sqrt(0.5))))


def _gelu_derivative(z: Array) -> Array:
    u = z * math.sqrt(0.5)  # exp(−u²) and not exp(−z²/2): erfc of u has evaluated it
    return _normal_cdf(z) + z * jnp.exp(-(u * u)) / math.sqrt(2 * math.pi)


def _gelu_gate(z: Array) -> Array:
    """½ (1 + tanh u) = sigmoid(2u)."""
    return jax.lax.logistic(2 * math.sqrt(2 / math.pi) * z * (1 + 0.044715 * z * z))


def _gelu_tanh_derivative(z: Array) -> Array:
    # Beyond ±25 the gate is 0 or 1 to the last bit of float64, and z² would end in 0 · ∞.
    z = jnp.clip(z, -25, 25)
    s = _gelu_gate(z)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)  # u′
    return s + 2 * z * s * (1 - s) * slope


def make_gelu(*, approximate: bool = False) -> Layer[tuple[()]]:
    """a = z Φ(z); σ′ = Φ(z) + z φ(z).

    Args:
        approximate: the tanh form, a = z ½ (1 + tanh u) with u = √(2/π) (z + 0.044715 z³). The exact form is the
            default here, as in PyTorch and Keras; `jax.nn.gelu` and Flax default to the tanh form.
    """
    if approximate:
        return elementwise("gelu_tanh", lambda z: z * _gelu_gate(z), _gelu_tanh_derivative, keep="input")
    return elementwise("gelu", lambda z: z * _normal_cdf(z), _gelu_derivative, keep="input")


gelu: Layer[tuple[()]] = make_gelu()
"""GELU in its exact form."""

gelu_tanh: Layer[tuple[()]] = make_gelu(approximate=True)
"""GELU in its tanh form."""

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

selu: Layer[tuple[()]] = elementwise(
    "selu",
    lambda z: _SELU_SCALE * jnp.where(z > 0, z, _SELU_ALPHA * jnp.expm1(jnp.where(z > 0, 0, z))),
    lambda a: jnp.where(a > 0, _SELU_SCALE, a + _SELU_SCALE * _SELU_ALPHA),
)
"""λ times the ELU with α = 1.673…, λ = 1.0507…: mean 0 and variance 1 are a fixed point of layers of it."""


def make_celu(alpha: float = 1.0) -> Layer[tuple[()]]:
    """a = z where z > 0, α (e^(z/α) − 1) elsewhere; σ′ = 1 where a > 0, e^(z/α) = 1 + a/α elsewhere, so σ′(0) = 1.

    Raises:
        TypeError: alpha is no number.
        ValueError: alpha is not above 0.
    """
    check_number(alpha, "make_celu", "alpha")
    if not alpha > 0:
        raise ValueError(f"make_celu: alpha must be above 0, got {alpha}.")
    return elementwise(
        "celu",
        lambda z: jnp.where(z > 0, z, alpha * jnp.expm1(jnp.where(z > 0, 0, z) / alpha)),
        lambda a: jnp.where(a > 0, 1, 1 + a / alpha),
    )


celu: Layer[tuple[()]] = make_celu()
"""CELU with α = 1, where it is the ELU."""


def _mish_derivative(z: Array) -> Array:
    t = jnp.tanh(jnp.logaddexp(z, 0))
    return t + z * jax.lax.logistic(z) * (1 - t * t)


mish: Layer[tuple[()]] = elementwise(
    "mish", lambda z: z * jnp.tanh(jnp.logaddexp(z, 0)), _mish_derivative, keep="input"
)
"""a = z t with t = tanh softplus z; σ′ = t + z s (1 − t²), s = sigmoid(z) (9.10.7)."""

log_sigmoid: Layer[tuple[()]] = elementwise("log_sigmoid", lambda z: -jnp.logaddexp(-z, 0), lambda a: -jnp.expm1(a))
"""a = log sigmoid(z) = −softplus(−z), finite where the logarithm of a sigmoid would be log 0; σ′ = 1 − eᵃ (9.10.8)."""

# Selects and no clip: the value at the kink is then the documented one under autodiff too.
hard_sigmoid: Layer[tuple[()]] = elementwise(
    "hard_sigmoid",
    lambda z: jnp.where(z <= -3, 0, jnp.where(z >= 3, 1, (z + 3) / 6)),
    lambda z: jnp.where(jnp.abs(z) < 3, 1 / 6, 0).astype(z.dtype),
    keep="input",
)
"""a = clip((z + 3)/6, 0, 1); σ′ = 1/6 where −3 < z < 3, else 0 (9.10.4)."""

hard_swish: Layer[tuple[()]] = elementwise(
    "hard_swish",
    lambda z: jnp.where(z <= -3, 0, jnp.where(z >= 3, z, z * ((z + 3) / 6))),
    lambda z: jnp.where(z <= -3, 0, jnp.where(z >= 3, 1, (2 * z + 3) / 6)),
    keep="input",
)
"""a = z clip((z + 3)/6, 0, 1); σ′ = (2z + 3)/6 where −3 < z < 3; 0 below, 1 above, kinks included (9.10.5)."""

hard_tanh: Layer[tuple[()]] = elementwise(
    "hard_tanh",
    lambda z: jnp.where(z <= -1, -1, jnp.where(z >= 1, 1, z)),
    lambda a: (jnp.abs(a) < 1).astype(a.dtype),
)
"""a = clip(z, −1, 1); σ′ = [−1 < a < 1], 0 at both kinks (9.10.6)."""


def _both_sides(key: Array, dtype: DTypeLike) -> Array:
    """Values on every piece of the hard activations."""
    return (4 * normal(key, (5, 3), jnp.float64)).astype(dtype)


def _derivation(name: str, forward: str, backward: str, source: str, *examples: Example) -> Derivation:
    return Derivation(name, (forward, r"\partial L/\partial z = " + backward), source, examples)


DERIVATIONS = (
    _derivation("identity", "a = z", r"\delta", "derivation sheet 4.3", Example("matrix", identity, (5, 3))),
    _derivation(
        "relu",
        r"a = \max(z, 0)",
        r"\delta\,[a > 0]",
        "derivation sheet 4.3",
        Example("matrix", relu, (5, 3)),
        Example("no rows", relu, (0, 3)),
    ),
    _derivation(
        "leaky_relu",
        r"a = z \text{ if } z > 0 \text{ else } c z",
        r"\delta\,(1 \text{ if } a > 0 \text{ else } c)",
        "derivation sheet 4.3",
        Example("slope 0.01", leaky_relu, (5, 3)),
        Example("slope 0.3", make_leaky_relu(0.3), (5, 3)),
        Example("slope -0.5", make_leaky_relu(-0.5), (5, 3)),
    ),
    _derivation(
        "elu",
        r"a = z \text{ if } z > 0 \text{ else } \alpha (e^z - 1)",
        r"\delta\,(1 \text{ if } a > 0 \text{ else } a + \alpha)",
        "Clevert et al. (2016)",
        Example("alpha 1", elu, (5, 3)),
        Example("alpha 0.7", make_elu(0.7), (5, 3)),
    ),
    _derivation(
        "softplus",
        r"a = \log(1 + e^z)",
        r"\delta\,(1 - e^{-a})",
        "derivation sheet 4.3 (σ′ = sigmoid)",
        Example("matrix", softplus, (5, 3)),
    ),
    _derivation(
        "sigmoid",
        r"a = 1 / (1 + e^{-z})",
        r"\delta\, a (1 - a)",
        "derivation sheet 4.3",
        Example("matrix", sigmoid, (5, 3)),
    ),
    _derivation("tanh", r"a = \tanh z", r"\delta\,(1 - a^2)", "derivation sheet 4.3", Example("matrix", tanh, (5, 3))),
    _derivation(
        "silu",
        r"a = z s, \quad s = 1 / (1 + e^{-z})",
        r"\delta\, s\,(1 + z (1 - s))",
        "Elfwing et al. (2018)",
        Example("matrix", silu, (5, 3)),
    ),
    _derivation(
        "gelu",
        r"a = z\,\Phi(z)",
        r"\delta\,(\Phi(z) + z\,\varphi(z))",
        "Hendrycks and Gimpel (2016), sec. 2",
        Example("exact", gelu, (5, 3)),
    ),
    _derivation(
        "gelu_tanh",
        r"a = z s, \quad s = 1/(1 + e^{-2u}), \quad u = \sqrt{2/\pi}\,(z + 0.044715 z^3)",
        r"\delta\,(s + 2 z s (1 - s) u')",
        "Hendrycks and Gimpel (2016), sec. 2",
        Example("matrix", gelu_tanh, (5, 3)),
    ),
    _derivation(
        "selu",
        r"a = \lambda z \text{ if } z > 0 \text{ else } \lambda\alpha (e^z - 1)",
        r"\delta\,(\lambda \text{ if } a > 0 \text{ else } a + \lambda\alpha)",
        "Klambauer et al. (2017), sec. 2",
        Example("matrix", selu, (5, 3)),
    ),
    _derivation(
        "celu",
        r"a = z \text{ if } z > 0 \text{ else } \alpha (e^{z/\alpha} - 1)",
        r"\delta\,(1 \text{ if } a > 0 \text{ else } 1 + a/\alpha)",
        "Barron (2017)",
        Example("alpha 0.7", make_celu(0.7), (5, 3)),
    ),
    _derivation(
        "mish",
        r"a = z t, \quad t = \tanh \log(1 + e^z)",
        r"\delta\,(t + z s (1 - t^2)), \quad s = 1 / (1 + e^{-z})",
        "Misra (2019); equation (9.10.7)",
        Example("matrix", mish, (5, 3)),
    ),
    _derivation(
        "log_sigmoid",
        r"a = -\log(1 + e^{-z})",
        r"\delta\,(1 - e^a)",
        "equation (9.10.8)",
        Example("matrix", log_sigmoid, (5, 3)),
    ),
    _derivation(
        "hard_sigmoid",
        r"a = \min(\max((z + 3)/6, 0), 1)",
        r"\delta\,[-3 < z < 3]/6",
        "equation (9.10.4)",
        Example("matrix", hard_sigmoid, _both_sides),
    ),
    _derivation(
        "hard_swish",
        r"a = z \min(\max((z + 3)/6, 0), 1)",
        r"\delta\,(0,\ (2z + 3)/6,\ 1 \text{ for } z \le -3,\text{ between},\ z \ge 3)",
        "Howard et al. (2019); equation (9.10.5)",
        Example("matrix", hard_swish, _both_sides),
    ),
    _derivation(
        "hard_tanh",
        r"a = \min(\max(z, -1), 1)",
        r"\delta\,[-1 < a < 1]",
        "equation (9.10.6)",
        Example("matrix", hard_tanh, _both_sides),
    ),
    *_coupled.DERIVATIONS,
)
