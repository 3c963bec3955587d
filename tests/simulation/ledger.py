"""What is written down about one rollout of the fleet, apart from its document, and the promises it is judged by."""

from msgspec.structs import replace

from bkd.supervisor.bus.rollout import ENDED, LEASE, PATIENCE, Rollout, State, Turn, newer

from .promise import expect

SKEW = 0.25  # seconds by which two masters may be apart on what time it is on the bus


def undone(seen: Rollout, read: Rollout) -> list[str]:
    """The hosts that had begun, and have not in a document that is taken for a newer one."""
    began = {turn.host: turn for turn in seen.hosts if turn.fence}
    return [turn.host for turn in read.hosts if turn.host in began and turn.fence != began[turn.host].fence]


class Ledger:
    """Who has answered, begun and ended. `made`: when the change that lands now was thought of; `played`: an older
    document was played back, `believed`: by a master that had seen nothing newer, which nobody can help; `gone`: the
    document was lost, or its entry in the list."""

    def __init__(self, rollout: Rollout) -> None:
        self.batch, self.max_fail, self.groups = rollout.batch, rollout.max_fail, set(rollout.groups)
        self.names = [turn.host for turn in rollout.hosts]
        self.patience_ends = rollout.issued + PATIENCE
        self.history = [rollout]
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.fences: dict[str, int] = {}
        self.leases: dict[str, float] = {}
        self.ended: dict[str, bool] = {}
        self.since: dict[str, float] = {}
        self.at_work: set[str] = set()
        self.aborted = self.played = self.believed = self.gone = False

    def valid(self, now: float) -> set[str]:
        """The hosts at work whose leases all agree to be good."""
        return {host for host, until in self.leases.items() if host not in self.ended and until > now + SKEW}

    def failures(self, made: float) -> int:
        """The hosts that have failed or refused for certain."""
        lapsed = [h for h, until in self.leases.items() if h not in self.ended and until <= made - SKEW]
        return len(self.refused) + sum(not ok for ok in self.ended.values()) + len(lapsed)

    # -- a change lands

    def committed(self, old: Rollout, new: Rollout, kind: str, by: str, counted: bool, made: float, now: float) -> None:
        """`by` has changed the document: `kind` is what it wanted, `counted` that it got it."""
        expect(newer(old, new), f"{kind} of {by} wrote what is not newer than version {old.version}")
        expect(not newer(new, old), "an older document passes for a newer one")
        if self.played and kind != "abort":
            self.believed = True
        if kind == "renew" and counted and not self.played:
            expect(self.leases[by] > made - SKEW, f"{by} renews a lease that has run out")
            expect(self._turn(new, by).until >= made + LEASE - SKEW, f"{by} renews, and its lease is not longer")
        before = {turn.host: turn for turn in old.hosts}
        self._note(kind, by, counted)
        for turn in new.hosts:
            was = before[turn.host]
            if was.state != turn.state:
                self._moved(turn.host, was.state, turn.state, kind, by, made, now, new)
            if was.state in ENDED:
                expect(turn == was, f"{turn.host} had ended as {was.state}, and is {turn.state}")
            if turn.state == State.RUNNING and turn.until != was.until:
                expect(
                    turn.until <= made + LEASE + SKEW,
                    f"{kind} of {by}: {turn.host} has a lease for {turn.until - made:.3f} s",
                )
                self.leases[turn.host] = turn.until
        self._whose_turn(new, made)
        self.history.append(new)

    def _note(self, kind: str, by: str, counted: bool) -> None:
        if not counted:
            return
        if kind in ("accept", "claim"):
            self.accepted.add(by)
        elif kind == "refuse":
            self.refused.add(by)
        elif kind in ("finish", "fail"):
            self.ended[by] = kind == "finish"
        elif kind == "abort":
            self.aborted = True

    def _moved(
        self, host: str, was: State, state: State, kind: str, by: str, made: float, now: float, new: Rollout
    ) -> None:
        """Every change of a state had its reason; what comes of an older document that was played back has its own."""
        if self.played:
            return
        own = by == host
        if state == State.RUNNING:
            self._began(host, kind, by, made, now, new)
        elif state == State.DONE:
            valid = self.leases[host] > made - SKEW
            expect(own and kind == "finish" and valid, f"{host} is done by {kind} of {by}, lease valid: {valid}")
            expect(self._turn(new, host).fence == self.fences[host], f"{host} is done under another fence")
        elif state == State.FAILED and not (own and kind == "fail"):
            expect(was == State.RUNNING, f"{host} failed before it had begun")
            expect(self.leases[host] <= made + SKEW, f"{host} failed while its lease was good")
        elif state == State.REFUSED:
            expect(own and kind == "refuse", f"{host} refused by {kind} of {by}")
        elif state == State.UNREACHABLE:
            expect(was == State.WAITING, f"{host} was {was} and is unreachable")
            expect(made >= self.patience_ends - SKEW, f"{host} was passed over too early")
        elif state == State.EXPIRED:
            expect(host in self.since, f"{host} expired before its turn had come")
            expect(made >= self.since[host] + PATIENCE - SKEW, f"{host} expired too early")
        elif state == State.SKIPPED:
            stopped = self.aborted or self.failures(made + 2 * SKEW) > self.max_fail
            expect(stopped, f"{host} was skipped for nothing")

    def _turn(self, rollout: Rollout, host: str) -> Turn:
        return next(turn for turn in rollout.hosts if turn.host == host)

    def _began(self, host: str, kind: str, by: str, made: float, now: float, new: Rollout) -> None:
        expect(by == host and kind == "claim", f"{by} began for {host}")
        expect(host not in self.fences, f"{host} began twice")
        fence = self._turn(new, host).fence
        expect(fence > max(self.fences.values(), default=0), f"the fence of {host} does not grow")
        others = self.valid(now) - {host}
        expect(len(others) < self.batch, f"{host} began beside {others}, batch {self.batch}")
        expect(self.failures(made) <= self.max_fail, f"{host} began after {self.failures(made)} failures")
        expect(not self.aborted, f"{host} began after the abort")
        for earlier in self.names[: self.names.index(host)]:
            expect(self._is_out(earlier, made), f"{host} began while {earlier} was waiting")
        self.fences[host] = fence

    def _is_out(self, host: str, made: float) -> bool:
        if host in self.fences or host in self.refused:
            return True
        if host not in self.accepted:
            return made >= self.patience_ends - SKEW
        return host in self.since and made >= self.since[host] + PATIENCE - SKEW

    def _whose_turn(self, new: Rollout, made: float) -> None:
        running = sum(turn.state == State.RUNNING for turn in new.hosts)
        expect(running <= self.batch or self.believed, f"{running} at work in a batch of {self.batch}")
        first = next((turn for turn in new.hosts if turn.state in (State.WAITING, State.ACCEPTED)), None)
        if first is not None and first.state == State.ACCEPTED and running < self.batch:
            self.since.setdefault(first.host, made)

    # -- a host works

    def begins(self, host: str, fence: int, now: float, lease: float) -> None:
        """The host begins its work, in earnest."""
        expect(host not in self.at_work, f"{host} does it twice")
        self.at_work.add(host)
        if not self.believed:
            expect(self.fences.get(host) == fence, f"{host} works under permit {fence}, given was {self.fences}")
            expect(lease > now - SKEW, f"{host} begins when its lease has run out")
            expect(len(self.valid(now) - {host}) < self.batch, f"{host} works beside {self.valid(now)}")

    def older(self, number: int) -> Rollout:
        """A document as it once was, as somebody may play it back."""
        self.played = True
        older, newest = self.history[number], self.history[-1]
        raised = replace(older, version=newest.version + 9)
        expect(not (undone(newest, older) and newer(newest, raised)), "a higher number makes an older document newer")
        return replace(older)
