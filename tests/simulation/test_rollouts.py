"""Rollouts over a fake fleet. `python -m tests.simulation.fleet --seed N --trace` plays a story again."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from bkd.supervisor.bus.outcome import Outcome
from bkd.supervisor.bus.rollout import ENDED

from .fleet import FAULTS, Fleet
from .stories import Told

ROOT = Path(__file__).parents[2]
STORIES = 500
BOOK = 125
ENOUGH = 500_000
PROCESSES = 2
LIMIT = 100.0
CALLS = {"accept", "refuse", "claim", "renew", "finish", "fail", "abort"}
HAPPENED = {
    "begun",
    "begun again",
    "held",
    "issuer died",
    "older refused",
    "swap too late",
    "swap unanswered",
    "unknown",
}

BOOKS = range(1, STORIES + 1, BOOK)


def read(first: int) -> tuple[int, Told]:
    """Play a book of stories in a process of its own: the steps that it took, and what came of it."""
    command = [sys.executable, "-m", "tests.simulation.fleet", "--first", str(first), "--last", str(first + BOOK - 1)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    told, steps = Told(Counter(), Counter()), 0
    for story in map(json.loads, done.stdout.splitlines()):
        told.events.update(story["events"])
        told.actions.update(story["actions"])
        told, steps = told._replace(fault=story["fault"]), steps + story["steps"]
    if done.returncode != bool(told.fault):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return steps, told


@pytest.fixture(scope="module")
def books() -> Iterator[dict[int, Future[tuple[int, Told]]]]:
    """All stories, some after each other, in as many processes as there are cores to expect."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        yield {first: pool.submit(read, first) for first in BOOKS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("first", BOOKS)
def test_every_promise_is_kept_in_every_story(
    first: int, books: dict[int, Future[tuple[int, Told]]], told: Told
) -> None:
    book = books[first].result()[1]
    told.events.update({f"fleet {name}": count for name, count in book.events.items()})
    told.actions.update({f"fleet {name}": count for name, count in book.actions.items()})
    assert not book.fault, book.fault


def test_the_stories_are_long_enough_to_mean_something(books: dict[int, Future[tuple[int, Told]]]) -> None:
    """All of them together are a million steps, and everything there is occurs in them."""
    found = [book.result() for book in books.values()]
    happened = {name for _, told in found for name in told.actions}
    assert sum(steps for steps, _ in found) >= ENOUGH
    assert {name for _, told in found for name in told.events} >= CALLS | set(FAULTS)
    assert happened >= HAPPENED | set(ENDED)
    assert happened >= {f"rollout {outcome}" for outcome in set(Outcome) - {Outcome.RUNNING, Outcome.LOST}}


def test_a_story_is_the_same_every_time() -> None:
    one, other = Fleet(STORIES + 1), Fleet(STORIES + 1)
    one.play()
    other.play()
    assert (one.steps, one.events, one.actions) == (other.steps, other.events, other.actions)
    assert one.documents == other.documents


def test_without_any_fault_every_willing_host_is_reached() -> None:
    fleet = Fleet(STORIES + 2, without={*FAULTS, "losses"})
    fleet.play()
    assert fleet.actions["done"] > 0
    assert not {"unreachable", "expired", "unknown", "older refused"} & set(fleet.actions)


@pytest.mark.parametrize("fault", sorted({*FAULTS, "losses"}))
def test_every_fault_alone_is_survived(fault: str) -> None:
    """With one kind of trouble only, a failure says more about its cause."""
    for seed in range(STORIES + 3, STORIES + 8):
        Fleet(seed, without={*FAULTS, "losses"} - {fault}).play()
