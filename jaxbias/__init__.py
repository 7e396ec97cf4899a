"""Weights, biases and their gradients in JAX: derived by hand, checked by machine.

Every name is imported when it is first used, so `import jaxbias` alone does not import JAX. The table of names is
`__init__.pyi` beside this file, which type checkers read too.
"""

import lazy_loader

from . import _moved

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_moved.install(__name__)
