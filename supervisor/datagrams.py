"""Datagram sockets in the file system, where the kernel tells who has sent. Standard library only."""

import errno
import os
import socket
import stat


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
