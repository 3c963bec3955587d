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
    keeper = _keeper(socket_path)
    silent_since = time.monotonic()
    while True:
        try:
            code = _ask(socket_path)
            return code if _gone(keeper, LAST_STEP) else _stuck(socket_path)
        except BkdError as error:
            if keeper < 0 or _gone(keeper, AGAIN):
                return say(error)
            if time.monotonic() - silent_since > MASTERLESS:
                say(error)
                return _stuck(socket_path)
            time.sleep(AGAIN)


def _ask(socket_path: str) -> int:
    client = Client(socket_path)
    code, out, err = client.run("stop", {}, render="text", progress=show, limit=ANSWER_LIMIT)
    show(out, err)
    return code


def _keeper(socket_path: str) -> int:
    """A pidfd of the keeper, by the pid in its lock; -1 when there is none."""
    try:
        return os.pidfd_open(_keeper_pid(socket_path))
    except (OSError, ValueError):
        return -1


def _keeper_pid(socket_path: str) -> int:
    with open(os.path.join(os.path.dirname(socket_path), "lock")) as lock:
        return int(lock.read())


def _gone(pidfd: int, limit: float) -> bool:
    if pidfd < 0:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(limit * 1000))


def _stuck(socket_path: str) -> int:
    sys.stderr.write(f"bkd: the cluster does not end; `kill -9 {_keeper_pid(socket_path)}` takes its keeper away\n")
    return 1
