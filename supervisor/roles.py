"""Who may do what on the control socket, by the credentials of the peer. Pure but for the user database."""

import grp
import os
import pwd
from enum import IntEnum

from .config.schema import ControlSection
from .connection import Peer


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


def group_number(name: str) -> int | None:
    """The gid of a configured group, None when there is none of that name."""
    return _number(name)


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
