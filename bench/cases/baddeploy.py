"""Ten bad versions are deployed one after the other under load, each followed by a good one.

How much each costs, whether the operator is told, and whether the next good version comes into use. A supervisor that
has ended, or that good versions no longer help, is started anew for the next bad one.
"""

import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from case import Case, Figures
from client import free_port
from deploy import Site
from faults import FAULTS, Fault
from figures import Rounds, grid, pooled, shown
from peers import Task, running
from place import HOST, pm2
from traffic import BUSY, CLOSED, flowing

TOLD = {2.0: "told by the command", 1.0: "told in the log", 0.0: "told nowhere"}
"""Where the reason could be read."""
RECOVERY_LIMIT = 20.0


def measure(name: str, *, workers: int = 2, window: float = 8.0, patience: float = 15.0, only: str = "") -> Figures:
    """`window`: seconds that are watched after a bad deploy; `patience`: the same for those which only a deadline ends,
    and the longest that the operator's command may take. `only`: a single one of the faults."""
    figures: Figures = {}
    waiting = [only] if only else list(FAULTS)
    with socket.create_server((HOST, free_port())) as taken:
        while waiting:
            with running(name, Task(workers=workers, start_limit=5)) as peer:
                peer.answering()
                site, usable = Site(peer), True
                while waiting and usable:
                    fault, port = waiting.pop(0), taken.getsockname()[1]
                    seconds = patience if FAULTS[fault].hangs else window
                    found = trial(site, FAULTS[fault], port, seconds, patience)
                    usable = math.isfinite(found["recovery, s"]) and not found["stuck"]
                    figures |= {f"{fault}: {metric}": [value] for metric, value in found.items()}
    return figures


def trial(site: Site, fault: Fault, port: int, window: float, patience: float) -> dict[str, float]:
    """One bad deploy and two good ones after it; stuck: the first of these came into use, the second did not."""
    with flowing(site.peer.port) as traffic:
        time.sleep(1.5)
        logs, since = site.logs(), time.monotonic()
        code = fault.python if site.peer.source.endswith(".py") else fault.node
        site.put(code.replace("{port}", str(port)))
        with ThreadPoolExecutor(1) as operator:
            command = operator.submit(site.deploy, patience)
            time.sleep(window)
            deployed = command.result()
        until = time.monotonic()
        ended = site.peer.process.poll() is not None
        told = 2.0 if fault.told(deployed.text) else float(fault.told(site.logged_since(logs)))
        recovery = recover(site, patience)
        stuck = math.isfinite(recovery) and math.isinf(recover(site, patience))
        record = traffic.record().of(*BUSY).between(since, until)
    return {
        "requests": float(len(record.requests)),
        "lost": float(record.lost()),
        CLOSED: float(record.count(CLOSED)),
        "served, %": record.served(),
        "longest silence, s": record.longest_silence(),
        "command, s": deployed.seconds,
        "exit code": math.inf if deployed.code is None else float(deployed.code),
        "told": told,
        "ended": float(ended),
        "recovery, s": recovery,
        "stuck": float(stuck),
    }


def recover(site: Site, patience: float) -> float:
    """Seconds from the next good deploy until only its version answers; infinite when it does not come into use."""
    if site.peer.process.poll() is not None:
        return math.inf
    site.put_good()
    since = time.monotonic()
    with ThreadPoolExecutor(1) as operator:
        command = operator.submit(site.deploy, patience)
        live = site.live_since(RECOVERY_LIMIT)
        command.result()
    return live - since


def report(results: dict[str, Rounds]) -> str:
    """The worst of all rounds, in words."""
    return grid(results, list(FAULTS), words)


def words(rounds: Rounds, fault: str) -> str:
    def values(metric: str) -> list[float]:
        return pooled(rounds, f"{fault}: {metric}")

    if not values("lost"):
        return "–"
    lost, closed, served = max(values("lost")), max(values(CLOSED)), min(values("served, %"))
    codes = sorted({"never ends" if math.isinf(code) else f"exit {code:.0f}" for code in values("exit code")})
    ended, recovery = any(values("ended")), max(values("recovery, s"))
    after = "never" if math.isinf(recovery) else f"{recovery:.1f} s{', then stuck' if any(values('stuck')) else ''}"
    return "; ".join(
        [
            f"lost {shown(lost)}{f' (+{shown(closed)})' if closed else ''}, served {math.floor(served)} %",
            f"{', '.join(codes)} after {max(values('command, s')):.1f} s, {TOLD[min(values('told'))]}",
            "supervisor ended" if ended else f"next {after}",
        ]
    )


CASE = Case(
    title="bad deploys",
    measure=measure,
    peers=("gunicorn", "uvicorn", "granian", "supervisord", *(["pm2"] if pm2() else []), "bkd"),
    rounds=1,
    report=report,
)
