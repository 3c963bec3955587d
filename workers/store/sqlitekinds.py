"""Kinds of messages in SQLite: their numbers, policies, and what operators have said of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ...ipc.durable.policy import KindPolicy
from .protocol import Control

if TYPE_CHECKING:
    from .sqlitedatabase import Database


class Kind(NamedTuple):
    """A kind by its number. `limit`: how many may run at once, 0: as many as there is room for."""

    id: int
    name: str
    paused: bool
    limit: int
    policy: KindPolicy


class Kinds:
    """The kinds as of the transaction under way; kept until something is changed, for nobody else writes them."""

    def __init__(self, db: "Database") -> None:
        self._db = db
        self._by_name: dict[str, Kind] = {}
        self._by_id: dict[int, Kind] = {}

    def forget(self) -> None:
        """They are read anew when they are needed next."""
        self._by_name, self._by_id = {}, {}

    def find(self, name: str) -> Kind | None:
        """The kind of this name, if it was ever seen."""
        return self._by_name.get(name) or self._read().get(name)

    def of(self, name: str) -> Kind:
        """The kind of this name; a new one gets a number."""
        found = self.find(name)
        if found is not None:
            return found
        self._db.run("add_kind", (name,))
        return self._read()[name]

    def at(self, id: int) -> Kind:
        """The kind of this number."""
        if id not in self._by_id:
            self._read()
        return self._by_id[id]

    def all(self) -> list[Kind]:
        """All of them."""
        return list(self._read().values())

    def declare(self, node: int, policies: Sequence[KindPolicy]) -> None:
        """A node has handlers for these, and for no others."""
        self._db.run("forget_handlers", (node,))
        for policy in policies:
            text = msgspec.json.encode(policy).decode()
            self._db.run("set_policy", (text, self.of(policy.name).id))
            self._db.run("add_handler", (node, self.of(policy.name).id))
        self.forget()

    def policies(self) -> dict[str, KindPolicy]:
        """The policies that were declared."""
        return {name: msgspec.json.decode(text, type=KindPolicy) for name, text in self._db.run("policies")}

    def control(self, control: Control) -> None:
        """An operator has said this of a kind."""
        values = (control.paused, control.max_running, control.by, control.at, control.reason)
        self._db.run("control_kind", (*values, self.of(control.kind).id))
        self.forget()

    def controls(self) -> list[Control]:
        """What operators have said."""
        return [
            Control(kind, bool(paused), limit, by, at, reason)
            for kind, paused, limit, by, at, reason in self._db.run("controls")
        ]

    def _read(self) -> dict[str, Kind]:
        rows = [_kind(*row) for row in self._db.run("kinds")]
        self._by_name = {kind.name: kind for kind in rows}
        self._by_id = {kind.id: kind for kind in rows}
        return self._by_name


def _kind(id: int, name: str, text: str, said: int, paused: int, limit: int) -> Kind:
    policy = msgspec.json.decode(text, type=KindPolicy) if text else KindPolicy(name)
    return Kind(id, name, bool(paused), limit if said else policy.max_running, policy)
