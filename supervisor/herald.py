"""What the keeper says to whoever started it (sd_notify(3)): it is the process that systemd watches and listens to.

Standard library only. What is said is decided by the master; only when there is none the keeper says by itself, for a
short time, that the service lives.
"""

import math
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Any

ALONE = 30.0  # seconds without a master that the keeper answers for
ALIVE = "WATCHDOG=1"
PARTS = 3  # of the watchdog's time between two signs of life


class Herald:
    """The way to the supervisor above. `address`: "" when there is none; `watchdog`: seconds until it calls silence a
    hang, 0.0 when it does not. Runs in the keeper and never blocks it."""

    def __init__(self, environ: MutableMapping[str, str], complain: Callable[[str], object]) -> None:
        """The variables leave the environment: no worker may take them for its own."""
        self.address = environ.pop("NOTIFY_SOCKET", "")
        limit, owner = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        counts = bool(self.address) and limit.isascii() and limit.isdigit() and owner in ("", str(os.getpid()))
        self.watchdog = int(limit) / 1e6 if counts else 0.0
        self._complain = complain
        self._lost_at = 0.0
        self._due = math.inf
        if self.address and self.address[0] not in "/@":
            complain(f"bkd: NOTIFY_SOCKET={self.address} is no unix socket: nobody is told how the cluster is\n")
            self.address, self.watchdog = "", 0.0

    def told(self) -> dict[str, Any]:
        """What a master has to know of it."""
        return {"notify": bool(self.address), "watchdog": self.watchdog}

    def kept(self) -> dict[str, Any]:
        """The same for a keeper that takes this process over; it begins with `restore`."""
        return {"address": self.address, "watchdog": self.watchdog}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on where another keeper in this process has stopped."""
        self.address, self.watchdog = kept["address"], kept["watchdog"]

    def say(self, text: str) -> None:
        """One datagram, on a master's behalf. Raises OSError when it was not taken."""
        self._send(text)
        if ALIVE in text.split("\n"):
            self._lost_at, self._due = 0.0, math.inf

    def lost(self) -> None:
        """The master has ended; until the next one says that the service lives, the keeper does, for ALONE seconds."""
        if self.watchdog and not self._lost_at:
            self._lost_at = self._due = time.monotonic()

    @property
    def due(self) -> float | None:
        """When `keep_alive` has something to do (monotonic), None: never."""
        return None if self._due == math.inf else self._due

    def keep_alive(self) -> None:
        """Say that the service lives, if that is due."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self.watchdog / PARTS
        if now - self._lost_at > ALONE:
            self._due = math.inf
            return
        try:
            self._send(ALIVE)
        except OSError as error:
            self._complain(f"bkd: {self.address} is not told that the cluster lives: {error.strerror}\n")

    def _send(self, text: str) -> None:
        """A socket for each: the one at the other end may be another since the last time."""
        path = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(errors="replace"), socket.MSG_DONTWAIT, path)
