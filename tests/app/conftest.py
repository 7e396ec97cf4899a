import numpy as np
import pytest


@pytest.fixture
def blobs(tmp_path):
    """Two well separated clouds."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 2
    np.savez(tmp_path / "blobs.npz", x=generator.normal(size=(60, 3)) + 4 * y[:, None], y=y)
    return str(tmp_path / "blobs.npz")
