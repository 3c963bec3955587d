"""A process from outside: its threads, descriptors, children, libraries and memory, from /proc. Linux only."""

import os
import stat
from collections.abc import Iterator

from .. import procfs
from .seen import Child, Memory, Opened, Outside, Sizes

MOST = 100
SIZES = ("Rss", "Pss", "Private_Clean", "Private_Dirty")


def look(pid: int, own: set[int]) -> Outside:
    """What the process has by now; descriptors in `own` are left out."""
    return Outside(
        threads={tid: comm(f"/proc/{pid}/task/{tid}") for tid in _numbers(f"/proc/{pid}/task") if tid != pid},
        opened=list(_opened(pid, own))[:MOST],
        children=[Child(child, command(child)) for child in procfs.children(pid)],
        libraries=libraries(_text(f"/proc/{pid}/maps")),
    )


def libraries(maps: str) -> list[str]:
    """Names of shared libraries from the text of /proc/PID/maps; extension modules are not called lib…"""
    names = {os.path.basename(line.partition("/")[2]) for line in maps.splitlines() if ".so" in line}
    return sorted(name for name in names if name.startswith("lib"))


def memory(alone: Sizes | None, loose: list[int], frozen: list[int]) -> Memory | None:
    """Of forked children, each pair one that did nothing and one that has collected."""
    measured = [sizes(_text(f"/proc/{pid}/smaps_rollup")) for pid in (*loose, *frozen)]
    loose_idle, loose_busy, idle, busy = measured
    if alone is None or loose_idle is None or loose_busy is None or idle is None or busy is None:
        return None
    collected, collected_loose = busy.private - idle.private, loose_busy.private - loose_idle.private
    return Memory(alone, idle, max(0, collected), max(0, collected_loose))


def sizes_of(pid: int) -> Sizes | None:
    """None when the kernel does not tell."""
    return sizes(_text(f"/proc/{pid}/smaps_rollup"))


def sizes(text: str) -> Sizes | None:
    """From the text of /proc/PID/smaps_rollup."""
    lines = (line.split() for line in text.splitlines()[1:])
    found = {fields[0].rstrip(":"): int(fields[1]) << 10 for fields in lines if len(fields) == 3}
    if not all(name in found for name in SIZES):
        return None
    rss, pss, clean, dirty = (found[name] for name in SIZES)
    return Sizes(rss, pss, clean + dirty)


def comm(folder: str) -> str:
    """A thread's name as the kernel has it."""
    return _text(f"{folder}/comm").strip()


def command(pid: int) -> str:
    """As `ps` shows it."""
    return _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip() or comm(f"/proc/{pid}")


def _opened(pid: int, own: set[int]) -> Iterator[Opened]:
    for number in sorted(set(_numbers(f"/proc/{pid}/fd")) - own):
        path = f"/proc/{pid}/fd/{number}"
        try:
            mode, what = os.stat(path).st_mode, os.readlink(path)
        except OSError:  # closed meanwhile
            continue
        if not stat.S_ISSOCK(mode):
            yield Opened(number, kind(mode, what, _text(f"/proc/{pid}/fdinfo/{number}")), what)


def kind(mode: int, target: str, info: str) -> str:
    """Of a descriptor, by its file's mode, where its link leads, and the text of its fdinfo."""
    if target.startswith("anon_inode:"):
        return target.partition(":")[2].strip("[]")
    if stat.S_ISFIFO(mode):
        return "pipe"
    if not stat.S_ISREG(mode):
        return "device" if stat.S_ISCHR(mode) else "other"
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    flags = int(fields.get("flags", "0").strip(), 8)
    if flags & os.O_ACCMODE == os.O_RDONLY:
        return "read"
    return "append" if flags & os.O_APPEND else "write"


def _numbers(folder: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
