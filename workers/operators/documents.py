"""Messages as JSON documents. Pure."""

import datetime
from typing import Any

import msgspec

from ...ipc.durable.model import ENDS, Attempt, State
from ...ipc.durable.policy import KindPolicy
from ..store.protocol import Control, Row, Story, Tally

MOST_VALUE = 2000


def when(moment: int) -> str | None:
    """RFC 3339 in UTC, None for 0."""
    if not moment:
        return None
    stamp = datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def value(body: bytes) -> Any:
    """What JSON bytes say; None when there is nothing."""
    return msgspec.json.decode(body) if body else None


def stage(row: Row, policies: dict[str, KindPolicy]) -> str:
    """The name of the stage it is in."""
    policy = policies.get(row.kind)
    stages = policy.stages if policy is not None else ()
    return stages[row.stage] if row.stage < len(stages) else str(row.stage)


def message(row: Row, policies: dict[str, KindPolicy], now: int) -> dict[str, Any]:
    """One message. Ages and times to go are in seconds."""
    return {
        "id": row.id,
        "guid": row.guid,
        "kind": row.kind,
        "state": row.state,
        "reason": row.reason or None,
        "stage": stage(row, policies),
        "priority": row.priority,
        "attempts": row.counters.attempts,
        "max_attempts": most_attempts(row, policies),
        "iteration": row.counters.runs,
        "crashes": row.counters.crashes,
        "locks": row.counters.locks,
        "created": when(row.created),
        "age": round((now - row.created) / 1000, 3),
        "due": when(row.due) if row.state not in ENDS else None,
        "finished": when(row.finished),
        "deadline": when(row.deadline),
        "args": value(row.args),
        "payload": row.payload,
        "result": value(row.result),
        "key": row.key or None,
        "unique": row.unique or None,
        "worker": row.worker or None,
        "pid": row.pid or None,
        "since": when(row.leased),
        "progress": value(row.progress),
        "cancelling": row.cancelling,
        "error": {"class": row.fault or None, "text": row.error} if row.error or row.fault else None,
        "tracking_id": row.tracking_id or None,
        "parent_id": row.parent_id or None,
        "sender": row.sender or None,
        "notify": row.notify or None,
    }


def most_attempts(row: Row, policies: dict[str, KindPolicy]) -> int | None:
    """How often it may be tried; None while nobody has ever had a handler for it."""
    policy = policies.get(row.kind)
    return row.max_attempts or (policy.max_attempts if policy is not None else None)


def attempt(one: Attempt, stages: tuple[str, ...]) -> dict[str, Any]:
    """One run."""
    return {
        "number": one.number,
        "fence": one.fence,
        "stage": stages[one.stage] if one.stage < len(stages) else str(one.stage),
        "worker": one.worker,
        "pid": one.pid or None,
        "started": when(one.started),
        "ended": when(one.ended),
        "duration": round((one.ended - one.started) / 1000, 3) if one.started and one.ended else None,
        "outcome": one.result,
        "error": {"class": one.fault, "code": one.code, "text": one.text, "stack": one.stack} if one.fault else None,
        "late": one.late or None,
    }


def story(told: Story, policies: dict[str, KindPolicy], now: int) -> dict[str, Any]:
    """One message with its history."""
    policy = policies.get(told.row.kind)
    stages = policy.stages if policy is not None else ()
    outputs = {stages[n] if n < len(stages) else str(n): value(body) for n, body in enumerate(told.outputs)}
    return {
        **message(told.row, policies, now),
        "history": [attempt(one, stages) for one in told.attempts],
        "actions": [{"at": when(d.at), "actor": d.actor, "verb": d.verb, "detail": d.detail} for d in told.deeds],
        "outputs": outputs,
        "notifications": told.notices,
        "held_locks": told.locks,
    }


def tally(one: Tally, control: Control | None) -> dict[str, Any]:
    """Numbers of one kind."""
    counts = {state.value: one.states.get(state, 0) for state in State}
    return {
        "kind": one.kind,
        **counts,
        "oldest_age": round(one.oldest / 1000, 3),
        "paused": one.paused,
        "pause": pause(control) if one.paused and control is not None else None,
        "max_running": one.max_running,
        "handled": one.handled,
    }


def pause(control: Control) -> dict[str, Any]:
    """Who paused a kind, when and why."""
    return {"by": control.by, "at": when(control.at), "reason": control.reason or None}
