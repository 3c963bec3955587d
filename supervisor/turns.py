"""The policy loop: events in, actions out, and the moment of the next look. The master's heart, without its hands."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from .actions import Action
from .apply import apply
from .cluster import Cluster
from .events import Event, NewsTold, Overslept, Pinged, Taken
from .fact import Fact
from .reconcile import reconcile
from .watch import NEVER

LATE = 0.5
ROUNDS = 100


class Turns:
    """Holds the one current cluster. A turn that starts much later than planned judges nobody."""

    def __init__(self, cluster: Cluster, perform: Callable[[Action], None], tell: Callable[[Fact], None]) -> None:
        self.cluster = cluster
        self._perform, self._tell = perform, tell
        self._events: deque[Event] = deque()
        self._wake = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False
        self.changed: Callable[[], None] = lambda: None

    def post(self, event: Event) -> None:
        """Something happened. A heartbeat with no news changes a number; everything else makes a turn soon."""
        if type(event) is Pinged:
            self.cluster = apply(self.cluster, event, time.monotonic())
            if not self.cluster.news:
                return
        else:
            self._events.append(event)
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._turn)

    def now(self) -> None:
        """Take up what was posted before the next one is asked what there is."""
        if self._events:
            self._turn()

    def begin(self) -> None:
        """The first turn."""
        self._turn()

    def _turn(self) -> None:
        self._soon = False
        now = time.monotonic()
        if now > self._wake + LATE:
            self._events.append(Overslept(now - self._wake))
        moved = bool(self._events)
        for _ in range(ROUNDS):
            while self._events:
                self.cluster = apply(self.cluster, self._events.popleft(), now)
            plan = reconcile(self.cluster, now)
            if not plan.actions:
                break
            moved = True
            for action in plan.actions:
                self.cluster = apply(self.cluster, Taken(action), now)
                self._report()
                self._perform(action)
        self._report()
        self._sleep(now if plan.actions else plan.wake)
        if moved:
            self.changed()

    def _report(self) -> None:
        news = self.cluster.news
        if news:
            self.cluster = apply(self.cluster, NewsTold(), time.monotonic())
            for fact in news:
                self._tell(fact)

    def _sleep(self, wake: float) -> None:
        loop = asyncio.get_running_loop()
        self._wake = wake
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake != NEVER:
            self._timer = loop.call_at(max(wake, loop.time()), self._turn)
