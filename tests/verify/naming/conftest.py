import pytest

from jaxbias.verify.checker import SECONDS, Checker


@pytest.fixture(autouse=True)
def _time_for_a_slow_machine(monkeypatch):
    """Three times what a check has, so that a machine with other work finds the same."""
    begin = Checker.__init__

    def longer(self, problem, rtol=None, atol=None, seconds=SECONDS):
        begin(self, problem, rtol, atol, 3 * seconds)

    monkeypatch.setattr(Checker, "__init__", longer)
