"""Every code block of the README runs, as a reader would run it: in a process of its own, with JAX as it comes.

Python blocks are run, commands after `$ ` in console blocks too; a text block is what the block before it prints, to
the letter but for the digits of rounding errors. The bash blocks install into new virtual environments: `.ci/run` runs
them, taken from the README by their marker.

A block sees the packages that the README has told its reader to install, and no other: those of the library, the
`[cli]` extra for a console block, and what a line of its section names as `pip install …`. Here the others are hidden;
with README_PYTHON, an interpreter into which the library was installed as the README says, blocks run there.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from docs import __main__ as docs
from jaxbias import selfcheck

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHON = os.environ.get("README_PYTHON")
MATCHES = list(re.finditer(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL))
BLOCKS = [match.groups() for match in MATCHES]


def named_before(position):
    """Packages that the block's section tells its reader to install, before the block."""
    section = README[README.rfind("\n## ", 0, position) : position]
    return re.findall(r"`pip install (\w+)`", section)


RUNNABLE = [
    pytest.param(
        match[1],
        match[2],
        BLOCKS[i + 1][1] if i + 1 < len(BLOCKS) and BLOCKS[i + 1][0] == "text" else None,
        named_before(match.start()),
        id="-".join([match[1], str(i), *named_before(match.start())]),
        marks=pytest.mark.slow,  # CI runs them in the install that README names
    )
    for i, match in enumerate(MATCHES)
    if match[1] in ("python", "console")
]


def with_dependencies(requirements):
    """Names of the distributions that installing these brings, as pip resolves them here."""
    names, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        key = (requirement.name.lower().replace("_", "-"), *sorted(requirement.extras))
        if key in names:
            continue
        names.add(key)
        environments = [{"extra": extra} for extra in (requirement.extras or {""})]
        more = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
        waiting += [r for r in more if r.marker is None or any(r.marker.evaluate(e) for e in environments)]
    return {name for name, *_ in names}


HIDING = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}: the README names no install that has it", name=name)


sys.meta_path.insert(0, Hidden())
"""


def hide_others(folder, requirements):
    """A start-up file after which only what these requirements bring can be imported."""
    installed = with_dependencies(requirements) | {"jaxbias"}
    hidden = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not {name.lower().replace("_", "-") for name in distributions} & installed
    }
    (folder / "sitecustomize.py").write_text(HIDING.format(names=sorted(hidden)), encoding="utf-8")


def run(command, folder):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XLA_", "JAX_", "PYTHON"))}
    environment |= {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
    if not PYTHON:
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{folder}"
    done = subprocess.run(
        [PYTHON or sys.executable, *command], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "text", "printed", "named"), RUNNABLE)
def test_block_runs_and_prints_what_the_readme_shows(language, text, printed, named, tmp_path):
    if not PYTHON:
        extra = PROJECT["optional-dependencies"]["cli"] if language == "console" else []
        hide_others(tmp_path, [*PROJECT["dependencies"], *extra, *named])
    if language == "python":
        (tmp_path / "block.py").write_text(text, encoding="utf-8")
        output = run(["block.py"], tmp_path)
    else:
        commands = re.findall(r"^\$ jaxbias (.*)$", text, flags=re.MULTILINE)
        assert commands, f"a console block without a command: {text}"
        output = "".join(run(["-m", "jaxbias", *shlex.split(command)], tmp_path) for command in commands)
    if printed is not None:
        assert without_rounding(output) == without_rounding(printed)


def without_rounding(text):
    """The lines of a text, its rounding errors (1.2e-16) alike: their digits differ between machines."""
    return [re.sub(r"\d(\.\d+)?e-\d+", "tiny", line).rstrip() for line in text.splitlines()]


def test_a_package_that_the_readme_does_not_name_is_hidden(tmp_path):
    hide_others(tmp_path, PROJECT["dependencies"])
    (tmp_path / "block.py").write_text("import jax, optax\nimport flax\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="No module named 'flax'"):
        run(["block.py"], tmp_path)


def test_no_block_escapes():
    """A block is run here, or it is the output of the one before, or it is one of those that CI runs."""
    languages = [language for language, _ in BLOCKS]
    assert set(languages) <= {"python", "console", "text", "bash"}
    assert all(before != "text" for before, now in itertools.pairwise(languages) if now == "text")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    markers = re.findall(r"^<!-- (\w+) -->\n```bash\n[^\n]+\n```$", README, flags=re.MULTILINE)
    assert len(markers) == languages.count("bash") == 3
    assert not [marker for marker in markers if f"as_newcomer {marker} " not in script]


@pytest.mark.slow
def test_no_derivation_is_less_exact_than_its_row_says():
    """The errors stand in docs/layers.md and are measured here."""
    shown = docs.errors_shown(docs.PAGE.read_text(encoding="utf-8"))
    for check in selfcheck.check_all(dtypes=["float64"]):
        name = check.derivation.name
        worst = max(leaf.error if leaf.error == leaf.error else 1.0 for leaf in check.leaves)
        limit = 0.0 if shown[name] == "exact" else float(shown[name])
        assert worst <= limit, f"docs/layers.md shows {shown[name]} of {name}, measured {docs.bound(worst)}"
