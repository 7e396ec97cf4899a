"""What `jaxbias verify` does: runs the checks of a user's file, or the self-test."""

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxbias._trees import in_one_line
from jaxbias.verify.certificate import Changed, compare
from jaxbias.verify.problem import place
from jaxbias.verify.report import Report, Undecided


def load(target: str, command: str = "verify") -> Any:
    """The object that "module:name" or "file.py:name" names.

    Args:
        command: that messages begin with.

    Raises:
        ValueError: no such file, module or name, or no colon.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f'{command}: expected module:function or file.py:function, got "{target}".')
    if where.endswith(".py") and not Path(where).is_file():
        raise ValueError(f"{command}: there is no file {where}.")
    beside = str(Path(where).parent.resolve()) if where.endswith(".py") else ""  # as `python file.py` would
    sys.path.insert(0, beside)
    try:
        module = _from_file(where) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ValueError(f"{command}: there is no module {error.name}, which {target} needs.") from error
    except SystemExit as error:
        raise ValueError(f"{command}: {where} cannot be imported: it ends the program (sys.exit).") from error
    except Exception as error:
        raise ValueError(f"{command}: {where} cannot be imported: {said(error)}.") from error
    finally:
        sys.path.remove(beside)
    if not hasattr(module, name):
        raise ValueError(f"{command}: {where} has no {name}.")
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


def reports(value: Any, target: str) -> list[Report]:
    """The reports that an object stands for: itself, or what it returns when called without arguments.

    Raises:
        TypeError: it is neither a report, nor several, nor a function that returns them.
        ValueError: the function raises.
        AssertionError: of the function, for example from `assert_vjp`.
    """
    if callable(value) and not isinstance(value, Report):
        if needed := _needed(value):
            raise TypeError(
                f"verify: {target} takes {', '.join(needed)}, but what is checked takes no argument and returns a "
                f"Report: write a function that calls jaxbias.verify.vjp(forward, rule, args)."
            )
        try:
            value = value()
        except AssertionError:
            raise
        except (Exception, SystemExit) as error:
            raise ValueError(f"verify: {target} raises {said(error)}") from error
    if isinstance(value, Report):
        return [value]
    if isinstance(value, Iterable):
        several = list(value)
        if several and all(isinstance(report, Report) for report in several):
            return several
    raise TypeError(
        f"verify: {target} must be or return a Report, for example jaxbias.verify.vjp(forward, rule, args), or several "
        f"in a list; got {type(value).__name__}."
    )


def _needed(function: Callable[..., Any]) -> list[str]:
    """The arguments without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions written in C say nothing
        return []
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


def run(target: str, *, as_json: bool = False, certificate: Path | None = None, recheck: Path | None = None) -> int:
    """Print the reports of `target`.

    Args:
        certificate: file to write the certificates of all reports to.
        recheck: such a file, to compare with what is decided now.

    Returns:
        0 if every rule may be used; 1 if one is wrong or an assertion of it fails; 3 if one is undecided, none wrong.

    Raises:
        ValueError: the file of `recheck` is no certificate, or does not hold for what was evaluated now.
    """
    held = _read_certificates(recheck) if recheck else None
    try:
        checked = reports(load(target), target)
    except AssertionError as error:
        text = str(error).strip()
        print(json.dumps([{"ok": False, "assertion": text}], indent=1) if as_json else text or said(error))
        return 3 if isinstance(error, Undecided) else 1
    if as_json:
        print(json.dumps([report.to_dict() for report in checked], indent=1))
    else:
        print("\n\n".join(str(report) for report in checked))
    if certificate:
        text = json.dumps({"source": _digest(target), "checks": [dict(r.certificate) for r in checked]}, indent=1)
        certificate.write_text(text + "\n")
    if held is not None:
        for note in _recheck(held, target, checked, str(recheck)):
            print(note, file=sys.stderr)
    verdicts = {report.verdict for report in checked if not report.ok}
    return 0 if not verdicts else 1 if "wrong" in verdicts else 3


def _digest(target: str) -> str | None:
    """Of the file that the target stands in; None for a module."""
    where = target.rpartition(":")[0]
    return hashlib.sha256(Path(where).read_bytes()).hexdigest() if where.endswith(".py") else None


def _read_certificates(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text())
        if not isinstance(held, dict) or not isinstance(held.get("checks"), list):
            raise ValueError("it has no list of checks")
    except (OSError, ValueError) as error:
        raise ValueError(f"verify: {path} is no certificate that --certificate wrote: {in_one_line(error)}") from error
    return held


def _recheck(held: dict[str, Any], target: str, checked: list[Report], path: str) -> list[str]:
    """What is to be said after a comparison that found no contradiction."""
    try:
        if held["source"] != _digest(target):
            raise Changed(f"{target.rpartition(':')[0]} has changed since")
        if len(held["checks"]) != len(checked):
            raise Changed(f"it holds {len(held['checks'])} checks, and there are {len(checked)} now")
        notes = []
        for k, (then, report) in enumerate(zip(held["checks"], checked)):
            if bool(then) != bool(report.certificate):
                raise Changed(f"check {k} rests on enclosures in one of the two only")
            notes += compare(then, report.certificate) if then else []
    except (Changed, KeyError) as error:
        raise ValueError(f"verify: the certificate {path} does not hold: {error}.") from error
    probes = sum(len(then.get("probes", ())) for then in held["checks"])
    return [f"note: {note}" for note in dict.fromkeys(notes)] + [f"{path} holds: evaluated again at {probes} probes"]


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
