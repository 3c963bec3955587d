"""How many CPUs this process really has: affinity and the quotas of its control groups."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

Read = Callable[[str], str | None]


class Mount(NamedTuple):
    """Where a hierarchy of control groups is seen: the group `root` of it stands at `point`."""

    root: str
    point: str
    kind: str
    options: frozenset[str]


def read_file(path: str) -> str | None:
    """The content, None where there is no such file or it may not be read: then it limits nothing."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def processors(read: Read = read_file, *, affinity: int | None = None) -> int:
    """CPUs this process may use, at least 1; a quota of 2.5 CPUs counts as 2."""
    allowed = len(os.sched_getaffinity(0)) if affinity is None else affinity
    return max(1, int(min([float(allowed), *_quotas(read)])))


def _quotas(read: Read) -> Iterator[float]:
    mounts = list(_mounts(read("/proc/self/mountinfo") or ""))
    for line in (read("/proc/self/cgroup") or "").splitlines():
        number, _colon, rest = line.partition(":")
        controllers, _colon, path = rest.partition(":")
        if number == "0" and not controllers:
            groups = _groups(path, [mount for mount in mounts if mount.kind == "cgroup2"])
            yield from _known(_unified_quota(read, group) for group in groups)
        elif "cpu" in controllers.split(","):
            groups = _groups(path, [mount for mount in mounts if mount.kind == "cgroup" and "cpu" in mount.options])
            yield from _known(_legacy_quota(read, group) for group in groups)


def _mounts(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, kind = head.split(" "), tail.split(" ")
        if separator and len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            yield Mount(_unescaped(fields[3]), _unescaped(fields[4]), kind[0], frozenset(kind[2].split(",")))


def _groups(path: str, mounts: list[Mount]) -> Iterator[str]:
    """The folders of the own group and of each ancestor that can be seen from here."""
    for mount in mounts[:1]:
        root = mount.root.rstrip("/")
        inside = path.removeprefix(root) if f"{path}/".startswith(f"{root}/") and ".." not in path else ""
        parts = [part for part in inside.split("/") if part]
        for depth in range(len(parts), -1, -1):
            yield "/".join([mount.point.rstrip("/"), *parts[:depth]])


def _unified_quota(read: Read, group: str) -> float | None:
    quota, _space, period = (read(f"{group}/cpu.max") or "max").strip().partition(" ")
    return _ratio(quota, period)


def _legacy_quota(read: Read, group: str) -> float | None:
    quota = (read(f"{group}/cpu.cfs_quota_us") or "").strip()
    return _ratio(quota, (read(f"{group}/cpu.cfs_period_us") or "").strip())


def _ratio(quota: str, period: str) -> float | None:
    """None when there is no quota: `max`, `-1`, nothing."""
    if not (quota.isdigit() and period.isdigit()) or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def _known(quotas: Iterator[float | None]) -> Iterator[float]:
    return (quota for quota in quotas if quota is not None)


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
