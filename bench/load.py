"""Load by wrk, and what the workers used meanwhile."""

import re
import subprocess
from dataclasses import dataclass

import proc
from place import HOST


@dataclass(frozen=True)
class Run:
    """`cpu`: seconds used by each worker."""

    requests: int
    seconds: float
    cpu: list[float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def busiest_share(self) -> float:
        """Share of the busiest worker in the CPU time of all, in per cent."""
        return 100 * max(self.cpu) / sum(self.cpu)


def run(port: int, workers: list[int], *, seconds: int, connections: int, keep: bool = True) -> Run:
    """Load on `/` for `seconds`; RuntimeError when a request failed or a worker is not there any more."""
    before = {pid: proc.cpu_seconds([pid]) for pid in workers}
    header = [] if keep else ["-H", "Connection: close"]
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *header, f"http://{HOST}:{port}/"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    cpu = [proc.cpu_seconds([pid]) - used for pid, used in before.items()]
    trouble = re.search(r"Socket errors.*|Non-2xx.*", text)
    if trouble or not all(map(proc.alive, workers)):
        raise RuntimeError(trouble[0].strip() if trouble else "a worker ended under load")
    total = re.search(r"(\d+) requests in", text)
    if total is None or int(total[1]) == 0:
        raise RuntimeError(f"no requests: {text[-200:]}")
    return Run(int(total[1]), float(seconds), cpu)
