"""What a run came to whose executor has died: whose fault the death was."""

from collections.abc import Iterator
from typing import NamedTuple

from ...ipc.durable.model import Fault, Outcome, Result
from .roster import Executor, Run

UNKNOWN = "its process ended, how is not known"


class Death(NamedTuple):
    """`how`: in words, such as SIGSEGV; `charged`: it was not bkd that wanted it to end."""

    how: str = UNKNOWN
    charged: bool = True


def buried(executor: Executor, death: Death, now: int) -> Iterator[tuple[Run, Outcome | None]]:
    """Each run the dead one held, and what is to be settled of it; None: it never began. `now` in ms UTC.

    One that did not end when it was told to is the reason why its executor was ended, and the others had no part in
    it. Else all that had begun are suspected. Of an executor that died before it said that anything began, the first
    is: something must be, or it would happen again for ever.
    """
    suspects = set(executor.begun)
    blameless = not death.charged or executor.draining or bool(executor.condemned)
    if not suspects and not blameless:
        suspects = set(list(executor.runs)[:1])
    for id, run in executor.runs.items():
        yield run, _outcome(run, death, blameless, now) if id in suspects else None


def _outcome(run: Run, death: Death, blameless: bool, now: int) -> Outcome:
    if run.overdue:
        result = Result.CANCELLED if run.why == "cancelled" else Result.TIMEOUT
        return _said(run, result, run.why, f"it did not end when told to; its process was ended: {death.how}", now)
    if blameless:
        return _said(run, Result.INTERRUPTED, "", f"its process was ended: {death.how}", now)
    return _said(run, Result.LOST, "worker_lost", death.how, now)


def _said(run: Run, result: Result, code: str, text: str, now: int) -> Outcome:
    fault = Fault.LOST if result is Result.LOST else None
    return Outcome(
        run.task.id, run.task.fence, result, run.stage, run.task.leased, now, fault=fault, code=code, text=text
    )
