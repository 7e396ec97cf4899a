"""What `jaxbias derive` does: derives a user's function from the shapes of its arguments."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxbias import _files
from jaxbias._derive import derive
from jaxbias.app.verify_command import load, said


def run(target: str, *, shapes: str, argnums: str, keep: str, style: str, out: Path | None) -> int:
    """Print the forward and the backward pass of `target` side by side, and write or print the code.

    Args:
        shapes: name=8x16 for each argument, divided by commas; name= for a number, name=i4 for whole numbers.
        argnums: places of the arguments to differentiate with respect to.
        out: file for the code.

    Returns:
        0.

    Raises:
        ValueError: no such function, shapes that do not fit its arguments, or one that cannot be derived.
    """
    function = load(target, "derive")
    if not callable(function):
        raise ValueError(f"derive: {target} is no function.")
    args = arguments(function, shapes)
    if not all(part.strip().isdecimal() for part in filter(None, argnums.split(","))):
        raise ValueError(
            f"derive: --argnums must be places of arguments, counted from 0, such as 0,2; got {argnums!r}."
        )
    chosen = [int(part) for part in argnums.split(",")] if argnums else None
    if out is not None:
        _files.check_writable(out, "derive: --out")
    try:
        derived = derive(function, args, argnums=chosen, keep=keep, style=style)
    except (ValueError, TypeError) as error:
        text = str(error)
        raise ValueError(text if text.startswith("derive:") else f"derive: {target}: {said(error)}") from error
    print(derived)
    if out is None:
        print(f"\n{derived.code}", end="")
    else:
        out.write_text(derived.code)
        print(f"\ncode: {out}")
    return 0


def arguments(function: Callable[..., Any], shapes: str) -> tuple[Any, ...]:
    """One shape for each argument of the function, in its order.

    Raises:
        ValueError: a shape that is none, one that is missing, or one of no argument.
    """
    given = {}
    for part in filter(None, shapes.split(",")):
        name, equals, text = part.partition("=")
        match = re.fullmatch(r"(i?)((?:\d+(?:x\d+)*)?)", text)
        if not equals or match is None:
            raise ValueError(f"derive: --shapes must be written like x=8x16,W=16x4, got {part!r}.")
        sizes = tuple(map(int, filter(None, match[2].split("x"))))
        given[name.strip()] = jax.ShapeDtypeStruct(sizes, "int32" if match[1] else "float32")
    names = list(inspect.signature(function).parameters)
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"derive: --shapes names {unknown[0]}, but the arguments are {', '.join(names)}.")
    if missing := [name for name in names if name not in given]:
        wanted = ",".join(f"{name}=…" for name in missing)
        raise ValueError(f"derive: the shapes of {', '.join(missing)} are missing: --shapes {wanted}.")
    return tuple(given[name] for name in names)
