"""The loop around the policy: what makes it look."""

import asyncio

from bkd.supervisor import actions, events
from bkd.supervisor.turns import Turns

from .policy.drive import settled, web


def heard(served: int) -> list[str]:
    """What is done about a heartbeat of a worker that is to serve one request."""
    drive, done, told = settled(web(count=1, max_requests=1)), [], []

    async def hear() -> None:
        turns = Turns(drive.cluster, done.append, told.append)
        turns.post(events.Pinged(drive.slot("web.1").staying[0].id, 0.001, served=served))
        await asyncio.sleep(0)

    asyncio.run(hear())
    return [type(action).__name__ for action in done if isinstance(action, actions.Spawn)]


def test_a_heartbeat_that_wears_a_worker_out_makes_a_turn() -> None:
    assert heard(served=5) == ["Spawn"]


def test_any_other_heartbeat_makes_none() -> None:
    assert heard(served=0) == []
