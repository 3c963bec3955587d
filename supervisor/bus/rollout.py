"""A rollout over the hosts of a fleet: who may begin, who has ended, and when all of it is over. Pure.

The document lies on the bus, signed, and is changed by compare-and-set alone: read it, call one function with the bus's
time, write what it returned if that is another object, and read again if somebody was faster. What a function answers
holds once its document is written. A host writes down that it begins before it does so: then a permit that it is
told of a second time (`Permit.again`) is a reason to go on, and never one to begin twice.

Hosts begin in the order of their names, one after the other, at most `batch` of them at work. A state that nobody ends
ends by itself at `Turn.until`: who has not answered by then is unreachable, whose turn came and who did not begin is
expired, who was at work and did not renew has failed. A rollout that is not over always has such a moment.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ...ipc.errors import RefusedError

PATIENCE = 15.0  # seconds to answer the command, and again to begin when the turn has come
LEASE = 20.0  # seconds without a renewal after which a host that is at work has failed
RENEWAL = 5.0  # seconds between the renewals of a host that is at work

LARGEST = 34_000  # bytes of a document when it is made; what it grows by stays below the 64 KiB of a letter
ROOM = 22_000  # bytes for the reasons of all hosts together
LONGEST_REASON = 200

EXPIRED = f"its turn came and it did not begin within {PATIENCE:.0f} s"
LAPSED = f"not heard of for {LEASE:.0f} s in the middle of it"
UNKNOWN = "the rollout is not known any more"


class State(StrEnum):
    """Where a host is in a rollout: asked, willing, at work, or how it ended."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    EXPIRED = "expired"
    UNREACHABLE = "unreachable"
    SKIPPED = "skipped"


OPEN = frozenset({State.WAITING, State.ACCEPTED})
COUNTED = frozenset({State.FAILED, State.REFUSED})
ENDED = frozenset(State) - OPEN - {State.RUNNING}

_LATER = {
    State.WAITING: frozenset(State),
    State.ACCEPTED: frozenset(State) - {State.WAITING},
    State.RUNNING: frozenset({State.RUNNING, State.DONE, State.FAILED}),
}
_LAPSES = {
    State.WAITING: (State.UNREACHABLE, "it did not answer within {patience:.0f} s"),
    State.ACCEPTED: (State.EXPIRED, EXPIRED),
    State.RUNNING: (State.FAILED, LAPSED),
}


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """One host. `fence`: of its permit; `until`: the bus time at which its state ends by itself, 0 if it does not;
    `took`: seconds at work; `began`: bus time of its permit."""

    host: str
    state: State = State.WAITING
    fence: int = 0
    until: float = 0.0
    took: float = 0.0
    reason: str = ""
    began: float = 0.0


class Rollout(msgspec.Struct, frozen=True):
    """The document. `hosts`: in the order of their names; `fence`: of the last permit; `version` grows with every
    change; `aborted`: by whom; `touched`: bus time of the last change. No groups means the whole application."""

    id: str
    verb: str
    groups: tuple[str, ...]
    issuer: str
    issued: float
    batch: int
    max_fail: int
    hosts: tuple[Turn, ...]
    fence: int = 0
    version: int = 1
    aborted: str = ""
    touched: float = 0.0


class Permit(NamedTuple):
    """This host begins now and renews its lease before `until` (bus time). `again`: the permit was given before."""

    fence: int
    until: float = 0.0
    again: bool = False


class Wait(NamedTuple):
    """Not yet: ask again when the document has changed, at the latest at this bus time. `why`: for people."""

    until: float
    why: str


class Over(NamedTuple):
    """This host does not begin any more."""

    state: State
    reason: str


class Claimed(NamedTuple):
    """The document after a claim, and the answer to it."""

    rollout: Rollout
    answer: Permit | Wait | Over


class Changed(NamedTuple):
    """The document afterwards; `refused`: why the call did not count, "" if it did."""

    rollout: Rollout
    refused: str = ""


