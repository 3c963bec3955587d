"""The promises about releases: how a group comes onto a new one, and back. Checked with a record of their own."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Cause, Cluster, Group, Loader, Phase, Roll, Slot, Stage, Worker
from bkd.supervisor.death import CHARGED
from bkd.supervisor.rows import find

from .promise import Record, expect
from .trial import RollKey, eligible, key, on_trial, stalls

if TYPE_CHECKING:
    from .world import World

NOT_MOVED = (Stage.LOADING, Stage.CANARY)
BACK = 30.0
SERVED = (Loader.LOADING, Loader.READY)


class RollChecks:
    """`live`: the release each group should be on; `asks`: how often a roll of it was asked for; `doomed`: the rolls
    against which something speaks."""

    def __init__(self, world: "World", records: dict[int, Record]) -> None:
        self.world, self.records = world, records
        self.live: dict[str, int] = defaultdict(lambda: 1)
        self.asks: Counter[str] = Counter()
        self.dropped: dict[str, int] = defaultdict(int)
        self.doomed: set[RollKey] = set()
        self.kills: Counter[tuple[RollKey, str]] = Counter()
        self.prints: dict[tuple[str, int], str] = {}

    # -- before an action is taken

    def action(self, action: actions.Action) -> None:
        """May this be done to a release now?"""
        match action:
            case actions.Spawn():
                self._spawn(action)
            case actions.Retire():
                self._retire(action)
            case actions.Admit():
                self._admit(action)
            case actions.AdvanceRoll():
                self._advance(action)
            case actions.AbortRoll():
                self._abort(action)
            case actions.FinishRoll():
                self._finish(action)
            case actions.DropLoader():
                self._drop(action)
            case actions.ForgetRelease():
                self._forget(action)
            case actions.BeginRoll():
                self._inherit(action)

    def _group(self, name: str) -> Group:
        return self.world.cluster.groups[name]

    def _inherit(self, action: actions.BeginRoll) -> None:
        """What cannot be loaded again serves for as long as it lives."""
        group = self._group(action.group)
        expect(bool(group.release.lost) and group.roll is None, f"{action}, which nobody asked for")
        whole = [slot for slot in eligible(group) if any(not row.stale for row in slot.staying)]
        expect(len(whole) < len(eligible(group)), f"{action}, but every slot has its worker")

    def _roll(self, action: actions.AdvanceRoll | actions.AbortRoll | actions.FinishRoll) -> tuple[Group, Roll]:
        group = self._group(action.group)
        expect(group.roll is not None, f"{action}, but there is no roll")
        assert group.roll is not None
        return group, group.roll

    def wanted(self, group: Group, slot: Slot) -> int:
        """The release that this slot is to have."""
        roll = group.roll
        on_new = roll is not None and roll.stage == Stage.CANARY and roll.canary == slot.name
        return roll.new if roll is not None and on_new else self.live[group.name]

    def _spawn(self, action: actions.Spawn) -> None:
        group = self._group(action.group)
        slot, roll = group.slots[action.slot], group.roll
        zygote = self.world.machine.zygotes.get((action.group, action.release))
        if action.fork and zygote is not None:
            made = self.prints.setdefault((action.group, action.release), zygote.prints)
            expect(made == zygote.prints, f"{action}: its zygote has imported {zygote.prints}, the others {made}")
        wanted, staying = self.wanted(group, slot), slot.staying
        covered = action.release == group.current and not any(worker.release == group.current for worker in staying)
        expect(action.release == wanted or (covered and bool(staying)), f"{action}: the slot is to have {wanted}")
        if roll is not None and roll.stage in NOT_MOVED and action.release == roll.new:
            expect(slot.name == roll.canary, f"{action}: the canary is {roll.canary or 'nobody'}")
        trial = roll is not None and roll.stage == Stage.CANARY and action.release == roll.new
        expect(trial or not action.quiet, f"{action}, which is no canary")
        right = [worker for worker in staying if worker.release == action.release and not worker.stale]
        expect(not right, f"{action}: worker {right[0].id if right else 0} is there")
        if staying:
            self._second(action, group, slot)

    def _second(self, action: actions.Spawn, group: Group, slot: Slot) -> None:
        surge, roll = group.settings.max_surge, group.roll
        most = surge if roll is not None or not surge else max(1, group.count // 10)
        two = sum(1 for row in eligible(group) if len(row.staying) > 1 and row is not slot) + 1
        expect(two <= most, f"{action}: {two} slots with two workers, at most {most}")

    def _retire(self, action: actions.Retire) -> None:
        place = find(self.world.cluster, action.worker)
        assert place is not None
        group, slot, worker = place
        if self.world.cluster.closing is not None or slot.retired:
            return
        roll, wanted = group.roll, self.wanted(group, slot)
        expect(worker.release != wanted or bool(worker.stale), f"{action} for no reason")
        if action.hasty:
            hard = roll is not None and roll.wanted.hard and roll.stage == Stage.ROLLING
            expect(hard and worker.release != wanted, f"{action}: nobody wanted it killed")
            self.records[action.worker].hasty = True
            return
        if roll is not None and roll.fault and roll.stage != Stage.ABORTING and worker.release == roll.old:
            expect(bool(worker.stale), f"{action} for a release that has failed")
        if worker.phase == Phase.READY:
            self._may_miss(action, group, slot, worker)
            self._keeps_canary_company(action, group, slot, worker)

    def _admit(self, action: actions.Admit) -> None:
        place = find(self.world.cluster, action.worker)
        assert place is not None
        expect(place.worker.quiet and place.worker.phase == Phase.READY, f"{action}: it takes work already, or cannot")

    def _may_miss(self, action: actions.Retire, group: Group, slot: Slot, worker: Worker) -> None:
        serving = [row for row in slot.staying if row.phase == Phase.READY and not row.quiet and row is not worker]
        if not (serving or slot.done or slot.failed):
            down = sum(1 for row in eligible(group) if not (row.done or row.failed) and (row is slot or not row.serves))
            most = group.settings.max_unavailable
            expect(down <= most, f"{action}: {down} slots without a worker, at most {most}")
        rows = [row for each in group.slots.values() for row in each.workers if row.phase != Phase.STARTING]
        draining = 1 + sum(1 for row in rows if self._drains(row))
        most = max(2, group.count // 4)
        expect(draining <= most, f"{action}: {draining} drain at once, at most {most}")

    def _drains(self, worker: Worker) -> bool:
        ending = worker.ending
        return ending is not None and ending.cause == Cause.PLANNED and not ending.hasty

    def _keeps_canary_company(self, action: actions.Retire, group: Group, slot: Slot, worker: Worker) -> None:
        roll = group.roll
        if roll is None or roll.stage != Stage.CANARY or roll.canary != slot.name or worker.release != group.current:
            return
        if group.settings.max_surge:
            new = [row for row in slot.staying if row.release == roll.new]
            long = any(self._lived(group, row) for row in new)
            expect(long or bool(worker.stale), f"{action} before the canary was ready for long enough")

    def _lived(self, group: Group, worker: Worker) -> bool:
        """Whether it has stayed ready for as long as a new release has to."""
        ready, quick = self.records[worker.id].ready, group.roll is not None and group.roll.wanted.quick
        long = 0.0 if quick else group.settings.min_ready
        return ready is not None and self.world.now >= ready + long

    def _advance(self, action: actions.AdvanceRoll) -> None:
        group, roll = self._roll(action)
        expect(not roll.fault, f"{action} of a roll that has failed: {roll.fault}")
        release, slots = group.releases[roll.new], eligible(group)
        expect(release.loaded or not slots or roll.stage not in NOT_MOVED, f"{action} onto what is not loaded")
        if action.stage == Stage.CANARY:
            expect(action.canary in [slot.name for slot in slots], f"{action}: that slot cannot go first")
        elif action.stage == Stage.SETTLING:
            for slot in slots:
                self._arrived(action, group, slot, roll)
        elif roll.stage == Stage.LOADING:
            expect(roll.new < roll.old or roll.wanted.hard or not slots, f"{action} without a canary")
        elif slots:
            canary = group.slots[roll.canary]
            new = [row for row in canary.staying if row.release == roll.new and row.phase == Phase.READY]
            long = any(self._lived(group, row) for row in new)
            expect(long or self._finished(canary, roll), f"{action} before the canary was ready for long enough")

    def _arrived(self, action: actions.Action, group: Group, slot: Slot, roll: Roll) -> None:
        rows = slot.staying
        expect(bool(rows) or self._finished(slot, roll), f"{action}: {slot.name} has no worker")
        behind = [row.id for row in rows if row.release != roll.new or row.phase != Phase.READY]
        expect(not behind, f"{action}: {slot.name} has still {behind}")

    def _finished(self, slot: Slot, roll: Roll) -> bool:
        return slot.done and slot.done_by == roll.new

    def _abort(self, action: actions.AbortRoll) -> None:
        group, roll = self._roll(action)
        lost = key(group.name, roll) in self.doomed
        stalled = any(stalls(group, row, self.world.now) for slot in eligible(group) for row in slot.staying)
        expect(lost or stalled or not eligible(group), f"{action}: nothing speaks against it ({roll.fault})")

    def _finish(self, action: actions.FinishRoll) -> None:
        group, roll = self._roll(action)
        if roll.stage == Stage.ABORTING:
            self._back(action, group, roll)
            return
        expect(roll.stage == Stage.SETTLING and not roll.fault, f"{action} in stage {roll.stage}: {roll.fault}")
        for slot in eligible(group):
            self._arrived(action, group, slot, roll)
            expect(all(self._lived(group, row) for row in slot.staying), f"{action} before {slot.name} has settled")
        left = [
            row for slot in group.slots.values() if not slot.held for row in slot.workers if row.release != roll.new
        ]
        expect(not left, f"{action}: {[row.id for row in left]} are of another release")

    def _back(self, action: actions.FinishRoll, group: Group, roll: Roll) -> None:
        settings = group.settings
        late = roll.stage_at + settings.start_timeout + settings.drain + settings.term + BACK
        left = [row.id for slot in eligible(group) for row in slot.workers if row.release == roll.new]
        nowhere = bool(group.release.lost)
        expect(nowhere or not left or self.world.now >= late, f"{action}: {left} are still of the release that failed")

    def _drop(self, action: actions.DropLoader) -> None:
        """What is needed is ended only when it does not answer or does not come up."""
        group = self._group(action.group)
        release = group.releases[action.release]
        if self.world.cluster.closing is not None or release.loader not in SERVED:
            return
        zygote = self.world.machine.started[group.name, release.number]
        overdue = release.loader == Loader.LOADING and self.world.now >= release.since + group.settings.start_timeout
        mute = zygote.wedged or not zygote.connected
        expect(mute or overdue or not self.needed(group, release.number), f"{action}, which is needed")

    def needed(self, group: Group, number: int) -> bool:
        """Whether workers may have to be started from this release."""
        roll = group.roll
        if group.leaving:
            return any(slot.staying for slot in group.slots.values()) and number == group.current
        if roll is None:
            return number == group.current
        return number == roll.old or (number == roll.new and (roll.stage != Stage.ABORTING or roll.new < roll.old))

    def _forget(self, action: actions.ForgetRelease) -> None:
        group = self._group(action.group)
        there = (action.group, action.release) in self.world.machine.zygotes
        used = [row.id for slot in group.slots.values() for row in slot.workers if row.release == action.release]
        expect(not there and not used and action.release != group.current, f"{action}, which is in use")

    # -- after an action or an event

    def taken(self, before: Cluster, action: actions.Action) -> None:
        """Is every group on the release that it should be on, and is what was asked for kept in mind?"""
        if isinstance(action, actions.AdvanceRoll | actions.AbortRoll):
            roll = before.groups[action.group].roll
            assert roll is not None
            if isinstance(action, actions.AbortRoll):
                self.live[action.group] = roll.old
            elif action.stage == Stage.ROLLING:
                self.live[action.group] = roll.new
        elif isinstance(action, actions.FinishRoll):
            self._over(before.groups[action.group], self._group(action.group))
        elif isinstance(action, actions.Condemn):
            self._hangs(before, action)
        elif isinstance(action, actions.DropLoader):
            group = before.groups[action.group]
            if on_trial(group, action.release) and group.releases[action.release].loader in SERVED:
                self._doom(group)
        elif isinstance(action, actions.ForgetGroup):
            self._gone(action.group)
        for name, group in self.world.cluster.groups.items():
            live = self.live[name]
            expect(group.current == live, f"{name} is on release {group.current} and should be on {live}")

    def _gone(self, group: str) -> None:
        del self.asks[group]
        self.live.pop(group, None)
        self.dropped.pop(group, None)
        self.prints = {made: prints for made, prints in self.prints.items() if made[0] != group}
        self.doomed = {doomed for doomed in self.doomed if doomed[0] != group}
        self.kills = Counter({kill: times for kill, times in self.kills.items() if kill[0][0] != group})

    def _over(self, before: Group, after: Group) -> None:
        roll, outcome = before.roll, after.outcome
        assert roll is not None
        expect(outcome is not None and outcome.release == roll.new, f"{after.name}: a roll without an outcome")
        assert outcome is not None
        expect(outcome.done == (roll.stage != Stage.ABORTING), f"{after.name}: {outcome} tells a lie")
        newest = self.asks[after.name]
        if newest > max(roll.wanted.ticket, self.dropped[after.name]):
            begun = after.roll is not None and after.roll.wanted.ticket == newest
            expect(begun, f"{after.name}: request {newest} was forgotten")
        else:
            expect(outcome.ticket >= newest, f"{after.name}: request {newest} has no outcome")

    def _doom(self, group: Group) -> None:
        if group.roll is not None:
            self.doomed.add(key(group.name, group.roll))

    def _hangs(self, before: Cluster, action: actions.Condemn) -> None:
        place = find(before, action.worker)
        if place is not None and on_trial(place.group, place.worker.release):
            self._doom(place.group)

    def applied(self, before: Cluster, event: events.Event, after: Cluster) -> None:
        """What speaks against a roll, and what was asked for."""
        match event:
            case events.BecameReady():
                self._ready(event)
            case events.Exited() | events.SpawnFailed():
                self._ended(before, event, after)
            case events.LoaderFailed() | events.LoaderGone():
                group = before.groups.get(event.group)
                known = group is not None and event.release in group.releases
                if group is not None and known and on_trial(group, event.release):
                    self._doom(group)
            case events.RollAsked() if event.group in before.groups and before.closing is None:
                self._asked(before.groups[event.group], after.groups[event.group])
            case events.RollCalledOff() if event.group in before.groups:
                self._called_off(before.groups[event.group])
            case events.Replaced():
                self._replaced(event)

    def _ready(self, event: events.BecameReady) -> None:
        record = self.records[event.worker]
        if record.ready is None:
            record.ready = self.world.now

    def _ended(self, before: Cluster, event: events.Exited | events.SpawnFailed, after: Cluster) -> None:
        place = find(before, event.worker)
        if place is None or place.worker.ending is not None or not on_trial(place.group, place.worker.release):
            return
        if isinstance(event, events.SpawnFailed):
            if not event.blameless:
                self._doom(place.group)
            return
        slot = after.groups[place.group.name].slots.get(place.slot.name)
        end = slot.last_exit if slot is not None else None
        if end is None:
            return
        if end.cause == Cause.OUTSIDE and place.group.roll is not None:
            self.kills[key(place.group.name, place.group.roll), place.slot.name] += 1
        twice = end.cause == Cause.OUTSIDE and self._kills(place.group, place.slot) > 1
        unproven = place.worker.phase == Phase.STARTING and place.group.settings.kind == "web"
        if end.cause in CHARGED or twice or (end.cause == Cause.FINISHED and unproven):
            self._doom(place.group)

    def _kills(self, group: Group, slot: Slot) -> int:
        return self.kills[key(group.name, group.roll), slot.name] if group.roll is not None else 0

    def _asked(self, before: Group, after: Group) -> None:
        self.asks[before.name] += 1
        newest = self.asks[before.name]
        at_once = before.roll is None or before.roll.stage in NOT_MOVED
        kept = after.roll.wanted if at_once and after.roll is not None else after.queued
        refused = after.outcome is not None and after.outcome.ticket == newest and not after.outcome.done
        expect(
            refused or (kept is not None and kept.ticket == newest), f"{before.name}: request {newest} was not taken"
        )

    def _called_off(self, group: Group) -> None:
        if group.roll is not None:
            self._doom(group)
            self.dropped[group.name] = self.asks[group.name]

    def _replaced(self, event: events.Replaced) -> None:
        slots = [slot for _, slot in self.world.cluster.slots() if slot.name == event.slot]
        for worker in slots[0].workers if slots else ():
            if worker.ending is not None and worker.ending.hasty:
                self.records[worker.id].hasty = True

    # -- after a turn

    def turn(self) -> None:
        """Nothing goes on that has failed, and nobody waits for what will not come."""
        closing = self.world.cluster.closing is not None
        for group in self.world.cluster.groups.values():
            roll = group.roll
            self._quiet(group)
            if roll is None:
                expect(group.queued is None, f"{group.name}: what is queued does not begin")
                continue
            expect(not closing, f"{group.name} rolls while the cluster stops")
            lost = key(group.name, roll) in self.doomed and roll.stage != Stage.ABORTING
            expect(not lost, f"{group.name} goes on with a release that has failed")

    def _quiet(self, group: Group) -> None:
        """Without work is nobody who could do some but the canary."""
        roll = group.roll
        canary = roll.canary if roll is not None and roll.stage == Stage.CANARY else ""
        for slot in group.slots.values():
            idle = [row for row in slot.staying if row.quiet and row.phase == Phase.READY]
            right = slot.name == canary and roll is not None and all(row.release == roll.new for row in idle)
            expect(not idle or (right and len(idle) == 1), f"{slot.name}: {[row.id for row in idle]} get no work")

    def settled(self, group: Group) -> None:
        """Every roll is over, everybody who asked has an outcome, and nobody has a release that is not needed."""
        expect(group.roll is None, f"{group.name} still rolls: {group.roll}")
        newest = self.asks[group.name]
        told = group.outcome.ticket if group.outcome is not None else 0
        expect(told >= newest, f"{group.name}: request {newest} has no outcome, only {told}")
        for slot in group.slots.values():
            behind = [row.id for row in slot.workers if row.release != group.current]
            expect(not behind or bool(group.release.lost), f"{slot.name}: {behind} are not of release {group.current}")
        used = {row.release for slot in group.slots.values() for row in slot.workers} - {group.current}
        most = 1 + group.settings.keep_releases + bool(group.heir) + len(used)
        expect(len(group.releases) <= most, f"{group.name} keeps {sorted(group.releases)}, at most {most}")
        loaded = [number for name, number in self.world.machine.zygotes if name == group.name]
        expect(set(loaded) <= set(group.releases), f"{group.name} keeps zygotes of {loaded}")
