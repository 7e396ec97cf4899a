"""How many of the mistakes of these rules have their line, and their name: `python -m tests.verify.slips.score`.

Arguments: `single` or `several`; `open` or `aside`, the halves of the first set, or the name of another one, `second`
to `ninth`; a piece of the names of the rules to look at; `--all` prints the rules that are answered in full as well.
"""

import argparse
import importlib
import linecache
import pkgutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax

from jaxbias import verify
from jaxbias.verify.report import Diagnosis, Report

from . import Slip

TRUE_OF = {
    "term": {"missing-term", "overwritten-not-accumulated", "broadcast-not-summed", "only-some-elements"},
    "factor": {
        "missing-factor",
        "scale-constant",
        "batch-mean-vs-sum",
        "missing-activation-derivative",
        "missing-mask",
        "wrong-operand",
        "double-count",
    },
    "axis": {"wrong-reduction-axis", "broadcast-not-summed", "wrong-operand", "scale-constant", "batch-mean-vs-sum"},
    "operand": {
        "wrong-operand",
        "missing-factor",
        "missing-mask",
        "missing-activation-derivative",
        "stale-value",
        "not-linear-in-cotangent",  # where a value stands in the place of a gradient
    },
    "transpose": {"transpose", "wrong-index", "wrong-reduction-axis", "wrong-operand"},
    "mask": {"missing-mask", "missing-activation-derivative", "wrong-operand", "missing-factor", "wrong-index"},
    "sign": {"sign"},
    "index": {"wrong-index", "stale-value", "wrong-operand", "wrong-reduction-axis", "only-some-elements"},
    "carry": {
        "missing-term",
        "extra-term",
        "missing-factor",
        "overwritten-not-accumulated",
        "stale-value",
        "index-collision",  # entries that are named twice overwrite each other
    },
    "conjugate": {"sign", "wrong-operand"},
    "activation": {"missing-activation-derivative", "wrong-operand", "missing-factor", "missing-term", "sign"},
    "constant": {"scale-constant", "missing-factor", "missing-term", "wrong-operand", "batch-mean-vs-sum"},
    "detached": {"detached", "missing-term"},
    "reduction": {
        "batch-mean-vs-sum",
        "scale-constant",
        "broadcast-not-summed",
        "index-collision",
        "overwritten-not-accumulated",
        "only-some-elements",
        "wrong-reduction-axis",
        "missing-factor",
    },
}
"""Family of a mistake → the kinds that are true of one made in that way."""


@dataclass
class Score:
    """Of one rule: how many of its mistakes have their line and their name; lines and names that are none of its.

    `mended` counts those as well whose line is another one, where the rule is right with all that is to be written.
    """

    mistakes: int
    lines: int
    mended: int
    named: int
    patched: int
    other_lines: int
    other_names: int

    def __add__(self, other: "Score") -> "Score":
        return Score(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


HALVES = ("open", "aside")

SETS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


def _is_at(code: str, places: tuple[str, ...]) -> bool:
    return bool(code) and any(place in code or code in place for place in places)


def score(slip: Slip, report: Report) -> Score:
    """A name counts for a mistake where its kind is true of it and the line that it names, if any, is its place."""
    wrong = [linecache.getline(line.file, line.number).strip() for line in report.lines if line.status == "wrong"]
    code = lambda d: d.rule_line.split(": ", 1)[-1]
    tells = lambda d, m: d.kind in TRUE_OF[m.family] and (not d.rule_line or _is_at(code(d), m.lines))
    confident = [d for d in report.diagnoses if d.kind != "unexplained"]
    of = lambda diagnoses: {path for d in diagnoses for path in d.leaf.split(", ")}
    right_with_patches = of(report.diagnoses) == of(d for d in report.diagnoses if d.patch)
    placed = [any(_is_at(line, m.lines) for line in wrong) for m in slip.mistakes]
    patched = lambda m: any(_is_at(code(d), m.lines) and d.patch for d in report.diagnoses)
    return Score(
        len(slip.mistakes),
        sum(placed),
        len(placed) if right_with_patches else sum(placed),
        sum(any(tells(d, m) for d in confident) for m in slip.mistakes),
        sum(map(patched, slip.mistakes)),
        sum(not any(_is_at(line, m.lines) for m in slip.mistakes) for line in wrong),
        sum(not any(d.kind in TRUE_OF[m.family] for m in slip.mistakes) for d in confident),
    )


def _said(d: Diagnosis) -> str:
    patch = d.patch
    return f"    {d.leaf}: {d.kind}: {d.explanation} [{d.rule_line}]" + (f"\n        => {patch}" if patch else "")


def slips_of(which: str, of: str) -> Iterator[Slip]:
    """Rules with one mistake or with several, of a half of the first set or of another set."""
    if of in HALVES:
        module = importlib.import_module(f"tests.verify.slips.{which}")
        yield from (s for s in getattr(module, which.upper()) if (s.name in module.ASIDE) == (of == "aside"))
        return
    package = importlib.import_module(f"tests.verify.slips.{of}")
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield from getattr(importlib.import_module(info.name), which.upper(), ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("single", "several"))
    parser.add_argument("of", choices=HALVES + SETS)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--key", type=int, default=1)
    options = parser.parse_args()
    total, began = Score(0, 0, 0, 0, 0, 0, 0), time.process_time()
    for slip in slips_of(options.which, options.of):
        if options.name not in slip.name:
            continue
        start = time.process_time()
        report = verify.vjp(slip.forward, slip.rule, slip.draw(jax.random.key(options.key)))
        took = time.process_time() - start
        its = score(slip, report)
        total += its
        complete = its.mistakes == its.lines == its.named and not its.other_lines and not its.other_names
        if not complete or options.all:
            off = " ".join(f"{name}={value}" for name, value in vars(its).items())
            print(f"{'ok ' if complete else 'OFF'} {slip.name} {took:.1f} s  {off}")
            for m in slip.mistakes:
                print(f"    planted: {m.family}: {m.kind} [{m.lines[0]}]")
            print(*map(_said, report.diagnoses), sep="\n", flush=True)
    took = time.process_time() - began
    print(f"{options.which}, {options.of}: {total}, {took:.0f} s of process time")


if __name__ == "__main__":
    main()
