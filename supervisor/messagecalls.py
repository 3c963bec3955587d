"""A verb of `bkd message` or `bkd store`, asked of the dispatcher by way of the master.

Without a running cluster the store is opened here, by an entry point that is known by its name only.
"""

import importlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import click

from ..ipc.units import parse_duration
from .asking import ask as ask_master
from .asking import show
from .client import Client, NotRunning, find_socket

DIRECT = "bkd.workers.operators.direct"
BULK_LIMIT = 120.0
MOST_INTEGER = 2**63 - 1
Located = Callable[[Callable[..., Any]], Callable[..., Any]]


class Usage(click.ClickException):
    """Wrong usage."""

    exit_code = 2


def duration(text: str | float) -> float:
    """`250ms 10s 5m 2h`, or seconds; a default is seconds already."""
    if isinstance(text, float):
        return text
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text):
        return float(text)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write it as 250ms, 10s, 5m, 2h or 3d") from None


def parsed(text: str | bytes) -> Any:
    """A JSON document; raises ValueError, also for what other readers of JSON do not know."""
    return json.loads(text, parse_constant=_unknown, parse_int=_whole, parse_float=_finite)


def _unknown(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole(digits: str) -> int:
    number = int(digits) if len(digits) < 30 else MOST_INTEGER + 1
    if not -MOST_INTEGER - 1 <= number <= MOST_INTEGER:
        raise ValueError(f"{digits[:30]} has more than 64 bits: send it as text")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:30]} is too large for a number: send it as text")
    return number


def answered(located: Located) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of every verb: `located`, which cluster is meant, and the form of the answer."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return located(click.option("--json", "as_json", is_flag=True, help="One JSON document.")(function))

    return decorate


def ask(verb: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    """Ask the master, or the store itself when no cluster is running."""
    render = "json" if options["as_json"] else "text"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    path = _path(options)
    if not path:
        direct = importlib.import_module(DIRECT)
        code: int = direct.run(verb, arguments, options["config"], render, width, show)
        return code
    return ask_master(verb, {**arguments, "width": width}, sock=path, render=render, limit=BULK_LIMIT)


def collected(verb: str, arguments: dict[str, Any], options: dict[str, Any]) -> tuple[int, str, str]:
    """Exit code, document and errors of a command, in place of printing them."""
    out: list[str] = []
    err: list[str] = []

    def take(piece: str, error: str) -> None:
        out.append(piece)
        err.append(error)

    path = _path(options)
    if not path:
        direct = importlib.import_module(DIRECT)
        code: int = direct.run(verb, arguments, options["config"], "json", 0, take)
    else:
        code, *rest = Client(path, limit=BULK_LIMIT).run(
            verb, arguments, render="json", progress=take, draw=lambda screen, error: take("", error), limit=BULK_LIMIT
        )
        take(*rest)
    return code, "".join(out), "".join(err)


def is_direct(options: dict[str, Any]) -> bool:
    """Whether the store is opened here."""
    return not _path(options)


def _path(options: dict[str, Any]) -> str:
    """The control socket, "" when no cluster is running."""
    if options["sock"]:
        return str(options["sock"])
    try:
        path = find_socket(options["config"], None)
    except NotRunning:
        return ""
    return path if _answers(path) else ""


def _answers(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
        return True
