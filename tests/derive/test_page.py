import re

import jax
import pytest

from docs import derivations


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
def test_the_page_shows_what_is_printed():
    """What autodiff keeps differs between releases of JAX."""
    with jax.enable_x64(False):
        pages = derivations.page(), derivations.PAGE.read_text(encoding="utf-8")
    printed, shown = (re.sub(r"autodiff keeps \d+", "", page) for page in pages)
    assert printed == shown, "run python -m docs.derivations"
