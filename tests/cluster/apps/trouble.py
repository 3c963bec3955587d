"""An application, without a framework, that gets into every kind of trouble. The line where it happens ends with the
name of the trouble."""

import asyncio
import ctypes
import http.client
import operator
import os
import select
import socket
import threading
import time
import traceback
from urllib.parse import parse_qsl

LEFT, RIGHT = threading.Lock(), threading.Lock()
HOARD = []


async def app(scope, receive, send):
    """Paths are verbs: `/sleep?seconds=3`, `/exit?code=3` …; a name that a verb does not know is no concern of it."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    verb = ASYNC[scope["path"].strip("/") or "pid"]
    body = str(await verb(dict(parse_qsl(scope["query_string"].decode())))).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def plain(environ, start_response):
    """The same for WSGI, with the verbs that need no event loop."""
    verb = SYNC[environ["PATH_INFO"].strip("/") or "pid"]
    body = str(verb(dict(parse_qsl(environ["QUERY_STRING"])))).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def lifespan(receive, send):
    await receive()
    try:
        start()
    except ConnectionError:
        await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})  # as frameworks do it
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def start():
    if os.environ.get("TROUBLE") == "startup":
        raise ConnectionError("the price list is locked")  # startup


def pid(_query):
    return os.getpid()


# -- what never comes back


def deadlock(_query):
    """A lock that another thread holds for ever."""
    held = threading.Event()
    threading.Thread(target=hold, args=(LEFT, held), name="holder", daemon=True).start()
    held.wait()
    LEFT.acquire()  # deadlock


def hold(lock, held):
    with lock:
        held.set()
        threading.Event().wait()


def crossed(_query):
    """Two threads, each with the lock the other one wants."""
    both = threading.Barrier(2)
    threading.Thread(target=take, args=(RIGHT, LEFT, both), name="crossing", daemon=True).start()
    take(LEFT, RIGHT, both)


def take(first, second, both):
    with first:
        both.wait()
        second.acquire()  # crossed


def read(query):
    """A server that accepts and says nothing."""
    with socket.create_connection(("127.0.0.1", int(query["port"]))) as connection:
        return connection.recv(1)  # read


def fetch(query):
    """The same behind a library's calls."""
    connection = http.client.HTTPConnection("127.0.0.1", int(query["port"]))
    connection.request("GET", "/prices")
    return connection.getresponse().status  # fetch


def pipe(_query):
    """The reading end of a pipe whose other end nobody writes to."""
    return os.read(os.pipe()[0], 1)  # pipe


def block(query):
    print("going to block", flush=True)
    time.sleep(float(query["seconds"]))  # block
    return os.getpid()


def spin(_query):
    count = 0
    while True:  # spin
        count += 1  # spin


def power(query):
    """Digits in C, which holds the interpreter's lock meanwhile."""
    operator.pow(7, int(query["exponent"]))  # power
    return os.getpid()


def hold_gil(query):
    """The same for a C function that sleeps."""
    ctypes.PyDLL(None).usleep(int(query["microseconds"]))  # hold_gil
    return os.getpid()


# -- what ends the process


def leave(query):
    os._exit(int(query["code"]))


def segv(_query):
    ctypes.string_at(0)  # segv


def recurse(_query):
    return Deeper().fileno()


class Deeper:
    """A recursion through C with 48 KB of its stack at a time: it ends before Python has counted its thousand calls."""

    def fileno(self):
        return select.select([self], [], [])  # recurse


def grow(query):
    """Keeps so many megabytes."""
    HOARD.extend(b"\1" * (1 << 20) for _ in range(int(query["megabytes"])))  # grow
    return os.getpid()


# -- what waits beside a healthy loop


async def sleep(query):
    print("asked", flush=True)
    await asyncio.sleep(float(query["seconds"]))
    return os.getpid()


async def chain(_query):
    """Three coroutines deep for ever, in a task of its own."""
    await asyncio.create_task(collect(), name="prices")


async def collect():
    await page()  # collect


async def page():
    print("waiting for a page", flush=True)
    await asyncio.Event().wait()  # page


# -- functions for groups of kind `python`


def raises():
    raise ValueError("no such currency")  # raises


def returns():
    print("done", flush=True)


def becomes_another():
    time.sleep(2)
    os.execv("/bin/sleep", ["sleep", "600"])


async def idles():
    await asyncio.Event().wait()


def without_waiting(verb):
    """A verb as a coroutine that never lets go of the event loop."""

    async def handler(query):
        return verb(query)

    return handler


SYNC = {
    verb.__name__: verb
    for verb in (
        pid,
        deadlock,
        crossed,
        read,
        fetch,
        pipe,
        block,
        spin,
        power,
        hold_gil,
        leave,
        segv,
        recurse,
        grow,
    )
}
ASYNC = {name: without_waiting(verb) for name, verb in SYNC.items()} | {
    "sleep": sleep,
    "chain": chain,
}
