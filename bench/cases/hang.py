"""The only worker stops (SIGSTOP) or turns in an endless loop: how long until a replacement answers.

One hang for each start of the peer, since hung workers are counted against it.
"""

import os
import random
import signal
import socket
import time

from case import Case, Figures
from client import ask_pid, replaced_after, request
from peers import Task, running
from place import HOST


def measure(name: str, *, loop: bool = False, limit: int = 1, cap: float = 15.0) -> Figures:
    with running(name, Task(hang_limit=limit)) as peer, socket.socket() as connection:
        peer.answering()
        time.sleep(3.5 + random.random())  # beyond the time in which a worker counts as new, at any phase of the checks
        victim = ask_pid(peer.port, timeout=5)  # only now: with so short a limit a peer may have replaced a healthy one
        since = time.monotonic()
        if loop:
            connection.connect((HOST, peer.port))
            connection.sendall(request("/hang"))
        else:
            os.kill(victim, signal.SIGSTOP)
        return {"hang to answer, s": [replaced_after(peer.port, victim, since, limit=cap, patience=0.25)]}


CASE = Case(
    title="hung worker, limit 1 s, until another answers",
    measure=measure,
    peers=("gunicorn", "gunicorn-sync", "uvicorn", "bkd"),
    variants={"stopped": {"loop": False}, "endless loop": {"loop": True}},
)
