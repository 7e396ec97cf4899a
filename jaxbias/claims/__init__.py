"""Claims about biases as executable statements: five articles' experiments, their errata, and published facts.

`jaxbias.claims.run()` runs them all, `run(["A4.7", "E6"])` some. Importing this package imports no plotting library.
"""

from . import (
    article0,
    article1,
    article1_init,
    article2,
    article3,
    article4,
    errata,
    errata_training,
    facts,
    facts_random,
    layers,
    library,
    overview,
    statistics,
)
from ._claim import CONDITIONAL, HOLDS, REFUTED, REGISTRY, Claim, claim
from ._conditions import near
from ._html import QUICK, section
from ._run import Finding, Result, as_records, run, run_claim, select, to_json

__all__ = [
    "CONDITIONAL",
    "HOLDS",
    "QUICK",
    "REFUTED",
    "REGISTRY",
    "Claim",
    "Finding",
    "Result",
    "article0",
    "article1",
    "article1_init",
    "article2",
    "article3",
    "article4",
    "as_records",
    "claim",
    "errata",
    "errata_training",
    "facts",
    "facts_random",
    "layers",
    "library",
    "near",
    "overview",
    "run",
    "run_claim",
    "section",
    "select",
    "statistics",
    "to_json",
]
