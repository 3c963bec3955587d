"""What came of a rollout: in a word, as an exit code, in a line for people. Pure."""

from enum import StrEnum

from ...ipc.quantity import counted
from .rollout import COUNTED, ENDED, Rollout, State

MOST_NAMES = 5


class Outcome(StrEnum):
    """A rollout as a whole; `partly`: hosts are missing, none has failed; `lost`: nothing more was heard of it."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTED = "aborted"
    PARTLY = "partly"
    LOST = "lost"


_EXIT = {Outcome.DONE: 0, Outcome.FAILED: 1, Outcome.ABORTED: 1}


def outcome(rollout: Rollout) -> Outcome:
    """What came of it so far."""
    states = {turn.state for turn in rollout.hosts}
    if states - ENDED:
        return Outcome.RUNNING
    if states & COUNTED:
        return Outcome.FAILED
    if State.SKIPPED in states:
        return Outcome.ABORTED
    return Outcome.DONE if states == {State.DONE} else Outcome.PARTLY


def exit_code(rollout: Rollout) -> int:
    """0: all done; 1: a host failed, refused or was skipped; 3: only unreachable or expired ones are missing, or it is
    not over."""
    return _EXIT.get(outcome(rollout), 3)


def verdict(rollout: Rollout) -> str:
    """How it stands, in one line: `restart of web: 1 of 3 hosts done; h2 failed: no module; h3 skipped: h2 failed`."""
    what = f"{rollout.verb} of {', '.join(rollout.groups)}" if rollout.groups else rollout.verb
    done = sum(turn.state == State.DONE for turn in rollout.hosts)
    others: dict[tuple[str, str], list[str]] = {}
    for turn in rollout.hosts:
        if turn.state != State.DONE:
            others.setdefault((turn.state, turn.reason), []).append(turn.host)
    rest = [f"{_names(hosts)} {state}{': ' if reason else ''}{reason}" for (state, reason), hosts in others.items()]
    return "; ".join([f"{what}: {done} of {counted(len(rollout.hosts), 'host')} done", *rest])


def _names(hosts: list[str]) -> str:
    more = len(hosts) - MOST_NAMES
    return ", ".join(hosts[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
