"""The whole policy in a fake world. `python -m tests.simulation.world --seed N --trace` plays a story again."""

from collections import Counter

import pytest

from .faults import FAULTS
from .world import World

STORIES = 50
ENOUGH = 250_000
SAMPLE = 5


SEEDS = range(1, STORIES + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_is_kept_in_every_story(seed: int) -> None:
    world = World(seed)
    world.play()
    print(f"seed {seed}: {world.total} events, at most {world.checks.most_rounds} rounds a turn, {dict(world.counts)}")


def test_a_story_is_the_same_every_time() -> None:
    one, other = World(STORIES + 1), World(STORIES + 1)
    one.play()
    other.play()
    assert one.counts == other.counts
    assert one.cluster == other.cluster


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_alone_is_survived(fault: str) -> None:
    """With one kind of trouble only, a failure says more about its cause."""
    world = World(STORIES + 2, without=set(FAULTS) - {fault})
    world.play()


def test_the_stories_are_long_enough_to_mean_something() -> None:
    """Measured on a few others: all of them together are some hundred thousand events of every kind."""
    counts: Counter[str] = Counter()
    for seed in range(STORIES + 3, STORIES + 3 + SAMPLE):
        world = World(seed)
        world.play()
        counts += world.counts
    total = counts.total() * STORIES // SAMPLE
    print(f"about {total} events in {STORIES} stories")
    assert total > ENOUGH
    assert {"Exited", "SpawnFailed", "LoaderGone", "LoaderFailed", "Overslept", "Observed", "Held", "Scaled"} <= set(
        counts
    )
