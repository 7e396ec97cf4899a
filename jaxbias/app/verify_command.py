"""What `jaxbias verify` does: runs the checks of a user's file, or the self-test."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxbias._trees import in_one_line
from jaxbias.verify.problem import place
from jaxbias.verify.report import Report


def load(target: str) -> Any:
    """The object that "module:name" or "file.py:name" names.

    Raises:
        ValueError: no such file, module or name, or no colon.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f'verify: expected module:function or file.py:function, got "{target}".')
    if where.endswith(".py") and not Path(where).is_file():
        raise ValueError(f"verify: there is no file {where}.")
    beside = str(Path(where).parent.resolve()) if where.endswith(".py") else ""  # as `python file.py` would
    sys.path.insert(0, beside)
    try:
        module = _from_file(where) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ValueError(f"verify: there is no module {error.name}, which {target} needs.") from error
    except Exception as error:
        raise ValueError(f"verify: {where} cannot be imported: {said(error)}.") from error
    finally:
        sys.path.remove(beside)
    if not hasattr(module, name):
        raise ValueError(f"verify: {where} has no {name}.")
    return getattr(module, name)


def _from_file(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    spec.loader.exec_module(module)
    return module


def said(error: BaseException) -> str:
    """An exception in one line, with the place in the user's file that it comes from."""
    return in_one_line(error) + place(error)


def reports(found: Any, target: str) -> list[Report]:
    """The reports that an object stands for: itself, or what it returns when called without arguments.

    Raises:
        TypeError: it is neither a report, nor several, nor a function that returns them.
        ValueError: the function raises.
        AssertionError: of the function, for example from `assert_vjp`.
    """
    if callable(found) and not isinstance(found, Report):
        try:
            found = found()
        except AssertionError:
            raise
        except Exception as error:
            raise ValueError(f"verify: {target} raises {said(error)}") from error
    if isinstance(found, Report):
        return [found]
    if isinstance(found, Iterable):
        several = list(found)
        if several and all(isinstance(report, Report) for report in several):
            return several
    raise TypeError(
        f"verify: {target} must be or return a Report, for example jaxbias.verify.vjp(forward, rule, args), or several "
        f"in a list; got {type(found).__name__}."
    )


def run(target: str, *, as_json: bool = False) -> int:
    """Print the reports of `target`; 0 if every rule may be used, 1 if one is wrong or an assertion of it fails."""
    try:
        checked = reports(load(target), target)
    except AssertionError as error:
        text = str(error).strip()
        print(json.dumps([{"ok": False, "assertion": text}], indent=1) if as_json else text or said(error))
        return 1
    if as_json:
        print(json.dumps([report.to_dict() for report in checked], indent=1))
    else:
        print("\n\n".join(str(report) for report in checked))
    return 0 if all(report.ok for report in checked) else 1


def run_self_test(*, every: int = 20, as_json: bool = False) -> int:
    """Print the table of the self-test; 0 if it meets what is required, 1 otherwise.

    Mistakes are planted in the rules of `planted.RULES` and in the backward of every layer and loss: some 4 300, of
    which two thirds run and change a value. One takes about 0.6 s of processor time, so the default a minute and a half
    and every=1 half an hour.

    Args:
        every: run only every n-th mutant.
    """
    from jaxbias import selfcheck
    from jaxbias.selfcheck import planted

    derivations = [*selfcheck.layer_derivations().values(), *selfcheck.loss_derivations().values()]
    rules = [*planted.RULES.values(), *planted.rules_of(derivations)]
    outcomes = planted.run(rules, pick=lambda k: k % every == 0)
    summary = planted.summarise(outcomes)
    if as_json:
        print(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    else:
        print(planted.table(outcomes))
    return 0 if planted.good_enough(summary) else 1
