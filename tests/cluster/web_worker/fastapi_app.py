from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse


@asynccontextmanager
async def lifespan(app):
    app.state.word = "fastapi"
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/echo")
async def echo(request: Request):
    return PlainTextResponse(f"{app.state.word} {(await request.body()).decode()}")


@asynccontextmanager
async def no_database(app):
    raise RuntimeError("no database")
    yield


failing = FastAPI(lifespan=no_database)
