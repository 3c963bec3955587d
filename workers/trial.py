"""The throw-away process of `bkd check`: imports one application and says how that went."""

import contextlib
import os
import sys

import msgspec

from ..ipc.message import Load, Loaded, LoadFailed
from . import trace
from .folder import enter
from .zygote import prepare, unsafe


def main() -> None:
    """Reads a Load from standard input; writes Loaded or LoadFailed to the descriptor that is the only argument."""
    answer = int(sys.argv[1])
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    os.write(answer, msgspec.msgpack.encode(_tried(load, answer)))
    os._exit(0)


def _tried(load: Load, answer: int) -> Loaded | LoadFailed:
    os.environ.update(load.env)
    try:
        enter(load.cwd)
        with contextlib.redirect_stdout(sys.stderr):
            prepare(load.work)
    except BaseException as error:  # noqa: BLE001 - whatever the application raises is the answer
        return LoadFailed(trace.one_line(error), trace.told(error))
    return Loaded(unsafe=unsafe(set()))
