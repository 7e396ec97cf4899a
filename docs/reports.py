"""Write docs/reports.md, ten reports of `jb.verify` as they are printed: `python -m docs.reports`."""

import inspect
import re
from pathlib import Path

from docs.rules import SHOWN
from jaxbias import verify

PAGE = Path(__file__).with_name("reports.md")
HEAD = """\
# Ten reports, as they are printed

<!-- This page is written by `python -m docs.reports`: change the rules of `docs/rules.py`, then run it. -->

Each forward and each rule stands as its author wrote it, below them what
`print(jb.verify.explain(forward, rule, args))` prints; `jb.verify.vjp` says the same, but lists the lines of wrong
rules alone. A rule gets the arguments and the cotangent of the output, and gives the gradients.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for title, says, forward, rule, args in SHOWN:
        functions = [f for f in (forward, rule) if f.__module__ == rule.__module__]
        source = "\n\n\n".join(inspect.getsource(f).rstrip() for f in functions)
        shown = re.sub(r", \d+\.\d s", "", str(verify.explain(forward, rule, args)))
        told = f"{says}\n\n" if says else ""
        parts.append(f"\n## {title}\n\n{told}```python\n{source}\n```\n\n```text\n{shown.rstrip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
