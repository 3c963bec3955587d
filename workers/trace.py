"""Tracebacks for people: from the application's first line on, without the machinery that imported it."""

import importlib
import traceback
from pathlib import Path
from types import TracebackType

LONGEST_TRACE = 16 << 10
LONGEST_LINE = 500
_OURS = str(Path(__file__).resolve().parent)
_IMPORTLIB = str(Path(importlib.__file__).parent)


def told(error: BaseException) -> str:
    """The traceback as the interpreter would print it, frames of bkd and of the import system left out at its head."""
    lines = traceback.format_exception(type(error), error, _theirs(error.__traceback__))
    return _sendable("".join(lines)[-LONGEST_TRACE:])


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    try:
        text = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - an error that cannot say itself has its type at least
        text = []
    return _sendable(f"{type(error).__name__}: {text[0]}" if text else type(error).__name__)[:LONGEST_LINE]


def _sendable(text: str) -> str:
    """File names may bring lone surrogates, which no message can hold."""
    return text.encode(errors="backslashreplace").decode()


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_machinery(file: str) -> bool:
    return file.startswith(("<frozen importlib", _IMPORTLIB)) or str(Path(file).resolve()).startswith(_OURS)
