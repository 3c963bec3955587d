"""A turn of the dispatcher in PostgreSQL: one transaction, its statements sent together.

Each statement sees what those before it have done, so that what was settled can be claimed, and a lock that was freed
be given, in the same turn.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace
from psycopg import Cursor

from ...ipc.durable.model import ENDS, Counters, Settlement, Task
from ...ipc.durable.wire import Held
from .postgres_arrays import EMPTY, bodies, numbers, texts
from .postgres_enqueue import Plain
from .postgres_kinds import Kinds
from .postgres_link import ClashError, Link
from .postgres_marks import Marks
from .postgres_numbered import Runner, numbered
from .postgres_settled import late_columns, settled_columns
from .protocol import Demand, StoreAway, StoreError, Turn, Turned

PROMOTED = 1_000  # of each kind, in one turn
SEEN_MS = 50  # for so long a busy dispatcher believes what it has seen of delayed messages

Rows = Cursor[tuple[Any, ...]]


class Turns:
    """The turns of one dispatcher."""

    def __init__(self, link: Link, sql: Mapping[str, str], kinds: Kinds) -> None:
        self._link = link
        self._sql = sql
        self._numbered = {name: numbered(text) for name, text in sql.items()}
        self._kinds = kinds
        self._marks = Marks()
        self._held: dict[int, _Held] = {}
        self._seen = _Delayed()
        self._adrift = False

    def held(self, leases: Sequence[Held]) -> None:
        """These leases of this node are known to the dispatcher."""
        self._held.update((lease.id, _Held(lease.fence)) for lease in leases)

    def look_again(self) -> None:
        """Something was done besides turns: what is known of delayed messages may be wrong."""
        self._seen = _Delayed()

    def turn(self, turn: Turn, new: Plain | None = None) -> Turned:
        """See Store.turn; `new`: its messages."""
        lost = self._link.lost
        try:
            done = self._turned(turn, new)
        except StoreAway as error:
            self._marks.forget()
            if new is not None and isinstance(error, ClashError):
                raise StoreError(f"one of the messages is there already: {error}") from error
            self._adrift |= bool(turn.demands) and self._link.lost > lost
            raise
        self._adrift = False
        return done

    def _turned(self, turn: Turn, new: Plain | None) -> Turned:
        names = dict.fromkeys(name for demand in turn.demands for name in demand.kinds)
        kinds = self._kinds.ids(names)
        self._rewind_for(turn)
        self._marks.begin(time.monotonic())
        with self._link.batch() as db:
            run = Runner(db, self._numbered)
            if new is not None:
                new.send(run)
            sent = self._send(run, turn, kinds)
        stale = self._late(turn, sent.settled) if turn.settled else []
        done = self._answer(turn, sent, kinds, stale)
        self._marks.end(time.monotonic())
        return done if new is None else replace(done, receipts=new.receipts())

    def _rewind_for(self, turn: Turn) -> None:
        dues = [one.due for one in turn.settled if one.state not in ENDS and one.due <= turn.now]
        if self._adrift or (dues and min(dues) <= 0):
            self._marks.forget()
        elif dues:
            self._marks.rewind(min(dues))

    def _send(self, run: Runner, turn: Turn, kinds: Mapping[str, int]) -> "_Sent":
        if self._adrift:
            fences = numbers(lease.fence for lease in self._held.values())
            run("give_back", node=turn.node, id=numbers(self._held), fence=fences)
        kept = run("keep_stages", **_stages(turn)) if turn.stages else None
        if turn.began:
            run("begin", **_leases(turn.began))
        if turn.progress:
            words = bodies(word for _, word in turn.progress)
            run("note_progress", word=words, **_leases([held for held, _ in turn.progress]))
        settled = self._settle(run, turn)
        granted = self._lock(run, turn) if turn.locks else None
        promoted, claims = None, []
        if kinds:
            everything = numbers(kinds.values())
            run("lock_kinds", kinds=everything)
            if not self._seen.still_holds(turn, everything):
                marks = self._marks.delayed(kinds.values())
                promoted = run("promote", kinds=everything, marks=marks, now=turn.now, most=PROMOTED)
            claims = [self._claim(run, turn, demand, kinds) for demand in turn.demands]
        return _Sent(kept, settled, granted, promoted, claims)

    def _settle(self, run: Runner, turn: Turn) -> Rows | None:
        first = {(one.id, one.fence): one for one in reversed(turn.settled) if not one.late}
        if not first:
            return None
        settled = sorted(first.values(), key=lambda one: one.id)
        keyed = numbers(one.id for one in settled if self._held.get(one.id, UNKNOWN).keyed)
        rows = run("settle", now=turn.now, keyed=keyed, **settled_columns(settled))
        if keyed != EMPTY:
            run("release_unique", ids=keyed, now=turn.now)
        return rows

    def _lock(self, run: Runner, turn: Turn) -> Rows:
        keys = texts(lock.key for lock in turn.locks)
        run("guard_locks", keys=keys)
        ids, fences = numbers(lock.id for lock in turn.locks), numbers(lock.fence for lock in turn.locks)
        return run("grant_locks", id=ids, fence=fences, key=keys)

    def _claim(self, run: Runner, turn: Turn, demand: Demand, kinds: Mapping[str, int]) -> Rows | None:
        wanted = list(dict.fromkeys(kinds[name] for name in demand.kinds if name in kinds))
        if not wanted or not demand.holders:
            return None
        asked = {
            "want": len(demand.holders),
            "holders": numbers(demand.holders),
            "node": turn.node,
            "now": turn.now,
        }
        beginning = self._marks.beginning(wanted[0]) if len(wanted) == 1 and not demand.aged else None
        if beginning is not None:
            priority, due = beginning
            return run("claim_kind", kind=wanted[0], priority=priority, due=due, **asked)
        known = self._marks.known(wanted)
        return run(
            "claim",
            kinds=numbers(wanted),
            aged=demand.aged,
            **asked,
            mark_kinds=known.kinds,
            mark_priorities=known.priorities,
            mark_dues=known.dues,
        )

    def _late(self, turn: Turn, rows: Rows | None) -> list[Held]:
        """Those that were not written, nor before; this is recorded. `rows`: the leases that were settled."""
        held = set(rows.fetchall()) if rows is not None else set()
        late, stale = [], []
        for one in turn.settled:
            if not one.late and self._held.get(one.id, UNKNOWN).fence == one.fence:
                del self._held[one.id]
            lease = (one.id, one.fence)
            if lease not in held:
                late.append(one)
            elif one.late:
                stale.append(Held(*lease))
            else:
                held.discard(lease)
        return stale + self._recorded(late, turn.now)

    def _recorded(self, late: list[Settlement], now: int) -> list[Held]:
        """Those that are news; several of one lease one after the other."""
        news: list[Held] = []
        while late:
            first = {(one.id, one.fence): one for one in reversed(late)}
            columns = late_columns(list(first.values()), now)
            with self._link.session() as db:
                news += [Held(*row) for row in db.execute(self._sql["record_late"], columns).fetchall()]
            late = [one for one in late if first[one.id, one.fence] is not one]
        return news

    def _answer(self, turn: Turn, sent: "_Sent", kinds: Mapping[str, int], stale: list[Held]) -> Turned:
        now_held = {Held(*row) for row in sent.kept.fetchall()} if sent.kept is not None else set()
        kept = [held for one in turn.stages if (held := Held(one.id, one.fence)) in now_held]
        granted = [Held(id, fence) for id, fence, _ in sent.granted.fetchall()] if sent.granted is not None else []
        claimed, more = [], False
        for demand, rows in zip(turn.demands, sent.claims or [None] * len(turn.demands), strict=True):
            found = rows.fetchall() if rows is not None else []
            claimed.append([self._task(row, turn.now) for row in found])
            more |= bool(found) and (len(found) == len(demand.holders) or len(found) < (found[0][25] or 0))
            self._marks.claimed((row[2], row[13], row[15]) for row in found)
            self._held.update((row[0], _Held(row[1], row[26])) for row in found)
        if sent.promoted is not None:
            more |= self._promoted(turn, sent.promoted, kinds)
        return Turned(claimed, stale, granted, kept, self._seen.next_due if kinds else 0, more)

    def _promoted(self, turn: Turn, rows: Rows, kinds: Mapping[str, int]) -> bool:
        """What was promoted; whether this turn's claims may have missed some of it."""
        ((moved, oldest, next_due),) = rows.fetchall()
        missed = bool(moved) and self._marks.rewind(oldest)
        if moved >= PROMOTED:
            self._seen = _Delayed(next_due=next_due)
            return True
        self._marks.promoted(kinds.values(), turn.now)
        self._seen = _Delayed(numbers(kinds.values()), turn.now, next_due)
        return missed

    def _task(self, row: tuple[Any, ...], now: int) -> Task:
        """From the columns of `claim`."""
        id, fence, kind, args = row[:4]
        guid, stage, outputs, priority, created, due = row[10:16]
        return Task(
            id, fence, self._kinds.name(kind), args, Counters(*row[4:10]), guid, stage, outputs or [], priority,
            created, due, now, *row[16:25],
        )  # fmt: skip


