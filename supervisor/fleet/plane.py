"""The plane of control over all hosts: the bus, and everybody here who listens to it. Runs in the master's loop."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

from loguru import logger

from ...ipc.errors import BkdError
from ..bus.driver import BusError, Driver
from ..bus.fitness import LOCAL, keyring_of
from ..bus.judge import Bell, Judge
from ..bus.keyring import Keyring
from ..bus.local import LocalDriver
from ..bus.names import Names
from ..bus.redisdriver import RedisDriver
from ..bus.session import Session
from ..bus.writer import Writer, instance_of
from ..commands import Commands, Entry
from ..config.schema import Config
from ..desk import Desk
from ..exchange import Exchange
from ..fact import Fact
from ..facts import RollDone, RolledBack, WorkerReady
from ..roles import Role
from ..tasks import Tasks
from .board import Board
from .executor import Executor
from .facts import BusKeysChanged
from .hosts import Hosts
from .intake import Intake
from .issuing import Issuing
from .permits import Permits
from .recent import Recent
from .record import Record, Records
from .relay import Relay
from .replies import Replies
from .rollouts import Rollouts
from .wire import Wire

LAST_WORDS = 1.0
NEWS = (WorkerReady, RollDone, RolledBack)
AGAIN = 1.0
PERIOD = 5.0


class Plane:
    """One per master. Nothing here keeps the host from its work when the bus is away."""

    def __init__(self, desk: Desk, commands: Commands, exchange: Exchange, run_dir: str, *, adopting: bool) -> None:
        """Raises KeyringError."""
        config = desk.config
        self.desk, self.exchange = desk, exchange
        self.tasks = Tasks()
        self.keyring = keyring_of(config.bus)
        records = Records(run_dir)
        record = records.load()
        self._known = adopting and bool(record.cursor)
        if not self._known:
            record = Record(ledger=record.ledger)  # what the cluster before obeyed cannot be played back to this one
            records.save(record)
        names = Names(config.app.name)
        instance = instance_of(time.time(), secrets.token_bytes(2))
        driver = driver_of(config)
        self.wire = Wire(
            driver,
            Writer(names, config.app.host, instance, self.keyring),
            Judge(names, self.keyring, record.ledger),
            desk.tell,
        )
        self.session = self.wire.session = Session(
            driver,
            channels=self._channels,
            probe=names.reply(config.app.host),
            hear=self._hear,
            up=self._up,
            tell=desk.tell if config.bus.url != LOCAL else _silent,
            period=0.0 if config.bus.url == LOCAL else PERIOD,
        )
        self._compose(commands, records, record, run_dir)

    def _compose(self, commands: Commands, records: Records, record: Record, run_dir: str) -> None:
        wire, desk = self.wire, self.desk
        self.replies = Replies(wire, desk)
        self.rollouts = Rollouts(wire, Permits(wire))
        self.executor = Executor(desk, commands, self.replies, self.rollouts, records, record)
        self.intake = Intake(wire, desk, self.executor, self.replies)
        self.hosts = Hosts(wire, desk, lambda: record.cursor)
        self.issuing = Issuing(wire, self.hosts, self.rollouts, commands.seed)
        self.executor.last_to_stop = self.issuing.others_over
        self.relay = Relay(wire, desk, self.hosts, self.exchange, self.issuing)
        if not wire.is_alone:
            self.exchange.fleet = self.relay
        board, resume = Board(wire, self.rollouts), commands.table["await"].handler
        commands.bus = self.document
        commands.table |= {
            "fleet": Entry(Role.OPERATOR, self.issuing.give),
            "fleet-look": Entry(Role.VIEWER, self.issuing.look),
            "await": Entry(Role.OPERATOR, lambda r: (self.issuing.resume if "fleet" in r.arguments else resume)(r)),
            "fleet-list": Entry(Role.VIEWER, board.list),
            "fleet-show": Entry(Role.VIEWER, board.show),
            "events": Entry(Role.VIEWER, Recent(run_dir).events),
            "fleet-abort": Entry(Role.OPERATOR, board.abort),
        }

    # -- life

    def begin(self) -> None:
        """Connect, and stay so."""
        self.executor.go_on()
        for work in (self.session.run, self.replies.run, self.intake.run):
            self.tasks.run(_kept(work))
        if not self.wire.is_alone:
            self.tasks.run(_kept(self.hosts.run))

    async def end(self) -> None:
        """The cluster is over: nobody has to wait for this host any more. Never takes long."""
        if not self.wire.is_up:
            return
        for work in (self.executor.stopped, self.replies.flushed, self.issuing.all_told, self.hosts.withdraw):
            try:
                await asyncio.wait_for(work(), LAST_WORDS)
            except (BusError, TimeoutError) as error:
                logger.warning("the bus may not know that this host has stopped: {}", error or "it takes too long")

    def told(self, fact: Fact) -> None:
        """Something happened on this host."""
        if isinstance(fact, NEWS):
            self.hosts.changed()

    def configure(self, keyring: Keyring) -> None:
        """The groups may be others now, and the keys as well."""
        if keyring.ids != self.keyring.ids:
            self.desk.tell(BusKeysChanged(len(keyring.ids)))
            self.tasks.run(self._sign_again())
        self.keyring = self.wire.writer.keyring = self.wire.judge.keyring = keyring
        self.tasks.run(self.session.resubscribe())

    async def _sign_again(self) -> None:
        try:
            await self.rollouts.sign_again()
        except BkdError as error:
            logger.warning("the list of rollouts is not signed with the new key: {}", error)

    def document(self) -> dict[str, Any]:
        """For `bkd status`."""
        refused = {str(reason): count for reason, count in self.wire.judge.refused.items()}
        return {
            **self.session.document(),
            "hosts": len(self.hosts.known) or 1,
            "refused": refused,
            "late": self.intake.late,
            "lost": self.relay.lost + self.replies.lost,
        }

    # -- the bus

    async def _up(self) -> None:
        """Connected, for the first time or again."""
        self.wire.observe()
        if not self._known:
            ledger = self.wire.judge.ledger
            ledger.since = max(self.wire.now(), ledger.highest)  # the bus's clock may have gone back
            await self.intake.start_at_end()
            self.executor.save()
            self._known = True
        await self.hosts.announce()
        await self.hosts.look()
        await self.relay.up()
        self.intake.ring()
        self.replies.ring()

    def _channels(self) -> frozenset[str]:
        names, tag = self.wire.names, self.desk.config.app.tag
        roles = ["server", "all", *self.desk.config.workers]
        tags = ["", tag] if tag else [""]
        return frozenset(names.channel(role, tag) for role in roles for tag in tags)

    def _hear(self, channel: str, payload: bytes) -> None:
        """Something was published. What rings only says that there is something to read."""
        heard = self.wire.hear(channel, payload)
        if isinstance(heard, Bell):
            if heard.stream == self.wire.names.commands:
                self.intake.ring()
            else:
                self.issuing.ring()
                self.executor.ring()
        elif heard is not None:
            self.relay.heard(heard)


async def _kept(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Whatever came from the bus: a fault of ours must not make this host deaf for good."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - it is logged, and gone on after a pause
            logger.exception("a part of the fleet's control failed and begins again")
        await asyncio.sleep(AGAIN)


def driver_of(config: Config) -> Driver:
    """The bus of this configuration; nothing is connected yet."""
    if config.bus.url == LOCAL:
        return LocalDriver()
    return RedisDriver(config.bus.url, name=f"bkd-{config.app.name}-{config.app.host}")


def _silent(_fact: Fact) -> None:
    """A bus that is this process cannot be lost."""
