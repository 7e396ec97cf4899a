"""Layers without params from a function and its error signal: what the activations are made with."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from jaxbias._doors import check_delta, check_float, check_no_params
from jaxbias._numerics import accumulation_dtype
from jaxbias.params import Layer


def without_params(
    name: str,
    function: Callable[[Array], Array],
    error_signal: Callable[[Array, Array], Array],
    keep: str,
    check: Callable[[Any, str], None] = check_float,
) -> Layer[tuple[()]]:
    """A layer a = function(z) whose backward is error_signal(kept, δ), computed in at least float32."""

    def init(key, x):
        del key
        check(x, f"{name}.init")
        return ()

    def forward(params, x):
        check_no_params(params, f"{name}.forward")
        check(x, f"{name}.forward")
        out = function(x)
        return out, out if keep == "output" else x

    def backward(residuals, delta):
        delta = check_delta(delta, residuals.shape, f"{name}.backward")
        wide = accumulation_dtype(delta.dtype)
        return (), error_signal(residuals.astype(wide), delta.astype(wide)).astype(delta.dtype)

    return Layer(init, forward, backward, name)


def elementwise(
    name: str, function: Callable[[Array], Array], derivative: Callable[[Array], Array], keep: str = "output"
) -> Layer[tuple[()]]:
    """A layer a = function(z) whose backward is δ · derivative(kept), equation (7).

    Args:
        name: for tables and error messages.
        function: σ, elementwise.
        derivative: σ′ as a function of what is kept.
        keep: "output" for a, "input" for z.

    Raises:
        ValueError: another `keep`.
    """
    if keep not in ("output", "input"):
        raise ValueError(f'activations.elementwise: keep must be "output" or "input", got {keep!r}.')
    return without_params(name, function, lambda kept, delta: delta * derivative(kept), keep)
