"""A fake world with a fake clock: the real policy, a machine that fails by a seeded plan, the promises checked.

`python -m tests.simulation.world --seed 7` plays one story again; `--trace` prints all of it.
"""

import argparse
import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from random import Random

import msgspec

from bkd.supervisor import events
from bkd.supervisor.actions import Action, Leave
from bkd.supervisor.apply import apply
from bkd.supervisor.founding import founded
from bkd.supervisor.reconcile import Plan, reconcile
from bkd.supervisor.turns import LATE
from bkd.supervisor.watch import NEVER

from .checks import ROUNDS, Checks
from .faults import ABSENCES, FAULTS, LONGEST, Fault
from .machine import Machine
from .operators import ORDERS
from .processes import Zygote
from .promise import Broken
from .settings import configuration
from .succession import Succession

TROUBLED = 600.0
CALM = 300.0
STOPPING = 120.0
TROUBLES = (4.0, 4.0, 25.0, 200.0)
ASKED = (6.0, 20.0, 40.0)
SAMPLE = 40
PROMISED = (
    events.Scaled,
    events.Held,
    events.Cleared,
    events.Replaced,
    events.RollAsked,
    events.RollCalledOff,
    events.Reconfigured,
    events.StopAsked,
)


class MasterDied(Exception):
    """In the middle of a turn."""


