"""The folders bkd writes into: which file system, how much room, whether a socket's path fits."""

import os
from typing import NamedTuple

from ...ipc.quantity import counted
from .. import places
from ..config.processors import read_file
from ..fact import volume
from ..inotify import Watch
from .attempt import Probe
from .finding import Finding
from .subject import LEAST_ROOM, Subject

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.glusterfs"}
FEW_INODES = 1000
FEW_WATCHES = 8192
ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
OTHER_PLACE = "another place: run_dir in [app]"


class Space(NamedTuple):
    """The file system below a folder: its kind, free bytes, free inodes (None: as many as fit)."""

    kind: str
    free: int
    inodes: int | None


def probes(subject: Subject) -> dict[str, Probe]:
    """Of the run directory, the folder for temporary files, and watching folders."""
    return {
        "run directory": lambda: run_directory(subject),
        "temporary files": lambda: judged("temporary files", places.TEMPORARY, space(places.TEMPORARY), LEAST_ROOM),
        "watching": watching,
    }


def run_directory(subject: Subject) -> Finding:
    """The first candidate that this user can have; nothing is made."""
    reasons = []
    for folder in _candidates(subject):
        reason = objection(folder)
        if not reason:
            return judged("run directory", folder, space(_existing(folder)), subject.room)
        reasons.append(f"{folder}: {reason}")
    return Finding("run directory", "missing", "; ".join(reasons) or "none fits", OTHER_PLACE)


def _candidates(subject: Subject) -> list[str]:
    if not subject.file:
        return [f"{places.TEMPORARY}/bkd-{os.geteuid()}"]
    if subject.config is None:
        return [os.path.dirname(subject.file)]
    return places.run_dir_candidates(subject.file, os.environ)


def objection(folder: str) -> str:
    """Why this user cannot keep a cluster there; "" when nothing speaks against it."""
    if len(os.fsencode(f"{folder}/{places.SOCKET}")) > places.LONGEST_SOCKET_PATH:
        return f"too long for a socket's path ({places.LONGEST_SOCKET_PATH} bytes)"
    there = _existing(folder)
    if there == folder and os.stat(folder).st_uid != os.geteuid():
        return f"belongs to user {os.stat(folder).st_uid}"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"


def judged(name: str, folder: str, there: Space, room: int) -> Finding:
    """A folder on its file system, when `room` bytes may be needed."""
    inodes = "" if there.inodes is None or there.inodes > FEW_INODES else f", {counted(there.inodes, 'inode')}"
    found = f"{folder}: {there.kind}, {volume(there.free)} free{inodes}"
    if there.kind in NETWORK:
        return Finding(name, "degraded", found, f"hangs when the network does; {OTHER_PLACE}")
    if inodes or there.free < room:
        return Finding(name, "degraded", found, f"logs and state may take {volume(room)}: make room, or less in [log]")
    return Finding(name, "ok", found)


def space(folder: str) -> Space:
    """Of an existing folder; raises OSError."""
    facts = os.statvfs(folder)
    kind = kind_of(os.path.realpath(folder), read_file("/proc/self/mountinfo") or "")
    return Space(kind, facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None)


def kind_of(path: str, mounts: str) -> str:
    """The file system that a path without links lies on, from the text of mountinfo: the longest mount, the last of
    those that cover each other."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        before, _dash, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        if f"{path}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def watching() -> Finding:
    """For `bkd start --watch` and the commands that follow: tried on this folder, counted by the kernel's limits."""
    watch = Watch(os.sep)
    if watch.descriptor is None:
        means = "--watch and bkd events -f look again and again instead: sysctl fs.inotify.max_user_instances=512"
        return Finding("watching", "degraded", "inotify gives no instance", means)
    return watches(read_file("/proc/sys/fs/inotify/max_user_watches"))


def watches(text: str | None) -> Finding:
    """From fs.inotify.max_user_watches."""
    if text is not None and int(text) < FEW_WATCHES:
        means = "--watch takes one for each folder: sysctl fs.inotify.max_user_watches=65536"
        return Finding("watching", "degraded", f"inotify, {text.strip()} watches", means)
    return Finding("watching", "ok", f"inotify, {(text or 'some').strip()} watches")


def _existing(folder: str) -> str:
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def _unescaped(text: str) -> str:
    for code, character in ESCAPES.items():
        text = text.replace(code, character)
    return text
