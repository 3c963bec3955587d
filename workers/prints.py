"""What the application was imported from: a digest of each of its source files, so that a later import can be told from
this one."""

import contextlib
import hashlib
import os
import sys

MOST_FILES = 5_000
MOST_BYTES = 1 << 18  # of names; a message holds four times as much
CHUNK = 1 << 14
_PACKAGE = __name__.partition(".")[0]


def prints(files: list[str], folder: str) -> dict[str, bytes]:
    """Digests of these files by their path, relative to `folder` for what lies below it. A date or an inode says
    nothing: a file that was touched, or checked out again, is the same. bkd's own files are no part of a release."""
    own, found, size = _own(), {}, 0
    below = os.path.join(os.path.realpath(folder), "")
    for file in files[:MOST_FILES]:
        name = file.removeprefix(below)
        size += len(name)
        if size > MOST_BYTES:
            break
        if file not in own:
            with contextlib.suppress(OSError):  # what is gone by now is no file of this release
                found[name] = _digest(file)
    return found


def _digest(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = hashlib.blake2b(digest_size=8)
        while data := os.read(descriptor, CHUNK):
            content.update(data)
    finally:
        os.close(descriptor)
    return content.digest()


def _own() -> set[str]:
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == _PACKAGE]
    return {os.path.realpath(file) for module in modules if (file := getattr(module, "__file__", None))}
