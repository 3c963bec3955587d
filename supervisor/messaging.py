"""`bkd message …` and `bkd store …`: what is said on the command line, as verbs for the dispatcher.

Without a running cluster the store is opened here, by an entry point that is known by its name only.
"""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..ipc.units import parse_duration
from .asking import Display, ask, show
from .client import Client, NotRunning, find_socket

DIRECT = "bkd.workers.operators.direct"
PIECE = 256 * 1024
MOST_IN_PIECE = 1000
BULK_LIMIT = 120.0
PARTLY = 3
Located = Callable[[Callable[..., Any]], Callable[..., Any]]


class Usage(click.ClickException):
    """Wrong usage."""

    exit_code = 2


def duration(text: str) -> float:
    """`250ms 10s 5m 2h`, or seconds."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no duration such as 250ms, 10s, 5m or 2h") from None


def argument(text: str) -> list[Any]:
    """`document_id=5000`: the path of an argument and its value, which is JSON, or else text."""
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return [path, _value(value)]


def register(cli: click.Group, located: Located) -> None:
    """Add both groups of commands; `located` are the options of every command that talks to a cluster."""

    @cli.group()
    def message() -> None:
        """Durable messages: add, look at, run again, stop."""

    _looking(message, located)
    _changing(message, located)
    _switching(message, located)
    message.command("add")(_adding(located))

    @cli.group()
    def store() -> None:
        """The database of the messages."""

    @store.command()
    @_answered(located)
    def check(**options: Any) -> int:
        """What is wrong with it: schema, integrity, messages in two places at once."""
        return _ask("store:check", {}, options)

    @store.command()
    @_answered(located)
    def migrate(**options: Any) -> int:
        """Bring its schema up to this version of bkd; to be done while no cluster uses it."""
        return _ask("store:migrate", {}, options)


def _answered(located: Located) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return located(click.option("--json", "as_json", is_flag=True, help="One JSON document.")(function))

    return decorate


def _selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which messages."""
    for option in reversed(
        (
            click.argument("ids", nargs=-1, metavar="[ID]…"),
            click.option("--state", "states", multiple=True, metavar="STATE", help="Also: waiting, ended."),
            click.option("--kind", "kinds", multiple=True, metavar="KIND"),
            click.option("--where", "where", multiple=True, type=argument, metavar="NAME=VALUE", help="By argument."),
            click.option("--error", default="", metavar="CLASS", help="Class of the last error: retryable, final …"),
            click.option("--reason", default="", metavar="REASON", help="Of dead letters: exhausted, poison …"),
            click.option("--older", type=duration, default=0.0, metavar="AGE", help="Made longer ago than this."),
            click.option("--newer", type=duration, default=0.0, metavar="AGE", help="Made since then."),
        )
    ):
        function = option(function)
    return function


def _selection(options: dict[str, Any], over: int = -1) -> dict[str, Any]:
    names = ("ids", "states", "kinds", "where", "error", "reason", "older", "newer")
    given = {name: options.pop(name) for name in names} | {"over": over if over >= 0 else None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}


def _looking(message: click.Group, located: Located) -> None:
    @message.command("list")
    @_selecting
    @click.option("--most", default=100, show_default=True, help="How many at most.")
    @click.option("--after", default=0, metavar="ID", help="Those that follow this one.")
    @_answered(located)
    def list_(most: int, after: int, **options: Any) -> int:
        """Messages, the oldest first."""
        return _ask("message:list", {"selection": _selection(options), "most": most, "after": after}, options)

    @message.command()
    @_selecting
    @click.option("--over", default=100, show_default=True, help="Runs.")
    @click.option("--most", default=100, show_default=True, help="How many at most.")
    @_answered(located)
    def loops(over: int, most: int, **options: Any) -> int:
        """Messages that are run over and over without an end."""
        selection = _selection(options, over)
        selection.setdefault("states", ["waiting", "running"])
        return _ask("message:loops", {"selection": selection, "most": most}, options)

    @message.command()
    @click.argument("id")
    @_answered(located)
    def show(id: str, **options: Any) -> int:
        """Everything about one message: attempts, outputs of its stages, what was done with it."""
        return _ask("message:show", {"selection": {"ids": [id]}}, options)

    @message.command()
    @click.argument("id")
    @_answered(located)
    def why(id: str, **options: Any) -> int:
        """Why a message is not running, or how it ended."""
        return _ask("message:why", {"selection": {"ids": [id]}}, options)

    @message.command()
    @_answered(located)
    def stats(**options: Any) -> int:
        """How many messages of each kind are in which state."""
        return _ask("message:stats", {}, options)


