"""The keeper's hands: fork and exec, listening sockets, its own children. Standard library only; decides nothing."""

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import stat
from collections.abc import Iterator
from typing import Any, NoReturn

from ..ipc.processes import redirect
from . import activation
from .dropping import drop

EXEC_LIMIT = 2.0
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NAME = 15
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)


def spawn(order: dict[str, Any]) -> int:
    """Fork and exec `argv`; returns the pid. Raises OSError with the errno of whatever failed in the child.

    `env` is laid over the keeper's environment (null removes a name), `out` is a file that standard output and error
    are appended to, `stdin`, `err` and `inherit` are descriptors; `uid`, `gid`, `groups` and `umask`: see
    `dropping`, `user` is the name to complain of; `listeners`: see `activation.give`. The child leads a session of its
    own, so that the terminal's Ctrl-C reaches nobody but the keeper and its process group can be killed as a whole.
    """
    failed_in, failed_out = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        os.close(failed_in)
        os.close(failed_out)
        raise
    if pid == 0:
        _become(order, failed_out)
    os.close(failed_out)
    word = _exec_failure(failed_in)
    if word:
        os.waitpid(pid, 0)
        number, _, what = word.partition(b" ")
        raise OSError(int(number), os.strerror(int(number)), order[what.decode()] if what else order["argv"][0])
    return pid


def _exec_failure(failed: int) -> bytes:
    """The errno of an exec that failed. A program on a slow disk gets EXEC_LIMIT; after that its exit code tells."""
    poll = select.poll()
    poll.register(failed, select.POLLIN)
    with os.fdopen(failed, "rb", buffering=0) as pipe:
        return pipe.read(16) if poll.poll(EXEC_LIMIT * 1000) else b""


def _become(order: dict[str, Any], failed: int) -> NoReturn:
    """Runs in the child between fork and exec."""
    try:
        os.setsid()
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        _wire(order)
        _drop(order, failed)
        if order.get("cwd"):
            _enter(order["cwd"], failed)
        failed, given = activation.give(order.get("listeners", ()), failed)
        environment = {**os.environ, **order.get("env", {}), **given}
        environment = {name: value for name, value in environment.items() if value is not None}
        os.execvpe(order["argv"][0], order["argv"], environment)
    except OSError as error:
        os.write(failed, b"%d" % (error.errno or errno.EIO))
    except BaseException:  # noqa: BLE001 - nothing may escape into a second copy of the keeper
        os.write(failed, b"%d" % errno.EINVAL)
    os._exit(127)


def _drop(order: dict[str, Any], failed: int) -> None:
    try:
        drop(order)
    except OSError as error:
        os.write(failed, b"%d user" % (error.errno or errno.EIO))
        os._exit(127)


def _enter(folder: str, failed: int) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        os.write(failed, b"%d cwd" % (error.errno or errno.EIO))
        os._exit(127)


def _wire(order: dict[str, Any]) -> None:
    stdin = order.get("stdin")
    if stdin is None:
        stdin = os.open(os.devnull, os.O_RDONLY)
    os.dup2(stdin, 0)
    redirect(order.get("out") or "")
    if "err" in order:
        os.dup2(order["err"], 2)
    for fd in order.get("inherit", ()):
        os.set_inheritable(fd, True)


def become_subreaper(name: bytes) -> None:
    """Orphans below this process become its children from now on; `name` is what `ps` shows of it."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, name, 0, 0, 0)


@contextlib.contextmanager
def recording(path: str) -> Iterator[tuple[int, int]]:
    """A file to append standard error to, and a copy of this process's own; both for one spawn. Raises OSError."""
    record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    copy = os.dup(2)
    try:
        yield record, copy
    finally:
        os.close(record)
        os.close(copy)


def children() -> list[int]:
    """Pids of this process's living children and zombies (Linux with CONFIG_PROC_CHILDREN, else none)."""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as listing:
        return [int(pid) for pid in listing.read().split()]
    return []


def listen(order: dict[str, Any]) -> socket.socket:
    """Bind and listen: `family` inet, inet6 or unix, `address` a path or [host, port]; of a unix socket `mode`, and
    `uid`, whose the file is to be if not this process's own user."""
    if order["family"] == "unix":
        return _listen_unix(
            order["address"], int(order.get("mode", 0o666)), int(order.get("uid", -1)), order["backlog"]
        )
    family = socket.AF_INET6 if order["family"] == "inet6" else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(tuple(order["address"]))
        listener.listen(order["backlog"])
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _listen_unix(path: str, mode: int, uid: int, backlog: int) -> socket.socket:
    """A socket file that nobody answers on is removed; a living one is `Address already in use`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        mask = os.umask(0o777 & ~mode)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        if uid >= 0:
            os.chown(path, uid, -1, follow_symlinks=False)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is in the way", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def close_listener(listener: socket.socket, *, ours: bool = True) -> None:
    """Close it; a unix socket's file goes with it if it is still ours."""
    name = listener.getsockname() if ours and listener.family == socket.AF_UNIX else ""
    listener.close()
    if name:
        with contextlib.suppress(OSError):
            os.unlink(name)


def in_words(error: OSError) -> str:
    """What went wrong, and with which file."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def ending(status: int) -> str:
    """How a process has ended: `exit code 3`, or `SIGKILL`."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
