"""The log file of a process of another user. Runs in the master, as root.

The folder is root's alone, so nobody else can put a link there. A process opens its file by its path, also after a
rotation, and cannot make it: it is made here, and belongs to whoever writes to it.
"""

import os
from pathlib import Path

from loguru import logger

from .rotation import make, move


def provide(path: str, uid: int, keep: int) -> None:
    """Before a process of user `uid` (-1: bkd's own) is started. A file of somebody else, who may have it open, is put
    with the `keep` older ones. What goes wrong costs the process its log and is said."""
    if not path or os.geteuid() != 0:
        return
    uid, file = max(0, uid), Path(path)
    try:
        if file.exists() and file.lstat().st_uid != uid:
            move(file, file, keep)
        if uid:
            make(file, uid, -1)
    except OSError as error:
        logger.warning("{} cannot be given to user {}: {}", path, uid, error.strerror)
