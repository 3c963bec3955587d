"""Settlements as columns: what `settle` and `record_late` take."""

from collections.abc import Sequence

from ...ipc.durable.model import Attempt, Settlement
from .deadlines import late_word
from .postgres_arrays import EMPTY, numbers, some_bodies, some_numbers, some_texts, texts


def settled_columns(settled: Sequence[Settlement]) -> dict[str, str]:
    """The parameters of `settle`, but for its time."""
    counters = [one.counters for one in settled]
    return {
        "state": texts(one.state for one in settled),
        "runs": numbers(one.runs for one in counters),
        "attempts": numbers(one.attempts for one in counters),
        "crashes": some_numbers([one.crashes for one in counters]),
        "locks": some_numbers([one.locks for one in counters]),
        "polls": some_numbers([one.polls for one in counters]),
        "auths": some_numbers([one.auths for one in counters]),
        "stage": numbers(one.stage for one in settled),
        "due": some_numbers([one.due for one in settled]),
        "reason": some_texts([one.reason for one in settled]),
        "result": some_bodies([one.result for one in settled]),
        **_attempt_columns(settled),
        **_notice_columns(settled),
    }


def late_columns(late: Sequence[Settlement], now: int) -> dict[str, str]:
    """The parameters of `record_late`."""
    words = [late_word(one.attempt, now) if one.attempt is not None else "" for one in late]
    return {**_attempt_columns(late), "late": texts(words)}


NO_ATTEMPT = Attempt(0, 0, 0, 0, "", 0, 0, 0, "")  # type: ignore[arg-type]


def _attempt_columns(settled: Sequence[Settlement]) -> dict[str, str]:
    """Ids, fences and attempts. A number of -1 says that there is none."""
    attempts = [one.attempt or NO_ATTEMPT for one in settled]
    there = [one.attempt is not None for one in settled]
    return {
        "id": numbers(one.id for one in settled),
        "fence": numbers(one.fence for one in settled),
        "number": numbers(one.number if is_there else -1 for one, is_there in zip(attempts, there, strict=True)),
        "at_stage": some_numbers([one.stage for one in attempts]),
        "worker": texts(one.worker for one in attempts),
        "pid": numbers(one.pid for one in attempts),
        "started": numbers(one.started for one in attempts),
        "ended": numbers(one.ended for one in attempts),
        "outcome": texts(one.result for one in attempts),
        "fault": some_texts([one.fault for one in attempts]),
        "code": some_texts([one.code for one in attempts]),
        "text": some_texts([one.text for one in attempts]),
        "stack": some_texts([one.stack for one in attempts]),
    }


def _notice_columns(settled: Sequence[Settlement]) -> dict[str, str]:
    notices = [one.notice for one in settled]
    if not any(notices):
        return dict.fromkeys(("addressee", "subject", "notice", "dedup"), EMPTY)
    return {
        "addressee": texts(one.to if one else "" for one in notices),
        "subject": texts(one.subject if one else "" for one in notices),
        "notice": texts(one.text if one else "" for one in notices),
        "dedup": texts(one.dedup if one else "" for one in notices),
    }
