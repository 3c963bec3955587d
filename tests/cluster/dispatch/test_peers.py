"""Producers and masters as peers of the dispatcher, and peers with bad manners."""

import pytest

from bkd.ipc.durable.model import Conflict, NewMessage, Result, State
from bkd.ipc.durable.wire import Answered, Ask, Await, Began, Ended, Greet, Held, Put, Refusal, Run, Stored
from bkd.workers.store.opening import opened

from ..dispatching import Client, Executor, Producer, dispatching, eventually, looped, never, ok, outcome

pytestmark = pytest.mark.timeout(60)


@looped
async def test_what_is_too_large_is_refused_with_a_word_of_advice(store, path):
    async with dispatching(store, path):
        producer = await Producer.connect(path)

        done = await producer.put_done(NewMessage("a", b"x" * 70_000), NewMessage("a"))

        assert "65536 are allowed; put what is larger into the payload" in done.error
        assert done.receipts == []


@looped
async def test_the_end_of_a_message_is_told_to_who_waits_for_it(store, path):
    async with dispatching(store, path):
        producer = await Producer.connect(path)
        [receipt] = await producer.put(NewMessage("a"))
        producer.say(Await(1, receipt.id, 0.05))
        await producer.until(lambda: producer.of(Ended))
        producer.say(Await(2, receipt.id, 60.0))
        executor = await Executor.connect(path, handle=lambda task: outcome(task, Result.OK, body=b"42"))
        await producer.until(lambda: len(producer.of(Ended)) == 2)
        producer.say(Await(3, receipt.id, 60.0))
        producer.say(Await(4, 4711, 60.0))
        await producer.until(lambda: len(producer.of(Ended)) == 4)

        told = {one.number: one for one in producer.of(Ended)}
        assert [(told[number].state, told[number].result) for number in (1, 2, 3)] == [
            (State.QUEUED, b""),
            (State.SUCCEEDED, b"42"),
            (State.SUCCEEDED, b"42"),
        ]
        assert told[4].error == "there is no message 4711"
        assert executor.ran == 1


@looped
async def test_a_change_that_comes_while_it_runs_makes_one_more_run(store, path):
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        message = NewMessage("a", unique="u", conflict=Conflict.AGAIN)
        [first] = await producer.put(message)
        await executor.until(lambda: executor.ran)
        [second] = await producer.put(message)

        executor.end(ok(executor.tasks[first.id][0]))
        await executor.until(lambda: executor.ran == 2)

        assert first.id != second.id
        assert len(executor.tasks[second.id]) == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\x05\x00\x00\x00hello", "not a frame"),
        (b"\xff\xff\xff\xff", "over the limit"),
        (Stored(1), "before who it is"),
        (Greet("king"), "no role 'king'"),
        (Greet(wire=99), "version 99"),
    ],
)
@looped
async def test_bad_manners_cost_the_connection_and_nothing_else(path, said, why):
    async with dispatching(opened("memory:", ""), path):
        good, bad = await Producer.connect(path), await Client.connect(path)
        if isinstance(said, bytes):
            bad._writer.write(said)
        else:
            bad.say(said)

        await bad.until(lambda: bad.closed)

        assert why in bad.of(Refusal)[0].reason
        assert (await good.put(NewMessage("a")))[0].created


@looped
async def test_a_producer_may_not_speak_as_an_executor(path):
    async with dispatching(opened("memory:", ""), path):
        producer = await Producer.connect(path)
        producer.say(Began([Held(1, 1)]))

        await producer.until(lambda: producer.closed)

        assert "may not say Began" in producer.of(Refusal)[0].reason


@looped
async def test_who_does_not_read_is_dropped(path):
    async with dispatching(opened("memory:", ""), path) as there:
        executor = await Executor.connect(path, credit=400, handle=never)
        await executor.enlisted()
        executor.task.cancel()
        producer = await Producer.connect(path)

        await producer.put(*[NewMessage("a", b'"%s"' % (b"x" * 60_000)) for _ in range(10)])
        for _ in range(20):
            await producer.put(*[NewMessage("a", b'"%s"' % (b"x" * 60_000)) for _ in range(10)])
        [known] = there.roster.executors.values()

        await eventually(lambda: known.link is None)
        assert (await producer.put(NewMessage("a")))[0].created


@looped
async def test_an_unknown_verb_is_answered(path):
    async with dispatching(opened("memory:", ""), path):
        master = await Client.connect(path)
        master.say(Greet("master"))
        master.say(Ask(1, "dance", {}))

        [answered] = await master.until(lambda: master.of(Answered))

        assert answered.code != 0 and "dance" in answered.err
        assert not master.of(Run) and not master.of(Put)
