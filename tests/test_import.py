import json
import subprocess
import sys

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


def test_import_brings_no_plotting_cli_dataset_or_checkpoint_package():
    """What `import jax, optax, chex` brings by itself does not count."""
    code = (
        "import sys, json, jax, optax, chex\nbefore = set(sys.modules)\nimport jaxbias\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = json.loads(done.stdout)
    assert "jaxbias" in added
    heavy = [name for name in added if name in HEAVY or name.startswith(tuple(f"{h}." for h in HEAVY))]
    assert not heavy, heavy


def test_what_is_imported_late_is_there_all_the_same():
    code = """
import sys, jaxbias as jb
assert {"surgery", "train", "verify"} <= set(dir(jb))
late = ("jaxbias.surgery", "jaxbias.train", "jaxbias.verify", "jax.extend.pallas")
assert not [name for name in late if name in sys.modules]
from jaxbias import verify
assert callable(jb.verify.vjp) and jb.verify is verify
assert callable(jb.train.fit) and jb.surgery and not hasattr(jb, "nonsense")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
