"""What an executor has in hand, and what it has to say of that."""

import asyncio
import contextlib
from concurrent.futures import Future
from time import monotonic

import pytest

from bkd.ipc.durable.model import Counters, Outcome, Result, Task
from bkd.ipc.durable.wire import (
    FRAME_GOAL,
    Held,
    LockAnswered,
    LockAsked,
    Outcomes,
    PayloadAsked,
    PayloadPart,
    StageDone,
    StageKept,
    unpacked,
)
from bkd.ipc.frames import FrameReader
from bkd.ipc.message import Drain
from bkd.workers.messages.blocking import stepped
from bkd.workers.messages.crew import LAST_LIMIT, Crew, Station
from bkd.workers.messages.declaration import Declaration, Terms
from bkd.workers.messages.hands import Hands
from bkd.workers.messages.journal import Journal
from bkd.workers.messages.outbox import Outbox
from bkd.workers.messages.shared import Shared
from bkd.workers.supervision import Load

KINDS = {"kind": Declaration("kind", lambda: None, Terms(stages=("a", "b")))}


def task(id, kind="kind", **rest):
    return Task(id, 1, kind, b"{}", Counters(1, 1), "guid", **rest)


def frames(data):
    return [unpacked(payload) for payload in FrameReader().feed(data)]


def hands(*ids):
    found = Hands(KINDS)
    found.take([task(id) for id in ids])
    return found


def test_what_waits_is_begun_in_its_order():
    found = hands(3, 1, 2)

    assert [found.next().task.id for _ in range(3)] == [3, 1, 2]
    assert found.next() is None
    assert found.leases() == [Held(3, 1), Held(1, 1), Held(2, 1)]


def test_what_is_held_already_is_not_taken_twice():
    found = hands(1)
    run = found.next()
    found.take([task(1)])

    assert found.next() is None
    assert found.held == {(1, 1): run}


def test_what_nothing_here_can_run_is_not_taken():
    found = hands()

    assert found.take([task(1, "strange"), task(2)]) == [Held(1, 1)]
    assert found.leases() == [Held(2, 1)]


def test_only_what_waits_is_given_back():
    found = hands(1, 2, 3)
    found.next()

    assert found.give_back() == [Held(2, 1), Held(3, 1)]
    assert found.leases() == [Held(1, 1)]


def test_a_run_is_held_until_it_is_released():
    found = hands(1)
    run = found.next()
    assert found.running() == [run]
    found.finish(run)

    assert (found.running(), found.leases(), found.finished) == ([], [Held(1, 1)], 1)
    found.release([run.key])
    assert found.leases() == []


def test_load_and_open_work():
    found = hands(1, 2, 3)
    assert found.load() == Load(0, 0.0, 0)
    for seconds in (5, 7):
        found.next().began = monotonic() - seconds

    load = found.load()
    assert (load.in_flight, load.served) == (2, 0)
    assert load.oldest == pytest.approx(7, abs=1)
    assert [work.what for work in found.open_work()] == ["kind 2", "kind 1"]


def test_a_stage_that_is_no_more_is_the_last_one():
    found = Hands(KINDS)
    found.take([task(1, stage=7)])

    assert found.next().stage_name == "b"


def test_outcomes_are_said_once_and_again_until_they_are_stored():
    outbox = Outbox()
    outbox.add(Outcome(1, 1, Result.OK))
    outbox.add(Outcome(2, 1, Result.OK))
    (said,) = frames(outbox.fresh())
    assert [outcome.id for outcome in said.outcomes] == [1, 2]
    assert outbox.fresh() == b""

    outbox.add(Outcome(3, 1, Result.OK))
    again = frames(outbox.again())
    assert again == [said, Outcomes(2, [Outcome(3, 1, Result.OK)])]
    assert outbox.stored(1) == [(1, 1), (2, 1)]
    assert not outbox.is_empty
    assert outbox.stored(2) == [(3, 1)]
    assert outbox.stored(2) == []
    assert outbox.is_empty


def test_large_outcomes_do_not_share_a_frame():
    outbox = Outbox()
    for id in range(20):
        outbox.add(Outcome(id, 1, Result.OK, body=b"x" * 60_000))

    said = frames(outbox.fresh())
    assert [outcome.id for frame in said for outcome in frame.outcomes] == list(range(20))
    assert max(len(frame.outcomes) for frame in said) * 60_000 <= FRAME_GOAL


def test_what_was_lost_is_not_said_again():
    outbox = Outbox()
    for id in (1, 2):
        outbox.add(Outcome(id, 1, Result.OK))
        outbox.fresh()
    outbox.add(Outcome(3, 1, Result.OK))
    outbox.forget((1, 1))
    outbox.forget((3, 1))

    assert [frame.outcomes[0].id for frame in frames(outbox.again())] == [2]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (StageDone(1, 2, 0, b"7"), StageKept(1, 2, 0)),
        (LockAsked(1, 2, "a"), LockAnswered(1, 2, "a", True)),
        (PayloadAsked(1, 2, 5), PayloadPart(1, 5, b"x", True)),
    ],
)
def test_questions_are_asked_until_they_are_answered(question, answer):
    outbox = Outbox()
    data, future = outbox.ask(question)
    assert frames(data) == frames(outbox.again()) == [question]
    with pytest.raises(RuntimeError, match="already"):
        outbox.ask(question)

    assert outbox.answered(answer) is future
    assert outbox.answered(answer) is None
    assert outbox.again() == b""


def test_an_answer_that_comes_twice_answers_no_later_question():
    outbox = Outbox()
    outbox.ask(StageDone(1, 2, 0, b"7"))
    outbox.answered(StageKept(1, 2, 0))
    outbox.ask(StageDone(1, 2, 1, b"8"))

    assert outbox.answered(StageKept(1, 2, 0)) is None


def test_who_gives_up_waiting_asks_no_more():
    outbox = Outbox()
    future: Future = outbox.ask(LockAsked(1, 2, "a"))[1]
    future.cancel()

    assert outbox.again() == b""
    assert outbox.answered(LockAnswered(1, 2, "a", True)) is None


class Awake(Crew):
    def wake(self):
        pass


def test_only_the_last_ones_give_up_waiting_for_a_dispatcher():
    crew = Awake(Station("", "jobs.1", 1, 1, "shared", 1, KINDS), None, Journal())
    crew.hands.take([task(1)])
    run = crew.hands.next()
    assert not crew._is_done()
    crew._drain(Drain(last=False))
    assert not crew._is_done()
    crew.courier.add(run, Outcome(1, 1, Result.OK))
    crew.courier.away_since = monotonic() - LAST_LIMIT - 1
    assert not crew._is_done()
    crew._drain(Drain(last=True))
    assert crew._is_done()


@pytest.mark.parametrize(("why", "waits"), [("timeout", False), ("", True)])
def test_at_sigterm_nobody_waits_for_what_was_told_to_end_before(why, waits):
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop):
        crew = Shared(Station("", "jobs.1", 1, 1, "shared", 1, KINDS), None, Journal(), loop)
        crew.hands.take([task(1)])
        run = crew.hands.next()
        run.why = why
        ending = crew._cut()
        if not waits:
            stepped(ending)
        else:
            with pytest.raises(RuntimeError, match="running event loop"):
                stepped(ending)

    assert run.why == (why or "stopped")
