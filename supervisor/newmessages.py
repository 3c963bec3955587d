"""`bkd message add`: what is read from the command line and from files, as messages for the store."""

import base64
import datetime
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..ipc.quantity import counted
from .asking import Display, show
from .messagecalls import Located, Usage, answered, collected, duration, is_direct, parsed

PIECE = 256 * 1024
MOST_IN_PIECE = 1000
PARTLY = 3
CONFLICTS = ("return", "reject", "replace", "again")
OPTIONS = (
    *("delay", "due", "deadline", "on_deadline", "priority", "key", "unique", "conflict", "max_attempts", "notify"),
    *("guid", "tracking_id", "parent_id", "routing"),
)
DATE = re.compile(r"\d{4}-")


def adding(located: Located) -> Callable[..., Any]:
    """The command."""

    @click.argument("kind")
    @click.argument("args", required=False, metavar="[JSON]")
    @click.option(
        "--from", "file", type=click.File("rb"), metavar="FILE.jsonl", help="Arguments, one JSON a line; - is stdin."
    )
    @click.option("--count", type=click.IntRange(1), default=1, help="So many of each.")
    @click.option("--payload", type=click.File("rb"), metavar="FILE", help="Bytes beside the arguments; - is stdin.")
    @click.option("--delay", type=duration, metavar="TIME", help="Not before this has passed.")
    @click.option("--due", type=moment, metavar="MOMENT", help="Not before: 2030-12-01T08:00+01:00, or …Z for UTC.")
    @click.option("--deadline", type=deadline, metavar="TIME|MOMENT", help="Dead when it is not done by then.")
    @click.option("--on-deadline", type=click.Choice(["expire", "alert"]), help="alert: it is only told, and goes on.")
    @click.option("--priority", type=click.IntRange(-32_768, 32_767), help="Lower goes first; 50 is usual.")
    @click.option("--key", metavar="KEY", help="A second one with the same key is not stored.")
    @click.option("--unique", metavar="KEY", help="No second one with this key while it lives …")
    @click.option("--conflict", type=click.Choice(CONFLICTS), help="… and what happens instead; return is usual.")
    @click.option(
        "--max-attempts", type=click.IntRange(1, 1_000_000), metavar="N", help="Instead of what the kind says."
    )
    @click.option("--notify", metavar="TO", help="Who is told when it is dead.")
    @click.option("--guid", metavar="UUID", help="Of your own: the same again is the same message.")
    @click.option("--tracking-id", metavar="ID", help="What it belongs to.")
    @click.option("--parent-id", type=click.IntRange(0), metavar="ID", help="The message it comes from.")
    @click.option("--routing", type=routing, metavar="JSON", help="Other fields of Routing.")
    @answered(located)
    def add(kind: str, args: str | None, file: Any, count: int, payload: Any, **options: Any) -> int:
        """Store messages of KIND with these arguments; prints their numbers."""
        given = {name: value for name in OPTIONS if (value := options.pop(name)) is not None}
        _check(given, many=count > 1 or file is not None)
        if file is not None and args is not None:
            raise Usage("arguments come from the command line or from a file, not from both")
        if file is not None and file is payload:
            raise Usage("standard input is for the arguments or for the payload, not for both")
        items = _lines(file) if file is not None else iter([_argument(args)])
        what = {"kind": kind, "options": given} | _payload(payload, options)
        return _add(what, _pieces(items, count), Progress(file, count), options)

    return add


