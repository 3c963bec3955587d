"""Kinds of messages in PostgreSQL: their numbers, their policies, and what operators have said of them."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from ...ipc.durable.policy import KindPolicy
from .postgres_arrays import numbers, texts
from .postgres_link import CHANGED, Link, Patient
from .protocol import Control

LARGEST = 2**31 - 1


class Kinds:
    """The kinds. Their numbers never change, so they are kept; all else is read when it is asked for."""

    def __init__(self, link: Link, sql: Mapping[str, str]) -> None:
        self._link = link
        self._sql = sql
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def forget(self) -> None:
        """The numbers are read anew: it may be another database by now."""
        self._ids, self._names = {}, {}

    def ids(self, names: Collection[str], *, add: bool = False) -> dict[str, int]:
        """Numbers of these kinds; those that were never seen are left out, or with `add` get one."""
        strange = [name for name in names if name not in self._ids]
        if strange:
            with self._link.session() as db:
                if add:
                    db.execute(self._sql["add_kinds"], {"names": texts(strange)})
                self._know(db.execute(self._sql["kinds_named"], {"names": texts(strange)}).fetchall())
        return {name: self._ids[name] for name in names if name in self._ids}

    def name(self, id: int) -> str:
        """The name of a kind whose number was seen."""
        return self._names[id]

    def declare(self, node: int, policies: Sequence[KindPolicy]) -> None:
        """A node has handlers for these, and for no others."""
        names = texts(policy.name for policy in policies)
        limits = {policy.name: min(policy.max_running, LARGEST) for policy in policies}
        said = {
            "names": names,
            "policies": texts(msgspec.json.encode(policy).decode() for policy in policies),
            "limits": numbers(limits.values()),
        }
        self.ids([policy.name for policy in policies], add=True)
        with self._link.session() as db, db.transaction():
            now = dict(db.execute(self._sql["limits"], {"names": names}).fetchall())
            others = any(limits[name] != limit for name, limit in now.items())
            if others:
                db.execute(self._sql["guard_leases"])
            db.execute(self._sql["set_policies"], said)
            db.execute(self._sql["forget_handlers"], {"node": node})
            db.execute(self._sql["add_handlers"], {"node": node, "names": names})
            if others:
                db.execute(self._sql["count_limited"])

    def policies(self) -> dict[str, KindPolicy]:
        """The policies that were declared."""
        with self._link.session() as db:
            rows = db.execute(self._sql["policies"]).fetchall()
        return {name: msgspec.json.decode(policy, type=KindPolicy) for name, policy in rows}

    def control(self, control: Control) -> None:
        """An operator has said this of a kind; every dispatcher hears that something was said."""
        self.ids([control.kind], add=True)
        said = {
            "name": control.kind,
            "paused": control.paused,
            "limit": min(control.max_running, LARGEST),
            "by": control.by,
            "at": control.at,
            "reason": control.reason,
        }
        with self._link.session() as db, db.transaction():
            db.execute(self._sql["guard_leases"])
            db.execute(self._sql["control_kind"], said)
            db.execute(self._sql["count_limited"])
            tell_change(db, self._sql, self._link)

    def controls(self) -> list[Control]:
        """What operators have said."""
        with self._link.session() as db:
            return [Control(*row) for row in db.execute(self._sql["controls"]).fetchall()]

    def all(self, db: Patient) -> dict[str, int]:
        """The numbers of all kinds, as this connection sees them."""
        return {row[1]: row[0] for row in db.execute(self._sql["kinds"]).fetchall()}

    def _know(self, rows: Sequence[tuple[str, int]]) -> None:
        self._ids.update(rows)
        self._names.update((id, name) for name, id in rows)


def tell_change(db: Patient, sql: Mapping[str, str], link: Link) -> None:
    """Dispatchers look at cancels and controls when this transaction is committed."""
    db.execute(sql["ring"], {"channel": link.where.channel, "names": texts([CHANGED])})
