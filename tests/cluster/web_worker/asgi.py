"""Applications of every interface, for the tests of the web worker."""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path


def sockets():
    """TCP_NODELAY of every connected TCP socket of this process."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=os.dup(int(descriptor)))
            with sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getpeername():
                    yield sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def reply(send, body, status=200):
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send, count, pause):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(count):
        await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
        await asyncio.sleep(pause)
    await send({"type": "http.response.body", "body": b"end\n"})


async def chat(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "websocket":
        return await chat(receive, send)
    what, _, argument = scope["path"].strip("/").partition("/")
    match what:
        case "pid":
            await reply(send, str(os.getpid()).encode())
        case "sleep":
            await asyncio.sleep(float(argument))
            await reply(send, b"slept")
        case "block":
            time.sleep(float(argument))  # on purpose: the loop stands still
            await reply(send, b"blocked")
        case "stream":
            await stream(send, int(argument), 0.05)
        case "nodelay":
            await reply(send, repr(list(sockets())).encode())
        case "descriptors":
            await reply(send, str(len(list(Path("/proc/self/fd").iterdir()))).encode())
        case _:
            await reply(send, b"hello")
    return None


class Double:
    """ASGI 2."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        if self.scope["type"] == "lifespan":
            return await lifespan(receive, send)
        return await reply(send, b"asgi2")


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi ", environ["REQUEST_METHOD"].encode(), b" ", environ["wsgi.input"].read()]


def hanging(environ, start_response):
    time.sleep(60)


def greedy(*args, **kwargs):
    return app(*args, **kwargs)


greedy.__wrapped__ = app


async def broken(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "Traceback …\nRuntimeError: no database"})


async def stubborn(scope, receive, send):
    """Its lifespan shutdown never ends."""
    if scope["type"] != "lifespan":
        return await app(scope, receive, send)
    await receive()
    await send({"type": "lifespan.startup.complete"})
    return await asyncio.Event().wait()
