"""The keeper: parent of every process of a cluster, and the pid that systemd and the shell know.

Runs in the process that `bkd start` was. Standard library only, one thread, no policy, no application code: it binds
listeners and spawns processes when the master orders it, reaps whatever ends below it (it is a child subreaper, and
correct as PID 1), forwards signals, and starts the master again when that dies.

Keeper and master talk JSON over a SEQPACKET socketpair: one message a packet, listeners travel along as descriptors.
Orders carry an `id` and are answered with `re`; events (`born`, `exit`, `signal`) are told as they happen and kept
while no master is there to hear them.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from typing import Any

from ..ipc.processes import redirect, start_time
from . import spawning
from .terminal import Terminal

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
MASTER = "from bkd.supervisor.master import main; main()"
BLANK = """\
try:
    from bkd.workers.zygote import main
except Exception as error:
    import sys
    sys.stderr.write(f"bkd: {sys.executable} cannot import bkd: {type(error).__name__}: {error}\\n")
    sys.exit(96)
main()
"""
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15


class Keeper:
    """All that survives the death of a master: children, listeners, the lock, and what could not yet be told."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        os.environ.pop("BKD_TREE", None)  # of a worker that started this cluster: ours carry marks of their own
        self.terminal = Terminal()
        self.told: deque[dict[str, Any]] = deque(maxlen=EXITS_REMEMBERED)
        self.listeners: dict[str, socket.socket] = {}
        self.births: dict[int, int] = {}
        self.untold: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self.locks: dict[str, int] = {}
        self.master = 0
        self.link: socket.socket | None = None
        self.blank = 0
        self.up = False
        self.starts = 0
        self.born_at = 0.0
        self.restart_at: float | None = None
        self.code: int | None = None
        self.asked = 0
        self.leave_by = 0.0
        self.wake_in, self.wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        """Run until the cluster is over; returns the exit code of `bkd start`."""
        self._become_keeper()
        try:
            self._start_master()
            self.blank = self._spawn_blank()
        except OSError as error:
            self.terminal.write(f"bkd: the machine has no room for its processes: {_in_words(error)}\n")
            self._leave(1)
        while not self._is_over():
            self._wait()
            self._hear_signals()
            self._reap()
            if self.restart_at is not None and time.monotonic() >= self.restart_at:
                self._start_master()
        return self.code or 0

    def _is_over(self) -> bool:
        """With the exit code settled, helpers get a moment to end by themselves; whatever is left then is killed."""
        if self.code is None:
            return False
        if self.leave_by == 0.0:
            self.leave_by = time.monotonic() + LEAVING
            for pid in list(self.births):
                self._forget_birth(pid)
        left = spawning.children()
        if left and time.monotonic() > self.leave_by:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return not left or time.monotonic() > self.leave_by + LEAVING

    def _become_keeper(self) -> None:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(_PR_SET_NAME, b"bkd-keeper", 0, 0, 0)
        signal.set_wakeup_fd(self.wake_out, warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)

    # -- the master

    def _start_master(self) -> None:
        """Also the path after a crash. A machine that has no room for it now may have it in a moment."""
        self.restart_at = None
        try:
            self._spawn_master()
        except OSError as error:
            if not self.up:
                raise
            self.restart_at = time.monotonic() + NO_ROOM
            self.terminal.write(f"bkd: no new master can be started ({error.strerror}); trying again\n")
            return
        self._announce()

    def _spawn_master(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET)
            options = json.dumps({**self.options, "fd": theirs.fileno()})
            argv = [sys.executable, "-P", "-c", MASTER, options]
            self.master = spawning.spawn({"argv": argv, "inherit": [theirs.fileno()]})
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
        names, own = list(self.listeners), (self.master, self.blank)
        born = {
            "event": "born",
            "locks": list(self.locks),
            "keeper": os.getpid(),
            "starts": self.starts,
            "children": [[pid, start_time(pid)] for pid in spawning.children() if pid not in own],
            "listeners": names,
        }
        waiting = any(event["event"] == "signal" and event["number"] in ENDING for event in self.untold)
        if self.asked and not waiting:  # its predecessor may have died before it heard of it
            self.untold.append({"event": "signal", "number": self.asked})
        self.untold.extendleft(reversed(self.told))
        self.told.clear()
        self.untold.appendleft({**born, "descriptors": [self.listeners[name].fileno() for name in names]})

    def _master_ended(self, status: int) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None
        self.master = 0
        if self.code is not None:
            return
        if not self.up:
            if os.WIFSIGNALED(status):
                self.terminal.write(f"bkd: the master ended while it was starting ({_ending(status)})\n")
            self._leave(os.waitstatus_to_exitcode(status))
            return
        self.untold = deque((e for e in self.untold if e["event"] != "born" and "re" not in e), EVENTS_KEPT)
        lived = time.monotonic() - self.born_at
        if self.asked and self.starts > HOPELESS and lived < 15.0:
            self._end_everything()
            return
        self.starts = 1 if lived > 15.0 else self.starts
        delay = 0.0 if self.starts <= 1 else min(5.0, 0.1 * 2 ** min(self.starts, 10))
        self.restart_at = time.monotonic() + delay
        self.terminal.write(f"bkd: the master ended ({_ending(status)}); starting it again\n")

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
        for listener in self.listeners.values():
            spawning.close_listener(listener)

    # -- waiting and telling

    def _wait(self) -> None:
        self._tell()
        poll = select.poll()
        poll.register(self.wake_in, select.POLLIN)
        if self.link is not None:
            poll.register(self.link, select.POLLIN | (select.POLLOUT if self.untold else 0))
        timeout = None if self.restart_at is None else max(0.0, self.restart_at - time.monotonic()) * 1000
        timeout = LOOK * 1000 if self.code is not None else timeout
        for fd, happened in poll.poll(timeout):
            if self.link is not None and fd == self.link.fileno() and happened & (select.POLLIN | select.POLLHUP):
                self._hear_master()

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

    def _hear_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self.wake_in, 4096):
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
            else:
                self._forget_birth(pid)
                self.blank = 0 if pid == self.blank else self.blank
                self.untold.append({"event": "exit", "pid": pid, "status": status})

    def _forget_birth(self, pid: int) -> None:
        if pid in self.births:
            os.close(self.births.pop(pid))

    # -- orders

    def _obey(self, order: dict[str, Any]) -> None:
        try:
            answer = ORDERS[order["do"]](self, order)
        except OSError as error:
            answer = {"error": _in_words(error), "errno": error.errno}
        except Exception as error:  # noqa: BLE001 - whatever the order was, the keeper lives on
            answer = {"error": f"{type(error).__name__}: {error}"}
        if "id" in order:
            self.untold.append({"event": "answer", "re": order["id"], **answer})

    def _bind(self, order: dict[str, Any]) -> dict[str, Any]:
        listener = spawning.listen(order)
        self.listeners[order["name"]] = listener
        return {"name": order["name"], "descriptors": [listener.fileno()]}

    def _close(self, order: dict[str, Any]) -> dict[str, Any]:
        listener = self.listeners.pop(order["name"], None)
        if listener is not None:
            spawning.close_listener(listener)
        return {}

    def _lock(self, order: dict[str, Any]) -> dict[str, Any]:
        """Hold a lock file for as long as the keeper lives; the answer names the holder when somebody else does."""
        if order["path"] in self.locks:
            return {}
        fd = os.open(order["path"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 64).decode(errors="replace").strip()
            os.close(fd)
            return {"error": "locked", "holder": holder}
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        self.locks[order["path"]] = fd
        return {}

    def _spawn(self, order: dict[str, Any]) -> dict[str, Any]:
        """Spawn a program; `birth` is a line it finds on its standard input."""
        birth = order.get("birth")
        if birth is None:
            pid = spawning.spawn(order)
        else:
            pid = self._spawn_with_pipe(order)
            if birth:
                self._give_birth({"pid": pid, "birth": birth})
        return {"pid": pid, "start": start_time(pid)}

    def _spawn_with_pipe(self, order: dict[str, Any]) -> int:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            pid = spawning.spawn({**order, "stdin": read_end})
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self.births[pid] = write_end
        return pid

    def _spawn_blank(self) -> int:
        return self._spawn_with_pipe({"argv": [sys.executable, "-P", "-c", BLANK, "warm"], "env": BLANK_ENV})

    def _give_birth(self, order: dict[str, Any]) -> dict[str, Any]:
        """A line of at most PIPE_BUF bytes: the write cannot block."""
        with contextlib.suppress(BrokenPipeError, KeyError):  # it has ended: its exit was told, or will be
            os.write(self.births[order["pid"]], order["birth"].encode())
        self._forget_birth(order["pid"])
        if order["pid"] == self.blank:
            self.blank = 0
        return {}

    def _redirect(self, order: dict[str, Any]) -> dict[str, Any]:
        """In the background: say what there is to say into a file from now on."""
        redirect(order["path"])
        return {}

    def _mark_up(self, order: dict[str, Any]) -> dict[str, Any]:
        self.up = True
        return {}

    def _exit(self, order: dict[str, Any]) -> dict[str, Any]:
        self.code = int(order["code"])
        self._close_listeners()
        return {}


ORDERS = {
    "bind": Keeper._bind,
    "close": Keeper._close,
    "lock": Keeper._lock,
    "spawn": Keeper._spawn,
    "birth": Keeper._give_birth,
    "up": Keeper._mark_up,
    "redirect": Keeper._redirect,
    "exit": Keeper._exit,
}


def _in_words(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
