"""When the numbers of messages are asked for, and what is known while nobody answers. The loop's time is real, but no
test waits for a limit that is not its own."""

import asyncio
import json
import time

import pytest

from bkd.ipc.errors import BkdError
from bkd.supervisor.metrics import census
from bkd.supervisor.metrics.census import Census, Tallies

MAIL = {"kind": "mail", "queued": 3, "oldest_age": 1.5}


class Store:
    """Answers with what it has, raises it if it is a fault, and waits when told to."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0
        self.lets = asyncio.Event()
        self.lets.set()

    async def stats(self):
        self.asked += 1
        await self.lets.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def said(*kinds):
    return json.dumps({"kinds": list(kinds)}) + "\n"


@pytest.fixture
def clock(monkeypatch):
    """Seconds by which time is further on than it is."""
    steady, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(census.time, "monotonic", lambda: steady() + ahead[0])

    def later(seconds):
        ahead[0] += seconds

    return later


def play(story, answer):
    store = Store(answer)

    async def run():
        await story(store, Census(store.stats))

    asyncio.run(run())


def test_many_who_scrape_ask_once(clock):
    async def story(store, counts):
        assert await asyncio.gather(*(counts.latest() for _ in range(5))) == [Tallies([MAIL], True)] * 5
        clock(4.9)
        store.answer = said()
        assert await counts.latest() == Tallies([MAIL], True)
        assert store.asked == 1
        clock(0.2)
        assert await counts.latest() == Tallies([], True)

    play(story, said(MAIL))


def test_where_there_are_no_messages_nothing_is_known():
    async def story(store, counts):
        assert await counts.latest() is None

    play(story, None)


@pytest.mark.parametrize("fault", [BkdError("the dispatcher is gone"), "{", '{"kinds": 3}'])
def test_while_the_store_is_away_the_last_numbers_stay(clock, fault):
    async def story(store, counts):
        await counts.latest()
        store.answer = fault
        clock(6.0)
        assert (await counts.latest())[:2] == ([MAIL], False)
        store.answer = said(MAIL)
        clock(6.0)
        assert await counts.latest() == Tallies([MAIL], True)

    play(story, said(MAIL))


def test_a_store_that_was_never_there_is_not_up():
    async def story(store, counts):
        assert (await counts.latest())[:2] == ((), False)

    play(story, BkdError("no route"))


def test_nobody_waits_for_long(monkeypatch):
    monkeypatch.setattr(census, "WAIT", 0.02)

    async def story(store, counts):
        store.lets.clear()
        assert await counts.latest() is None
        assert await counts.latest() is None
        assert store.asked == 1
        store.lets.set()
        await counts._asking
        assert await counts.latest() == Tallies([MAIL], True)

    play(story, said(MAIL))


def test_who_takes_long_to_count_is_asked_less_often(clock):
    async def story(store, counts):
        store.lets.clear()
        asking = asyncio.ensure_future(counts.latest())
        while not store.asked:
            await asyncio.sleep(0)
        clock(0.5)
        store.lets.set()
        await asking
        for seconds, asked in ((8.0, 1), (2.0, 2)):
            clock(seconds)
            await counts.latest()
            assert store.asked == asked

    play(story, said(MAIL))
