"""Stands in for a zygote: prepares the application once, forks workers, and tells how each of them ended.

Arguments: one JSON object. Every worker speaks over its own inherited socket, one JSON document a line.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from bkd.ipc.message import Drain, WebWork
from bkd.workers.supervision import Load
from bkd.workers.web import Web, prepare


class Wire:
    """The supervision of one worker over a socket: orders come in a thread, as they do from the heartbeat."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.load: Callable[[], Load] = Load
        self.drain: Callable[[Drain], None] = lambda order: None

    def watch(self, loop: Any, load: Callable[[], Load], work: Any = None) -> None:
        self.load = load

    def ready(self) -> None:
        self.say(ready=os.getpid())

    def failed(self, reason: str, trace: str = "") -> None:
        self.say(failed=reason)

    def terminated(self) -> None:
        """Nobody here asks how it came to its end."""

    def on_serve(self, callback: Callable[[], None]) -> bool:
        return False

    def on_drain(self, callback: Callable[[Drain], None]) -> None:
        self.drain = callback
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        for line in self.sock.makefile("r"):
            order = json.loads(line)
            if order["op"] == "drain":
                self.drain(Drain(last=order["last"]))
            else:
                self.say(load=list(self.load()))

    def say(self, **facts: Any) -> None:
        self.sock.sendall(json.dumps(facts).encode() + b"\n")


def work(web: Web, listeners: list[socket.socket], control: int, index: int) -> None:
    wire = Wire(socket.socket(fileno=control))
    code = 70
    try:
        code = web.serve(listeners, wire, index)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(options: dict[str, Any]) -> None:
    web = prepare(WebWork(app=options["app"], lame_duck=options["lame_duck"], slots=options["slots"]))
    listeners = [socket.socket(fileno=descriptor) for descriptor in options["listeners"]]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pids = {}
    for index, control in enumerate(options["controls"]):
        pid = os.fork()
        if pid == 0:
            work(web, listeners, control, index)
        pids[pid] = index
    for descriptor in options["controls"]:
        os.close(descriptor)
    for _ in options["controls"]:
        pid, status = os.wait()
        sys.stdout.write(json.dumps([pids[pid], os.waitstatus_to_exitcode(status)]) + "\n")
        sys.stdout.flush()


main(json.loads(sys.argv[1]))
