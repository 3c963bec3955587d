"""For how long a host is believed to live that says nothing: as long as the documents say, and it says it in time."""

import asyncio

import psycopg
import pytest

from bkd.workers.store.postgres import PostgresStore

from ..cluster.dispatching import dispatching, looped
from .postgres import fresh_url

pytestmark = pytest.mark.timeout(60)
HALF_A_MINUTE = 30_000


def node(connection):
    """Until when the only host lives, and what the time is by the clock of the database."""
    return connection.execute("SELECT until, bkd.clock_ms() FROM bkd.node").fetchone()


@looped
async def test_a_host_lives_for_half_a_minute_and_says_long_before_that_it_still_does(tmp_path):
    url = fresh_url()
    async with dispatching(PostgresStore(url), tmp_path / "1", "h1"):
        with psycopg.connect(url, autocommit=True) as connection:
            first, now = node(connection)
            assert HALF_A_MINUTE - 15_000 < first - now <= HALF_A_MINUTE + 1_000

            async with asyncio.timeout(20):
                while (renewed := node(connection))[0] == first:
                    await asyncio.sleep(0.05)

    assert renewed[0] - renewed[1] <= HALF_A_MINUTE + 1_000
