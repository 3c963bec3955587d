"""The file itself: from the disk to a tree of tables."""

import os
import re
import tomllib
from typing import Any

from .faults import ConfigError, Fault

_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def read(path: str) -> dict[str, Any]:
    """The tables of the file; raises ConfigError when it cannot be read or is not TOML."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(path, [Fault("", "a file that can be read", reason.lower())]) from error
    return parse(content, os.path.basename(path))


def parse(content: bytes, source: str) -> dict[str, Any]:
    """The tables of TOML text; raises ConfigError with line and column where it is none."""
    text = ""
    try:
        text = content.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        fault = Fault(f"line {line}, column {column}", "text in UTF-8", "other bytes")
    except RecursionError:
        fault = Fault("", "TOML", "values nested too deeply")
    except ValueError as error:
        fault = _syntax(str(error), text)
    raise ConfigError(source, [fault])


def _syntax(message: str, text: str) -> Fault:
    match = _PLACE.fullmatch(message)
    if match is None:
        return Fault("", "TOML", "a number that is too long" if "digits" in message else message)
    end = (text.count("\n") + 1, len(text) - text.rfind("\n"))
    line, column = match.group(2, 3) if match[2] else end
    return Fault(f"line {line}, column {column}", "TOML", match[1][:1].lower() + match[1][1:])
