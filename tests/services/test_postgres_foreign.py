"""What an executor says of a lease that another host holds."""

import pytest
from msgspec.structs import replace

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.wire import Held
from bkd.workers.store.postgres import PostgresStore

from ..cluster.dispatching import Executor, Producer, dispatching, looped, never, ok
from .postgres import fresh_url

pytestmark = pytest.mark.timeout(25)


@looped
async def test_an_outcome_is_taken_from_the_host_that_holds_the_lease_alone(tmp_path):
    url = fresh_url()
    async with (
        dispatching(PostgresStore(url), tmp_path / "1", "h1") as there,
        dispatching(PostgresStore(url), tmp_path / "2", "h2"),
    ):
        producer = await Producer.connect(tmp_path / "1")
        owner = await Executor.connect(tmp_path / "1", handle=never)
        [receipt] = await producer.put(NewMessage("a"))
        await owner.until(lambda: owner.ran)
        [task] = owner.tasks[receipt.id]
        stranger = await Executor.connect(tmp_path / "2", handle=never)

        wrong = replace(ok(task), result=Result.REJECTED, code="Wrong")
        assert (await stranger.stored(stranger.end(wrong))).stale == [Held(task.id, task.fence)]
        story = await there.run(lambda store, _now: store.story(task.id))
        assert (story.row.state, story.attempts) == (State.RUNNING, [])

        assert (await owner.stored(owner.end(ok(task)))).stale == []
        story = await there.run(lambda store, _now: store.story(task.id))
        assert [(run.result, run.late) for run in story.attempts] == [(Result.OK, "")]
