"""Commands of `bkd` that only ask: status, why, dump, top, doctor."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from ..ipc.errors import BkdError
from .asking import USAGE, ask, say, show
from .client import Client, NotRunning, find_socket, run_dir
from .fleet.options import FleetOptions, FleetUsage, fleetwide
from .probe import probe

CLEAR = "\x1b[H\x1b[J"
WHY_LIMIT = 5.0  # seconds after which a master that does not answer is done without
Located = Callable[[Callable[..., Any]], Callable[..., Any]]


def register(cli: click.Group, located: Located) -> None:
    """Add them to the command line; `located` are the options of every command that talks to a cluster."""
    _register_status(cli, located)

    @cli.command()
    @click.option("--once", is_flag=True, help="One picture, without a terminal.")
    @located
    def top(once: bool, config: str | None, sock: str | None) -> int:
        """A live view of groups and workers; ? shows the keys."""
        from .top.app import run

        return run(find_socket(config, sock), once=once)

    @cli.command()
    @click.argument("name")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document.")
    @located
    def dump(name: str, as_json: bool, config: str | None, sock: str | None) -> int:
        """What a live worker is doing: every thread, every task, every open request.

        A worker that does not answer gets a signal, which cuts a sleep in C short.
        """
        return ask("dump", {"name": name, **_screen()}, config=config, sock=sock, render="json" if as_json else "text")

    @cli.command()
    @click.argument("name")
    @click.option("--all", "full", is_flag=True, help="The older ones in full, too.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document.")
    @located
    def why(name: str, full: bool, as_json: bool, config: str | None, sock: str | None) -> int:
        """How the last processes of a slot or group ended, with the evidence; the newest first.

        NAME.zygote tells of imports that failed. Works without a running cluster, too.
        """
        arguments = {"name": name, "all": full, **_screen()}
        render = "json" if as_json else "text"
        told: list[tuple[str, str]] = []
        try:
            client = Client(find_socket(config, sock))
            code, out, err = client.run(
                "why", arguments, render=render, progress=lambda *pieces: told.append(pieces), limit=WHY_LIMIT
            )
        except BkdError as error:
            return _without_master(error, arguments, render, config, sock)
        show("".join(piece for piece, _ in told) + out, "".join(piece for _, piece in told) + err)
        return code

    _register_doctor(cli)


def _register_status(cli: click.Group, located: Located) -> None:
    @cli.command()
    @click.option("--json", "as_json", is_flag=True, help="One JSON document.")
    @click.option("--watch", is_flag=True, help="Again every second until Ctrl-C.")
    @click.option("--openmetrics", is_flag=True, help="What a scrape of [metrics] would get.")
    @click.option("--healthy", is_flag=True, help="For probes: exit 0 when no group has failed for good, else 1.")
    @click.option("--ready", is_flag=True, help="With --healthy: exit 0 when every group serves as well.")
    @click.argument("names", nargs=-1, metavar="[GROUP]…")
    @fleetwide(dry_run=False)
    @located
    def status(
        as_json: bool,
        watch: bool,
        openmetrics: bool,
        healthy: bool,
        ready: bool,
        names: tuple[str, ...],
        **options: Any,
    ) -> int:
        """Groups, slots, processes and how they are. GROUPs can be named with --healthy."""
        fleet = FleetOptions(options)
        if healthy:
            if watch or openmetrics or fleet.fleet:
                raise FleetUsage("--healthy is of this host, now: leave the other options out")
            asked = {"healthy": True, "ready": ready, "names": list(names)}
            return probe(asked, render="json" if as_json else "text", **options)
        if ready or names:
            raise FleetUsage("--ready and names of groups go with --healthy")
        if openmetrics:
            if as_json or watch or fleet.fleet:
                raise FleetUsage("--openmetrics is of this host, now, and no JSON: leave the other options out")
            return ask("status", {}, render="openmetrics", **options)
        while True:
            if watch and not as_json and sys.stdout.isatty():
                sys.stdout.write(CLEAR)
            code = fleet.ask("status", {}, {**options, "as_json": as_json})
            if code or not watch:
                return code
            time.sleep(1.0)


def _screen() -> dict[str, Any]:
    """How wide the terminal is and whether it takes colours."""
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
    return {"width": shutil.get_terminal_size().columns, "colours": coloured}


def _without_master(
    error: BkdError, arguments: dict[str, Any], render: str, config: str | None, sock: str | None
) -> int:
    """The reports lie on the disk as well, for those who may read them."""
    from pathlib import Path

    from .forensics.casebook import Casebook
    from .forensics.why import is_name
    from .forensics.witness import answer

    if not is_name(arguments["name"]):
        sys.stderr.write(f"bkd: {arguments['name'][:40]!r} is no name of a group or slot; `bkd status` shows them\n")
        return USAGE
    try:
        folder = Path(run_dir(config, sock), "why")
        reports = Casebook(folder).read(arguments["name"]) if os.access(folder, os.R_OK) else []
    except BkdError:
        return say(error)
    if not reports:
        return say(error)
    if isinstance(error, NotRunning):
        sys.stderr.write("bkd: the cluster is not running; this is what it left behind\n")
    else:
        sys.stderr.write(f"bkd: {error}; this is from its files\n")
    show(answer(reports, arguments, render), "")
    return 0


def _register_doctor(cli: click.Group) -> None:
    @cli.group(invoke_without_command=True)
    @click.option("-c", "--config", metavar="FILE", help="The configuration, if there is one (default: ./bkd.toml).")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document.")
    @click.pass_context
    def doctor(context: click.Context, config: str | None, as_json: bool) -> int | None:
        """What this kernel and container allow, and what bkd does without it."""
        if context.invoked_subcommand is not None:
            return None
        from .doctor.examine import run

        return run(config or os.environ.get("BKD_CONFIG"), as_json)

    @doctor.command("fork-safety")
    @click.argument("app")
    @click.option("-c", "--config", metavar="FILE", help="The configuration, if there is one (default: ./bkd.toml).")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document.")
    def fork_safety(app: str, config: str | None, as_json: bool) -> int:
        """Import APP (MODULE:NAME, or a group) in a throw-away process and say whether it may be forked."""
        from .doctor.forksafety import run

        return run(app, config or os.environ.get("BKD_CONFIG"), as_json)
