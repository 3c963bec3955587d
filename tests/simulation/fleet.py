"""Rollouts in a fake fleet: masters that fail by a seeded plan share a store, and the promises are checked.

`python -m tests.simulation.fleet --seed 7` plays one story again; `--trace` prints all of it; `--first` and `--last`
play many and print one JSON document a story.
"""

import argparse
import heapq
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection
from random import Random

from bkd.ipc.errors import BkdError
from bkd.supervisor.bus import rollout as rollouts
from bkd.supervisor.bus import rollouts_index as indexes
from bkd.supervisor.bus.outcome import Outcome, exit_code, outcome, verdict
from bkd.supervisor.bus.rollout import Rollout, State
from bkd.supervisor.bus.rollouts_index import FRESH, Held, Index

from .ledger import SKEW, Ledger
from .member import Member
from .promise import expect

TROUBLED, CALM = 400.0, 1500.0
TROUBLES = (2.0, 6.0, 20.0, 100.0)
GROUPS = (("web",), ("web",), ("jobs",), ("jobs", "web"), ())
WORDS = {State.DONE: 0, State.UNREACHABLE: 3, State.EXPIRED: 3}


class Away(BkdError):
    """The bus does not answer."""


class Fleet:
    """One story: `play` lets operators roll and things go wrong for a while, and then everything come to its end."""

    def __init__(self, seed: int, *, without: Collection[str] = (), trace: bool = False) -> None:
        self.seed, self.trace = seed, trace
        self.random = Random(seed)
        self.now, self.away, self.flushed = 1_700_000_000.0, 0.0, 0.0
        self.began = self.now
        self.calm = False
        self.steps = 0
        self.events: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.documents: dict[str, Rollout] = {}
        self.index: Index | None = None
        self.commands: list[tuple[str, tuple[str, ...]]] = []
        self.ledgers: dict[str, Ledger] = {}
        self.faults = {name: fault for name, fault in FAULTS.items() if name not in without}
        self.losses = 0.0 if "losses" in without else self.random.choice((0.0, 0.01, 0.1))
        self.failing = self.random.choice((0.0, 0.05, 0.3))
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.members = [Member(self, f"h{n}") for n in range(1, self.random.randint(3, 8))]

    # -- the clock

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in so many seconds of this world."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + max(0.0, seconds), self._number, call))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call = heapq.heappop(self._queue)
            self.steps += 1
            call()
            if until():
                return
        self.now = end

    def say(self, text: str) -> None:
        """One line of the story."""
        if self.trace:
            print(f"{self.now - self.began:9.3f} {text}")

    def play(self) -> None:
        """The whole story; raises Broken with its seed."""
        try:
            self._keep_on(self._operate, 15.0)
            self._keep_on(self._strike, self.random.choice(TROUBLES))
            self.run(TROUBLED)
            self.calm, self.away, self.losses = True, 0.0, 0.0
            for member in self.members:
                member.recover()
            self.run(FRESH)
            self.run(CALM, lambda: all(member.is_idle for member in self.members))
            self.run(rollouts.LEASE + SKEW)
            self._settled()
        except Exception as error:
            again = f"python -m tests.simulation.fleet --seed {self.seed}"
            error.add_note(f"seed {self.seed} at {self.now - self.began:.3f}: {again}")
            raise

    def _keep_on(self, call: Callable[[], None], between: float) -> None:
        def turn() -> None:
            if not self.calm:
                call()
                self.after(self.random.expovariate(1 / between), turn)

        self.after(self.random.expovariate(1 / between), turn)

    # -- operators and troubles

    def _operate(self) -> None:
        member = self.random.choice(self.members)
        if member.alive and (self.random.random() < 0.8 or not self.documents):
            member.issue(self.random.choice(GROUPS))
            if self.random.random() < 0.3:
                self.random.choice(self.members).issue(self.random.choice(GROUPS))
        elif member.alive:
            member.abort(self.random.choice(list(self.documents)[-3:]))

    def _strike(self) -> None:
        if self.faults:
            (name,) = self.random.choices(list(self.faults), [weight for weight, _ in self.faults.values()])
            self.events[name] += 1
            self.say(f"-- {name}")
            self.faults[name][1](self)

    def some(self) -> Member:
        """Any of the masters."""
        return self.random.choice(self.members)

    # -- the bus

    def get(self, id: str) -> Rollout | None:
        """Read; raises Away."""
        self._reach()
        return self.documents.get(id)

    def _reach(self) -> None:
        if self.now < self.away or (self.losses and self.random.random() < self.losses):
            raise Away("no answer")

    def create(self, rollout: Rollout) -> None:
        """Write a document that is not there yet; raises Away."""
        self._reach()
        self.ledgers[rollout.id] = Ledger(rollout)
        self.ledgers[rollout.id].gone = rollout.issued < self.flushed
        self.documents[rollout.id] = rollout

    def command(self, rollout: Rollout) -> None:
        """Append the command, ring; raises Away."""
        self._reach()
        self.commands.append((rollout.id, tuple(turn.host for turn in rollout.hosts)))
        for member in self.members:
            member.hear()

    def swap(self, old: Rollout, new: Rollout, kind: str, by: str, counted: bool, made: float) -> bool:
        """Compare and set; raises Away, now and then after the deed."""
        self._reach()
        if self.documents.get(old.id) != old:
            self.actions["swap too late"] += 1
            return False
        ledger = self.ledgers[old.id]
        ledger.committed(old, new, kind, by, counted, made, self.now)
        self._exclusive(ledger, old, new)
        self.documents[old.id] = new
        if self.trace:
            self.say(f"{by} {kind}{'' if counted else ' (refused)'}: v{new.version} {verdict(new)}")
        for member in self.members:
            member.ring(old.id)
        self._reach()
        return True

    def _exclusive(self, ledger: Ledger, old: Rollout, new: Rollout) -> None:
        """Two rollouts of one group never have hosts at work at once."""
        if new.fence == old.fence or ledger.gone or ledger.played:
            return
        for id, other in self.ledgers.items():
            if id != old.id and not (other.gone or other.played):
                shared = not ledger.groups or not other.groups or ledger.groups & other.groups
                expect(not shared or not other.valid(self.now), f"{old.id} begins while {id} is at work")

    def swap_index(self, old: Index | None, new: Index) -> bool:
        """Compare and set; raises Away, now and then after the deed."""
        self._reach()
        if self.index != old:
            self.actions["swap too late"] += 1
            return False
        self.index = new
        self._reach()
        return True

    def read_index(self) -> Index | None:
        """Read; raises Away."""
        self._reach()
        return self.index

    # -- the end

    def _settled(self) -> None:
        """Every rollout is over, for everybody, and nothing holds up the next one."""
        for member in self.members:
            expect(member.is_idle, f"{member.name} has not ended: {member.unfinished()}")
        for id, rollout in self.documents.items():
            ended = rollouts.advance(rollout, self.now)
            for later in range(len(rollout.hosts) if self.ledgers[id].played else 0):
                ended = rollouts.advance(ended, self.now + rollouts.LEASE * (later + 1))
            expect(rollouts.is_over(ended), f"{id} is not over: {verdict(ended)}")
            codes = {WORDS.get(turn.state, 1) for turn in ended.hosts}
            expect(exit_code(ended) == (1 if 1 in codes else max(codes)), f"the exit code of {verdict(ended)}")
            expect(outcome(ended) != Outcome.RUNNING, "an outcome is missing")
            for turn in ended.hosts:
                self.actions[turn.state] += 1
            self.actions[f"rollout {outcome(ended)}"] += 1
            self._is_true(id, ended)
        known = {id: rollout for id, rollout in self.documents.items() if not self.ledgers[id].played}
        live = [id for id, rollout in known.items() if indexes.is_live(rollout, self.now)]
        row = indexes.Row("last", "restart", (), "ann", self.now)
        expect(not isinstance(indexes.enter(self.index or Index(), row, live, self.now + FRESH), Held), "held up")

    def _is_true(self, id: str, rollout: Rollout) -> None:
        """Who is done has done it, and nobody worked without a permit."""
        ledger = self.ledgers[id]
        if ledger.played:
            return
        for turn in rollout.hosts:
            expect(turn.state != State.DONE or ledger.ended.get(turn.host) is True, f"{turn.host} did not do it")
            expect(turn.host not in ledger.at_work or turn.fence > 0, f"{turn.host} worked without a permit")


