"""The keeper: parent of every process of a cluster, and the pid that systemd and the shell know.

Runs in the process that `bkd start` was. Standard library only, one thread, no policy, no application code: it binds
listeners and spawns processes when the master orders it, reaps whatever ends below it (it is a child subreaper, and
correct as PID 1), forwards signals, and starts the master again when that dies.

Keeper and master talk JSON over a SEQPACKET socketpair: one message a packet, listeners travel along as descriptors.
Orders carry an `id` and are answered with `re`; events (`born`, `exit`, `signal`) are told as they happen and kept
while no master is there to hear them.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..ipc.processes import redirect, start_time
from . import activation, datagrams, spawning
from .births import Births
from .herald import Herald
from .keeperupgrade import KeeperUpgrade
from .lockfile import Locks
from .spawning import ending, in_words
from .terminal import Terminal
from .wakeup import Wakeup

PACKET = 1 << 18
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
BLANK_ENV = {"BKD_TREE": "0" * 16, "SPT_NOENV": "1"}
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
EVENTS_KEPT = 10_000
EXITS_REMEMBERED = 200
HOPELESS = 3
NO_ROOM = 1.0
LEAVING = 1.5
LOOK = 0.02
BLANK = """\
try:
    from bkd.workers.zygote import main
except Exception as error:
    import sys
    sys.stderr.write(f"bkd: {sys.executable} cannot import bkd: {type(error).__name__}: {error}\\n")
    sys.exit(96)
