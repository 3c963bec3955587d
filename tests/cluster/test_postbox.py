"""The connection of whoever enqueues, with a real dispatcher at its other end."""

import asyncio

import pytest

from bkd.ipc.durable.model import NewMessage
from bkd.ipc.errors import RefusedError
from bkd.workers.messages.postbox import Postbox
from bkd.workers.store.opening import opened

from .dispatching import dispatching, looped

pytestmark = pytest.mark.timeout(60)


@looped
async def test_what_cannot_be_sent_harms_nothing_that_is_put_together_with_it(tmp_path):
    path = tmp_path / "m.sock"
    async with dispatching(opened("memory:", ""), path):
        postbox = Postbox(str(path), asyncio.get_running_loop())
        puts = [[NewMessage("a")], [NewMessage("a", unique="\ud800")], [NewMessage("a", notify="x" * 2_000_000)]]
        puts.append([NewMessage("a", payload=b"x" * 1_000_000)])

        done = await asyncio.gather(*(postbox.put(messages, 30.0) for messages in puts), return_exceptions=True)

        assert [type(one) for one in done] == [list, RefusedError, RefusedError, list]
        assert len(await postbox.put([NewMessage("a")], 30.0)) == 1
        postbox.close()
