"""The node tests of ONNX, carried out by the layers: `python -m docs.onnx_nodes` writes onnx_nodes.md.

ONNX publishes, for each of its operators, inputs and the outputs that they must give. onnx_ways.py says how an operator
is written with a layer; the outputs are compared here with the tolerances that the test itself brings, and what no
layer does is counted as such, never as passed. Needs the package onnx, and says so where it is missing.
"""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from docs.onnx_ways import WAYS, Node, NotHere

PAGE = Path(__file__).with_name("onnx_nodes.md")


class Outcome(NamedTuple):
    operator: str
    test: str
    verdict: str  # "passed", "failed" or "not here"
    why: str = ""


def judge(case: Any) -> Outcome:
    """One node test of ONNX."""
    import onnx

    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    outcomes = []
    for inputs, expected in case.data_sets:
        given = iter(inputs)
        placed = tuple(jnp.asarray(np.asarray(next(given))) if name else None for name in node.input)
        try:
            found = WAYS[node.op_type](Node(attributes, placed, tuple(node.output)))
        except NotHere as reason:
            return Outcome(node.op_type, case.name, "not here", str(reason))
        except (TypeError, ValueError) as error:  # the layer refused what the test gives
            return Outcome(node.op_type, case.name, "failed", f"`{case.name}`: {error}"[:200])
        wanted = iter(expected)
        for name, actual in zip(node.output, found):
            if not name:
                continue
            value = np.asarray(next(wanted)).astype(np.float64)
            same = np.asarray(actual).shape == value.shape and np.allclose(
                np.asarray(actual).astype(np.float64), value, case.rtol, case.atol, equal_nan=True
            )
            outcomes.append(same)
        assert next(wanted, None) is None, f"{case.name}: an output was not compared"
    return Outcome(node.op_type, case.name, "passed" if outcomes and all(outcomes) else "failed")


def cases() -> list[Any]:
    """The tests of one node whose operator has a way; those that expand an operator into others are left out."""
    from onnx.backend.test.case.node import collect_testcases

    with contextlib.redirect_stdout(io.StringIO()):
        every = collect_testcases(None)
    return [
        case
        for case in every
        if "_expanded" not in case.name and len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in WAYS
    ]


def write(outcomes: list[Outcome]) -> str:
    import onnx

    table = ["| operator | tests | passed | failed | not here |", "|---|---|---|---|---|"]
    for operator in WAYS:
        of_operator = [outcome for outcome in outcomes if outcome.operator == operator]
        counts = [sum(o.verdict == verdict for o in of_operator) for verdict in ("passed", "failed", "not here")]
        reasons = sorted({o.why for o in of_operator if o.why})
        last = f"{counts[2]}: {'; '.join(reasons)}" if reasons else "0"
        table.append(f"| {operator} | {len(of_operator)} | {counts[0]} | {counts[1]} | {last} |")
    passed, failed = (sum(o.verdict == verdict for o in outcomes) for verdict in ("passed", "failed"))
    names = [f"`{o.test}`" for o in outcomes if o.verdict == "failed"]
    return HEADER.format(
        version=onnx.__version__, tests=len(outcomes), passed=passed, failed=failed,
        without=len(outcomes) - passed - failed, table="\n".join(table),
        failures="" if not names else "Failed: " + ", ".join(names) + ".\n",
    )  # fmt: skip


HEADER = """# The node tests of ONNX

<!-- This page is written by `python -m docs.onnx_nodes`. -->

The tests that ONNX publishes of its operators (onnx {version}), carried out by the layers and losses of this library
on the CPU, under the tolerances of the tests: {passed} of {tests} pass, {failed} fail, {without} ask for something that
no layer here does. Tests that expand an operator into others are left out: they have the same numbers.

- **Running variance of batch norm.** Here it is the unbiased one, as in PyTorch: of m entries v m/(m − 1) goes into the
  average. ONNX, Keras and Flax average v itself, so the comparison divides by that factor. Outputs and gradients are
  the same, in training and, from the same statistics, in inference.
- **Causal attention with more keys than queries.** ONNX aligns the first query with the first key, this library the
  last with the last; the comparison hands ONNX's mask over as `visible`.
- **bfloat16.** The outputs that ONNX publishes for attention in bfloat16 were computed in bfloat16 throughout, and are
  wanted to 1e-3, where a number of 8 bits is off by up to 4e-3. This library computes in float32 and rounds once, which
  is nearer to the result in float64 (2e-3 and 4e-3 away), and so fails there by one unit in the last place.

{table}

{failures}"""


def main() -> int:
    if importlib.util.find_spec("onnx") is None:
        print("skipped: onnx is not installed: pip install onnx")
        return 0
    outcomes = [judge(case) for case in cases()]
    PAGE.write_text(write(outcomes).rstrip() + "\n")
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    for outcome in failed:
        print(f"failed: {outcome.test}")
    print(
        f"{sum(o.verdict == 'passed' for o in outcomes)} of {len(outcomes)} passed, {len(failed)} failed: {PAGE.name}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
