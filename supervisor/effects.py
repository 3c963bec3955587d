"""The shell: carries actions out and turns what comes of it into events. Decides nothing.

Everything here runs in the master's loop and never blocks it; what takes time is a task with a deadline of its own.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from loguru import logger

from ..ipc.message import Drain, Pace, Serve
from . import actions, events, procfs
from .balance import Balance
from .cluster import Observation
from .context import Context
from .forensics.autopsy import Autopsy
from .loaders import Loaders
from .programs import Programs, size_of
from .registry import LoaderProcess, Process, Registry
from .tasks import Tasks
from .tree import Handle, kill_tree, members

KILL_LIMIT = 4.0
LOOK = 0.02
A_MOMENT = 0.03  # seconds in which a worker whose heartbeat goes on says what it does


class Effects:
    """`perform` is called for every action, `ended` for every process the keeper reaped; `autopsy` is set before."""

    autopsy: Autopsy

    def __init__(self, context: Context, registry: Registry) -> None:
        self.context, self.registry = context, registry
        self.balance = Balance(context.run_dir)
        self._run = Tasks().run
        self.loaders = Loaders(context, registry, self.balance, self._run)
        self.programs = Programs(context, registry, self._run)
        self.programs.gone = lambda pid: self.ended(pid, None)
        self.loaders.reaped = self.programs.reaped = self._worker_ended
        self.leaving: Callable[[int], None] = lambda code: None
        self._orders: list[Callable[[], None]] = []
        self._do: dict[type[actions.Action], Callable[[Any], None]] = {
            actions.LoadRelease: self.loaders.load,
            actions.DropLoader: self.loaders.drop,
            actions.Spawn: self._spawn,
            actions.Observe: self._observe,
            actions.Condemn: self._condemn,
            actions.GiveUp: self._give_up,
            actions.Sweep: self._sweep,
            actions.Leave: lambda action: self.leaving(action.code),
        }
        self._order: dict[type[actions.Action], Callable[[Any], None]] = {
            actions.Admit: self._admit,
            actions.Ask: self._ask,
            actions.Terminate: self._terminate,
            actions.Kill: self._kill,
        }

    def seat(self) -> None:
        """The workers of an earlier master keep their places in the balance pages."""
        for process in self.registry.workers.values():
            if process.settings.kind == "web" and not process.over:
                self.balance.hold(process.group, process.seat)

    def perform(self, action: actions.Action) -> None:
        """Carry one action out, or as far as `give_orders` goes on; those that only change the state need nothing."""
        do, order = self._do.get(type(action)), self._order.get(type(action))
        if do is not None:
            do(action)
        elif order is not None:
            self._orders.append(partial(order, action))

    def give_orders(self) -> None:
        """Called after each turn. What has been told, and what a worker is told now, has to be known to the next
        master, should this one die of the very next thing: one that serves and that nobody remembers would be killed
        over its requests."""
        orders, self._orders = self._orders, []
        if orders:
            self.context.remember()
        else:
            self.context.note()
        for order in orders:
            order()

    def ended(self, pid: int, status: int | None, at: float | None = None) -> None:
        """The keeper reaped this pid, at a moment that it knows; strangers are none of our business. What it has said
        before counts for its end, and may not have been read yet."""
        self.programs.hear(pid)
        process = self.registry.ended(pid, status or 0)
        if process is not None and process.line is not None:
            process.line.hear_out()
        if isinstance(process, LoaderProcess):
            self.loaders.ended(process, status)
        elif process is not None:
            self._worker_ended(process, status, at)

    # -- workers

    def _worker_ended(self, process: Process, status: int | None, at: float | None = None) -> None:
        if process.over:  # told again by the keeper, or seen a second time
            return
        process.over = True
        self.balance.free(process.group, process.seat)
        self.programs.ended(process)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        self.autopsy.ended(process)
        oom = code == -signal.SIGKILL and self.autopsy.was_killed_for_memory(process)
        self.context.post(events.Exited(process.worker, code, oom, random.random(), at))

    def _spawn(self, action: actions.Spawn) -> None:
        settings = self.context.release(action.group, action.release).settings
        process = Process(action.worker, action.group, action.slot, action.release, settings)
        process.quiet = action.quiet
        process.log = self.context.log_path(action.slot)
        process.log_offset = size_of(process.log)
        process.seat = self.balance.take(action.group) if settings.kind == "web" else 0
        self.registry.add(process)
        if action.fork:
            self.loaders.fork(process)
            self._orders.append(partial(self.loaders.order, process))
        elif settings.kind == "command":
            self.programs.start(process)
        else:
            self.loaders.execute(process)

    def _admit(self, action: actions.Admit) -> None:
        process = self.registry.workers.get(action.worker)
        if process is not None:
            process.admitted = True
            self.admit_again(process)

    def admit_again(self, process: Process) -> None:
        """The order to serve, now or as soon as the worker has found this master; it is obeyed once."""
        if process.admitted and process.connection is not None:
            process.connection.send(Serve())

    def _observe(self, action: actions.Observe) -> None:
        process = self.registry.workers.get(action.worker)
        facts = procfs.read(process.pid) if process else None
        if process is None or facts is None or facts.start != process.start:
            return
        observation = Observation(
            time.monotonic(),
            facts.state,
            facts.cpu,
            procfs.run_delay(process.pid) or 0.0,
            bool(procfs.traced(process.pid)),
        )
        self.context.post(events.Observed(action.worker, observation))

    def _condemn(self, action: actions.Condemn) -> None:
        process = self.registry.workers.get(action.worker)
        if process is None or not process.pid:
            self.context.post(events.Gathered(action.worker))
            return
        self.balance.gone(process.group, process.seat)
        self._run(self._gather(process))

    async def _gather(self, process: Process) -> None:
        try:
            await self.autopsy.examine(process)
        finally:
            self.context.post(events.Gathered(process.worker))

    def _ask(self, action: actions.Ask) -> None:
        process = self.registry.workers.get(action.worker)
        if process is None:
            return
        if process.settings.kind == "command":
            settings = self.context.config.workers.get(process.group, process.settings)
            self._signal(process, signal.Signals[f"SIG{settings.stop_signal.removeprefix('SIG')}"])
        else:
            self.balance.gone(process.group, process.seat)
            process.asked = True
            self.admit_again(process)
        self.ask_again(process)

    def welcome(self, process: Process) -> None:
        """A worker has found this master: what it may not know yet."""
        context = self.context
        pace = context.pace(process.group)
        is_new = context.repaced or context.adopting or pace != context.period(process.group)
        if process.connection is not None and is_new:
            process.connection.send(Pace(pace, context.config.ping.lag_warn))
        self.admit_again(process)
        self.ask_again(process)

    def repace(self, group: str) -> None:
        """Heartbeats at the pace that the group has now."""
        for process in self.registry.workers.values():
            if process.group == group and process.connection is not None:
                process.connection.send(Pace(self.context.pace(group), self.context.config.ping.lag_warn))

    def ask_again(self, process: Process) -> None:
        """The drain order, now or as soon as the worker has found this master; it is obeyed once."""
        if process.asked and process.connection is not None:
            process.connection.send(Drain(last=self.context.is_last(process.worker)))

    def _terminate(self, action: actions.Terminate) -> None:
        process = self.registry.workers.get(action.worker)
        if process is None:
            return
        if process.settings.kind == "command":
            for handle in self._members(process):
                self._signal_handle(handle, signal.SIGTERM)
                handle.close()
        elif process.asked:
            self._run(self._terminate_late(process))
        else:
            self._signal(process, signal.SIGTERM)

    async def _terminate_late(self, process: Process) -> None:
        """It was given `drain` and has not ended: what it is still doing is asked first, but not waited for."""
        examined = asyncio.ensure_future(self.autopsy.examine(process, signal=False))
        await asyncio.wait([examined], timeout=A_MOMENT)
        self._signal(process, signal.SIGTERM)
        await examined

    def _signal(self, process: Process, number: int) -> None:
        if process.handle is not None:
            self._signal_handle(process.handle, number)

    def _signal_handle(self, handle: Handle, number: int) -> None:
        try:
            handle.signal(number)
        except PermissionError:
            logger.error("pid {} may not be signalled: it runs as another user", handle.pid)

    def _kill(self, action: actions.Kill) -> None:
        process = self.registry.workers.get(action.worker)
        if process is not None:
            self._run(self._kill_tree(process))

    async def _kill_tree(self, process: Process) -> None:
        known = self.registry.pids(but=process.pid)
        await kill_tree(
            process.handle, self.context.keeper_pid, process.tree, known, deadline=time.monotonic() + KILL_LIMIT
        )

    def _give_up(self, action: actions.GiveUp) -> None:
        process = self.registry.workers.get(action.worker)
        if process is not None:
            self.balance.free(process.group, process.seat)
            self.registry.forget(process)

    def send_signal(self, worker: int, number: int, by: str) -> None:
        """An operator's signal."""
        process = self.registry.workers.get(worker)
        if process is not None:
            process.signalled_by = by
            self._signal(process, number)

    # -- leftovers

    def _sweep(self, action: actions.Sweep) -> None:
        process = self.registry.workers.get(action.worker)
        if process is None or (process.handle is None and not process.pid):
            self.context.post(events.Swept(action.worker))
            return
        self._run(self._swept(process, 0.0 if action.hasty else process.settings.term))

    async def _swept(self, process: Process, term: float) -> None:
        """SIGTERM to what the worker left behind, SIGKILL to what is still there after `term`."""
        killed: list[int] = []
        survivors: list[int] = []
        try:
            found = self._members(process)
            if found:
                killed = await self._ended_by_term(found, term)
            if killed:
                known, deadline = self.registry.pids(but=process.pid), time.monotonic() + KILL_LIMIT
                survivors = await kill_tree(
                    process.handle, self.context.keeper_pid, process.tree, known, deadline=deadline
                )
        finally:
            self.registry.forget(process)
            self.context.post(events.Swept(process.worker, tuple(killed), tuple(survivors)))

    async def _ended_by_term(self, found: list[Handle], term: float) -> list[int]:
        """Those that SIGTERM did not end in time."""
        deadline = time.monotonic() + term
        for handle in found:
            self._signal_handle(handle, signal.SIGTERM)
        while any(handle.alive() for handle in found) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK)
        left = [handle.pid for handle in found if handle.alive()]
        for handle in found:
            handle.close()
        return left

    def _members(self, process: Process) -> list[Handle]:
        return members(process.handle, self.context.keeper_pid, process.tree, self.registry.pids(but=process.pid))