# -- what can go wrong by itself


def _dies(fleet: Fleet) -> None:
    fleet.some().die(fleet.random.choice((0.1, 3.0, 12.0, 25.0, 100.0)))


def _dies_at_work(fleet: Fleet) -> None:
    working = [member for member in fleet.members if member.is_working]
    if working:
        fleet.random.choice(working).die(fleet.random.choice((1.0, 10.0, 30.0, 100.0)))


def _slow(fleet: Fleet) -> None:
    member = fleet.some()
    member.slow = fleet.random.choice((5.0, 30.0, 100.0))
    fleet.after(fleet.random.uniform(1.0, 60.0), lambda: setattr(member, "slow", 1.0))


def _pauses(fleet: Fleet) -> None:
    fleet.some().paused = fleet.now + fleet.random.choice((2.0, 16.0, 21.0, 45.0))


def _bus_away(fleet: Fleet) -> None:
    fleet.away = fleet.now + fleet.random.choice((0.5, 5.0, 21.0, 60.0))


def _flush(fleet: Fleet) -> None:
    for id in fleet.documents:
        fleet.ledgers[id].gone = True
    fleet.documents.clear()
    fleet.commands.clear()
    fleet.index, fleet.flushed = None, fleet.now + SKEW
    for member in fleet.members:
        member.cursor = 0


