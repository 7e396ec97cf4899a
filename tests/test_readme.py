"""Every code block of the README runs, as a reader would run it: in a process of its own, with JAX as it comes.

Python blocks are run, commands after `$ ` in console blocks too; a text block is what the block before it prints, to
the letter but for the digits of rounding errors. The two bash blocks install into a new virtual environment: `.ci/run`
runs them, taken from the README by their marker.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxbias.selfcheck import derivations as check

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
RUNNABLE = [
    pytest.param(
        language,
        text,
        BLOCKS[i + 1][1] if i + 1 < len(BLOCKS) and BLOCKS[i + 1][0] == "text" else None,
        id=f"{language}-{i}",
    )
    for i, (language, text) in enumerate(BLOCKS)
    if language in ("python", "console")
]


def run(command, folder):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XLA_", "JAX_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "text", "printed"), RUNNABLE)
def test_block_runs_and_prints_what_the_readme_shows(language, text, printed, tmp_path):
    if language == "python":
        (tmp_path / "block.py").write_text(text, encoding="utf-8")
        output = run([sys.executable, "block.py"], tmp_path)
    else:
        commands = re.findall(r"^\$ jaxbias (.*)$", text, flags=re.MULTILINE)
        assert commands, f"a console block without a command: {text}"
        output = "".join(run([sys.executable, "-m", "jaxbias", *shlex.split(each)], tmp_path) for each in commands)
    if printed is not None:
        assert without_rounding(output) == without_rounding(printed)


def without_rounding(text):
    """The lines of a text, its rounding errors (1.2e-16) alike: their digits differ between machines."""
    return [re.sub(r"\d(\.\d+)?e-\d+", "tiny", line).rstrip() for line in text.splitlines()]


def test_no_block_escapes():
    """A block is run here, or it is the output of the one before, or it is one of the two that CI runs."""
    languages = [language for language, _ in BLOCKS]
    assert set(languages) <= {"python", "console", "text", "bash"}
    assert languages.count("bash") == 2
    assert all(before != "text" for before, now in itertools.pairwise(languages) if now == "text")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for marker in ("report", "tests"):
        assert re.search(rf"^<!-- {marker} -->\n```bash\n[^\n]+\n```$", README, flags=re.MULTILINE)
        assert f"readme_command {marker}" in script


def bound(error):
    """The smallest power of ten that is not below the error; it stands on every machine where the error does not."""
    return "exact" if error == 0 else next(f"1e-{n}" for n in range(20, 0, -1) if error <= 10.0**-n)


def table(derivations, errors):
    rows = []
    for derivation in derivations.values():
        formulas = "<br>".join(f"${formula}$".replace("|", r"\vert ") for formula in derivation.formulas)
        source = derivation.source.replace("derivation sheet", "sheet")
        rows.append(f"| `{derivation.name}` | {formulas} | {source} | {errors[derivation.name]} |")
    return rows


@pytest.mark.slow
def test_table_shows_every_derivation_and_the_error_it_is_checked_to():
    """Names, formulas and sources are those of the code; the errors stand in the README and are measured here."""
    derivations = check.layer_derivations() | check.loss_derivations()
    shown = dict(re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", README, flags=re.MULTILINE))
    assert [line for line in README.splitlines() if line.startswith("| `")] == table(derivations, shown)
    for found in check.check_all(dtypes=["float64"]):
        worst = max(leaf.error if leaf.error == leaf.error else 1.0 for leaf in found.leaves)
        limit = 0.0 if shown[found.derivation.name] == "exact" else float(shown[found.derivation.name])
        assert worst <= limit, f"{found.derivation.name}: {bound(worst)}"
