"""The control group this process lives in: who was killed for memory, and how to end a whole group."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

NOT_KEPT = (errno.EOPNOTSUPP, errno.ENODEV)  # the kernel was told not to measure; the group was removed meanwhile
UNLIMITED = 1 << 60  # version 1 writes about 2**63


def own_cgroup() -> Path | None:
    """Folder of this process's group with the memory counters (version 2 first, then version 1); None: not mounted."""
    folders = _own_folders()
    counting = [folder for folder in folders if oom_kills(folder) is not None]
    return next(iter([*counting, *folders]), None)


def candidates(groups: str, mounts: str) -> Iterator[Path]:
    """Where the group may be found, from the texts of /proc/self/cgroup and /proc/self/mountinfo.

    A container often has only its own part of the hierarchy mounted: the mount's root is then taken off the path.
    """
    found = [mount for mount in map(_mount, mounts.splitlines()) if mount is not None]
    for line in sorted(groups.splitlines()):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for controller, root, point in found:
            if controller == ("memory" if controllers else ""):
                yield Path(point) / (path.removeprefix(root) if root != "/" else path).lstrip("/")


def oom_kills(path: Path) -> int | None:
    """How many processes of the group the kernel has killed for memory; None when the group does not count them."""
    for name in ("memory.events", "memory.oom_control"):
        for line in _text(path / name).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return None


def memory_limit(path: Path) -> tuple[int | None, int | None]:
    """Bytes used and allowed in the group, or in that group above it which has the least room left.

    A group without any limit gives what it uses itself and None; what the kernel does not count is None. Used is what
    counts against the limit, with the files that the kernel keeps in memory.
    """
    groups = [(_used(folder), _limit(folder)) for folder in (path, *path.parents)]
    limited = [(used, limit) for used, limit in groups if used is not None and limit is not None]
    return min(limited, key=lambda group: group[1] - group[0], default=(groups[0][0], None))


def memory_pressure(path: Path) -> float | None:
    """Percentage of the last 10 s in which some process of the group waited for memory; of the whole machine where the
    group is not measured, None where nothing is."""
    for file in (path / "memory.pressure", Path("/proc/pressure/memory")):
        found = parse_pressure(_text(file))
        if found is not None:
            return found
    return None


def parse_pressure(text: str) -> float | None:
    """The figure `avg10` of the line `some`."""
    match = re.search(r"^some avg10=([0-9]{1,3}(?:\.[0-9]{1,9})?)\b", text, re.MULTILINE)
    return float(match[1]) if match else None


def kill(path: Path) -> bool:
    """SIGKILL to every process of the group and of the groups in it, at once: nothing can fork out of it.

    False when the kernel is older than 5.14 or the group was not delegated. Raises ValueError for a group that holds
    this process.
    """
    if any(own.is_relative_to(path) for own in _own_folders()):
        raise ValueError(f"{path} holds bkd itself: give workers a group of their own")
    try:
        with (path / "cgroup.kill").open("r+") as file:
            file.write("1")
    except (FileNotFoundError, PermissionError):
        return False
    return True


def _used(folder: Path) -> int | None:
    return _bytes(folder, "memory.current", "memory.usage_in_bytes")


def _limit(folder: Path) -> int | None:
    limit = _bytes(folder, "memory.max", "memory.limit_in_bytes")
    return limit if limit is None or limit < UNLIMITED else None


def _bytes(folder: Path, *names: str) -> int | None:
    texts = (_text(folder / name).strip() for name in names)
    return next((int(text) for text in texts if text.isdecimal()), None)


def _own_folders() -> list[Path]:
    groups = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [folder for folder in candidates(groups, mounts) if folder.is_dir()]


def _mount(line: str) -> tuple[str, str, str] | None:
    before, _, after = line.partition(" - ")
    kind, _, options = after.split(" ", 2)
    root, point = before.split(" ")[3:5]
    if kind == "cgroup2":
        return "", root, point
    if kind == "cgroup" and "memory" in options.split(" ")[-1].split(","):
        return "memory", root, point
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, PermissionError):
        return ""
    except OSError as error:
        if error.errno not in NOT_KEPT:
            raise
        return ""
