"""Memory of a check: a multiple of the size of the arguments, where a full Jacobian could not exist."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from jaxbias import verify

def forward(x, weight, bias):
    return x @ weight + bias[None, :]

def rule(args, ct):
    x, weight, bias = args
    return ct @ weight.T, x.T @ ct, ct.sum(axis=0)

def check(n):
    args = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((4, n), (n, n), (n,))]
    assert verify.vjp(forward, rule, tuple(args)).verdict == "right"
    return sum(each.size for each in args)

check(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = check(3200)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (8 * size))
"""


@pytest.mark.slow
def test_ten_million_parameters():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40  # copies of the arguments in float64; the Jacobian would be 13 000 of them
