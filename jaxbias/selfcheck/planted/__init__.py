"""The checker checked: mistakes planted in right rules, and what the checker says about them.

    from jaxbias.selfcheck import planted

    outcomes = planted.run([planted.RULES["softmax"]])
    print(planted.table(outcomes), planted.good_enough(planted.summarise(outcomes)))

`RULES` are right backward passes of functions that stand nowhere else; `rules_of` makes rules of layers and losses.
"""

from jaxbias.selfcheck.planted.derivations import rules_of as rules_of
from jaxbias.selfcheck.planted.judge import Outcome as Outcome
from jaxbias.selfcheck.planted.judge import Scores as Scores
from jaxbias.selfcheck.planted.judge import good_enough as good_enough
from jaxbias.selfcheck.planted.judge import run as run
from jaxbias.selfcheck.planted.judge import summarise as summarise
from jaxbias.selfcheck.planted.judge import table as table
from jaxbias.selfcheck.planted.mutations import ACCEPTED as ACCEPTED
from jaxbias.selfcheck.planted.rules import RULES as RULES
from jaxbias.selfcheck.planted.rules import Rule as Rule
