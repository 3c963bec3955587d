"""The file of a SQLite store: where it may lie, and that one process has it.

Locks of network file systems do not hold what SQLite needs, so such places are refused. Who has the store holds the
lock of FILE.lock, in which its pid stands, for as long as it lives.
"""

import errno
import fcntl
import logging
import os
from pathlib import Path

from .protocol import StoreAway, StoreError

MOUNTS = Path("/proc/self/mountinfo")
ZEROS = 1024 * 1024  # bytes, in one write
PLENTY = 20  # times as much must be free
REMOTE = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "gfs", "gfs2", "glusterfs",
        "gpfs", "lustre", "beegfs", "ncpfs", "ocfs2", "orangefs", "vboxsf", "fuse.sshfs", "fuse.glusterfs",
        "fuse.ceph", "fuse.cephfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.davfs",
        "fuse.curlftpfs", "fuse.vmhgfs-fuse", "fuse.juicefs", "fuse.blobfuse", "fuse.blobfuse2", "fuse.mount-s3",
    }
)  # fmt: skip


_log = logging.getLogger("bkd")


class StoreFile:
    """One database file; relative to nothing: `path` is absolute."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def take(self) -> None:
        """Make the folder, and hold the store against every other process; nothing when it is held already. Raises
        StoreError for a place that cannot be used, StoreAway while another process has it."""
        if self._lock >= 0:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_remote()
            self._lock = self._locked()
        except OSError as error:
            raise _unusable(self.path, error) from error

    def release(self) -> None:
        """Others may have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def lengthen_log(self, size: int) -> None:
        """Zeros after what is in the write-ahead log, up to this size. SQLite knows them for no frames, and writes over
        them: a commit that makes the file longer waits for the disk twice as long as one that does not. Nothing where
        little is free."""
        try:
            free = os.statvfs(self.path.parent)
            if free.f_bavail * free.f_frsize > PLENTY * size:
                _lengthen(f"{self.path}-wal", size)
        except OSError as error:
            _log.info("the log of %s stays as long as it is: %s", self.path, error.strerror or error)

    def _refuse_remote(self) -> None:
        kind = file_system(os.path.realpath(self.path.parent), MOUNTS.read_text("utf-8", "surrogateescape"))
        if kind in REMOTE:
            raise StoreError(
                f"{self.path} lies on a network file system ({kind}), where SQLite loses data: "
                "put it on a disk of this host, or use postgresql://"
            )

    def _locked(self) -> int:
        number = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(number, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(number)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise StoreAway(f"{self.path} is in use by process {owner}: one process at a time can have it") from error
        os.ftruncate(number, 0)
        os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
        return number


def _lengthen(path: str, size: int) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for start in range(os.fstat(number).st_size, size, ZEROS):
            os.pwrite(number, bytes(min(ZEROS, size - start)), start)
    finally:
        os.close(number)


def file_system(folder: str, mounts: str) -> str:
    """The type of file system a real, absolute folder lies on, by the text of /proc/self/mountinfo; "" if unknown. What
    is mounted last over the same place counts."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4])
        if _below(folder, point) and len(point) >= best:
            best, kind = len(point), types[0]
    return kind


def _below(folder: str, point: str) -> bool:
    return folder == point or folder.startswith(point.rstrip("/") + "/")


def _unescaped(point: str) -> str:
    for code, text in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, text)
    return point


def _unusable(path: Path, error: OSError) -> StoreError | StoreAway:
    text = f"{path} cannot be used as a store: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK):
        return StoreAway(text)
    return StoreError(f"{text}; say another place in [store] url")
