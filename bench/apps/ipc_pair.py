"""Two processes on one core that send each other messages and wait for them: KIND CORE TRIPS SENDS BATCHES

pipe: multiprocessing.Pipe, objects; pipe-bytes: the same, bytes alone; codec: bkd's frames over a pair of sockets, no
event loop. Prints figures as JSON.
"""

import json
import multiprocessing
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from cpu import cpu_seconds

TEXT = "x" * 100
Ends = tuple[Callable[[Any], object], Callable[[], Any]]


def pipe() -> tuple[Ends, Ends, Any]:
    one, other = multiprocessing.Pipe()
    return (one.send, one.recv), (other.send, other.recv), {"id": 1, "op": "echo", "data": TEXT}


def pipe_bytes() -> tuple[Ends, Ends, Any]:
    one, other = multiprocessing.Pipe()
    return (one.send_bytes, one.recv_bytes), (other.send_bytes, other.recv_bytes), TEXT.encode()


def codec() -> tuple[Ends, Ends, Any]:
    from bkd.ipc.frames import FrameReader
    from bkd.ipc.parcel import Parcel, pack, read

    def ends(sock: socket.socket) -> Ends:
        reader, inbox = FrameReader(), deque[Any]()

        def receive() -> Any:
            while not inbox:
                inbox.extend(map(read, reader.feed(sock.recv(1 << 16))))
            return inbox.popleft()

        return (lambda parcel: sock.sendall(pack(parcel))), receive

    one, other = socket.socketpair()
    return ends(one), ends(other), Parcel("echo", TEXT, 1, 0, "server", "", 5.0)


def answer(ends: Ends, trips: int, sends: int, batches: int) -> None:
    """In the other process."""
    send, receive = ends
    for _ in range(batches):
        for _ in range(trips):
            send(receive())
    for _ in range(batches):
        for _ in range(sends):
            last = receive()
        send(last)


def ask(ends: Ends, message: Any, child: int, trips: int, sends: int, batches: int) -> dict[str, list[float]]:
    send, receive = ends
    there_and_back, there = [], []
    used = cpu_seconds(os.getpid(), child)
    for _ in range(batches):
        since = monotonic()
        for _ in range(trips):
            send(message)
            receive()
        there_and_back.append(trips / (monotonic() - since))
    cpu = 1e6 * (cpu_seconds(os.getpid(), child) - used) / trips / batches
    for _ in range(batches):
        since = monotonic()
        for _ in range(sends):
            send(message)
        receive()
        there.append(sends / (monotonic() - since))
    return {"round trips/s": there_and_back, "CPU of both, µs a round trip": [cpu], "one way/s": there}


def main() -> None:
    kind, core, *counts = sys.argv[1:]
    trips, sends, batches = map(int, counts)
    os.sched_setaffinity(0, {int(core)})
    one, other, message = {"pipe": pipe, "pipe-bytes": pipe_bytes, "codec": codec}[kind]()
    if child := os.fork():
        print(json.dumps(ask(one, message, child, trips, sends, batches)))
        os.waitpid(child, 0)
    else:
        try:
            answer(other, trips, sends, batches)
        finally:
            os._exit(0)


if __name__ == "__main__":
    main()
