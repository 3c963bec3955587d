"""An executor in a process of its own, for tests of the dispatcher: begins what it gets, says so, and never ends it.

With `began=no` it does not say that anything has begun; after a lost connection it enlists again with what it holds.
"""

import os
import socket
import sys
import time

from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Began, Enlist, Enlisted, Held, Run, packed, unpacked
from bkd.ipc.frames import FrameReader
from bkd.ipc.processes import start_time


def main(path: str, slot: str, *options: str) -> None:
    settings = dict(option.split("=") for option in options)
    policy = KindPolicy("a", timeout=float(settings.get("timeout", "300")), grace=float(settings.get("grace", "5")))
    held: list[Held] = []
    while True:
        try:
            serve(path, slot, settings, policy, held)
        except OSError:
            time.sleep(0.02)


def serve(path: str, slot: str, settings: dict[str, str], policy: KindPolicy, held: list[Held]) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        pid, mode = os.getpid(), settings.get("mode", "shared")
        credit = int(settings.get("credit", "10"))
        connection.sendall(packed(Enlist(slot, "jobs", pid, start_time(pid), mode, credit, [policy], list(held))))
        reader = FrameReader()
        while data := connection.recv(1 << 18):
            for payload in reader.feed(data):
                hear(connection, unpacked(payload), settings, held)


def hear(connection: socket.socket, frame: object, settings: dict[str, str], held: list[Held]) -> None:
    match frame:
        case Enlisted(lost=lost):
            for one in lost:
                held.remove(one)
            if held:
                connection.sendall(packed(Began(held)))
            print("enlisted", flush=True)
        case Run(tasks=tasks):
            new = [Held(task.id, task.fence) for task in tasks]
            held += new
            if settings.get("began") != "no":
                connection.sendall(packed(Began(new)))
            for task in tasks:
                print("run", task.id, task.counters.runs, flush=True)


main(*sys.argv[1:])
