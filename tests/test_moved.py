"""What worked with version 0.1 works, with a warning that says where a module is now."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxbias as jb
from jaxbias import _moved

ROOT = Path(__file__).parents[1]
USED = {
    "capture": "capture clipped_grad fisher_diagonal kfac_factors noise_scale per_example_norms second_moments",
    "capture.clip": "clipped_grad",
    "capture.curvature": "capture kfac_factors",
    "capture.norms": "per_example_norms grand_scores",
    "check": "check_all check_derivation layer_derivations loss_derivations",
    "cli": "main",
    "contact": "contacts analyse",
    "report": "collect page",
    "roles": "roles mask no_decay labels bias_only lr_by_role",
    "spec": "parse",
    "surgery": "add_bias correct_bias drop_bias fix_gauge fold_batch_norm fold_value_bias shift_prior redundant_biases",
    "task": "prepare run describe optimizer_by_name",
    "verify.command": "load run",
    "verify.self_test": "run table good_enough summarise",
    "verify.self_test.mutations": "output_mutants source_mutants",
    "verify.self_test.registry": "register",
}
"""Modules of 0.1 that moved, without `jaxbias.`, and what was imported from them."""


@pytest.mark.parametrize("old", USED)
def test_an_old_path_gives_the_module_that_moved_and_warns(old):
    name = f"jaxbias.{old}"
    sys.modules.pop(name, None)  # a module that is imported already warns no more
    with pytest.warns(DeprecationWarning, match=rf"^{name} is {_moved.new_path(name)} since jaxbias 0\.2; "):
        module = importlib.import_module(name)
    assert module is sys.modules[_moved.new_path(name)] is sys.modules[name]
    lost = [attribute for attribute in USED[old].split() if not hasattr(module, attribute)]
    assert not lost, f"{name} had {', '.join(lost)}: keep the name in {module.__name__}"


def test_every_moved_module_is_tried():
    assert _moved.MOVED.keys() <= {f"jaxbias.{old}" for old in USED}
    assert _moved.new_path("jaxbias.layers.dense") is None and _moved.new_path("jaxbias") is None


def test_the_changelog_shows_what_moved():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    missing = [f"| `{old}` | `{new}` |" for old, new in _moved.MOVED.items() if f"| `{old}` | `{new}` |" not in text]
    assert not missing, "CHANGELOG.md, Moved, lacks\n" + "\n".join(missing)


def test_public_functions_stay_functions_after_an_old_import(tmp_path):
    """In a process of its own: an import sets its module as an attribute of the package."""
    code = """
import json, sys, warnings
warnings.simplefilter("error")
import jaxbias as jb
assert "jax" not in sys.modules
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import jaxbias.capture
assert [w.filename for w in warned] == [__file__], warned  # the line that is to be changed
warnings.simplefilter("ignore")
import jaxbias.check
from jaxbias.roles import mask
from jaxbias import surgery, cli
function = lambda params, x: (x @ params["w"] + params["b"]).sum()
import numpy as np
params = {"w": np.ones((2, 3), "float32"), "b": np.ones(3, "float32")}
print(json.dumps([jb.roles(function, params, np.ones((4, 2), "float32")), mask is jb.mask, surgery is jb.surgery,
                  callable(jb.capture(lambda params, x: function(params, x[None]))), callable(jb.check.check_all)]))
"""
    (tmp_path / "old.py").write_text(code, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "old.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"w": "weight", "b": "bias"}, True, True, True, True]


def test_every_public_name_of_0_1_is_there():
    names = """
    Layer Params State as_function bias_only capture chain clipped_grad contacts delta_histograms deltas
    fisher_diagonal freeze get_weights ggn_diagonal gradient_dots grand_scores inference initializers io kfac_factors
    labels layers losses lr_by_role mask named_parameters no_decay noise_scale parallel penalties per_example_norms
    residual roles second_moments set_weights summary surgery train value_and_grad verify with_frozen
    """
    assert not [name for name in names.split() if not hasattr(jb, name)]
