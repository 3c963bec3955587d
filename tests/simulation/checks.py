"""The promises, checked after every event: what a supervisor must never do, and what it must have done by now."""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cause, Cluster, Group, Loader, Phase, Slot, Verdict, Worker, slot_names
from bkd.supervisor.reconcile import Plan, reconcile
from bkd.supervisor.rows import find

from .promise import Broken, Record, expect
from .rolling import RollChecks
from .surviving import SurvivalChecks
from .trial import eligible, on_trial
from .wearing import WearChecks

if TYPE_CHECKING:
    from .world import World

GATHERING = 0.5
PATIENCE = 5.0
HEARING = 1.0
SLACK = 0.05
ROUNDS = 12
MINUTE = 60.0
MOST_SPAWNS = 30
NO_TERM = frozenset({Verdict.STOPPED, Verdict.UNINTERRUPTIBLE})


class Checks:
    """Keeps its own record of what was done and compares it with what may be done."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.records: dict[int, Record] = defaultdict(Record)
        self.spawns: dict[str, deque[float]] = defaultdict(deque)
        self.scored: dict[str, float] = {}
        self.fresh: list[int] = []
        self.condemned: set[int] = set()
        self.unborn: set[int] = set()
        self.released: dict[str, float] = {}
        self.late = False
        self.most_rounds = 0
        self.rolls = RollChecks(world, self.records)
        self.wear = WearChecks(world)
        self.survival = SurvivalChecks(world)
        self._before: dict[type[actions.Action], Callable[[Any], None]] = {
            actions.Observe: self._there,
            actions.Warn: self._there,
            actions.Condemn: self._condemn,
            actions.Retire: self._retire,
            actions.Ask: self._ask,
            actions.Terminate: self._terminate,
            actions.Kill: self._kill,
            actions.GiveUp: self._give_up,
            actions.Spawn: self._spawn,
            actions.LoadRelease: self._load,
            actions.Leave: self._leave,
            actions.Wear: self.wear.wear,
        }

    # -- before an action is taken

    def action(self, action: actions.Action) -> None:
        """May this be done now?"""
        expect(not (self.late and self._judges(action)), f"{action} in a pass that started late")
        check = self._before.get(type(action))
        if check is not None:
            check(action)
        self.rolls.action(action)

    def taken(self, before: Cluster, action: actions.Action) -> None:
        """Has it changed what it should?"""
        self.rolls.taken(before, action)

    def _judges(self, action: actions.Action) -> bool:
        """Whether it follows from a limit that somebody did not keep."""
        closing = self.world.cluster.closing
        if isinstance(action, actions.Kill):
            record = self.records[action.worker]
            return not (record.verdict in NO_TERM or record.hasty or record.again or (closing and closing.hasty))
        if isinstance(action, actions.DropLoader):
            loader = self.world.cluster.groups[action.group].releases[action.release].loader
            needed = self.rolls.needed(self.world.cluster.groups[action.group], action.release)
            return needed and closing is None and loader in (Loader.LOADING, Loader.READY)
        if isinstance(action, actions.Condemn):
            return not self.world.machine.processes[action.worker].tripped
        if isinstance(action, actions.AbortRoll):
            group = self.world.cluster.groups[action.group]
            return group.roll is not None and not group.roll.fault and bool(eligible(group))
        return isinstance(action, actions.GiveUp | actions.Warn)

    def _there(self, action: Any) -> None:
        self._worker(action)

    def _worker(self, action: Any) -> tuple[Group, Slot, Worker]:
        place = find(self.world.cluster, action.worker)
        expect(place is not None, f"{action} for a worker that does not exist")
        assert place is not None
        if isinstance(action, actions.Ask | actions.Terminate | actions.Kill | actions.Observe):
            expect(place.worker.pid != 0, f"{action} for a worker without a process")
        return place

    def _condemn(self, action: actions.Condemn) -> None:
        group, slot, worker = self._worker(action)
        process = self.world.machine.processes[action.worker]
        now, kill = self.world.now, self.world.cluster.ping.kill
        expect(not slot.held, f"{action} in a held slot")
        expect(worker.ending is None, f"{action}, which is ending already")
        if process.alive and action.verdict == Verdict.SLOW_BOOT:
            expect(not (process.ready and process.connected), f"{action}, which is ready")
            expect(now - process.ordered >= group.settings.start_timeout, f"{action} before start_timeout")
        elif process.tripped:
            expect(not process.speaks, f"{action}, which has no watchdog of its own")
        elif process.alive:
            heartbeat = self.world.machine.period + SLACK
            hung = self.survival.silent_since(process)
            if hung is None or hung - process.recovered <= heartbeat:
                expect((hung or now) - process.recovered <= heartbeat, f"{action}, a healthy worker")
            else:
                early = kill - (now - max(hung, self.world.adopted))
                expect(early <= heartbeat, f"{action} {early:.3f} s too early")
            expect(not process.traced, f"{action}, a traced worker")
        record = self.records[action.worker]
        record.condemned, record.verdict = now, action.verdict
        self.fresh.append(action.worker)
        self.condemned.add(action.worker)

    def _retire(self, action: actions.Retire) -> None:
        _, slot, worker = self._worker(action)
        expect(worker.ending is None, f"{action}, which is ending already")
        expect(not slot.held or self.world.cluster.closing is not None or slot.retired, f"{action} in a held slot")

    def _ask(self, action: actions.Ask) -> None:
        *_, worker = self._worker(action)
        expect(worker.ending is not None and worker.ending.cause == Cause.PLANNED, f"{action} unplanned")
        expect(self.records[action.worker].asked is None, f"{action} again")
        self.records[action.worker].asked = self.world.now

    def _terminate(self, action: actions.Terminate) -> None:
        group, _, worker = self._worker(action)
        record, now = self.records[action.worker], self.world.now
        expect(record.termed is None, f"{action} again")
        if record.condemned is not None:
            expect(record.verdict not in NO_TERM, f"{action} to a {record.verdict} worker")
            expect(record.gathered or now >= record.condemned + GATHERING, f"{action} before the evidence")
        elif record.asked is not None:
            expect(now >= record.asked + group.settings.drain, f"{action} before `drain` has passed")
        else:
            expect(worker.phase == Phase.STARTING and worker.ending is not None, f"{action} without asking first")
        record.termed = now

    def _kill(self, action: actions.Kill) -> None:
        group, *_ = self._worker(action)
        record, now, closing = self.records[action.worker], self.world.now, self.world.cluster.closing
        expect(record.killed is None, f"{action} again")
        record.killed = now
        if record.hasty or (closing is not None and closing.hasty):
            return
        if record.condemned is not None and record.verdict in NO_TERM:
            expect(record.gathered or now >= record.condemned + GATHERING, f"{action} before the evidence")
        else:
            expect(record.termed is not None, f"{action} without SIGTERM first")
            expect(now >= (record.termed or 0.0) + group.settings.term, f"{action} before `term` has passed")

    def _give_up(self, action: actions.GiveUp) -> None:
        *_, worker = self._worker(action)
        record, now = self.records[action.worker], self.world.now
        expect(not record.given_up, f"{action} again")
        record.given_up = True
        if worker.pid:
            expect(record.killed is not None and now >= record.killed + PATIENCE, f"{action} too early")
            expect(self.world.machine.processes[action.worker].alive, f"{action}, which is dead")
        else:
            expect(now >= worker.ordered + PATIENCE, f"{action} too early")

    def _spawn(self, action: actions.Spawn) -> None:
        cluster = self.world.cluster
        group = cluster.groups[action.group]
        slot = group.slots[action.slot]
        expect(action.worker not in self.world.machine.processes, f"{action}: the number was used before")
        expect(not (slot.held or slot.retired), f"{action}: the slot is to be empty")
        expect(cluster.closing is None, f"{action} while stopping")
        self.unborn.add(action.worker)
        self.wear.spawn(action, group, slot)
        if action.fork:
            expect(group.releases[action.release].loader == Loader.READY, f"{action} without a zygote")
        if not on_trial(group, action.release):
            self._respawn(action, group, slot)

    def _respawn(self, action: actions.Spawn, group: Group, slot: Slot) -> None:
        """The past of a slot counts for everything but a release on trial."""
        now = self.world.now
        expect(not (slot.failed or slot.done), f"{action}: the slot is to be empty")
        expect(now >= slot.next_try, f"{action} {slot.next_try - now:.3f} s before its next try")
        expect(slot.next_try - slot.scored_at <= 30.0, f"{action}: waited for more than 30 s")
        if group.breaker.open_since is not None:
            rows = [row for s in group.slots.values() for row in s.staying if not on_trial(group, row.release)]
            trying = [row.slot for row in rows if row.phase == Phase.STARTING]
            expect(not trying, f"{action} while the breaker is open and {trying} tries")
        if slot.scored_at != self.scored.get(action.slot, 0.0):
            self._after_charge(action, slot)

    def _after_charge(self, action: actions.Spawn, slot: Slot) -> None:
        """Tries that follow charged deaths are bounded by back-off, whatever the jitter."""
        now, recent = self.world.now, self.spawns[action.slot]
        self.scored[action.slot] = slot.scored_at
        recent.append(now)
        while recent[0] <= now - MINUTE:
            recent.popleft()
        expect(len(recent) <= MOST_SPAWNS, f"{action}: {len(recent)} tries after charged deaths within a minute")

    def _load(self, action: actions.LoadRelease) -> None:
        there = (action.group, action.release) in self.world.machine.zygotes
        expect(not there, f"{action}: its zygote is there already")

    def _leave(self, action: actions.Leave) -> None:
        machine, closing = self.world.machine, self.world.cluster.closing
        expect(closing is not None, f"{action} without a stop")
        assert closing is not None
        left = [process.slot for process in machine.living() if process.known]
        expect(not left, f"{action}: {left} are still there")
        expect(not self.world.cluster.places, f"{action}: there are workers in the state")
        expect(not self.world.cluster.sweeps, f"{action}: nobody looked for leftovers")
        expect(not machine.zygotes, f"{action}: zygotes {list(machine.zygotes)} are still there")
        times = {number: max(record.killed or 0.0, record.killed_before) for number, record in self.records.items()}
        late = [number for number, at in times.items() if at >= closing.since]
        killed = any(machine.processes[number].code in (None, -9) for number in late)
        survived = any(not process.known for process in machine.living() if process.state == "D")
        expected = 1 if closing.survived or closing.code else 3 if killed else 0
        expect(action.code == expected, f"{action}: expected {expected}")
        expect(survived or not closing.survived, f"{action}: {closing.survived} survived, but they are gone")

    # -- after an event

    def applied(self, before: Cluster, event: events.Event, after: Cluster) -> None:
        """Is the state in order?"""
        if isinstance(event, events.Gathered):
            self.records[event.worker].gathered = True
        if isinstance(event, events.Swept):
            self.world.machine.sweeping.discard(event.worker)
        if isinstance(event, events.Held):
            self.released[event.slot] = self.world.now
        if isinstance(event, events.BecameReady | events.Spawned):
            self.survival.again_there(before, event, after)
        if isinstance(event, events.Exited | events.SpawnFailed):
            self._charge(before, event, after)
        if isinstance(event, events.Adopted):
            for record in (self.records[number] for number in after.places):
                record.again = record.again or record.killed is not None
                record.killed_before, record.killed = max(record.killed_before, record.killed or 0.0), None
            self.survival.adopted(before, after)
        for name, group in after.groups.items():
            if group is not before.groups.get(name):
                self._in_order(group)
        if after.places is not before.places:
            workers = {worker.id: slot.name for _, slot, worker in after.workers()}
            expect(workers == after.places, "the index of workers does not fit the slots")
        self.rolls.applied(before, event, after)

    def _in_order(self, group: Group) -> None:
        for slot in group.slots.values():
            if len(slot.workers) > 1 or slot.failed or slot.done:
                staying = slot.staying
                ids = [worker.id for worker in staying]
                expect(len(ids) <= 2, f"{slot.name} has too many workers: {ids}")
                alone = group.roll is None and len(ids) == 1 and staying[0].release == group.current
                expect(
                    not (slot.done and alone and not staying[0].stale), f"{slot.name} is done, but there is a worker"
                )

    def _charge(self, before: Cluster, event: events.Exited | events.SpawnFailed, after: Cluster) -> None:
        """Planned exits are never charged, hangs not a second time, deaths on trial to the roll; and delays jitter."""
        place = find(before, event.worker)
        now = after.groups[place.group.name].slots.get(place.slot.name) if place is not None else None
        if place is None or now is None:
            return
        was, trial = place.slot, on_trial(place.group, place.worker.release)
        other = place.worker.release != place.group.current
        if place.worker.ending is not None or trial or other:
            same = (now.score, now.charged, now.next_try, now.failed)
            expect(same == (was.score, was.charged, was.next_try, was.failed), f"{event} was charged to its slot")
        elif now.charged != was.charged:
            bound = min(30.0, 0.1 * 2.0**now.score) * event.chance + SLACK
            expect(now.next_try - self.world.now <= bound, f"{event}: the next try is not drawn by chance")

    def unchanged(self, encoded: bytes, before: Cluster, event: events.Event) -> None:
        """`apply` must leave its argument alone."""
        expect(msgspec.msgpack.encode(before) == encoded, f"apply changed its argument on {event}")

    # -- after a turn

    def turn(self, rounds: int, plan: Plan) -> None:
        """Was everything done that had to be done by now, and will it wake in time?"""
        self.most_rounds = max(self.most_rounds, rounds)
        expect(rounds <= ROUNDS, f"{rounds} rounds in one turn")
        expect(plan.wake > self.world.now, "it wakes at once, with nothing to do")
        for worker in self.fresh:
            self._replaced(worker)
        self.fresh.clear()
        for process in self.world.machine.living():
            if process.known and (process.hung is not None or process.worker in self.condemned):
                self._ended_in_time(process.worker)
        for number in list(self.unborn):
            self._born_in_time(number)
        self.rolls.turn()
        self.survival.turn()

    def awake(self, plan: Plan) -> None:
        """Between two turns there is nothing to do."""
        now = self.world.now
        limit = min(plan.wake, now + 100.0)
        at = now + self.world.random.uniform(0.0, 0.999) * (limit - now)
        missed = reconcile(self.world.cluster, at).actions if at < plan.wake else []
        expect(not missed, f"it sleeps until {plan.wake:.3f}, but at {at:.3f} there is {missed}")

    def _replaced(self, worker: int) -> None:
        """A hung worker's slot has its replacement at once unless the state says why not."""
        place = find(self.world.cluster, worker)
        if place is None or place.slot.active is not None or self._reason(place.group, place.slot):
            return
        raise Broken(f"{place.slot.name} was not replaced when its worker was given up")

    def _reason(self, group: Group, slot: Slot) -> str:
        """Why a slot has no worker, as the state tells it."""
        if self.world.cluster.closing is not None or slot.retired or slot.held or slot.failed or slot.done:
            return "it is to have none"
        if slot.next_try > self.world.now:
            return "back-off"
        if any(row.ending and row.ending.hasty for row in slot.workers) or not group.settings.max_surge:
            return "the old one goes first"
        if group.breaker.open_since is not None:
            return "breaker"
        if not group.releases[self.rolls.wanted(group, slot)].loaded:
            return "no zygote"
        return ""

    def _born_in_time(self, number: int) -> None:
        """An order that is not answered has been given up, with the zygote that it was given to."""
        place, now = find(self.world.cluster, number), self.world.now
        if place is None or place.worker.pid:
            self.unborn.discard(number)
            return
        since = max(place.worker.ordered, self.world.cluster.judged_from, self.world.resumed)
        waited = now - since - PATIENCE - HEARING
        expect(
            waited <= SLACK,
            f"the order of {place.slot.name} (worker {number}) was not answered for {waited:.3f} s too long",
        )

    def _ended_in_time(self, number: int) -> None:
        """The hung are given up in time, and gone in time once given up."""
        place = find(self.world.cluster, number)
        if place is None:
            return
        record, process, now = self.records[number], self.world.machine.processes[number], self.world.now
        begun = max(record.condemned or 0.0, self.world.cluster.judged_from, self.world.resumed)
        limit = begun + GATHERING + place.group.settings.term + SLACK
        if record.condemned is not None and process.state != "D":
            expect(
                now <= limit, f"{place.slot.name} (worker {number}) is not gone {now - begun:.3f} s after its end began"
            )
        exempt = process.starved or process.traced or place.slot.held or place.worker.ending or not place.worker.watched
        if exempt or process.hung is None or not self.world.cluster.ping.kill:
            return
        if process.hung - process.recovered <= self.world.machine.period + SLACK:
            return
        released = max(self.released.get(process.slot, 0.0), process.heard)
        judged = max(self.world.cluster.judged_from, self.world.resumed, released)
        since = max(process.hung, judged)
        late = now - since - self.world.cluster.ping.kill
        expect(late <= SLACK, f"{place.slot.name} (worker {number}) hangs {late:.3f} s longer than ping.kill")

    # -- when the faults have stopped

    def settled(self) -> None:
        """What is, is what is wanted, or the reason is in the state."""
        for group in self.world.cluster.groups.values():
            expect(not group.leaving, f"{group.name} is still there")
            wanted = slot_names(group.name, group.count)
            expect(sorted(group.slots) == sorted(wanted), f"slots {sorted(group.slots)}, wanted {wanted}")
            trying = any(not (slot.failed or slot.done) for slot in group.slots.values())
            expect(group.breaker.open_since is None or not trying, f"the breaker of {group.name} is still open")
            for slot in group.slots.values():
                self._at_rest(group, slot)
            self.rolls.settled(group)
        self.survival.settled()

    def _at_rest(self, group: Group, slot: Slot) -> None:
        if group.settings.max_lifetime:
            return
        expect(slot.serves or bool(slot.failed or slot.done), f"{slot.name} is not up: {slot}")
        expect(len(slot.workers) <= 1, f"{slot.name} still has {len(slot.workers)} workers")
        blocked = bool(slot.failed)
        worn = any(worker.stale for worker in slot.workers)
        expect(blocked or not worn, f"{slot.name} still has a worn worker")
