"""The ending of one worker, step by step: ask, SIGTERM, SIGKILL, give up. Every step has its deadline. Pure."""

from collections.abc import Iterator

from . import actions, dispatcher
from .cluster import Cause, Cluster, Ending, Group, Phase, Step, Verdict, Worker
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
            alone = end.verdict == Verdict.OVERDUE and group.settings.mode == "exclusive"
            yield actions.Kill(worker.id) if alone or end.verdict in DEAF else actions.Terminate(worker.id)
    elif watch.due(end.step_at + group.settings.term):
        yield actions.Kill(worker.id)


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
