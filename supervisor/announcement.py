"""How a start in the background ended, told once to whoever waits for it at a terminal."""

import contextlib
import os

from ..ipc.processes import redirect
from .cluster import Cluster
from .keeperlink import KeeperLink
from .reconcile import hopeless


class Announcement:
    """`made`: it has been told, by this master or an earlier one."""

    def __init__(self, keeper: KeeperLink, *, wanted: bool) -> None:
        self.keeper, self.wanted = keeper, wanted
        self.made = False

    @property
    def due(self) -> bool:
        """Whether somebody waits."""
        return self.wanted and not self.made

    def make(self, text: str, code: int, run_dir: str) -> None:
        """Behind a zero byte stands the exit code; from then on standard error is a file."""
        self.made = True
        log = f"{run_dir}/log/bkd.log"
        self.keeper.tell("redirect", path=log)
        with contextlib.suppress(BrokenPipeError):  # whoever waited at the terminal is gone
            os.write(2, text.encode(errors="replace") + b"\0%d\n" % code)
        redirect(log)


def failure(cluster: Cluster) -> str:
    """Why some group will not come up, "" while there is hope for all."""
    return next((f"{group.name}: {why}" for group in cluster.groups.values() if (why := hopeless(group))), "")
