"""`bkd stop`, seen from the terminal: ask, wait until the keeper is gone, and outlive a master that dies meanwhile."""

import os
import select
import sys
import time

from ..ipc.errors import BkdError
from .asking import say, show
from .client import ANSWER_LIMIT, Client

MASTERLESS = 10.0
LAST_STEP = 10.0
AGAIN = 0.2


def stop(socket_path: str) -> int:
    """The exit code: 0 all drained, 3 something was killed, 1 something survived or nobody could tell."""
    pid, keeper = _keeper(socket_path)
    broken_since = None
    while True:
        try:
            client = Client(socket_path)
            broken_since = None
            code = _ask(client)
            return code if _gone(keeper, LAST_STEP) else _stuck(pid)
        except BkdError as error:
            if keeper < 0 or _gone(keeper, AGAIN):
                return say(error)
            broken_since = broken_since or time.monotonic()
            if time.monotonic() - broken_since > MASTERLESS:
                say(error)
                return _stuck(pid)
            time.sleep(AGAIN)


def _ask(client: Client) -> int:
    code, out, err = client.run("stop", {}, render="text", progress=show, limit=ANSWER_LIMIT)
    show(out, err)
    return code


def _keeper(socket_path: str) -> tuple[int, int]:
    """Pid and pidfd of the keeper, by its lock; -1 when there is none."""
    try:
        with open(os.path.join(os.path.dirname(socket_path), "lock")) as lock:
            pid = int(lock.read())
        return pid, os.pidfd_open(pid)
    except (OSError, ValueError):
        return -1, -1


def _gone(pidfd: int, limit: float) -> bool:
    if pidfd < 0:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(limit * 1000))


def _stuck(keeper: int) -> int:
    sys.stderr.write(f"bkd: the cluster does not end; look at `bkd events`; its keeper is pid {keeper}\n")
    return 1
