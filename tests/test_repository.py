"""What the repository says about itself in several places agrees, and its links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import jaxbias as jb

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "README.md"])
PYTHONS = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: \d\.\d+$", text)]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def oldest(package):
    (specifier,) = next(Requirement(text) for text in PROJECT["dependencies"] if text.startswith(package)).specifier
    return specifier.version


def test_the_version_is_the_same_everywhere():
    assert re.search(rf"^version: {jb.__version__}$", read("CITATION.cff"), re.MULTILINE)
    assert re.search(r"^## \[([\d.]+)\]", read("CHANGELOG.md"), re.MULTILINE)[1] == jb.__version__


@pytest.mark.parametrize("path", ["CITATION.cff", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml",
                                  ".github/ISSUE_TEMPLATE/config.yml"])  # fmt: skip
def test_the_address_is_the_same_everywhere(path):
    owner_and_name = ADDRESS.removeprefix("https://github.com/")
    addresses = re.findall(r"https://(?:github|raw\.githubusercontent)\.com/([\w.-]+/[\w.-]+)", read(path))
    assert set(addresses) == {owner_and_name}, f"{path}: {addresses}; it stands in pyproject.toml, project.urls"


def test_supported_versions_are_the_same_everywhere():
    first, last = PYTHONS[0], PYTHONS[-1]
    assert PROJECT["requires-python"] == f">={first}"
    readme = read("README.md")
    assert f"Python ({first} to {last})" in readme
    assert f"python-{first}%20to%20{last}-" in readme and f"jax-%E2%89%A5%20{oldest('jax')}-" in readme  # badges
    assert f"license-{PROJECT['license'].replace('-', '--')}-" in readme
    workflow, script = read(".github/workflows/tests.yml"), read(".ci/run")
    pinned = {f"{oldest('jax')}.0"}
    assert set(re.findall(r"\bjax==(\S+?)[\s\"']", workflow)) == set(re.findall(r"\bjax==(\S+)", script)) == pinned
    claimed = re.findall(r'\{name: [^}]*python: "([\d.]+)"(?![^}]*not-claimed)', workflow)
    assert [min(claimed, key=PYTHONS.index), max(claimed, key=PYTHONS.index)] == [first, last]
    assert f"find_python {' '.join(PYTHONS)})" in script


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#") for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    broken = [path for path, _, _ in targets if path and not (page.parent / path).exists()]
    assert not broken
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)
    }
    assert not [anchor for path, _, anchor in targets if not path and anchor not in headings]


def test_what_a_page_names_in_code_is_there():
    """Files that CONTRIBUTING.md and the architecture send their reader to."""
    for page in ("CONTRIBUTING.md", "docs/architecture.md", "SECURITY.md"):
        paths = re.findall(
            r"`((?:jaxbias|tests|benchmarks|docs|\.ci|\.github)/[\w./]+|[A-Z]+\.(?:md|cff))`", read(page)
        )
        examples = ("jaxbias/layers/scaled_tanh.py", "tests/layers/test_scaled_tanh.py")
        missing = [path for path in paths if path not in examples and not (ROOT / path).exists()]
        assert not missing, f"{page} names {missing}"
