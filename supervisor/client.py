"""The command line's side of the control socket. Cheap to import: the socket module alone would cost 10 ms."""

import _socket
import os
import time
from collections.abc import Callable
from typing import Any

from ..ipc.errors import BkdError, FrameError
from ..ipc.frames import FrameReader, frame
from ..ipc.message_names import COMMAND, FINISHED, HELLO, PROGRESS, REFUSED, VERSION
from ..ipc.plain import pack, unpack
from . import places

ANSWER_LIMIT = 15.0
MASTERLESS, AGAIN = 10.0, 0.1


class NotRunning(BkdError):
    """There is no cluster; exit code 4."""


class Interrupted(BkdError):
    """The connection broke, but what was asked for is under way: `resume` says what to ask the next master."""

    def __init__(self, text: str, resume: dict[str, Any]) -> None:
        super().__init__(text)
        self.resume = resume


def find_socket(config: str | None, sock: str | None) -> str:
    """Path of the control socket of the cluster that is meant; raises NotRunning, NoConfig."""
    if sock:
        return sock
    try:
        path = places.find_config(config, os.environ)
    except places.NoConfig:
        running = places.sockets_of_run() if not config and not os.environ.get("BKD_CONFIG") else []
        if len(running) == 1:
            return running[0]
        if running:
            raise NotRunning(f"which of the clusters that `bkd run` started? --socket {' or '.join(running)}") from None
        raise
    candidates = places.socket_candidates(path, os.environ)
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    raise NotRunning(f"no cluster of {path} is running (looked for {', '.join(candidates)}); start it with `bkd start`")


def run_dir(config: str | None, sock: str | None) -> str:
    """The folder of a cluster, running or not; raises NotRunning, NoConfig."""
    if sock:
        return os.path.dirname(os.path.abspath(sock))
    path = places.find_config(config, os.environ)
    for folder in places.run_dir_candidates(path, os.environ):
        if os.path.isdir(folder):
            return folder
    raise NotRunning(f"no cluster of {path} was ever started; start it with `bkd start`")


class Client:
    """One connection; commands one after the other."""

    def __init__(self, path: str, resume: dict[str, Any] | None = None, *, limit: float = ANSWER_LIMIT) -> None:
        self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.sock.settimeout(limit)
        try:
            self.sock.connect(path)
        except OSError as error:
            self.sock.close()
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise NotRunning(f"nobody answers at {path}; start the cluster with `bkd start`") from error
            raise BkdError(f"{path}: {error.strerror or error}") from error
        self._reader = FrameReader()
        self._inbox: list[dict[str, Any]] = []
        self._resume = resume or {}
        self._send(HELLO, {"version": VERSION, "role": "client"})

    def run(
        self,
        verb: str,
        arguments: dict[str, Any],
        *,
        render: str,
        progress: Callable[[str, str], None],
        draw: Callable[[str, str], None] | None = None,
        limit: float | None = ANSWER_LIMIT,
    ) -> tuple[int, str, str]:
        """Give a command; exit code, output and error text. `limit`: seconds of silence before giving up."""
        self.sock.settimeout(limit)
        self._send(COMMAND, {"verb": verb, "arguments": arguments, "render": render}, id=1)
        while True:
            message = self._receive()
            data = message.get("data", {})
            if message["op"] == REFUSED:
                raise BkdError(data.get("reason", "refused"))
            if message["op"] == PROGRESS:
                self._resume = data.get("resume") or self._resume
                out, err, screen = (data.get(name, "") for name in ("out", "err", "screen"))
                draw(screen, err) if screen and draw is not None else progress(out, err)
            elif message["op"] == FINISHED:
                return data.get("code", 0), data.get("out", ""), data.get("err", "")

    def _send(self, op: str, data: dict[str, Any], id: int = 0) -> None:
        try:
            self.sock.sendall(frame(pack({"op": op, "id": id, "data": data})))
        except OSError as error:
            raise self._broken("the master closed the connection: this user may have no role here") from error

    def _receive(self) -> dict[str, Any]:
        while not self._inbox:
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError as error:
                raise BkdError("the master does not answer; see `bkd events` and the system's load") from error
            except OSError as error:
                raise self._broken(f"the connection to the master broke: {error.strerror}") from error
            if not data:
                raise self._broken("the master closed the connection: it is restarting, or this user has no role here")
            self._inbox.extend(unpack(payload) for payload in self._reader.feed(data))
        message = self._inbox.pop(0)
        if not isinstance(message, dict) or "op" not in message:
            raise FrameError("not a message")
        return message

    def _broken(self, text: str) -> BkdError:
        return Interrupted(text, self._resume) if self._resume else BkdError(text)


def next_master(path: str, resume: dict[str, Any]) -> Client:
    """A connection to the master that follows one which has died, and may die as well before it has promised anything;
    raises BkdError when none comes."""
    deadline = time.monotonic() + MASTERLESS
    while True:
        time.sleep(AGAIN)
        try:
            return Client(path, resume)
        except BkdError:
            if time.monotonic() > deadline:
                raise
