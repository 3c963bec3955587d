"""An application whose processes talk to each other: a FastAPI, a Flask and two functions with the same handlers."""

import asyncio
import json
import os
import time

import fastapi
import flask

from bkd.ipc import BkdError, ipc, sync_ipc

app = fastapi.FastAPI()
flask_app = flask.Flask(__name__)
prices = ipc.lru("prices", maxsize=100, ttl=60)


def note(what, data):
    os.write(1, f"{what} {json.dumps(data)}\n".encode())  # whole, whichever thread writes as well


@ipc.on("price:changed")
async def changed(event):
    note("heard", [event.op, event.data, event.by])


@ipc.on("price:changed")
def changed_in_a_thread(event):
    note("heard in a thread", event.data)


@ipc.on("price:ask")
async def ask(event):
    await asyncio.sleep(0)
    return {"slot": ipc.slot, "asked": event.data, "by": event.by}


@ipc.on("price:ask-plainly")
def ask_plainly(event):
    return {"slot": ipc.slot, "asked": event.data, "by": event.by}


@ipc.on("price:fail")
async def fail(event):
    raise ValueError("no such price")


@ipc.on("price:strange")
def strange(event):
    return object()


@ipc.on("price:never")
async def never(event):
    await asyncio.Event().wait()


@ipc.on("price:die")
async def die(event):
    os._exit(1)


def told(error):
    return {"error": type(error).__name__, "text": str(error)}


def result(value):
    return list(value) if isinstance(value, tuple) else value


def keys(argument):
    """`name=JSON` for each argument of the query."""
    return {name: json.loads(value) for name, value in argument.items()}


@app.get("/pid")
async def pid():
    return os.getpid()


@app.get("/ipc/{verb}")
async def asynchronous(verb: str, request: fastapi.Request):
    try:
        return {"value": result(await getattr(ipc, verb)(**keys(request.query_params)))}
    except BkdError as error:
        return told(error)


@app.get("/lock")
async def locked(name: str, seconds: float, wait: float = 0.0):
    try:
        async with ipc.lock(name, ttl=1.0, wait=wait) as lock:
            await asyncio.sleep(seconds)
            return {"fence": lock.fence, "lost": lock.lost}
    except BkdError as error:
        return told(error)


@app.get("/cache/{verb}")
async def cached(verb: str, request: fastapi.Request):
    return {"value": getattr(prices, verb)(*keys(request.query_params).values()), "slot": ipc.slot}


@flask_app.get("/pid")
def flask_pid():
    return str(os.getpid())


@flask_app.get("/ipc/<verb>")
def blocking(verb):
    try:
        return {"value": result(getattr(sync_ipc, verb)(**keys(flask.request.args)))}
    except BkdError as error:
        return told(error)


@flask_app.get("/lock")
def blocking_lock():
    try:
        with sync_ipc.lock(flask.request.args["name"], ttl=1.0) as lock:
            time.sleep(float(flask.request.args["seconds"]))
            return {"fence": lock.fence, "lost": lock.lost}
    except BkdError as error:
        return told(error)


async def ticker():
    note("answer", await ipc.call("web", "price:ask", "of the ticker"))
    await ipc.stopped()


def plain():
    note("answer", sync_ipc.call("web", "price:ask", "of the plain one"))
    while not ipc.stopping(0.05):
        pass