def batch_of(text: str, hosts: int) -> int:
    """How many of so many hosts `2` or `20%` are, at least one; raises ValueError with a line for people."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    value = int(number) if number.isascii() and number.isdigit() and len(number) <= 9 else 0
    if value < 1 or (percent and value > 100):
        raise ValueError(f"{text!r} is no batch: give a number of hosts (2) or a share of them (20%)")
    return max(1, hosts * value // 100) if percent else value


def begin(
    id: str,
    hosts: Iterable[str],
    *,
    verb: str,
    groups: Iterable[str],
    issuer: str,
    now: float,
    batch: int = 1,
    max_fail: int = 0,
    patience: float = PATIENCE,
) -> Rollout:
    """A new document, all hosts asked at `now` to answer within `patience` seconds; raises RefusedError for no host,
    or too many for one document."""
    turns = tuple(Turn(host, until=now + patience) for host in sorted(set(hosts)))
    if not turns:
        raise RefusedError("no host was found to do it; `bkd status --fleet` lists them")
    rollout = Rollout(id, verb, tuple(groups), issuer, now, max(1, batch), max(0, max_fail), turns, touched=now)
    if len(msgspec.msgpack.encode(rollout)) > LARGEST:
        raise RefusedError(f"{len(turns)} hosts are too many for one rollout; narrow it with --tag or --host")
    return rollout


def advance(rollout: Rollout, now: float) -> Rollout:
    """What time alone has changed; the same object if nothing."""
    return _sealed(rollout, _due(rollout, now), now)


def accept(rollout: Rollout, host: str, now: float) -> Changed:
    """The host will do it when its turn comes. Refused once it was passed over or has ended."""
    after = _accepted(_due(rollout, now), host, now)
    turn = find(after, host)
    late = turn is None or turn.state in ENDED
    return Changed(_sealed(rollout, after, now), _why_over(turn, host) if late else "")


def refuse(rollout: Rollout, host: str, now: float, reason: str) -> Changed:
    """The host will not do it. Refused once it has begun or ended."""
    after = _due(rollout, now)
    turn = find(after, host)
    if turn is None or turn.state not in OPEN:
        return Changed(_sealed(rollout, after, now), _why_over(turn, host))
    ended = _ended(after, turn, State.REFUSED, reason)
    return Changed(_sealed(rollout, _due(_with(after, ended), now), now))


def claim(rollout: Rollout, host: str, now: float) -> Claimed:
    """May this host begin? To claim is to accept, for who has not done so."""
    after = _accepted(_due(rollout, now), host, now)
    turn = find(after, host)
    answer: Permit | Wait | Over
    if turn is None:
        answer = Over(State.SKIPPED, _why_over(turn, host))
    elif turn.state == State.RUNNING:
        answer = Permit(turn.fence, turn.until, again=True)
    elif turn.state in ENDED:
        answer = Over(turn.state, turn.reason)
    elif not turn.until:
        answer = Wait(deadline(after), _why_wait(after))
    else:
        answer = Permit(after.fence + 1, now + LEASE)
        begun = replace(turn, state=State.RUNNING, fence=answer.fence, until=answer.until, began=now)
        after = _due(_with(replace(after, fence=answer.fence), begun), now)
    return Claimed(_sealed(rollout, after, now), answer)


def renew(rollout: Rollout, host: str, fence: int, now: float) -> Changed:
    """The host is at work still. Refused when its lease has run out before, or the permit is another."""
    after = _due(rollout, now)
    turn = find(after, host)
    if turn is None or turn.state != State.RUNNING or turn.fence != fence:
        return Changed(_sealed(rollout, after, now), _why_late(turn, host, fence))
    return Changed(_sealed(rollout, _with(after, replace(turn, until=now + LEASE)), now))


def finish(rollout: Rollout, host: str, fence: int, ok: bool, reason: str, now: float) -> Changed:
    """The host's work has ended, well or not. Refused when its lease has run out before, or the permit is another."""
    after = _due(rollout, now)
    turn = find(after, host)
    if turn is None or turn.state != State.RUNNING or turn.fence != fence:
        return Changed(_sealed(rollout, after, now), _why_late(turn, host, fence))
    ended = _ended(after, turn, State.DONE if ok else State.FAILED, reason)
    ended = replace(ended, took=round(max(0.0, now - turn.began), 3))
    return Changed(_sealed(rollout, _due(_with(after, ended), now), now))


def abort(rollout: Rollout, who: str, now: float) -> Changed:
    """Nobody else begins; who is at work goes on. Refused when nobody is left who could begin."""
    after = _due(rollout, now)
    if not any(turn.state in OPEN for turn in after.hosts):
        return Changed(_sealed(rollout, after, now), _why_not_abort(after))
    stopped = replace(after, aborted=_clipped(who, LONGEST_REASON) or "an operator")
    return Changed(_sealed(rollout, _due(stopped, now), now))


def lost(rollout: Rollout, now: float) -> Rollout:
    """What is left of it when the document is gone: who has not begun has failed, who is at work goes on."""
    after = _due(rollout, now)
    turns = tuple(_ended(after, t, State.FAILED, UNKNOWN) if t.state in OPEN else t for t in after.hosts)
    return _sealed(rollout, replace(after, hosts=turns), now)


def newer(old: Rollout | None, new: Rollout) -> bool:
    """Whether `new` can have come after `old`, the last one seen (None: none). An older document that is played back
    cannot, nor one that goes on from an older one: nothing that was seen to happen is undone. Nor can the same."""
    if old is None:
        return True
    return (
        new.version > old.version
        and new.fence >= old.fence
        and new.aborted == (old.aborted or new.aborted)
        and _head(new) == _head(old)
        and len(new.hosts) == len(old.hosts)
        and all(_follows(before, after) for before, after in zip(old.hosts, new.hosts, strict=True))
    )


