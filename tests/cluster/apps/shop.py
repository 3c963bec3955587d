"""An ASGI application, without a framework, that misbehaves when asked to."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time


async def app(scope, receive, send):
    """Paths are verbs: `/sleep?3`, `/exit?3`, `/segv` …"""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    verb = scope["path"].strip("/") or "pid"
    body = await VERBS[verb](scope["query_string"].decode())
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def pid(_query):
    return str(os.getpid())


async def sleep(query):
    print("asked", flush=True)
    await asyncio.sleep(float(query))
    return f"slept {os.getpid()}"


async def block(query):
    time.sleep(float(query))
    return f"blocked {os.getpid()}"


async def spin(_query):
    while True:
        pass


async def power(_query):
    return str(len(bin(7**100_000_000)))


async def hold_gil(query):
    ctypes.PyDLL(None).usleep(int(query))
    return "the lock was held"


async def leave(query):
    os._exit(int(query))


async def segv(_query):
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


async def orphan(_query):
    """Leaves a process that is nobody's child and leads a session of its own."""
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); print(os.getpid(), flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    left = child.stdout.readline().decode().strip()
    child.stdout.close()
    child.wait()
    return f"{left} of {os.getpid()}"


async def fork(_query):
    """The same without another program: a copy of the worker, as `multiprocessing` and daemons make them."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(600)
        os._exit(0)
    os.wait()
    os.close(writer)
    left = os.read(reader, 20).decode()
    os.close(reader)
    return f"{left} of {os.getpid()}"


async def environment(query):
    return os.environ.get(query, "")


async def say(query):
    print(query, flush=True)
    return "said"


VERBS = {
    verb.__name__: verb
    for verb in (pid, sleep, block, spin, power, hold_gil, leave, segv, orphan, fork, environment, say)
}
