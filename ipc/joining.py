"""How a script finds a cluster that it was not started by."""

import importlib
import os
import stat

from .errors import NotConnected
from .link import Link
from .message import Hello
from .processes import start_time

PROBE_LIMIT = 5.0


def find(path_or_config: str | None, known: str) -> str:
    """Path of the control socket; `known` is where this process was told that it is, or "".

    A configuration is looked for as the command line does. Raises BkdError in a line that says what to do.
    """
    if path_or_config is None and known:
        return known
    if path_or_config is not None and _is_socket(path_or_config):
        return os.path.abspath(path_or_config)
    client = importlib.import_module("bkd.supervisor.client")  # by name: needed here alone
    found: str = client.find_socket(path_or_config, None)
    return os.path.abspath(found)


def probe(path: str) -> None:
    """Whether a master takes this process. Raises NotConnected, RefusedError, DeadlineError."""
    if not _is_socket(path):
        raise NotConnected(f"no cluster is running at {path}; start it with `bkd start`")
    hello = Hello(role="application", pid=os.getpid(), start=start_time(os.getpid()))
    link, _welcome = Link.connect(path, hello, timeout=PROBE_LIMIT)
    link.close()


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