def moment(text: str) -> str:
    """A moment with a time zone, as it is sent."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no moment such as 2030-12-01T08:00+01:00") from None
    if found.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no time zone: add one, such as +01:00, or Z for UTC")
    return found.isoformat()


def deadline(text: str) -> float | str:
    """A duration from now, or a moment."""
    return moment(text) if DATE.match(text) else duration(text)


def routing(text: str) -> dict[str, Any]:
    """Fields of `Routing`."""
    import msgspec

    from ..ipc.durable.model import Routing

    found = _argument(text)
    names = Routing.__struct_fields__
    if not isinstance(found, dict) or set(found) - set(names):
        raise click.BadParameter(f"it takes an object of {', '.join(names)}")
    try:
        msgspec.convert(found, Routing)
    except msgspec.ValidationError as error:
        raise click.BadParameter(str(error)) from None
    return found


def _check(given: dict[str, Any], *, many: bool) -> None:
    """What cannot be meant. Raises Usage."""
    for name in ("key", "guid"):
        if many and name in given:
            raise Usage(f"--{name} is for one message, not with --count or --from")
    for name, other in (("conflict", "unique"), ("on_deadline", "deadline")):
        if name in given and other not in given:
            raise Usage(f"--{name.replace('_', '-')} goes with --{other}")


def _payload(file: Any, options: dict[str, Any]) -> dict[str, Any]:
    """How the payload is named in each command: a large one is sent before, in parts, and kept there meanwhile."""
    if file is None:
        return {}
    from ..ipc.durable.model import MOST_PAYLOAD

    data = file.read(MOST_PAYLOAD + 1)
    if len(data) > MOST_PAYLOAD:
        raise Usage(f"the payload is over the limit of {MOST_PAYLOAD:,} bytes: store it elsewhere and send where it is")
    parts = [data[begin : begin + PIECE] for begin in range(0, len(data), PIECE)]
    if len(parts) < 2 or is_direct(options):
        return {"payload": base64.b64encode(data).decode()}
    upload = secrets.token_hex(16)
    for part in parts:
        arguments = {"upload": upload, "data": base64.b64encode(part).decode()}
        code, _, err = collected("message:payload", arguments, options)
        if code:
            raise click.ClickException(err.strip().removeprefix("bkd: "))
    return {"upload": upload}


def _add(what: dict[str, Any], pieces: Iterator[dict[str, Any]], progress: "Progress", options: Any) -> int:
    """Piece by piece, until one cannot be stored at all; one document about all of them."""
    total: dict[str, Any] = {"ids": [], "created": 0, "refused": []}
    worst = 0
    try:
        for piece in pieces:
            code, out, err = collected("message:add", {**what, **piece}, options)
            _gather(total, out)
            quiet = options["as_json"] or progress.is_shown
            show("" if quiet else "".join(f"{id}\n" for id in total["ids"][-_number(out) :]), err)
            worst = max(worst, code)
            if code not in (0, PARTLY):
                break
            progress.show(len(total["ids"]))
    except click.ClickException as error:
        stored = counted(len(total["ids"]), "message before it is stored", "messages before it are stored")
        raise Usage(f"{error.message}; {stored}" if total["ids"] else error.message) from None
    except KeyboardInterrupt:
        stored = counted(len(total["ids"]), "message is stored", "messages are stored")
        show("", f"\nbkd: interrupted: {stored}, perhaps one more piece\n")
        raise
    if options["as_json"]:
        show(json.dumps(total) + "\n", "")
    elif progress.is_shown and total["ids"]:
        show(f"{counted(len(total['ids']), 'message')} stored: {total['ids'][0]} to {total['ids'][-1]}\n", "")
    return PARTLY if worst and total["ids"] else worst


def _gather(total: dict[str, Any], out: str) -> None:
    for name, value in (json.loads(out) if out else {}).items():
        total[name] += value


def _number(out: str) -> int:
    return len(json.loads(out)["ids"]) if out else 0


class Progress:
    """How far a long file, or a high count, is: on a terminal, in place of all those numbers."""

    def __init__(self, file: Any, count: int) -> None:
        self._file, self._count = file, count
        self._size = os.fstat(file.fileno()).st_size if file is not None else 0
        self._display = Display()
        is_long = self._size > PIECE or count > MOST_IN_PIECE
        self.is_shown = is_long and sys.stdout.isatty() and sys.stderr.isatty()

    def show(self, done: int) -> None:
        """After each piece."""
        if self.is_shown and self._file is None:
            self._display.draw(f"{done:,} of {self._count:,} messages stored\n", "")
        elif self.is_shown:
            share = min(100, self._file.tell() * 100 // self._size) if self._size else 0
            self._display.draw(f"{counted(done, 'message')} stored, {share} % of the file\n", "")


def _argument(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return parsed(text)
    except ValueError as error:
        raise Usage(f"the arguments are no JSON: {error}") from None


def _lines(file: Any) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield parsed(line)
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
