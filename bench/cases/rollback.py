"""After a roll the operator goes back: how long until only the old code answers, and what it costs.

The old code is put back on disk neither before nor after, so it must come from memory.
"""

import time
from concurrent.futures import ThreadPoolExecutor

from case import Case, Figures
from deploy import Site
from peers import Task, running
from traffic import BUSY, CLOSED, flowing

LIMIT = 90.0
MIN_READY = 3.0
"""bkd's default."""
AFTERMATH = 2.0


def measure(name: str, *, workers: int = 4, heavy: bool = True) -> Figures:
    with running(name, Task(workers=workers, heavy=heavy)) as peer:
        peer.answering()
        site = Site(peer)
        with flowing(peer.port) as traffic:
            time.sleep(2)
            site.put_good()
            site.deploy(LIMIT).succeeded()
            since = time.monotonic()
            with ThreadPoolExecutor(1) as operator:
                command = operator.submit(site.run, peer.rollback_command(), LIMIT)
                site.version -= 1
                took = site.live_since(LIMIT) - since
                seconds = command.result().succeeded().seconds
            time.sleep(AFTERMATH)
            until = time.monotonic()
            record = traffic.record().of(*BUSY).between(since, until)
    return {
        "command, s": [seconds],
        "command beyond min_ready, s": [seconds - MIN_READY],
        "only old code answers, s": [took],
        "lost": [float(record.lost())],
        CLOSED: [float(record.count(CLOSED))],
        "longest silence, ms": [1000 * record.longest_silence()],
    }


CASE = Case(title="rollback of 4 heavy workers under load", measure=measure, peers=("bkd",))
