"""Wrong rules that are right ones with some lines changed, written as one writes a patch."""

import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from tests.verify.slips import Mistake, Slip

Rule = Callable[[Any, Any], tuple]


def wrong_rules(forward: Callable[..., Any], right: Rule, draw: Callable[[Any], tuple], rules: str) -> Iterator[Slip]:
    """Rules that the right one becomes by changes of its source.

    Args:
        rules: of each its name, the lines taken out behind `-` and those put in behind `+`, and for every mistake
            "family: what is wrong", with its places behind `@` unless that is the last line put in; a blank line
            between two rules.
    """
    for text in textwrap.dedent(rules).strip().split("\n\n"):
        name, *rows = text.splitlines()
        changes: list[tuple[list[str], list[str]]] = []
        mistakes: list[tuple[str, list[str]]] = []
        for before, row in zip([name, *rows], rows):
            mark, said = row[0], row[2:]
            if mark == "-" and before[0] != "-":
                changes.append(([], []))
            if mark in "-+":
                changes[-1]["-+".index(mark)].append(said)
            elif mark == "@":
                mistakes[-1][1].append(said)
            else:
                mistakes.append((row, []))
        last = changes[-1][1][-1].strip()
        parts = [Mistake(tuple(places or [last]), *said.split(": ", 1)[::-1]) for said, places in mistakes]
        yield Slip(name, forward, changed(right, name, changes), draw, *zip(*parts), right)


def changed(right: Rule, name: str, changes: list[tuple[list[str], list[str]]]) -> Rule:
    """The rule of this name, whose source can be read as that of any function."""
    source = inspect.getsource(right)
    for lines in changes:
        old, new = map("\n".join, lines)
        before, found, after = source.partition(old)
        assert found and old not in after, f"{name}: {old!r} does not stand there once"
        source = before + new + after
    source = source.replace(f"def {right.__name__}(", f"def {name}(", 1)
    file = f"{inspect.getfile(right).removesuffix('.py')}.{name}.py"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    space = dict(right.__globals__)
    exec(compile(source, file, "exec"), space)
    return space[name]
