"""Every derivation of the library, collected."""

from jaxbias import layers, losses
from jaxbias.derivation import Derivation


def _collect(package) -> dict[str, Derivation]:
    modules = (getattr(package, name) for name in sorted(vars(package)) if not name.startswith("_"))
    found = [d for module in modules for d in getattr(module, "DERIVATIONS", ())]
    return {derivation.name: derivation for derivation in found}


def layer_derivations() -> dict[str, Derivation]:
    """Name → derivation of every layer."""
    return _collect(layers)


def loss_derivations() -> dict[str, Derivation]:
    """Name → derivation of every loss."""
    return _collect(losses)
