"""Hosts of one application on this machine, each a cluster of bkd in a folder of its own, with or without a bus."""

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import proc
from peers import Bkd, Task
from place import APPS
from redis_server import redis_server

KEY = "the key that all hosts of this fleet have in common"
LIMIT = 120.0


class Host(Bkd):
    """`groups` are sections of the configuration; `bus` is one as well, "" for none."""

    def __init__(self, folder: Path, groups: str, bus: str = "") -> None:
        super().__init__(Task(), folder)
        self.groups, self.bus = groups, bus

    def configure(self) -> None:
        shutil.copytree(APPS, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        app = f'[app]\nname = "bench"\nhost = "{self.folder.name}"\nrun_dir = "run"\n'
        (self.folder / "bkd.toml").write_text(f"{app}{self.bus}{self.groups}")

    def is_ready(self) -> bool:
        """Whether all workers are, and the bus, too. RuntimeError when the cluster has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.folder.name} has ended: {self.last_words()}")
        try:
            status = self.status()
        except RuntimeError:  # not there yet
            return False
        return status["bus"]["connected"] and all(group["ready"] == group["count"] for group in status["groups"])

    def worker(self, slot: str) -> dict[str, Any]:
        """The row of this slot in the status."""
        rows = [row for group in self.status()["groups"] for row in group["workers"]]
        return next(row for row in rows if row["name"] == slot)

    def told(self, limit: float) -> dict[str, list[float]]:
        """What a worker measures that does as `apps/orders.py` says; RuntimeError when it cannot, or takes longer."""
        (self.folder / "go").touch()
        file = self.folder / "told"
        if not proc.wait_for(file.exists, limit, step=0.1):
            raise RuntimeError(f"no figures within {limit:g} s: {self.last_words()}")
        told = json.loads(file.read_text())
        if "failed" in told:
            raise RuntimeError(told["failed"])
        return dict(told["figures"])


@contextmanager
def running(names: Sequence[str], groups: str, *, redis: bool, pause: float = 0.0, ready: bool = True) -> Iterator[Any]:
    """The hosts at work, begun with a pause in between; `ready`: not before all workers are."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        stack.callback(proc.end_everything, grace=3)
        bus = _bus(folder, stack.enter_context(redis_server(folder))) if redis else ""
        hosts = [Host(folder / name, groups, bus) for name in names]
        stack.callback(_stop, hosts)
        for host in hosts if ready else ():
            host.folder.mkdir()
            host.start()
            time.sleep(pause)
        for host in hosts if ready else ():
            if not proc.wait_for(host.is_ready, LIMIT, step=0.2):
                raise RuntimeError(f"{host.folder.name} is not ready: {host.last_words()}")
        yield hosts


def _bus(folder: Path, port: int) -> str:
    secret = folder / "secret"
    secret.write_text(f"{KEY}\n")
    secret.chmod(0o600)
    return f'[bus]\nurl = "redis://127.0.0.1:{port}"\nsecret_file = "{secret}"\n'


def _stop(hosts: list[Host]) -> None:
    begun = [host.process for host in hosts if hasattr(host, "process")]
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in begun:
        process.wait(30)
