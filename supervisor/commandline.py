"""Every command of `bkd`, with click: reads arguments, asks the master or the files, prints.

`bkd start` and `bkd status` are usually answered before this module is loaded (see `bkd.cli`).
"""

import os
import shutil
import signal as signals
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import click

from .. import __version__
from ..ipc.errors import BkdError
from . import messaging, places, stopping
from .asking import ask, say, tolerate
from .client import ANSWER_LIMIT, find_socket, run_dir
from .fleet.options import FleetOptions, fleetwide
from .inquiries import register


class Usage(click.ClickException):
    """Wrong usage or configuration."""

    exit_code = 2


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    signals.signal(signals.SIGINT, signals.default_int_handler)
    tolerate()
    strange = [argument for argument in arguments if _is_no_text(argument)]
    if strange:
        sys.stderr.write(f"bkd: {strange[0]!a} is no UTF-8 text\n")
        return Usage.exit_code
    try:
        result = cli.main(arguments, prog_name="bkd", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.ctx.get_help() if error.ctx else error.format_message()}\n")
        return error.exit_code
    except click.ClickException as error:
        sys.stderr.write(f"bkd: {error.format_message()} (see {_command(arguments)} --help)\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return say(BkdError(f"{error.filename or 'standard output'}: {error.strerror}"))
    except BkdError as error:
        return say(error)
    return result if isinstance(result, int) else 0


def _command(arguments: list[str]) -> str:
    """Which one was meant, as far as it is one."""
    words, command = ["bkd"], cast(click.Command, cli)
    for word in arguments:
        if not isinstance(command, click.Group) or word not in command.commands:
            break
        command = command.commands[word]
        words.append(word)
    return " ".join(words)


def _is_no_text(argument: str) -> bool:
    """Whether the shell gave bytes that are no UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in argument)


def _located(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-c` and `--socket`, for every command that talks to a cluster."""
    function = click.option("--socket", "sock", metavar="PATH", help="The cluster's control socket.")(function)
    return click.option("-c", "--config", metavar="FILE", help="The configuration (default: ./bkd.toml).")(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bkd")
def cli() -> None:
    """Keeps a Python backend running."""


@cli.command()
@click.option("-c", "--config", metavar="FILE", help="The configuration (default: ./bkd.toml).")
@click.option("-d", "--daemon", is_flag=True, help="In the background; returns when all groups are ready.")
@click.option("--watch", is_flag=True, help="Source files go live as they are saved; for development.")
def start(config: str | None, daemon: bool, watch: bool) -> int:
    """Start the cluster; Ctrl-C stops it, twice kills it."""
    from .launch import start_from_file

    return start_from_file({"config": config, "daemon": daemon, "watch": watch})


@cli.command()
@click.argument("app")
@click.option("-w", "--workers", type=click.IntRange(1), help="Number of workers (default: the CPUs there are).")
@click.option("-b", "--bind", multiple=True, metavar="ADDR", help="Where to listen (default: 127.0.0.1:8000).")
def run(app: str, workers: int | None, bind: tuple[str, ...]) -> int:
    """Serve one application with no file at all: bkd run shop.web:app -w 4 -b 127.0.0.1:8000."""
    from .launch import start as launch

    return launch({"target": app, "workers": workers, "bind": list(bind)})


def _verdict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that end with a verdict."""
    function = click.option("--json", "as_json", is_flag=True, help="One JSON document at the end.")(function)
    return _located(click.option("--no-wait", is_flag=True, help="Do not wait for the end.")(function))


def _ask(verb: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
    """Ask, with what `_verdict` added to the command."""
    fleet = FleetOptions(options)
    fleet.no_wait = options.pop("no_wait")
    return fleet.ask(verb, arguments, options)


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--hard", is_flag=True, help="Kill the old workers first: for those that do not drain.")
@fleetwide(rolls=True)
@_verdict
def restart(names: tuple[str, ...], hard: bool, **options: Any) -> int:
    """Roll groups onto the code on disk now, proven before it takes over: 0 done, 1 taken back, 3 some of both.

    Without names all groups; a slot such as web.2 gets a fresh worker of the release it has.
    """
    return _ask("restart", {"names": list(names), "hard": hard}, options)


@cli.command()
@click.argument("group")
@fleetwide(rolls=True)
@_verdict
def rollback(group: str, **options: Any) -> int:
    """Back to the release before, which is still loaded; in the middle of a roll, back to where it began."""
    return _ask("rollback", {"name": group}, options)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only say what would change, and what it takes.")
@fleetwide(rolls=True, dry_run=False)
@_verdict
def reload(dry_run: bool, **options: Any) -> int:
    """Read the configuration again and apply what has changed; an invalid file changes nothing."""
    return _ask("reload", {"dry_run": dry_run}, options)


@cli.command()
@click.option("--python", metavar="PATH", help="The interpreter whose bkd takes over (default: the one in use).")
@click.option("--keeper", is_flag=True, help="The keeper is replaced as well, in place.")
@click.option("--timeout", default="10s", show_default=True, metavar="TIME", help="For each of the steps.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document at the end.")
@_located
def upgrade(python: str | None, keeper: bool, timeout: str, no_wait: bool, as_json: bool, **options: Any) -> int:
    """Replace the running master with the installed bkd; workers keep their pids, and what fails is taken back."""
    limit = _duration("--timeout", timeout)
    asked = {"python": _program(python), "keeper": keeper, "timeout": limit, "no_wait": no_wait}
    return ask("upgrade", asked, render="json" if as_json else "text", limit=ANSWER_LIMIT + limit, **options)


def _program(name: str | None) -> str | None:
    """As somebody in another folder has to name it; links stay links."""
    found = shutil.which(name) if name else None
    if name and not found:
        raise Usage(f"--python {name}: no such program; name an interpreter that has bkd")
    return os.path.abspath(found) if found else None


@cli.command()
@fleetwide(as_json=True)
@_located
def stop(config: str | None, sock: str | None, **options: Any) -> int:
    """Drain and stop; exits when the last process is gone: 0 drained, 3 something was killed, 1 something survived."""
    fleet = FleetOptions(options)
    if fleet.fleet:
        return fleet.ask("stop", {}, {**options, "config": config, "sock": sock})
    return stopping.stop(find_socket(config, sock))


@cli.command()
@click.argument("changes", nargs=-1, required=True, metavar="GROUP=N…")
@fleetwide(as_json=True)
@_located
def scale(changes: tuple[str, ...], **options: Any) -> int:
    """Set or change counts until the next reload: bkd scale web=4 jobs=+2."""
    arguments = {}
    for change in changes:
        name, equals, number = change.partition("=")
        if not equals or not number:
            raise Usage(f"{change}: expected GROUP=N, for example web=4 or jobs=+2")
        arguments[name] = number
    return FleetOptions(options).ask("scale", arguments, options)


@cli.command()
@click.argument("name")
@click.argument("sig", metavar="SIGNAL")
@_located
def signal(name: str, sig: str, config: str | None, sock: str | None) -> int:
    """Send a signal to a slot or to all slots of a group."""
    return ask("signal", {"name": name, "signal": sig}, config=config, sock=sock)


def _named(verb: str, text: str) -> None:
    """Commands that take one group or slot."""

    @cli.command(verb, help=text)
    @click.argument("name")
    @_located
    def command(name: str, config: str | None, sock: str | None) -> int:
        return ask(verb, {"name": name}, config=config, sock=sock)


_named("hold", "Take a slot out of supervision for debugging: it is neither watched nor replaced.")
_named("unhold", "Give a held slot back to supervision.")
_named("reset", "Forget back-off, breaker and failures of a slot or group, and try it again.")


@cli.command()
@click.argument("op")
@click.argument("data", metavar="[JSON]", default="null")
@click.option("--to", metavar="ROLE[:TAG]", default="all", show_default=True, help="A group, or all workers.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@fleetwide(rolls=True)
@_located
def send(op: str, data: str, to: str, **options: Any) -> int:
    """Send an event to the workers of this host, who hear it with ipc.on(OP): bkd send price:changed '{"sku": 7}'.

    api:restart, worker:restart and config:init are obeyed: they restart web groups, the other groups, or reload.
    """
    return FleetOptions(options).ask("send", {"op": op, "data": _data(data), "to": to}, options)


def _data(text: str) -> Any:
    """JSON that can be sent; raises Usage."""
    import json
    import struct

    from ..ipc.plain import pack

    try:
        value = json.loads(text)
        pack(value)
    except (ValueError, RecursionError, struct.error) as error:
        raise Usage(f"{text[:40]}: not JSON that can be sent: {error}; for example '{{\"sku\": 7}}'") from error
    return value


@cli.command()
@click.argument("name")
@_located
def shell(name: str, config: str | None, sock: str | None) -> int:
    """A Python prompt inside a live worker, with await: Ctrl-C interrupts, Ctrl-D leaves.

    What does not come from a terminal is run as a whole: 0 done, 1 it raised.
    """
    from .prompt import prompt

    return prompt(name, find_socket(config, sock))


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is printed.")
@click.option("-n", "--lines", default=10, show_default=True, type=click.IntRange(0), help="Last lines of each.")
@_located
def logs(names: tuple[str, ...], follow: bool, lines: int, config: str | None, sock: str | None) -> int:
    """What workers print: bkd logs -f web."""
    from . import logfiles

    folder = os.path.join(run_dir(config, sock), "log")
    found = logfiles.log_names(folder, names)
    if not found and not follow:
        who = " and ".join(names) or "nobody"
        hint = 'with [log] mode = "inherit" it is in bkd\'s own output'
        raise BkdError(f"{who} has printed nothing into {folder}; {hint}")
    width = max((len(name) for name in found), default=8)
    source = logfiles.follow(folder, names, lines=lines) if follow else logfiles.tail(folder, names, lines)
    for name, line in source:
        click.echo(f"{name.ljust(width)} | {line}")
    return 0


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what happens.")
@click.option("--since", metavar="AGE", help="Only of the last 90s, 10m, 1h …")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line.")
@fleetwide(dry_run=False)
@_located
def events(follow: bool, since: str | None, as_json: bool, config: str | None, sock: str | None, **options: Any) -> int:
    """What the supervisor did, and why."""
    from pathlib import Path

    from . import journal

    fleet = FleetOptions(options)
    if fleet.fleet:
        if follow:
            raise Usage("--follow is for one host")
        asked = {"since": _age(since)} if since else {}
        return fleet.ask("events", asked, {"as_json": as_json, "config": config, "sock": sock})
    folder = Path(run_dir(config, sock))
    after = time.time() - _age(since) if since else None
    records = journal.follow(folder, since=after) if follow else journal.read(folder, since=after)
    for record in records:
        if as_json:
            click.echo(record.line.decode(errors="replace").rstrip("\n"))
        else:
            click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(record.time))} {record.describe()}")
    return 0


def _age(text: str) -> float:
    return _duration("--since", text)


def _duration(option: str, text: str) -> float:
    from ..ipc.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise Usage(f"{option} {text}: expected a duration such as 90s, 10m or 1h") from error


@cli.group()
def fleet() -> None:
    """Rollouts over the hosts of the application."""


@fleet.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@_located
def fleet_list(as_json: bool, **options: Any) -> int:
    """The newest rollouts first."""
    return ask("fleet-list", {}, render="json" if as_json else "text", **options)


@fleet.command("show")
@click.argument("rollout", default="")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@_located
def fleet_show(rollout: str, as_json: bool, **options: Any) -> int:
    """One rollout, host by host; the newest if none is named."""
    return ask("fleet-show", {"id": rollout}, render="json" if as_json else "text", **options)


@fleet.command("abort")
@click.argument("rollout")
@_located
def fleet_abort(rollout: str, **options: Any) -> int:
    """No further host begins; those that are at it go on."""
    return ask("fleet-abort", {"id": rollout}, **options)


@cli.command()
@click.option("-c", "--config", metavar="FILE", help="The configuration (default: ./bkd.toml).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def check(config: str | None, as_json: bool) -> int:
    """Validate the configuration and import each application in a throw-away process; all faults at once."""
    from .checking import check as run_check

    return run_check(places.find_config(config, os.environ), as_json=as_json)


@cli.command()
@click.argument("folder", default=".")
@click.option("-c", "--config", metavar="FILE", help="What a unit is for (default: ./bkd.toml).")
@click.option("--systemd", is_flag=True, help="Print a unit for systemd instead.")
@click.option("--socket-unit", is_flag=True, help="Print the units of its sockets instead.")
@click.option("--user", default="", metavar="USER", help="As whom the unit runs bkd.")
def init(folder: str, config: str | None, systemd: bool, socket_unit: bool, user: str) -> int:
    """Write a commented bkd.toml and a tiny application that runs as it is."""
    from .initialise import initialise, units

    if systemd or socket_unit:
        click.echo(units(config, user=user, sockets=socket_unit), nl=False)
        return 0
    for path in initialise(folder):
        click.echo(f"wrote {path}")
    inside = "" if folder == "." else f"cd {folder} && "
    click.echo(f"now: {inside}bkd start")
    return 0


register(cli, _located)
messaging.register(cli, _located)
