"""The claims as a section of the report page: each with its verdict, what was measured, and its figures."""

import base64
import html
from collections.abc import Callable, Sequence

from jaxbias.claims import gallery
from jaxbias.claims._run import Result

QUICK = ("A0.11", "A0.13", "A0.14", "A3.3", "A4.4", "A4.5", "A4.6", "A4.7", "A4.8", "A4.10")
"""The claims that every report runs: a few seconds in all. `jaxbias report --claims` runs them all."""

_e = html.escape


def section(results: Sequence[Result], drawn: Callable[[str], None] = lambda name: None) -> str:
    """The section as HTML; the page's own style sheet dresses it.

    Args:
        drawn: called with the name of each figure before it is drawn.
    """
    if not results:
        return ""
    held = sum(result.passed for result in results)
    lead = (
        f"{held} of {len(results)} checks pass, each in float64 on the CPU. The verdict is on the statement as its "
        "source makes it; below it stands what was measured and what that had to be."
    )
    parts = [f"<h2>Claims</h2>\n<p>{lead}</p>\n"]
    for result in results:
        parts.append(_claim(result))
        for name in gallery.UNDER.get(result.claim.number, ()):
            drawn(name)
            image = base64.b64encode(gallery.svg(gallery.FIGURES[name]).encode()).decode()
            words = _e(name.replace("-", " "))
            parts.append(
                f'<figure><img alt="{words}" src="data:image/svg+xml;base64,{image}" '
                'style="width:100%;max-width:820px;background:#fff;border-radius:8px"></figure>\n'
            )
    return "".join(parts)


def _claim(result: Result) -> str:
    claim = result.claim
    tone = "good" if result.passed else "bad"
    said = f'<p class="note">The source says: {_e(claim.article)}</p>' if claim.article else ""
    cited = ". ".join(each for each in (claim.equation, claim.source) if each)
    note = f'<p class="note">{_e(cited)}</p>' if cited else ""
    rows = "".join(
        f"<tr><td>{_e(each.name)}</td><td>{_e(each.measured)}{'' if each.passed else ' ✗'}</td>"
        f"<td>{_e(each.expected)}</td></tr>"
        for each in result.findings
    )
    error = f'<p class="bad">{_e(result.error)}</p>' if result.error else ""
    return (
        f'<h3>{_e(claim.number)} · <span class="{tone}">{_e(result.verdict)}</span></h3>\n'
        f"<p>{_e(claim.statement)}</p>\n"
        f"{said}{note}{error}"
        '<div class="scroll"><table><thead><tr><th>Quantity</th><th>Measured</th><th>Expected</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )
