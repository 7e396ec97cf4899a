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
