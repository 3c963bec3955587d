"""Gives commands to the fleet for a client of this host, and tells how they go until every host has come to its end."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from ...ipc.errors import BkdError
from ...ipc.message import Finished
from ..bus import rollout as rules
from ..bus.driver import NOTHING, BusError
from ..bus.orders import Ack, FleetCommand
from ..bus.rollout import Rollout
from ..bus.writer import command_id
from ..desk import Request, UsageError
from ..ops import SEEDS
from . import verdict
from .hosts import Hosts
from .permits import RolloutGone
from .progress import FleetProgress, HostProgress
from .replies import KEPT
from .rollouts import Rollouts
from .selection import Seen, Selector, select
from .verbs import LOOKS, ROLLS, VERBS, groups_of, tag_of, touched
from .wire import Wire

EXPIRES, LOOKS_EXPIRE, LONGEST_EXPIRY = 15.0, 5.0, 300.0
GRACE = 1.0  # seconds for an answer to come back
GIVEN_UP = 60.0  # seconds without a word of a host that had begun
LOOK = 0.5
LONGEST_AWAY = 300.0  # seconds without a bus after which a command ends that waits for answers
SIGN_OF_LIFE = 5.0
AT_ONCE = 500
MOST_NAMED = 5
SPOKEN = (rules.State.DONE, rules.State.FAILED, rules.State.REFUSED)  # what a host mostly says of itself
Seed = Callable[[str], tuple[str, dict[str, Any]]]


class Issued:
    """A command that is on its way: how far each host is. `cursor`: the last answer that was read; `ended`: since when
    the rollout's document has shown the end of a host."""

    def __init__(self, id: str, verb: str, hosts: tuple[str, ...], expires: float) -> None:
        self.id, self.verb, self.expires, self.cursor = id, verb, expires, NOTHING
        self.progress = FleetProgress.of(id, verb, hosts)
        self.ended: dict[str, float] = {}

    @classmethod
    def resumed(cls, told: dict[str, Any]) -> "Issued":
        """What the last master was asked; raises KeyError, TypeError or ValueError when it is nonsense."""
        hosts = tuple(str(host) for host in told["hosts"])
        return cls(str(told["fleet"]), str(told["verb"]), hosts, float(told["expires"]))

    def resume(self) -> dict[str, Any]:
        """What the next master is to be asked, should this one die."""
        return {"fleet": self.id, "verb": self.verb, "hosts": list(self.progress.hosts), "expires": self.expires}


