"""The command `bkd`: finds out what is meant, and imports no more than that needs.

`bkd start` becomes the keeper and `bkd status` asks one question: neither loads click. Everything else does.
"""

import _signal  # the signal module loads enum, which costs as much as the whole of `bkd status`
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module costs more than the question
    from typing import Any

SIMPLE_START = {"-d": "daemon", "--daemon": "daemon", "--watch": "watch"}


def main() -> int:
    """Entry point of the console script; returns the exit code."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # no traceback for a Ctrl-C before there is anything to stop
    _open_standard_streams()
    arguments = sys.argv[1:]
    if arguments[:1] == ["start"]:
        options = _start_options(arguments[1:])
        if options is not None:
            return _start(options)
    if arguments[:1] == ["status"]:
        wanted = _status_options(arguments[1:])
        if wanted is not None:
            return _status(**wanted)
        asked = _probe_options(arguments[1:])
        if asked is not None:
            return _probe(**asked)
    from bkd.supervisor import commandline

    return commandline.main(arguments)


def _open_standard_streams() -> None:
    """Whoever starts this may have closed them; then nothing else must get their numbers."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _start_options(arguments: list[str]) -> dict[str, object] | None:
    """The options of a plain `bkd start`; None when click should look at them."""
    options: dict[str, object] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument in SIMPLE_START:
            options[SIMPLE_START[argument]] = True
        elif argument == "-c":
            options["config"] = next(rest, None)
        else:
            return None
    return options if options.get("config", "") is not None else None


def _start(options: dict[str, object]) -> int:
    from bkd.supervisor import launch

    return launch.start_from_file(options)


def _status_options(arguments: list[str]) -> dict[str, str | None] | None:
    wanted: dict[str, str | None] = {"config": None, "sock": None, "render": "text"}
    names = {"-c": "config", "--socket": "sock"}
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--json", "--openmetrics") and wanted["render"] == "text":
            wanted["render"] = argument[2:]
        elif argument in names:
            wanted[names[argument]] = next(rest, "")
        else:
            return None
    return None if "" in (wanted["config"], wanted["sock"]) else wanted


def _status(config: str | None, sock: str | None, render: str | None) -> int:
    from bkd.supervisor.asking import ask

    return ask("status", {}, config=config, sock=sock, render=render or "text")


def _probe_options(arguments: list[str]) -> "dict[str, Any] | None":
    """The options of a plain `bkd status --healthy`; None when click should look at them."""
    places: dict[str, str] = {}
    flags: set[str] = set()
    names: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-c", "--socket"):
            places[argument] = next(rest, "")
        elif argument in ("--healthy", "--ready", "--json"):
            flags.add(argument)
        elif argument.startswith("-"):
            return None
        else:
            names.append(argument)
    if "--healthy" not in flags or "" in places.values():
        return None
    render = "json" if "--json" in flags else "text"
    asked = {"healthy": True, "ready": "--ready" in flags, "names": names}
    return {"asked": asked, "config": places.get("-c"), "sock": places.get("--socket"), "render": render}


def _probe(asked: "dict[str, Any]", config: str | None, sock: str | None, render: str) -> int:
    from bkd.supervisor.probe import probe

    return probe(asked, config=config, sock=sock, render=render)
