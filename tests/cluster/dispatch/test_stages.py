"""What executors ask for while they run a message: stages, locks, payloads."""

import os

import pytest

from bkd.ipc.durable.model import NewMessage, Result
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import LockAnswered, LockAsked, PayloadAsked, PayloadPart, PutPart, StageDone, StageKept

from ..dispatching import AT_ONCE, Executor, Producer, dispatching, looped, never, ok, outcome

pytestmark = pytest.mark.timeout(60)


@looped
async def test_a_finished_stage_is_kept_even_if_its_process_dies_just_then(store, path):
    policy = KindPolicy("a", stages=("send", "apply"), schedule=AT_ONCE)
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, kinds=[policy], handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]

        executor.say(StageDone(task.id, task.fence, 0, b'"sent"'))
        executor.end(outcome(task, Result.ERROR))
        await executor.until(lambda: executor.ran == 2)

        assert executor.of(StageKept) == [StageKept(task.id, task.fence, 0, True)]
        again = executor.tasks[receipt.id][1]
        assert (again.stage, again.outputs) == (1, [b'"sent"'])
        executor.say(StageDone(task.id, task.fence, 1, b"1"))
        await executor.until(lambda: len(executor.of(StageKept)) == 2)
        assert not executor.of(StageKept)[1].held


@looped
async def test_a_lock_has_one_holder_and_is_free_after_it(store, path):
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        receipts = await producer.put(NewMessage("a"), NewMessage("a"))
        await executor.until(lambda: executor.ran == 2)
        first, second = (executor.tasks[receipt.id][0] for receipt in receipts)

        executor.say(LockAsked(first.id, first.fence, "k"))
        executor.say(LockAsked(second.id, second.fence, "k"))
        await executor.until(lambda: len(executor.of(LockAnswered)) == 2)
        await executor.stored(executor.end(ok(first)))
        executor.say(LockAsked(second.id, second.fence, "k"))
        await executor.until(lambda: len(executor.of(LockAnswered)) == 3)

        assert [(one.id, one.granted) for one in executor.of(LockAnswered)] == [
            (first.id, True),
            (second.id, False),
            (second.id, True),
        ]


@looped
async def test_payloads_travel_in_parts(store, path):
    body = os.urandom(600_000)
    async with dispatching(store, path):
        producer, executor = await Producer.connect(path), await Executor.connect(path, handle=never)
        for offset in range(0, len(body), 250_000):
            producer.say(PutPart(1, 0, body[offset : offset + 250_000]))
        [receipt] = await producer.put(NewMessage("a"))
        await executor.until(lambda: executor.ran)
        [task] = executor.tasks[receipt.id]
        heard = b""
        while not heard or not executor.of(PayloadPart)[-1].last:
            count = len(executor.of(PayloadPart))
            executor.say(PayloadAsked(task.id, task.fence, len(heard)))
            await executor.until(lambda: len(executor.of(PayloadPart)) > count)  # noqa: B023
            heard += executor.of(PayloadPart)[-1].data

        assert task.payload == len(body)
        assert heard == body
