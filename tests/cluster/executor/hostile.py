"""Handlers that do what no handler should, for the tests of the executor."""

import os
import sys

from bkd.workers.messages.handlers import handler
from bkd.workers.messages.words import Retry


class Untold(Exception):
    def __str__(self):
        raise SystemExit(3)


@handler("ok")
async def ok():
    return "ok"


@handler("generator-exit")
async def generator_exit():
    raise GeneratorExit


@handler("generator-exit-plain")
def generator_exit_plain():
    raise GeneratorExit


@handler("untold")
async def untold():
    raise Untold


@handler("long-name")
async def long_name():
    raise type("X" * 2_000_000, (Exception,), {})("text")


@handler("never")
async def never():
    raise Retry(after=1e20)


@handler("long-lock", lock=lambda args: "k" * 2000)
async def long_lock(args):
    return args


@handler("unsayable-lock", lock=lambda args: "\udcff")
async def unsayable_lock(args):
    return args


@handler("stderr")
async def stderr():
    sys.stderr.close()
    raise ValueError("said to nobody")


@handler("stages", stages=[f"s{number}" for number in range(20)])
async def stages():
    return "x" * 60_000


@handler("fork")
async def fork():
    return "child" if os.fork() == 0 else "parent"


@handler("fork-plain")
def fork_plain():
    return "child" if os.fork() == 0 else "parent"
