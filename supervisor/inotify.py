"""Waiting until something changes in a folder, without looking at it again and again. Standard library only."""

import ctypes
import os
import struct
import time

RECHECK = 10.0
SHORTEST, LONGEST = 0.02, 1.0

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_MOVE_SELF, _OVERFLOW, _IGNORED, _ONLY_FOLDERS = 0x800, 0x4000, 0x8000, 0x0100_0000
_WANTED = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _MOVE_SELF | _ONLY_FOLDERS
_HEAD = struct.Struct("iIII")


class Watch:
    """Tells which names of one folder changed, by the kernel's help or, where it cannot, by asking to be called again.

    `descriptor` becomes readable when something changed; it is None while there is nothing to wait on: the folder does
    not exist, or the user's inotify instances are used up. `patience` says when `changed` is due in any case.
    """

    def __init__(self, folder: str) -> None:
        self.descriptor: int | None = None
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._delay = SHORTEST
        self._attach()
        self._due = time.monotonic() + self._interval

    @property
    def patience(self) -> float:
        """Seconds after which to call `changed` even when the descriptor stays silent."""
        return max(0.0, self._due - time.monotonic())

    def changed(self, *, found: bool) -> set[str] | None:
        """Names changed since the last call, None if it may be any; never waits.

        `found`: the last look showed something new, so without the kernel's help the next one follows soon.
        """
        if found:
            self._hasten()
        names = self._events() if self.descriptor is not None else set()
        now = time.monotonic()
        if now < self._due:
            return names
        if self.descriptor is None:
            self._delay = min(self._delay * 2, LONGEST)
            self._attach()
        self._due = now + self._interval
        return None

    def close(self) -> None:
        """Give the descriptor back."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    @property
    def _interval(self) -> float:
        return self._delay if self.descriptor is None else RECHECK

    def _hasten(self) -> None:
        if self.descriptor is None and self._delay > SHORTEST:
            self._delay = SHORTEST
            self._due = min(self._due, time.monotonic() + SHORTEST)

    def _attach(self) -> None:
        descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            return
        if self._libc.inotify_add_watch(descriptor, os.fsencode(self._folder), _WANTED) < 0:
            os.close(descriptor)
            return
        self.descriptor = descriptor

    def _events(self) -> set[str] | None:
        assert self.descriptor is not None
        try:
            data = os.read(self.descriptor, 1 << 14)
        except BlockingIOError:
            return set()
        names: set[str] = set()
        at = 0
        while at < len(data):
            _number, mask, _cookie, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size + length
            if mask & (_IGNORED | _MOVE_SELF):
                self._lose_folder()
                return None
            if mask & _OVERFLOW:
                return None
            names.add(os.fsdecode(data[at - length : at].rstrip(b"\0")))
        return names

    def _lose_folder(self) -> None:
        self.close()
        self._delay = SHORTEST
        self._due = time.monotonic() + SHORTEST
