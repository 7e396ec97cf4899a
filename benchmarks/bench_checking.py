"""Time to check a derivation: this library's checker against `jax.test_util.check_grads` and PyTorch's `gradcheck`.

All check the same function in float64: a dense layer, or a small network with mean squared error. The first call
carries the compiling, which is most of a check. "with one mistake" is the time to convict a wrong backward, with and
without the diagnosis that says what is wrong. "another rule" is a second derivation for the same forward, whose true
gradients the checker still has; so has every repeat, and the first call is what a single check costs. A checker that
calls the right gradient wrong is recorded so and has no time: differences that step over a kink of ReLU do that.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

from benchmarks.case import Setting
from benchmarks.peers import WorkerFailed, in_process, missing, skipped
from benchmarks.record import Record
from benchmarks.timing import measure, ratio
from jaxbias import Layer, as_function, chain, verify
from jaxbias.derivation import random_like
from jaxbias.layers import dense, relu

SUITE = "verify"


class Network(NamedTuple):
    """A dense network with ReLU between its layers.

    Attributes:
        widths: of the input and of every layer.
        batch: rows.
        every_entry: whether PyTorch's slow gradcheck, with its differences of every entry, is to be had in seconds.
    """

    widths: tuple[int, ...]
    batch: int
    every_entry: bool = False

    def layer(self) -> Layer:
        first, *others = (dense.layer(width) for width in self.widths[1:])
        return chain(first, *(each for layer in others for each in (relu, layer))) if others else first


NETWORKS = {
    "tiny": {"dense 3×2, batch 2": Network((3, 2), 2)},
    "quick": {
        "dense 256×512, batch 64": Network((256, 512), 64),
        "dense 128×128, batch 8": Network((128, 128), 8, every_entry=True),
        "network 16-32-10, batch 4": Network((16, 32, 10), 4, every_entry=True),
    },
}
NETWORKS["full"] = NETWORKS["quick"] | {"network 64-128-10, batch 64": Network((64, 128, 10), 64)}


def run(setting: Setting) -> Iterator[list[Record]]:
    for name, network in NETWORKS[setting.scale].items():
        if not setting.asks_for(name):
            continue
        with jax.enable_x64(True):
            records = _compare(name, *_calls(network.layer(), (network.batch, network.widths[0])), setting)
        yield [*records, *_gradcheck(name, network, records[0], setting)]


def _calls(layer: Any, shape: tuple[int, ...]) -> tuple[dict[str, Callable[[], Any]], Callable[[], list[str]]]:
    """name → check, and a function that lists what is wrong with the answers."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], shape, jnp.float64)
    params = random_like(keys[1], layer.init(keys[1], x))
    function = as_function(layer)

    def forward(params, x):
        return layer.forward(params, x)[0]

    def rule(args, cotangent):
        return layer.backward(layer.forward(*args)[1], cotangent)

    def wrong_rule(args, cotangent):
        grads, delta_x = rule(args, cotangent)
        return jax.tree.map(lambda g: g if g.ndim > 1 else -g, grads), delta_x  # the sign of every bias gradient

    calls = {
        "jaxbias": lambda: verify.vjp(forward, rule, (params, x)),
        "jaxbias, another rule": lambda: verify.vjp(forward, lambda args, ct: rule(args, ct), (params, x)),
        "jaxbias, leaf_errors": lambda: verify.leaf_errors(
            layer.forward, layer.backward, params, x, forward(params, x)
        ),
        "jaxbias, with one mistake": lambda: verify.vjp(forward, wrong_rule, (params, x), diagnose=False),
        "jaxbias, with one mistake, diagnosed": lambda: verify.vjp(forward, wrong_rule, (params, x)),
        "check_grads, order 1, reverse": lambda: check_grads(
            jax.jit(function), (params, x), order=1, modes=["rev"], atol=1e-6, rtol=1e-6
        ),
        "check_grads, order 2": lambda: check_grads(jax.jit(forward), (params, x), order=2, atol=1e-4, rtol=1e-4),
    }

    def mistakes() -> list[str]:
        report = verify.vjp(forward, rule, (params, x))
        convicted = verify.vjp(forward, wrong_rule, (params, x))
        found = [] if report.ok else ["the right rule was convicted"]
        return found if not convicted.ok else [*found, "the wrong rule was acquitted"]

    return calls, mistakes


def _compare(case: str, calls, mistakes, setting: Setting) -> list[Record]:
    alarms: dict[str, str] = {}
    calls = {name: _catching(alarms, name, check) for name, check in calls.items()}
    times = measure(calls, rounds=min(setting.rounds, 5), seconds=2 * setting.seconds)
    if wrong := mistakes():
        return [Record(SUITE, case, "jaxbias", status="wrong", dtype="float64", note="; ".join(wrong))]
    base = times["jaxbias"]
    records = []
    for name, t in times.items():
        record = Record(SUITE, case, name, dtype="float64", baseline="jaxbias")
        if name in alarms:
            record.status, record.note = "wrong", f"calls the right gradient wrong: {alarms[name]}"
        else:
            record.samples, record.first_s, record.extra = t.samples, t.first_s, {"first_call_s": t.first_s}
            record.times_baseline = list(ratio(t.samples, base.samples))
        records.append(record)
    return records


def _catching(alarms: dict[str, str], name: str, check: Callable[[], Any]) -> Callable[[], Any]:
    """The check; where it raises AssertionError, how far it says that the gradient is off goes to `alarms`."""

    def call():
        try:
            return check()
        except AssertionError as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
            alarms[name] = next((line for line in said if "relative difference" in line), said[0])
            return None

    return call


def _gradcheck(case: str, network: Network, base: Record, setting: Setting) -> Iterator[Record]:
    """PyTorch's checker, in a process of its own."""
    if setting.scale == "tiny":
        return
    for fast in (True, False) if network.every_entry else (True,):
        name = "torch gradcheck, fast" if fast else "torch gradcheck"
        if why := missing("torch", setting):
            yield skipped(SUITE, case, name, why)
            continue
        job = {
            "kind": "check",
            "widths": network.widths,
            "batch": network.batch,
            "fast": fast,
            "threads": 2,
            "rounds": 3,
        }
        try:
            found = in_process("benchmarks.torch_worker", job, python=setting.pythons.get("torch"))["samples"]
        except WorkerFailed as error:
            yield Record(SUITE, case, name, dtype="float64", status="failed", note=str(error))
            continue
        yield Record(
            SUITE, case, name, dtype="float64", samples=found, baseline="jaxbias", extra={"first_call_s": found[0]},
            times_baseline=list(ratio(found, base.samples, paired=False)) if base.samples else [],
        )  # fmt: skip
