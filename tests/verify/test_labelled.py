"""Rules whose verdict is certain: every one is judged so."""

import importlib
import os
import pkgutil

import jax
import pytest

from jaxbias import verify
from tests.verify import labelled

MODULES = [info.name for info in pkgutil.iter_modules(labelled.__path__)]
SAMPLE = [name for name in MODULES if name.endswith("_more")]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES if "JAXBIAS_WHOLE_SWEEPS" in os.environ else SAMPLE)
@pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
def test_every_verdict_is_that_of_the_label(name):
    """Half of them; with JAXBIAS_WHOLE_SWEEPS=1 all."""
    cases = importlib.import_module(f"{labelled.__name__}.{name}").CASES
    wanted = {case.name: "right" if case.right else "wrong" for case in cases}
    given = {}
    for case in cases:
        report = verify.vjp(case.forward, case.rule, case.draw(jax.random.key(11)), diagnose=False)
        given[case.name] = "right" if report.ok else report.verdict
    assert given == wanted
