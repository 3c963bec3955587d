"""Time limits of what runs: what is to be done about each run now, and when to look again. Plain values."""

from typing import NamedTuple

from .roster import Executor, Roster, Run

NOTED = 0.5  # seconds after its begin a run is worth a word in the store
AGAIN = 1.0  # the master is asked again, in case it is another one by now


class Look(NamedTuple):
    """Runs whose begin is to be noted; runs to be told to end; executors to be ended, and which of them as of now; and
    the moment of the next look, None while nothing runs."""

    noted: list[tuple[Executor, Run]]
    told: list[tuple[Executor, Run]]
    condemned: list[Executor]
    doomed: list[Executor]
    next: float | None


def look(roster: Roster, now: float) -> Look:
    """Judge all that has begun; marks what it decides, so that it is decided once."""
    found = Look([], [], [], [], None)
    moments: list[float] = []
    for executor in roster.executors.values():
        for run in list(executor.begun.values()):
            _judge(executor, run, now, found)
            moments.extend(_moments(executor, run))
        if executor.condemned:
            if now >= executor.asked + AGAIN or not executor.asked:
                executor.asked = now
                found.condemned.append(executor)
            moments.append(executor.asked + AGAIN)
    return found._replace(next=min(moments, default=None))


def tell(run: Run, why: str, now: float) -> bool:
    """Mark a run as told to end; False: it was before, for the same or a better reason."""
    if run.why in (why, "cancelled", "lost"):
        return False
    run.why, run.told = why, run.told or now
    return True


def _judge(executor: Executor, run: Run, now: float, found: Look) -> None:
    if not run.noted and now >= run.began + NOTED:
        run.noted = True
        found.noted.append((executor, run))
    timeout = executor.policy(run.task.kind).timeout
    if timeout > 0 and not run.why and now >= run.began + timeout:
        tell(run, "timeout", now)
        found.told.append((executor, run))
    if run.why and not run.overdue and now >= _hard(executor, run):
        run.overdue = True
        if not executor.condemned:
            executor.condemned = _reason(executor, run)
            found.doomed.append(executor)


def _moments(executor: Executor, run: Run) -> list[float]:
    moments = [] if run.noted else [run.began + NOTED]
    if run.why and not run.overdue:
        moments.append(_hard(executor, run))
    elif not run.why and (timeout := executor.policy(run.task.kind).timeout) > 0:
        moments.append(run.began + timeout)
    return moments


def _hard(executor: Executor, run: Run) -> float:
    """When a run that was told to end must have ended."""
    return run.told + _grace(executor, run)


def _grace(executor: Executor, run: Run) -> float:
    """A function that is alone in its process cannot be interrupted, so there is nothing to wait for."""
    return 0.0 if executor.mode == "exclusive" else executor.policy(run.task.kind).grace


def _reason(executor: Executor, run: Run) -> str:
    task, policy = run.task, executor.policy(run.task.kind)
    if run.why == "timeout":
        return f"message {task.id} ({task.kind}) did not end within its timeout of {policy.timeout:g} s"
    return f"message {task.id} ({task.kind}) was told to end ({run.why}) and did not within {_grace(executor, run):g} s"
