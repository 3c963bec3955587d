"""A master of the fake fleet: issues rollouts, takes its turn in them, dies and comes back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bkd.ipc.errors import BkdError
from bkd.supervisor.bus import rollout as rollouts
from bkd.supervisor.bus import rollouts_index as indexes
from bkd.supervisor.bus.outcome import outcome
from bkd.supervisor.bus.rollout import PATIENCE, RENEWAL, UNKNOWN, Over, Permit, Rollout, State, Wait
from bkd.supervisor.bus.rollouts_index import Held, Index

from .ledger import SKEW, undone
from .promise import expect

if TYPE_CHECKING:
    from .fleet import Fleet

Step = tuple[Rollout, str, bool, Callable[[], None]]  # the document, what was wanted, whether it counts, what follows
LONGEST_WORK = 40.0
EARLY = 0.001


@dataclass
class Part:
    """This host's part in one rollout. On disk: `fence` of the permit it began under, when its work `ends`, `over`. In
    memory: `seen`, the last document; when the next `renewal` is due; `looking`: a change is under way, `again`: look
    once more after it; `answered` the command; `cut`: it works on without its document."""

    id: str
    willing: bool
    ok: bool
    takes: float
    fence: int = 0
    ends: float = 0.0
    renewal: float = 0.0
    over: str = ""
    seen: Rollout | None = None
    looking: bool = False
    again: bool = False
    cut: bool = False
    answered: bool = False


@dataclass
class Member:
    """One host. `life` grows with each death: what an earlier life had in hand is dropped; `doomed`: it dies over the
    next rollout that it issues."""

    fleet: "Fleet"
    name: str
    alive: bool = True
    life: int = 0
    slow: float = 1.0
    paused: float = 0.0
    cursor: int = 0
    doomed: bool = False
    parts: dict[str, Part] = field(default_factory=dict)
    skew: float = 0.0

    def __post_init__(self) -> None:
        self.skew = self.fleet.random.uniform(-SKEW / 2, SKEW / 2)

    @property
    def clock(self) -> float:
        """The bus's time, as this host has it."""
        return self.fleet.now + self.skew

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return all(part.over for part in self.parts.values())

    @property
    def is_working(self) -> bool:
        """Whether it is in the middle of a rollout."""
        return any(part.fence and not part.over for part in self.parts.values())

    def unfinished(self) -> list[Part]:
        """What it still has to do."""
        return [part for part in self.parts.values() if not part.over]

    # -- dying, and what is slow

    def die(self, seconds: float) -> None:
        """The master is gone for a while; the work that it began goes on."""
        if self.alive:
            self.alive, self.doomed = False, False
            self.life += 1
            self.fleet.after(seconds, self.recover)

    def recover(self) -> None:
        """It is there, well, and reads what it missed."""
        self.slow, self.paused = 1.0, 0.0
        if self.alive:
            return
        self.life += 1
        self.alive = True
        for part in self.parts.values():
            part.seen, part.looking, part.cut, part.renewal = None, False, False, 0.0
            self.look(part)
        self.hear()

    def soon(self, seconds: float, call: Callable[[], None]) -> None:
        """Call later, if it is still the same life then; a host that stands still does it when it goes on."""
        life = self.life

        def turn() -> None:
            if self.life != life or not self.alive:
                return
            if self.paused > self.fleet.now:
                self.fleet.after(self.paused - self.fleet.now, turn)
                return
            call()

        self.fleet.after(seconds, turn)

    def travel(self) -> float:
        """Seconds from here to the bus."""
        return min(5.0, self.fleet.random.uniform(0.001, 0.05) * self.slow)

    # -- commands

    def hear(self) -> None:
        """The bell of the commands."""
        self.soon(self.travel(), self._read)

    def _read(self) -> None:
        random = self.fleet.random
        for id, hosts in self.fleet.commands[self.cursor :]:
            if self.name in hosts and id not in self.parts:
                takes = random.uniform(0.5, LONGEST_WORK)
                failing = self.fleet.failing
                part = Part(id, random.random() > failing / 2, random.random() > failing, takes)
                self.parts[id] = part
                self.look(part)
        self.cursor = len(self.fleet.commands)

    # -- taking turns

    def ring(self, id: str) -> None:
        """The document has changed."""
        part = self.parts.get(id)
        if part is not None and self.alive and not part.over and self.fleet.random.random() > self.fleet.losses:
            self.soon(self.travel(), lambda: self.look(part))

    def look(self, part: Part) -> None:
        """Read the document and do what it takes."""
        if part.over or not self.alive:
            return
        if part.looking:
            part.again = True
            return
        try:
            document = self.fleet.get(part.id)
        except BkdError:
            self.soon(self.fleet.random.uniform(0.2, 1.0), lambda: self.look(part))
            return
        self._step(part, document)

    def _step(self, part: Part, document: Rollout | None) -> None:
        if document is None or part.cut:
            self._go_on_alone(part)
            return
        if part.seen is not None and document != part.seen and not rollouts.newer(part.seen, document):
            self.fleet.actions["older refused"] += 1
            changed, refused = rollouts.abort(document, f"{self.name}: an older document was played back", self.clock)
            step: Step = (changed, "abort", not refused, lambda: self._go_on_alone(part))
        else:
            taken_back = undone(part.seen, document) if part.seen is not None else []
            expect(not taken_back, f"{self.name} believes that {taken_back} have not begun")
            part.seen = document
            step = self._wanted(part, document)
        self._write(part, document, step)

    def _wanted(self, part: Part, document: Rollout) -> Step:
        if part.fence and self.fleet.now >= part.ends:
            kind = "finish" if part.ok else "fail"
            changed = rollouts.finish(document, self.name, part.fence, part.ok, "", self.clock)
            return changed.rollout, kind, not changed.refused, lambda: self._end(part)
        if part.fence and self.fleet.now < part.renewal - EARLY:
            return document, "watch", True, lambda: None
        if part.fence:
            changed = rollouts.renew(document, self.name, part.fence, self.clock)
            return changed.rollout, "renew", not changed.refused, lambda: self._renewed(part, changed.refused)
        if not part.willing:
            changed = rollouts.refuse(document, self.name, self.clock, "not here")
            return changed.rollout, "refuse", not changed.refused, lambda: self._refused(part)
        if not part.answered:
            part.answered = True
            changed = rollouts.accept(document, self.name, self.clock)
            return changed.rollout, "accept", not changed.refused, lambda: self.look(part)
        claimed = rollouts.claim(document, self.name, self.clock)
        past = isinstance(claimed.answer, Wait) and claimed.answer.until <= self.clock
        expect(not past, f"{self.name} is to wait for the past")
        counted = not isinstance(claimed.answer, Over)
        return claimed.rollout, "claim", counted, lambda: self._answered(part, claimed.answer)

    def _write(self, part: Part, document: Rollout, step: Step) -> None:
        changed, kind, counted, then = step
        self.fleet.events[kind] += 1
        if changed is document:
            then()
            return
        made, part.looking = self.fleet.now, True

        def land() -> None:
            try:
                landed = self.fleet.swap(document, changed, kind, self.name, counted, made)
            except BkdError:
                self.fleet.actions["swap unanswered"] += 1
                self.soon(self.fleet.random.uniform(0.2, 2.0), lambda: finish(False))
                return
            self.soon(self.travel(), lambda: finish(landed))

        def finish(landed: bool) -> None:
            part.looking = False
            again, part.again = part.again, False
            if landed:
                part.seen = changed if part.seen is document else part.seen
                if rollouts.is_over(changed):
                    self._strike_off(changed)
                then()
            if again or not landed:
                self.soon(self.travel(), lambda: self.look(part))

        self.soon(self.travel(), land)

    def _answered(self, part: Part, answer: Permit | Wait | Over) -> None:
        if isinstance(answer, Over):
            part.over = answer.state
        elif isinstance(answer, Wait):
            self.soon(max(0.01, answer.until - self.clock), lambda: self.look(part))
        elif self.clock < answer.until:
            self._begin(part, answer)
        else:
            self.soon(self.travel(), lambda: self.look(part))

    def _begin(self, part: Part, permit: Permit) -> None:
        expect(part.fence == 0, f"{self.name} has begun already")
        part.fence, part.ends = permit.fence, self.fleet.now + part.takes
        self.fleet.ledgers[part.id].begins(self.name, permit.fence, self.fleet.now, permit.until)
        self.fleet.actions["begun again" if permit.again else "begun"] += 1
        self._renewed(part, "")

    def _renewed(self, part: Part, refused: str) -> None:
        if refused:
            part.cut = True
            self._go_on_alone(part)
            return
        part.renewal = max(self.fleet.now, min(self.fleet.now + RENEWAL, part.ends))
        self.soon(part.renewal - self.fleet.now, lambda: self.look(part))

    def _refused(self, part: Part) -> None:
        part.over = "refused"

    def _end(self, part: Part) -> None:
        part.over = "done" if part.ok else "failed"

    def _go_on_alone(self, part: Part) -> None:
        """Without a document: who has not begun does not begin any more, who has comes to its end."""
        if part.fence and self.fleet.now < part.ends:
            part.cut = True
            self.soon(part.ends - self.fleet.now, lambda: self.look(part))
            return
        if part.seen is not None and not part.fence:
            turn = rollouts.find(rollouts.lost(part.seen, self.clock), self.name)
            open_before = rollouts.find(part.seen, self.name)
            expect(turn is not None and turn.state not in (State.WAITING, State.ACCEPTED), "it waits for ever")
            if open_before is not None and open_before.state == State.ACCEPTED and turn is not None:
                self.fleet.actions["unknown"] += turn.reason == UNKNOWN
        part.over = "done" if part.fence and part.ok else "failed"

    # -- operating

    def issue(self, groups: tuple[str, ...]) -> None:
        """An operator here begins a rollout."""
        if not self.alive:
            return
        random = self.fleet.random
        hosts = [member.name for member in self.fleet.members if random.random() < 0.9] or [self.name]
        batch = rollouts.batch_of(random.choice(("1", "1", "2", "50%", "3")), len(hosts))
        rollout = rollouts.begin(
            f"{random.getrandbits(96):024x}",
            hosts,
            verb="restart",
            groups=groups,
            issuer=f"ann@{self.name}",
            now=self.clock,
            batch=batch,
            max_fail=random.choice((0, 0, 1, 3)),
        )
        self.soon(self.travel(), lambda: self._enter(rollout))

    def _enter(self, rollout: Rollout) -> None:
        self.fleet.events["enter"] += 1
        row = indexes.row_of(rollout)
        try:
            read = self.fleet.read_index()
            index = read or Index()
            rivals = [rival.id for rival in indexes.rivals(index, row)]
            live = [id for id in rivals if indexes.is_live(self.fleet.get(id), self.clock)]
        except BkdError:
            return
        entered = indexes.enter(index, row, live, self.clock)
        if isinstance(entered, Held):
            self.fleet.actions["held"] += 1
            return

        def land() -> None:
            try:
                landed = self.fleet.swap_index(read, entered)
            except BkdError:
                landed = False
            if landed:
                self.soon(self.travel(), lambda: self._create(rollout))

        self.soon(self.travel(), land)

    def _create(self, rollout: Rollout) -> None:
        if self.clock >= rollout.issued + PATIENCE:
            self.fleet.actions["issued too late"] += 1
            return
        try:
            self.fleet.create(rollout)
        except BkdError:
            return
        self.fleet.actions["issued"] += 1
        self._meet_doom()
        self.soon(self.travel(), lambda: self._command(rollout))

    def _command(self, rollout: Rollout) -> None:
        try:
            self.fleet.command(rollout)
        except BkdError:
            self.fleet.actions["command lost"] += 1
        self._meet_doom()

    def _meet_doom(self) -> None:
        if self.doomed and self.fleet.random.random() < 0.7:
            self.fleet.actions["issuer died"] += 1
            self.die(200.0)

    def abort(self, id: str) -> None:
        """An operator here has had enough of it."""
        try:
            document = self.fleet.get(id)
        except BkdError:
            return
        if document is None:
            return
        changed, refused = rollouts.abort(document, f"bob@{self.name}", self.clock)
        part = Part(id, False, False, 0.0, over="an operator's", seen=document)
        self._write(part, document, (changed, "abort", not refused, lambda: None))

    def _strike_off(self, rollout: Rollout) -> None:
        """The one whose word was the last tells the list."""
        self.fleet.events["left"] += 1
        try:
            read = self.fleet.read_index()
            if read is not None:
                index = indexes.left(read, rollout.id, outcome(rollout))
                if index is not read:
                    self.fleet.swap_index(read, index)
        except BkdError:
            self.fleet.actions["not struck off"] += 1
