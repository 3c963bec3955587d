"""The whole policy in a fake world. `python -m tests.simulation.world --seed N --trace` plays a story again."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from bkd.supervisor import actions, events

from .faults import FAULTS
from .operators import ORDERS
from .stories import Told, play
from .world import World

STORIES = 24
BOOK = 4
ENOUGH = 300_000
RARE = {"Stop"}  # a cluster that gives itself up; the unit tests have it
PROCESSES = 2

BOOKS = range(1, STORIES + 1, BOOK)

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def books() -> Iterator[dict[int, Future[Told]]]:
    """All stories, some after each other, in as many processes as there are cores to expect."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        yield {first: pool.submit(play, "--first", str(first), "--last", str(first + BOOK - 1)) for first in BOOKS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("first", BOOKS)
def test_every_promise_is_kept_in_every_story(first: int, books: dict[int, Future[Told]], told: Told) -> None:
    book = books[first].result()
    told.events.update(book.events)
    told.actions.update(book.actions)
    assert not book.fault, book.fault


def test_the_stories_are_long_enough_to_mean_something(books: dict[int, Future[Told]]) -> None:
    """Everything there is occurs in them."""
    found = [book.result() for book in books.values()]
    assert sum(book.events.total() for book in found) >= ENOUGH
    assert {name for book in found for name in book.events} == _names(events.Event)
    assert _names(actions.Action) - {name for book in found for name in book.actions} <= RARE


def _names(base: type[object]) -> set[str]:
    return {kind.__name__ for kind in base.__subclasses__()}


def test_a_story_is_the_same_every_time() -> None:
    one, other = World(STORIES + 1, troubled=200.0), World(STORIES + 1, troubled=200.0)
    one.play()
    other.play()
    assert one.counts == other.counts
    assert one.cluster == other.cluster


@pytest.mark.parametrize("fault", sorted(FAULTS | ORDERS))
def test_every_fault_alone_is_survived(fault: str) -> None:
    """With one kind of trouble only, a failure says more about its cause."""
    world = World(STORIES + 2, without=set(FAULTS | ORDERS) - {fault}, troubled=200.0)
    world.play()
