"""Run claims and tell what was found."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxbias._trees import in_one_line
from jaxbias.claims._articles import articles_of
from jaxbias.claims._claim import REGISTRY, Claim, sort_key
from jaxbias.claims._tools import own_settings

SHOWN, FAILED, UNDECIDED = "shown", "FAILED", "undecided"


@dataclass(frozen=True)
class Finding:
    """One measured quantity of a claim, beside what it had to be."""

    name: str
    measured: str
    expected: str
    passed: bool


@dataclass(frozen=True)
class Result:
    """What running a claim found.

    Attributes:
        claim: the claim.
        findings: one for each expected quantity.
        values: the arrays that the experiment returned.
        error: why the experiment did not finish; empty if it did.
        seconds: wall time, compilation included.
    """

    claim: Claim
    findings: tuple[Finding, ...]
    values: Mapping[str, np.ndarray]
    error: str
    seconds: float

    @property
    def passed(self) -> bool:
        """The experiment finished and every quantity is what it had to be."""
        return not self.error and all(finding.passed for finding in self.findings)

    @property
    def verdict(self) -> str:
        """Of the claim's statement, which is what holds: "shown" if its check passed, "FAILED" if not."""
        return SHOWN if self.passed else FAILED

    @property
    def source_verdict(self) -> str:
        """Of the article's or the paper's version; "undecided" where the check failed, "" where there is no source."""
        if self.claim.number[0] == "S":
            return ""
        return self.claim.verdict if self.passed else UNDECIDED


def run_claim(claim: Claim, key: Array | None = None) -> Result:
    """Run one claim's experiment in float64 and check what it returns."""
    start = time.perf_counter()
    with own_settings():
        try:
            key = jax.random.key(0) if key is None else key
            values = {name: np.asarray(value) for name, value in claim.experiment(key).items()}
        except Exception as error:  # a claim that cannot be run has failed; the others still run
            text = in_one_line(error)
            return Result(claim, (), {}, text, time.perf_counter() - start)
    if values.keys() != claim.expected.keys():
        text = f"the experiment returned {sorted(values)}, expected {sorted(claim.expected)}"
        return Result(claim, (), values, text, time.perf_counter() - start)
    findings = tuple(
        Finding(name, condition.show(values[name]), condition.expected, bool(condition.holds(values[name])))
        for name, condition in claim.expected.items()
    )
    return Result(claim, findings, values, "", time.perf_counter() - start)


def select(numbers: Iterable[str] = ()) -> list[Claim]:
    """The claims with these numbers, in order; a prefix such as "A4" or "E" stands for all that it begins; all if none.

    Raises:
        ValueError: no claim has such a number.
    """
    ordered = sorted(REGISTRY.values(), key=lambda claim: sort_key(claim.number))
    wanted: dict[str, Claim] = {}
    for number in numbers:
        given = number.strip().upper()
        matches = [c for c in ordered if given in (c.number, c.number[0], c.number.split(".")[0])]
        if not matches:
            raise ValueError(f"claims: there is no claim {number!r}. There are {_ranges(ordered)}.")
        wanted |= {c.number: c for c in matches}
    return [c for c in ordered if c.number in wanted] if wanted else ordered


def _ranges(claims: Sequence[Claim]) -> str:
    groups: dict[str, list[str]] = {}
    for claim in claims:
        groups.setdefault(claim.number.split(".")[0] if "." in claim.number else claim.number[0], []).append(
            claim.number
        )
    return ", ".join(f"{numbers[0]}-{numbers[-1]}" for numbers in groups.values())


def run(
    numbers: Iterable[str] = (),
    *,
    key: Array | None = None,
    workers: int = 2,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run claims, all by default, and return their results in the order of their numbers.

    Args:
        numbers: as for `select`.
        key: seed of every experiment; `jax.random.key(0)` by default, with which the tolerances were stated.
        workers: threads. Most of the time goes into compiling, which runs outside Python's lock.
        done: called with each result as it is ready, for a progress bar.

    Raises:
        ValueError: no claim has such a number.
    """
    claims = select(numbers)
    # The long ones first, so that no thread is left with one at the end.
    queue = sorted(claims, key=lambda claim: not claim.statistical)
    results = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for future in as_completed([pool.submit(run_claim, claim, key) for claim in queue]):
            result = future.result()
            results[result.claim.number] = result
            done(result)
    return [results[claim.number] for claim in claims]


def as_records(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Results as plain dictionaries, one for each claim, ready for JSON.

    "verdict" is of "statement", which is what holds; "source_verdict" is of the version of the "articles" or of the
    paper in "source", told by "source_says" where it differs.
    """
    return [
        {
            "number": r.claim.number,
            "articles": [article._asdict() for article in articles_of(r.claim.number)],
            "source": r.claim.source,
            "source_says": r.claim.article,
            "source_verdict": r.source_verdict,
            "statement": r.claim.statement,
            "verdict": r.verdict,
            "equation": r.claim.equation,
            "passed": r.passed,
            "error": r.error,
            "seconds": round(r.seconds, 3),
            "findings": [vars(finding) for finding in r.findings],
        }
        for r in results
    ]


def to_json(results: Iterable[Result]) -> str:
    """Results as a JSON array."""
    return json.dumps(as_records(results), indent=1, ensure_ascii=False)
