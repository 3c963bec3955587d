"""Cutting files that grow: NAME, NAME.1 (the newest of the old ones) … NAME.keep. Runs in the master.

The bytes of NAME.keep … NAME.1, NAME, in this order, are one stream. A program that can reopen its file gets it moved
away. One that cannot keeps writing to the same inode; then the head of the file is copied to NAME.1 and cut off:

- on ext4, xfs and others that can remove a range at the head, no line is lost; the cut lies on a block's border, so a
  line may begin in NAME.1 and end in NAME;
- elsewhere (tmpfs, btrfs, NFS) the file is copied until nothing is new and then emptied: what is written in between,
  some microseconds, a millisecond on a busy machine, is lost.

Between the copy and the cut the file is locked (flock), so that a reader who locks it too never sees half of a cut.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable

TYPE_CHECKING = False  # importing typing and pathlib would double what the viewer costs
if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".log"
PIECE = 4 << 20
BLOCK = 64 << 10

_KEEP_SIZE, _PUNCH_HOLE, _COLLAPSE_RANGE = 0x01, 0x02, 0x08
_FAR_BEYOND_ANY_END = 1 << 40
_ROUNDS = 16
_AT_ONCE = 4


def rotate(path: Path, *, limit: int, keep: int, reopen: Callable[[], None] | None = None) -> bool:
    """Rotate the file if it has `limit` bytes (0: never); True: call again soon, there is more to do.

    `reopen` asks the writer to open `path` anew; without it the head is cut off, at most PIECE bytes being copied per
    call. It waits for the disk at times: call it in a thread. Raises OSError, after which the file is as it was or its
    head is both in the file and in NAME.1.
    """
    if limit <= 0:
        return False
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        if reopen is not None and numbered(path, 1).exists():
            _reopened(path, numbered(path, 1).lstat(), reopen)
        return False
    if size < limit:
        return False
    if reopen is None:
        return _cut(path, limit, keep)
    about = path.lstat()
    _part(path).unlink(missing_ok=True)
    move(path, path, keep)
    _reopened(path, about, reopen)
    return False


def make(path: Path, uid: int, gid: int, mode: int = 0o640) -> None:
    """An empty file of this owner, which needs root, unless something is there already. Raises OSError."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        _resemble(made, uid, gid, mode)
    finally:
        os.close(made)


def free(descriptor: int, length: int) -> bool:
    """Make the first `length` bytes of a file zeros that take no room; whether the file system can."""
    return _allocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, 0, length) == 0


def name_of(file: str) -> str | None:
    """Whose output a file of the folder holds: `web.1` for `web.1.log` and `web.1.log.2`, None if nobody's."""
    head, _, number = file.rpartition(".")
    if number.isdecimal():
        file = head
    return file.removesuffix(SUFFIX) if file.endswith(SUFFIX) else None


def numbered(path: Path, number: int) -> Path:
    """Where the file is after so many rotations."""
    return path.with_name(f"{path.name}.{number}") if number else path


def move(source: Path, path: Path, keep: int) -> None:
    """Make `source` the newest of the old files of `path`; those over `keep` are removed. Raises OSError."""
    for number in range(keep - 1, 0, -1):
        _replace(numbered(path, number), numbered(path, number + 1))
    if keep:
        source.replace(numbered(path, 1))
    else:
        source.unlink()
    _prune(path, keep)


class Part:
    """One open file of a stream; `position` is the next byte to read, `rest` the unfinished line before it."""

    __slots__ = ("descriptor", "inode", "position", "rest")

    def __init__(self, descriptor: int, inode: int) -> None:
        self.descriptor, self.inode = descriptor, inode
        self.position = 0
        self.rest = b""

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def left(self) -> int:
        return max(0, self.size() - self.position)

    def read(self, amount: int, longest: int) -> tuple[int, list[bytes]]:
        """Bytes read and the lines they completed."""
        data = os.pread(self.descriptor, amount, self.position)
        self.position += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) >= longest:
            lines.append(self.rest)
            self.rest = b""
        return len(data), lines

    def useless(self) -> bool:
        """Deleted, and nothing in it that was not read."""
        return not self.rest and not self.left() and os.fstat(self.descriptor).st_nlink == 0

    def written(self) -> float:
        return os.fstat(self.descriptor).st_mtime

    def seek_back(self, newlines: int) -> int:
        """Go behind the `newlines`-th newline from the end; returns how many the file has too few."""
        at = self.size()
        while at > 0:
            start = max(0, at - BLOCK)
            block = os.pread(self.descriptor, at - start, start)
            count = block.count(b"\n")
            if count >= newlines:
                end = len(block)
                for _ in range(newlines):
                    end = block.rfind(b"\n", 0, end)
                self.position = start + end + 1
                return 0
            newlines -= count
            at = start
        self.position = 0
        return newlines

    def seek_line(self, leave: int) -> None:
        """Go forward to the first line that begins in the last `leave` bytes."""
        self.rest = b""
        self.position = max(self.position, self.size() - leave)
        self.position += os.pread(self.descriptor, leave, self.position).find(b"\n") + 1

    def lock(self) -> bool:
        """Against being cut; False when it is being cut just now."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self.descriptor)

    def ends_in_newline(self) -> bool:
        size = self.size()
        return size == 0 or os.pread(self.descriptor, 1, size - 1) == b"\n"


def open_part(path: str) -> Part | None:
    """The file as a part to read, None if there is no such regular file. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode):
        return Part(descriptor, about.st_ino)
    os.close(descriptor)
    return None


