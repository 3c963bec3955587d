"""`--fleet` and what goes with it, for the commands that every host of the application obeys."""

from collections.abc import Callable
from typing import Any

import click

from ...ipc.units import parse_duration
from ..asking import ask

NEEDS_FLEET = {"tag": "--tag", "hosts": "--host", "batch": "--batch", "max_fail": "--max-fail", "expires": "--expires"}
LOOKS = ("status", "events")
Function = Callable[..., Any]


class FleetUsage(click.ClickException):
    """Options that make no sense together."""

    exit_code = 2


def fleetwide(*, rolls: bool = False, as_json: bool = False, dry_run: bool = True) -> Callable[[Function], Function]:
    """Decorator: the options of a command that can be for the fleet. `rolls`: hosts take turns; `as_json`, `dry_run`:
    the command has no such option of its own."""
    options = [
        click.option("--fleet", is_flag=True, help="On every host of the application, over the bus."),
        click.option("--tag", metavar="TAG", help="With --fleet: only hosts with this tag."),
        click.option(
            "--host", "hosts", multiple=True, metavar="HOST", help="With --fleet: only this host; repeatable."
        ),
        click.option(
            "--expires", metavar="AGE", help="With --fleet: how long a host may be cut off and still obey (15s)."
        ),
    ]
    if dry_run:
        options.append(click.option("--dry-run", "only_say", is_flag=True, help="With --fleet: only say which hosts."))
    if rolls:
        options += [
            click.option("--batch", metavar="N|P%", help="With --fleet: how many hosts at a time (default 1)."),
            click.option("--max-fail", type=click.IntRange(0), help="With --fleet: go on until more hosts failed (0)."),
        ]
    if as_json:
        options.append(click.option("--json", "as_json", is_flag=True, help="With --fleet: one JSON document."))

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class FleetOptions:
    """What `fleetwide` added to a command, taken out of its options. Raises FleetUsage for what makes no sense."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.fleet = bool(options.pop("fleet"))
        self.no_wait = False
        only_say = bool(options.pop("only_say", False))
        given = {name: options.pop(name, None) for name in NEEDS_FLEET}
        given["hosts"] = list(given["hosts"] or ())
        self.chosen = {name: value for name, value in given.items() if value not in (None, [])}
        if not self.fleet and (self.chosen or only_say):
            option = NEEDS_FLEET[next(iter(self.chosen))] if self.chosen else "--dry-run"
            raise FleetUsage(f"{option} is for --fleet")
        self.chosen |= {"dry_run": True} if only_say else {}
        if "expires" in self.chosen:
            self.chosen["expires"] = _seconds(self.chosen["expires"])

    def ask(self, verb: str, arguments: dict[str, Any], options: dict[str, Any]) -> int:
        """Ask this host, or have its master ask the fleet. `options`: as_json, config and sock."""
        render = "json" if options.pop("as_json", False) else "text"
        waiting = {"no_wait": True} if self.no_wait else {}
        if not self.fleet:
            return ask(verb, arguments | waiting, render=render, **options)
        about = {"verb": verb, "arguments": arguments, **waiting, **self.chosen}
        return ask("fleet-look" if verb in LOOKS else "fleet", about, render=render, **options)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise FleetUsage(f"--expires {text}: expected a duration such as 30s or 5m") from error
