"""What `bkd status` shows: the cluster as a document, and the document as a table. Pure but for reading /proc."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from .. import __version__
from ..ipc.quantity import counted
from ..ipc.units import format_duration, format_size
from . import dispatcher, procfs, rolls
from .cluster import Cluster, Exit, Group, Loader, Phase, Release, Slot, Stage, Worker
from .config.schema import Config
from .exits import LOOP_CALM
from .logfiles import clean
from .memorytrend import growth_per_request, seconds_until
from .recycling import here, limit_of, limit_refused, refusal

STATES = {Loader.LOADING: "loading", Loader.READY: "ready", Loader.UNSAFE: "ready"}
SOON = 3600.0
COLUMNS = ("SLOT", "STATE", "PID", "REL", "UPTIME", "RESTARTS", "MEM", "CPU", "IN FLIGHT", "LAG", "LAST EXIT")

_VITALS = ("ping_age", "verdict", "rss", "cpu", "in_flight", "lag", "served", "cpu_seconds")


def document(
    cluster: Cluster,
    config: Config,
    *,
    began: float,
    keeper: int,
    dropped: Callable[[int], int],
    spoken: Callable[[int], str] = lambda worker: "",
) -> dict[str, Any]:
    """The whole status, as `bkd status --json` prints it. `dropped`: events that a worker had no room for; `spoken`:
    what a program says of itself."""
    now = time.monotonic()
    return {
        "app": config.app.name,
        "tag": config.app.tag,
        "host": config.app.host or socket.gethostname(),
        "version": __version__,
        "state": "stopping" if cluster.closing else "running",
        "keeper_pid": keeper,
        "master_pid": os.getpid(),
        "uptime": round(now - began, 3),
        "groups": [
            _group(cluster, group, now, dropped, spoken)
            for group in cluster.groups.values()
            if group.name != dispatcher.NAME
        ],
        "dispatcher": _dispatcher(cluster, now, dropped, spoken),
    }


def _group(
    cluster: Cluster, group: Group, now: float, dropped: Callable[[int], int], spoken: Callable[[int], str]
) -> dict[str, Any]:
    serves_messages = group.settings.kind == "messages"
    return {
        "name": group.name,
        "kind": group.settings.kind,
        "count": group.count,
        "ready": sum(1 for slot in group.slots.values() if slot.serves),
        "release": group.current,
        "bind": list(group.release.settings.bind),
        "roll": _roll(group, now),
        "breaker": "closed" if group.breaker.open_since is None else "open",
        "helpers": [
            _helper(group, release)
            for release in group.releases.values()
            if release.pid and release.loader in (Loader.LOADING, Loader.READY)
        ]
        + (_dispatchers(cluster, now) if serves_messages else []),
        "reason": reason(group, now) or (undispatched(cluster, now) if serves_messages else "") or None,
        "workers": [_slot(cluster, group, slot, now, dropped, spoken) for slot in group.slots.values()],
    }


def _roll(group: Group, now: float) -> dict[str, Any] | None:
    roll = group.roll
    if roll is None:
        return None
    arrived = rolls.moved(group) if roll.stage in (Stage.ROLLING, Stage.SETTLING) else 0
    return {
        "release": roll.new,
        "from": roll.old,
        "stage": str(roll.stage),
        "moved": arrived,
        "count": len(group.eligible()),
        "age": round(now - roll.began, 3),
        "reason": roll.fault or None,
    }


def _helper(group: Group, release: Release) -> dict[str, Any]:
    """A zygote; `pss` is what would be free without it, asked only for releases that are kept for a rollback."""
    facts = procfs.read(release.pid)
    return {
        "role": "zygote",
        "release": release.number,
        "pid": release.pid,
        "state": STATES[release.loader],
        "rss": facts.rss if facts is not None else None,
        "pss": procfs.pss(release.pid) if release.number < group.current and group.roll is None else None,
    }


def undispatched(cluster: Cluster, now: float) -> str:
    """Why no message runs, "" when that is not the dispatcher's fault."""
    group = cluster.groups.get(dispatcher.NAME)
    slot = group.slots.get(dispatcher.SLOT) if group is not None else None
    if slot is None or slot.serves:
        return ""
    said = slot.failed or (slot.last_exit.reason if slot.last_exit is not None else "")
    return f"the dispatcher is not ready ({state(slot, now)}){said and f': {said}'}; see `bkd why {dispatcher.NAME}`"


def _dispatcher(
    cluster: Cluster, now: float, dropped: Callable[[int], int], spoken: Callable[[int], str]
) -> dict[str, Any] | None:
    """Its slot, where there are messages."""
    group = cluster.groups.get(dispatcher.NAME)
    slot = group.slots.get(dispatcher.SLOT) if group is not None else None
    return _slot(cluster, group, slot, now, dropped, spoken) if group is not None and slot is not None else None


