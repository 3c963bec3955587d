"""A web application that runs whatever it is sent, as somebody would who has broken into a worker; and its victim."""

import asyncio
import contextlib
import io
import os
import socket
import struct
import sys
import traceback
import urllib.parse

import msgspec

from bkd.ipc import ipc
from bkd.workers.zygote import Zygote

IMPORTED = {"uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "home": os.environ["HOME"]}
honest = Zygote._fork_twice


def lying(self, order):
    """A zygote that gives another process out for its fork, once it is told which."""
    pid = honest(self, order)
    with contextlib.suppress(FileNotFoundError), open("victim.pid") as file:
        return int(file.read())
    return pid


Zygote._fork_twice = lying


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    path, query = scope["path"], urllib.parse.unquote(scope["query_string"].decode())
    if path == "/call":
        answer = repr(await ipc.call("victim", "who:asks", query))
    else:
        answer = str(os.getpid()) if path == "/pid" else await asyncio.to_thread(obey, query)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": answer.encode()})


def obey(source):
    """What the source printed; the last line of the traceback when it failed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(source, globals() | {"__name__": "intruder"})
    except BaseException:  # noqa: BLE001 - whatever the source raises is the answer
        return traceback.format_exc().splitlines()[-1]
    return printed.getvalue().strip()


class Visitor:
    """A connection to a socket of the master, at which anything can be said."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)

    def say(self, op, **data):
        """The next message from there, or `closed`."""
        frame = msgspec.msgpack.encode({"op": op, "id": 1, "data": data})
        try:
            self.socket.sendall(struct.pack("<I", len(frame)) + frame)
            return self.hear()
        except ConnectionError:
            return "closed"

    def hear(self):
        head = self.socket.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            return "closed"
        envelope = msgspec.msgpack.decode(self.socket.recv(struct.unpack("<I", head)[0], socket.MSG_WAITALL))
        return envelope["data"].get("reason", envelope["op"])

    def hello(self, role, pid=0, **data):
        pid = pid or os.getpid()
        return self.say("hello", version=1, role=role, pid=pid, start=start_time(pid), **data)


def start_time(pid):
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def in_a_child(does):
    """What a function prints in a process below this one."""
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.write(write, str(does()).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as answer:
        print(answer.read())


@ipc.on("who:asks")
async def who(message):
    return [os.geteuid(), message.by, message.data]


async def victim():
    print("a secret of the victim", flush=True)
    await ipc.stopped()
