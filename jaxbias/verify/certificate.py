"""Certificates: what enclosures decided, at which inputs, so that anybody can evaluate it again."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbias.verify.checker import Case, Checker

FORM = 1
"""Version of the form in which a certificate is written."""


def certificate(checker: Checker, cases: Sequence[Case]) -> dict[str, Any]:
    """Plain numbers and strings, ready for JSON; empty if no enclosure was computed.

    `reference` and `rule` are digests of the traced programs, null where a program has none. Each of the `probes` holds
    its `inputs` as hexadecimal floats, which are exact, the `bits` that decided, and for each leaf how many elements
    are `proved` different and how many `equal`, between which decimal numbers the largest proved difference
    rule − reference lies (`low`, `high`, `at`), and `upper`, which no difference of the equal elements exceeds.
    `seconds` of processor time were spent on balls.
    """
    enclosed = [case for case in cases if case.enclosure is not None and np.any(_decided(case))]
    if not enclosed:
        return {}
    probe = enclosed[0].probe
    programs = enclosed[0].program, checker.rule.program(probe.primals, probe.seeds)
    marks = [program.fingerprint if program is not None else None for program in programs]
    return {
        "form": FORM,
        "jax": jax.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "reference": marks[0].hex() if marks[0] else None,
        "rule": marks[1].hex() if marks[1] else None,
        "seconds": checker.seconds_on_balls,
        "probes": [_of_case(checker, case) for case in enclosed],
    }


def _decided(case: Case) -> list[bool]:
    return [bool(np.any(leaf.decided)) for leaf in case.enclosure.leaves] if case.enclosure else []


def _of_case(checker: Checker, case: Case) -> dict[str, Any]:
    enclosure = case.enclosure
    assert enclosure is not None
    leaves = {}
    for (path, _, _), leaf in zip(checker.problem.leaves, enclosure.leaves):
        with np.errstate(all="ignore"):
            upper = np.max(np.where(leaf.equal, leaf.upper, 0.0), initial=0.0)
        leaves[path] = {
            "elements": int(leaf.equal.size),
            "proved": int(np.sum(leaf.proved)),
            "equal": int(np.sum(leaf.equal)),
            "at": list(leaf.at),
            "low": leaf.low,
            "high": leaf.high,
            "upper": float(upper).hex(),
        }
    return {
        "name": case.probe.name,
        "inputs": [_exact(x) for x in case.probe.inputs],
        "bits": enclosure.bits,
        "open": enclosure.reason,
        "leaves": leaves,
    }


def _exact(x: Any) -> dict[str, Any]:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended):
        x = jax.random.key_data(x)
    x = np.asarray(x)
    parts = x.ravel().view(np.float64) if x.dtype.kind == "c" else x.ravel()
    values = [value.hex() if isinstance(value, float) else value for value in parts.tolist()]
    return {"shape": list(x.shape), "dtype": str(x.dtype), "values": values}


class Changed(ValueError):
    """A certificate does not hold for what was evaluated again."""


def compare(held: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Notes on what is written otherwise and says the same: another JAX, another program text.

    Args:
        held, now: certificates of the same check, the second one evaluated anew.

    Raises:
        Changed: other inputs, or enclosures that contradict each other.
    """
    if held.get("form") != FORM:
        raise Changed(f"the certificate has form {held.get('form')}; this version reads form {FORM}")
    notes = [
        f"{fact} was {held[fact]}, and is {now[fact]}"
        for fact in ("jax", "python", "reference", "rule")
        if held[fact] != now.get(fact)
    ]
    probes = {probe["name"]: probe for probe in now.get("probes", ())}
    for probe in held["probes"]:
        name, again = probe["name"], probes.get(probe["name"])
        if again is None:
            raise Changed(f'no enclosure was computed at the probe "{name}" this time')
        if probe["inputs"] != again["inputs"]:
            raise Changed(f'the inputs of the probe "{name}" are others')
        for path, leaf in probe["leaves"].items():
            other = again["leaves"].get(path)
            if other is None:
                raise Changed(f"there is no gradient of {path} any more")
            if (leaf["proved"], leaf["equal"]) != (other["proved"], other["equal"]):
                raise Changed(
                    f'{path} at the probe "{name}": {leaf["proved"]} elements were proved different and '
                    f"{leaf['equal']} equal, now {other['proved']} and {other['equal']}"
                )
            apart = leaf["at"] == other["at"] and (
                float(leaf["low"]) > float(other["high"]) or float(other["low"]) > float(leaf["high"])
            )
            if apart:
                raise Changed(
                    f'{path}{leaf["at"]} at the probe "{name}": the difference was in '
                    f"[{leaf['low']}, {leaf['high']}], and is in [{other['low']}, {other['high']}]"
                )
    return notes