class World:
    """One story: `play` troubles the cluster for so many seconds, lets it come to rest, and stops it."""

    def __init__(
        self, seed: int, *, without: Collection[str] = (), troubled: float = TROUBLED, trace: bool = False
    ) -> None:
        self.seed, self.troubled, self.trace = seed, troubled, trace
        self.random = Random(seed)
        self.now = 10_000.0
        self.faults = {name: fault for name, fault in FAULTS.items() if name not in without}
        self.orders = {name: order for name, order in ORDERS.items() if name not in without}
        exit_when_failed = self.random.random() < 0.1
        self.first, ping = configuration(self.random)
        self.cluster = founded(self.first, ping, exit_when_failed=exit_when_failed)
        self.calm = self.stopping = self.over = self.absent = False
        self.life = 1
        self.machine = Machine(self)
        self.checks = Checks(self)
        self.counts: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.succession = Succession(self)
        self.paused = self.resumed = self.adopted = 0.0
        self._doom: int | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._posted: deque[events.Event] = deque()
        self._inbox: list[tuple[events.Event, Zygote | None]] = []
        self._soon = False
        self._wake = NEVER
        self._timer = 0
        for group in self.cluster.groups.values():
            self.machine.dials[group.name].threads = group.settings.preload == "auto" and self.random.random() < 0.15

    @property
    def total(self) -> int:
        """Events that the policy was told."""
        return sum(self.counts.values())

    # -- the clock

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in so many seconds of this world."""
        self._at(self.now + seconds, call)

    def _at(self, moment: float, call: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (moment, self._number, call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until and not self.over:
            self.now, _, call = heapq.heappop(self._queue)
            call()
        self.now = until

    def play(self) -> None:
        """The whole story; raises Broken with its seed."""
        with self._told():
            self._turn()
            self._keep_on(self.faults, self.random.choice(TROUBLES))
            self._keep_on(self.orders, self.random.choice(ASKED))
            self.run(self.troubled)
            self.calm = True
            self._calm_down()
            self.run(CALM)
            if self.cluster.closing is None:
                self.checks.settled()
            self._stop()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"seed {self.seed} at {self.now:.3f}: python -m tests.simulation.world --seed {self.seed}")
            raise

    def _keep_on(self, faults: dict[str, tuple[int, Fault]], between: float) -> None:
        """One of these now and then, for as long as it is not calm."""
        weights = [weight for weight, _ in faults.values()]

        def strike() -> None:
            if not self.calm and self.cluster.groups:
                (name,) = self.random.choices(list(faults), weights)
                self._say(f"-- {name}")
                faults[name][1](self)
                self.after(self.random.expovariate(1 / between), strike)

        if faults:
            self.after(self.random.expovariate(1 / between), strike)

    def _calm_down(self) -> None:
        """No more faults. What hangs goes on hanging and is the policy's to find; holds and debuggers end in time."""
        for dials in self.machine.dials.values():
            dials.slow_boots = dials.spawns_fail = 0
        self._doom = None
        self.after(2 * LONGEST, self._release)

    def _release(self) -> None:
        """Whoever held a slot and was not heard sees to it again."""
        for _, slot in self.cluster.slots():
            if slot.held:
                self.post(events.Held(slot.name, False))

    def _stop(self) -> None:
        if self.over:
            return
        self.stopping = True
        self._ask_to_stop()
        if self.random.random() < 0.3:
            for _ in range(self.random.randint(1, 3)):
                self.after(self.random.uniform(0.0, 5.0), lambda: self.take_over(0.1))
        self.run(STOPPING)
        if not self.over:
            raise Broken(f"it does not end: {self.cluster}")
        self.checks.survival.mourned()

    def _ask_to_stop(self) -> None:
        self.post(events.StopAsked("bkd stop", hasty=self.random.random() < 0.3))

    # -- the master's loop, as in `supervisor.turns`

    def post(self, event: events.Event, zygote: Zygote | None = None) -> None:
        """Tell the master; while it stands still, it hears nothing, and later nothing of a zygote that it dropped.
        While there is none, only those that give orders wait for the next one."""
        if self.absent:
            if isinstance(event, PROMISED):
                self._inbox.append((event, zygote))
        elif self.now < self.paused:
            self._inbox.append((event, zygote))
        elif zygote is not None and zygote.dropped:
            return
        elif type(event) is events.Pinged:
            self._apply(event)
        else:
            self._posted.append(event)
            self._turn_soon()

    def pause(self, seconds: float) -> None:
        """The master stands still for so long."""
        if self.now >= self.paused and not self.absent:
            self.paused = self.now + seconds
            self.machine.later(seconds, self._resume)

    def _resume(self) -> None:
        """Its timer is due and there is much to read; either may come first."""
        self.resumed = self.now
        if self._wake <= self.now and self.random.random() < 0.5:
            self._turn()
        inbox, self._inbox = self._inbox, []
        for event, zygote in inbox:
            self.post(event, zygote)
        self._turn()

    def take_over(self, seconds: float) -> None:
        """The master is killed, and after so long another one is there."""
        if self.absent or self.over:
            return
        self.absent = True
        self.life += 1
        self.paused, self._soon, self._doom = 0.0, False, None
        self._timer += 1
        self._posted.clear()
        self._inbox.clear()
        self.succession.end()
        self._say("-- the master is gone")
        self.after(seconds, self._taken_over)

    def doom(self, orders: int) -> None:
        """The master dies over one of its next orders: before it has done anything, or right after."""
        self._doom = orders

    def _taken_over(self) -> None:
        """The first turn knows only the state; then come those who have something to tell."""
        self.absent = False
        self.life += 1
        save = self.succession.save
        self.succession.begin()
        self._wake, self.resumed, self.adopted = NEVER, self.now, self.now
        if save is not None:
            self._posted.append(events.Adopted(self.now - save.at))
            self.checks.late = True
        self._say(f"-- the next master, {'nothing' if save is None else f'{self.now - save.at:.3f} s'} remembered")
        life = self.life
        self._turn()
        if self.life != life or self.over:
            return
        self.succession.adopt()
        if self.stopping:
            self._ask_to_stop()
        inbox, self._inbox = self._inbox, []
        for event, zygote in inbox:
            self.post(event, zygote)

    def _turn_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.after(0.0, self._turn)

    def _wakes(self, timer: int) -> None:
        if timer == self._timer:
            self._turn()

    def _turn(self) -> None:
        if self.now < self.paused or self.over or self.absent:
            return
        self._soon = False
        if self.now > self._wake + LATE:
            self.checks.late = True
            self._posted.append(events.Overslept(self.now - self._wake))
        moved = bool(self._posted)
        promised = any(isinstance(event, PROMISED) for event in self._posted)
        try:
            rounds, plan = self._rounds()
        except MasterDied:
            self.checks.late = False
            return
        self.checks.late = False
        self._sleep(plan.wake)
        self.checks.turn(rounds, plan)
        self._report()
        if self.over:
            return
        if self.total % SAMPLE == 0:
            self.checks.awake(plan)
        if promised:
            self.succession.remember()
        elif moved or rounds > 1:
            self.succession.changed()

    def _report(self) -> None:
        if self.cluster.news:
            self.checks.survival.told(self.cluster.news)
            self._apply(events.NewsTold())

    def _rounds(self) -> tuple[int, Plan]:
        for rounds in range(1, ROUNDS + 2):
            while self._posted:
                self._apply(self._posted.popleft())
            plan = reconcile(self.cluster, self.now)
            if not plan.actions:
                return rounds, plan
            for action in plan.actions:
                self._take(action)
        raise Broken(f"still busy after {rounds} rounds: {plan.actions}")

    def _take(self, action: Action) -> None:
        self.actions[type(action).__name__] += 1
        before = self.cluster
        self.checks.action(action)
        self._apply(events.Taken(action))
        self.checks.taken(before, action)
        last = self._is_last()
        if last and self.random.random() < 0.5:
            self._die()
        self.machine.perform(action)
        self.over = self.over or isinstance(action, Leave)
        if last and not self.over:
            self._die()

    def _is_last(self) -> bool:
        """Whether it is the order over which the master dies."""
        if self._doom is None:
            return False
        self._doom -= 1
        return self._doom <= 0

    def _die(self) -> None:
        self.take_over(self.random.choice(ABSENCES))
        raise MasterDied

    def _apply(self, event: events.Event) -> None:
        before = self.cluster
        self.counts[type(event).__name__] += 1
        sampled = self.total % SAMPLE == 0
        encoded = msgspec.msgpack.encode(before) if sampled else b""
        self.cluster = apply(before, event, self.now)
        if sampled:
            self.checks.unchanged(encoded, before, event)
        if type(event) is events.Pinged:
            self.checks.wear.heard(before, event, self.cluster)
            return
        if type(event) is events.NewsTold:
            return
        if self.trace:
            self._say(str(event))
        if type(event) is events.Reconfigured:
            self.machine.paced(event.ping)
        self.checks.applied(before, event, self.cluster)

    def _sleep(self, wake: float) -> None:
        self._wake = wake
        self._timer += 1
        timer = self._timer
        if wake != NEVER:
            self._at(max(wake, self.now), lambda: self._wakes(timer))

    def _say(self, text: str) -> None:
        if self.trace:
            print(f"{self.now:.3f} {text}")


def main() -> None:
    """Play the stories of some seeds and print what happened in them."""
    parser = argparse.ArgumentParser(description="plays the policy in a fake world")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stories", type=int, default=1)
    parser.add_argument("--without", action="append", default=[], help="a fault that does not happen")
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    for seed in range(given.seed, given.seed + given.stories):
        world = World(seed, without=given.without, trace=given.trace)
        world.play()
        told = ", ".join(f"{name} {count}" for name, count in world.counts.most_common())
        print(f"seed {seed}: {world.total} events, at most {world.checks.most_rounds} rounds: {told}")


if __name__ == "__main__":
    main()