def _playback(fleet: Fleet) -> None:
    ids = [id for id, ledger in fleet.ledgers.items() if len(ledger.history) > 1]
    if ids:
        id = fleet.random.choice(ids[-2:])
        ledger = fleet.ledgers[id]
        fleet.documents[id] = ledger.older(
            fleet.random.randrange(max(0, len(ledger.history) - 8), len(ledger.history) - 1)
        )
        for member in fleet.members:
            member.ring(id)


def _issuer_dies(fleet: Fleet) -> None:
    fleet.some().doomed = True


FAULTS: dict[str, tuple[int, Callable[[Fleet], None]]] = {
    "master dies": (6, _dies),
    "dies at work": (4, _dies_at_work),
    "issuer dies": (3, _issuer_dies),
    "slow host": (4, _slow),
    "paused host": (4, _pauses),
    "bus away": (2, _bus_away),
    "flush": (1, _flush),
    "playback": (1, _playback),
}


def main() -> None:
    """Play, print, end with 1 if something is broken."""
    parser = argparse.ArgumentParser(description="plays rollouts in a fake fleet")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int, default=100)
    given = parser.parse_args()
    if given.seed is not None:
        fleet = Fleet(given.seed, trace=given.trace)
        fleet.play()
        print(f"{fleet.steps:,} steps: {dict(fleet.events)}\n{dict(fleet.actions)}")
        return
    for seed in range(given.first, given.last + 1):
        fleet, fault = Fleet(seed), ""
        try:
            fleet.play()
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            fault = traceback.format_exc()
        story = {"seed": seed, "steps": fleet.steps, "events": fleet.events, "actions": fleet.actions, "fault": fault}
        print(json.dumps(story), flush=True)
        if fault:
            sys.exit(1)


if __name__ == "__main__":
    main()
