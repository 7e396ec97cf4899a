"""What each primitive is in NumPy's words, and what its error signal is worth to each of its operands.

A rule has two halves. `read(equation, args)` is the expression of the output, `pull(equation, args, out, delta)` the
error signals of the operands, None for one that has none. A primitive without a rule is carried out by JAX, and said
to be.
"""

from jaxbias._derive.rules import convolution, decompositions, elementwise, layout, picking, reductions, transforms
from jaxbias._derive.rules.rule import RULES, NoRule, Rule, rule_of
from jaxbias._jaxpr.sources import hide_folder_of

__all__ = [
    "RULES",
    "NoRule",
    "Rule",
    "convolution",
    "decompositions",
    "elementwise",
    "layout",
    "picking",
    "reductions",
    "rule_of",
    "transforms",
]

hide_folder_of(__file__)
