"""Imports point one way: the table of rooms in docs/architecture.md says who may import whom, and the code keeps to it.

Every import counts, also one inside a function or under TYPE_CHECKING: what a room needs late, it needs all the same.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rooms():
    """{room: (its files and folders, rooms it may import)} from the table that begins with "| room |"."""
    table = re.search(r"^\| room \|.*?\n\|[-| ]+\|\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    assert table, "docs/architecture.md has no table that begins with | room |"
    rows = {}
    for line in table[1].splitlines():
        name, places, imports, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
        may_import = set(re.findall(r"[\w]+", imports)) - {"nothing"}
        rows[name.strip("`")] = (re.findall(r"`([\w/.]+)`", places), may_import)
    return rows


ROOMS = rooms()


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted((ROOT / "jaxbias").rglob("*.py"))}


def room_of(module):
    """The room of a module: the longest place that holds it."""
    path = module.removeprefix("jaxbias.").replace(".", "/") if module != "jaxbias" else "__init__"
    matches = [
        (len(place), room)
        for room, (places, _) in ROOMS.items()
        for place in places
        if path == place.removesuffix(".py") or (place.endswith("/") and f"{path}/".startswith(place))
    ]
    return max(matches)[1] if matches else None


def imported(path, module):
    """(line, dotted name) of every import of this package in a file; `from a import b` is a.b."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.partition(".")[0] == "jaxbias")


def existing(name):
    """The module that a dotted name lies in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def broken_arrows():
    for module, path in MODULES.items():
        room = room_of(module)
        for line, name in imported(path, module):
            target = existing(name)
            if room != "public" and room_of(target) not in {room, *ROOMS[room][1]}:
                yield f"{path.relative_to(ROOT)}:{line} ({room}) imports {name} ({room_of(target)})"


def test_every_file_has_a_room():
    homeless = [module for module in MODULES if room_of(module) is None]
    assert not homeless, f"name these in the table of docs/architecture.md: {homeless}"
    gone = [place for places, _ in ROOMS.values() for place in places if not (ROOT / "jaxbias" / place).exists()]
    assert not gone, f"docs/architecture.md names what is not there: {gone}"
    assert all(imports <= ROOMS.keys() for _, imports in ROOMS.values())


def test_imports_point_one_way():
    wrong = list(broken_arrows())
    assert not wrong, "\n".join(wrong)


def test_no_room_is_reached_from_below_it():
    """The table itself has no circle."""
    above = {}

    def visit(room, way):
        assert room not in way, " → ".join([*way, room])
        if room not in above:
            above[room] = [visit(other, (*way, room)) for other in ROOMS[room][1]]
        return above[room]

    for room in ROOMS:
        visit(room, ())


def private_names(path):
    """What a file takes of jaxbias that is not public: a module or a name with a leading underscore, or the program."""
    for line, name in imported(path, ""):
        if any(part.startswith("_") for part in name.split(".")) or name.startswith("jaxbias.app"):
            yield f"{path.relative_to(ROOT)}:{line}: {name}"


@pytest.mark.parametrize("folder", ["benchmarks"])
def test_programs_beside_the_library_use_public_names_only(folder):
    wrong = [entry for path in sorted((ROOT / folder).rglob("*.py")) for entry in private_names(path)]
    assert not wrong, "\n".join(wrong)


def test_the_reader_of_imports_sees_them_all(tmp_path):
    """The check can fail: late, relative and aliased imports are found."""
    file = tmp_path / "file.py"
    file.write_text(
        "import jaxbias.layers.dense as d\nfrom . import losses\nfrom .verify.report import Report as R\n"
        "def late():\n    from jaxbias import _trees\n    import os\n"
    )
    assert [name for _, name in imported(file, "jaxbias.grads")] == [
        "jaxbias.layers.dense",
        "jaxbias.losses",
        "jaxbias.verify.report.Report",
        "jaxbias._trees",
    ]
    assert existing("jaxbias.layers.dense.forward") == "jaxbias.layers.dense"


VAGUE = {"found", "each", "one", "what"}
"""Names that say nothing of a value (docs/architecture.md, "Words")."""


def vague_names(path):
    """(line, name) of every variable, parameter, attribute and function that a file gives such a name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                pass
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
                pass
            case ast.MatchMapping(rest=name) | ast.alias(asname=name):
                pass
            case _:
                continue
        if name in VAGUE:
            yield getattr(node, "lineno", 0), name


def test_values_are_called_what_they_are():
    files = [path for path in sorted((ROOT / "jaxbias").rglob("*.py*")) if path.suffix in {".py", ".pyi"}]
    wrong = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in files for line, name in vague_names(path)]
    assert not wrong, "call it what it is, by the field's word:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "code",
    [
        "found = 1",
        "for each in (): pass",
        "[one for one in ()]",
        "lambda what: 0",
        "def f(*, found): pass",
        "def f(*one): pass",
        "def one(): pass",
        "a, (b, *found) = c",
        "self.what = 1",
        "what: int = 1",
        "if (found := f()): pass",
        "with f() as one: pass",
        "try: pass\nexcept E as found: pass",
        "import os as one",
        "match x:\n    case [*found]: pass",
        "match x:\n    case {'a': 1, **found}: pass",
        "match x:\n    case int() as one: pass",
    ],
)
def test_the_reader_of_names_sees_them_all(code, tmp_path):
    file = tmp_path / "file.py"
    file.write_text(code)
    assert [name for _, name in vague_names(file) if name in VAGUE]
