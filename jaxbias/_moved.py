"""Modules that moved since 0.1: their old paths are imported with a warning that names the new one, until 0.3.

An old path gives the module itself, not a copy. It does not take the place of a public name: `jb.roles` and
`jb.capture` are functions, also after `import jaxbias.roles`, as they were when these modules were beside them.
"""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "jaxbias.capture": "jaxbias.foreign.capture",
    "jaxbias.check": "jaxbias.selfcheck.derivations",
    "jaxbias.cli": "jaxbias.app.cli",
    "jaxbias.contact": "jaxbias.foreign.contact",
    "jaxbias.report": "jaxbias.app.report",
    "jaxbias.roles": "jaxbias.foreign.roles",
    "jaxbias.spec": "jaxbias.app.spec",
    "jaxbias.surgery": "jaxbias.foreign.surgery",
    "jaxbias.task": "jaxbias.app.task",
    "jaxbias.verify.command": "jaxbias.app.verify_command",
    "jaxbias.verify.self_test": "jaxbias.selfcheck.planted",
}
"""Old path -> new path; what lies below an old path lies below the new one under the same name."""


def new_path(name: str) -> str | None:
    """Where the module of this name is now; None where it has not moved."""
    parts = name.split(".")
    for i in range(len(parts), 1, -1):
        if new := MOVED.get(".".join(parts[:i])):
            return ".".join([new, *parts[i:]])
    return None


class _Moved(MetaPathFinder, Loader):
    """Finds a module of 0.1 at its new path."""

    def find_spec(self, fullname, path=None, target=None):
        del path, target
        if not fullname.startswith("jaxbias.") or new_path(fullname) is None:
            return None
        return ModuleSpec(fullname, self, origin=new_path(fullname))

    def exec_module(self, module: ModuleType) -> None:
        new = new_path(module.__name__)
        assert new is not None
        warnings.warn(
            f"{module.__name__} is {new} since jaxbias 0.2; the old path goes away with 0.3.",
            DeprecationWarning,
            stacklevel=2,  # the import statement: frames of importlib do not count
        )
        sys.modules[module.__name__] = importlib.import_module(new)


class _Package(ModuleType):
    """The package: an import of an old path does not set its module over a public function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__all__ and f"{self.__name__}.{name}" in MOVED and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


def install(package: str) -> None:
    """Let `package` answer to its old paths; called once, by itself."""
    sys.meta_path.insert(0, _Moved())
    sys.modules[package].__class__ = _Package
