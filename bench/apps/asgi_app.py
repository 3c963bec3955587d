"""The application under test: `/` hello, `/pid?ms=N` (blocks for N ms), `/hang` (for ever)."""

import os
import time

import ballast  # noqa: F401


def answer(path, query):
    if path == "/hang":
        while True:
            pass
    if path == "/pid":
        if query:
            time.sleep(float(query.removeprefix("ms=")) / 1000)
        return b"%d" % os.getpid()
    return b"hello"


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = answer(scope["path"], scope["query_string"].decode())
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