def _changing(message: click.Group, located: Located) -> None:
    for verb, text in (
        ("retry", "Run dead letters and cancelled messages again, with the stages they have finished; or at once."),
        ("clone", "New messages with the same arguments."),
        ("purge", "Delete messages that have ended, with their history."),
    ):
        message.command(verb, help=f"{text}\n\nMany at once: --kind, --state, --where … with --dry-run, then --yes.")(
            _bulk(verb, located)
        )

    @message.command()
    @_selecting
    @click.option("--timeout", type=duration, default=10.0, metavar="TIME", help="How long to wait for running ones.")
    @click.option("--dry-run", is_flag=True, help="Only show which ones.")
    @click.option("--yes", is_flag=True, help="Do it, however many they are.")
    @_answered(located)
    def cancel(timeout: float, dry_run: bool, yes: bool, **options: Any) -> int:
        """End messages, wherever they run: 0 they have ended, 3 some still run.

        Many at once: --kind, --state, --where … with --dry-run, then --yes.
        """
        arguments = {"selection": _selection(options), "dry_run": dry_run, "yes": yes, "timeout": timeout}
        return _ask("message:cancel", arguments, options)


def _bulk(verb: str, located: Located) -> Callable[..., Any]:
    @_selecting
    @click.option("--dry-run", is_flag=True, help="Only show which ones.")
    @click.option("--yes", is_flag=True, help="Do it, however many they are.")
    @_answered(located)
    def command(dry_run: bool, yes: bool, **options: Any) -> int:
        arguments = {"selection": _selection(options), "dry_run": dry_run, "yes": yes}
        return _ask(f"message:{verb}", arguments, options)

    return command


def _switching(message: click.Group, located: Located) -> None:
    @message.command()
    @click.argument("kinds", nargs=-1, required=True, metavar="KIND…")
    @click.option("--reason", default="", help="For those who wonder.")
    @_answered(located)
    def pause(kinds: tuple[str, ...], reason: str, **options: Any) -> int:
        """Begin no more messages of a kind, on any host, until `resume`."""
        return _ask("message:pause", {"kinds": list(kinds), "reason": reason}, options)

    @message.command()
    @click.argument("kinds", nargs=-1, required=True, metavar="KIND…")
    @_answered(located)
    def resume(kinds: tuple[str, ...], **options: Any) -> int:
        """Go on with a kind that was paused."""
        return _ask("message:resume", {"kinds": list(kinds)}, options)

    @message.command()
    @click.argument("kind")
    @click.argument("most", type=click.IntRange(0))
    @_answered(located)
    def limit(kind: str, most: int, **options: Any) -> int:
        """Run at most so many messages of a kind at once, over all hosts; 0: no limit."""
        return _ask("message:limit", {"kinds": [kind], "most": most}, options)


