"""Tools for anyone's model, read from the jaxpr of its own function: contacts, roles, surgery, capture.

As with `jaxbias` itself, each module is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
