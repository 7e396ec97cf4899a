"""The registry of claims: a statement, the experiment that decides it, and what the experiment must find."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from jaxbias.claims._conditions import Condition

HOLDS = "holds"
CONDITIONAL = "holds under a condition"
REFUTED = "refuted"
VERDICTS = (HOLDS, CONDITIONAL, REFUTED)

Experiment = Callable[[Array], Mapping[str, Any]]
"""`key -> {name: array}`: a pure function of its key."""


@dataclass(frozen=True)
class Claim:
    """One numbered statement about biases, and how it is decided. Its figures, if any, stand in `gallery.UNDER`.

    Attributes:
        number: A… of the five articles, E… of their errata, F… of the published facts, S… of our own statistics.
        statement: what holds, in one sentence; the experiment shows it.
        verdict: on the version of the source, `article` where that differs; one of `VERDICTS`.
        experiment: `key -> {name: array}`.
        expected: what each of these arrays must satisfy, under the same names.
        article: the source's version, where that is imprecise or wrong.
        equation: of the derivation sheet, where one applies.
        source: citation of a published fact.
        statistical: the experiment trains or draws over many seeds; it takes seconds rather than milliseconds.
    """

    number: str
    statement: str
    verdict: str
    experiment: Experiment
    expected: Mapping[str, Condition]
    article: str = ""
    equation: str = ""
    source: str = ""
    statistical: bool = False

    @property
    def cited_equation(self) -> str:
        """`equation` in words: "equation (2)", "section 6"."""
        return f"equation {self.equation}" if self.equation[:1] == "(" or self.equation[:1].isdigit() else self.equation


REGISTRY: dict[str, Claim] = {}


def claim(
    number: str, statement: str, verdict: str, expected: Mapping[str, Condition], **more: Any
) -> Callable[[Experiment], Experiment]:
    """Decorator that registers an experiment as the proof of a claim; `more` are the other fields of `Claim`.

    Raises:
        ValueError: the number is taken, or the verdict is none of `VERDICTS`.
    """
    if number in REGISTRY:
        raise ValueError(f"claim: number {number} is taken by {REGISTRY[number].experiment.__name__}.")
    if verdict not in VERDICTS:
        raise ValueError(f"claim: verdict must be one of {VERDICTS}, got {verdict!r}.")

    def register(experiment: Experiment) -> Experiment:
        REGISTRY[number] = Claim(number, statement, verdict, experiment, expected, **more)
        return experiment

    return register


def sort_key(number: str) -> tuple[str, list[int]]:
    """Order of the numbers: A0.2 before A0.10, A before E before F."""
    return number[0], [int(part) for part in number[1:].split(".")]
