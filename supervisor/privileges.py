"""As whom a group's processes run: `user`, `group` and `umask` in numbers, and whether that can be done from here."""

import errno
import grp
import os
import pwd
import select
import signal
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from ..ipc.errors import BkdError
from .config.faults import Fault, quoted
from .config.schema import Config, GroupSection
from .dropping import drop

LIMIT = 5.0
USE, READ, SPEAK = os.X_OK, os.R_OK | os.X_OK, os.R_OK | os.W_OK
_SAME = -1
_LONGEST_ID = 2**32 - 2


class PrivilegeError(BkdError):
    """Processes cannot be started as this user; the text says why."""


class Credentials(NamedTuple):
    """`uid`, `gid` and `umask` are -1 where they are those of bkd; `groups` are set with the uid alone."""

    uid: int = _SAME
    gid: int = _SAME
    groups: tuple[int, ...] = ()
    umask: int = _SAME
    name: str = ""
    home: str = ""

    def order(self) -> dict[str, Any]:
        """What the keeper is ordered beside the program; see `dropping`."""
        named = {"uid": self.uid, "gid": self.gid, "umask": self.umask}
        order: dict[str, Any] = {key: number for key, number in named.items() if number != _SAME}
        if "uid" in order:
            order["groups"] = list(self.groups)
        return order | {"user": f"user {self.name}" if self.name else "group or umask"} if order else order

    def environment(self) -> dict[str, str]:
        """The variables that name the user."""
        return {} if self.uid == _SAME else {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


class Accounts:
    """The credentials of groups. What a name stands for is looked up once: a user database that does not answer later
    must not keep a worker from being replaced."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Credentials] = {}

    def of(self, settings: GroupSection) -> Credentials:
        """As whom processes with these settings run. Raises PrivilegeError."""
        key = settings.user, settings.group, settings.umask
        if key not in self._known:
            self._known[key] = resolve(settings)
        return self._known[key]


def resolve(settings: GroupSection, *, own: int | None = None) -> Credentials:
    """Names to numbers, for a bkd that runs as user `own` (default: this process's). Raises PrivilegeError."""
    own = os.geteuid() if own is None else own
    umask = int(settings.umask, 8) if settings.umask else _SAME
    gid = _group_number(settings.group) if settings.group else _SAME
    if not settings.user:
        return Credentials(gid=gid, umask=umask)
    account = _account(settings.user, gid)
    if account.pw_uid == own:
        return Credentials(gid=gid if own == 0 else _SAME, umask=umask)
    primary = account.pw_gid if gid == _SAME else gid
    groups = tuple(sorted({primary, *os.getgrouplist(account.pw_name, primary)}))
    return Credentials(account.pw_uid, primary, groups, umask, account.pw_name, account.pw_dir or "/")


def faults(config: Config, *, own: int | None = None) -> list[Fault]:
    """What of `user`, `group` and `cwd` cannot be done by a bkd that runs as user `own` (default: this process's)."""
    own = os.geteuid() if own is None else own
    return [fault for group in config.workers.values() for fault in _faults(group, config.app.python, own)]


def attempt(credentials: Credentials, uses: Iterable[tuple[str, int]]) -> str:
    """The first of these paths that the user cannot use in that way, and why; "" when all can be.

    It is tried in a child of this process that becomes that user (and, as it executes nothing, cannot be looked into by
    it). Whatever hangs there counts as unusable after LIMIT.
    """
    uses = list(uses)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _try(credentials, uses, write_end)
    finally:
        os.close(write_end)
    with os.fdopen(read_end, "rb", buffering=0) as answer:
        poll = select.poll()
        poll.register(answer, select.POLLIN)
        if poll.poll(LIMIT * 1000):
            os.waitpid(pid, 0)
            return _told(answer.read(32), uses)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, os.WNOHANG)  # it hangs in the kernel and may do so for ever
    return f"no answer from {quoted(uses[0][0])} within {LIMIT:g} s"


def changeable(folder: str, credentials: Credentials) -> str:
    """The folder at or above `folder` in which this user could put something else in its place; "" when there is none.

    A folder with the sticky bit that belongs to somebody else, such as /tmp, is none.
    """
    path = os.path.realpath(folder)
    while True:
        about = os.stat(path)
        in_group = about.st_gid in (credentials.gid, *credentials.groups)
        writable = about.st_mode & 0o002 or (about.st_mode & 0o020 and in_group)
        if about.st_uid == credentials.uid or (writable and not about.st_mode & 0o1000):
            return path
        if path == "/":
            return ""
        path = os.path.dirname(path)


def _faults(settings: GroupSection, python: str, own: int) -> Iterable[Fault]:
    key = f"workers.{settings.name}"
    try:
        credentials = resolve(settings, own=own)
    except PrivilegeError as error:
        yield Fault(f"{key}.user", "a user of this machine with a group", str(error))
        return
    if own != 0:
        if credentials.uid != _SAME:
            yield Fault(f"{key}.user", f"bkd to be run as root or as {settings.user}", f"user {_name(own)}")
        elif settings.group and _group_number(settings.group) != os.getegid():
            yield Fault(f"{key}.group", f"bkd to be run as root or in group {settings.group}", f"user {_name(own)}")
    elif credentials.uid != _SAME and os.path.isdir(settings.cwd):
        yield from _unreachable(settings, credentials, python)


def _unreachable(settings: GroupSection, credentials: Credentials, python: str) -> Iterable[Fault]:
    python = python or sys.executable
    uses = [(settings.cwd, USE if settings.kind == "command" else READ)]
    if settings.kind != "command" and "/" in python:
        uses.append((python, USE))
    why = attempt(credentials, uses)
    if why:
        yield Fault(f"workers.{settings.name}.user", "a user who can read the application", f"{settings.user}: {why}")


def _account(name: str, gid: int) -> pwd.struct_passwd:
    """A number needs no entry in the user database, but then a group of its own."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    number = _number(name)
    if number is None:
        raise PrivilegeError(f"there is no user {name} here")
    try:
        return pwd.getpwuid(number)
    except KeyError:
        if gid == _SAME:
            raise PrivilegeError(f"user {name} has no entry here: name its group as well") from None
        return pwd.struct_passwd((name, "x", number, gid, "", "/", ""))


def _group_number(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        number = _number(name)
    if number is None:
        raise PrivilegeError(f"there is no unix group {name} here")
    return number


def _number(name: str) -> int | None:
    """The last number stands for "no change" in system calls."""
    number = int(name) if name.isascii() and name.isdigit() else None
    return number if number is not None and number <= _LONGEST_ID else None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _try(credentials: Credentials, uses: list[tuple[str, int]], write_end: int) -> NoReturn:
    """Runs in the child. It answers with the number of the use that fails, -1 for becoming the user, and its errno, 0
    if there is none."""
    number, code = -1, 0
    try:
        drop(credentials.order())
        number = 0
        while number < len(uses) and not code:
            code = _fault(*uses[number])
            number += not code
    except OSError as error:
        code = error.errno or errno.EIO
    except BaseException:  # noqa: BLE001 - nothing may escape into a second copy of this process
        code = errno.EINVAL
    os.write(write_end, b"%d %d" % (number, code))
    os._exit(0)


def _fault(path: str, how: int) -> int:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO
    return 0 if os.access(path, how) else errno.EACCES


def _told(answer: bytes, uses: list[tuple[str, int]]) -> str:
    number, _, code = answer.partition(b" ")
    if not code:
        return "the attempt ended without an answer"
    if not int(code):
        return ""
    what = quoted(uses[int(number)][0]) if int(number) >= 0 else "to become this user takes CAP_SETUID and CAP_SETGID"
    return f"{what}: {os.strerror(int(code))}"
