"""What a worker without progress is: the difference between two looks at /proc. Pure."""

from .cluster import Observation, Verdict

ADVANCING = 0.1
STARVING = 0.5


def verdict(first: Observation, last: Observation) -> Verdict:
    """`first` was taken when progress ended, `last` now (proc(5): states T and t are stopped, D is uninterruptible)."""
    if last.state in "Tt":
        return Verdict.STOPPED
    if last.state == "D":
        return Verdict.UNINTERRUPTIBLE
    elapsed = max(last.at - first.at, 1e-6)
    if last.waited - first.waited > STARVING * elapsed:
        return Verdict.STARVED
    if last.cpu - first.cpu > ADVANCING * elapsed:
        return Verdict.BUSY
    return Verdict.STUCK
