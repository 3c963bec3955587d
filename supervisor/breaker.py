"""The breaker of a group: opens when much of it dies within a minute. Pure."""

from .cluster import Breaker

WINDOW = 60.0
DEATHS = 3


def with_death(breaker: Breaker, slot: str, now: float) -> Breaker:
    """One more charged death; those older than WINDOW are forgotten."""
    deaths = tuple(death for death in breaker.deaths if now - death[0] < WINDOW)
    return Breaker(breaker.open_since, (*deaths, (now, slot)))


def should_open(breaker: Breaker, slots: int, now: float) -> bool:
    """At least DEATHS deaths, in at least half of the slots and in at least two of them."""
    recent = [slot for at, slot in breaker.deaths if now - at < WINDOW]
    return breaker.open_since is None and len(recent) >= DEATHS and len(set(recent)) >= max(2, -(-slots // 2))
