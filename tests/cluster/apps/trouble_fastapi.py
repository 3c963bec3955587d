"""FastAPI, whose plain functions run in a pool of threads."""

import os

import trouble
from fastapi import FastAPI

app = FastAPI()


@app.get("/pid")
def pid():
    return os.getpid()


@app.get("/fetch")
def fetch(port: int):
    return trouble.fetch({"port": port})


@app.get("/chain")
async def chain():
    await trouble.chain({})
