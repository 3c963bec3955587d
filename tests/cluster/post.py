"""Somebody who enqueues messages: the frames themselves, over the dispatcher's socket."""

import json
import socket
import time
from collections import deque

from bkd.ipc.durable import wire
from bkd.ipc.durable.model import NewMessage, Receipt
from bkd.ipc.frames import FrameReader

PATIENCE = 30.0
LOOK = 0.02


class Post:
    """One connection; a new one is made when it is lost, and what was asked is asked again."""

    def __init__(self, cluster):
        self._path = str(cluster.run_dir / wire.SOCKET)
        self._socket, self._number = None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._close()

    def put(self, kind, *texts, **settings) -> list[Receipt]:
        """Store a message of this kind for each text."""
        messages = [NewMessage(kind, json.dumps({"text": text}).encode(), **settings) for text in texts]
        done = self._answer(lambda number: wire.Put(number, messages), wire.PutDone)
        assert not done.error, done.error
        return done.receipts

    def end(self, receipt, within=PATIENCE) -> wire.Ended:
        """How the message has ended, or stands after `within` seconds."""
        return self._answer(lambda number: wire.Await(number, receipt.id, within), wire.Ended)

    def _answer(self, made, kind):
        self._number += 1
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._open()
                self._socket.sendall(wire.packed(made(self._number)))
                return self._read(kind)
            except ConnectionError as error:
                self._close()
                assert time.monotonic() < deadline, f"the dispatcher does not answer: {error}"
                time.sleep(LOOK)

    def _open(self):
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(3 * PATIENCE)
            self._socket.connect(self._path)
            self._socket.sendall(wire.packed(wire.Greet()))
            self._frames, self._heard = FrameReader(), deque()

    def _close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read(self, kind):
        while True:
            while self._heard:
                said = self._heard.popleft()
                assert not isinstance(said, wire.Refusal), said.reason
                if isinstance(said, kind) and said.number == self._number:
                    return said
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the dispatcher has ended")
            self._heard.extend(map(wire.unpacked, self._frames.feed(data)))
