"""Who may do what on the control socket, by the credentials of the peer. Decides by the user database."""

import grp
import os
import pwd
from enum import IntEnum
from pathlib import Path

from ..ipc.errors import BkdError
from .config.schema import ControlSection
from .connection import Peer


class RoleError(BkdError):
    """The configured groups cannot be given their access."""


class Role(IntEnum):
    """Each may do what the ones before it may."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    OWNER = 3


def role(peer: Peer, control: ControlSection, owner: int) -> Role:
    """uid 0 and the owner do everything, `operators` operate, `viewers` look, everybody else is nobody."""
    if peer.uid in (0, owner):
        return Role.OWNER
    groups = _groups(peer)
    if _number(control.operators) in groups:
        return Role.OPERATOR
    if _number(control.viewers) in groups:
        return Role.VIEWER
    return Role.NOBODY


def admit_groups(run_dir: str, control_socket: str, control: ControlSection) -> None:
    """Let the configured groups reach the socket; who may do what is decided by credentials, not by file modes.

    One group: 0660 in 0750 (0751 when workers of other users pass there). Two groups: a file has only one, so everybody
    may connect, and nobody without a role gets an answer. Raises RoleError when a group does not exist or may not be
    given.
    """
    names = [name for name in (control.operators, control.viewers) if name]
    for name in names:
        if _number(name) is None:
            raise RoleError(f"[control] names the unix group {name}, which does not exist here")
    if len(set(names)) == 1:
        passable = Path(run_dir).stat().st_mode & 0o001
        _open(run_dir, 0o750 | passable, names[0])
        _open(control_socket, 0o660, names[0])
    elif names:
        Path(run_dir).chmod(0o711)
        Path(control_socket).chmod(0o666)


def _open(path: str, mode: int, group: str) -> None:
    try:
        os.chown(path, -1, _number(group) or -1)
    except PermissionError as error:
        raise RoleError(f"{path} cannot be given to the group {group}: bkd must be root or in that group") from error
    Path(path).chmod(mode)


def _number(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


def _groups(peer: Peer) -> set[int]:
    try:
        user = pwd.getpwuid(peer.uid)
    except KeyError:
        return {peer.gid}
    return {peer.gid, *os.getgrouplist(user.pw_name, user.pw_gid)}