# -- questions


def find(rollout: Rollout, host: str) -> Turn | None:
    """This host's turn, None if it has no part in the rollout."""
    return next((turn for turn in rollout.hosts if turn.host == host), None)


def is_over(rollout: Rollout) -> bool:
    """Whether every host has ended."""
    return all(turn.state in ENDED for turn in rollout.hosts)


def deadline(rollout: Rollout) -> float:
    """The bus time at which something changes by itself, 0 when it is over."""
    return min((turn.until for turn in rollout.hosts if turn.until), default=0.0)


# -- the rules


def _due(rollout: Rollout, now: float) -> Rollout:
    """States that have ended by themselves, who is skipped because of it, and whose turn it is then."""
    if any(0 < turn.until <= now for turn in rollout.hosts):
        rollout = replace(rollout, hosts=tuple(_lapsed(rollout, turn, now) for turn in rollout.hosts))
    first = next((turn for turn in rollout.hosts if turn.state in OPEN), None)
    if first is None:
        return rollout
    why = _stopped(rollout)
    if why:
        turns = (_ended(rollout, t, State.SKIPPED, why) if t.state in OPEN else t for t in rollout.hosts)
        return replace(rollout, hosts=tuple(turns))
    if first.state == State.ACCEPTED and not first.until and _at_work(rollout) < rollout.batch:
        return _with(rollout, replace(first, until=now + PATIENCE))
    return rollout


def _lapsed(rollout: Rollout, turn: Turn, now: float) -> Turn:
    if not 0 < turn.until <= now:
        return turn
    state, reason = _LAPSES[turn.state]
    lapsed = _ended(rollout, turn, state, reason.format(patience=turn.until - rollout.issued))
    return replace(lapsed, took=round(max(0.0, now - turn.began), 3)) if turn.began else lapsed


def _stopped(rollout: Rollout) -> str:
    """Why nobody else begins, "" if somebody may."""
    if rollout.aborted:
        return f"aborted by {rollout.aborted}"
    failed = [turn for turn in rollout.hosts if turn.state in COUNTED]
    return ", ".join(f"{t.host} {t.state}" for t in failed) if len(failed) > rollout.max_fail else ""


def _at_work(rollout: Rollout) -> int:
    return sum(turn.state == State.RUNNING for turn in rollout.hosts)


def _accepted(rollout: Rollout, host: str, now: float) -> Rollout:
    turn = find(rollout, host)
    if turn is None or turn.state != State.WAITING:
        return rollout
    return _due(_with(rollout, replace(turn, state=State.ACCEPTED, until=0.0)), now)


def _ended(rollout: Rollout, turn: Turn, state: State, reason: str) -> Turn:
    longest = min(LONGEST_REASON, ROOM // len(rollout.hosts))
    return replace(turn, state=state, until=0.0, reason=_clipped(reason, longest))


def _clipped(text: str, longest: int) -> str:
    """In one line, of so many bytes at most."""
    return " ".join(text.split()).encode()[:longest].decode(errors="ignore")


def _with(rollout: Rollout, turn: Turn) -> Rollout:
    return replace(rollout, hosts=tuple(turn if old.host == turn.host else old for old in rollout.hosts))


def _sealed(before: Rollout, after: Rollout, now: float) -> Rollout:
    return before if after is before else replace(after, version=before.version + 1, touched=now)


def _head(rollout: Rollout) -> tuple[object, ...]:
    """What never changes."""
    r = rollout
    return r.id, r.verb, r.groups, r.issuer, r.issued, r.batch, r.max_fail


def _follows(old: Turn, new: Turn) -> bool:
    if old.state in ENDED:
        return new == old
    same = old.state != State.RUNNING or new.fence == old.fence
    return new.host == old.host and new.state in _LATER[old.state] and same


# -- words


def _why_over(turn: Turn | None, host: str) -> str:
    if turn is None:
        return f"{host} has no part in this rollout"
    return f"{host} is {turn.state}{': ' if turn.reason else ''}{turn.reason}"


def _why_late(turn: Turn | None, host: str, fence: int) -> str:
    if turn is None or turn.state != State.RUNNING:
        return _why_over(turn, host)
    return f"{host} works under permit {turn.fence}, not {fence}"


def _why_wait(rollout: Rollout) -> str:
    running = next((turn.host for turn in rollout.hosts if turn.state == State.RUNNING), "")
    if _at_work(rollout) >= rollout.batch:
        return f"{running} is at work"
    first = next(turn for turn in rollout.hosts if turn.state in OPEN)
    return f"{first.host} has not answered yet" if first.state == State.WAITING else f"{first.host} goes first"


def _why_not_abort(rollout: Rollout) -> str:
    over = "it is over" if is_over(rollout) else "who is at work goes on"
    return f"nothing is left to abort: nobody waits any more, {over}"