main()
"""


class Keeper:
    """All that survives the death of a master: children, listeners, the lock, and what could not yet be told."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        os.environ.pop("BKD_TREE", None)  # of a worker that started this cluster: ours carry marks of their own
        self.terminal = Terminal()
        self.told: deque[dict[str, Any]] = deque(maxlen=EXITS_REMEMBERED)
        self.listeners = activation.inherited(os.environ)
        self.herald = Herald(os.environ, self.terminal.write)
        self.kept = {"state": os.memfd_create("bkd-state")}  # masters write, the keeper only keeps it
        self.births = Births()
        self.untold: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self.locks = Locks()
        self.upgrade = KeeperUpgrade(self)
        self.master = self.blank = 0
        self.link: socket.socket | None = None
        self.up = False
        self.starts = 0
        self.born_at = 0.0
        self.alone_since: float | None = None
        self.restart_at: float | None = None
        self.code: int | None = None
        self.asked = 0
        self.leave_by = 0.0
        self.wakeup = Wakeup((*FORWARDED, signal.SIGCHLD))

    def run(self) -> int:
        """Run until the cluster is over; returns the exit code of `bkd start`."""
        self._become_keeper()
        try:
            self._start_master()
            self.blank = self._spawn_blank()
        except OSError as error:
            self.terminal.write(f"bkd: the machine has no room for its processes: {in_words(error)}\n")
            self._leave(1)
        return self._live()

    def go_on(self) -> int:
        """The same for one that has taken the place of another by exec."""
        self._become_keeper()
        self._reap()
        return self._live()

    def _live(self) -> int:
        while not self._is_over():
            self._wait()
            self.hear_signals()
            self._reap()
            self.upgrade.hurry()
            if self.restart_at is not None and time.monotonic() >= self.restart_at:
                self._start_master()
        return self.code or 0

    def _is_over(self) -> bool:
        """With the exit code settled, helpers get a moment to end by themselves; whatever is left then is killed."""
        if self.code is None:
            return False
        if self.leave_by == 0.0:
            self.leave_by = time.monotonic() + LEAVING
            self.births.forget_all()
        left = spawning.children()
        if left and time.monotonic() > self.leave_by:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return not left or time.monotonic() > self.leave_by + LEAVING

    def _become_keeper(self) -> None:
        spawning.become_subreaper(b"bkd-keeper")
        self.wakeup.begin()

    # -- the master

    def _start_master(self) -> None:
        """Also the path after a crash. A machine that has no room for it now may have it in a moment."""
        self.restart_at = None
        try:
            self._spawn_master()
        except OSError as error:
            if not self.up:
                raise
            if self.upgrade.on_trial is not None:
                self.upgrade.try_on(in_words(error))
                return
            self.restart_at = time.monotonic() + NO_ROOM
            self.terminal.write(f"bkd: no new master can be started ({error.strerror}); trying again\n")
            return
        self._announce()

    def _spawn_master(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET)
            self.master = self.upgrade.spawn_master(theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.link, self.starts, self.born_at = ours, self.starts + 1, time.monotonic()

    def _announce(self) -> None:
        """A new master is told of listeners and living children, and again of the last deaths: its predecessor may
        have died before it heard of them."""
        names, own = activation.announced(self.listeners), (self.master, self.blank)
        born = {
            "event": "born",
            "locks": list(self.locks.held),
            "keeper": os.getpid(),
            "starts": self.starts,
            "children": [[pid, start_time(pid)] for pid in spawning.children() if pid not in own],
            "listeners": names,
            "kept": list(self.kept),
            "above": self.herald.told(),
            "alone": self.alone_since,
        }
        waiting = any(event["event"] == "signal" and event["number"] in ENDING for event in self.untold)
        if self.asked and not waiting:  # its predecessor may have died before it heard of it
            self.untold.append({"event": "signal", "number": self.asked})
        self.untold.extendleft(reversed(self.told))
        self.told.clear()
        descriptors = [*(self.listeners[name].fileno() for name in names), *self.kept.values()]
        self.untold.appendleft({**born, "descriptors": descriptors})

    def _master_ended(self, status: int) -> None:
        self._hear_master()  # what it said last, such as "up" or "exit", may not have been read yet
        if self.link is not None:
            self.link.close()
            self.link = None
        self.master = 0
        if self.alone_since is None:
            self.alone_since = time.monotonic()
        if self.code is not None:
            return
        if not self.up:
            if os.WIFSIGNALED(status):
                self.terminal.write(f"bkd: the master ended while it was starting ({ending(status)})\n")
            self._leave(os.waitstatus_to_exitcode(status))
            return
        self.herald.lost()
        self.untold = deque((e for e in self.untold if e["event"] != "born" and "re" not in e), EVENTS_KEPT)
        if self.upgrade.on_trial is not None:
            self.upgrade.try_on(ending(status))
            return
        lived = time.monotonic() - self.born_at
        if self.asked and self.starts > HOPELESS and lived < 15.0:
            self._end_everything()
            return
        self.starts = 1 if lived > 15.0 else self.starts
        delay = 0.0 if self.starts <= 1 else min(5.0, 0.1 * 2 ** min(self.starts, 10))
        self.restart_at = time.monotonic() + delay
        self.terminal.write(f"bkd: the master ended ({ending(status)}); starting it again\n")

    def _end_everything(self) -> None:
        """Somebody wants the cluster to stop, and no master lives long enough to do it in order."""
        self.terminal.write("bkd: the master does not come up; everything is ended\n")
        for pid in spawning.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._leave(1)

    def _leave(self, code: int) -> None:
        """The master never came up: nothing of the cluster stays behind."""
        self._close_listeners()
        self.code = code if 0 <= code < 126 else 1

    def _close_listeners(self) -> None:
        for name, listener in self.listeners.items():
            spawning.close_listener(listener, ours=not activation.is_inherited(name))

    # -- waiting and telling

    def _wait(self) -> None:
        self._tell()
        self.herald.keep_alive()
        poll = select.poll()
        poll.register(self.wakeup.descriptor, select.POLLIN)
        if self.link is not None:
            poll.register(self.link, select.POLLIN | (select.POLLOUT if self.untold else 0))
        for fd, happened in poll.poll(self._timeout()):
            if self.link is not None and fd == self.link.fileno() and happened & (select.POLLIN | select.POLLHUP):
                self._hear_master()

    def _timeout(self) -> float | None:
        """Milliseconds until something has to be done by itself."""
        if self.code is not None:
            return LOOK * 1000
        wanted = self.restart_at, self.upgrade.deadline, self.herald.due
        moments = [moment for moment in wanted if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) * 1000 if moments else None

    def _tell(self) -> None:
        while self.untold and self.link is not None:
            event = dict(self.untold[0])
            if event["event"] == "born":
                event["blank"] = self.blank
            descriptors = event.pop("descriptors", [])
            try:
                socket.send_fds(self.link, [json.dumps(event).encode()], descriptors)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                    return  # the master is gone: its death is reaped in a moment, and the event stays untold
                self.terminal.write(f"bkd: cannot tell the master of {event['event']}: {error.strerror}\n")
            told = self.untold.popleft()
            if told["event"] == "exit":
                self.told.append(told)

    def _hear_master(self) -> None:
        for _ in range(256):
            if self.link is None:
                return
            try:
                packet = self.link.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.link.close()
                self.link = None
                return
            try:
                order = json.loads(packet)
            except ValueError:
                self.terminal.write("bkd: an order of the master cannot be read and is passed over\n")
                continue
            self._obey(order)

    def hear_signals(self) -> None:
        """Those that have come; masters are told of them."""
        for number in self.wakeup.arrived():
            if number in ENDING:
                self.asked = number
            if number in FORWARDED:
                self.untold.append({"event": "signal", "number": number})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.master:
                self._master_ended(status)
            elif pid == self.upgrade.checker:
                self.upgrade.checked(status)
            else:
                self.births.forget(pid)
                self.blank = 0 if pid == self.blank else self.blank
                self.untold.append({"event": "exit", "pid": pid, "status": status, "at": time.monotonic()})

    # -- orders

    def _obey(self, order: dict[str, Any]) -> None:
        try:
            answer = ORDERS[order["do"]](self, order)
        except OSError as error:
            answer = {"error": in_words(error), "errno": error.errno}
        except Exception as error:  # noqa: BLE001 - whatever the order was, the keeper lives on
            answer = {"error": f"{type(error).__name__}: {error}"}
        if "id" in order:
            self.untold.append({"event": "answer", "re": order["id"], **answer})

    def _bind(self, order: dict[str, Any]) -> dict[str, Any]:
        """What masters have to ask for is given to the next one as it is."""
        name = order["name"]
        if activation.is_asked_for(name):
            return {"name": name, "descriptors": datagrams.held(self.listeners, order)}
        listener = self.listeners[name] = spawning.listen(order)
        return {"name": name, "descriptors": [listener.fileno()]}

    def _close(self, order: dict[str, Any]) -> dict[str, Any]:
        for name in datagrams.names(order["name"]):
            if name in self.listeners:
                spawning.close_listener(self.listeners.pop(name))
        return {}

    def _lock(self, order: dict[str, Any]) -> dict[str, Any]:
        return self.locks.take(order["path"])

    def _spawn(self, order: dict[str, Any]) -> dict[str, Any]:
        """Spawn a program; `birth` is a line it finds on its standard input, `notify` the order to bind what it is to
        speak to. One order for both: whoever gives it may die at any moment."""
        heard = self._bind(order["notify"])["descriptors"] if "notify" in order else []
        birth = order.get("birth")
        if birth is None:
            given = activation.chosen(self.listeners, order.get("listeners", ()))
            pid = spawning.spawn({**order, "listeners": given})
        else:
            pid = self.births.spawn(order)
            if birth:
                self.births.give(pid, birth)
        return {"pid": pid, "start": start_time(pid), "descriptors": heard}

    def _spawn_blank(self) -> int:
        return self.births.spawn({"argv": [sys.executable, "-P", "-c", BLANK, "warm"], "env": BLANK_ENV})

    def _give_birth(self, order: dict[str, Any]) -> dict[str, Any]:
        self.births.give(order["pid"], order["birth"])
        self.blank = 0 if order["pid"] == self.blank else self.blank
        return {}

    def _notify(self, order: dict[str, Any]) -> dict[str, Any]:
        self.herald.say(order["text"])
        return {}

    def _redirect(self, order: dict[str, Any]) -> dict[str, Any]:
        """In the background: say what there is to say into a file from now on."""
        redirect(order["path"])
        return {}

    def _mark_up(self, order: dict[str, Any]) -> dict[str, Any]:
        self.up, self.alone_since = True, None
        self.upgrade.passed()
        return {}

    def _exit(self, order: dict[str, Any]) -> dict[str, Any]:
        self.code = int(order["code"])
        self._close_listeners()
        return {}


ORDERS: dict[str, Callable[[Keeper, dict[str, Any]], dict[str, Any]]] = {
    "bind": Keeper._bind,
    "close": Keeper._close,
    "lock": Keeper._lock,
    "spawn": Keeper._spawn,
    "birth": Keeper._give_birth,
    "up": Keeper._mark_up,
    "notify": Keeper._notify,
    "redirect": Keeper._redirect,
    "exit": Keeper._exit,
    "upgrade": lambda keeper, order: keeper.upgrade.begin(order),
    "upgraded": lambda keeper, order: keeper.upgrade.document(order),
}
