"""What becomes of a message after a run: the one table of it, for outcomes, deaths, orphans and time limits alike.

A run counts against `max_attempts` from its start. It is given back when the message had no part in how it went: it
never began, was interrupted, found its lock taken or no session, or asked to be put off.
"""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from ...ipc.durable.model import (
    MOST_OUTPUT,
    Attempt,
    Counters,
    Dead,
    Fault,
    Notice,
    Outcome,
    Result,
    Settlement,
    State,
    Task,
)
from ...ipc.durable.policy import Exponential, KindPolicy
from ...ipc.quantity import counted
from .delay import bounded, due, later

MOST_AUTHS = 3
MOST_TEXT = 8 * 1024
MOST_STACK = 64 * 1024
LEAST_SNOOZE = 0.1  # seconds: a message that puts itself off again and again must not keep a host busy
BUSY_LOCK = Exponential(first=0.2, cap=5.0, factor=1.5, jitter=0.5)
AFTER_CRASH = Exponential(first=0.05, cap=60.0, factor=5.0, jitter=0.2)


class Runner(NamedTuple):
    """Who ran it: slot and host such as `jobs.1@h1`, and the pid."""

    worker: str = ""
    pid: int = 0


NOBODY = Runner()


class _Verdict(NamedTuple):
    state: State
    counters: Counters
    due: int = 0
    reason: str = ""


class _Case(NamedTuple):
    task: Task
    outcome: Outcome
    policy: KindPolicy
    now: int
    chance: float


def settle(
    task: Task, outcome: Outcome, policy: KindPolicy, now: int, chance: float, runner: Runner = NOBODY
) -> Settlement:
    """What is to be written of this run. `now` in ms UTC; `chance` in [0, 1) spreads retries."""
    if len(outcome.body) > MOST_OUTPUT:
        outcome = _too_large(outcome)
    if outcome.result is Result.OK:
        return _succeeded(task, outcome, now, runner)
    verdict = _TABLE[outcome.result](_Case(task, outcome, policy, now, chance))
    return Settlement(
        id=task.id,
        fence=task.fence,
        state=verdict.state,
        counters=verdict.counters,
        stage=max(task.stage, outcome.stage),
        due=verdict.due,
        reason=verdict.reason,
        result=outcome.body if verdict.state is State.PARTIAL else b"",
        attempt=_attempt(task, outcome, now, runner),
        notice=_notice(task, outcome, policy, verdict) if verdict.state is State.DEAD_LETTER else None,
    )


def unbegun(task: Task, now: int) -> Settlement:
    """It was claimed and never begun: it waits where it waited before, and nothing is counted or recorded. What was due
    when it was claimed is due now, even if the clock has been set back since."""
    counters = task.counters
    return Settlement(
        id=task.id,
        fence=task.fence,
        state=State.QUEUED,
        counters=replace(counters, runs=max(counters.runs - 1, 0), attempts=max(counters.attempts - 1, 0)),
        stage=task.stage,
        due=min(task.due, now) if task.due else now,
    )


def unstorable(settlement: Settlement, why: str) -> Settlement:
    """In place of one which the store refuses to write: a dead letter that says so."""
    old = settlement.attempt
    attempt = old and replace(old, result=Result.ERROR, fault=Fault.FINAL, code="unstorable", text=_text(why), stack="")
    return replace(settlement, state=State.DEAD_LETTER, reason=Dead.REJECTED, due=0, result=b"", attempt=attempt)


def most_attempts(task: Task, policy: KindPolicy) -> int:
    """How many attempts this message has; never none, never without limit."""
    return max(task.max_attempts or policy.max_attempts, 1)


def _succeeded(task: Task, outcome: Outcome, now: int, runner: Runner) -> Settlement:
    """What nearly all runs come to, so it is made without detours."""
    id, fence, counters = task.id, task.fence, task.counters
    stage = max(task.stage, outcome.stage)
    started, ended = outcome.started or task.leased, outcome.ended or now
    attempt = Attempt(id, fence, counters.runs, stage, runner.worker, runner.pid, started, ended, Result.OK)
    return Settlement(id, fence, State.SUCCEEDED, counters, stage, 0, "", outcome.body, attempt)


# -- the table of all others


def _partial(case: _Case) -> _Verdict:
    return _Verdict(State.PARTIAL, case.task.counters)


def _again(case: _Case) -> _Verdict:
    if case.task.counters.attempts >= most_attempts(case.task, case.policy):
        return _dead(case, Dead.EXHAUSTED)
    return _Verdict(State.RETRY_SCHEDULED, case.task.counters, _due(case))


def _error(case: _Case) -> _Verdict:
    return _BY_FAULT[case.outcome.fault or Fault.RETRYABLE](case)


def _rejected(case: _Case) -> _Verdict:
    return _dead(case, Dead.REJECTED)


def _invalid(case: _Case) -> _Verdict:
    return _dead(case, Dead.INVALID)


def _snoozed(case: _Case) -> _Verdict:
    moment = max(_due(case), later(case.now, LEAST_SNOOZE))
    return _Verdict(State.RETRY_SCHEDULED, _given_back(case.task.counters), moment)


