"""`bkd status --healthy`: one question with a deadline, for whoever looks after a container. Cheap to import."""

import time
from typing import Any

from ..ipc.errors import BkdError
from .asking import Display, say
from .client import Client, NotRunning, find_socket

PATIENCE = 2.0  # seconds in which a master that has died is followed by the next one
AGAIN = 0.05


def probe(arguments: dict[str, Any], *, config: str | None, sock: str | None, render: str) -> int:
    """Ask, print the answer, and give its exit code: 0 yes, 1 no or no answer in time, 4 not running."""
    try:
        code, out, err = _answer(find_socket(config, sock), arguments, render)
        Display().show(out, err)
    except BkdError as error:
        return say(error)
    return code


def _answer(path: str, arguments: dict[str, Any], render: str) -> tuple[int, str, str]:
    """From this master, or the one that follows it in time; raises NotRunning, BkdError."""
    display = Display()
    deadline = time.monotonic() + PATIENCE
    while True:
        left = deadline - time.monotonic()
        try:
            client = Client(path, limit=left)
            return client.run("status", arguments, render=render, progress=display.show, limit=left)
        except NotRunning:
            raise
        except BkdError:
            if time.monotonic() + 2 * AGAIN > deadline:
                raise
        time.sleep(AGAIN)
