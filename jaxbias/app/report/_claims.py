"""The claims as a section of the report page: each with its two verdicts, what was measured, and its figures."""

import html
from collections import Counter
from collections.abc import Callable, Sequence

from jaxbias.app.report._pictures import themed
from jaxbias.app.report._sources import linked
from jaxbias.claims import ARTICLES, CONDITIONAL, HOLDS, REFUTED, Result, articles_of, gallery, grouped

QUICK_CLAIMS = ("A0.11", "A0.13", "A0.14", "A3.3", "A4.4", "A4.5", "A4.6", "A4.7", "A4.8", "A4.10")
"""The claims that every report runs: a few seconds in all. `jaxbias report --claims` runs them all."""

_e = html.escape


def claims_section(results: Sequence[Result], drawn: Callable[[str], None] = lambda name: None) -> str:
    """The section as HTML; the page's own style sheet dresses it.

    Args:
        drawn: called with the name of each figure before it is drawn.
    """
    if not results:
        return ""
    shown = sum(result.passed for result in results)
    lead = (
        "What public articles say of weights and biases, and what holds: two statements, each with a verdict of its "
        f"own. {shown} of {len(results)} of what holds are shown by an experiment, in float64 on the CPU; under each "
        "stands what was measured and what that had to be."
    )
    parts = [f"<h2>Claims</h2>\n<p>{lead}</p>\n{_summary(results)}"]
    for result in results:
        parts.append(_claim(result))
        for name in gallery.UNDER.get(result.claim.number, ()):
            drawn(name)
            picture = themed(gallery.svg(gallery.FIGURES[name]), name, alt=name.replace("-", " "))
            parts.append(f'<figure class="drawing">{picture}</figure>\n')
    return "".join(parts)


def _summary(results: Sequence[Result]) -> str:
    rows = []
    for group in grouped(results):
        count = Counter(result.source_verdict for result in group.results)
        cells = "".join(f'<td class="number">{count[v] or ""}</td>' for v in (HOLDS, CONDITIONAL, REFUTED))
        shown = sum(result.passed for result in group.results)
        rows.append(
            f'<tr><td>{_e(group.title)}</td><td class="number">{shown} of {len(group.results)}</td>{cells}</tr>'
        )
    cited = {article for result in results for article in articles_of(result.claim.number)}
    links = "<br>".join(
        f'Article {a.number}: <a href="{_e(a.address)}">{_e(a.title)}</a>, {_e(a.site)}' for a in ARTICLES if a in cited
    )
    head = "".join(f'<th class="number">{title}</th>' for title in ("Shown", "Holds", "Under a condition", "Refuted"))
    return (
        '<div class="scroll"><table><thead><tr><th>What holds, and the source\'s version of it</th>'
        f'{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n<p class="note">{links}</p>\n'
    )


def _claim(result: Result) -> str:
    claim = result.claim
    articles = articles_of(claim.number)
    source = "The article" if articles else "The source"
    named = ", ".join(f'<a href="{_e(a.address)}">article {a.number}</a>' for a in articles) or linked(claim.source)
    cited = "; ".join(text for text in (named, _e(claim.cited_equation)) if text)
    sides = [_side("What holds", result.verdict, claim.statement)]
    if result.source_verdict:
        sides.insert(0, _side(source, result.source_verdict, claim.article or "The same."))
    rows = "".join(
        f"<tr><td>{_e(finding.name)}</td><td>{_e(finding.measured)}{'' if finding.passed else ' ✗'}</td>"
        f"<td>{_e(finding.expected)}</td></tr>"
        for finding in result.findings
    )
    table = (
        '<div class="scroll"><table class="findings"><thead><tr><th>Quantity</th><th>Measured</th><th>Expected</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>\n"
    )
    error = f'<p class="bad">{_e(result.error)}</p>\n' if result.error else ""
    return (
        f'<section class="claim"><h3>{_e(claim.number)} <span class="note">{cited}</span></h3>\n'
        f'<div class="verdicts">{"".join(sides)}</div>\n{error}{table if rows else ""}</section>\n'
    )


def _side(name: str, verdict: str, statement: str) -> str:
    tone = {"shown": "good", HOLDS: "good", REFUTED: "bad", "FAILED": "bad", "undecided": "bad"}.get(verdict, "warn")
    return f'<div><p class="note">{name}: <span class="{tone}">{_e(verdict)}</span></p><p>{_e(statement)}</p></div>'
