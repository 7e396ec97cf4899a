"""Results of the claims in the terminal: a summary that fits 80 columns, and each claim with its two verdicts."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxbias.claims import ARTICLES, CONDITIONAL, HOLDS, REFUTED, Result, articles_of, grouped

_STYLES = {
    HOLDS: "green", CONDITIONAL: "yellow", REFUTED: "magenta",
    "shown": "green", "FAILED": "bold red", "undecided": "bold red",
}  # fmt: skip


def summary(results: Sequence[Result]) -> Iterator[RenderableType]:
    """How many statements were shown and what became of each source's version, in a table; the articles' addresses."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, padding=(0, 2, 0, 0))
    table.add_column("what holds, and the source's version of it:", overflow="fold")
    for title in ("shown", "holds", "under a\ncondition", "refuted"):
        table.add_column(title, justify="right", no_wrap=True)
    for group in grouped(results):
        shown = sum(result.passed for result in group.results)
        count = Counter(result.source_verdict for result in group.results)
        verdicts = [str(count[verdict] or "") for verdict in (HOLDS, CONDITIONAL, REFUTED)]
        table.add_row(group.title, f"{shown} of {len(group.results)}", *verdicts)
    yield table
    cited = {article for result in results for article in articles_of(result.claim.number)}
    yield "\n".join(["", *(f"{a.number}  {a.site}: {a.address}" for a in ARTICLES if a in cited)])


def show(console: Console, results: Sequence[Result], *, every: bool) -> None:
    """Print the summary, then every claim or those that failed, and the outcome last."""
    for part in summary(results):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))  # an address is never cut in two
    told = [result for result in results if every or not result.passed]
    for result in told:
        for part in details(result):
            console.print(part, highlight=False)
    console.print(f"\n{total(results)}", highlight=False)
    if len(told) < len(results):
        console.print("What is refuted, beside what holds: jaxbias claims E", highlight=False)
        console.print("Every claim with what was measured: jaxbias claims --all", highlight=False)


def total(results: Sequence[Result]) -> str:
    """The outcome in one line."""
    failed = [result.claim.number for result in results if not result.passed]
    text = f"{len(results) - len(failed)} of {len(results)} statements shown"
    return text + (f"; FAILED: {', '.join(failed)}" if failed else "")


def details(result: Result) -> Iterator[RenderableType]:
    """One claim: the source's version and what holds, side by side, each with its verdict; then what was measured."""
    claim = result.claim
    articles = articles_of(claim.number)
    source = "the article" if articles else "the source"
    named = ", ".join(f"article {article.number}" for article in articles) or claim.source
    cited = "; ".join(text for text in (named, claim.cited_equation) if text)
    yield Text.assemble(("\n" + claim.number, "bold"), ("  " + cited, "dim"))

    sides = [Text.assemble("what holds: ", (result.verdict, _STYLES[result.verdict]), f"\n{claim.statement}")]
    if result.source_verdict:
        verdict = (result.source_verdict, _STYLES[result.source_verdict])
        sides.insert(0, Text.assemble(f"{source}: ", verdict, f"\n{claim.article or 'The same.'}"))
    beside = Table.grid(padding=(0, 2), expand=True)
    halves = 1 if claim.article or len(sides) == 1 else None
    for _ in sides:
        beside.add_column(ratio=halves, overflow="fold")
    beside.add_row(*sides)
    yield Padding(beside, (0, 0, 0, 2))

    findings = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title, ratio in (("quantity", 5), ("measured", 4), ("expected", 3)):
        findings.add_column(title, ratio=ratio, overflow="fold")
    for finding in result.findings:
        measured = Text(finding.measured) if finding.passed else Text(f"{finding.measured} ✗", _STYLES["FAILED"])
        findings.add_row(Text(finding.name), measured, Text(finding.expected))
    yield Padding(findings if result.findings else Text(result.error, _STYLES["FAILED"]), (0, 0, 0, 2))
