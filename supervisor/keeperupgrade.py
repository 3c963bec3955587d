"""The keeper's part of `bkd upgrade`: tries another bkd as the master, takes it back, lets it take the keeper's place.

Runs in the keeper's only thread; standard library only.
"""

import contextlib
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from . import keeperstate, spawning
from .trial import Code, Trial

if TYPE_CHECKING:
    from .keeper import Keeper

LINK = 1  # version of what keeper and master say to each other
MASTER = "from bkd.supervisor.master import main; main()"


class KeeperUpgrade:
    """`using`: what masters run on; `python_path`: PYTHONPATH as the keeper was started with; `trial`: the last
    upgrade; `checker`: the process that finds out whether this keeper could be replaced."""

    def __init__(self, keeper: "Keeper") -> None:
        self.keeper = keeper
        self.using, self.python_path = Code(sys.executable), os.environ.get("PYTHONPATH")
        self.trial: Trial | None = None
        self.checker = 0

    @property
    def on_trial(self) -> Trial | None:
        """The upgrade that has no verdict yet."""
        return self.trial if self.trial is not None and not self.trial.settled else None

    @property
    def deadline(self) -> float | None:
        """When `hurry` has something to do."""
        trial = self.trial
        return trial.deadline if trial is not None and trial.is_busy and not trial.killed else None

    # -- orders

    def begin(self, order: dict[str, Any]) -> dict[str, Any]:
        """The next master runs other code; if none of it comes up, `back` of the order says where the old one lies."""
        if self.trial is not None and self.trial.is_busy:
            return {"error": "another upgrade is under way"}
        number = self.trial.number + 1 if self.trial is not None else 1
        back = Code(self.using.python, str(order.get("back", "")))
        self.trial = Trial(number, order, back, time.monotonic())
        return {"number": number}

    def document(self, order: dict[str, Any]) -> dict[str, Any]:
        """What masters run on, and the last upgrade; `told` in the order: it is in the journal."""
        if self.trial is not None and order.get("told"):
            self.trial.told = True
        upgrade = self.trial.document() if self.trial is not None else None
        return {"python": self.using.python, "given": self.python_path, "link": LINK, "upgrade": upgrade}

    # -- the master

    def spawn_master(self, fd: int) -> int:
        """A master with this end of a link; its pid. On trial its standard error is a file, and the real one a
        descriptor that it finds in its options. Raises OSError."""
        trial, options, code = self.on_trial, {**self.keeper.options, "fd": fd}, self.using
        with contextlib.ExitStack() as stack:
            order: dict[str, Any] = {"inherit": [fd]}
            if trial is not None:
                trial.begin_try()
                code = trial.new
                order["err"], terminal = stack.enter_context(spawning.recording(trial.said))
                order["inherit"], options["terminal"] = [fd, terminal], terminal
            order["env"] = {"PYTHONPATH": code.python_path(self.python_path)}
            return spawning.spawn({**order, "argv": [code.python, "-P", "-c", MASTER, json.dumps(options)]})

    def try_on(self, how: str) -> None:
        """A master has ended before the upgrade had its verdict, the first being the one that asked for it."""
        trial, keeper, now = self.on_trial, self.keeper, time.monotonic()
        if trial is None:
            return
        keeper.starts = 0
        if trial.goes_on(how, now):
            keeper.restart_at = now + trial.pause
            return
        keeper.terminal.write(f"bkd: the upgrade has failed: {trial.failed}; the old master is started again\n")
        self._use(trial.old)
        keeper.restart_at = now

    def passed(self) -> None:
        """A master is up."""
        trial = self.on_trial
        if trial is None or not trial.tries:
            return
        trial.passed(time.monotonic())
        self._use(trial.new)
        if trial.is_busy:
            self._check()

    def hurry(self) -> None:
        """Who does not come up in time, or does not say whether it could take this keeper's place, is killed."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return
        pid = self.checker if self.on_trial is None else self.keeper.master
        if pid and self.trial is not None:
            self.trial.killed = True
            os.kill(pid, signal.SIGKILL)
        else:
            self.try_on("")

    def _use(self, code: Code) -> None:
        """Masters, and what else is started from now on, come from there."""
        self.using, path = code, code.python_path(self.python_path)
        os.environ.pop("PYTHONPATH", None)
        if path is not None:
            os.environ["PYTHONPATH"] = path

    # -- the keeper

    def _check(self) -> None:
        """Whether the new code can read what it would be handed; the exit of that process is reaped like any other."""
        try:
            self.checker = keeperstate.check(self.keeper)
        except OSError as error:
            self._stays(f"the new one cannot be tried: {spawning.in_words(error)}")

    def checked(self, status: int) -> None:
        """That process has ended. Returns only if this keeper stays."""
        self.checker = 0
        if status:
            self._stays(f"the new one cannot take its place ({spawning.ending(status)})")
        elif self.keeper.code is not None or self.trial is None:
            self._stays("the cluster stops")
        else:
            self.trial.keeper = "done"
            self._stays(keeperstate.replace(self.keeper))

    def _stays(self, why: str) -> None:
        if self.trial is not None:
            self.trial.keeper = why
