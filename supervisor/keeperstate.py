"""What one keeper hands to the next that takes its place by exec: same process, same children, same descriptors.

Standard library only. Numbers of descriptors mean the same on both sides; between the two, signals wait in the kernel.
"""

import json
import os
import socket
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from . import spawning
from .trial import Code, Trial

if TYPE_CHECKING:
    from .keeper import Keeper

SCHEMA = 1
PLAIN = (
    "options",
    "master",
    "blank",
    "up",
    "starts",
    "born_at",
    "alone_since",
    "restart_at",
    "asked",
    "kept",
)
QUEUES = ("told", "untold")
RESUME = "from bkd.supervisor.keeperstate import resume; resume()"
CHECK = "from bkd.supervisor.keeperstate import read_once; read_once()"


def resume() -> None:
    """Entry point of the interpreter that takes a keeper's place."""
    from .keeper import Keeper

    keeper = Keeper({})
    restore(keeper, int(sys.argv[1]))
    sys.exit(keeper.go_on())


def read_once() -> None:
    """Entry point of a process that finds out whether `resume` would succeed; it has the same descriptors."""
    from .keeper import Keeper

    restore(Keeper({}), int(sys.argv[1]))


class NoSuccession(Exception):
    """The state is of a keeper that this one cannot follow."""


def check(keeper: "Keeper") -> int:
    """Start the code in use as a process that reads the state with all descriptors, and ends; its pid. Raises OSError.

    What it says goes where the words of masters on trial go.
    """
    fd, trial = _written(keeper), keeper.upgrade.trial
    try:
        with spawning.recording(trial.said if trial else os.devnull) as (record, _own):
            inherit = [fd, *_descriptors(keeper)]
            return spawning.spawn({"argv": _argv(keeper, CHECK, fd), "inherit": inherit, "err": record})
    finally:
        os.close(fd)


def replace(keeper: "Keeper") -> str:
    """Become the code in use. Returns only if that is impossible, with the reason; then nothing has changed."""
    if threading.get_native_id() != os.getpid():
        return "this is not the main thread"
    keeper.wakeup.block()
    fd = -1
    try:
        keeper.hear_signals()
        fd = _written(keeper)
        _pass_on([fd, *_descriptors(keeper)], True)
        argv = _argv(keeper, RESUME, fd)
        os.execvpe(argv[0], argv, os.environ)
    except OSError as error:
        why = spawning.in_words(error)
    _pass_on(_descriptors(keeper), False)
    if fd >= 0:
        os.close(fd)
    keeper.wakeup.unblock()
    return f"it could not be replaced: {why}"


def restore(keeper: "Keeper", fd: int) -> None:
    """Fill a new keeper with what `fd` holds, which is closed; what the descriptors are handed to is nobody else's.

    Raises NoSuccession, and whatever a state that makes no sense leads to.
    """
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        row = json.load(file)
    if row["schema"] != SCHEMA:
        raise NoSuccession(f"the running keeper writes schema {row['schema']}, this bkd reads {SCHEMA}: stop and start")
    for descriptor in keeper.kept.values():
        os.close(descriptor)
    for name in PLAIN:
        setattr(keeper, name, row.get(name, getattr(keeper, name)))
    for name in QUEUES:
        setattr(keeper, name, deque(row[name], maxlen=getattr(keeper, name).maxlen))
    upgrade = keeper.upgrade
    upgrade.using, upgrade.python_path = Code(*row["using"]), row["python_path"]
    upgrade.trial = Trial.restored(row["trial"]) if row["trial"] else None
    keeper.locks.held = row["locks"]
    keeper.births.pipes = dict(row["births"])
    keeper.herald.restore(row["herald"])
    keeper.listeners = {name: socket.socket(fileno=number) for name, number in row["listeners"].items()}
    keeper.link = _link(row["link"]) if row["link"] >= 0 else None
    _pass_on(_descriptors(keeper), False)


def _written(keeper: "Keeper") -> int:
    """The state in a file without a name."""
    upgrade = keeper.upgrade
    row: dict[str, Any] = {name: getattr(keeper, name) for name in PLAIN}
    row |= {name: list(getattr(keeper, name)) for name in QUEUES}
    row |= {
        "schema": SCHEMA,
        "using": upgrade.using,
        "python_path": upgrade.python_path,
        "trial": upgrade.trial.document() if upgrade.trial else None,
        "herald": keeper.herald.kept(),
        "locks": keeper.locks.held,
        "births": list(keeper.births.pipes.items()),
        "listeners": {name: listener.fileno() for name, listener in keeper.listeners.items()},
        "link": keeper.link.fileno() if keeper.link is not None else -1,
    }
    fd = os.memfd_create("bkd-keeper")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(json.dumps(row).encode())
    return fd


def _descriptors(keeper: "Keeper") -> list[int]:
    listeners = [listener.fileno() for listener in keeper.listeners.values()]
    link = [keeper.link.fileno()] if keeper.link is not None else []
    return [*listeners, *link, *keeper.births.pipes.values(), *keeper.locks.held.values(), *keeper.kept.values()]


def _pass_on(descriptors: list[int], inheritable: bool) -> None:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, inheritable)


def _argv(keeper: "Keeper", code: str, fd: int) -> list[str]:
    sys.stdout.flush()
    return [keeper.upgrade.using.python, "-P", "-c", code, str(fd)]


def _link(number: int) -> socket.socket:
    made = socket.socket(fileno=number)
    made.setblocking(False)
    return made
