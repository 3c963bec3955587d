"""What operators ask, in PostgreSQL."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ...ipc.durable.model import Attempt, Counters, State
from .postgres_arrays import numbers, texts
from .postgres_link import Link, Patient
from .protocol import Deed, Filter, Row, Story, Tally


class Queries:
    """Questions; each is answered from one snapshot."""

    def __init__(self, link: Link, sql: Mapping[str, str]) -> None:
        self._link = link
        self._sql = sql

    def find(self, filter: Filter, limit: int, after: int, now: int) -> list[Row]:
        """Rows in the order of their ids."""
        conditions, values = conditions_of(filter, now)
        sql = f"{self._sql['rows']}{conditions} AND m.id > %(after)s ORDER BY m.id LIMIT %(limit)s"
        return self._found(sql, values | {"after": after, "limit": limit})

    def count(self, filter: Filter, now: int) -> int:
        """How many there are."""
        conditions, values = conditions_of(filter, now)
        with self._link.session() as db:
            ((number,),) = _ask(db, f"{self._sql['count_rows']}{conditions}", values)
        return int(number)

    def ended(self, ids: Sequence[int]) -> list[Row]:
        """Those that have come to an end."""
        sql = f"{self._sql['rows']} AND m.id = ANY (%(ids)s::bigint[]) AND s.state >= 'succeeded' ORDER BY m.id"
        return self._found(sql, {"ids": numbers(ids)})

    def story(self, id: int) -> Story | None:
        """All about one message."""
        with self._link.session() as db, db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            rows = _ask(db, f"{self._sql['rows']} AND m.id = %(id)s", {"id": id})
            if not rows:
                return None
            named = {
                name: _ask(db, self._sql[name], {"id": id})
                for name in ("attempts", "deeds", "outputs", "notices", "locks")
            }
        return Story(
            _row(rows[0]),
            [msgspec.convert(row, Attempt) for row in named["attempts"]],
            [Deed(*row) for row in named["deeds"]],
            [body for (body,) in named["outputs"]],
            [f"{to}: {subject}" for to, subject in named["notices"]],
            [key for (key,) in named["locks"]],
        )

    def stats(self, now: int) -> list[Tally]:
        """Numbers of every kind."""
        with self._link.session() as db, db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            kinds = _ask(db, self._sql["kinds"], {})
            tallies = _ask(db, self._sql["tallies"], {})
            oldest = dict(_ask(db, self._sql["oldest_due"], {"now": now}))
            handled = {kind for (kind,) in _ask(db, self._sql["handled"], {"now": now})}
        states: dict[int, dict[State, int]] = {}
        for kind, state, number in tallies:
            of_kind = states.setdefault(kind, {})
            of_kind[State(state)] = of_kind.get(State(state), 0) + number
        return [
            Tally(name, states.get(id, {}), max(0, now - oldest.get(id, now)), paused, limit, id in handled)
            for id, name, paused, limit, _ in kinds
        ]

    def _found(self, sql: str, values: Mapping[str, Any]) -> list[Row]:
        with self._link.session() as db:
            return [_row(row) for row in _ask(db, sql, values)]


def conditions_of(filter: Filter, now: int) -> tuple[str, dict[str, Any]]:
    """Conditions for `rows`, each with AND before it, and the values they name."""
    known: tuple[tuple[Any, str, Any], ...] = (
        (filter.kinds, "k.name = ANY (%(kinds)s::text[])", texts(filter.kinds)),
        (filter.states, "s.state = ANY (%(states)s::state[])", texts(filter.states)),
        (filter.fault, "a.fault = %(fault)s", filter.fault),
        (filter.reason, "coalesce(s.reason, '') = %(reason)s", filter.reason),
        (filter.older, "m.created <= %(older)s", now - filter.older),
        (filter.newer, "m.created >= %(newer)s", now - filter.newer),
        (filter.runs_over >= 0, "s.runs > %(runs_over)s", filter.runs_over),
    )
    conditions, values = [], {}
    for said, condition, value in known:
        if said:
            conditions.append(condition)
            values[condition.partition("%(")[2].partition(")")[0]] = value
    if filter.ids or filter.guids:
        conditions.append("(m.id = ANY (%(ids)s::bigint[]) OR m.guid = ANY (%(guids)s::text[]))")
        values |= {"ids": numbers(filter.ids), "guids": texts(filter.guids)}
    for nth, (path, value) in enumerate(filter.where):
        conditions.append(f"coalesce(json_of(m.args) #> %(path{nth})s::text[] = %(value{nth})s::jsonb, false)")
        values |= {f"path{nth}": texts(path.split(".")), f"value{nth}": msgspec.json.encode(value).decode()}
    return "".join(f" AND {condition}" for condition in conditions), values


def _ask(db: Patient, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return db.execute(sql, values, binary=True).fetchall()


def _row(row: Sequence[Any]) -> Row:
    """From the columns of `rows`."""
    id, guid, kind, state, stage, priority, created, due = row[:8]
    return Row(id, guid, kind, State(state), stage, priority, created, due, Counters(*row[8:14]), *row[14:])
