"""`bkd status --fleet` and `bkd events --fleet`: what all hosts answered, as one document or table. Pure."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...ipc.message import Finished
from ...ipc.quantity import counted
from ...ipc.units import format_duration
from ..desk import Request
from ..logfiles import clean
from .progress import FleetProgress, HostProgress
from .selection import Seen
from .table import columns


def answer(request: Request, progress: FleetProgress, known: Mapping[str, Seen], now: float) -> Finished:
    """0 when every host answered, 1 when one could not, 3 when one was not reached; those are named on stderr."""
    for host in progress.hosts.values():
        if host.state == "done" and not _is_readable(progress.verb, host.out):
            host.state, host.reason = "failed", "its answer cannot be read"
    code = progress.code
    missing = [host for host in progress.hosts.values() if host.state != "done"]
    err = "".join(f"bkd: {host.describe()}\n" for host in missing)
    if progress.verb == "events":
        return Finished(code, _events(request, progress), err)
    rows = [_host(host, known.get(host.host), now) for host in progress.hosts.values()]
    if request.command.render == "json":
        return Finished(code, json.dumps({"hosts": rows}) + "\n", err)
    return Finished(code, _table(rows), err)


def _is_readable(verb: str, text: str) -> bool:
    """Whether it is what hosts of this version answer: events in lines, or one status."""
    try:
        documents = [json.loads(line) for line in text.splitlines()]
        if verb == "events":
            return all(_moment(event) and isinstance(event["text"], str) for event in documents)
        return len(documents) == 1 and {"state", "uptime", "groups"} <= documents[0].keys()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _host(host: HostProgress, seen: Seen | None, now: float) -> dict[str, Any]:
    status = json.loads(host.out) if host.state == "done" else None
    return {
        "host": host.host,
        "tag": seen.row.tag if seen is not None else "",
        "answered": status is not None,
        "seen": round(max(0.0, now - seen.seen), 3) if seen is not None else None,
        "status": status,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        status = row["status"]
        if status is None:
            ago = f"last seen {format_duration(row['seen'], rough=True)} ago" if row["seen"] is not None else "not seen"
            lines.append((row["host"], row["tag"] or "-", "no answer", "", "", "", ago))
            continue
        first = (row["host"], row["tag"] or "-", status["state"], format_duration(status["uptime"], rough=True))
        for group in status["groups"]:
            lines.append((*first, group["name"], f"{group['ready']}/{group['count']}", _remark(group)))
            first = ("", "", "", "")
    return columns(("HOST", "TAG", "STATE", "UPTIME", "GROUP", "READY", ""), lines)


def _remark(group: dict[str, Any]) -> str:
    restarts = sum(worker["restarts"] for worker in group["workers"])
    roll = group["roll"]
    parts = [f"release {group['release']}"]
    parts += [f"rolling to {roll['release']} {roll['moved']}/{roll['count']}"] if roll else []
    parts += [counted(restarts, "restart")] if restarts else []
    parts += [clean(group["reason"])] if group["reason"] else []
    return ", ".join(parts)


def _events(request: Request, progress: FleetProgress) -> str:
    """All hosts' events in the order of their clocks."""
    found = [
        {"host": host.host} | event | {"host": host.host}
        for host in progress.hosts.values()
        if host.state == "done"
        for event in map(json.loads, host.out.splitlines())
    ]
    found.sort(key=lambda event: str(event.get("time", "")))
    if request.command.render == "json":
        return "".join(f"{json.dumps(event)}\n" for event in found)
    width = max((len(event["host"]) for event in found), default=0)
    return "".join(f"{_moment(event)} {event['host'].ljust(width)} {clean(str(event['text']))}\n" for event in found)


def _moment(event: dict[str, Any]) -> str:
    return f"{datetime.fromisoformat(str(event['time'])).astimezone():%Y-%m-%d %H:%M:%S}"
