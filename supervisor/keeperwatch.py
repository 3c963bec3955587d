"""What the keeper tells the master: which process has ended, which signal came, and by its silence that it is gone."""

import os
import signal
from collections.abc import Callable
from typing import Any

from loguru import logger

from . import events
from .desk import Desk
from .facts import KeeperLost
from .keeperlink import KeeperLink
from .reloads import Reloads
from .setup import Options
from .terminal import Terminal
from .tree import Handle

STOP_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGQUIT: "SIGQUIT"}


class KeeperWatch:
    """`is_over`: whether the cluster has ended by itself; `alone`: called when nobody reaps the workers any more."""

    def __init__(self, master: Desk, keeper: KeeperLink, options: Options, reloads: Reloads) -> None:
        self.master, self.keeper, self.options, self.reloads = master, keeper, options, reloads
        self.is_over: Callable[[], bool] = lambda: False
        self.alone: Callable[[], None] = lambda: None
        self._asked_to_stop = False
        keeper.on_lost, keeper.on_late = self._lost, self._end_late

    def begin(self) -> None:
        """Hear from now on, and what was told meanwhile."""
        self.keeper.hear(self._heard)

    def _heard(self, event: dict[str, Any], descriptors: list[int]) -> None:
        for fd in descriptors:
            os.close(fd)
        if event["event"] == "exit":
            self.master.effects.ended(event["pid"], event["status"], event.get("at"))
            self.master.exchange.ended(event["pid"])
        elif event["event"] == "signal":
            self._signalled(event["number"])

    def _end_late(self, pid: int, start: int) -> None:
        """A spawn that was given up and happened all the same: somebody else has its place by now."""
        handle = Handle.open(pid, start)
        if handle is not None:
            logger.warning("pid {} was started too late and is ended", pid)
            handle.signal(signal.SIGKILL)
            handle.close()

    def _signalled(self, number: int) -> None:
        name = STOP_SIGNALS.get(signal.Signals(number))
        if number == signal.SIGHUP:
            if not self.options.tty or os.isatty(1):  # of a terminal that is gone nothing can be asked
                self.master.tasks.run(self.reloads.by_signal())
                return
            name = "the terminal was closed"
        if name is None:
            logger.warning("{} is not understood yet", signal.Signals(number).name)
            return
        hasty, self._asked_to_stop = self._asked_to_stop, True
        if not hasty and not self.options.daemon and self.options.tty:
            Terminal(1).write("\rstopping; Ctrl-C again kills at once\n")
        self.master.turns.post(events.StopAsked(name, hasty=hasty))

    def _lost(self) -> None:
        """Nobody reaps the workers any more: they are drained, and the exit code is that of a failure."""
        closing = self.master.turns.cluster.closing
        if self.is_over() or (closing and closing.left):
            return
        self.master.tell(KeeperLost(pid=self.master.keeper_pid))
        self.master.turns.post(events.StopAsked("the keeper is gone", code=1))
        self.alone()
