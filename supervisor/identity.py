"""Which process opened an application connection: a worker, a descendant of one, or a script of somebody who may."""

from typing import NamedTuple

from ..ipc.processes import start_time
from . import procfs
from .connection import Peer
from .registry import Process, Registry
from .roles import Role

DEPTH = 32


class Identity(NamedTuple):
    """`name`: of its slot, or `script-PID`; `group` is "" and `worker` 0 for a script, which may do what its `role`
    may."""

    name: str
    group: str
    worker: int
    pid: int
    start: int
    uid: int
    role: Role = Role.NOBODY


def identify(peer: Peer, role: Role, registry: Registry) -> Identity | None:
    """None when it is nobody who may use ipc. The kernel vouches for pid and user, /proc for its ancestors.

    Who has no role comes through the door of another user: it must belong to a worker that was started as this user,
    for a mark in an environment can be copied.
    """
    start = start_time(peer.pid)
    process = _ancestor(peer.pid, registry) or _marked(peer.pid, registry)
    if process is not None and (role > Role.NOBODY or process.uid == peer.uid):
        return Identity(process.slot, process.group, process.worker, peer.pid, start, peer.uid)
    if role >= Role.OPERATOR:
        return Identity(f"script-{peer.pid}", "", 0, peer.pid, start, peer.uid, role)
    return None


def _ancestor(pid: int, registry: Registry) -> Process | None:
    for _ in range(DEPTH):
        process = registry.by_pid(pid)
        if process is not None:
            return process if isinstance(process, Process) else None
        facts = procfs.read(pid)
        if facts is None or facts.ppid <= 1:
            return None
        pid = facts.ppid
    return None


def _marked(pid: int, registry: Registry) -> Process | None:
    """A worker may be quicker here than the news of its birth, and a descendant may have lost its parents."""
    facts = procfs.read(pid)
    mark = procfs.environ(pid, b"BKD_TREE") if facts is not None and facts.state != "D" else None
    return registry.by_tree(mark.decode(errors="replace")) if mark else None
