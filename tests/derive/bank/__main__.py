"""Derive forwards of the bank: how many are written, how long each takes, what is kept.

`python -m tests.derive.bank [PART or NAME …]`, where a part is a file of this folder.
"""

import importlib
import sys
import time

import jax

import jaxbias as jb
from tests.derive.bank import FORWARDS
from tests.derive.bank.forward import Forward

MOST_SECONDS = 5.0
"""Of one processor, from nothing compiled."""


PARTS = ("layers", "sequences", "losses", "numerics", "libraries", "unseen", "research", "further")
BANKS = ("FORWARDS", "TRIED", "KEPT_ASIDE", "FURTHER")


def chosen(words: list[str]) -> dict[str, Forward]:
    """The forwards of these parts or of these names; the whole bank without any."""
    parts = {}
    for part in PARTS:
        module = importlib.import_module(f"tests.derive.bank.{part}")
        parts[part] = {k: f for name in BANKS for k, f in getattr(module, name, {}).items()}
    known = dict(FORWARDS)
    for forwards in parts.values():
        known |= forwards
    bank = {} if words else dict(FORWARDS)
    for word in words:
        bank |= parts[word] if word in parts else {word: known[word]}
    return bank


if __name__ == "__main__":
    bank, written, slow = chosen(sys.argv[1:]), 0, []
    for name, (function, args) in bank.items():
        jax.clear_caches()
        began = time.process_time()
        kept = ""
        try:
            derived = jb.derive(function, args)
            left = derived.unwritten
            kept = f"{derived.residual_bytes} / {derived.autodiff_bytes} bytes"
        except (jb.NotDerived, TypeError) as error:
            left = (str(error).splitlines()[0],)
        seconds = time.process_time() - began
        written += not left
        if seconds > MOST_SECONDS:
            slow.append(name)
        print(f"{name:40} {seconds:5.1f} s  {kept:24} {'; '.join(left) or 'written'}", flush=True)
    print(f"{written} of {len(bank)} written; over {MOST_SECONDS:g} s: {', '.join(slow) or 'none'}")
