"""The master's line to the dispatcher: tells it of deaths, hears of executors that do not let go, and relays commands.

The keeper holds the socket at which the dispatcher listens: while one is being replaced, what is said waits for the
next.
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from itertools import count

from loguru import logger
from msgspec.structs import replace

from ..ipc.durable import wire
from ..ipc.errors import BkdError, FrameError
from ..ipc.frames import FrameReader
from ..ipc.message import Finished
from . import dispatcher, events, messagefacts, status
from .cluster import Cause
from .desk import Desk, Request
from .fact import Fact, signal_name
from .facts import WorkerExited, WorkerStarted
from .tasks import Tasks

NUMBERS = "message:stats"
LOOKS = tuple(f"message:{verb}" for verb in ("list", "show", "why", "loops"))  # they tell what messages say
PART = "message:payload"  # of a message that is to be added
DEEDS = (
    *(f"message:{verb}" for verb in ("add", "retry", "cancel", "clone", "pause", "resume", "limit", "purge")),
    *(f"store:{verb}" for verb in ("check", "migrate")),
)
RETRY_FIRST, RETRY_CAP = 0.02, 1.0
CALM = 1.0  # seconds after which a connection that ends is no sign of trouble
RECENT, MOST_RECENT = 60.0, 1000  # deaths that the next dispatcher is told of as well: seconds, and how many
LIFE, SILENCE = 5.0, 300.0  # seconds between signs of life, and without a word of the dispatcher
COUNTING = 10.0  # seconds that the numbers of messages are waited for
UNSENT = 8 << 20
READ = 1 << 18
LONGEST_WHY = 300

Answer = wire.Said | wire.Answered | None


class Postmaster:
    """One connection at a time, as long as there is a dispatcher."""

    def __init__(self, master: Desk) -> None:
        self.master = master
        self._tasks = Tasks()
        self._connecting = False
        self._writer: asyncio.StreamWriter | None = None
        self._deaths: deque[tuple[float, wire.Died]] = deque(maxlen=MOST_RECENT)
        self._numbers = count(1)
        self._unsent: dict[int, bytes] = {}
        self._asked: dict[int, asyncio.Queue[Answer]] = {}

    def begin(self) -> None:
        """Connect, if there is anybody to connect to; called again when one is started."""
        if self._is_wanted() and not self._connecting:
            self._connecting = True
            self._tasks.run(self._run())

    def told(self, fact: Fact) -> None:
        """Something happened: a dispatcher begins, or an executor has ended."""
        if isinstance(fact, WorkerStarted) and fact.slot == dispatcher.SLOT:
            self.begin()
        elif isinstance(fact, WorkerExited):
            self._tell_death(fact)

    # -- its socket, as a part of the run directory

    def missing(self) -> bool:
        """Whether one of the sockets is gone that it listens at."""
        context = self.master.context
        uids = [-1, *context.admitted()]
        there = [dispatcher.path(context.run_dir, uid) for uid in uids if dispatcher.listener(uid) in context.listeners]
        return not all(os.path.lexists(path) for path in there)

    async def restore(self) -> None:
        """Its successor gets one that can be found."""
        self.master.turns.post(events.Replaced(dispatcher.SLOT))

    # -- commands

    async def relay(self, request: Request) -> Finished:
        """The command, done by the dispatcher. Raises BkdError when there is none, or it does not answer."""
        if not self._is_wanted():
            raise BkdError('no group of the configuration has kind = "messages"; what is stored waits for one')
        verb, arguments = request.command.verb.partition(":")[2], dict(request.arguments)
        width = arguments.pop("width", 0)
        width = width if isinstance(width, int) else 0
        actor = request.issuer.title or f"uid {request.issuer.uid}"
        with self._asking(wire.Ask(0, verb, arguments, request.command.render, width, actor)) as answers:
            return await self._answered(request, answers)

    async def stats(self) -> str | None:
        """What `bkd message stats --json` prints, None where no group runs messages. Raises BkdError when nobody has
        said it within `COUNTING` seconds."""
        if not self._is_wanted():
            return None
        self._refuse_if_absent()
        parts = []
        try:
            with self._asking(wire.Ask(0, "stats", {}, "json", 0, "metrics")) as answers:
                async with asyncio.timeout(COUNTING):
                    while isinstance(said := await answers.get(), wire.Said):
                        parts.append(said.out)
        except TimeoutError as error:
            raise BkdError(f"the dispatcher has said nothing for {COUNTING:g} s") from error
        if said is None or said.code:
            raise BkdError(said.err.strip() if said else "the dispatcher ended meanwhile")
        return "".join([*parts, said.out])

    @contextlib.contextmanager
    def _asking(self, ask: wire.Ask) -> "Iterator[asyncio.Queue[Answer]]":
        """What is said to this question, which is sent under a number of its own as soon as there is anybody."""
        number = next(self._numbers)
        answers = self._asked[number] = asyncio.Queue()
        self._unsent[number] = wire.packed(replace(ask, number=number))
        self._send_unsent()
        try:
            yield answers
        finally:
            del self._asked[number]
            self._unsent.pop(number, None)

    async def _answered(self, request: Request, answers: "asyncio.Queue[Answer]") -> Finished:
        silent = 0.0
        while silent < SILENCE:
            try:
                said = await asyncio.wait_for(answers.get(), LIFE)
            except TimeoutError:
                silent += LIFE
                request.sign_of_life()
                self._refuse_if_absent()
                continue
            if said is None:
                raise BkdError("the dispatcher ended meanwhile, it may have done that or not: look, then ask again")
            if isinstance(said, wire.Answered):
                return Finished(said.code, said.out, said.err)
            silent = 0.0
            request.relay(said.out, said.err)
        raise BkdError(f"the dispatcher has said nothing for {SILENCE:g} s; see `bkd dump {dispatcher.SLOT}`")

    def _refuse_if_absent(self) -> None:
        cluster = self.master.turns.cluster
        why = status.undispatched(cluster, time.monotonic()) if self._is_wanted() else "the dispatcher is gone"
        if why:
            raise BkdError(why)

    # -- the connection

    def _is_wanted(self) -> bool:
        return dispatcher.NAME in self.master.turns.cluster.groups

    async def _run(self) -> None:
        """Connected, or about to be, until there is no dispatcher any more."""
        delay, path = RETRY_FIRST, dispatcher.path(self.master.context.run_dir)
        try:
            while self._is_wanted():
                began = time.monotonic()
                with contextlib.suppress(OSError):  # it listens nowhere yet, or has just ended: tried again
                    await self._served(*await asyncio.open_unix_connection(path))
                delay = RETRY_FIRST if time.monotonic() - began > CALM else min(RETRY_CAP, delay * 2)
                await asyncio.sleep(delay)
        finally:
            self._connecting = False

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to its end."""
        self._writer = writer
        self._write(wire.packed(wire.Greet("master")))
        self._tell_recent_deaths()
        self._send_unsent()
        frames = FrameReader()
        try:
            while data := await reader.read(READ):
                for payload in frames.feed(data):
                    self._heard(wire.unpacked(payload))
        except FrameError as error:
            logger.error("the dispatcher says what nobody understands: {}", error)
        finally:
            self._writer = None
            writer.transport.abort()
            self._give_up_asked()

    def _give_up_asked(self) -> None:
        """Whoever was asked is gone; what was not sent yet is for the next one."""
        for number, answers in self._asked.items():
            if number not in self._unsent:
                answers.put_nowait(None)

    def _send_unsent(self) -> None:
        while self._unsent and self._writer is not None:
            number = next(iter(self._unsent))
            self._write(self._unsent.pop(number))

    def _write(self, data: bytes) -> None:
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            return
        writer.write(data)
        if writer.transport.get_write_buffer_size() > UNSENT:
            logger.error("the dispatcher does not read what is sent to it; it is connected anew")
            writer.transport.abort()

    # -- what it says

    def _heard(self, said: wire.AnyFrame) -> None:
        match said:
            case wire.Said() | wire.Answered():
                answers = self._asked.get(said.number)
                if answers is not None:
                    answers.put_nowait(said)
            case wire.Overdue():
                self._end(said)
            case wire.Alarm():
                self.master.tell(messagefacts.told(said.fact, said.text))
            case wire.Refusal():
                logger.error("the dispatcher does not serve this master: {}", said.reason)
            case _:
                raise FrameError(f"a dispatcher does not say {type(said).__name__} to the master")

    def _end(self, overdue: wire.Overdue) -> None:
        """The executor is ended like one that hangs, unless it has ended by itself meanwhile."""
        for group, _, worker in self.master.turns.cluster.workers():
            if (worker.pid, worker.start) == (overdue.pid, overdue.start) and group.settings.kind == "messages":
                self.master.turns.post(events.Tripped(worker.id, 0.0, overdue.why[:LONGEST_WHY] or "overdue"))
                return
        logger.debug("{} (pid {}) is overdue and gone already", overdue.slot, overdue.pid)

    # -- what it is told

    def _tell_death(self, fact: WorkerExited) -> None:
        workers = self.master.effects.registry.workers.values()
        process = next((one for one in workers if (one.slot, one.pid) == (fact.slot, fact.pid)), None)
        if process is None or process.settings.kind != "messages" or not fact.pid:
            return
        died = wire.Died(process.pid, process.start, _how(fact), fact.cause != Cause.PLANNED)
        self._deaths.append((time.monotonic(), died))
        self._write(wire.packed(died))

    def _tell_recent_deaths(self) -> None:
        since = time.monotonic() - RECENT
        for at, died in self._deaths:
            if at >= since:
                self._write(wire.packed(died))


def _how(fact: WorkerExited) -> str:
    """How it ended, in words that stand alone."""
    if fact.cause == Cause.OOM:
        return str(Cause.OOM)
    code = "an unknown end" if fact.code is None else f"exit code {fact.code}"
    end = signal_name(fact.signal) if fact.signal else code
    return f"hung ({end})" if fact.cause == Cause.HUNG else end
