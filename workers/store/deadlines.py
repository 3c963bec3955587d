"""What comes too late, and what is told of it: messages after their deadline, runs after their lease, ends that were
kept long enough. The same in every store."""

from ...ipc.durable.model import Attempt, Notice, State
from ...ipc.durable.policy import KindPolicy

KEPT = (State.SUCCEEDED, State.PARTIAL, State.CANCELLED, State.DEAD_LETTER)


def expired_notice(id: int, kind: str, to: str) -> Notice:
    """A message is dead since its deadline has passed."""
    subject = f"{kind}: message {id} has expired"
    return Notice(to, subject, "Its deadline passed before it was done: it is a dead letter now.", f"expired:{id}")


def deadline_notice(id: int, kind: str, to: str) -> Notice:
    """The deadline of a message has passed, and it goes on."""
    subject = f"{kind}: message {id} is late"
    return Notice(to, subject, "Its deadline has passed; it goes on all the same.", f"deadline:{id}")


def kept_since(policy: KindPolicy, state: State, now: int) -> int:
    """Ends before this moment are to be removed; 0: none are."""
    seconds = policy.keep_dead if state is State.DEAD_LETTER else policy.keep
    return 0 if seconds < 0 else max(0, now - int(seconds * 1000))


def late_word(attempt: Attempt, now: int) -> str:
    """What is told of a run that was not its message's owner any more when it ended."""
    return f"{attempt.result} came late, at {now}" + (f": {attempt.text}" if attempt.text else "")
