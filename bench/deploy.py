"""New code for a peer, and the commands by which its operator brings it into use."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import proc
from client import only_version
from peers import Peer
from place import APPS


@dataclass(frozen=True)
class Deployed:
    """What the command did: `code` is None when it had to be ended; `text` is all it printed."""

    code: int | None
    text: str
    seconds: float

    def succeeded(self) -> "Deployed":
        """Itself; RuntimeError, with the last it said, when the command failed."""
        if self.code != 0:
            raise RuntimeError(f"the command exits {self.code}: {self.text[-300:]}")
        return self


class Site:
    """The code of a peer at work. Good versions are numbered from 1, the one it was started with."""

    def __init__(self, peer: Peer) -> None:
        self.peer, self.version, self.changes = peer, 1, 0
        self.original = (APPS / peer.source).read_text()

    def put(self, lines: str) -> None:
        """Change the code on disk to the original with these lines.

        Each change has another size: Python takes a compiled file for fresh when size and second agree.
        """
        self.changes += 1
        (self.peer.folder / self.peer.source).write_text(f"{self.original}\n{lines}\n{' ' * self.changes}\n")

    def put_good(self) -> None:
        self.version += 1
        self.put(f"VERSION = {self.version}")

    def deploy(self, limit: float) -> Deployed:
        """Bring into use what is on disk; see `run`."""
        return self.run(self.peer.deploy_command(), limit)

    def run(self, argv: list[str], limit: float) -> Deployed:
        """Run an operator's command to its end, or end it after `limit` seconds."""
        peer, since = self.peer, time.monotonic()
        with open(peer.folder / "command", "w+b") as output:
            command = subprocess.Popen(
                argv,
                cwd=peer.folder,
                env=peer.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            proc.wait_for(lambda: command.poll() is not None, limit, step=0.005)
            seconds, code = time.monotonic() - since, command.poll()
            if code is None:
                command.kill()
                command.wait(5)
            output.seek(0)
            return Deployed(code, output.read().decode(errors="replace"), seconds)

    def live(self) -> bool:
        """Whether its supervisor is there and a few requests were all answered by the newest good version."""
        return self.peer.process.poll() is None and only_version(self.peer.port, self.version)

    def live_since(self, limit: float, sure: float = 2.0) -> float:
        """Monotonic time from which on it was live, for at least `sure` seconds; infinite when not in `limit` seconds.

        One look is not enough: while old and new workers serve side by side, a run of requests may all meet the new.
        """
        deadline, since = time.monotonic() + limit, float("inf")
        while time.monotonic() < deadline:
            live = self.live()
            since = min(since, time.monotonic()) if live else float("inf")
            if time.monotonic() - since > sure:
                return since
            time.sleep(0.02)
        return float("inf")

    def logs(self) -> dict[Path, int]:
        """All files that the peer and its workers write, with their sizes."""
        return {file: file.stat().st_size for file in [self.peer.folder / "output", *self.peer.folder.rglob("*.log")]}

    def logged_since(self, before: dict[Path, int]) -> str:
        """What they wrote after `logs()` was `before`."""
        news = []
        for path in self.logs():
            with open(path, "rb") as file:
                file.seek(before.get(path, 0))
                news.append(file.read().decode(errors="replace"))
        return "\n".join(news)