def _prune(path: Path, keep: int) -> None:
    surplus = keep + 1
    while numbered(path, surplus).exists():
        numbered(path, surplus).unlink()
        surplus += 1


def _replace(source: Path, target: Path) -> None:
    if source.exists():
        source.replace(target)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _reopened(path: Path, about: os.stat_result, reopen: Callable[[], None]) -> None:
    """A writer of another user cannot make its file anew itself."""
    if about.st_uid != os.geteuid() and os.geteuid() == 0:
        make(path, about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode))
    reopen()


def _resemble(descriptor: int, uid: int, gid: int, mode: int) -> None:
    """The owner first; of the mode, which he chooses, no more than reading and writing."""
    about = os.fstat(descriptor)
    if (about.st_uid, about.st_gid) != (uid, gid) and os.geteuid() == 0:
        os.fchown(descriptor, uid, gid)
    os.fchmod(descriptor, mode & 0o666)


def _cut(path: Path, limit: int, keep: int) -> bool:
    source = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(source)
        if not stat.S_ISREG(about.st_mode):
            return False
        if not keep:
            os.ftruncate(source, 0)
            _prune(path, keep)
            return False
        part = os.open(_part(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return _Cut(path, source, part, about, limit=limit, keep=keep).proceed()
        finally:
            os.close(part)
    finally:
        os.close(source)


class _Cut:
    """One call's share of cutting off a head. How far the last call came is the size of NAME.part."""

    def __init__(self, path: Path, source: int, part: int, about: os.stat_result, *, limit: int, keep: int) -> None:
        self._path, self._source, self._part = path, source, part
        self._size, self._limit, self._keep = about.st_size, limit, keep
        self._collapsible = _allocate(source, _COLLAPSE_RANGE, _FAR_BEYOND_ANY_END, about.st_blksize) == errno.EINVAL
        self._head = _head(about, limit) if self._collapsible else about.st_size
        _resemble(part, about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode))

    def proceed(self) -> bool:
        """Copy a piece; after the last one cut."""
        if not self._head:
            return False
        done = os.fstat(self._part).st_size
        if done > self._head:
            os.ftruncate(self._part, 0)
            done = 0
        done = self._copy(done, min(self._head, done + PIECE))
        if done < self._head or not self._locked():
            return True
        move(_part(self._path), self._path, self._keep)
        if not (self._collapsible and _allocate(self._source, _COLLAPSE_RANGE, 0, self._head) == 0):
            self._empty(done)
        return os.fstat(self._source).st_size >= self._limit

    def _copy(self, done: int, end: int) -> int:
        os.lseek(self._part, done, os.SEEK_SET)
        while done < end and (sent := os.sendfile(self._part, self._source, done, end - done)):
            done += sent
        return done

    def _locked(self) -> bool:
        """A reader holds the lock for one read; one that was stopped with it is overruled when the file has doubled."""
        try:
            fcntl.flock(self._source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._size > 2 * self._limit
        return True

    def _empty(self, done: int) -> None:
        for _ in range(_ROUNDS):
            size = os.fstat(self._source).st_size
            if done >= size:
                break
            done = self._copy(done, size)
        os.ftruncate(self._source, 0)


def _head(about: os.stat_result, limit: int) -> int:
    """Bytes to cut off: whole blocks; a collapse has to leave something, and syncs what it leaves to the disk."""
    block = about.st_blksize
    return min((about.st_size - 1) // block, -(-_AT_ONCE * limit // block)) * block


def _allocate(descriptor: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2); the errno of the failure or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return ctypes.get_errno() if fallocate(descriptor, mode, offset, length) else 0
