"""A FastAPI application that says which code answers, and gets into trouble on demand."""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import hands
import version
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

HOARD = []
LINE = "x" * 199
PARTS, BREATH = 8, 0.05


@asynccontextmanager
async def lifespan(_app):
    if hasattr(version, "start"):
        await version.start()
    yield


app = FastAPI(lifespan=lifespan, default_response_class=PlainTextResponse)


def who():
    return f"{version.VERSION} {os.getpid()}"


@app.get("/")
async def index():
    return who()


@app.get("/slow")
async def slow(seconds: float):
    await asyncio.sleep(seconds)
    return who()


@app.get("/stream")
async def stream():
    text = who().encode()

    async def parts():
        for _ in range(PARTS):
            yield text
            await asyncio.sleep(BREATH)

    return StreamingResponse(parts(), headers={"Content-Length": str(PARTS * len(text))})


@app.get("/hang")
async def hang(how: str):
    {"deadlock": hands.deadlock, "spin": hands.spin}[how]()


@app.get("/leave")
async def leave():
    hands.leave(3)


@app.get("/grow")
async def grow(megabytes: int):
    """Never to be forgotten."""
    HOARD.extend(b"\1" * (1 << 20) for _ in range(megabytes))
    return who()


@app.get("/flood")
async def flood(kilobytes: int):
    """Many lines at once."""
    for _ in range(kilobytes // 200):
        print("\n".join([LINE] * 1000), flush=True)
        await asyncio.sleep(0)
    return who()


@app.get("/orphan")
def orphan():
    """Leaves a process behind that is nobody's child; says whose it was."""
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, timeout=20)
    return who()
