"""Equation 5.1 one product at a time: slow, and with nothing in common with the library but the formula."""

import itertools
import math

import numpy as np


def convolution(x, weight, bias, delta, *, stride, pads, input_dilation, kernel_dilation, groups):
    """(z, grad_weight, grad_bias, delta_x) in float64; delta is z's shape → error signal; keywords are tuples per axis.

    pads is given by its pairs (low, high), with every rule for names already applied by the caller.
    """
    x, weight, bias = (np.asarray(each, np.float64) for each in (x, weight, bias))
    n, *lengths, _ = x.shape
    *kernel, per_group, channels_out = weight.shape
    positions = [
        math.floor((max((m - 1) * e + 1, 0) + low + high - f * (k - 1) - 1) / s) + 1
        for m, e, (low, high), f, k, s in zip(lengths, input_dilation, pads, kernel_dilation, kernel, stride)
    ]
    z = np.zeros((n, *positions, channels_out))
    delta = np.asarray(delta(z.shape), np.float64)
    grad_weight, grad_bias, delta_x = np.zeros(weight.shape), np.zeros(channels_out), np.zeros(x.shape)
    for row, o, *i in itertools.product(range(n), range(channels_out), *map(range, positions)):
        at = (row, *i, o)
        z[at] += bias[o]
        grad_bias[o] += delta[at]
        for c, *u in itertools.product(range(per_group), *map(range, kernel)):
            dilated = [s * a + f * b - low for s, a, f, b, (low, _) in zip(stride, i, kernel_dilation, u, pads)]
            if any(d % e for d, e in zip(dilated, input_dilation)):
                continue  # a zero between two inputs
            p = [d // e for d, e in zip(dilated, input_dilation)]
            if any(not 0 <= place < m for place, m in zip(p, lengths)):
                continue  # padding
            source = (row, *p, c + o // (channels_out // groups) * per_group)
            z[at] += weight[(*u, c, o)] * x[source]
            grad_weight[(*u, c, o)] += delta[at] * x[source]
            delta_x[source] += delta[at] * weight[(*u, c, o)]
    return z, grad_weight, grad_bias, delta_x
