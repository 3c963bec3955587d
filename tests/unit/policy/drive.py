"""A cluster in the hands of a test: events in, actions and facts out; the clock is a number that the test sets."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from bkd.supervisor import actions, events
from bkd.supervisor.apply import apply
from bkd.supervisor.cluster import Cluster, Group, Observation, Origin, Phase, Slot, Stage, Worker
from bkd.supervisor.config.schema import GroupSection, PingSection
from bkd.supervisor.fact import Fact
from bkd.supervisor.founding import founded
from bkd.supervisor.reconcile import Plan, reconcile

START = 1000.0
MOST_ROUNDS = 20
MOST_MOVES = 200
LONGEST_NAP = 60.0

A = TypeVar("A", bound=actions.Action)
F = TypeVar("F", bound=Fact)


class Look(NamedTuple):
    """What /proc will say of a slot's worker: state letter, CPU seconds used and waited for per second, a debugger."""

    state: str = "S"
    busy: float = 0.0
    waiting: float = 0.0
    traced: bool = False

    def at(self, now: float) -> Observation:
        """The observation made at this moment."""
        return Observation(now, self.state, self.busy * now, self.waiting * now, self.traced)


def web(name: str = "web", count: int = 1, **settings: object) -> GroupSection:
    """A group of web workers with the defaults of the configuration."""
    return GroupSection(name=name, kind="web", count=count, **settings)


def python(name: str = "jobs", count: int = 1, **settings: object) -> GroupSection:
    """A group of plain functions."""
    return GroupSection(name=name, kind="python", count=count, **{"restart": "failure", **settings})


def command(name: str = "cache", count: int = 1, **settings: object) -> GroupSection:
    """A group of foreign programs."""
    return GroupSection(name=name, kind="command", count=count, **{"restart": "failure", **settings})


