"""Where in a user's files something comes from: the line of an equation, and the place of an exception."""

import ast
import functools
import linecache
import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax._src import source_info_util  # jax.extend would bring Pallas with it


@dataclass(frozen=True)
class Source:
    """A line of the user's function; the column tells no two of them apart."""

    file: str
    line: int
    function: str
    column: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} ({self.function})"

    @property
    def text(self) -> str:
        return linecache.getline(self.file, self.line).strip()


Span = tuple[int, int, int, int]
"""First line and column of a piece of code, and its last ones: lines count from 1, columns from 0, in bytes."""


@dataclass(frozen=True)
class Segment:
    """The piece of a user's file that an equation comes from: lines count from 1, columns from 0, in bytes."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    function: str

    @property
    def span(self) -> Span:
        return self.line, self.column, self.end_line, self.end_column

    @property
    def statement(self) -> str:
        """The whole line on which it begins."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def text(self) -> str:
        """The code, in one line."""
        lines = [linecache.getline(self.file, k).encode() for k in range(self.line, self.end_line + 1)]
        if not any(lines):
            return ""
        lines[-1] = lines[-1][: self.end_column]
        lines[0] = lines[0][self.column :]
        return " ".join(line.decode(errors="replace").strip() for line in lines)


def inside(inner: Segment, outer: Segment) -> bool:
    """Is a piece of code a part of another, or the same?"""
    start, end = (outer.line, outer.column), (outer.end_line, outer.end_column)
    return (
        inner.file == outer.file and start <= (inner.line, inner.column) and (inner.end_line, inner.end_column) <= end
    )


def tree_of(file: str) -> ast.Module:
    """The syntax tree of a file, which nobody may change; of one that cannot be read as Python, an empty one."""
    return _tree(tuple(linecache.getlines(file)))


@functools.lru_cache(64)
def _tree(lines: tuple[str, ...]) -> ast.Module:
    try:
        return ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def span_of(node: ast.stmt | ast.expr) -> Span:
    return node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0


@functools.lru_cache(64)
def functions_in(tree: ast.Module) -> tuple[ast.FunctionDef, ...]:
    """Functions of a file, those that stand in others and in classes too."""
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def first_line(node: ast.stmt) -> int:
    """Of a statement; of a function, of its first decorator, as Python counts."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def user_segments(trace: Any) -> tuple[Segment, ...]:
    """The user's frames in the traceback that JAX keeps of an equation, the innermost first.

    Only what our machinery has called: who called it is no part of the function.
    """
    segments: list[Segment] = []
    for code, at in zip(*trace.raw_frames()) if trace else ():
        if source_info_util.is_user_filename(code.co_filename):
            f = source_info_util.raw_frame_to_frame(code, at)
            end = f.end_line or f.start_line, f.end_column
            segments.append(Segment(f.file_name, f.start_line, f.start_column, *end, code.co_name))
        elif code.co_filename.startswith(tuple(MACHINERY)):
            break
    return tuple(segments)


def is_users(file: str) -> bool:
    """Whether a file is neither JAX's nor ours, nor Python's own."""
    return bool(file) and not file.startswith(tuple(MACHINERY)) and source_info_util.is_user_filename(file)


MACHINERY: list[str] = []
"""Folders that `hide_folder_of` was told of."""


def hide_folder_of(file: str) -> None:
    """Files in the folder of this one are machinery: they are no user's lines, for us and for JAX.

    The folder itself decides, as it does for JAX's own files, so a user's folder may have any name.
    """
    MACHINERY.append(os.path.dirname(file) + os.sep)
    source_info_util.register_exclusion(MACHINERY[-1])


def user_line(trace: Any) -> Source | None:
    """The innermost line of the user's in the traceback that JAX keeps of an equation."""
    frame = next(iter(source_info_util.user_frames(trace)), None)
    return frame and Source(frame.file_name, frame.start_line, frame.function_name, frame.start_column)


def at_line(file: str, line: int, code: str) -> str:
    """Where code of the user's stands, "file.py:12: code"; without a source the place alone."""
    return f"{Path(file).name}:{line}: {code}" if code else f"{Path(file).name}:{line}"


def place(error: BaseException) -> str:
    """Where an exception comes from: the innermost line of the user's, as " (file:line: text)"; "" if there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if source_info_util.is_user_filename(f.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""


hide_folder_of(__file__)
