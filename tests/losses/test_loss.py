import types

import pytest

from jaxbias import layers, losses
from jaxbias.losses import ConfiguredLoss, Loss

MODULES = [getattr(losses, name) for name in losses.__all__ if isinstance(getattr(losses, name), types.ModuleType)]


@pytest.mark.parametrize("module", MODULES, ids=[module.__name__.rpartition(".")[2] for module in MODULES])
def test_a_module_and_what_it_configures_are_losses(module):
    assert isinstance(module, Loss) and isinstance(module.loss(), Loss)
    assert module.loss().name == module.__name__.rpartition(".")[2]


def test_an_object_with_forward_and_backward_is_a_loss_and_others_are_not():
    class Own(Loss):
        def forward(self, out, targets):
            return out.sum(), None

        def backward(self, residuals):
            return residuals

    assert isinstance(Own(), Loss) and type(Own()) is Own
    assert not isinstance(lambda out, targets: out, Loss) and not isinstance(layers, Loss)


def test_a_loss_made_as_in_0_1_is_a_configured_one():
    with pytest.warns(DeprecationWarning, match="ConfiguredLoss"):
        assert Loss(len, len, "own") == ConfiguredLoss(len, len, "own")
