"""Datagram sockets in the file system, where the kernel tells who has sent. Standard library only.

The keeper holds those of programs, each by a name. A socket whose file was removed is not found any more, but whoever
has connected to it goes on with it: then there are two.
"""

import errno
import os
import socket
import stat
from typing import Any

SUCCESSOR = ":again"


def held(sockets: dict[str, socket.socket], order: dict[str, Any]) -> list[int]:
    """The descriptors of what the order calls `name`: at first of one socket, bound at `address` with `mode` for user
    `uid`. If its file has been removed, another one is bound there beside it, in place of an earlier such successor.

    Runs in the keeper. Raises OSError.
    """
    first, successor = names(order["name"])
    missing = first if first not in sockets else successor
    if missing == first or not os.path.lexists(order["address"]):
        made = bound(order["address"], int(order["mode"]), int(order.get("uid", -1)))
        if missing in sockets:
            sockets[missing].close()
        sockets[missing] = made
    return [sockets[name].fileno() for name in (first, successor) if name in sockets]


def names(name: str) -> tuple[str, str]:
    """Under which a socket and its successor are held."""
    return name, f"{name}{SUCCESSOR}"


def bound(path: str, mode: int, uid: int = -1) -> socket.socket:
    """Bind at `path`, where a socket that is left from before is removed; `uid`: whose the file is to be, if not
    this process's own user. Raises OSError."""
    _clear(path)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o777 & ~mode)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        receiver.bind(path)
        if uid >= 0:
            os.chown(path, uid, -1, follow_symlinks=False)
    except BaseException:
        receiver.close()
        raise
    finally:
        os.umask(mask)
    return receiver


def _clear(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is in the way: remove it", path)
        os.unlink(path)
    except FileNotFoundError:
        return
