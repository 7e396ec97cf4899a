"""Right backward passes derived by hand, one per function: what the self-test plants mistakes in.

Each case has a forward, a rule `(args, cotangent) -> gradients`, and `draw(key) -> args`. The rules are written the way
a person writes them, not the way autodiff does.
"""

from jaxbias.selfcheck.planted import rules_of_algebra, rules_of_layers, rules_of_reductions  # noqa: F401  they register
from jaxbias.selfcheck.planted.registry import RULES as RULES
from jaxbias.selfcheck.planted.registry import Rule as Rule
