"""Forwards as people write them, each with arguments: what `derive` is measured by.

layers, sequences, losses, numerics   what rules were made for; those of `docs.forwards` are entered here too
libraries                             functions of installed Flax, Equinox and optax
unseen, research, further             written before the rules that they need, and never looked at while making them:
                                      `python -m tests.derive.bank unseen research further` says how many are written
"""

from docs.forwards import FORWARDS as SHOWN
from docs.forwards import SMALL
from tests.derive.bank import layers, losses, numerics, sequences
from tests.derive.bank.forward import Forward, drawn

FORWARDS: dict[str, Forward] = {
    **{name: Forward(shown.function, drawn(shown.shapes(*SMALL))) for name, shown in SHOWN.items()},
    **layers.FORWARDS,
    **sequences.FORWARDS,
    **losses.FORWARDS,
    **numerics.FORWARDS,
}
