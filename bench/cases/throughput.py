"""CPU time of the workers for one request on kept connections, in pairs with uvicorn, and uvicorn against itself."""

import load
from case import Case, Figures
from peers import Task, running


def measure(name: str, *, workers: int = 2, connections: int = 32, seconds: int = 5) -> Figures:
    with running(name, Task(workers=workers)) as peer:
        pids = list(peer.answering())
        load.run(peer.port, pids, seconds=1, connections=connections)
        run = load.run(peer.port, pids, seconds=seconds, connections=connections)
        return {"CPU per request, µs": [1e6 * sum(run.cpu) / run.requests], "requests/s": [run.rate]}


CASE = Case(
    title="throughput",
    measure=measure,
    peers=("uvicorn", "bkd", "uvicorn-again"),
    rounds=10,
    baseline="uvicorn",
)