def _adding(located: Located) -> Callable[..., Any]:
    @click.argument("kind")
    @click.argument("args", required=False, metavar="[JSON]")
    @click.option("--from", "file", type=click.File("rb"), metavar="FILE.jsonl", help="Arguments, one JSON a line.")
    @click.option("--count", type=click.IntRange(1), default=1, help="So many of each.")
    @click.option("--delay", type=duration, metavar="TIME", help="Not before this has passed.")
    @click.option("--deadline", type=duration, metavar="TIME", help="Dead when it is not done by then.")
    @click.option("--priority", type=click.IntRange(-32_768, 32_767), help="Lower goes first; 50 is usual.")
    @click.option("--key", metavar="KEY", help="A second one with the same key is not stored.")
    @click.option("--unique", metavar="KEY", help="No second one with this key while it lives.")
    @click.option("--notify", metavar="TO", help="Who is told when it is dead.")
    @click.option("--max-attempts", type=click.IntRange(1))
    @_answered(located)
    def add(kind: str, args: str | None, file: Any, count: int, **options: Any) -> int:
        """Store messages of KIND; prints their numbers."""
        names = ("delay", "deadline", "priority", "key", "unique", "notify", "max_attempts")
        given = {name: value for name in names if (value := options.pop(name)) is not None}
        if file is not None and args is not None:
            raise Usage("arguments come from the command line or from a file, not from both")
        items = _lines(file) if file is not None else iter([_argument(args)])
        return _add({"kind": kind, "options": given}, _pieces(items, count), Progress(_size(file)), file, options)

    return add


def _add(what: dict[str, Any], pieces: Iterator[dict[str, Any]], progress: "Progress", file: Any, options: Any) -> int:
    """Piece by piece, until one cannot be stored at all; one document about all of them."""
    total: dict[str, Any] = {"ids": [], "created": 0, "refused": []}
    worst = 0
    try:
        for piece in pieces:
            code, out, err = _collected("message:add", {**what, **piece}, options)
            _gather(total, out)
            show("" if options["as_json"] else "".join(f"{id}\n" for id in total["ids"][-_number(out) :]), err)
            worst = max(worst, code)
            if code not in (0, PARTLY):
                break
            progress.show(len(total["ids"]), file)
    except click.ClickException as error:
        stored = f"; {len(total['ids'])} messages before it are stored" if total["ids"] else ""
        raise Usage(f"{error.message}{stored}") from None
    if options["as_json"]:
        show(json.dumps(total) + "\n", "")
    return PARTLY if worst and total["ids"] else worst


def _gather(total: dict[str, Any], out: str) -> None:
    for name, value in (json.loads(out) if out else {}).items():
        total[name] += value


def _number(out: str) -> int:
    return len(json.loads(out)["ids"]) if out else 0


class Progress:
    """How far a long file is, on a terminal."""

    def __init__(self, size: int) -> None:
        self._size, self._display = size, Display()

    def show(self, done: int, file: Any) -> None:
        """After each piece."""
        if self._size > PIECE:
            self._display.draw(f"{done:,} messages stored, {min(100, file.tell() * 100 // self._size)} %\n", "")


def _size(file: Any) -> int:
    return os.fstat(file.fileno()).st_size if file is not None else 0


def _argument(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise Usage(f"the arguments are no JSON: {error}") from None


def _lines(file: Any) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise Usage(f"line {number} is no JSON: {error}") from None


def _pieces(items: Iterator[Any], count: int) -> Iterator[dict[str, Any]]:
    """What goes into one command each: a frame has a limit, and so has a transaction."""
    if count > MOST_IN_PIECE:
        for item in items:
            for begin in range(0, count, MOST_IN_PIECE):
                yield {"items": [item], "count": min(MOST_IN_PIECE, count - begin)}
        return
    piece: list[Any] = []
    size = 0
    for item in items:
        weight = len(json.dumps(item))
        if piece and (size + weight > PIECE or (len(piece) + 1) * count > MOST_IN_PIECE):
            yield {"items": piece, "count": count}
            piece, size = [], 0
        piece.append(item)
        size += weight
    if piece:
        yield {"items": piece, "count": count}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ask(verb: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    """Ask the master, or the store itself when no cluster is running."""
    render = "json" if options["as_json"] else "text"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    path = _path(options)
    if not path:
        direct = importlib.import_module(DIRECT)
        code: int = direct.run(verb, arguments, options["config"], render, width, show)
        return code
    return ask(verb, {**arguments, "width": width}, sock=path, render=render, limit=BULK_LIMIT)


def _collected(verb: str, arguments: dict[str, Any], options: dict[str, Any]) -> tuple[int, str, str]:
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
