import importlib
import json
import pkgutil
import pydoc
import subprocess
import sys
from types import ModuleType

import pytest

import jaxbias as jb

HEAVY = (
    "matplotlib",
    "orbax",
    "sklearn",
    "scipy.special",
    "scipy.stats",
    "rich",
    "typer",
    "safetensors",
    "flax",
    "torch",
    "pandas",
)


def in_process(code: str) -> str:
    """What the code prints in an interpreter that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_no_plotting_cli_dataset_or_checkpoint_package():
    """What `import jax, optax, chex` brings by itself does not count."""
    code = """
import sys, json, jax, optax, chex
before = set(sys.modules)
import jaxbias as jb
names = [getattr(jb, name) for name in jb.__all__ if name != "claims"]  # whose statistics need scipy.special
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    added = json.loads(in_process(code))
    assert "jaxbias.train" in added
    heavy = [name for name in added if name in HEAVY or name.startswith(tuple(f"{h}." for h in HEAVY))]
    assert not heavy, heavy


def test_import_alone_does_not_import_jax():
    code = """
import sys, json, jaxbias
from jaxbias import foreign
assert jaxbias.__version__ and {"chain", "verify", "capture", "surgery"} <= set(dir(jaxbias)) == set(jaxbias.__all__)
print(json.dumps(sorted(sys.modules)))
"""
    loaded = json.loads(in_process(code))
    assert "jaxbias.foreign" in loaded
    assert not {"jax", "jaxlib", "numpy", "optax", "jaxbias.params"} & set(loaded)


def test_a_large_room_is_imported_when_first_used():
    code = """
import sys, jaxbias as jb
jb.value_and_grad, jb.layers.dense, jb.roles
late = ("claims", "selfcheck", "foreign.surgery", "train", "verify")
assert not [name for name in late if f"jaxbias.{name}" in sys.modules]
assert "jax.extend.pallas" not in sys.modules
from jaxbias import verify
assert callable(jb.verify.vjp) and jb.verify is verify
assert callable(jb.train.fit) and not hasattr(jb, "nonsense")
"""
    in_process(code)


def test_names_are_imported_once_by_many_threads_and_again_after_a_reload():
    # JAX first: threads that import the standard library for the first time at once can fail in Python 3.13.0 itself
    code = """
import importlib, pickle, threading, jax, jaxbias as jb
together, got, failed = threading.Barrier(12), [], []

def use(names):
    together.wait()
    try:
        got.append({name: getattr(jb, name) for name in names})
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=use, args=[jb.__all__[i:] + jb.__all__[:i]]) for i in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failed, failed
assert len(got) == 12 and all(names == got[0] for names in got)
assert importlib.reload(jb) is jb and {name: getattr(jb, name) for name in jb.__all__} == got[0]
assert pickle.loads(pickle.dumps(jb.chain)) is jb.chain
params = pickle.loads(pickle.dumps(jb.Params(1.0, None)))
assert params == (1.0, None) and type(params) is jb.Params
"""
    in_process(code)


@pytest.mark.parametrize("name", jb.__all__)
def test_every_public_name_is_what_the_stub_says(name):
    """The name comes by attribute and by `from jaxbias import`, and is the object that its module holds."""
    scope = {}
    exec(f"from jaxbias import {name} as value", scope)
    value = scope["value"]
    assert value is getattr(jb, name)
    if isinstance(value, ModuleType):
        assert value.__name__ in (f"jaxbias.{name}", f"jaxbias.foreign.{name}")
    else:
        assert value is getattr(sys.modules[value.__module__], name)
        assert value.__doc__


@pytest.fixture(scope="module")
def public_packages():
    """The package and its public rooms, after every module in them has been imported."""
    packages = [jb, *(getattr(jb, name) for name in jb.__all__)]
    packages = [package for package in packages if isinstance(package, ModuleType) and hasattr(package, "__path__")]
    for package in packages[1:]:
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(info.name)
    assert len(packages) > 8
    return packages


def test_no_name_hides_a_module(public_packages):
    hidden = [
        f"{package.__name__}.{info.name}"
        for package in public_packages
        for info in pkgutil.iter_modules(package.__path__)
        if f"{package.__name__}.{info.name}" in sys.modules
        and getattr(package, info.name) is not sys.modules[f"{package.__name__}.{info.name}"]
    ]
    assert not hidden, hidden


def test_a_package_lists_its_public_names(public_packages):
    """`help` shows what `__all__` holds, and all of it is there."""
    for package in public_packages:
        assert package.__all__, package
        assert not [name for name in package.__all__ if not hasattr(package, name)]


def test_help_shows_the_functions():
    text = pydoc.plaintext.document(jb)
    assert "value_and_grad(" in text and "class Params(" in text and "per_example_norms(" in text
