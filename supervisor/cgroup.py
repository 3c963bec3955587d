"""The control group this process lives in: who was killed for memory, and how to end a whole group."""

from collections.abc import Iterator
from pathlib import Path


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
