"""PyTorch for tests that compare with it: it is no dependency, not even of the tests."""

import importlib
import os
from typing import Any

import pytest


def torch_or_skip() -> Any:
    """The module; a test skips where it is missing, and fails where JAXBIAS_REQUIRE_TORCH is set, as in CI."""
    if os.environ.get("JAXBIAS_REQUIRE_TORCH"):
        return importlib.import_module("torch")
    return pytest.importorskip("torch", reason="PyTorch is not installed; CI installs its CPU build")
