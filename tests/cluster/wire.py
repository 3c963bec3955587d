"""The wire as a test speaks it: a script's connection to the master, with frames of any kind."""

import re
import socket
import struct
from pathlib import Path

import msgspec

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
PATIENCE = 15.0


def client_of_the_docs():
    """The Python client on the page about the wire."""
    return re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


class Refusal(Exception):
    """The answer is an error; `kind` and `reason` are its data."""

    def __init__(self, data):
        super().__init__(f"{data['error']}: {data['reason']}")
        self.kind, self.reason = data["error"], data["reason"]


class Wire:
    """One blocking application connection; events that come meanwhile are in `events`."""

    def __init__(self, cluster, **hello):
        self.events, self._rest, self._number = [], b"", 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(cluster.run_dir / "control.sock"))
        self.send(op="hello", data={"version": 1, "role": "application"} | hello)
        self.welcome = self.receive()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.socket.close()

    def send(self, **envelope):
        self.raw(msgspec.msgpack.encode(envelope))

    def raw(self, payload):
        self.socket.sendall(struct.pack("<I", len(payload)) + payload)

    def receive(self):
        while len(self._rest) < 4 or len(self._rest) < 4 + struct.unpack_from("<I", self._rest)[0]:
            data = self.socket.recv(1 << 18)
            if not data:
                raise EOFError("the master closed the connection")
            self._rest += data
        end = 4 + struct.unpack_from("<I", self._rest)[0]
        payload, self._rest = self._rest[4:end], self._rest[end:]
        return {"id": 0, "re": 0} | msgspec.msgpack.decode(payload)

    def ask(self, to, op, data=None, within=PATIENCE):
        """Begin a call; its number."""
        self._number += 1
        self.send(op=op, to=to, data=data, id=self._number, within=within)
        return self._number

    def answer(self, number):
        """The data of the answer; raises Refusal."""
        while (envelope := self.receive())["re"] != number:
            self.events.append(envelope)
        if envelope["op"] == "error":
            raise Refusal(envelope["data"])
        return envelope["data"]

    def call(self, to, op, data=None, within=PATIENCE):
        return self.answer(self.ask(to, op, data, within))
