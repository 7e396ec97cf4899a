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
    transformers,
)
from ._articles import ARTICLES, Article, Group, articles_of, grouped
from ._claim import CONDITIONAL, HOLDS, REFUTED, REGISTRY, Claim, claim
from ._conditions import near
from ._run import Finding, Result, as_records, run, run_claim, select, to_json

__all__ = [
    "ARTICLES",
    "CONDITIONAL",
    "HOLDS",
    "REFUTED",
    "REGISTRY",
    "Article",
    "Claim",
    "Finding",
    "Group",
    "Result",
    "article0",
    "article1",
    "article1_init",
    "article2",
    "article3",
    "article4",
    "articles_of",
    "as_records",
    "claim",
    "errata",
    "errata_training",
    "facts",
    "facts_random",
    "grouped",
    "layers",
    "library",
    "near",
    "overview",
    "run",
    "run_claim",
    "select",
    "statistics",
    "to_json",
    "transformers",
]
