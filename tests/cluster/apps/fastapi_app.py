"""FastAPI with a lifespan that opens and closes something."""

import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse


@asynccontextmanager
async def lifespan(app):
    app.state.opened = os.getpid()
    print("opened", flush=True)
    yield
    print("closed", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/pid", response_class=PlainTextResponse)
async def pid():
    return str(app.state.opened)
