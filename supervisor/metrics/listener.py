"""The socket at which metrics can be scraped. The master binds it itself: a new master binds it anew."""

import contextlib
import errno
import grp
import os
import socket
import stat

from ...ipc.errors import BkdError
from ..config.address import Inet, Unix, parse_address
from ..config.schema import ControlSection

SOCKET = "metrics.sock"
BACKLOG = 16

ADVICE = {
    errno.EADDRINUSE: "somebody else listens there: end that, or name another address",
    errno.EADDRNOTAVAIL: "this machine has no such address: name one it has",
    errno.EACCES: "this user may not: name another address",
    errno.ENOENT: "its folder is not there: make it, or name another path",
}


class BindError(BkdError):
    """Nobody can scrape there; the text says why and what to do."""


class Listener:
    """A socket that listens. A file of a master that has died is replaced; what others listen at, or is no socket, is
    not. Who may connect to a file is who may connect to the control socket. Raises BindError."""

    def __init__(self, bind: str, run_dir: str, control: ControlSection) -> None:
        self.address = _address(bind, run_dir)
        self._file: os.stat_result | None = None
        self.socket = socket.socket(_family(self.address))
        self.socket.setblocking(False)
        try:
            if isinstance(self.address, Unix):
                self._bind_file(self.address.path, control)
            else:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind((self.address.host, self.address.port))
            self.socket.listen(BACKLOG)
        except (OSError, KeyError) as error:
            self.close()
            raise BindError(_why(error)) from error

    @property
    def is_open_to_others(self) -> bool:
        """Whether it can be reached from other machines."""
        address = self.address
        return isinstance(address, Inet) and not address.host.startswith("127.") and address.host != "::1"

    @property
    def is_lost(self) -> bool:
        """Whether its file was removed."""
        return isinstance(self.address, Unix) and not os.path.lexists(self.address.path)

    def close(self) -> None:
        """Listen no more, and remove the file unless another one is there by now."""
        self.socket.close()
        if isinstance(self.address, Unix) and self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(self.address.path), self._file):
                    os.unlink(self.address.path)

    def _bind_file(self, path: str, control: ControlSection) -> None:
        """Until it listens nobody can connect, whatever its mode is."""
        if _is_left_behind(path):
            os.unlink(path)
        self.socket.bind(path)
        self._file = os.lstat(path)
        groups = {control.operators, control.viewers} - {""}
        if len(groups) == 1:
            os.chown(path, -1, grp.getgrnam(*groups).gr_gid)
        os.chmod(path, (0o600, 0o660, 0o666)[len(groups)])


def _address(bind: str, run_dir: str) -> Inet | Unix:
    address = Unix(f"{run_dir}/{SOCKET}") if bind == "run_dir" else parse_address(bind)
    if not isinstance(address, Inet | Unix):
        raise BindError("socket activation is not for metrics: name an address")
    return address


def _family(address: Inet | Unix) -> socket.AddressFamily:
    if isinstance(address, Unix):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def _is_left_behind(path: str) -> bool:
    """Whether this is a socket at which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _why(error: OSError | KeyError) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]}: name a group of this machine in [control]"
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{reason}; {ADVICE.get(error.errno or 0, 'name another address')}"
