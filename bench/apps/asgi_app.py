"""The application under test: `/` hello, `/version`, `/pid?ms=N` (blocks for N ms), `/slow?ms=N` (waits), `/hang`.

A deploy appends lines to this file; `VERSION` and `startup` are there to be overridden by them.
"""

import asyncio
import os
import time

import ballast  # noqa: F401

VERSION = 1


def answer(path, query):
    if path == "/hang":
        while True:
            pass
    if path == "/version":
        return b"%d" % VERSION
    if path == "/pid":
        if query:
            time.sleep(seconds_in(query))
        return b"%d" % os.getpid()
    return b"hello"


def seconds_in(query):
    return float(query.removeprefix("ms=")) / 1000


async def startup():
    pass


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await start(send)
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def start(send):
    """As frameworks do it: a startup that raises is told to the server, and ends the lifespan."""
    try:
        await startup()
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
        raise


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    query = scope["query_string"].decode()
    if scope["path"] == "/slow":
        await asyncio.sleep(seconds_in(query))
    body = answer(scope["path"], query)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
