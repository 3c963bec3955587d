"""`bkd message …` and `bkd store …`: what is said on the command line, as verbs for the dispatcher."""

import json
from collections.abc import Callable
from typing import Any

import click

from .messagecalls import Located, answered, ask, duration
from .newmessages import adding


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
    message.command("add")(adding(located))

    @cli.group()
    def store() -> None:
        """The database of the messages."""

    @store.command()
    @answered(located)
    def check(**options: Any) -> int:
        """What is wrong with it: schema, indexes, integrity, places of messages, locks."""
        return ask("store:check", {}, options)

    @store.command()
    @answered(located)
    def migrate(**options: Any) -> int:
        """Bring its tables up to this version of bkd, and make again what indexes are gone.

        To be done while no cluster uses it.
        """
        return ask("store:migrate", {}, options)


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
    @click.option("--most", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
    @click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Those that follow this one.")
    @answered(located)
    def list_(most: int, after: int, **options: Any) -> int:
        """Messages, the oldest first."""
        return ask("message:list", {"selection": _selection(options), "most": most, "after": after}, options)

    @message.command()
    @_selecting
    @click.option("--over", type=click.IntRange(0), default=100, show_default=True, help="Runs.")
    @click.option("--most", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
    @answered(located)
    def loops(over: int, most: int, **options: Any) -> int:
        """Messages that are run over and over without an end."""
        selection = _selection(options, over)
        selection.setdefault("states", ["waiting", "running"])
        return ask("message:loops", {"selection": selection, "most": most}, options)

    @message.command()
    @click.argument("id")
    @answered(located)
    def show(id: str, **options: Any) -> int:
        """All about one message: attempts, outputs of its stages, deeds."""
        return ask("message:show", {"selection": {"ids": [id]}}, options)

    @message.command()
    @click.argument("id")
    @answered(located)
    def why(id: str, **options: Any) -> int:
        """Why a message is not running, or how it ended."""
        return ask("message:why", {"selection": {"ids": [id]}}, options)

    @message.command()
    @answered(located)
    def stats(**options: Any) -> int:
        """How many messages of each kind are in which state."""
        return ask("message:stats", {}, options)


def _changing(message: click.Group, located: Located) -> None:
    for verb, text in (
        (
            "retry",
            "Run dead letters and cancelled messages again.\n\nStages they have finished stay; what waits runs now.",
        ),
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
    @answered(located)
    def cancel(timeout: float, dry_run: bool, yes: bool, **options: Any) -> int:
        """End messages, wherever they run.

        Exit code 0: they have ended; 3: some still run.

        Many at once: --kind, --state, --where … with --dry-run, then --yes.
        """
        arguments = {"selection": _selection(options), "dry_run": dry_run, "yes": yes, "timeout": timeout}
        return ask("message:cancel", arguments, options)


def _bulk(verb: str, located: Located) -> Callable[..., Any]:
    @_selecting
    @click.option("--dry-run", is_flag=True, help="Only show which ones.")
    @click.option("--yes", is_flag=True, help="Do it, however many they are.")
    @answered(located)
    def command(dry_run: bool, yes: bool, **options: Any) -> int:
        arguments = {"selection": _selection(options), "dry_run": dry_run, "yes": yes}
        return ask(f"message:{verb}", arguments, options)

    return command


def _switching(message: click.Group, located: Located) -> None:
    @message.command()
    @click.argument("kinds", nargs=-1, required=True, metavar="KIND…")
    @click.option("--reason", default="", help="For those who wonder.")
    @answered(located)
    def pause(kinds: tuple[str, ...], reason: str, **options: Any) -> int:
        """Begin no more messages of a kind, on any host, until `resume`."""
        return ask("message:pause", {"kinds": list(kinds), "reason": reason}, options)

    @message.command()
    @click.argument("kinds", nargs=-1, required=True, metavar="KIND…")
    @answered(located)
    def resume(kinds: tuple[str, ...], **options: Any) -> int:
        """Go on with a kind that was paused."""
        return ask("message:resume", {"kinds": list(kinds)}, options)

    @message.command()
    @click.argument("kind")
    @click.argument("most", type=click.IntRange(0))
    @answered(located)
    def limit(kind: str, most: int, **options: Any) -> int:
        """How many of a kind may run at once over all hosts; 0: any number."""
        return ask("message:limit", {"kinds": [kind], "most": most}, options)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
