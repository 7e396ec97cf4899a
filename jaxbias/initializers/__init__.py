"""Weight and bias initializers: names over the draws of JAX, and those for biases that need more than a shape.

Every layer takes `weight_init` and `bias_init`: a function `(key, shape, dtype) -> array`, or one of `NAMES`.
A weight (*axes, fan_out) has fan_in = the product of all axes but the last: C_in/groups · kh · kw for a convolution.

    name                       distribution                                              for
    zeros, ones                constant                                                  biases; scales
    constant(v), positive(v)   constant                                                  biases
    normal(std, mean)          N(mean, std²)                                             either
    uniform(low, high)         U(low, high)                                              either
    xavier_*  (glorot_*)       variance 2/(fan_in + fan_out); uniform bound √(6/(fan_in + fan_out))   weights
    he_*      (kaiming_*)      variance 2/fan_in;             uniform bound √(6/fan_in)               weights
    lecun_*                    variance 1/fan_in;             uniform bound √(3/fan_in)               weights
    scaled(gain, ...)          variance gain²/fan                                        weights
    orthogonal                 orthonormal rows or columns                               weights
    fan_in_uniform             U(−1/√fan_in, 1/√fan_in), of a bias: with its weight's fan_in            either
    log_prior(p)               log(p/(1−p)), or log p per class                          the last bias
    forget_gate(v)             v for the forget gate, 0 for the others                   the bias of lstm
    chrono(longest)            log U(1, longest − 1) for the gate that keeps, −log for the input gate       of lstm, gru
    time_step(low, high)       softplus⁻¹ of a time step log-uniform in [low, high]          bτ of ssm
    data_dependent             a function of network, params and a batch                 both

The `*_normal` of JAX are truncated at two standard deviations and widened to keep the variance.

Source: X. Glorot and Y. Bengio (2010); K. He et al. (2015); Y. LeCun et al., Efficient BackProp (1998); A. Saxe et al.
(2014); T. Salimans and D. Kingma, Weight Normalization (2016), eqs. 5-6; gains: the table of `torch.nn.init`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxbias._doors import check_flag, check_key, check_size, describe
from jaxbias._numerics import accumulation_dtype
from jaxbias.initializers._data_dependent import data_dependent
from jaxbias.initializers._presets import RULES, CellDefault, LibraryDefault, drawn, preset
from jaxbias.params import Params

__all__ = [
    "GAINS",
    "NAMES",
    "PRESETS",
    "Draw",
    "FanInUniform",
    "Initializer",
    "affine",
    "by_name",
    "chrono",
    "constant",
    "data_dependent",
    "fan_in_uniform",
    "forget_gate",
    "gain",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "log_prior",
    "normal",
    "ones",
    "orthogonal",
    "positive",
    "preset",
    "scaled",
    "time_step",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Draw = Callable[..., Array]
"""`(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""

Initializer = str | Draw
"""A `Draw`, or the name of one of `NAMES`."""

_FOR_A_BIAS = "zeros, constant(v), normal(std), positive(v), log_prior(p), or fan_in_uniform as bias_init of a layer"


def _normal(key, shape, dtype, std):
    return std * jax.random.normal(key, shape, dtype)


def _truncated_normal(key, shape, dtype, std):
    """Cut at two standard deviations of a normal distribution, whose own is widened so that std is that of the rest."""
    return std / 0.87962566103423978 * jax.random.truncated_normal(key, -2, 2, shape, dtype)


def _centred_uniform(key, shape, dtype, std):
    return math.sqrt(3) * std * jax.random.uniform(key, shape, dtype, -1, 1)


_BY_STD = {"uniform": _centred_uniform, "normal": _normal, "truncated_normal": _truncated_normal}


# --- constants and plain distributions --------------------------------------------------------------------------------

zeros: Draw = jax.nn.initializers.zeros
ones: Draw = jax.nn.initializers.ones


def constant(value: float) -> Draw:
    """Every entry is `value`."""
    return jax.nn.initializers.constant(value)


def normal(std: float = 0.01, mean: float = 0.0) -> Draw:
    """N(mean, std²), not truncated.

    Raises:
        ValueError: std is negative or NaN.
    """
    if not std >= 0:
        raise ValueError(f"initializers.normal: std must be at least 0, got {std}.")

    def init(key, shape, dtype=jnp.float32):
        return mean + drawn(_normal, key, tuple(shape), dtype, std)

    return init


def uniform(low: float = -0.05, high: float = 0.05) -> Draw:
    """U(low, high)."""
    if not low < high:
        raise ValueError(f"initializers.uniform: low must be below high, got low={low}, high={high}.")

    def init(key, shape, dtype=jnp.float32):
        return drawn(jax.random.uniform, key, tuple(shape), dtype, low, high)

    return init


# --- by fan -----------------------------------------------------------------------------------------------------------


def _needs_fan(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"initializers.{name}: shape {tuple(shape)} has no fan-in and fan-out, so {name} has no scale for it. "
            f"For a bias use {_FOR_A_BIAS}."
        )


def _by_fan(name: str, gain: float, fan: str, distribution: str) -> Draw:
    """Variance gain²/fan, for shapes (*axes, fan_out)."""

    def init(key, shape, dtype=jnp.float32):
        _needs_fan(name, shape)
        fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
        units = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[fan]
        return drawn(_BY_STD[distribution], key, tuple(shape), dtype, gain / math.sqrt(max(units, 1)))

    return init


def orthogonal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Orthonormal rows or columns, whichever are fewer; all axes but the last count as rows."""
    _needs_fan("orthogonal", shape)
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


GAINS: dict[str, float] = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def gain(nonlinearity: str, slope: float = 0.01) -> float:
    """Factor on the standard deviation that keeps the scale through a nonlinearity (A1.14); √(2/(1 + slope²)) if leaky.

    Raises:
        ValueError: another name than "linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu".
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in GAINS:
        known = ", ".join((*GAINS, "leaky_relu"))
        raise ValueError(f"initializers.gain: nonlinearity must be one of {known}, got {nonlinearity!r}.")
    return GAINS[nonlinearity]


def scaled(gain: float = 1.0, fan: str = "fan_in", distribution: str = "uniform") -> Draw:
    """Variance gain²/fan, for example `scaled(gain("tanh"), "fan_avg")`: Xavier uniform before tanh.

    Args:
        fan: "fan_in", "fan_out", or "fan_avg", their mean.
        distribution: "uniform", "normal" (as PyTorch's), or "truncated_normal" (as that of JAX, Flax and Keras).

    Raises:
        ValueError: another fan or distribution.
    """
    if fan not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(f'initializers.scaled: fan must be "fan_in", "fan_out" or "fan_avg", got {fan!r}.')
    if distribution not in _BY_STD:
        raise ValueError(
            f'initializers.scaled: distribution must be "uniform", "normal" or "truncated_normal", '
            f"got {distribution!r}."
        )
    return _by_fan("scaled", gain, fan, distribution)


xavier_uniform: Draw = _by_fan("xavier_uniform", 1.0, "fan_avg", "uniform")
glorot_uniform: Draw = xavier_uniform
xavier_normal: Draw = _by_fan("xavier_normal", 1.0, "fan_avg", "truncated_normal")
glorot_normal: Draw = xavier_normal
he_uniform: Draw = _by_fan("he_uniform", math.sqrt(2), "fan_in", "uniform")
kaiming_uniform: Draw = he_uniform
he_normal: Draw = _by_fan("he_normal", math.sqrt(2), "fan_in", "truncated_normal")
kaiming_normal: Draw = he_normal
lecun_uniform: Draw = _by_fan("lecun_uniform", 1.0, "fan_in", "uniform")
lecun_normal: Draw = _by_fan("lecun_normal", 1.0, "fan_in", "truncated_normal")


# --- for biases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FanInUniform:
    """U(−1/√fan_in, 1/√fan_in), PyTorch's default for weights and biases (A1.6, A1.10).

    As the `bias_init` of a layer it takes the fan-in of the layer's weight; on its own a vector needs `fan_in`.
    """

    fan_in: int | None = None

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        if self.fan_in is None and len(shape) < 2:
            raise ValueError(
                f"initializers.fan_in_uniform: shape {tuple(shape)} has no fan-in; the bound 1/sqrt(fan_in) of a bias "
                f"is that of its weight. Give it as bias_init to a layer, or use FanInUniform(fan_in=...)."
            )
        bound = 1 / math.sqrt(max(1, self.fan_in or math.prod(shape[:-1])))
        return drawn(jax.random.uniform, key, tuple(shape), dtype, -bound, bound)


fan_in_uniform: FanInUniform = FanInUniform()


def positive(value: float = 0.1) -> Draw:
    """A constant above 0, which starts ReLU units on their active side.

    Raises:
        ValueError: value is not positive.
    """
    if not value > 0:
        raise ValueError(f"initializers.positive: value must be above 0, got {value}. Use constant(v) for any value.")
    return constant(value)


def log_prior(p: Any) -> Draw:
    """Bias of the last layer for which zero weights predict the prior p: the log-odds, or one log p per class.

    Args:
        p: a number in (0, 1) for sigmoid outputs: every bias is log(p/(1−p)), −1.386294 for p = 0.2 (A1.2);
            or a vector of class probabilities for a softmax: the biases are log p.

    Raises:
        ValueError: p outside (0, 1), a vector that does not sum to 1, or a bias of another length than p.
    """
    p = np.asarray(p, np.float64)
    if p.ndim > 1 or not ((p > 0) & (p < 1)).all():
        raise ValueError(
            f"initializers.log_prior: p must be a number or a vector with entries strictly between 0 and 1, got {p}. "
            f"Smooth a class that never occurs, for example (count + 1) / (total + classes)."
        )
    if p.ndim == 1 and abs(p.sum() - 1) > 1e-6:
        raise ValueError(f"initializers.log_prior: class probabilities must sum to 1, got a sum of {p.sum()}.")
    value = np.log(p) if p.ndim else np.log(p / (1 - p))

    def init(key, shape, dtype=jnp.float32):
        del key
        if p.ndim and tuple(shape) != p.shape:
            raise ValueError(f"initializers.log_prior: p has shape {p.shape} but the bias has shape {tuple(shape)}.")
        return jnp.full(shape, value, dtype)

    return init


def _block(name: str, gates: str, gate: str, shape: tuple[int, ...]) -> slice:
    """Where the bias of one gate stands in the vector of all."""
    if len(shape) != 1 or shape[0] % len(gates):
        raise ValueError(
            f"initializers.{name}: the bias of the gates {', '.join(gates)} is a vector of {len(gates)} equal blocks, "
            f'got shape {tuple(shape)}. Say which gates there are: gates="ifgo" for lstm, "fgo" where coupled.'
        )
    units, place = shape[0] // len(gates), gates.index(gate)
    return slice(place * units, (place + 1) * units)


def forget_gate(value: float = 1.0, gates: str = "ifgo") -> Draw:
    """Bias of an LSTM that starts by keeping its state: `value` for the forget gate, 0 for the others.

        jb.layers.lstm.layer(64, bias_init=jb.initializers.forget_gate(2.0))

    Source: R. Jozefowicz et al., An Empirical Exploration of Recurrent Network Architectures (2015).

    Args:
        gates: the blocks of the bias in their order, with "f" among them; "fgo" for coupled gates.

    Raises:
        ValueError: no forget gate among them, or a bias that does not have these blocks.
    """
    if "f" not in gates:
        raise ValueError(f'initializers.forget_gate: gates must have an "f", the forget gate, got {gates!r}.')

    def init(key, shape, dtype=jnp.float32):
        del key
        return jnp.zeros(shape, dtype).at[_block("forget_gate", gates, "f", shape)].set(value)

    return init


def chrono(longest: int, gates: str = "ifgo") -> Draw:
    """Biases whose units remember between 1 and `longest` steps: b_f = log u, b_i = −b_f, u ~ U(1, longest − 1).

    A unit that forgets at the rate 1 − σ(b_f) = 1/(1 + u) remembers about 1 + u steps. In a GRU the gate that keeps
    the state is z.

        jb.layers.lstm.layer(64, bias_init=jb.initializers.chrono(500))
        jb.layers.gru.layer(64, bias_init=jb.initializers.chrono(500, gates="rzn"))

    Source: C. Tallec, Y. Ollivier, Can recurrent neural networks warp time? (2018), eq. 16.

    Args:
        longest: the longest dependency, in steps; at least 3.
        gates: the blocks of the bias in their order: "ifgo", "fgo" for coupled gates, "rzn" for a GRU.

    Raises:
        TypeError: longest is no whole number.
        ValueError: longest below 3, neither "f" nor "z" among the gates, or a bias that does not have these blocks.
    """
    check_size(longest, "initializers.chrono", "longest", least=3)
    keeps = next((gate for gate in "fz" if gate in gates), None)
    if keeps is None:
        raise ValueError(f'initializers.chrono: gates must have "f" or "z", which keeps the state, got {gates!r}.')

    def init(key, shape, dtype=jnp.float32):
        kept = _block("chrono", gates, keeps, shape)
        steps = drawn(jax.random.uniform, key, (kept.stop - kept.start,), dtype, 1.0, float(longest - 1))
        bias = jnp.zeros(shape, dtype).at[kept].set(jnp.log(steps))
        return bias.at[_block("chrono", gates, "i", shape)].set(-jnp.log(steps)) if "i" in gates else bias

    return init


def time_step(low: float = 1e-3, high: float = 1e-1) -> Draw:
    """The bias bτ of a step size τ = softplus(… + bτ) that begins log-uniform in [low, high].

        bτ = τ0 + log(1 − e^−τ0),  so that softplus(bτ) = τ0                                                (9.9.11)

    log τ0 in its place would be τ0 only for small steps; 0 would give every unit the step 0.69.

        jb.layers.ssm.layer(16, time_step_init=jb.initializers.time_step(1e-4, 1e-1))

    Source: A. Gu, T. Dao, Mamba (2023), sec. 3.6.

    Raises:
        ValueError: not 0 < low ≤ high.
    """
    if not 0 < low <= high:
        raise ValueError(f"initializers.time_step: wanted 0 < low <= high, got low={low}, high={high}.")

    def init(key, shape, dtype=jnp.float32):
        wide = accumulation_dtype(dtype)
        tau = jnp.exp(drawn(jax.random.uniform, key, tuple(shape), wide, math.log(low), math.log(high)))
        return (tau + jnp.log(-jnp.expm1(-tau))).astype(dtype)

    return init


# --- by name ----------------------------------------------------------------------------------------------------------

NAMES: dict[str, Draw] = {
    "zeros": zeros,
    "ones": ones,
    "normal": normal(),
    "uniform": uniform(),
    "xavier_uniform": xavier_uniform,
    "xavier_normal": xavier_normal,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "kaiming_uniform": kaiming_uniform,
    "kaiming_normal": kaiming_normal,
    "lecun_uniform": lecun_uniform,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
    "fan_in_uniform": fan_in_uniform,
}

PRESETS: tuple[str, ...] = tuple(RULES)
"""Libraries that `preset` knows."""


def by_name(init: Initializer) -> Draw:
    """The initializer of that name; a function is handed through.

    Raises:
        TypeError: init is neither a name nor a function.
        ValueError: no initializer has this name.
    """
    if not isinstance(init, str):
        if not callable(init):
            raise TypeError(
                f"initializers: an initializer is a function (key, shape, dtype) -> array or one of its names, got "
                f"{describe(init)}. For a number v use initializers.constant(v)."
            )
        return init
    if init not in NAMES:
        raise ValueError(f"initializers: no initializer is called {init!r}. Names are {', '.join(NAMES)}.")
    return NAMES[init]


def affine(
    key: Array,
    weight_shape: tuple[int, ...],
    bias_shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    use_bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
    fan_in: int | None = None,
    layer: str = "",
    groups: int = 1,
) -> Params:
    """Params of an affine layer, as every layer of this library draws them.

    Args:
        use_bias: whether there is a bias; without one it is None.
        weight_init, bias_init: a function or one of `NAMES`.
        fan_in: inputs per unit, for `fan_in_uniform`; by default the product of all weight axes but the last.
        layer, groups: whose params they are, for the presets of other libraries.

    Raises:
        TypeError: key is no JAX key, a length is no whole number, or use_bias neither True nor False.
        ValueError: an unknown name, a negative length, an initializer that makes no sense for the shape, or one
            that returns another shape or dtype.
    """
    check_key(key, "init")
    for size in (*weight_shape, *bias_shape):
        check_size(size, "init", "every length of an axis", least=0)
    weight_key, bias_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    weight_init, bias_init = (
        init.of(layer, weight_shape, groups) if isinstance(init, LibraryDefault | CellDefault) else by_name(init)
        for init in (weight_init, bias_init)
    )
    of_layer = FanInUniform(fan_in if fan_in is not None else math.prod(weight_shape[:-1]))
    check_flag(use_bias, f"{layer or 'init'}", "use_bias")

    def draw(role: str, init: Draw, key: Array, shape: tuple[int, ...]) -> Array:
        leaf = (of_layer if init == fan_in_uniform else init)(key, shape, dtype)
        if getattr(leaf, "shape", None) != shape or getattr(leaf, "dtype", None) != dtype:
            raise ValueError(
                f"{layer or 'init'}: {role}_init must return a {jnp.dtype(dtype).name} array of shape {shape}, got "
                f"{describe(leaf)}."
            )
        return leaf

    weight = draw("weight", weight_init, weight_key, weight_shape)
    return Params(weight, draw("bias", bias_init, bias_key, bias_shape) if use_bias else None)
