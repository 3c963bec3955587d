"""The thread that asks the master for its status once a second, over one connection, whatever becomes of the master."""

import json
import threading
import time
from typing import Any

from ...ipc.errors import BkdError
from ..client import Client, NotRunning
from .inbox import Gone, Inbox, Lost, Told

INTERVAL = 1.0
SOONEST, LATEST = 0.1, 1.0
GONE = 2.0  # nobody listens for so long: the cluster has ended
TRIES = 3


def ask(client: Client) -> dict[str, Any]:
    """The status with the last minute of each worker; raises BkdError."""
    pieces: list[str] = []
    code, out, err = client.run(
        "status", {"history": True}, render="json", progress=lambda *texts: pieces.extend(texts)
    )
    text = "".join([*pieces, out, err])
    if code:
        raise BkdError(text.strip().removeprefix("bkd: "))
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BkdError("what the master says is no status; is it of another version?") from error
    return dict(document)


class Feed(threading.Thread):
    """Never more than one request is under way. What it finds goes into the inbox."""

    def __init__(self, path: str, inbox: Inbox) -> None:
        super().__init__(name="feed", daemon=True)
        self.path, self.inbox = path, inbox
        self._is_over = False
        self._wake = threading.Event()
        self._client: Client | None = None
        self._failures = 0
        self._absent_since: float | None = None
        self._is_known = self._is_stopping = False

    def run(self) -> None:
        """The thread: until `stop`, or until the cluster has ended."""
        while not self._is_over:
            self._wake.wait(self._turn())
            self._wake.clear()
        self._drop()

    def hurry(self) -> None:
        """Ask at once: something has changed."""
        self._wake.set()

    def stop(self) -> None:
        """Ask no more; an answer that is still to come is not waited for."""
        self._is_over = True
        self._wake.set()

    def _turn(self) -> float:
        """Ask once; the seconds until the next time."""
        began = time.monotonic()
        try:
            self._client = self._client or Client(self.path)
            document = ask(self._client)
        except BkdError as error:
            self._failed(error, began)
            return min(LATEST, SOONEST * 2.0 ** min(self._failures, 10))
        self._failures, self._absent_since = 0, None
        self._is_known, self._is_stopping = True, document["state"] == "stopping"
        self.inbox.put(Told(document))
        return max(SOONEST, INTERVAL - (time.monotonic() - began))

    def _failed(self, error: BkdError, now: float) -> None:
        """Drop the connection: an answer that came late would be taken for another."""
        self._drop()
        is_silent = isinstance(error.__cause__, TimeoutError)
        self._failures += not is_silent
        if isinstance(error, NotRunning):
            self._absent_since = now if self._absent_since is None else self._absent_since
            if self._is_stopping or not self._is_known or now - self._absent_since > GONE:
                self._end(Gone("the cluster has stopped" if self._is_stopping else str(error)))
            return
        self._absent_since = None
        if not self._is_known and self._failures >= TRIES:
            self._end(Gone(str(error), is_running=True))
        is_refused = error.__cause__ is None and self._is_known and self._failures > TRIES
        self.inbox.put(Lost(broken=not is_silent, fault=str(error) if is_refused else ""))

    def _end(self, why: Gone) -> None:
        self.inbox.put(why)
        self.stop()

    def _drop(self) -> None:
        if self._client is not None:
            self._client.sock.close()
            self._client = None
