"""How PyTorch and Keras keep a recurrent cell: `input` and `hidden` here, `weight_ih_l0` and `kernel` there."""

from functools import partial

import numpy as np

from jaxbias.layouts import Arrays, Layout


def in_pytorch(hidden_bias: bool) -> Layout:
    """PyTorch's two biases: read as their sum, and the second written as zero, unless the cell here has both."""
    return Layout(_to_pytorch, partial(_from_pytorch, hidden_bias=hidden_bias))


def _to_pytorch(arrays: Arrays) -> Arrays:
    written = {"weight_ih_l0": arrays["input.weight"].T, "weight_hh_l0": arrays["hidden.weight"].T}
    if "input.bias" in arrays:
        bias = arrays["input.bias"]
        written |= {"bias_ih_l0": bias, "bias_hh_l0": arrays.get("hidden.bias", np.zeros_like(bias))}
    if "projection.weight" in arrays:
        written["weight_hr_l0"] = arrays["projection.weight"].T
    return written


def _from_pytorch(arrays: Arrays, *, hidden_bias: bool) -> Arrays:
    read = {"input.weight": arrays["weight_ih_l0"].T, "hidden.weight": arrays["weight_hh_l0"].T}
    if "bias_ih_l0" in arrays and hidden_bias:
        read |= {"input.bias": arrays["bias_ih_l0"], "hidden.bias": arrays["bias_hh_l0"]}
    elif "bias_ih_l0" in arrays:
        read["input.bias"] = arrays["bias_ih_l0"] + arrays["bias_hh_l0"]
    if "weight_hr_l0" in arrays:
        read["projection.weight"] = arrays["weight_hr_l0"].T
    return read


_NAMES = {"kernel": "input.weight", "recurrent_kernel": "hidden.weight", "bias": "input.bias"}
IN_KERAS = Layout(
    lambda arrays: {there: arrays[here] for there, here in _NAMES.items() if here in arrays},
    lambda arrays: {_NAMES[name]: array for name, array in arrays.items()},
)
"""Of a cell whose gates stand in Keras's order, with one bias."""


def _gru_to_keras(arrays: Arrays) -> Arrays:
    written = IN_KERAS.write({name: _exchanged(array) for name, array in arrays.items() if name != "hidden.bias"})
    if "hidden.bias" in arrays:
        written["bias"] = np.stack([written["bias"], _exchanged(arrays["hidden.bias"])])
    return written


def _gru_from_keras(arrays: Arrays) -> Arrays:
    read = {name: _exchanged(array) for name, array in IN_KERAS.read(arrays).items()}
    if read.get("input.bias", np.zeros(0)).ndim == 2:
        read["input.bias"], read["hidden.bias"] = read["input.bias"]
    return read


def _exchanged(array: np.ndarray) -> np.ndarray:
    """The first two of three blocks of the last axis exchanged: Keras has z before r."""
    first, second, third = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)


GRU_IN_KERAS = Layout(_gru_to_keras, _gru_from_keras)
"""Keras's GRU: gates z, r, h; with `reset_after` its two biases are the rows of one array."""