def _dispatchers(cluster: Cluster, now: float) -> list[dict[str, Any]]:
    """The dispatcher, which serves every group of messages."""
    group = cluster.groups.get(dispatcher.NAME)
    rows = [(slot, shown(slot)) for slot in group.slots.values()] if group is not None else []
    return [
        {
            "role": dispatcher.NAME,
            "release": worker.release if worker else None,
            "pid": worker.pid or None if worker else None,
            "state": state(slot, now),
            "rss": worker.pulse.rss if worker and worker.pulse else None,
            "pss": None,
        }
        for slot, worker in rows
    ]


def reason(group: Group, now: float) -> str:
    """Why the group is not as one would like it, "" when all is well."""
    release = group.release
    if release.lost:
        return f"release {release.number} is not restorable: {release.lost}; the next death starts a roll"
    if release.loader == Loader.FAILED:
        wait = format_duration(max(0.0, release.next_try - now), rough=True)
        return f"release {release.number} does not load: {release.why}; next try in {wait}"
    if release.loader == Loader.UNSAFE:
        return f"preload is off: {release.why}"
    if group.breaker.open_since is not None:
        return "the breaker is open: one slot is tried at a time"
    loops = [slot.name for slot in group.slots.values() if _is_looping(slot, now)]
    if loops:
        return f"crash loop: {', '.join(loops)}"
    return refusal(release) if limit_refused(group, release.number) else ""


def _is_looping(slot: Slot, now: float) -> bool:
    return slot.looping and now - slot.scored_at < LOOP_CALM


def _slot(
    cluster: Cluster,
    group: Group,
    slot: Slot,
    now: float,
    dropped: Callable[[int], int],
    spoken: Callable[[int], str],
) -> dict[str, Any]:
    worker = shown(slot)
    row: dict[str, Any] = {
        "name": slot.name,
        "pid": worker.pid or None if worker else None,
        "state": state(slot, now),
        "release": worker.release if worker else group.current,
        "uptime": round(now - (worker.ready_at or worker.ordered), 3) if worker else None,
        "restarts": slot.restarts,
        **_vitals(worker, now),
        **_memory(group, worker),
        "dropped": dropped(worker.id) if worker else 0,
        "status_text": (spoken(worker.id) if worker else "") or None,
        "next_try": round(slot.next_try - now, 3) if slot.next_try > now else None,
        "last_exit": _exit(slot.last_exit, now),
        "beside": [
            {"pid": other.pid or None, "state": _phase(other), "release": other.release}
            for other in slot.workers
            if other is not worker
        ],
    }
    return row


def shown(slot: Slot) -> Worker | None:
    """The worker that serves in this slot; of those that do not, the newest."""
    serving = [worker for worker in slot.staying if worker.phase == Phase.READY and not worker.quiet]
    staying = serving or slot.staying or list(slot.workers)
    return staying[-1] if staying else None


def _phase(worker: Worker) -> str:
    return "draining" if worker.ending is not None else str(worker.phase)


def _vitals(worker: Worker | None, now: float) -> dict[str, Any]:
    vitals: dict[str, Any] = dict.fromkeys(_VITALS)
    if worker is None:
        return vitals
    pulse = worker.pulse
    if pulse is not None:
        vitals |= {"ping_age": round(now - pulse.at, 3), "rss": pulse.rss, "cpu": pulse.load, "lag": pulse.lag}
        vitals |= {"in_flight": pulse.in_flight, "verdict": _verdict(worker)}
        vitals |= {"served": pulse.served, "cpu_seconds": pulse.cpu}
    elif worker.pid:
        facts = procfs.read(worker.pid)
        if facts is not None and facts.start == worker.start:
            share = facts.cpu / max(now - worker.ordered, 0.001)
            vitals |= {"rss": facts.rss, "cpu": round(share, 3)}
    return vitals


def _memory(group: Group, worker: Worker | None) -> dict[str, Any]:
    """How the memory grows, and when it will be too much; `late`: how often the main loop was."""
    memory: dict[str, Any] = dict.fromkeys(("pss", "growth_per_request", "limit_in", "late"))
    pulse, trend = (worker.pulse, worker.trend) if worker is not None else (None, None)
    if worker is None or pulse is None:
        return memory
    memory |= {"pss": pulse.pss or None, "late": pulse.late}
    if trend is None:
        return memory
    growth = growth_per_request(trend, here(pulse))
    limit = limit_of(group, worker)
    left = seconds_until(limit, trend, here(pulse)) if limit else None
    return memory | {
        "growth_per_request": growth and round(growth, 1),
        "limit_in": left if left is None else round(left, 3),
    }


def _verdict(worker: Worker) -> str:
    if worker.ending is not None and worker.ending.verdict != "ok":
        return str(worker.ending.verdict)
    return str(worker.trouble.verdict) if worker.trouble else "ok"


def _exit(end: Exit | None, now: float) -> dict[str, Any] | None:
    if end is None:
        return None
    code = end.code
    return {
        "cause": str(end.cause),
        "code": code if code is not None and code >= 0 else None,
        "signal": -code if code is not None and code < 0 else None,
        "pid": end.pid,
        "release": end.release,
        "uptime": round(end.uptime, 3),
        "age": round(now - end.at, 3),
        "reason": end.reason or None,
    }


