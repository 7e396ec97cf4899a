import jax
import pytest

from docs import reports


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run_it", "by_the_rules_of_jax")
def test_the_page_shows_what_is_printed():
    with jax.enable_x64(False):
        assert reports.page() == reports.PAGE.read_text(encoding="utf-8"), "run python -m docs.reports"
