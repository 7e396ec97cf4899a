"""What is added to one list must stand in the others too: each test says by name what is missing, and where it goes."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import jaxbias as jb
from docs import __main__ as docs
from jaxbias import selfcheck
from jaxbias.app import spec
from jaxbias.layers import activations
from jaxbias.params import Layer

ROOT = Path(__file__).parents[1]
DERIVATIONS = selfcheck.layer_derivations() | selfcheck.loss_derivations()


def modules(folder):
    """Names of the public modules in a folder."""
    return {path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")}


def imported_by(package):
    """Names that a package imports, read from its file: once any test has imported a module, its package holds it."""
    folder = ROOT / package
    path = folder if folder.suffix else next(p for p in (folder / "__init__.pyi", folder / "__init__.py") if p.exists())
    nodes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def missing(wanted, present):
    return ", ".join(sorted(set(wanted) - set(present)))


@pytest.mark.parametrize("package", [jb.layers, jb.losses], ids=["layers", "losses"])
def test_a_module_is_imported_by_its_package(package):
    folder = f"jaxbias/{package.__name__.rpartition('.')[2]}"
    forgotten = missing(modules(folder), imported_by(folder))
    assert not forgotten, f"add `from . import …` to {folder}/__init__.py: {forgotten}"
    hidden = missing(modules(folder), package.__all__)
    assert not hidden, f"add to __all__ in {folder}/__init__.py: {hidden}"
    silent = [name for name in sorted(modules(folder)) if not getattr(getattr(package, name), "DERIVATIONS", ())]
    assert not silent, f"nothing is checked without DERIVATIONS at the end of {folder}/…: {', '.join(silent)}"


def test_an_activation_is_exported():
    layers = (name for name, value in vars(activations).items() if isinstance(value, Layer))
    forgotten = missing(layers, imported_by("jaxbias/layers"))
    assert not forgotten, f"add `from .activations import …` to jaxbias/layers/__init__.py: {forgotten}"


def test_a_derivation_has_the_name_of_its_module_or_activation():
    """`jaxbias check NAME`, the tables and the messages all call it so."""
    modules_of = {**vars(jb.layers), **vars(jb.losses)}
    assert not missing(DERIVATIONS, modules_of), missing(DERIVATIONS, modules_of)


def test_docs_show_every_derivation():
    page = docs.PAGE.read_text(encoding="utf-8")
    shown = docs.errors_shown(page)
    assert not missing(DERIVATIONS, shown), f"`python -m docs` adds to docs/layers.md: {missing(DERIVATIONS, shown)}"
    assert not missing(shown, DERIVATIONS), f"docs/layers.md shows what is not there: {missing(shown, DERIVATIONS)}"
    assert page == docs.page(shown), "docs/layers.md is not what the modules say: run `python -m docs`"


def test_readme_names_every_layer_and_loss():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Layers and losses\n(.*?)^## ", readme, flags=re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section `## Layers and losses`"
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^- .*(?:\n  .*)*", section[1], flags=re.MULTILINE)))
    assert not missing(DERIVATIONS, listed), f"name in README.md, Layers and losses: {missing(DERIVATIONS, listed)}"
    assert not missing(listed, DERIVATIONS), f"README.md names what is not there: {missing(listed, DERIVATIONS)}"


def test_a_layer_is_written_as_text_or_said_why_not():
    written = {*spec.NAMES, "reshape" if "flatten" in spec.NAMES else ""}
    layers = selfcheck.layer_derivations()
    forgotten = missing(layers, written | spec.NOT_WRITTEN.keys())
    assert not forgotten, f"add to _BUILDERS, or with a reason to NOT_WRITTEN, in jaxbias/app/spec.py: {forgotten}"
    assert not spec.NOT_WRITTEN.keys() & written and spec.NOT_WRITTEN.keys() <= layers.keys()


def test_a_module_with_claims_is_imported_by_claims():
    """A claim registers itself when its module is imported."""
    registering = {
        path.stem
        for path in (ROOT / "jaxbias/claims").glob("*.py")
        if not path.stem.startswith("_") and re.search(r"^@claim\(|^\s*claim\(", path.read_text(encoding="utf-8"), re.M)
    }
    assert registering
    forgotten = missing(registering, imported_by("jaxbias/claims"))
    assert not forgotten, f"add `from . import …` to jaxbias/claims/__init__.py: {forgotten}"


def test_planted_rules_are_imported():
    """A rule to plant mistakes in registers itself when its module is imported."""
    folder = "jaxbias/selfcheck/planted"
    rules = (name for name in modules(folder) if name.startswith("rules_"))
    forgotten = missing(rules, imported_by(f"{folder}/rules.py"))
    assert not forgotten, f"import in jaxbias/selfcheck/planted/rules.py: {forgotten}"


def starts_with_key_and_shape(function):
    try:
        return list(inspect.signature(function).parameters)[:2] == ["key", "shape"]
    except ValueError:  # a class of typing has no signature
        return False


def test_an_initializer_has_a_name():
    """Every function `(key, shape, dtype)`; one that makes such a function is called instead, as `positive(v)`."""
    public = {name: value for name, value in vars(jb.initializers).items() if name[0] != "_" and callable(value)}
    draws = (name for name, value in public.items() if starts_with_key_and_shape(value))
    unnamed = missing(draws, jb.initializers.NAMES)
    assert not unnamed, f"add to NAMES in jaxbias/initializers/__init__.py: {unnamed}"
    table = jb.initializers.__doc__ or ""
    kinds = {name: re.sub(r"^(xavier|glorot|he|kaiming|lecun)_.*", r"\1_", name) for name in jb.initializers.NAMES}
    undescribed = [name for name, kind in kinds.items() if not re.search(rf"\b{kind}", table)]
    assert not undescribed, f"add to the table in jaxbias/initializers/__init__.py: {', '.join(undescribed)}"


def test_a_benchmark_suite_has_its_module_and_a_module_its_suite():
    from benchmarks.__main__ import MODULES, SUITES

    names = {MODULES.get(suite, f"bench_{suite}") for suite in SUITES}
    present = {name for name in modules("benchmarks") if name.startswith("bench_")}
    assert not missing(present, names), f"name in SUITES of benchmarks/__main__.py: {missing(present, names)}"
    assert not missing(names, present), f"benchmarks/ lacks {missing(names, present)}"


@pytest.mark.parametrize("folder", ["layers", "losses"])
def test_a_layer_or_loss_has_tests(folder):
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / folder).glob("test_*.py"))
    untested = missing(modules(f"jaxbias/{folder}"), re.findall(r"\w+", texts))
    assert not untested, f"tests/{folder}/ has no test_….py for {untested}"
