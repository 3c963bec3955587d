"""What happens in one run, in whatever way: arguments, lock, one stage after the other, and the outcome of all that."""

from collections.abc import Awaitable
from typing import Any, Protocol

from ...ipc.durable.model import Outcome
from ...ipc.durable.wire import LockAsked, StageDone
from ...ipc.message import UNREADABLE
from .context import Context, Post
from .run import LOST, Run, encoded


class Way(Post, Protocol):
    """How a run waits: in a loop, in a thread, or in the main thread. Ways that block do so inside these coroutines,
    which then never suspend."""

    def call(self, run: Run, value: Any, context: Context | None) -> Awaitable[Any]:
        """What the handler returns for this stage."""

    def answer(self, run: Run, question: Any) -> Awaitable[Any]:
        """The dispatcher's answer to it."""


async def course(run: Run, way: Way) -> Outcome | None:
    """What the run comes to; None: nobody wants to know. Whatever the application raises ends here."""
    try:
        value = run.declaration.read(run.task.args)
    except UNREADABLE as error:
        return run.invalid(error)
    except Exception as error:  # noqa: BLE001 - code of the application may take part in reading
        return run.failed(error)
    try:
        if run.declaration.lock is not None and not await _locked(run, value, way):
            return run.locked()
        run.start()
        return await _stages(run, value, way)
    except BaseException as error:
        if isinstance(error, GeneratorExit) and run.why:
            raise  # this process is leaving; else a handler has raised it
        return run.failed(error)


async def _locked(run: Run, value: Any, way: Way) -> bool:
    """Whether it has the lock it needs, if it needs one."""
    run.lock = run.declaration.locks(value)
    return not run.lock or (await way.answer(run, LockAsked(*run.key, run.lock))).granted


async def _stages(run: Run, value: Any, way: Way) -> Outcome | None:
    """Those that are not finished, each from the output of the one before having been kept."""
    context = Context(run, way) if run.declaration.wants_context else None
    last = len(run.declaration.stages) - 1
    while run.stage < last:
        output = run.fits(encoded(await way.call(run, value, context)))
        kept = await way.answer(run, StageDone(*run.key, run.stage, output))
        if not kept.held:
            run.why = LOST
            return None
        run.advance(output)
    return run.done(encoded(await way.call(run, value, context)))