def _locked(case: _Case) -> _Verdict:
    counters = replace(_given_back(case.task.counters), locks=case.task.counters.locks + 1)
    if counters.locks > case.policy.max_locks:
        return _Verdict(State.DEAD_LETTER, counters, reason=Dead.EXHAUSTED)
    return _Verdict(State.RETRY_SCHEDULED, counters, due(BUSY_LOCK, counters.locks, case.now, case.chance))


def _no_session(case: _Case) -> _Verdict:
    counters = replace(_given_back(case.task.counters), auths=case.task.counters.auths + 1)
    if counters.auths > MOST_AUTHS:
        return _Verdict(State.DEAD_LETTER, counters, reason=Dead.REJECTED)
    return _Verdict(State.BLOCKED, counters, reason="auth")


def _cancelled(case: _Case) -> _Verdict:
    return _Verdict(State.CANCELLED, case.task.counters)


def _interrupted(case: _Case) -> _Verdict:
    return _Verdict(State.QUEUED, _given_back(case.task.counters), case.now)


def _lost(case: _Case) -> _Verdict:
    """A run that is not known to have started is no crash of this message, but it may have been one of its attempts."""
    is_crash = case.outcome.started > 0
    counters = replace(case.task.counters, crashes=case.task.counters.crashes + is_crash)
    out_of_attempts = counters.attempts >= most_attempts(case.task, case.policy)
    if is_crash and (counters.crashes >= case.policy.max_crashes or out_of_attempts):
        return _Verdict(State.DEAD_LETTER, counters, reason=Dead.POISON)
    if out_of_attempts:
        return _dead(case, Dead.EXHAUSTED)
    return _Verdict(State.RETRY_SCHEDULED, counters, due(AFTER_CRASH, counters.crashes, case.now, case.chance))


_TABLE: dict[Result, Callable[[_Case], _Verdict]] = {
    Result.PARTIAL: _partial,
    Result.ERROR: _error,
    Result.RETRY: _again,
    Result.REJECTED: _rejected,
    Result.SNOOZED: _snoozed,
    Result.LOCKED: _locked,
    Result.INVALID: _invalid,
    Result.TIMEOUT: _again,
    Result.CANCELLED: _cancelled,
    Result.INTERRUPTED: _interrupted,
    Result.LOST: _lost,
}

_BY_FAULT: dict[Fault, Callable[[_Case], _Verdict]] = {
    Fault.RETRYABLE: _again,
    Fault.FINAL: _rejected,
    Fault.LOCK: _locked,
    Fault.AUTH: _no_session,
    Fault.LOST: _lost,
}

_FAULTS = {
    Result.ERROR: Fault.RETRYABLE,
    Result.TIMEOUT: Fault.RETRYABLE,
    Result.REJECTED: Fault.FINAL,
    Result.INVALID: Fault.FINAL,
    Result.LOCKED: Fault.LOCK,
    Result.LOST: Fault.LOST,
}


# -- its parts


def _dead(case: _Case, reason: Dead) -> _Verdict:
    return _Verdict(State.DEAD_LETTER, case.task.counters, reason=reason)


def _given_back(counters: Counters) -> Counters:
    return replace(counters, attempts=max(counters.attempts - 1, 0))


def _due(case: _Case) -> int:
    """What the handler asked for, else the schedule; not beyond a deadline that is still to come."""
    task, outcome, now = case.task, case.outcome, case.now
    if outcome.at > 0:
        moment = bounded(now, outcome.at)
    elif outcome.after >= 0:
        moment = later(now, outcome.after / 1000)
    else:
        moment = due(case.policy.schedule, task.counters.attempts, now, case.chance)
    return min(moment, task.deadline) if task.deadline > now else moment


def _attempt(task: Task, outcome: Outcome, now: int, runner: Runner) -> Attempt:
    fault = outcome.fault or _FAULTS.get(outcome.result)
    return Attempt(
        message=task.id,
        fence=task.fence,
        number=task.counters.runs,
        stage=max(task.stage, outcome.stage),
        worker=runner.worker,
        pid=runner.pid,
        started=outcome.started or task.leased,
        ended=outcome.ended or now,
        result=outcome.result,
        fault=fault.value if fault else "",
        code=_text(outcome.code),
        text=_text(outcome.text),
        stack=_text(outcome.stack, MOST_STACK),
    )


def _notice(task: Task, outcome: Outcome, policy: KindPolicy, verdict: _Verdict) -> Notice | None:
    to = task.notify or policy.notify
    if not to:
        return None
    last = ": ".join(filter(None, [_text(outcome.code), _text(outcome.text)])) or outcome.result.value
    runs, crashes = counted(verdict.counters.runs, "run"), counted(verdict.counters.crashes, "crash", "crashes")
    return Notice(
        to=to,
        subject=f"message {task.id} ({task.kind}) is a dead letter: {verdict.reason}",
        text=f"{runs}, {crashes}; the last one: {last}",
        dedup=f"dead-{task.id}-{task.fence}",
    )


def _too_large(outcome: Outcome) -> Outcome:
    text = f"the result has {len(outcome.body)} bytes, {MOST_OUTPUT} are allowed"
    return replace(outcome, result=Result.ERROR, fault=Fault.FINAL, body=b"", code="too-large", text=text)


def _text(text: str, most: int = MOST_TEXT) -> str:
    """What every store can keep: without NUL, and bounded."""
    if len(text) > most:
        text = text[: most - 1] + "…"
    return text.replace("\0", "\ufffd") if "\0" in text else text
