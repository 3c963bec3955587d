"""Stands in for zygote and heartbeat: forks executors, and tells what they say of themselves and how they ended.

Orders come on standard input, one JSON object a line: each is an executor to be forked. It speaks over the socket that
the order names. Ends are told on standard output: pid and exit code.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from bkd.ipc.message import Drain, MessagesWork
from bkd.workers.messages.executor import prepare
from bkd.workers.supervision import Load


class Wire:
    """The supervision: orders come in a thread, as they do from the heartbeat."""

    def __init__(self, sock: socket.socket, quiet: bool) -> None:
        self.sock, self.quiet = sock, quiet
        self.load: Callable[[], Load] = Load
        self.work: Callable[[], list[Any]] = list
        self.drain: Callable[[Drain], None] = lambda order: None
        self.serve: Callable[[], None] = lambda: None

    def watch(self, loop: Any, load: Callable[[], Load], work: Any = list) -> None:
        self.load, self.work = load, work

    def ready(self) -> None:
        self.say(ready=os.getpid())

    def failed(self, reason: str, trace: str = "") -> None:
        self.say(failed=reason)

    def terminated(self) -> None:
        self.say(terminated=True)

    def on_serve(self, callback: Callable[[], None]) -> bool:
        self.serve = callback
        return self.quiet

    def on_drain(self, callback: Callable[[Drain], None]) -> None:
        self.drain = callback
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        for line in self.sock.makefile("r"):
            order = json.loads(line)
            match order["op"]:
                case "drain":
                    self.drain(Drain(last=order["last"]))
                case "serve":
                    self.serve()
                case "load":
                    self.say(load=list(self.load()), work=[each.what for each in self.work()])

    def say(self, **facts: Any) -> None:
        self.sock.sendall(json.dumps(facts).encode() + b"\n")


def work(order: dict[str, Any]) -> None:
    """Runs in the executor."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(order["control"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    os.environ |= order["env"]
    code = 70
    try:
        code = prepare(MessagesWork(**order["work"])).serve([], Wire(sock, order["quiet"]), 0)
    except BaseException:  # noqa: BLE001 - whatever it is, the test reads it in the log
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def reap(number: int, frame: Any) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            os.write(1, json.dumps([ended[0], os.waitstatus_to_exitcode(ended[1])]).encode() + b"\n")


def main() -> None:
    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        if os.fork() == 0:
            work(json.loads(line))


if __name__ == "__main__":
    main()
