"""An application that says which code answers. A deploy writes `version.py` anew; where that has a `start`, it runs in
every worker before it is ready (`starts` has some)."""

import asyncio
import importlib
import os

import version


async def app(scope, receive, send):
    """Paths are verbs: `/`, `/wait?FILE`, `/module?NAME` …"""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = await VERBS[scope["path"]](scope["query_string"].decode())
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def lifespan(receive, send):
    await receive()
    try:
        if hasattr(version, "start"):
            await version.start()
    except BaseException as error:  # noqa: BLE001 - what frameworks do
        await send({"type": "lifespan.startup.failed", "message": repr(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def who(_query=""):
    return f"{version.VERSION} {os.getpid()}"


async def wait(name):
    """Answers when there is a file of that name."""
    print("asked", flush=True)
    while not os.path.exists(name):
        await asyncio.sleep(0.01)
    return await who()


async def module(name):
    """The VALUE of a module that is imported now, if it was not before."""
    return importlib.import_module(name).VALUE


async def environment(name):
    return os.environ.get(name, "")


async def leave(code):
    os._exit(int(code))


VERBS = {"/": who, "/wait": wait, "/module": module, "/environment": environment, "/leave": leave}