def state(slot: Slot, now: float) -> str:
    """`starting ready draining backoff failed held done`."""
    if slot.held:
        return "held"
    if slot.staying:
        return "ready" if slot.serves else "starting"
    if slot.workers:
        return "draining"
    if slot.failed:
        return "failed"
    if slot.done:
        return "done"
    return "backoff" if slot.next_try > now else "starting"


def disk(state: str, logs: str) -> str:
    """What cannot be written, by the reasons why state and logs cannot; "" when both can."""
    faults = {"the state": state, "what processes print": logs}
    return "; ".join(f"{what} cannot be written: {why}" for what, why in faults.items() if why)


def table(status: dict[str, Any], messages: str = "") -> str:
    """The document for people. `messages`: what is said of them, above the dispatcher."""
    up = format_duration(status["uptime"], rough=True)
    lines = [
        f"{status['app']} {status['state']} for {up} on {status['host']}"
        f"  (keeper {status['keeper_pid']}, master {status['master_pid']}, bkd {status['version']})"
    ]
    lines += _bus(status["bus"])
    lines += [f"! {status['disk']}"] if status.get("disk") else []
    rows: list[tuple[str, ...]] = [COLUMNS]
    heads: dict[int, str] = {}
    spoken: dict[int, str] = {}
    for group in status["groups"]:
        heads[len(rows)] = _head(group)
        for worker in group["workers"]:
            if worker.get("status_text"):
                spoken[len(rows)] = worker["status_text"]
            rows.append(_row(worker))
    if status.get("dispatcher"):
        heads[len(rows)] = messages or "messages"
        rows.append(_row(status["dispatcher"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for number, row in enumerate(rows):
        if number in heads:
            lines += ["", heads[number]]
        lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number in spoken:
            lines.append(f"    says: {spoken[number]}")
    return "\n".join(lines[:1] + lines[1:]) + "\n"


def _bus(bus: dict[str, Any]) -> list[str]:
    """A line about it where there are other hosts."""
    if bus["url"] == "local:":
        return []
    refused = sum(bus["refused"].values())
    tail = f", {counted(refused, 'message')} refused" if refused else ""
    if bus["connected"]:
        return [f"bus {bus['url']}, {counted(bus['hosts'], 'host')}{tail}"]
    why = f": {clean(bus['error'].removeprefix(bus['url'] + ': '))}" if bus["error"] else ""
    return [f"bus {bus['url']} is {bus['state']} for {format_duration(bus['since'], rough=True)}{why}{tail}"]


def _head(group: dict[str, Any]) -> str:
    where = "  " + " ".join(group["bind"]) if group["bind"] else ""
    breaker = "  breaker open" if group["breaker"] == "open" else ""
    text = f"{group['name']} ({group['kind']})  {group['ready']}/{group['count']} ready  release {group['release']}"
    reason = f"\n  ! {group['reason']}" if group["reason"] else ""
    roll = f"\n  > {_rolling(group['roll'])}" if group["roll"] else ""
    return f"{text}{where}{breaker}{_kept(group)}{roll}{reason}"


def _kept(group: dict[str, Any]) -> str:
    zygotes = [helper for helper in group["helpers"] if helper["role"] == "zygote"]
    kept = [helper for helper in zygotes if helper["release"] < group["release"] and not group["roll"]]
    sizes = [f"{helper['release']} ({format_size(helper['pss'] or 0, rough=True)})" for helper in kept]
    return f"  kept for rollback: {', '.join(sizes)}" if sizes else ""


def _rolling(roll: dict[str, Any]) -> str:
    moved = f" {roll['moved']}/{roll['count']}" if roll["stage"] in ("rolling", "settling") else ""
    age = format_duration(roll["age"], rough=True)
    return f"release {roll['from']} -> {roll['release']}: {roll['stage']}{moved} for {age}"


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    waits = f" {worker['next_try']:.1f}s" if worker["next_try"] else ""
    verdict = worker["verdict"]
    trouble = f" ({verdict})" if verdict not in (None, "ok") else ""
    return (
        worker["name"],
        f"{worker['state']}{waits}{trouble}",
        str(worker["pid"] or "-"),
        str(worker["release"]),
        "-" if worker["uptime"] is None else format_duration(worker["uptime"], rough=True),
        str(worker["restarts"]),
        _size(worker),
        "-" if worker["cpu"] is None else f"{100 * worker['cpu']:.1f}%",
        "-" if worker["in_flight"] is None else str(worker["in_flight"]),
        "-" if worker["lag"] is None else f"{1000 * worker['lag']:.0f} ms",
        _said(worker["last_exit"]),
    )


def _size(worker: dict[str, Any]) -> str:
    size, left = worker["pss"] or worker["rss"], worker["limit_in"]
    soon = f" limit in {format_duration(left, rough=True)}" if left is not None and left < SOON else ""
    return "-" if size is None else format_size(size, rough=True) + soon


def _said(end: dict[str, Any] | None) -> str:
    if end is None:
        return "-"
    how = f"signal {end['signal']}" if end["signal"] else f"exit {end['code']}"
    return f"{end['cause']} ({how}) {format_duration(end['age'], rough=True)} ago"
