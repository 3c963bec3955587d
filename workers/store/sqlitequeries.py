"""What operators ask, in SQLite."""

from typing import Any

import apsw
import msgspec

from ...ipc.durable.model import ENDS, Attempt, Counters, State
from .protocol import Deed, Filter, Row, Story, Tally
from .sqlitedatabase import Database

_PLACES = {"in_lease": {State.RUNNING}, "in_done": ENDS, "in_parked": {State.BLOCKED}}
_WAITING = frozenset({State.QUEUED, State.RETRY_SCHEDULED, State.WAITING_REMOTE})


def find(db: Database, filter: Filter, limit: int, after: int, now: int) -> list[Row]:
    """Rows in the order of their ids."""
    where, values = _where(db, filter, after, now)
    sql = f"{db.text('rows')} WHERE {where} ORDER BY m.id LIMIT :limit"
    return [_row(*row) for row in db.execute(sql, values | {"limit": limit})]


def count(db: Database, filter: Filter, now: int) -> int:
    """How many there are."""
    where, values = _where(db, filter, 0, now)
    return int(db.execute(f"{db.text('count_rows')} WHERE {where}", values).fetchall()[0][0])


def ended(db: Database, ids: list[int]) -> list[Row]:
    """Those that have come to an end."""
    sql = f"{db.text('rows')} WHERE m.id IN (SELECT value FROM json_each(:ids)) AND d.message_id IS NOT NULL"
    return [_row(*row) for row in db.execute(sql, {"ids": _json(ids)})]


def story(db: Database, id: int) -> Story | None:
    """All about one message."""
    rows = [_row(*row) for row in db.execute(f"{db.text('rows')} WHERE m.id = :id", {"id": id})]
    if not rows:
        return None
    return Story(
        rows[0],
        [msgspec.convert(row, Attempt) for row in db.run("attempts", (id,))],
        [Deed(*row) for row in db.run("deeds", (id,))],
        [body for (body,) in db.run("outputs_of", (id,))],
        [f"{to}: {subject}" for to, subject in db.run("notices", (id,))],
        [key for (key,) in db.run("locks_held", (id,))],
    )


def stats(db: Database, now: int) -> list[Tally]:
    """Numbers of every kind."""
    states: dict[int, dict[State, int]] = {}
    for kind, state, number in db.run("tallies"):
        of_kind = states.setdefault(kind, {})
        of_kind[State(state)] = of_kind.get(State(state), 0) + number
    oldest = dict(db.run("oldest_due", {"now": now}).fetchall())
    handled = {kind for (kind,) in db.run("handled", (now,))}
    return [
        Tally(
            kind.name,
            states.get(kind.id, {}),
            max(0, now - oldest.get(kind.id, now)),
            kind.paused,
            kind.limit,
            kind.id in handled,
        )
        for kind in db.kinds.all()
    ]


def _where(db: Database, filter: Filter, after: int, now: int) -> tuple[str, dict[str, Any]]:
    """Conditions on `rows`, and the values they name. Kinds and states are looked up in the tables that have them."""
    conditions = ["m.id > :after"]
    values: dict[str, Any] = {"after": after}
    kinds = [kind.id for kind in db.kinds.all() if not filter.kinds or kind.name in filter.kinds]
    if filter.kinds:
        conditions.append("m.kind_id IN (SELECT value FROM json_each(:kinds))")
        values["kinds"] = _json(kinds)
    if filter.ids or filter.guids:
        conditions.append(f"m.id IN ({db.text('named')})")
        values |= {"ids": _json(filter.ids), "guids": _json(filter.guids)}
    if filter.states:
        conditions.append(f"m.id IN ({_in_states(db, filter)})")
        values |= {"kinds": _json(kinds), "states": _json(filter.states)}
    for said, condition, value in (
        (filter.where, "args_match(m.args, :where)", apsw.pyobject(filter.where)),
        (filter.fault, "a.fault = :fault", filter.fault),
        (filter.reason, "coalesce(d.reason, p.reason, e.reason, '') = :reason", filter.reason),
        (filter.older, "m.created <= :older", now - filter.older),
        (filter.newer, "m.created >= :newer", now - filter.newer),
        (filter.runs_over >= 0, "coalesce(l.runs, d.runs, e.runs, p.runs, r.runs, 0) > :runs_over", filter.runs_over),
    ):
        if said:
            conditions.append(condition)
            values[condition.rpartition(":")[2].rstrip(")")] = value
    return " AND ".join(conditions), values


def _in_states(db: Database, filter: Filter) -> str:
    wanted = set(filter.states)
    names = [name for name, states in _PLACES.items() if wanted & states]
    names += ["in_ready", "in_delayed"] if wanted & _WAITING else []
    return " UNION ALL ".join(db.text(name) for name in names)


def _row(*row: Any) -> Row:
    """From the columns of `rows`."""
    id, guid, kind, state, stage, priority, created, due = row[:8]
    before = (id, guid, kind, State(state), stage, priority, created, due, Counters(*row[8:14]))
    values: tuple[Any, ...] = (*before, *row[14:31], bool(row[31]), *row[32:])
    return Row(*values)


def _json(values: Any) -> str:
    return msgspec.json.encode(values).decode()
