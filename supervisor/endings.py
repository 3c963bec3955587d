"""The ending of one worker, step by step: ask, SIGTERM, SIGKILL, give up. Every step has its deadline. Pure."""

from collections.abc import Iterator

from . import actions, dispatcher
from .cluster import Cause, Closing, Cluster, Ending, Group, Phase, Step, Verdict, Worker
from .watch import Watch

GATHERING = 0.5
PATIENCE = 5.0
HASTE = 1.0  # seconds at most for each step of the dispatcher where all others get SIGKILL at once
DEAF = frozenset({Verdict.STOPPED, Verdict.UNINTERRUPTIBLE})  # what is so hears no SIGTERM


def ending(cluster: Cluster, group: Group, worker: Worker, watch: Watch) -> Iterator[actions.Action]:
    """The next step for a worker that is to end, if it is due."""
    end = worker.ending
    assert end is not None
    if worker.pid == 0:
        yield from _unborn(worker, watch)
    elif end.step == Step.KILLED:
        if watch.due(end.step_at + PATIENCE):
            yield actions.GiveUp(worker.id)
    elif end.hasty or (_is_hasty(cluster) and not _writes(group, end)):
        yield actions.Kill(worker.id)
    elif end.cause in (Cause.HUNG, Cause.BOOT):
        yield from _condemned(group, worker, end, watch)
    else:
        yield from _planned(cluster, group, worker, end, watch)


def remarks(closing: Closing) -> list[str]:
    """What did not end in peace, a line each."""
    found = {
        "had to be killed": closing.killed,
        "messages were interrupted and are run again by the next start": closing.interrupted,
        "survived SIGKILL": closing.survived,
    }
    return [f"{what}: {', '.join(who)}" for what, who in found.items() if who]


def _is_hasty(cluster: Cluster) -> bool:
    return cluster.closing is not None and cluster.closing.hasty


def _writes(group: Group, end: Ending) -> bool:
    """Whether others have told it what is not in the store yet, and it is well."""
    return group.settings.kind == dispatcher.KIND and end.cause == Cause.PLANNED


def _unborn(worker: Worker, watch: Watch) -> Iterator[actions.Action]:
    """Nobody knows its process yet: the order is answered in a moment, or never."""
    if watch.due(worker.ordered + PATIENCE):
        yield actions.GiveUp(worker.id)


def _condemned(group: Group, worker: Worker, end: Ending, watch: Watch) -> Iterator[actions.Action]:
    if end.step == Step.WANTED:
        if end.gathered or watch.due(end.since + GATHERING):
            yield actions.Kill(worker.id) if _is_deaf(group, end) else actions.Terminate(worker.id)
    elif watch.due(end.step_at + group.settings.term):
        yield actions.Kill(worker.id)


def _is_deaf(group: Group, end: Ending) -> bool:
    """Whether SIGTERM would be in vain: what is alone in its process is interrupted by nothing else, and the dispatcher
    would hear of it in the loop that does not turn."""
    alone = end.verdict == Verdict.OVERDUE and group.settings.mode == "exclusive"
    return alone or end.verdict in DEAF or (group.settings.kind == dispatcher.KIND and end.cause == Cause.HUNG)


def _planned(cluster: Cluster, group: Group, worker: Worker, end: Ending, watch: Watch) -> Iterator[actions.Action]:
    """A worker that is still starting has nothing to finish, but a foreign program knows only its stop signal. One that
    a new master has not heard of yet may be at work by now."""
    if end.step == Step.WANTED:
        booting = worker.phase == Phase.STARTING and group.settings.kind != "command"
        if not booting:
            yield actions.Ask(worker.id)
        elif watch.due(cluster.greeted):
            yield actions.Terminate(worker.id)
    elif end.step == Step.ASKED:
        if watch.due(_limit(cluster, end, end.step_at + group.settings.drain)):
            yield actions.Terminate(worker.id)
    elif watch.due(_limit(cluster, end, end.step_at + group.settings.term)):
        yield actions.Kill(worker.id)


def _limit(cluster: Cluster, end: Ending, at: float) -> float:
    """Until when a step is waited for: the program may have asked for more than it has."""
    limit = max(at, end.until)
    return min(limit, end.step_at + HASTE) if _is_hasty(cluster) else limit