class Issuing:
    """The verb `fleet` of the control socket, and its `await`."""

    def __init__(self, wire: Wire, hosts: Hosts, rollouts: Rollouts, seed: Seed) -> None:
        self.wire, self.hosts, self.rollouts, self.seed = wire, hosts, rollouts, seed
        self._bells: set[asyncio.Event] = set()
        self._followed: dict[str, FleetProgress] = {}

    def ring(self) -> None:
        """Somebody answered."""
        for bell in self._bells:
            bell.set()

    async def others_over(self, id: str) -> None:
        """Wait until no client here has to be told any more how this command goes on other hosts."""
        while (progress := self._followed.get(id)) is not None:
            if all(host.is_over for host in progress.hosts.values() if host.host != self.wire.host):
                return
            await asyncio.sleep(LOOK / 5)

    async def all_told(self) -> None:
        """Wait until every client here has its verdict."""
        while self._followed:
            await asyncio.sleep(LOOK / 10)

    async def give(self, request: Request) -> Finished:
        """A client wants the fleet to obey a command."""
        about = request.arguments
        verb, arguments = about.get("verb"), about.get("arguments")
        if verb not in VERBS or not isinstance(arguments, dict):
            raise UsageError(f"the fleet obeys {', '.join(sorted(VERBS))}")
        self.wire.refuse_if_away()
        if verb == "send" and arguments.get("op") in SEEDS:
            verb, arguments = self.seed(arguments["op"])
        named = groups_of(verb, arguments)
        inventory = await self.hosts.look()
        self._tell_strangers(request)
        targets = select(inventory, Selector.of(about | tag_of(verb, arguments), named))
        if verb == "rollback" and not about.get("hosts"):
            targets = await self._moved(request, named[0], targets)
        rows = [inventory[host] for host in targets]
        if about.get("dry_run"):
            return verdict.plan(request, verb, rows, self._batch(about, targets), self.wire.now())
        issuer = f"{request.issuer.title or request.issuer.uid}@{self.wire.host}"
        issued = await self._send(verb, arguments, targets, about, touched(named, rows), issuer)
        if verb not in LOOKS:
            request.promise(issued.resume())
        if about.get("no_wait"):
            return verdict.started(request, issued.progress)
        return await self._follow(request, issued)

    def _tell_strangers(self, request: Request) -> None:
        """Hosts that seem to be there and cannot be asked."""
        names = self.hosts.strangers
        if names:
            shown = ", ".join(names[:MOST_NAMED]) + (" and more" if len(names) > MOST_NAMED else "")
            why = "no key of this host verifies what is said there; compare secret_file"
            request.progress(f"bkd: {shown} cannot be asked: {why}")

    async def _moved(self, request: Request, group: str, targets: tuple[str, ...]) -> tuple[str, ...]:
        """Of these hosts those that the newest restart has moved: others would go back to the release before theirs."""
        restart = await self.rollouts.newest_restart(group)
        if restart is None:
            return targets
        done = {turn.host for turn in restart.hosts if turn.state == rules.State.DONE}
        moved = tuple(host for host in targets if host in done)
        if not moved:
            raise BkdError(f"no host has moved in the restart {restart.id}; name those to roll back with --host")
        if len(moved) < len(targets):
            request.progress(f"{group}: only {', '.join(moved)} moved in the restart {restart.id}, and will go back")
        return moved

    async def look(self, request: Request) -> Finished:
        """The same, for those who may only look."""
        if request.arguments.get("verb") not in LOOKS:
            raise UsageError(f"to look is {', '.join(sorted(LOOKS))}")
        return await self.give(request)

    async def command(self, verb: str, arguments: dict[str, Any], *, tag: str, issuer: str) -> str:
        """A worker that may wants the fleet to obey a command; its id. Raises BkdError."""
        self.wire.refuse_if_away()
        named = groups_of(verb, arguments)
        inventory = await self.hosts.look()
        targets = select(inventory, Selector(tag, (), named))
        held = touched(named, [inventory[host] for host in targets])
        return (await self._send(verb, arguments, targets, {}, held, issuer)).id

    async def resume(self, request: Request) -> Finished:
        """Whoever asked the last master waits on."""
        try:
            issued = Issued.resumed(request.arguments)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("what is to be waited for?") from error
        request.promise(issued.resume())
        return await self._follow(request, issued)

    # -- sending

    async def _send(
        self,
        verb: str,
        arguments: dict[str, Any],
        targets: tuple[str, ...],
        about: dict[str, Any],
        held: tuple[str, ...],
        issuer: str,
    ) -> Issued:
        now, lasts = self.wire.now(), self._lasts(verb, about)
        id, batch = command_id(now, secrets.token_bytes(6)), self._batch(about, targets)
        most = about.get("max_fail") or 0
        if not isinstance(most, int):
            raise UsageError("--max-fail takes a number of hosts")
        arguments = {name: value for name, value in arguments.items() if name != "no_wait"}
        names, command = self.wire.names, FleetCommand(verb, arguments, targets, issuer, batch, most)
        letter = self.wire.sign(names.commands, "fleet:command", command, lasts, id=id)
        if verb in ROLLS:
            await self.rollouts.begin(
                rules.begin(
                    id,
                    targets,
                    verb=verb,
                    groups=held,
                    issuer=issuer,
                    now=now,
                    batch=batch,
                    max_fail=most,
                    patience=lasts,
                )
            )
        await self.wire.driver.append(names.commands, letter, bell=names.server)
        return Issued(id, verb, targets, now + lasts)

    def _lasts(self, verb: str, about: dict[str, Any]) -> float:
        """Seconds in which a host has to have taken the command up."""
        lasts = about.get("expires") or (LOOKS_EXPIRE if verb in LOOKS else EXPIRES)
        if not isinstance(lasts, int | float) or not 1.0 <= lasts <= LONGEST_EXPIRY:
            raise UsageError(f"--expires takes from 1s to {LONGEST_EXPIRY / 60:.0f}m")
        return float(lasts)

    def _batch(self, about: dict[str, Any], targets: tuple[str, ...]) -> int:
        try:
            return rules.batch_of(str(about.get("batch") or "1"), len(targets))
        except ValueError as error:
            raise UsageError(str(error)) from error

    # -- following

    async def _follow(self, request: Request, issued: Issued) -> Finished:
        """Until every host has come to its end; whoever waits sees every step."""
        loop = asyncio.get_running_loop()
        bell = asyncio.Event()
        self._bells.add(bell)
        self._followed[issued.id] = issued.progress
        told = loop.time()
        try:
            while True:
                bell.clear()
                if await self._look(issued):
                    verdict.show(request, issued.progress)
                    told = loop.time()
                if issued.progress.is_over:
                    return verdict.final(request, issued.progress, self.hosts.known, self.wire.now())
                self._refuse_if_lost(issued)
                if loop.time() - told > SIGN_OF_LIFE:
                    request.sign_of_life()
                    told = loop.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(bell.wait(), LOOK)
        finally:
            self._bells.discard(bell)
            self._followed.pop(issued.id, None)

    def _refuse_if_lost(self, issued: Issued) -> None:
        """Nobody waits for ever for a bus that does not come back. Raises BusError."""
        session = self.wire.session
        if not self.wire.is_up and time.monotonic() - session.since > LONGEST_AWAY:
            raise BusError(f"the bus is away ({session.error}); when it is back: bkd fleet show {issued.id}")

    async def _look(self, issued: Issued) -> bool:
        """Whether there is news."""
        news = self._silent(issued)
        with contextlib.suppress(BusError):  # the session tells of it, and the answers wait on the bus
            news |= await self._answers(issued)
            if issued.verb in ROLLS:
                news |= await self._turns(issued)
        return news

    async def _answers(self, issued: Issued) -> bool:
        stream, news = self.wire.names.reply(issued.id), False
        while entries := await self.wire.driver.read(stream, issued.cursor, AT_ONCE):
            for entry in entries:
                ack = self.wire.read(entry.payload, stream, Ack)
                issued.cursor = entry.id
                host = issued.progress.hosts.get(ack.host) if ack is not None else None
                news |= ack is not None and host is not None and host.take(ack)
        return news

    async def _turns(self, issued: Issued) -> bool:
        """What the rollout's document knows of hosts that do not speak for themselves."""
        try:
            rollout = await self.rollouts.permits.read(issued.id)
        except RolloutGone as error:
            ended = [host.end("failed", str(error)) for host in issued.progress.hosts.values()]
            return any(ended)
        news = [self._turn(issued, rollout, host) for host in issued.progress.hosts]
        return any(news)

    def _turn(self, issued: Issued, rollout: Rollout, name: str) -> bool:
        turn, host = rules.find(rollout, name), issued.progress.hosts[name]
        if turn is None or turn.state not in rules.ENDED or host.is_over:
            return False
        since = issued.ended.setdefault(name, self.wire.now())
        if turn.state in SPOKEN and self.wire.now() - since < GRACE:
            return False  # its own word, with what was said there, is on its way
        reason = turn.reason
        if turn.state == rules.State.UNREACHABLE:
            reason += f", {verdict.last_seen(self.hosts.known.get(name), self.wire.now())}"
        return host.end(str(turn.state), reason)

    def _silent(self, issued: Issued) -> bool:
        """Hosts from which nothing can come any more."""
        now, news = self.wire.now(), False
        for host in issued.progress.hosts.values():
            seen = self.hosts.known.get(host.host)
            if not host.is_over and issued.verb not in ROLLS and self._is_lost(issued, host, seen, now):
                news |= host.end("unreachable", verdict.last_seen(seen, now))
        return news

    def _is_lost(self, issued: Issued, host: HostProgress, seen: Seen | None, now: float) -> bool:
        """Whether nothing can come of this host any more: its time to begin is over, or its last word is lost."""
        if not host.state:
            asleep = seen is not None and issued.verb in LOOKS and seen.is_silent(now)
            return asleep or now > issued.expires + GRACE
        return now - (seen.seen if seen is not None else issued.expires) > GIVEN_UP or now > issued.expires + KEPT
