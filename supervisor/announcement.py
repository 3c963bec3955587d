"""How a start in the background ended, told once to whoever waits for it at a terminal."""

import contextlib
import os
from typing import Protocol

from ..ipc.processes import redirect
from . import events
from .cluster import Cluster
from .context import Context
from .keeperlink import KeeperLink
from .reconcile import hopeless
from .turns import Turns


class Owner(Protocol):
    """What it needs of the master."""

    context: Context
    turns: Turns
    run_dir: str

    def remember(self) -> None:
        """Write the state down before a promise is given."""


class Announcement:
    """`made`: it has been told, by this master or an earlier one."""

    def __init__(self, keeper: KeeperLink, *, wanted: bool) -> None:
        self.keeper, self.wanted = keeper, wanted
        self.made = False

    @property
    def due(self) -> bool:
        """Whether somebody waits."""
        return self.wanted and not self.made

    def conclude(self, master: Owner) -> None:
        """Called after a turn as long as somebody waits: the start is over when all are ready, or one never will be."""
        cluster = master.turns.cluster
        why = failure(cluster)
        if why:
            self.make(f"{master.context.last_trace}bkd: {why}\n", 1, master.run_dir)
            master.turns.post(events.StopAsked(why, code=1))
        elif is_up(cluster):
            self.made = True
            master.remember()
            self.make("", 0, master.run_dir)

    def make(self, text: str, code: int, run_dir: str) -> None:
        """Behind a zero byte stands the exit code; from then on standard error is a file."""
        self.made = True
        log = f"{run_dir}/log/bkd.log"
        self.keeper.tell("redirect", path=log)
        with contextlib.suppress(BrokenPipeError):  # whoever waited at the terminal is gone
            os.write(2, text.encode(errors="replace") + b"\0%d\n" % code)
        redirect(log)


def is_up(cluster: Cluster) -> bool:
    """Whether a start may call itself done."""
    return all(slot.is_up for _, slot in cluster.slots())


def failure(cluster: Cluster) -> str:
    """Why some group will not come up, "" while there is hope for all."""
    return next((f"{group.name}: {why}" for group in cluster.groups.values() if (why := hopeless(group))), "")