class _Held(NamedTuple):
    """A lease that the dispatcher has. `keyed`: its message has a unique key, or may have one."""

    fence: int
    keyed: bool = True


UNKNOWN = _Held(-1)


class _Delayed(NamedTuple):
    """What was seen of delayed messages: when it was, of which kinds, and when the next one is due (0: none is)."""

    kinds: str = ""
    at: int = 0
    next_due: int = 0

    def still_holds(self, turn: Turn, kinds: str) -> bool:
        """Whether nothing can have become due since, but for what another host has delayed by less than SEEN_MS."""
        again = any(one.state not in ENDS for one in turn.settled)
        early = not self.next_due or turn.now < self.next_due
        return kinds == self.kinds and early and not again and 0 <= turn.now - self.at < SEEN_MS


class _Sent(NamedTuple):
    """Answers that have come when the transaction is committed."""

    kept: Rows | None
    settled: Rows | None
    granted: Rows | None
    promoted: Rows | None
    claims: list[Rows | None]


def _stages(turn: Turn) -> dict[str, str]:
    return {
        "id": numbers(one.id for one in turn.stages),
        "fence": numbers(one.fence for one in turn.stages),
        "stage": numbers(one.stage for one in turn.stages),
        "body": bodies(one.output for one in turn.stages),
    }


def _leases(held: Sequence[Held]) -> dict[str, str]:
    return {"id": numbers(one.id for one in held), "fence": numbers(one.fence for one in held)}