class Drive:
    """Plays the shell: takes every action; births, looks, evidence and sweeps come at once unless told not to.

    What a test has to play itself: loaders, readiness, heartbeats and deaths.
    """

    def __init__(
        self,
        *groups: GroupSection,
        ping: PingSection | None = None,
        exit_when_failed: bool = False,
        births: bool = True,
        now: float = START,
    ) -> None:
        sections = {group.name: group for group in groups}
        self.cluster: Cluster = founded(sections, ping or PingSection(), exit_when_failed=exit_when_failed)
        self.now = now
        self.taken: list[actions.Action] = []
        self.facts: list[Fact] = []
        self.looks: dict[str, Look] = {}
        self.births = births
        self.sees = self.gathers = self.sweeps = True
        self.rounds = 0
        self.settle()

    # -- the clock

    def at(self, seconds: float) -> list[actions.Action]:
        """Move the clock to START + seconds, sleeping from wake to wake; gives what was done on the way."""
        before = len(self.taken)
        while (wake := self.plan().wake) < START + seconds:
            assert wake > self.now, "the policy is awake for ever"
            self.now = wake
            self.settle()
        self.now = max(self.now, START + seconds)
        self.settle()
        return self.taken[before:]

    def later(self, seconds: float) -> list[actions.Action]:
        """Move the clock on."""
        return self.at(self.now - START + seconds)

    # -- events and actions

    def happen(self, *what: events.Event) -> list[actions.Action]:
        """All of this happens now; gives what is done about it."""
        for event in what:
            self._apply(event)
        return self.settle()

    def settle(self) -> list[actions.Action]:
        """One turn: take actions until there are none."""
        before = len(self.taken)
        for self.rounds in range(1, MOST_ROUNDS + 1):
            plan = self.plan()
            if not plan.actions:
                return self.taken[before:]
            for action in plan.actions:
                self._take(action)
        raise AssertionError(f"still busy after {MOST_ROUNDS} rounds: {plan.actions}")

    def plan(self) -> Plan:
        """What the policy wants now; nothing is taken."""
        return reconcile(self.cluster, self.now)

    def did(self, kind: type[A]) -> list[A]:
        """All actions of one kind since the beginning."""
        return list(_of(kind, self.taken))

    def told(self, kind: type[F]) -> list[F]:
        """All facts of one kind since the beginning."""
        return list(_of(kind, self.facts))

    def _apply(self, event: events.Event) -> None:
        self.cluster = apply(self.cluster, event, self.now)
        self.facts.extend(self.cluster.news)
        self.cluster = apply(self.cluster, events.NewsTold(), self.now)

    def _take(self, action: actions.Action) -> None:
        self.taken.append(action)
        answer = self._answer(action)
        self._apply(events.Taken(action))
        if answer is not None:
            self._apply(answer)

    def _answer(self, action: actions.Action) -> events.Event | None:
        if isinstance(action, actions.Spawn) and self.births:
            return events.Spawned(action.worker, 100 + action.worker, 7)
        if isinstance(action, actions.Observe) and self.sees:
            look = self.looks.get(self.cluster.places[action.worker], Look())
            return events.Observed(action.worker, look.at(self.now))
        if isinstance(action, actions.Condemn) and self.gathers:
            return events.Gathered(action.worker)
        if isinstance(action, actions.Sweep) and self.sweeps:
            return events.Swept(action.worker)
        return None

    # -- the world

    def load(self, group: str = "web", unsafe: tuple[str, ...] = ()) -> list[actions.Action]:
        """The group's loader has imported the application."""
        release = self.group(group).current
        self.happen(events.LoaderSpawned(group, release, 99))
        return self.happen(events.LoaderReady(group, release, 0.5, unsafe))

    def born(self, slot: str) -> list[actions.Action]:
        """The slot's ordered process exists."""
        worker = self.worker(slot)
        return self.happen(events.Spawned(worker.id, 100 + worker.id, 7))

    def ready(self, slot: str, *, watched: bool = True) -> Worker:
        """The slot's worker does its work from now on."""
        self.happen(events.BecameReady(self.worker(slot).id, watched))
        return self.worker(slot)

    def up(self, *, watched: bool = True) -> "Drive":
        """Everything that may run is ready now."""
        for name, group in self.cluster.groups.items():
            if group.release.forks:
                self.load(name)
            for slot in list(group.slots):
                self.ready(slot, watched=watched)
        return self

    def ping(self, slot: str, **fields: float) -> None:
        """A heartbeat of the slot's worker; like in the master, it alone makes no turn."""
        self._apply(events.Pinged(self.worker(slot).id, **{"lag": 0.001, **fields}))

    def dies(self, slot: str, code: int | None = 1, *, oom: bool = False, chance: float = 0.5) -> list[actions.Action]:
        """The slot's newest worker ends."""
        worker = self.slot(slot).workers[-1]
        return self.happen(events.Exited(worker.id, code, oom, chance))

    # -- rolls

    def asks(
        self,
        group: str = "web",
        *,
        release: int = 0,
        hard: bool = False,
        quick: bool = False,
        **changed: object,
    ) -> list[actions.Action]:
        """Somebody wants the group rolled: onto that release, or onto a new one with these settings changed."""
        origin = Origin(replace(self.group(group).settings, **changed))
        return self.happen(events.RollAsked(group, origin, "bkd restart", release, hard, quick))

    def loads(self, release: int, group: str = "web", unsafe: tuple[str, ...] = ()) -> list[actions.Action]:
        """The loader of this release has imported the application."""
        return self.happen(events.LoaderReady(group, release, 0.5, unsafe))

    def of(self, slot: str, release: int) -> Worker:
        """The worker of this release that is meant to stay in this slot; there must be one."""
        found = [worker for worker in self.slot(slot).staying if worker.release == release]
        assert found, f"{slot} has no worker of release {release}: {self.slot(slot).workers}"
        return found[-1]

    def serves(self, slot: str, release: int) -> list[actions.Action]:
        """The slot's worker of this release does its work from now on."""
        return self.happen(events.BecameReady(self.of(slot, release).id, watched=False))

    def ends(self, worker: Worker, code: int | None = 0, *, oom: bool = False) -> list[actions.Action]:
        """This worker's process is gone."""
        return self.happen(events.Exited(worker.id, code, oom))

    def obeys(self) -> list[actions.Action]:
        """Every worker that is to end has ended."""
        ending = [worker for _, _, worker in self.cluster.workers() if worker.ending is not None]
        return self.happen(*(events.Exited(worker.id, 0) for worker in ending))

    def goes_well(self, until: Stage | None = None, *, group: str = "web") -> "Drive":
        """The world obeys until the group's roll has come to this stage, or is over."""
        for _ in range(MOST_MOVES):
            roll = self.group(group).roll
            if roll is None or roll.stage == until:
                return self
            self.goes_on(group)
        raise AssertionError(f"{group} does not get on: {self.group(group).roll}")

    def goes_on(self, group: str = "web") -> None:
        """One thing that is waited for happens: a release is loaded, a worker is ready, some end, or time passes."""
        rows = [worker for slot in self.group(group).slots.values() for worker in slot.workers]
        starting = [worker for worker in rows if worker.phase == Phase.STARTING and worker.ending is None]
        loading = [number for number, row in self.group(group).releases.items() if row.loader == "loading"]
        if loading:
            self.loads(loading[-1], group)
        elif starting:
            self.happen(events.BecameReady(starting[0].id, watched=False))
        elif any(worker.ending is not None for worker in rows):
            self.obeys()
        else:
            self.later(min(self.plan().wake - self.now, LONGEST_NAP))

    def releases(self, group: str = "web") -> list[tuple[int, ...]]:
        """The releases of the workers that are to stay, slot by slot, the older first."""
        return [tuple(worker.release for worker in slot.staying) for slot in self.group(group).slots.values()]

    def stage(self, group: str = "web") -> Stage | None:
        """How far the group's roll has gone; None when there is none."""
        roll = self.group(group).roll
        return roll.stage if roll else None

    # -- rows

    def group(self, name: str = "web") -> Group:
        """The group of that name."""
        return self.cluster.groups[name]

    def slot(self, name: str) -> Slot:
        """The slot of that name."""
        return self.group(name.rpartition(".")[0]).slots[name]

    def slots(self, group: str = "web") -> list[Slot]:
        """The slots of a group, in order, as rows."""
        return list(self.group(group).slots.values())

    def slot_names(self, group: str = "web") -> list[str]:
        """The slots of a group, in order."""
        return list(self.group(group).slots)

    def worker(self, slot: str) -> Worker:
        """The worker that is meant to stay in this slot; there must be one."""
        worker = self.slot(slot).active
        assert worker is not None, f"{slot} has no worker"
        return worker


def _of(kind: type[A], things: list[object]) -> Iterator[A]:
    return (thing for thing in things if isinstance(thing, kind))


def kinds(done: list[actions.Action]) -> list[str]:
    """The names of the actions, in order."""
    return [type(action).__name__ for action in done]


def spawned(done: list[actions.Action]) -> list[tuple[str, int]]:
    """What was started: slot and release."""
    return [(action.slot, action.release) for action in _of(actions.Spawn, done)]


def settled(*groups: GroupSection, **more: Any) -> Drive:
    """A cluster in which everything has been ready for long enough to count as healthy."""
    drive = Drive(*(groups or (web(count=4),)), **more).up(watched=False)
    drive.later(10)
    return drive


def rolling(stage: Stage, *groups: GroupSection, **asked: Any) -> Drive:
    """The same with a roll of its first group that has gone well so far."""
    drive = settled(*groups)
    name = next(iter(drive.cluster.groups))
    drive.asks(name, **asked)
    return drive.goes_well(stage, group=name)
