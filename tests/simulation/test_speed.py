"""What a pass of the policy costs. The bounds are generous, the figures are printed: `pytest -s`."""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import thread_time

from bkd.supervisor import events
from bkd.supervisor.actions import Spawn
from bkd.supervisor.apply import apply
from bkd.supervisor.cluster import Cluster
from bkd.supervisor.config.schema import GroupSection, PingSection
from bkd.supervisor.founding import founded
from bkd.supervisor.reconcile import reconcile

SLOTS = 1000
NOW = 1000.0


def healthy(slots: int) -> Cluster:
    """A group with every slot ready and heard of a moment ago."""
    cluster = founded({"web": GroupSection(name="web", kind="web", count=slots)}, PingSection())
    for action in reconcile(cluster, NOW).actions:
        cluster = apply(cluster, events.Taken(action), NOW)
    cluster = apply(cluster, events.LoaderReady("web", 1, 0.1), NOW)
    for action in reconcile(cluster, NOW).actions:
        assert isinstance(action, Spawn)
        for event in (
            events.Taken(action),
            events.Spawned(action.worker, 10 + action.worker, 1),
            events.BecameReady(action.worker),
            events.Pinged(action.worker, 0.001),
        ):
            cluster = apply(cluster, event, NOW)
    return apply(cluster, events.NewsTold(), NOW)


def milliseconds(call: Callable[[], object], times: int) -> float:
    """The median of so many calls, in CPU time."""
    took = []
    for _ in range(times):
        begun = thread_time()
        call()
        took.append(thread_time() - begun)
    return 1000 * median(took)


def test_a_pass_over_a_thousand_healthy_slots() -> None:
    cluster = healthy(SLOTS)
    assert reconcile(cluster, NOW + 1).actions == []
    took = milliseconds(lambda: reconcile(cluster, NOW + 1), 100)
    print(f"\na pass over {SLOTS} healthy slots: {took:.3f} ms (aim: 5)")
    assert took < 25


def test_a_heartbeat_among_a_thousand() -> None:
    cluster = healthy(SLOTS)
    cluster = apply(cluster, events.Pinged(500, 0.001, rss=1000, pss=500), NOW + 1)
    repeated, measured = (events.Pinged(500, 0.001, rss=1000, pss=pss) for pss in (500, 600))
    times = [milliseconds(partial(apply, cluster, ping, NOW + 20), 500) for ping in (repeated, measured)]
    took, longer = times
    print(f"\na heartbeat among {SLOTS} workers: {1000 * took:.0f} us, with a measurement {1000 * longer:.0f} us")
    assert max(times) < 5


def test_a_death_among_a_thousand_and_its_replacement() -> None:
    cluster = healthy(SLOTS)
    exited = events.Exited(500, -9)

    def turn() -> None:
        after = apply(cluster, exited, NOW + 1)
        for action in reconcile(after, NOW + 1).actions:
            after = apply(after, events.Taken(action), NOW + 1)
        reconcile(after, NOW + 1)

    took = milliseconds(turn, 50)
    print(f"\na death among {SLOTS} workers and what follows: {took:.3f} ms")
    assert took < 50


def test_the_cost_of_a_pass_grows_with_the_slots_and_not_faster() -> None:
    small, large = healthy(200), healthy(2000)
    times = [milliseconds(partial(reconcile, cluster, NOW + 1), 50) for cluster in (small, large)]
    print(f"\n200 slots: {times[0]:.3f} ms, 2000 slots: {times[1]:.3f} ms")
    assert times[1] < 60 * times[0]
